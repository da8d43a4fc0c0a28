//! The only thing that says which offset of a partition may be committed. Nothing else computes one.
//!
//! A frontier is a window of the records that were [begun](Frontier::begin) in the order of the log and
//! are not yet passed. Records [settle](Frontier::settle) in any order; the frontier stands at the lowest
//! that has not, and [`committable`](Frontier::committable) is that offset. The rules, each with the loss
//! it prevents:
//!
//! - Only the lowest unsettled offset is committed. Committing the highest settled one would skip, after
//!   a restart, the records before it that were still in flight (C27).
//! - Offsets have gaps (compaction, transaction markers). A gap is passed when the reader is past it,
//!   never counted, so the window holds records and not offsets.
//! - What is settled beyond the frontier is [given to the next owner](Frontier::completed_beyond) with
//!   the commit, so that a restart repeats little; what came from the former owner stays in it until it
//!   is passed, else a second restart would repeat it after all.
//! - A settlement that fits nothing open is an error value and moves nothing: it comes from a run that
//!   outlived its assignment.
//!
//! A record in the window costs eight bytes; [`span`](Frontier::span) is what a bound is put on.

mod completed;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;

pub use completed::Completed;

/// Whether a record has to be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Begun {
    /// It is open until it is settled.
    New,
    /// A former owner of the partition settled it; it is settled here too.
    AlreadySettled,
}

/// A record was begun that does not lie beyond all that were begun before. Nothing was changed: the
/// reader went back, and has to begin with a new frontier at the offset it went back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} was begun where only {next} or later can follow")]
pub struct OutOfOrder {
    /// The offset that was to be begun.
    pub offset: i64,
    /// The lowest that can be.
    pub next: i64,
}

/// A settlement that fits nothing open. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOpen {
    /// The offset is settled, or it is a gap that the frontier has passed.
    #[error("offset {0} was settled before")]
    AlreadySettled(i64),
    /// The offset was never begun here.
    #[error("offset {0} was never begun")]
    NeverBegun(i64),
}

/// The settled and unsettled records of one partition during one assignment.
#[derive(Debug)]
pub struct Frontier {
    /// Records begun and not passed, in the order of the log. The first is always unsettled.
    window: VecDeque<Entry>,
    start: i64,
    /// One past the highest offset that was begun or that the reader has passed.
    next: i64,
    open: usize,
    /// What the former owner settled at `next` or beyond.
    restored: VecDeque<Range<i64>>,
}

