//! Which record runs next: first in first out per key, one run of a key at a time.
//!
//! Records wait in the queue of their key; keys that have a record and no run wait in the run queue, and
//! workers [take](Keys::take) from its front. A slow or failing key so delays no other. The rules:
//!
//! - *A key is a topic and bytes, not an assignment.* After a partition went and came back, new
//!   deliveries of a key wait until the run that was out has really ended, timed out or not: else two
//!   runs of one key would meet (C26, C28).
//! - *Head first.* What a run did not do goes back before everything of its key, never behind (C21).
//! - *A key that waits for its retry is held*: it takes no worker and lets nothing of it pass.
//! - A run holds records of one partition and one assignment only, and says which, so that whoever
//!   settles it moves the right frontier or none.
//! - A record without key has no order to keep; each is a key of its own.
//! - Bytes count from push to the end of the run: what a worker holds is still memory.
//!
//! Timers live elsewhere; nothing here waits. Nothing is allocated per record once the store has grown to
//! what is held at most.

mod lanes;
mod records;
mod slots;

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::intake::Held;
use crate::lane::Lane;
use lanes::Lanes;
use records::Records;
use slots::{Slots, State};

/// Ready keys that are looked at for each that joins a group.
const LOOK: usize = 4;

/// A record and the bytes it is counted with.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<R> {
    /// The record.
    pub record: R,
    bytes: usize,
}

impl<R> Item<R> {
    fn held(&self) -> Held {
        Held { count: 1, bytes: self.bytes }
    }
}

/// Records of one key, in order, that a worker runs. The parts go different ways: the records to the
/// handlers, the ticket back to the scheduler when they have ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a run that is dropped blocks its key for ever"]
pub struct Run<R> {
    /// Ends the run.
    pub ticket: Ticket,
    /// Its records; at least one.
    pub records: SmallVec<[Item<R>; 1]>,
}

/// The right to a key. Given back exactly once: to [`finish`](Keys::finish), [`put_back`](Keys::put_back)
/// or [`hold`](Keys::hold) of the scheduler it came from.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is dropped blocks its key for ever"]
pub struct Ticket {
    slot: u32,
    number: u32,
    lane: Lane,
    held: Held,
}

impl Ticket {
    /// Partition and assignment of the run's records.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

/// A key that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HoldId {
    slot: u32,
    number: u64,
}

/// The scheduler. Owned by one thread.
pub struct Keys<R> {
    records: Records<R>,
    slots: Slots,
    lanes: Lanes,
    /// Slots in state `Ready`, each once.
    ready: VecDeque<u32>,
    running: usize,
    held: Held,
    holds: u64,
    isolated: bool,
}

impl<R> Default for Keys<R> {
    fn default() -> Self {
        Keys::new()
    }
}

impl<R> Keys<R> {
    /// A scheduler that holds nothing.
    pub fn new() -> Keys<R> {
        Keys {
            records: Records::new(),
            slots: Slots::new(),
            lanes: Lanes::new(),
            ready: VecDeque::new(),
            running: 0,
            held: Held::default(),
            holds: 0,
            isolated: false,
        }
    }

    /// Adds a record behind all others of its key. Returns whether it did: a record of an assignment that
    /// was revoked is dropped.
    pub fn push(&mut self, lane: Lane, key: Option<&[u8]>, record: R, bytes: usize) -> bool {
        let Some(number) = self.lanes.number(lane) else { return false };
        let item = Item { record, bytes };
        self.count(number, item.held());
        let at = self.slots.find_or_make(lane.topic, key);
        let slot = self.slots.get(at);
        self.records.push_back(&mut slot.queue, item, number);
        if slot.state == State::Vacant {
            slot.state = State::Ready;
            self.ready.push_back(at);
        }
        true
    }

    /// The first record of the key that has been ready longest: the one that would be taken.
    pub fn next(&self) -> Option<&R> {
        self.records.first(self.slots.queue(*self.ready.front()?))
    }

    /// Takes the first record of the key that has been ready longest.
    pub fn take(&mut self) -> Option<Run<R>> {
        if self.isolated && self.running > 0 {
            return None;
        }
        let slot = self.ready.pop_front()?;
        let queue = &mut self.slots.get(slot).queue;
        let number = self.records.first_lane(*queue)?;
        let item = self.records.pop_front(queue)?;
        self.slots.get(slot).state = State::Running;
        self.running += 1;
        let held = item.held();
        self.lanes.run(number, held);
        let ticket = Ticket { slot, number, lane: self.lanes.lane(number), held };
        Some(Run { ticket, records: SmallVec::from_iter([item]) })
    }

    /// Takes records that may run together: those of the key that has been ready longest, then the first ones of
    /// other ready keys that `fits` says run together with it, at most `keys` keys; then, while there is room, the
    /// ones behind them. Each run is given back by itself. Where `fits` answers `None` for the first, and in
    /// isolation, it is one record.
    ///
    /// `fits` says which records run together (those with the same answer), and how many of them at most. Keys that
    /// are passed over stay where they are in the run queue; at most [`LOOK`] are looked at for each that is taken.
    pub fn take_group<C: PartialEq>(
        &mut self,
        keys: usize,
        fits: impl Fn(&R) -> Option<(C, usize)>,
    ) -> Vec<Run<R>> {
        let first = self.next().and_then(&fits);
        let mut group: Vec<Run<R>> = Vec::with_capacity(keys.min(self.ready()));
        group.extend(self.take());
        let Some((class, max)) = first.filter(|_| !self.isolated && !group.is_empty()) else { return group };
        let belongs = |record: &R| fits(record).is_some_and(|(other, _)| other == class);
        let keys = keys.min(max);
        let mut passed = Vec::new();
        while group.len() < keys && passed.len() < LOOK * keys {
            let Some(at) = self.ready.front().copied() else { break };
            if self.next().is_some_and(belongs) {
                group.extend(self.take());
            } else {
                self.ready.pop_front();
                passed.push(at);
            }
        }
        passed.into_iter().rev().for_each(|at| self.ready.push_front(at));
        let mut room = max.saturating_sub(group.len());
        for run in &mut group {
            while room > 0 && self.extend(run, belongs) {
                room -= 1;
            }
        }
        group
    }

