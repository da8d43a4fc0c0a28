//! Finds the record that kills the process, across restarts and instances, and convicts no other (C25).
//!
//! A record can end its process in ways no handler returns from: an abort, a stack overflow, the kernel's
//! memory killer. The next process reads the same record and dies of it too. What the dead one knew has to
//! outlive it, so it is committed beforehand, as an [`Entry`] beside the group's own offsets: this survives
//! restarts, other instances and lost disks, and costs nothing per record.
//!
//! 1. *Suspicion.* Before the first handler of an assignment starts, `starts + 1` is committed at the
//!    unchanged offset. Progress and a clean stop reset it.
//! 2. *Isolation.* A second such start puts the whole process into isolation, and so does a partition
//!    whose entry names a record: one record in flight, named with its count, and the commit that says
//!    so is acknowledged before its handler starts.
//! 3. *Verdict.* A record that was named when its process died, often enough, is convicted without being
//!    run again.
//!
//! The rules that keep the innocent from conviction:
//!
//! - While a named record runs nothing else does, so no neighbour's crash is counted for it. Nor does anything
//!   [of the park](Journal::parked_starts), which has a count of its own: a handler from there that runs
//!   already is waited for, and none begins meanwhile.
//! - No handler starts before every partition's entry is acknowledged as it stands. Otherwise the next
//!   record could kill while the broker still holds the name of one that has come back.
//! - Whatever a living process hears of a named record, an infrastructure error first of all, takes its
//!   count back. During a database outage none is named at all, because the caller asks only
//!   [when the handler's transaction is open](Journal::about_to_start).
//! - One death is never enough.
//!
//! Nothing here does I/O. The caller asks before it starts a handler, reports how it ended, and commits
//! what [`to_commit`](Journal::to_commit) lists.

mod entry;
mod state;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use ahash::AHashMap;

use crate::lane::Lane;
pub use entry::{Entry, NAMED_LIMIT, Named};
use state::{Alive, State};

/// Deaths while named after which a record is convicted, unless configured otherwise.
pub const DEFAULT_CONVICT_AFTER: u16 = 3;

/// A record as the journal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its partition, in the present assignment.
    pub lane: Lane,
    /// Its offset.
    pub offset: i64,
    /// Hash of its event id; the same in every process.
    pub id: u32,
}

/// The answer to "may this handler start?"
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Permit {
    /// It may. The token goes back with [`Journal::ended`].
    Start(Started),
    /// Not before [`Journal::to_commit`] is committed and acknowledged. Ask again then.
    CommitFirst,
    /// Another record has to end first. Ask again then.
    Wait,
    /// It must not: it was named when its process died, this often. It is dead-lettered with that
    /// evidence, then [settled](Journal::settled_unstarted).
    Convict {
        /// Deaths while named.
        deaths: u16,
    },
    /// Its partition is not assigned any more.
    Gone,
}

/// A handler that runs. Given back exactly once, however the handler ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a handler that is not given back counts as running for ever"]
pub struct Started {
    record: Record,
    named: bool,
}

impl Started {
    /// The record whose handler runs.
    pub fn record(&self) -> Record {
        self.record
    }
}

/// How a handler ended, in a process that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The record is settled, durably.
    Settled,
    /// It is not: an infrastructure error, a failed attempt, a caught panic. The process survived it.
    Survived,
}

/// Proof of what a commit carried, for the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    lane: Lane,
    version: u64,
}

/// The one record that is named and not yet back.
#[derive(Debug)]
struct Claim {
    record: Record,
    running: bool,
}

/// The journal of a process.
#[derive(Debug)]
pub struct Journal {
    convict_after: u16,
    lanes: AHashMap<Lane, State>,
    /// Handlers that run, also those of partitions that are gone.
    running: usize,
    /// Handlers that run from the park.
    parked: usize,
    claim: Option<Claim>,
    isolated: bool,
    /// Some partition's entry is not acknowledged as it stands.
    behind: bool,
    /// What this process wrote to partitions that it lost while it lived.
    alive: AHashMap<(u32, i32), Alive>,
}

