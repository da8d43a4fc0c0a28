//! The engine as the crate `simulation/` drives it: the same code behind a public face, and mistakes that it can be told
//! to make. Only there where the feature `simulation` is switched on; no release has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::{After, Hands, Room};
use crate::intake::{Held, Orders};
use crate::journal::{self, Ending, Started};
use crate::keys::HoldId;
use crate::lane::Lane;
use crate::metadata::{self, Metadata};
use crate::packed::Packed;
use crate::record::{Body, Company, Record};

/// Makes an enum and the list of its members, so that none is missing there.
macro_rules! listed {
    ($(#[$about:meta])* $name:ident { $($(#[$says:meta])* $member:ident,)* }) => {
        $(#[$about])*
        pub enum $name {
            $($(#[$says])* $member,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$member,)*];
        }
    };
}

listed! {
    /// A mistake that the engine makes on purpose, so that the simulation can show that it would be seen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Mutant {
        /// The highest settled offset is committed, not the lowest unsettled one (C27).
        HighestCommitted,
        /// What was read is committed, whether it is settled or not (C27).
        CommitPastInFlight,
        /// A handler starts before its start is committed (C25).
        StartNotCounted,
        /// In isolation records run beside each other (C25).
        IsolationIgnored,
        /// A lost partition is let go as if it had been revoked (C30).
        LostIsRevoked,
        /// Records of a new assignment are taken for the first one's (C28).
        OldEpoch,
        /// What was read of a partition that is about to leave, and not taken in, counts as a gap (C27).
        PassesUnread,
    }
}

/// A record that was read.
#[derive(Debug, Clone, Copy)]
pub struct Read<'r> {
    /// Its partition; there is one topic, of number 0.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its event's id.
    pub id: Uuid,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// How many records may share its transaction; `None` where it runs alone.
    pub company: Option<usize>,
}

/// The attempts of a record so far, in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tries {
    /// Failed attempts that count.
    pub counted: u32,
    /// Failures in a row that do not.
    pub uncounted: u32,
    /// When the first attempt failed.
    pub first_failure: Option<Duration>,
}

/// Records of one key that a worker runs.
#[derive(Debug)]
pub struct Work(super::Work, watch::Receiver<bool>);

impl Work {
    /// The partition's present assignment.
    pub fn lane(&self) -> Lane {
        self.0.lane()
    }

    /// Offsets of the records that are not settled yet.
    pub fn offsets(&self) -> impl ExactSizeIterator<Item = i64> {
        self.0.records().map(|record| record.offset)
    }

    /// Whether the partition is lost.
    pub fn is_lost(&self) -> bool {
        *self.1.borrow()
    }

    /// Attempts of the first of them.
    pub fn tries(&self) -> Tries {
        let tries = self.0.first().map(|record| record.tries).unwrap_or_default();
        Tries { counted: tries.counted, uncounted: tries.uncounted, first_failure: tries.first_failure }
    }

    /// Counts an attempt of the first of them.
    pub fn tried(&mut self, to: Tries) {
        if let Some(record) = self.0.first_mut() {
            let tries = &mut record.tries;
            (tries.counted, tries.uncounted) = (to.counted, to.uncounted);
            tries.first_failure = to.first_failure;
        }
    }

    /// One of them runs by itself next.
    pub fn alone(&mut self, at: usize) {
        if let Some(record) = self.0.records_mut().nth(at) {
            record.company = None;
        }
    }
}

/// A handler that runs.
#[derive(Debug)]
pub struct Running(Option<Started>);

/// Whether a handler may start; [`journal::Permit`] with a [`Running`] that mutants can make.
#[derive(Debug)]
pub enum Permit {
    /// It may.
    Start(Running),
    /// Not before the journal is committed.
    CommitFirst,
    /// Another has to end first.
    Wait,
    /// It killed so many processes.
    Convict(u16),
    /// Its partition has left.
    Gone,
}

/// A commit that is to be sent.
#[derive(Debug)]
pub struct Commit {
    /// The partition in its assignment.
    pub lane: Lane,
    /// The offset.
    pub offset: i64,
    /// The text beside it.
    pub metadata: String,
    commit: super::Commit,
}

/// A commit that has no text beyond the journal, where the broker allows no more.
fn room(small: bool) -> Room {
    if small { Room::Journal } else { Room::Usual }
}

/// The engine.
pub struct Engine {
    engine: super::Engine,
    mutant: Option<Mutant>,
    topic: Arc<str>,
    /// For mutants: the highest offset that is settled and that is read, and the first assignment of a partition.
    highest: BTreeMap<Lane, i64>,
    read: BTreeMap<Lane, i64>,
    first: BTreeMap<(u32, i32), Lane>,
}

impl Engine {
    /// An engine that holds no more than `most`.
    pub fn new(most: Held, convict_after: u16, mutant: Option<Mutant>) -> Engine {
        Engine {
            engine: super::Engine::new(most, convict_after),
            mutant,
            topic: Arc::from("t"),
            highest: BTreeMap::new(),
            read: BTreeMap::new(),
            first: BTreeMap::new(),
        }
    }

    /// A partition was assigned.
    pub fn assigned(&mut self, partition: i32, offset: i64, said: Metadata) -> Lane {
        let lane = self.engine.assigned(self.topic.clone(), 0, partition, offset, said);
        self.first.entry(lane.place()).or_insert(lane);
        lane
    }

    /// Takes a record in.
    pub fn deliver(&mut self, read: Read<'_>) {
        let packed = Packed::new(read.key, None, &[]);
        let Read { partition, offset, id, company, .. } = read;
        let topic = self.topic.clone();
        let mut record = Record::new(
            Body { scope: topic.clone(), topic, partition, offset, timestamp: 0, id: Some(id), packed },
            crate::record::Tries::default(),
        );
        record.company = company.map(|most| Company::new(0, most));
        let place = (0, partition);
        if let Some(lane) = self.engine.lane(place) {
            self.read.insert(lane, offset + 1);
        }
        match (self.mutant, self.first.get(&place)) {
            (Some(Mutant::OldEpoch), Some(first)) => {
                let (first, bytes, body) = (*first, record.bytes(), record.body().clone());
                if let Some(assigned) =
                    self.engine.lane(place).and_then(|lane| self.engine.lanes.get_mut(&lane))
                    && assigned.frontier.begin(offset) == Ok(super::Begun::New)
                {
                    self.engine.keys.push(first, body.key(), record, bytes);
                    self.engine.intake.holds(self.engine.keys.held());
                }
            }
            _ => self.engine.deliver(place, std::iter::once(record)),
        }
    }

    /// The client has read up to here.
    pub fn read_up_to(&mut self, partition: i32, position: i64) {
        if self.mutant == Some(Mutant::PassesUnread)
            && let Some(assigned) =
                self.engine.lane((0, partition)).and_then(|lane| self.engine.lanes.get_mut(&lane))
        {
            assigned.frontier.end_of_gap(position);
        }
        self.engine.read_up_to((0, partition), position);
    }

    /// The next records.
    pub fn take(&mut self, workers: usize) -> Vec<Work> {
        if self.mutant == Some(Mutant::IsolationIgnored) {
            self.engine.keys.isolate(false);
        }
        let works = self.engine.take(Hands { workers, threads: 1, light: 1 });
        let lost = |work: &super::Work| self.engine.lost_of(work.lane());
        works
            .into_iter()
            .map(|work| {
                let lost = lost(&work);
                Work(work, lost)
            })
            .collect()
    }

    /// Whether the handler of one of the records may start.
    pub fn may_start(&mut self, work: &Work, at: usize) -> Permit {
        let Some(record) = work.0.records().nth(at) else { return Permit::Gone };
        if self.mutant == Some(Mutant::StartNotCounted) {
            return Permit::Start(Running(None));
        }
        match self.engine.may_start(work.lane(), record) {
            journal::Permit::Start(started) => Permit::Start(Running(Some(started))),
            journal::Permit::Convict { deaths } => Permit::Convict(deaths),
            journal::Permit::Gone => Permit::Gone,
            journal::Permit::Wait if self.mutant == Some(Mutant::IsolationIgnored) => {
                Permit::Start(Running(None))
            }
            journal::Permit::CommitFirst => Permit::CommitFirst,
            journal::Permit::Wait => Permit::Wait,
        }
    }

    /// It will not start after all.
    pub fn will_not_start(&mut self, work: &Work, at: usize) {
        if let Some(record) = work.0.records().nth(at) {
            self.engine.will_not_start(work.lane(), record);
        }
    }

    /// A handler has ended, and this process lives.
    pub fn handler_ended(&mut self, running: Running, ending: Ending) {
        if let Some(started) = running.0 {
            self.engine.handler_ended(started, ending);
        }
    }

    /// A record of the run is settled, durably.
    pub fn settle(&mut self, work: &mut Work, at: usize, without_handler: bool) {
        let lane = work.lane();
        if let Some(record) = self.engine.settle(&mut work.0, at, without_handler) {
            let highest = self.highest.entry(lane).or_default();
            *highest = record.offset.max(*highest);
        }
    }

    /// The run has ended. With `wait` what is left of it waits to be resumed.
    pub fn end(&mut self, work: Work, wait: bool) -> Option<HoldId> {
        self.engine.end(work.0, if wait { After::Wait } else { After::GoOn })
    }

    /// The wait is over.
    pub fn resume(&mut self, hold: HoldId) {
        self.engine.resume(hold);
    }

    /// What the client has to pause and resume.
    pub fn orders(&mut self) -> Orders {
        self.engine.orders(|_| true)
    }

    /// The client could not do so.
    pub fn order_failed(&mut self, lane: Lane) {
        self.engine.order_failed(lane);
    }

    /// Whether somebody waits for a commit.
    pub fn commit_is_urgent(&self) -> bool {
        self.engine.commit_is_urgent()
    }

    /// What is to be committed now.
    pub fn commits(&mut self, small: bool) -> Vec<Commit> {
        let mut commits = self.engine.commits(room(small));
        // The engine's own order is that of a hash table.
        commits.sort_by_key(|commit| commit.lane);
        commits.into_iter().map(|commit| self.commit(commit)).collect()
    }

    fn commit(&mut self, mut commit: super::Commit) -> Commit {
        let lane = commit.lane;
        let further = match self.mutant {
            Some(Mutant::HighestCommitted) => self.highest.get(&lane).map(|highest| highest + 1),
            Some(Mutant::CommitPastInFlight) => self.read.get(&lane).copied(),
            _ => None,
        };
        if let Some(further) = further.filter(|further| *further > commit.offset) {
            commit.offset = further;
            commit.metadata = metadata::write(further, &journal::Entry::default(), &Default::default(), 128);
        }
        Commit { lane, offset: commit.offset, metadata: commit.metadata.clone(), commit }
    }

    /// The broker has it.
    pub fn committed(&mut self, commit: &Commit) {
        self.engine.committed(&commit.commit);
    }

    /// The broker has it not.
    pub fn not_committed(&mut self, commit: &Commit) {
        self.engine.not_committed(&commit.commit);
    }

    /// The partition is to leave.
    pub fn leave(&mut self, lane: Lane) {
        self.engine.leave(lane);
    }

    /// Runs of the partition that are out.
    pub fn running(&self, lane: Lane) -> usize {
        self.engine.running(lane)
    }

    /// The partition leaves; what is to be committed for it at last.
    pub fn left(&mut self, lane: Lane, stopping: bool, small: bool) -> Option<Commit> {
        let commit = self.engine.left(lane, stopping, room(small))?;
        Some(self.commit(commit))
    }

    /// The partition is another's by now. Nothing is to be committed; a mutant does.
    pub fn lost(&mut self, lane: Lane) -> Option<Commit> {
        if self.mutant == Some(Mutant::LostIsRevoked) {
            return self.left(lane, false, false);
        }
        self.engine.lost(lane);
        None
    }

    /// Every partition that is assigned.
    pub fn assignment(&self) -> Vec<Lane> {
        let mut lanes = self.engine.assignment();
        lanes.sort_unstable();
        lanes
    }

    /// Records whose keys are free.
    pub fn ready(&self) -> usize {
        self.engine.ready()
    }

    /// Records and bytes that wait or run.
    pub fn held(&self) -> Held {
        self.engine.keys.held()
    }

    /// Whether one record at a time runs, as the workers are told.
    pub fn is_isolated(&self) -> bool {
        self.engine.is_isolated() && self.mutant != Some(Mutant::IsolationIgnored)
    }

    /// Whether one record at a time has to run.
    pub fn has_to_be_isolated(&self) -> bool {
        self.engine.journal.is_isolated()
    }
}
