//! Whether the server is ahead, and how long to nap then.

use std::time::{Duration, Instant};

use crate::pgoutput::PgTime;

/// A transaction that is sent this long after its commit, in microseconds, was waiting in the server's
/// log: the reader is behind.
const BEHIND_MICROS: i64 = 25_000;

/// Time from one waking to the next while behind.
const CYCLE: Duration = Duration::from_millis(5);

/// The server sends a message per row and wakes an eager reader for each, which costs both sides more than
/// decoding does. A reader that naps while it is behind lets the server fill its write queue and send in
/// large segments; together with the small receive buffer this about doubles the throughput. A reader that
/// is not behind never naps, so latency pays nothing.
#[derive(Debug, Default)]
pub(super) struct Pace {
    committed: Option<PgTime>,
    lag_micros: i64,
}

impl Pace {
    /// A transaction's commit time was seen, in its Begin or Commit.
    pub(super) fn committed(&mut self, time: PgTime) {
        self.committed = Some(time);
    }

    /// A message was sent at this time. Both times are the server's, so its clock may be anything.
    pub(super) fn sent(&mut self, time: PgTime) {
        self.lag_micros = self.committed.map_or(0, |committed| time.micros_since(committed));
    }

    /// Whether the reader is behind the server.
    pub(super) fn is_behind(&self) -> bool {
        self.lag_micros > BEHIND_MICROS
    }

    /// Time from the newest commit to the message that was sent last, in microseconds of the server's clock.
    pub(super) fn lag_micros(&self) -> i64 {
        self.lag_micros
    }

    /// What is left of the cycle that began at `woke`.
    pub(super) fn nap(&self, woke: Instant, now: Instant) -> Duration {
        if !self.is_behind() {
            return Duration::ZERO;
        }
        CYCLE.saturating_sub(now.duration_since(woke))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_only_while_behind() {
        let woke = Instant::now();
        let mut pace = Pace::default();
        pace.sent(PgTime(1_000_000));
        assert_eq!(pace.nap(woke, woke), Duration::ZERO, "nothing is known yet");
        pace.committed(PgTime(1_000_000));
        pace.sent(PgTime(1_000_000 + BEHIND_MICROS));
        assert_eq!(pace.nap(woke, woke), Duration::ZERO);
        pace.sent(PgTime(1_000_001 + BEHIND_MICROS));
        assert_eq!(pace.nap(woke, woke), CYCLE);
        assert_eq!(pace.nap(woke, woke + CYCLE * 2 / 5), CYCLE * 3 / 5);
        assert_eq!(pace.nap(woke, woke + CYCLE), Duration::ZERO);
        assert_eq!(pace.nap(woke, woke + 2 * CYCLE), Duration::ZERO);
        pace.committed(PgTime(9_000_000));
        pace.sent(PgTime(9_000_100));
        assert_eq!(pace.nap(woke, woke), Duration::ZERO, "caught up");
    }
}
