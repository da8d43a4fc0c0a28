//! A relay, step by step, as `relay/src/session` has it: owning the lane, and the threads of a session that streams.
//!
//! | module | what it has |
//! |---|---|
//! | [`own`] | from the SQL connection to the first record (`session/own.rs`, `quarantine/recall.rs`) |
//! | [`running`] | reader, poller, recorder and pings of a session that streams |
//! | [`router`] | the router (`router/thread.rs`, `outlet.rs`, `aside.rs`, `release.rs`) |
//! | [`keeper`] | the quarantine's keeper (`quarantine/keeper.rs`) |

mod keeper;
mod own;
mod router;
mod running;

use std::sync::Arc;

use outbox_relay::publisher::Refusals;
use outbox_relay::session::End;
use outbox_relay::state::StateRecord;
use uuid::Uuid;

use self::running::Running;
use super::Mutant;
use super::around::Around;
use crate::schedule::How;

/// Bytes that every record counts for.
const BYTES: usize = 64;

/// How long a relay rests between two sessions.
const PAUSE: u64 = 250;

/// The topic of all events.
const TOPIC: &str = "t";

/// How far a relay is.
enum At {
    /// Between two sessions.
    Resting(u64),
    /// Waits for the lane.
    InLine,
    /// Owns the lane.
    Lane,
    /// Owns the slot.
    Slot,
    /// Has fenced others.
    Fenced,
    /// Streams.
    Streaming(Box<Running>),
    /// Has stopped for good.
    Halted,
}

/// What a session holds of its servers.
#[derive(Debug, Clone, Copy, Default)]
struct Links {
    sql: Option<u64>,
    stream: Option<u64>,
    /// The state producer's epoch.
    epoch: u64,
}

/// A relay.
pub struct Process {
    at: At,
    links: Links,
    refusals: Arc<Refusals>,
    /// Writer and sequence of the newest record that this session has read or written.
    seen: Option<(Uuid, u64)>,
    /// For a mutant: what was read before anything was owned.
    early: Option<Option<StateRecord>>,
}

impl Process {
    /// A relay that begins.
    pub fn new() -> Process {
        let (links, refusals) = (Links::default(), Arc::new(Refusals::default()));
        Process { at: At::Resting(0), links, refusals, seen: None, early: None }
    }

    /// Whether it has stopped for good.
    pub fn has_halted(&self) -> bool {
        matches!(self.at, At::Halted)
    }

    /// Whether it streams, owns its lane, and has nothing in hand.
    pub fn is_quiet(&self, around: &Around) -> bool {
        match &self.at {
            At::Streaming(running) => {
                self.links.sql.is_some_and(|sql| around.source.owns(sql)) && running.is_quiet()
            }
            _ => false,
        }
    }

    /// Whether it only waits for another.
    pub fn waits(&self) -> bool {
        matches!(self.at, At::Resting(_) | At::InLine | At::Halted)
    }

    /// How far it is, in words.
    pub fn says(&self) -> String {
        match &self.at {
            At::Resting(_) => "rests".to_owned(),
            At::InLine => "waits in line".to_owned(),
            At::Lane | At::Slot | At::Fenced => "takes over".to_owned(),
            At::Streaming(running) => format!("streams: {}", running.says()),
            At::Halted => "has halted".to_owned(),
        }
    }

    /// Whoever is at the other end hears nothing of it from now on, or again.
    pub fn silent(&self, around: &mut Around, since: Option<u64>) {
        around.source.silent(self.links.sql, self.links.stream, since);
    }

    /// One of its connections breaks.
    pub fn is_cut(&self, around: &mut Around, sql: bool) -> bool {
        let Links { sql: statements, stream, .. } = self.links;
        if sql {
            around.source.close(statements, None)
        } else {
            around.source.close(None, stream)
        }
        true
    }

    /// One step.
    pub fn step(&mut self, around: &mut Around) -> bool {
        let stepped = match &mut self.at {
            At::Halted => return false,
            At::Resting(until) if around.now < *until => return false,
            At::Streaming(running) => running.step(&mut self.links, &mut self.seen, around),
            At::Resting(_) | At::InLine | At::Lane | At::Slot | At::Fenced => self.own(around),
        };
        match stepped {
            Ok(on) => on,
            Err(end) => {
                self.end(around, &end);
                true
            }
        }
    }

    /// The session ends: its connections first, then the rest.
    fn end(&mut self, around: &mut Around, end: &End) {
        around.tell(|| format!("a session ends: {}", end.sentence()));
        let links = std::mem::take(&mut self.links);
        around.source.close(links.sql, links.stream);
        links.stream.into_iter().for_each(|stream| around.source.forget(stream));
        self.at = match (std::mem::replace(&mut self.at, At::Halted), end) {
            (At::Streaming(running), End::Halt(why)) => {
                running.gone(around);
                around.judge.halted(&around.source, why);
                At::Halted
            }
            (_, End::Halt(why)) => {
                around.judge.halted(&around.source, why);
                At::Halted
            }
            (At::Streaming(running), _) => {
                running.gone(around);
                At::Resting(around.now + PAUSE)
            }
            _ => At::Resting(around.now + PAUSE),
        };
    }

    /// The process dies. `silently`: the machine with it, so that the servers do not hear of it.
    pub fn die(self, around: &mut Around, silently: bool) {
        if silently {
            let now = around.now;
            self.silent(around, Some(now));
        } else {
            around.source.close(self.links.sql, self.links.stream);
        }
        if let At::Streaming(running) = self.at {
            running.died(around);
        }
    }
}

impl Default for Process {
    fn default() -> Process {
        Process::new()
    }
}

/// The end of a session that lost a connection.
fn lost(what: &str) -> End {
    End::Reconnect(format!("{what} is lost"))
}

/// Who writes: a number that no other session has.
fn writer(around: &Around) -> Uuid {
    Uuid::from_u128((u128::from(around.now) << 32) | (u128::from(around.sessions) + 1))
}

impl Process {
    /// Whether both connections stand.
    fn looks(&self, around: &Around) -> Result<(), End> {
        if self.links.sql.is_some_and(|sql| !around.source.is_connected(sql)) {
            return Err(lost("the SQL connection"));
        }
        if self.links.stream.is_some_and(|stream| !around.source.is_streamed_by(stream)) {
            return Err(lost("the stream"));
        }
        Ok(())
    }

    /// A producer with an identity of its own fences the others.
    fn fence(&mut self, around: &mut Around) {
        self.links.epoch = fence(around);
    }

    fn reads_early(&mut self, around: &Around) {
        if around.is(Mutant::RecordReadEarly) {
            self.early = Some(around.broker.state.newest.clone());
        }
    }
}

/// Fences all who write the state record.
fn fence(around: &mut Around) -> u64 {
    let mut how: How = around.how;
    let (epoch, committed) = around.broker.state.fence(&mut how);
    around.how = how;
    around.recorded(committed);
    epoch
}
