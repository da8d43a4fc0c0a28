//! What the consumer knows of its records: who runs, what is settled, what may be committed. One lock guards it; nothing
//! here waits or does I/O.

#[cfg(feature = "simulation")]
pub mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::frontier::{Begun, Frontier};
use crate::intake::{Held, Intake, Orders, Watermarks};
use crate::journal::{self, Ending, Journal, Permit, Sent, Started};
use crate::keys::{HoldId, Item, Keys, Run, Ticket};
use crate::lane::Lane;
use crate::metadata::{self, Metadata};
use crate::metrics::engine::{EngineLook, PartitionLook};
use crate::record::{Company, Record};

/// Records of one key, in their order, that a worker runs.
#[derive(Debug)]
pub(crate) struct Work {
    ticket: Ticket,
    /// The last first, so that the first is taken out at the end.
    items: SmallVec<[Item<Record>; 1]>,
}

impl Work {
    /// The records that are not settled yet.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.items.iter().rev().map(|item| &item.record)
    }

    /// The first of them; `None` when all are settled.
    pub(crate) fn first(&self) -> Option<&Record> {
        self.items.last().map(|item| &item.record)
    }

    /// The first of them, to count its attempts.
    pub(crate) fn first_mut(&mut self) -> Option<&mut Record> {
        self.items.last_mut().map(|item| &mut item.record)
    }

    /// All of them, to say how they run next.
    pub(crate) fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.items.iter_mut().rev().map(|item| &mut item.record)
    }

    /// The partition's present assignment.
    pub(crate) fn lane(&self) -> Lane {
        self.ticket.lane()
    }
}

/// Who shares what is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hands {
    /// Workers.
    pub(crate) workers: usize,
    /// Threads that they run on.
    pub(crate) threads: usize,
    /// Most keys that one worker is to take of handlers without a transaction; 0 where as many as may wait already.
    pub(crate) light: usize,
}

/// What follows for a key whose run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Its turn comes when it comes; whatever is left of the run comes first.
    GoOn,
    /// It waits to be resumed.
    Wait,
}

/// One partition in one assignment.
#[derive(Debug)]
struct Assigned {
    topic: Arc<str>,
    frontier: Frontier,
    /// What the broker has acknowledged.
    committed: i64,
    /// Runs that are out.
    running: usize,
    /// Nothing new is begun: it is about to leave.
    leaving: bool,
    /// Records for whose sake nothing more is read.
    halts: usize,
    lost: watch::Sender<bool>,
}

/// A commit that is to be sent.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) lane: Lane,
    pub(crate) topic: Arc<str>,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
    /// Proof for the journal; `None` for the last commit of a partition that leaves.
    pub(crate) sent: Option<Sent>,
}

/// What a consumer has in hand.
pub(crate) struct Engine {
    keys: Keys<Record>,
    lanes: AHashMap<Lane, Assigned>,
    present: AHashMap<(u32, i32), Lane>,
    intake: Intake,
    journal: Journal,
    epochs: u32,
    /// Records settled since the beginning.
    count: u64,
    isolated: bool,
}

/// Bytes of text that go with a commit: the broker's usual limit, or only the journal where it allows less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// [`metadata::DEFAULT_LIMIT`].
    Usual,
    /// [`metadata::JOURNAL_LIMIT`] (C57).
    Journal,
}

impl Engine {
    pub(crate) fn new(most: Held, convict_after: u16) -> Engine {
        Engine {
            keys: Keys::new(),
            lanes: AHashMap::new(),
            present: AHashMap::new(),
            intake: Intake::new(Watermarks::below(most)),
            journal: Journal::new(convict_after),
            epochs: 0,
            count: 0,
            isolated: false,
        }
    }

    /// A partition was assigned and is read from `offset`, with the text that was committed beside it.
    pub(crate) fn assigned(
        &mut self,
        topic: Arc<str>,
        number: u32,
        partition: i32,
        offset: i64,
        said: Metadata,
    ) -> Lane {
        self.epochs += 1;
        let lane = Lane { topic: number, partition, epoch: self.epochs };
        self.journal.assigned(lane, offset, said.journal);
        let (lost, _) = watch::channel(false);
        let frontier = Frontier::restore(offset, &said.completed);
        let assigned =
            Assigned { topic, frontier, committed: offset, running: 0, leaving: false, halts: 0, lost };
        self.lanes.insert(lane, assigned);
        self.present.insert(lane.place(), lane);
        self.intake.assigned(lane);
        self.review();
        lane
    }

    /// The present assignment of a partition.
    pub(crate) fn lane(&self, place: (u32, i32)) -> Option<Lane> {
        self.present.get(&place).copied()
    }

