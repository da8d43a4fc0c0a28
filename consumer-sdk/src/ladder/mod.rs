//! What follows a failed attempt: another one here, a rung of the ladder, or the end.
//!
//! ```
//! use outbox_consumer::ladder::{Exhausted, hours, in_place, minutes};
//!
//! let ladder = in_place(3)
//!     .then([minutes(1), minutes(10), hours(1)])
//!     .deadline(hours(4))
//!     .when_exhausted(Exhausted::Skip);
//! assert!(ladder.check().is_ok());
//! assert_eq!(in_place(3).exhausted(), Exhausted::Hold);
//! ```
//!
//! The policy is the same whoever carries it out: the park table, where order is kept, or retry topics.
//! It knows no clock and no chance: both are handed in.
//!
//! - A delay is never shorter than its name says: jitter only adds to it.
//! - An error that is sure to come again is not tried again.
//! - A serialization failure, a deadlock or a lost connection of the handler's own transaction is nobody's fault: it
//!   counts no attempt and brings nobody to the dead letters, but its rate is bounded (C44). The same error of a
//!   connection that the handler made itself is its failure.

mod budget;

#[cfg(test)]
mod tests;

use std::time::Duration;

use rand::{Rng, RngExt};

pub use budget::{Admission, Admit, Budget, Flow, Limits};

/// Share of a delay that jitter adds at most: a fifth spreads a burst of failures without hiding the
/// delay that was asked for.
const JITTER: f64 = 0.2;
/// The bounds of the delay after an uncounted error.
const UNCOUNTED: Backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_secs(1) };
/// Rungs that a ladder may have: each may be a topic.
const MOST_RUNGS: usize = 20;

/// So many seconds.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// So many minutes.
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(60))
}

/// So many hours.
pub const fn hours(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(3_600))
}

/// A ladder that makes so many attempts in place, the first included (so 0 counts as 1), 100 ms apart,
/// then twice as much each time up to 10 s. What is exhausted then is held, with its key, unless
/// [`when_exhausted`](Ladder::when_exhausted) says otherwise.
pub fn in_place(attempts: u32) -> Ladder {
    Ladder {
        in_place: attempts.max(1),
        backoff: Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) },
        rungs: Vec::new(),
        deadline: None,
        exhausted: Exhausted::default(),
    }
}

/// What becomes of an event that has no attempt left, and of its key or its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exhausted {
    /// It becomes a dead letter, and later events of the key go on without it: their order has a gap.
    Skip,
    /// It waits until somebody decides, and later events of the key wait behind it. Nobody else waits. The only one that
    /// keeps the order of the key without anybody's word, and so the one that is taken where none is chosen.
    #[default]
    Hold,
    /// Nothing more of its partition is read. It is tried again every minute, and when it goes well its partition goes on.
    ///
    /// Not behind rungs, where a handler's events are parked: a parked event has left its partition, which goes on, and a
    /// consumer that asks for both does not start. An event that somebody replays is in the park, too: when it fails there
    /// it is held.
    Halt,
}

/// The retry policy of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    in_place: u32,
    backoff: Backoff,
    rungs: Vec<Duration>,
    deadline: Option<Duration>,
    exhausted: Exhausted,
}

/// Delays that double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// The delay after the given failure, the first being 1.
    fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

/// A ladder that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// A rung without delay is another attempt in place, in the dress of one that gives time to heal.
    #[error("rung {0} of the retry ladder has no delay; raise in_place instead")]
    NoDelay(usize),
    /// Rungs have to become longer, or a record would be tried more often the longer it fails.
    #[error("rung {0} of the retry ladder is shorter than the one before it")]
    Shorter(usize),
    /// Too many rungs.
    #[error("the retry ladder has {0} rungs; at most {MOST_RUNGS} are supported")]
    TooMany(usize),
    /// A deadline that no rung fits would end every ladder after its attempts in place.
    #[error("the retry ladder's deadline is shorter than its first rung")]
    Deadline,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It may go well next time. The handler may ask for a delay; it lengthens the policy's, never
    /// shortens it.
    Transient {
        /// The delay asked for, or zero.
        after: Duration,
    },
    /// It is sure to fail again.
    Permanent,
    /// Nobody's fault: a serialization failure or deadlock (40001, 40P01) of the handler's transaction, or the loss of its
    /// connection.
    Uncounted,
}