impl Journal {
    /// A journal that convicts after that many deaths while named, at least two.
    pub fn new(convict_after: u16) -> Journal {
        Journal {
            convict_after: convict_after.max(2),
            lanes: AHashMap::new(),
            running: 0,
            parked: 0,
            claim: None,
            isolated: false,
            behind: false,
            alive: AHashMap::new(),
        }
    }

    /// A partition was assigned, to be read from `offset`, which is committed with `entry` or, where
    /// nothing is committed, is the resolved start with an empty entry.
    pub fn assigned(&mut self, lane: Lane, offset: i64, mut entry: Entry) {
        if let Some(alive) = self.alive.remove(&lane.place()) {
            alive.take_back(offset, &mut entry);
        }
        self.lanes.insert(lane, State::new(offset, entry));
    }

    /// Asks whether the record's handler may start. To be asked when all else is ready, with the
    /// handler's transaction open: between the answer and the handler's first line nothing may fail for
    /// other reasons than the record.
    pub fn about_to_start(&mut self, record: Record) -> Permit {
        let claimed = self.claim.as_ref().is_some_and(|claim| claim.record == record);
        let Some(state) = self.lanes.get_mut(&record.lane) else { return Permit::Gone };
        let deaths = state.entry.deaths(record.offset, record.id);
        if deaths >= self.convict_after && !claimed {
            return Permit::Convict { deaths };
        }
        if state.count_start() {
            self.review();
        }
        if self.isolated {
            return self.claim(record);
        }
        if self.behind {
            return Permit::CommitFirst;
        }
        self.running += 1;
        Permit::Start(Started { record, named: false })
    }

    /// In isolation: names the record if no other is named or runs.
    fn claim(&mut self, record: Record) -> Permit {
        match &mut self.claim {
            Some(claim) if claim.record != record || claim.running => Permit::Wait,
            Some(_) if self.behind => Permit::CommitFirst,
            Some(claim) => {
                claim.running = true;
                self.running += 1;
                Permit::Start(Started { record, named: true })
            }
            None if self.running > 0 || self.parked > 0 => Permit::Wait,
            None => {
                self.change(record.lane, |entry| entry.name(record.offset, record.id));
                self.claim = Some(Claim { record, running: false });
                self.review();
                Permit::CommitFirst
            }
        }
    }

    /// The caller was told to commit first for this record and will not start it after all. Without this
    /// an isolated process would wait for it.
    pub fn abandoned(&mut self, record: Record) {
        if self.claim.as_ref().is_some_and(|claim| claim.record == record && !claim.running) {
            self.claim = None;
            self.change(record.lane, |entry| entry.take_back(record.offset, record.id));
            self.review();
        }
    }

    /// A handler ended and the process lives.
    pub fn ended(&mut self, started: Started, ending: Ending) {
        let Started { record, named } = started;
        self.running = self.running.saturating_sub(1);
        if named {
            self.claim = None;
            self.change(record.lane, |entry| match ending {
                Ending::Settled => entry.acquit(record.offset),
                Ending::Survived => entry.take_back(record.offset, record.id),
            });
            self.review();
        }
    }

    /// Whether a handler may start whose record is parked, and so is no partition's: not in isolation, nor
    /// while the broker may still hold the name of a record that has come back. Where it may, its end is
    /// [told](Journal::parked_ended).
    pub fn parked_starts(&mut self) -> bool {
        let may = self.parked_may_start();
        self.parked += usize::from(may);
        may
    }

    /// The same, and nothing is begun.
    pub fn parked_may_start(&self) -> bool {
        !self.isolated && !self.behind
    }

    /// A handler from the park has ended, and the process lives.
    pub fn parked_ended(&mut self) {
        self.parked = self.parked.saturating_sub(1);
    }

    /// A record was settled without its handler: convicted, skipped, undecodable.
    pub fn settled_unstarted(&mut self, record: Record) {
        self.abandoned(record);
        self.change(record.lane, |entry| entry.acquit(record.offset));
        self.review();
    }

    /// The offset to commit moved on: the starts at the former one no longer say anything, and names of
    /// records below it are void. Costs a look when there is nothing to forget.
    pub fn progressed(&mut self, lane: Lane, committable: i64) {
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        if state.progress(committable) {
            self.review();
        }
    }