    /// Takes records of a partition in, all that are given. One that is settled already is passed over, and all of a
    /// partition that has left.
    pub(crate) fn deliver(&mut self, place: (u32, i32), records: impl Iterator<Item = Record>) {
        let lane = self.lane(place);
        let assigned = lane.and_then(|lane| self.lanes.get_mut(&lane)).filter(|assigned| !assigned.leaving);
        let (Some(lane), Some(assigned)) = (lane, assigned) else { return records.for_each(drop) };
        self.intake.came(lane);
        for record in records {
            // A record that was read before, after a seek of the client's own, is in hand or settled.
            if let Ok(Begun::New) = assigned.frontier.begin(record.offset) {
                let bytes = record.bytes();
                let body = record.body().clone();
                self.keys.push(lane, body.key(), record, bytes);
            }
        }
        self.intake.holds(self.keys.held());
    }

    /// The client has read up to here: transaction markers and compacted records never come (C27). Of a partition that
    /// is about to leave it has read records that were not taken in, and they are no gap.
    pub(crate) fn read_up_to(&mut self, place: (u32, i32), position: i64) {
        let assigned = self.lane(place).and_then(|lane| self.lanes.get_mut(&lane));
        if let Some(assigned) = assigned.filter(|assigned| !assigned.leaving) {
            assigned.frontier.end_of_gap(position);
        }
    }

    /// The next records, of keys that are free: those that may run together, or one. Workers share what is ready, so that
    /// a group takes no work from workers, or threads, that have none.
    pub(crate) fn take(&mut self, hands: Hands) -> Vec<Work> {
        let share = |among: usize| self.keys.ready().div_ceil(among.max(1));
        let keys = match self.keys.next().and_then(|record| record.company) {
            Some(company) if company.is_light() && hands.light == 0 => return Vec::new(),
            Some(company) if company.is_light() => hands.light.min(share(hands.threads)),
            Some(Company { number: 0, .. }) => share(hands.workers),
            Some(company) => company.most(),
            None => 1,
        };
        let group =
            self.keys.take_group(keys, |record| record.company.map(|company| (company, company.most())));
        group.into_iter().map(|run| self.work(run)).collect()
    }

    /// The same where the next ones have handlers without a transaction; nothing where they have not.
    pub(crate) fn take_light(&mut self, hands: Hands) -> Vec<Work> {
        match self.keys.next().and_then(|record| record.company) {
            Some(company) if company.is_light() => self.take(hands),
            _ => Vec::new(),
        }
    }

    fn work(&mut self, Run { ticket, records }: Run<Record>) -> Work {
        let mut items = records;
        items.reverse();
        if let Some(assigned) = self.lanes.get_mut(&ticket.lane()) {
            assigned.running += 1;
        }
        Work { ticket, items }
    }

    /// Becomes true when the partition is lost: whatever is done for it then decides nothing.
    pub(crate) fn lost_of(&self, lane: Lane) -> watch::Receiver<bool> {
        match self.lanes.get(&lane) {
            Some(assigned) => assigned.lost.subscribe(),
            // It has left before; whoever asks has nothing to decide.
            None => watch::channel(true).1,
        }
    }

    /// Whether more of the partition may begin.
    pub(crate) fn goes_on(&self, lane: Lane) -> bool {
        self.lanes.get(&lane).is_some_and(|assigned| !assigned.leaving)
    }

    /// Whether the record's handler may start; asked when all else is ready.
    pub(crate) fn may_start(&mut self, lane: Lane, record: &Record) -> Permit {
        let permit = self.journal.about_to_start(named(lane, record));
        // The first that is about to start makes it known that earlier starts made no progress.
        self.review();
        permit
    }

    /// It will not start after all.
    pub(crate) fn will_not_start(&mut self, lane: Lane, record: &Record) {
        self.journal.abandoned(named(lane, record));
        self.review();
    }

    /// A handler has ended, and this process lives.
    pub(crate) fn handler_ended(&mut self, started: Started, ending: Ending) {
        self.journal.ended(started, ending);
        self.review();
    }

    /// Whether a handler may start whose record is parked; then it has started.
    pub(crate) fn parked_starts(&mut self) -> bool {
        self.journal.parked_starts()
    }

    /// It has ended, and this process lives.
    pub(crate) fn parked_ended(&mut self) {
        self.journal.parked_ended();
    }

