//! Our clock against PostgreSQL's: records carry the time of the commit, and topics delete by time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::finding::{Area, Finding};
use crate::session::{Sql, SqlError};

/// Rounds; the quickest tells most.
const ROUNDS: usize = 3;
const WARN: f64 = 1.0;
const WRONG: f64 = 60.0;

/// How far the server's clock is ahead of ours, in seconds, and by how much that may be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Positive where the server is ahead.
    pub seconds: f64,
    /// Half of the round trip.
    pub uncertainty: f64,
}

/// Asks the server for its time, and halves the round trip.
pub async fn look(sql: &Sql) -> Result<Difference, SqlError> {
    let mut best: Option<Difference> = None;
    for _ in 0..ROUNDS {
        let (ours, began) = (SystemTime::now(), Instant::now());
        let query = "SELECT extract(epoch FROM clock_timestamp())::float8";
        let row = sql.one("asking for the server's time", query, &[]).await?;
        let found = difference(ours, began.elapsed(), row.get(0));
        if best.is_none_or(|best| found.uncertainty < best.uncertainty) {
            best = Some(found);
        }
    }
    best.ok_or(SqlError::Silent { question: "asking for the server's time".into() })
}

fn difference(asked: SystemTime, round_trip: Duration, theirs: f64) -> Difference {
    let uncertainty = round_trip.as_secs_f64() / 2.0;
    let ours = asked.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()) + uncertainty;
    Difference { seconds: theirs - ours, uncertainty }
}

/// What there is to say about it. Only what the round trip cannot explain counts.
pub fn judge(found: Difference) -> Finding {
    const SUBJECT: &str = "PostgreSQL and this machine";
    let apart = found.seconds.abs();
    let sure = apart - found.uncertainty;
    let side = if found.seconds > 0.0 { "ahead of" } else { "behind" };
    let seen = format!("PostgreSQL's clock is {apart:.3} s {side} this machine's");
    let trouble = match sure {
        ..=WARN => return Finding::ok(Area::Clock, "clock", SUBJECT, seen),
        ..=WRONG => Finding::warning(
            Area::Clock,
            "clock-skew",
            SUBJECT,
            format!("{seen}: ages and lags in seconds are wrong by as much"),
        ),
        _ => Finding::error(
            Area::Clock,
            "clock-skew",
            SUBJECT,
            format!("{seen}: records carry PostgreSQL's time, and a broker may delete or refuse them by it"),
        ),
    };
    trouble.mend("synchronise both machines by NTP", "chronyc tracking   # or: timedatectl timesync-status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::finding::Severity;

    #[test]
    fn the_round_trip_is_halved_and_explains_what_it_can() {
        let asked = UNIX_EPOCH + Duration::from_secs(1000);
        let found = difference(asked, Duration::from_secs(4), 1003.0);
        assert_eq!((found.seconds, found.uncertainty), (1.0, 2.0));
        let judged = |seconds, uncertainty| judge(Difference { seconds, uncertainty }).severity;
        assert_eq!(judged(-0.9, 0.01), Severity::Ok);
        assert_eq!(judged(5.0, 4.5), Severity::Ok);
        assert_eq!(judged(-5.0, 0.01), Severity::Warning);
        assert_eq!(judged(61.0, 0.01), Severity::Error);
        assert!(judge(Difference { seconds: -5.0, uncertainty: 0.0 }).seen.contains("5.000 s behind"));
    }
}
