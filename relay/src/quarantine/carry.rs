//! In which order a decision is carried out: the entry unless it is discarded, then everything that queued up
//! behind it as it was read, until one of them is stuck (R46). How one is published is the caller's.

use std::collections::VecDeque;

use super::desk::{Decided, EntryId, Outcome, Stored, Stuck};

/// What became of an entry that was to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// It is on its way.
    Out,
    /// It can still not be published.
    Stuck(Stuck),
    /// Perhaps nowhere: the session is over.
    Over,
}

/// What a decision asks for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'c> {
    /// Publish this entry, and say what [became](Carry::out) of it.
    Publish(&'c Stored),
    /// The next [page](Carry::page) of this queue, after an entry.
    Behind(&'c (String, Vec<u8>), Option<EntryId>),
    /// Write this down once everything is acknowledged.
    Done(&'c Outcome),
}

/// A decision that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carry {
    outcome: Outcome,
    /// Entries whose turn it is.
    next: VecDeque<Stored>,
    /// The queue has no further page.
    ended: bool,
}

impl Carry {
    /// Begins.
    pub fn new(decided: &Decided) -> Carry {
        let Decided { entry, discard, queue } = decided;
        let outcome =
            Outcome { head: entry.id, discard: *discard, queue: queue.clone(), last: None, stuck: None };
        let next = (!discard).then(|| entry.clone()).into_iter().collect();
        Carry { outcome, next, ended: false }
    }

    /// What is to be done next.
    pub fn step(&self) -> Step<'_> {
        match (&self.outcome.stuck, self.next.front(), &self.outcome.queue) {
            (None, Some(entry), _) => Step::Publish(entry),
            (None, None, Some(queue)) if !self.ended => Step::Behind(queue, self.outcome.last),
            _ => Step::Done(&self.outcome),
        }
    }

    /// The entry is on its way.
    pub fn out(&mut self) {
        let went = self.next.pop_front().map(|entry| entry.id);
        self.outcome.last = went.filter(|id| *id != self.outcome.head).or(self.outcome.last);
    }

    /// It can still not be published.
    pub fn stuck(&mut self, stuck: Stuck) {
        self.outcome.stuck = Some(stuck);
    }

    /// The queue's next page; an empty one is its end.
    pub fn page(&mut self, page: Vec<Stored>) {
        self.ended = page.is_empty();
        self.next = page.into();
    }
}

/// Carries a decision out. `behind` answers the next page of its queue after an entry, empty at the end. The
/// outcome is to be written down once everything is acknowledged; without one the session is over, and the
/// decision is carried out again by the next.
///
/// # Errors
/// Those of `publish`.
pub fn carry_out<E>(
    decided: &Decided,
    mut publish: impl FnMut(&Stored) -> Result<Went, E>,
    mut behind: impl FnMut(&(String, Vec<u8>), Option<EntryId>) -> Option<Vec<Stored>>,
) -> Result<Option<Outcome>, E> {
    let mut carry = Carry::new(decided);
    loop {
        match carry.step() {
            Step::Publish(entry) => match publish(entry)? {
                Went::Out => carry.out(),
                Went::Stuck(stuck) => carry.stuck(stuck),
                Went::Over => return Ok(None),
            },
            Step::Behind(queue, after) => match behind(queue, after) {
                Some(page) => carry.page(page),
                None => return Ok(None),
            },
            Step::Done(outcome) => return Ok(Some(outcome.clone())),
        }
    }
}
