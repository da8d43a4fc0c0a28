//! PostgreSQL's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// From 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800 * 1_000_000;

/// A time as PostgreSQL sends it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// This machine's clock.
    pub fn now() -> PgTime {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        PgTime(i64::try_from(unix).unwrap_or(i64::MAX).saturating_sub(EPOCH_MICROS))
    }

    /// Microseconds since 1970-01-01 UTC; a time beyond what fits is the last that does.
    pub fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_MICROS)
    }

    /// Milliseconds since 1970-01-01 UTC, rounded towards the past.
    pub fn to_unix_millis(self) -> i64 {
        self.to_unix_micros().div_euclid(1000)
    }

    /// Microseconds from `earlier` to this; negative if it is the other way round.
    pub fn micros_since(self, earlier: PgTime) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_year_2000() {
        assert_eq!(PgTime(0).to_unix_millis(), 946_684_800_000);
        assert_eq!(PgTime(-EPOCH_MICROS).to_unix_millis(), 0);
        assert_eq!(PgTime(-EPOCH_MICROS - 1).to_unix_millis(), -1);
        assert_eq!(PgTime(1_500).micros_since(PgTime(2_000)), -500);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(PgTime(i64::MAX).to_unix_micros(), i64::MAX);
        assert!(PgTime(i64::MIN).to_unix_millis() < 0);
        assert_eq!(PgTime(i64::MIN).micros_since(PgTime(i64::MAX)), i64::MIN);
    }

    #[test]
    fn now_is_later_than_when_this_was_written() {
        assert!(PgTime::now().to_unix_millis() > 1_750_000_000_000);
    }
}