    /// A record of the run is settled, durably: its offset need not come again. `at` counts what is left of the run.
    /// The record comes back to be dropped without the lock: it was made on another thread, which is dear.
    #[must_use]
    pub(crate) fn settle(&mut self, work: &mut Work, at: usize, without_handler: bool) -> Option<Record> {
        let last = work.items.len().checked_sub(at + 1)?;
        let Item { record, .. } = work.items.remove(last);
        self.settled(work.lane(), &record, without_handler);
        Some(record)
    }

    /// The same for a record that was taken out of its run.
    pub(crate) fn settled(&mut self, lane: Lane, record: &Record, without_handler: bool) {
        if without_handler {
            self.journal.settled_unstarted(named(lane, record));
        }
        if record.tries.halts {
            self.go_on(lane);
        }
        if let Some(assigned) = self.lanes.get_mut(&lane) {
            // Of its own assignment, so it is open there.
            let _settled = assigned.frontier.settle(record.offset);
            self.journal.progressed(lane, assigned.frontier.committable());
            if assigned.frontier.open() == 0 {
                self.journal.drained(lane);
            }
            self.count += 1;
        }
    }

    /// The run has ended. What is not settled of it stays first of its key; `Some` where that waits to be resumed.
    pub(crate) fn end(&mut self, work: Work, after: After) -> Option<HoldId> {
        let Work { ticket, mut items } = work;
        items.reverse();
        if let Some(assigned) = self.lanes.get_mut(&ticket.lane()) {
            assigned.running -= 1;
        }
        let hold = match after {
            After::GoOn if items.is_empty() => {
                self.keys.finish(ticket);
                None
            }
            After::GoOn => {
                self.keys.put_back(ticket, items);
                None
            }
            After::Wait => self.keys.hold(ticket, items),
        };
        self.intake.holds(self.keys.held());
        self.review();
        hold
    }

    /// The wait is over.
    pub(crate) fn resume(&mut self, hold: HoldId) {
        self.keys.resume(hold);
    }

    /// Nothing more is read of the partition until the record is settled, or the partition leaves and the record is
    /// read again.
    pub(crate) fn halt(&mut self, lane: Lane) {
        if let Some(assigned) = self.lanes.get_mut(&lane) {
            assigned.halts += 1;
            self.intake.want(lane.topic, lane.partition, true);
        }
    }

    /// A record that halted the partition is settled.
    fn go_on(&mut self, lane: Lane) {
        let Some(assigned) = self.lanes.get_mut(&lane).filter(|assigned| assigned.halts > 0) else { return };
        assigned.halts -= 1;
        if assigned.halts == 0 {
            tracing::warn!(
                topic = &*assigned.topic,
                partition = lane.partition,
                "what halted its partition is settled: it is read on"
            );
            self.intake.want(lane.topic, lane.partition, false);
        }
    }

    /// What the client has to pause and resume, among those that may be told so now.
    pub(crate) fn orders(&mut self, may: impl Fn(Lane) -> bool) -> Orders {
        self.intake.orders(may)
    }

