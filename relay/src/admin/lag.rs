//! How many seconds the recorded position is behind.
//!
//! The age of the newest published commit is no measure of it: where the database is busy and the
//! outbox is idle that commit may be hours old and nothing is late. Instead it is remembered when the
//! server's log was seen to pass which position; the lag is the time since it passed the recorded one.
//! This needs no clock but our own.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lsn::Lsn;

/// Marks kept at most; at the limit every second one is given up and the spacing doubles, so that an
/// outage of any length is covered with an error of at most 1/128 of it.
const CAPACITY: usize = 256;
const FINEST: Duration = Duration::from_secs(1);

/// When the server's log was seen where. Only moments the recorded position has not passed are kept,
/// and the last one before.
#[derive(Debug)]
pub struct WalClock {
    marks: VecDeque<(Duration, Lsn)>,
    spacing: Duration,
}

impl Default for WalClock {
    fn default() -> Self {
        WalClock { marks: VecDeque::new(), spacing: FINEST }
    }
}

impl WalClock {
    /// Takes what is seen at `at`, measured from the start of the process. Positions that are `0/0` are
    /// not known yet.
    pub fn observe(&mut self, at: Duration, server_wal: Lsn, recorded: Lsn) {
        if server_wal.is_zero() {
            return;
        }
        if self.marks.back().is_some_and(|&(_, newest)| server_wal < newest) {
            // The log went back: another server or another timeline; the old marks say nothing about it.
            self.marks.clear();
        }
        while self.marks.get(1).is_some_and(|&(_, second)| second <= recorded) {
            self.marks.pop_front();
        }
        if self.marks.len() <= 2 {
            self.spacing = FINEST;
        }
        let due = self
            .marks
            .back()
            .is_none_or(|&(marked, newest)| server_wal > newest && at.saturating_sub(marked) >= self.spacing);
        if due {
            self.marks.push_back((at, server_wal));
        }
        if self.marks.len() >= CAPACITY {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.spacing *= 2;
        }
    }

    /// How long ago the server's log passed `recorded`, as of `at`.
    pub fn behind(&self, at: Duration, server_wal: Lsn, recorded: Lsn) -> Behind {
        if server_wal.is_zero() || recorded.is_zero() {
            return Behind::Unknown;
        }
        if recorded >= server_wal {
            return Behind::Exactly(Duration::ZERO);
        }
        let passed = self.marks.partition_point(|&(_, lsn)| lsn <= recorded);
        match (passed, self.marks.get(passed)) {
            (0, Some(&(first, _))) => Behind::AtLeast(at.saturating_sub(first)),
            (_, Some(&(beyond, _))) => Behind::Exactly(at.saturating_sub(beyond)),
            // The log moved since the last mark, which is younger than the spacing.
            (_, None) => Behind::Exactly(Duration::ZERO),
        }
    }
}

/// How far behind in time the recorded position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// The log was seen passing the position this long ago; zero when there is nothing behind.
    Exactly(Duration),
    /// The log was beyond the position when it was first seen, this long ago.
    AtLeast(Duration),
    /// One of the positions is not known yet.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_idle_hour_is_no_lag() {
        let mut clock = WalClock::default();
        for second in 0..3600 {
            clock.observe(at(second), Lsn(100), Lsn(100));
        }
        assert_eq!(clock.behind(at(3600), Lsn(100), Lsn(100)), Behind::Exactly(at(0)));
        for second in 3600..=3607 {
            clock.observe(at(second), Lsn(200 + second), Lsn(100));
        }
        assert_eq!(clock.behind(at(3607), Lsn(3807), Lsn(100)), Behind::Exactly(at(7)));
    }

    #[test]
    fn what_was_behind_from_the_start_has_a_lower_bound() {
        let mut clock = WalClock::default();
        assert_eq!(clock.behind(at(0), Lsn(0), Lsn(5)), Behind::Unknown);
        clock.observe(at(3), Lsn(100), Lsn(5));
        clock.observe(at(9), Lsn(100), Lsn(5));
        assert_eq!(clock.behind(at(9), Lsn(100), Lsn(5)), Behind::AtLeast(at(6)));
        assert_eq!(clock.behind(at(9), Lsn(100), Lsn(0)), Behind::Unknown);
    }

    #[test]
    fn a_log_that_went_back_starts_anew() {
        let mut clock = WalClock::default();
        clock.observe(at(1), Lsn(1000), Lsn(900));
        clock.observe(at(60), Lsn(500), Lsn(400));
        assert_eq!(clock.behind(at(61), Lsn(500), Lsn(400)), Behind::AtLeast(at(1)));
    }

    proptest! {
        /// Against the full history: never later than the truth by more than one spacing, however long
        /// the recorded position stood still.
        #[test]
        fn stays_near_the_truth(stand in 1u64..20_000, step in 1u64..9) {
            let mut clock = WalClock::default();
            let recorded = Lsn(10);
            clock.observe(at(0), recorded, recorded);
            for second in 1..=stand {
                clock.observe(at(second), Lsn(10 + second * step), recorded);
                prop_assert!(clock.marks.len() <= CAPACITY);
            }
            let truth = stand - 1;
            let Behind::Exactly(lag) = clock.behind(at(stand), Lsn(10 + stand * step), recorded) else {
                return Err(TestCaseError::fail("the passing was seen"));
            };
            prop_assert!(lag.as_secs() <= truth && truth - lag.as_secs() <= 1 + stand / 128,
                "lag {lag:?} truth {truth}");
        }
    }
}