/// What is known of the attempts so far, the one that just failed included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Failed attempts that count.
    pub attempts: u32,
    /// Uncounted failures in a row.
    pub uncounted: u32,
    /// When the first attempt failed, on the clock of `now`.
    pub first_failure: Duration,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Another attempt in place, after this delay; the key is held meanwhile.
    RetryIn(Duration),
    /// The record leaves for a rung, the first being 0, and is due at this time.
    Park {
        /// Number of the rung.
        rung: usize,
        /// On the clock of `now`.
        due: Duration,
    },
    /// It becomes a dead letter.
    Exhausted(Exhausted),
}

impl Ladder {
    /// The delays of the rungs that follow the attempts in place; one attempt at the end of each.
    #[must_use]
    pub fn then(mut self, rungs: impl IntoIterator<Item = Duration>) -> Ladder {
        self.rungs = rungs.into_iter().collect();
        self
    }

    /// First and longest delay between attempts in place.
    #[must_use]
    pub fn backoff(mut self, first: Duration, most: Duration) -> Ladder {
        self.backoff = Backoff { first, most: most.max(first) };
        self
    }

    /// No attempt begins later than this after the first failure.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Ladder {
        self.deadline = Some(deadline);
        self
    }

    /// What becomes of an event after the last attempt: [`Exhausted::Hold`] unless it is said here.
    #[must_use]
    pub fn when_exhausted(mut self, exhausted: Exhausted) -> Ladder {
        self.exhausted = exhausted;
        self
    }

    /// What happens after the last attempt.
    pub fn exhausted(&self) -> Exhausted {
        self.exhausted
    }

    /// Delays of the rungs.
    pub fn rungs(&self) -> &[Duration] {
        &self.rungs
    }

    /// Whether the ladder can be used.
    ///
    /// # Errors
    /// [`LadderError`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), LadderError> {
        if self.rungs.len() > MOST_RUNGS {
            return Err(LadderError::TooMany(self.rungs.len()));
        }
        if let Some(rung) = self.rungs.iter().position(Duration::is_zero) {
            return Err(LadderError::NoDelay(rung));
        }
        if let Some(pair) = self.rungs.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(LadderError::Shorter(pair + 1));
        }
        let first = self.rungs.first();
        if self.deadline.is_some_and(|deadline| first.is_some_and(|first| deadline < *first)) {
            return Err(LadderError::Deadline);
        }
        Ok(())
    }

    /// The longest time from the first failure to the last attempt, if each attempt takes no time and no
    /// handler asks for more: the part of the ladder in how long dedup rows have to be kept (C3).
    pub fn longest(&self) -> Duration {
        let in_place = (1..self.in_place).map(|failures| self.backoff.after(failures));
        let all = in_place
            .chain(self.rungs.iter().copied())
            .fold(Duration::ZERO, |sum, delay| sum.saturating_add(delay).saturating_add(jitter(delay, 1.0)));
        self.deadline.map_or(all, |deadline| deadline.min(all))
    }

    /// What follows the attempt that failed at `now`.
    pub fn step(&self, history: History, now: Duration, failure: Failure, rng: &mut impl Rng) -> Step {
        let after = match failure {
            Failure::Permanent => return Step::Exhausted(self.exhausted),
            Failure::Uncounted => return Step::RetryIn(spread(UNCOUNTED.after(history.uncounted), rng)),
            Failure::Transient { after } => after,
        };
        let attempts = history.attempts.max(1);
        let (rung, delay) = match attempts.checked_sub(self.in_place) {
            None => (None, self.backoff.after(attempts)),
            Some(rung) => match self.rungs.get(rung as usize) {
                Some(delay) => (Some(rung as usize), *delay),
                None => return Step::Exhausted(self.exhausted),
            },
        };
        let delay = spread(delay.max(after), rng);
        let due = now.saturating_add(delay);
        // The clock may have been set back between the first failure and now: no time has passed then.
        if self.deadline.is_some_and(|deadline| due.saturating_sub(history.first_failure) > deadline) {
            return Step::Exhausted(self.exhausted);
        }
        match rung {
            None => Step::RetryIn(delay),
            Some(rung) => Step::Park { rung, due },
        }
    }
}

fn spread(delay: Duration, rng: &mut impl Rng) -> Duration {
    delay.saturating_add(jitter(delay, rng.random()))
}

fn jitter(delay: Duration, part: f64) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * JITTER * part).unwrap_or(Duration::ZERO)
}
