//! All that relays share, and outlives them: clock, server, cluster; and who looks at what they do.

use std::time::Duration;

use outbox_relay::config::{Policy, StateSettings};
use outbox_relay::simulation::{self, Bounds};

use super::Mutant;
use super::broker::{Broker, Came, Record};
use super::judge::Judge;
use super::source::{Bad, Source};
use crate::schedule::{How, Schedule};

/// How the world is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Relays of the same name.
    pub relays: usize,
    /// Keys.
    pub keys: usize,
    /// What becomes of a row that cannot be published.
    pub policy: Policy,
    /// Of a session.
    pub bounds: Bounds,
    /// Messages that a router may be behind its reader.
    pub read_ahead: usize,
    /// The server may lose its disk and be put back: as a new timeline, or on the same.
    pub goes_back: Option<bool>,
}

impl Settings {
    /// As the first numbers of a schedule say.
    pub fn of(schedule: &Schedule) -> Settings {
        Settings {
            relays: 1 + schedule.begins(0, 2),
            keys: 1 + schedule.begins(1, 4),
            policy: if schedule.begins(2, 4) == 3 { Policy::Continue } else { Policy::HoldKey },
            bounds: Bounds {
                records: 8 - 3 * schedule.begins(3, 3),
                transactions: [32, 4, 2][schedule.begins(4, 3)],
                state: StateSettings {
                    topic: "s".to_owned(),
                    partitions: 1,
                    interval: Duration::from_millis(100),
                    idle_interval: Duration::from_millis(500),
                },
                feedback_every: Duration::from_secs(1),
            },
            read_ahead: 12 - 4 * schedule.begins(5, 3),
            goes_back: [None, None, None, Some(true), Some(false)][schedule.begins(6, 5)],
        }
    }
}

/// All that relays share.
pub struct Around {
    /// Milliseconds.
    pub now: u64,
    /// How the present step is taken.
    pub how: How,
    /// How the world was made.
    pub settings: Settings,
    /// A mistake that is made on purpose.
    pub mutant: Option<Mutant>,
    /// PostgreSQL.
    pub source: Source,
    /// Kafka.
    pub broker: Broker,
    /// What must hold.
    pub judge: Judge,
    /// Faults have ended.
    pub calm: bool,
    /// Sessions that have begun to stream.
    pub sessions: u64,
    /// What happened, where somebody wants to read it.
    pub story: Option<Vec<String>>,
}

impl Around {
    /// Of a schedule.
    pub fn new(schedule: &Schedule, mutant: Option<Mutant>, story: bool) -> Around {
        let settings = Settings::of(schedule);
        Around {
            now: 0,
            how: How::new(0),
            mutant,
            source: Source::new(settings.keys, mutant == Some(Mutant::RolledBackPublished)),
            broker: Broker::new(1 + schedule.begins(7, 2) as u32, mutant == Some(Mutant::RecordNotFenced)),
            judge: Judge::default(),
            calm: false,
            sessions: 0,
            story: story.then(Vec::new),
            settings,
        }
    }

    /// Tells what happened.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>7} ms  {}", self.now, what()));
        }
    }

    /// Whether this is the mistake that is made.
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The session's part of it.
    pub fn of_session(&self) -> Option<simulation::Mutant> {
        self.mutant.and_then(Mutant::of_session)
    }

    /// A step of the cluster with records.
    pub fn brokers(&mut self) -> bool {
        let (overtake, gaps) = (self.is(Mutant::RequestsOvertake), self.is(Mutant::RefusedPassed));
        let Around { broker, source, how, now, .. } = self;
        let refuses = |event: usize| source.events[event].bad == Bad::Refused;
        let came = broker.step(*now, how, refuses, overtake, gaps);
        self.came(came)
    }

    /// A request arrives whose sender is gone.
    pub fn late(&mut self) -> bool {
        let Around { broker, source, how, .. } = self;
        let refuses = |event: usize| source.events[event].bad == Bad::Refused;
        let came = broker.late(how, refuses);
        self.came(came)
    }

    fn came(&mut self, came: Came) -> bool {
        match came {
            Came::Nothing => false,
            Came::Else => true,
            Came::Appended(records, of, late) => {
                self.append(&records, of, late);
                true
            }
        }
    }

    fn append(&mut self, records: &[Record], of: u64, late: bool) {
        let (session, excused) = match self.broker.producers.get(&of).filter(|_| !late) {
            None => (of, true),
            Some(producer) => {
                let (sql, stream) = producer.of;
                let knows = self.source.is_connected(sql) || self.source.is_streamed_by(stream);
                (producer.session, !knows && !producer.orphan)
            }
        };
        for record in records {
            let Record { event, at, partition, .. } = *record;
            self.tell(|| format!("broker: event {event} at {at:?} from session {session} on {partition}"));
            self.judge.appended(&self.source, record, session, partition, excused);
        }
    }

    /// The broker settles the state record that is open.
    pub fn settle(&mut self) -> bool {
        if !self.broker.state.is_open() {
            return false;
        }
        let aborts = self.how.once_in(16) && !self.calm;
        let committed = self.broker.state.settle(aborts);
        self.recorded(committed);
        true
    }

    /// A state record was committed.
    pub fn recorded(&mut self, committed: Option<outbox_relay::state::StateRecord>) {
        let Some(record) = committed else { return };
        self.tell(|| {
            let listed = record.quarantined.len();
            format!("recorded: {} in epoch {}, {listed} entries listed", record.position, record.epoch)
        });
        self.judge.records(&self.source, &record);
    }

    /// Feedback arrives.
    pub fn hear(&mut self) -> bool {
        let Some(position) = self.source.hear() else { return false };
        self.tell(|| format!("server: {position} is confirmed"));
        let Around { judge, source, broker, .. } = self;
        judge.confirms(source, position, broker.state.newest.as_ref());
        true
    }
}