/// An offset and whether it is settled, in one word.
#[derive(Debug, Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn new(offset: i64, settled: bool) -> Entry {
        Entry((offset as u64) << 1 | u64::from(settled))
    }
    fn offset(self) -> i64 {
        (self.0 >> 1) as i64
    }
    fn is_settled(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Frontier {
    /// A frontier at the offset from which the partition is read. A negative one counts as 0.
    pub fn new(start: i64) -> Frontier {
        let start = start.max(0);
        Frontier { window: VecDeque::new(), start, next: start, open: 0, restored: VecDeque::new() }
    }

    /// A frontier at a committed offset with what its commit says of records beyond. Ranges below
    /// `start` are passed over.
    pub fn restore(start: i64, completed: &Completed) -> Frontier {
        let mut frontier = Frontier::new(start);
        frontier.restored.extend(completed.ranges().iter().cloned());
        frontier.forget_restored();
        frontier
    }

    /// Begins the next record that the reader delivered.
    ///
    /// # Errors
    /// [`OutOfOrder`] when it does not lie beyond all others.
    pub fn begin(&mut self, offset: i64) -> Result<Begun, OutOfOrder> {
        // The highest offset has no offset after it to commit; the log cannot hold a record there.
        if offset < self.next || offset == i64::MAX {
            return Err(OutOfOrder { offset, next: self.next });
        }
        let settled = self.was_settled(offset);
        self.next = offset + 1;
        if settled {
            if !self.window.is_empty() {
                self.window.push_back(Entry::new(offset, true));
            }
            self.forget_restored();
            return Ok(Begun::AlreadySettled);
        }
        self.window.push_back(Entry::new(offset, false));
        self.open += 1;
        Ok(Begun::New)
    }

    /// Settles an open record: its settlement is durable.
    ///
    /// # Errors
    /// [`NotOpen`] when the offset is not open.
    pub fn settle(&mut self, offset: i64) -> Result<(), NotOpen> {
        let index = self.find(offset)?;
        if self.window[index].is_settled() {
            return Err(NotOpen::AlreadySettled(offset));
        }
        self.window[index] = Entry::new(offset, true);
        self.open -= 1;
        if index == 0 {
            self.pass();
        }
        Ok(())
    }

    /// The reader's position is `position`: every record below it was begun here or will never come. An
    /// idle partition whose log ends in transaction markers can so be committed to its end. A position
    /// that is behind is passed over.
    pub fn end_of_gap(&mut self, position: i64) {
        if position > self.next {
            self.next = position;
            self.forget_restored();
        }
    }

    /// The offset to commit: the lowest unsettled one, or the one at which the reader goes on when all
    /// are settled. It never goes backwards. What the former owner settled there is passed before the
    /// reader is, so it may be beyond the reader.
    pub fn committable(&self) -> i64 {
        let passed = || self.restored.front().filter(|range| range.start <= self.next);
        self.oldest_open().unwrap_or_else(|| passed().map_or(self.next, |range| range.end))
    }

    /// Where the reader is, as far as it was told.
    pub fn position(&self) -> i64 {
        self.next
    }

    /// Where the frontier began.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Records begun and not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The lowest open offset.
    pub fn oldest_open(&self) -> Option<i64> {
        self.window.front().map(|entry| entry.offset())
    }

    /// Records the window holds, settled ones beyond the frontier included. One record that does not
    /// settle lets it grow with all that settle behind it: reading has to stop at some bound.
    pub fn span(&self) -> usize {
        self.window.len()
    }

    /// What is settled beyond the frontier. Costs a look at each record of the window.
    pub fn completed_beyond(&self) -> Completed {
        let mut completed = Completed::NONE;
        let mut run: Option<Range<i64>> = None;
        for entry in &self.window {
            match (entry.is_settled(), &mut run) {
                (true, Some(run)) => run.end = entry.offset() + 1,
                (true, None) => run = Some(entry.offset()..entry.offset() + 1),
                (false, _) => {
                    completed.push(run.take().unwrap_or(0..0));
                }
            }
        }
        completed.push(run.unwrap_or(0..0));
        let committable = self.committable();
        for range in self.restored.iter().filter(|range| range.end > committable) {
            completed.push(range.start.max(self.next)..range.end);
        }
        completed
    }

    fn was_settled(&mut self, offset: i64) -> bool {
        while self.restored.front().is_some_and(|range| range.end <= offset) {
            self.restored.pop_front();
        }
        self.restored.front().is_some_and(|range| range.contains(&offset))
    }

    /// Drops what the former owner settled below `next`: it is in the window or behind the frontier.
    fn forget_restored(&mut self) {
        while self.restored.front().is_some_and(|range| range.end <= self.next) {
            self.restored.pop_front();
        }
    }

    fn pass(&mut self) {
        while self.window.front().is_some_and(|entry| entry.is_settled()) {
            self.window.pop_front();
        }
    }

    /// Index of a begun offset in the window.
    fn find(&self, offset: i64) -> Result<usize, NotOpen> {
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else {
            return Err(self.unknown(offset));
        };
        let (first, last) = (first.offset(), last.offset());
        if offset < first || offset > last {
            return Err(self.unknown(offset));
        }
        // Each record takes one offset at least. So it stands at most this far from either end, and where
        // offsets are dense, which they mostly are, both bounds are one place.
        let high = ((offset - first) as usize).min(self.window.len() - 1);
        let low = (self.window.len() - 1).saturating_sub((last - offset) as usize);
        if self.window[high].offset() == offset {
            return Ok(high);
        }
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.window[middle].offset() < offset { low = middle + 1 } else { high = middle }
        }
        if self.window[low].offset() == offset { Ok(low) } else { Err(self.unknown(offset)) }
    }

    fn unknown(&self, offset: i64) -> NotOpen {
        if offset >= self.start && offset < self.committable() {
            NotOpen::AlreadySettled(offset)
        } else {
            NotOpen::NeverBegun(offset)
        }
    }
}