    /// Adds the key's next record to a run, if it is of the same lane and belongs to the group.
    fn extend(&mut self, run: &mut Run<R>, belongs: impl Fn(&R) -> bool) -> bool {
        let Ticket { slot, number, ref mut held, .. } = run.ticket;
        let queue = &mut self.slots.get(slot).queue;
        if self.records.first_lane(*queue) != Some(number) || !self.records.first(*queue).is_some_and(belongs)
        {
            return false;
        }
        let Some(item) = self.records.pop_front(queue) else { return false };
        *held = held.plus(item.held());
        self.lanes.run(number, item.held());
        run.records.push(item);
        true
    }

    /// The run ended and all its records are done with.
    pub fn finish(&mut self, ticket: Ticket) {
        let slot = ticket.slot;
        self.release(ticket, std::iter::empty());
        self.go_on(slot);
    }

    /// The run ended and `rest`, its last records in their order, is not done: it comes first when the
    /// key's turn is next. The rest of an assignment that was revoked is dropped; its new owner has it.
    pub fn put_back<I>(&mut self, ticket: Ticket, rest: I)
    where
        I: IntoIterator<Item = Item<R>, IntoIter: DoubleEndedIterator>,
    {
        let slot = ticket.slot;
        self.release(ticket, rest.into_iter());
        self.go_on(slot);
    }

    /// Like [`put_back`](Keys::put_back), and the key waits to be [resumed](Keys::resume). `None` when
    /// nothing is left to wait for: the rest was empty or is dropped.
    pub fn hold<I>(&mut self, ticket: Ticket, rest: I) -> Option<HoldId>
    where
        I: IntoIterator<Item = Item<R>, IntoIter: DoubleEndedIterator>,
    {
        let slot = ticket.slot;
        if !self.release(ticket, rest.into_iter()) {
            self.go_on(slot);
            return None;
        }
        self.holds += 1;
        self.slots.get(slot).state = State::Held(self.holds);
        Some(HoldId { slot, number: self.holds })
    }

    /// Lets a held key go on. Returns whether it was held still: a revocation may have ended the hold.
    pub fn resume(&mut self, hold: HoldId) -> bool {
        let held = self.slots.state(hold.slot) == State::Held(hold.number);
        if held {
            self.go_on(hold.slot);
        }
        held
    }

    /// Drops what waits of an assignment and returns how much that was. What runs is left to end; its
    /// keys stay taken until it has. Costs a look at everything that is held.
    pub fn revoke(&mut self, lane: Lane) -> Held {
        let Some((number, waiting)) = self.lanes.revoke(lane) else { return Held::default() };
        self.held = self.held.minus(waiting);
        let mut freed = Vec::new();
        for at in self.slots.numbers() {
            let slot = self.slots.get(at);
            let first = self.records.drop_lane(&mut slot.queue, number);
            match slot.state {
                State::Ready if slot.queue.is_empty() => self.slots.vacate(at),
                // The record that the key was held for is gone.
                State::Held(hold) if first => freed.push((hold, at)),
                State::Vacant | State::Ready | State::Running | State::Held(_) => {}
            }
        }
        self.ready.retain(|at| self.slots.state(*at) == State::Ready);
        freed.sort_unstable();
        freed.into_iter().for_each(|(_, at)| self.go_on(at));
        self.lanes.tidy(number);
        waiting
    }

    /// Isolation: at most one run is out, of one record. Runs that are out already may end.
    pub fn isolate(&mut self, isolated: bool) {
        self.isolated = isolated;
    }

    /// Records and bytes that wait or run.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Records and bytes of one assignment that wait or run.
    pub fn held_of(&self, lane: Lane) -> Held {
        self.lanes.held(lane)
    }

    /// Keys that could be taken now, isolation aside.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Runs that are out.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Keys that have records waiting or running; each record without key is one.
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    fn count(&mut self, number: u32, held: Held) {
        self.held = self.held.plus(held);
        self.lanes.wait(number, held);
    }

    /// Ends a run and puts the rest at the head of its key. Returns whether anything was put there.
    fn release(&mut self, ticket: Ticket, rest: impl DoubleEndedIterator<Item = Item<R>>) -> bool {
        let Ticket { slot, number, held, .. } = ticket;
        self.running -= 1;
        self.held = self.held.minus(held);
        let mut put = false;
        if !self.lanes.is_revoked(number) {
            for item in rest.rev() {
                self.count(number, item.held());
                self.records.push_front(&mut self.slots.get(slot).queue, item, number);
                put = true;
            }
        }
        self.lanes.end(number, held);
        put
    }

    /// A key that is not held and has no run: it queues up, or leaves.
    fn go_on(&mut self, at: u32) {
        let slot = self.slots.get(at);
        if slot.queue.is_empty() {
            self.slots.vacate(at);
        } else {
            slot.state = State::Ready;
            self.ready.push_back(at);
        }
    }
}
