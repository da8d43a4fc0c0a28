//! When which offset of a partition was read, and how old it was then: the age of the record at the frontier, without
//! a word kept per record.
//!
//! A frontier may stand still while a million records settle beyond it, so what is remembered is bounded: at the
//! limit the marks nearest to each other are given up. The answer is therefore too old by at most about a sixteenth of
//! what is spanned, and, where records have their times in order, never too young: an alarm comes early rather than late.

use std::collections::VecDeque;
use std::time::Duration;

/// Marks kept at most.
const CAPACITY: usize = 256;
/// Records closer together than this are one mark; as long as there is place, in time of reading and of record.
const FINEST: Duration = Duration::from_millis(100);

/// A record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: i64,
    /// When, since the process began.
    pub(super) read: Duration,
    /// Its own time, Unix milliseconds.
    pub(super) timestamp: i64,
}

/// The marks of one partition.
#[derive(Debug)]
pub(super) struct Marks {
    kept: VecDeque<Mark>,
    spacing: Duration,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { kept: VecDeque::new(), spacing: FINEST }
    }
}

impl Marks {
    /// A record was read. Offsets grow; one that does not was read before.
    pub(super) fn read(&mut self, mark: Mark) {
        if self.kept.back().is_some_and(|last| mark.offset <= last.offset || near(last, &mark, self.spacing))
        {
            return;
        }
        self.kept.push_back(mark);
        if self.kept.len() >= CAPACITY {
            self.thin();
        }
    }

    /// Gives up marks that have a near one before them. A mark behind a rest is kept: without it the rest would
    /// count as age.
    fn thin(&mut self) {
        while self.kept.len() > CAPACITY / 2 {
            self.spacing *= 2;
            let (spacing, mut last) = (self.spacing, None);
            self.kept.retain(|mark| {
                let given_up = last.as_ref().is_some_and(|last| near(last, mark, spacing));
                if !given_up {
                    last = Some(*mark);
                }
                !given_up
            });
        }
    }

    /// Everything below this offset is settled.
    pub(super) fn passed(&mut self, frontier: i64) {
        while self.kept.get(1).is_some_and(|second| second.offset <= frontier) {
            self.kept.pop_front();
        }
        if self.kept.len() <= 2 {
            self.spacing = FINEST;
        }
    }

    /// The mark for a record that was read: its own, or the nearest before.
    pub(super) fn at(&self, offset: i64) -> Option<Mark> {
        let beyond = self.kept.partition_point(|mark| mark.offset <= offset);
        self.kept.get(beyond.checked_sub(1)?).copied()
    }
}

/// Whether neither time sets them apart.
fn near(one: &Mark, next: &Mark, spacing: Duration) -> bool {
    let apart = Duration::from_millis(one.timestamp.abs_diff(next.timestamp));
    next.read.saturating_sub(one.read) < spacing && apart < spacing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(offset: i64, seconds: u64, timestamp: i64) -> Mark {
        Mark { offset, read: Duration::from_secs(seconds), timestamp }
    }

    #[test]
    fn a_rest_between_two_records_is_no_age() {
        let mut marks = Marks::default();
        assert_eq!(marks.at(5), None);
        marks.read(mark(5, 1, 1_000));
        marks.passed(6);
        marks.read(mark(6, 3601, 3_601_000));
        assert_eq!(marks.at(6), Some(mark(6, 3601, 3_601_000)));
    }

    proptest! {
        /// Against everything that was read, wherever the frontier stands.
        #[test]
        fn stays_near_the_truth_and_on_the_old_side(
            steps in prop::collection::vec((1..3_i64, 0..2_000_u64, 0..5_000_i64), 1..3_000),
            frontiers in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        ) {
            let mut all = vec![mark(0, 0, 0)];
            for (offsets, millis, older) in steps {
                let last = all[all.len() - 1];
                let read = last.read + Duration::from_millis(millis);
                all.push(Mark { offset: last.offset + offsets, read, timestamp: last.timestamp + older });
            }
            let mut moves: Vec<(usize, usize)> =
                frontiers.iter().map(|(when, to)| (when.index(all.len()), to.index(all.len()))).collect();
            moves.sort_unstable();
            let (mut marks, mut frontier) = (Marks::default(), 0);
            for (now, read) in all.iter().enumerate() {
                marks.read(*read);
                for (_, to) in moves.iter().filter(|(when, _)| *when == now) {
                    frontier = frontier.max(*to).min(now);
                    marks.passed(all[frontier].offset);
                }
                prop_assert!(marks.kept.len() < CAPACITY);
            }
            let (truth, newest) = (all[frontier], all[all.len() - 1]);
            let said = marks.at(truth.offset).expect("it was read");
            prop_assert!(said.read <= truth.read && said.timestamp <= truth.timestamp);
            let spanned = newest.read.max(Duration::from_millis(newest.timestamp.unsigned_abs()));
            let allowed = FINEST + spanned / 16;
            prop_assert!(truth.read - said.read <= allowed, "{said:?} {truth:?}");
            prop_assert!(truth.timestamp.abs_diff(said.timestamp) <= allowed.as_millis() as u64);
        }
    }
}