    /// Whether as much is held as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.intake.is_full()
    }

    /// The partitions that the client is to read, their topics, and where it is.
    pub(crate) fn read(&self) -> Vec<(Lane, Arc<str>, i64)> {
        if self.is_full() {
            return Vec::new();
        }
        let read = self
            .lanes
            .iter()
            .filter(|(lane, assigned)| !assigned.leaving && !self.intake.is_paused(**lane))
            .map(|(lane, assigned)| (*lane, assigned.topic.clone(), assigned.frontier.position()));
        read.collect()
    }

    /// The client could not do so.
    pub(crate) fn order_failed(&mut self, lane: Lane) {
        self.intake.failed(lane);
    }

    /// Whether somebody waits for a commit: no handler starts before it is acknowledged.
    pub(crate) fn commit_is_urgent(&self) -> bool {
        self.journal.to_commit().next().is_some()
    }

    /// What is to be committed now.
    pub(crate) fn commits(&mut self, room: Room) -> Vec<Commit> {
        let urgent: BTreeSet<Lane> = self.journal.to_commit().collect();
        let mut commits = Vec::new();
        for (lane, assigned) in &self.lanes {
            let offset = assigned.frontier.committable();
            if assigned.leaving || offset <= assigned.committed && !urgent.contains(lane) {
                continue;
            }
            let Some((entry, sent)) = self.journal.sending(*lane) else { continue };
            let completed = assigned.frontier.completed_beyond();
            let metadata = metadata::write(offset, entry, &completed, room.bytes());
            let (lane, topic) = (*lane, assigned.topic.clone());
            commits.push(Commit { lane, topic, offset, metadata, sent: Some(sent) });
        }
        commits
    }

    /// The broker has it.
    pub(crate) fn committed(&mut self, commit: &Commit) {
        if let Some(assigned) = self.lanes.get_mut(&commit.lane) {
            assigned.committed = assigned.committed.max(commit.offset);
        }
        if let Some(sent) = commit.sent {
            self.journal.acknowledged(sent);
        }
        self.review();
    }

    /// The broker has it not: it is made again.
    pub(crate) fn not_committed(&mut self, commit: &Commit) {
        if let Some(sent) = commit.sent {
            self.journal.refused(sent);
        }
    }

    /// The partition is to leave: nothing new of it is begun.
    pub(crate) fn leave(&mut self, lane: Lane) {
        if let Some(assigned) = self.lanes.get_mut(&lane) {
            assigned.leaving = true;
            self.keys.revoke(lane);
            self.intake.holds(self.keys.held());
        }
    }

    /// Runs of the partition that are out.
    pub(crate) fn running(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |assigned| assigned.running)
    }

    /// The partition leaves; what is to be committed for it at last. `stopping`: the process ends in order.
    pub(crate) fn left(&mut self, lane: Lane, stopping: bool, room: Room) -> Option<Commit> {
        let entry = if stopping { self.journal.stopped(lane) } else { self.journal.revoked(lane) };
        let assigned = self.remove(lane)?;
        let offset = assigned.frontier.committable();
        let completed = assigned.frontier.completed_beyond();
        let metadata = metadata::write(offset, &entry.unwrap_or_default(), &completed, room.bytes());
        Some(Commit { lane, topic: assigned.topic, offset, metadata, sent: None })
    }

    /// The partition is another's by now: nothing is committed, and what runs for it decides nothing (C30).
    pub(crate) fn lost(&mut self, lane: Lane) {
        self.journal.lost(lane);
        if let Some(assigned) = self.remove(lane) {
            assigned.lost.send_replace(true);
        }
    }

    fn remove(&mut self, lane: Lane) -> Option<Assigned> {
        self.keys.revoke(lane);
        self.intake.unassigned(lane);
        self.intake.holds(self.keys.held());
        if self.present.get(&lane.place()) == Some(&lane) {
            self.present.remove(&lane.place());
        }
        let assigned = self.lanes.remove(&lane);
        if assigned.as_ref().is_some_and(|assigned| assigned.halts > 0) {
            // What halted it is read again with the next assignment, wherever that is.
            self.intake.want(lane.topic, lane.partition, false);
        }
        self.review();
        assigned
    }

    /// Every partition that is assigned.
    pub(crate) fn assignment(&self) -> Vec<Lane> {
        self.lanes.keys().copied().collect()
    }

    /// Records whose keys are free.
    pub(crate) fn ready(&self) -> usize {
        self.keys.ready()
    }

    /// Records settled since the beginning.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether one record at a time runs, because one is suspected of killing the process.
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// What can be seen of it.
    pub(crate) fn look(&self) -> EngineLook {
        let partitions = self.lanes.iter().map(|(lane, assigned)| PartitionLook {
            topic: assigned.topic.clone(),
            partition: lane.partition,
            epoch: lane.epoch,
            committed: assigned.committed,
            committable: assigned.frontier.committable(),
            unsettled: assigned.frontier.open(),
            running: assigned.running,
            paused: self.intake.is_paused(*lane),
        });
        EngineLook {
            held: self.keys.held(),
            ready_keys: self.keys.ready(),
            running: self.keys.running(),
            full: self.intake.is_full(),
            isolated: self.journal.is_isolated(),
            suspects: self.journal.suspects(),
            partitions: partitions.collect(),
        }
    }

    /// In isolation one record is in flight in all, and only partitions in doubt are read.
    fn review(&mut self) {
        let isolated = self.journal.is_isolated();
        if !isolated && !self.isolated {
            return;
        }
        if isolated != self.isolated {
            self.isolated = isolated;
            if isolated {
                tracing::warn!(
                    "isolated: earlier starts made no progress, so one record at a time runs until the suspect is found"
                );
            } else {
                tracing::warn!("no longer isolated: everything runs beside each other again");
            }
        }
        self.keys.isolate(isolated);
        let doubtful = || self.lanes.keys().filter(|lane| self.journal.in_doubt(**lane)).copied().collect();
        self.intake.isolate(isolated.then(doubtful));
    }
}

fn named(lane: Lane, record: &Record) -> journal::Record {
    journal::Record { lane, offset: record.offset, id: record.journal_id() }
}

impl Room {
    fn bytes(self) -> usize {
        match self {
            Room::Usual => metadata::DEFAULT_LIMIT,
            Room::Journal => metadata::JOURNAL_LIMIT,
        }
    }
}