    /// Nothing that this process read of the partition is unsettled. A doubt that no record was named
    /// for ends here. So that it can end, [partitions in doubt](Journal::in_doubt) are read on no further
    /// than a process reads in advance anyway, and others not at all.
    pub fn drained(&mut self, lane: Lane) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.unnamed_doubt = false;
            self.review();
        }
    }

    /// Whether one record at a time is in flight.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Records that are named in the entries of all partitions.
    pub fn suspects(&self) -> usize {
        self.lanes.values().map(|state| state.entry.named.len()).sum()
    }

    /// Whether isolation is because of this partition. The others pause meanwhile.
    pub fn in_doubt(&self, lane: Lane) -> bool {
        self.lanes.get(&lane).is_some_and(|state| state.is_doubtful(self.claim.as_ref()))
    }

    /// Partitions whose entries changed since they were last sent. Each is to be committed soon, at its
    /// unchanged offset if there is no other.
    pub fn to_commit(&self) -> impl Iterator<Item = Lane> {
        self.lanes.iter().filter(|(_, state)| state.version > state.sent).map(|(lane, _)| *lane)
    }

    /// The entry for a commit of the partition, whatever the commit is made for, and the proof that goes
    /// with its answer. `None` when the partition is not assigned.
    pub fn sending(&mut self, lane: Lane) -> Option<(&Entry, Sent)> {
        let state = self.lanes.get_mut(&lane)?;
        state.sent = state.version;
        Some((&state.entry, Sent { lane, version: state.version }))
    }

    /// The commit was acknowledged. One of a former assignment changes nothing.
    pub fn acknowledged(&mut self, sent: Sent) {
        if let Some(state) = self.lanes.get_mut(&sent.lane) {
            state.acknowledged = state.acknowledged.max(sent.version);
            self.review();
        }
    }

    /// The commit failed: it is [to be made](Journal::to_commit) again.
    pub fn refused(&mut self, sent: Sent) {
        if let Some(state) = self.lanes.get_mut(&sent.lane) {
            state.sent = state.acknowledged;
        }
    }

    /// The partition goes to another process in order. Returns the entry for the last commit: the present
    /// start is taken back, evidence of deaths stays. (Were all starts forgotten, a group in which
    /// partitions wander between crashes would never come to isolation.)
    pub fn revoked(&mut self, lane: Lane) -> Option<Entry> {
        let (entry, _) = self.leave(lane)?;
        Some(entry)
    }

    /// The process ends in order. Returns the entry for the partition's last commit: no unclean start is
    /// left, evidence of deaths stays.
    pub fn stopped(&mut self, lane: Lane) -> Option<Entry> {
        let (entry, _) = self.leave(lane)?;
        Some(Entry { starts: 0, ..entry })
    }

    /// The partition is lost: nothing can be committed. What was written would count as a death although
    /// the process lives; it is taken back if the partition comes here again as it was left.
    pub fn lost(&mut self, lane: Lane) {
        if let Some((_, Some(alive))) = self.leave(lane) {
            self.alive.insert(lane.place(), alive);
        }
    }

    /// Takes the partition out. Returns its entry without what this life added, and what that was.
    fn leave(&mut self, lane: Lane) -> Option<(Entry, Option<Alive>)> {
        let mut state = self.lanes.remove(&lane)?;
        let claim = self.claim.take_if(|claim| claim.record.lane == lane);
        let alive = state.take_back(claim.as_ref());
        // A handler that still runs keeps its claim: nothing else may start beside it.
        self.claim = claim.filter(|claim| claim.running).or(self.claim.take());
        self.review();
        Some((state.entry, alive))
    }

    fn change(&mut self, lane: Lane, change: impl FnOnce(&mut Entry)) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.change(change);
        }
    }

    /// Works out anew what is asked before every start.
    fn review(&mut self) {
        let claim = self.claim.as_ref();
        self.behind = self.lanes.values().any(|state| state.acknowledged < state.version);
        self.isolated = claim.is_some() || self.lanes.values().any(|state| state.is_doubtful(claim));
    }
}
