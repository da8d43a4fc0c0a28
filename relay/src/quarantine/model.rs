//! The quarantine table and the statements on it, in the words of `outbox-schema/sql/0005_quarantine.up.sql` and of
//! `quarantine/table.rs`, over a map. For what simulates the quarantine; a release has none of it.

use std::collections::BTreeMap;

use crate::lsn::Lsn;
use crate::quarantine::desk::{Decided, EntryId, Outcome, Stored};
use crate::quarantine::table::Recalled;
use crate::quarantine::{Entry, State};

/// Entries in one page of a queue: few, so that queues have several.
const PAGE: usize = 2;

/// A queue and a key in it.
pub type Queue = (String, Vec<u8>);

/// The states of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// Heads its key, and waits for a decision.
    Held,
    /// Waits behind that one.
    Queued,
    /// Others have passed it.
    Passed,
    /// To be published where the stream says so.
    Releasing,
    /// To be given up where the stream says so.
    Discarding,
    /// Published since.
    Published,
    /// Given up.
    Discarded,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The event's number.
    pub event: usize,
    /// The queue that it stands in.
    pub queue: Option<Queue>,
    /// Its state.
    pub now: Now,
    /// Where the entry itself was committed.
    pub committed: Lsn,
}

impl Kept {
    /// Whether it is not settled.
    pub fn is_open(&self) -> bool {
        !matches!(self.now, Now::Published | Now::Discarded)
    }

    /// Whether it is what its key waits for.
    pub fn heads(&self, queue: &Queue) -> bool {
        self.is_open() && self.now != Now::Queued && self.queue.as_ref() == Some(queue)
    }
}

/// The queue that an entry stands in.
pub fn queue_of(entry: &Entry) -> Option<Queue> {
    entry.held_by.clone().zip(entry.place.key.clone())
}

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Table(pub BTreeMap<EntryId, Kept>);

impl Table {
    /// Puts an entry in; one that is there already stays as it is.
    pub fn insert(&mut self, entry: &Entry, event: usize, committed: Lsn) {
        let id = (entry.at.epoch, entry.at.commit_lsn, entry.at.ordinal);
        let now = match entry.state {
            State::Held => Now::Held,
            State::Queued => Now::Queued,
            State::Passed => Now::Passed,
        };
        self.0.entry(id).or_insert(Kept { event, queue: queue_of(entry), now, committed });
    }

    /// What a person does: whether this may be decided of it.
    pub fn decide(&mut self, id: EntryId, discard: bool) -> bool {
        let Some(kept) = self.0.get_mut(&id) else { return false };
        let may = matches!(kept.now, Now::Held | Now::Passed);
        if may {
            kept.now = if discard { Now::Discarding } else { Now::Releasing };
        }
        may
    }

    /// What was decided of an entry and is not carried out.
    pub fn decision(&self, id: EntryId) -> Option<Decided> {
        let kept = self.0.get(&id)?;
        let discard = match kept.now {
            Now::Releasing => false,
            Now::Discarding => true,
            Now::Held | Now::Queued | Now::Passed | Now::Published | Now::Discarded => return None,
        };
        Some(Decided { entry: stored(id), discard, queue: kept.queue.clone() })
    }

    /// The next page of a queue.
    pub fn behind(&self, queue: &Queue, after: Option<EntryId>) -> Vec<Stored> {
        let queued = self.0.iter().filter(|(id, kept)| {
            kept.now == Now::Queued && kept.queue.as_ref() == Some(queue) && Some(**id) > after
        });
        queued.map(|(id, _)| stored(*id)).take(PAGE).collect()
    }

    /// Writes down what became of a decision; answers how many entries are settled by it.
    pub fn settle(&mut self, outcome: &Outcome) -> u64 {
        let stuck = outcome.stuck.as_ref().map(|stuck| stuck.id);
        let mut settled = 0;
        for (id, kept) in &mut self.0 {
            let follows = kept.now == Now::Queued
                && outcome.queue.is_some()
                && kept.queue == outcome.queue
                && Some(*id) <= outcome.last;
            if Some(*id) == stuck {
                kept.now = if kept.queue.is_none() { Now::Passed } else { Now::Held };
            } else if *id == outcome.head || follows {
                let given_up = *id == outcome.head && outcome.discard;
                kept.now = if given_up { Now::Discarded } else { Now::Published };
                settled += 1;
            }
        }
        settled
    }

    /// What a session begins with; in a stream, whose position is not zero.
    pub fn recall(&self, position: Lsn) -> Vec<Recalled> {
        let found = self.0.iter().filter(|(id, kept)| kept.is_open() || id.1 >= position);
        let recalled = |(id, kept): (&EntryId, &Kept)| Recalled {
            id: *id,
            event_id: Some(event_id(kept.event)),
            queue: kept.queue.clone().filter(|_| kept.is_open()),
            open: kept.is_open(),
            behind: kept.now == Now::Queued,
            decided: match kept.now {
                Now::Releasing => Some("release"),
                Now::Discarding => Some("discard"),
                Now::Held | Now::Queued | Now::Passed | Now::Published | Now::Discarded => None,
            },
        };
        found.map(recalled).collect()
    }

    /// Entries that are not settled.
    pub fn open(&self) -> u64 {
        self.0.values().filter(|kept| kept.is_open()).count() as u64
    }

    /// The event that an entry keeps.
    ///
    /// # Panics
    /// There is no such entry.
    pub fn event(&self, id: EntryId) -> usize {
        self.0[&id].event
    }
}

/// The id of an event.
pub fn event_id(event: usize) -> String {
    format!("event {event}")
}

fn stored(id: EntryId) -> Stored {
    Stored { id, commit_unix_millis: 0, row: None }
}
