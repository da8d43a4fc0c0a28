//! Buckets of `outbox.events`: eight of them, each written into on one UTC day of eight. The relay says which may be
//! looked at and what is published; `outbox.clean_bucket()` looks for itself, and empties.

use std::time::Duration;

use tokio_postgres::types::PgLsn;

use super::link::{CleanupError, Link};
use crate::observe::Kept;
use crate::state::PublishedSnapshot;

const BUCKETS: u64 = 8;
const DAY: u64 = 86_400;
/// A bucket that is about to be tomorrow's is left alone when midnight is as near as this: services would wait for the
/// look to end. The database has the same rule.
const MIDNIGHT: u64 = 600;

/// Seconds since 1970 by the server's clock, which is the clock that puts rows into buckets.
pub(super) async fn clock(link: &Link) -> Result<u64, CleanupError> {
    let sql = "SELECT floor(date_part('epoch', clock_timestamp()))::int8";
    let seconds: i64 = link.one("the server's clock", sql, &[]).await?.get(0);
    Ok(seconds.unsigned_abs())
}

/// The buckets whose youngest row is older than `keep` at this time, the oldest first.
pub(super) fn due(now: u64, keep: Duration) -> Vec<i32> {
    let (today, of_day) = (now / DAY, now % DAY);
    let is_due = |age: &u64| {
        // The youngest row was written just before the end of the bucket's day.
        let youngest = (age - 1) * DAY + of_day;
        let is_nearly_tomorrows = *age == BUCKETS - 1 && of_day >= DAY - MIDNIGHT;
        youngest >= keep.as_secs() && !is_nearly_tomorrows
    };
    let bucket = |age: u64| (today + BUCKETS - age) % BUCKETS;
    (1..BUCKETS).rev().filter(is_due).map(|age| bucket(age) as i32).collect()
}

/// What came of one bucket: how many rows there were, or why it stays.
pub(super) type Emptied = Result<u64, (Kept, String)>;

/// Empties a bucket, if the database agrees.
pub(super) async fn clean(
    link: &Link,
    bucket: i32,
    published: &PublishedSnapshot,
    keep: Duration,
) -> Result<Emptied, CleanupError> {
    let sql = "SELECT cleaned, kept_by, detail
                 FROM outbox.clean_bucket($1::int4, $2::text::pg_snapshot, $3::pg_lsn, make_interval(secs => $4::float8))";
    let (lsn, seconds) = (PgLsn::from(published.lsn.0), keep.as_secs_f64());
    let row = link.one("emptying a bucket", sql, &[&bucket, &published.snapshot, &lsn, &seconds]).await?;
    let (rows, kept_by, detail): (i64, Option<String>, Option<String>) = (row.get(0), row.get(1), row.get(2));
    Ok(match kept_by {
        None => Ok(rows.unsigned_abs()),
        Some(word) => Err((Kept::from_name(&word).unwrap_or(Kept::Failed), detail.unwrap_or(word))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;

    fn on(day: u64, of_day: u64, keep_hours: u64) -> Vec<i32> {
        due(day * DAY + of_day, Duration::from_secs(keep_hours * HOUR))
    }

    #[test]
    fn today_and_yesterday_stay_by_default() {
        // Day 20,003 is bucket 3, so 2 is yesterday's and 4 will be tomorrow's.
        assert_eq!(on(20_003, 12 * HOUR, 24), [4, 5, 6, 7, 0, 1]);
        assert_eq!(on(20_003, 0, 24), [4, 5, 6, 7, 0, 1]);
    }

    #[test]
    fn a_bucket_is_due_when_its_youngest_row_is() {
        assert_eq!(on(20_003, 6 * HOUR, 6), [4, 5, 6, 7, 0, 1, 2]);
        assert_eq!(on(20_003, 6 * HOUR - 1, 6), [4, 5, 6, 7, 0, 1]);
        assert_eq!(on(20_003, 0, 144), [4], "six days are the most: the last chance before it comes round");
        assert_eq!(on(20_003, 0, 145), [0; 0]);
    }

    #[test]
    fn tomorrows_bucket_is_left_alone_before_midnight() {
        assert_eq!(on(20_003, DAY - MIDNIGHT - 1, 24)[0], 4);
        assert_eq!(on(20_003, DAY - MIDNIGHT, 24)[0], 5);
        assert_eq!(on(20_003, DAY - 1, 24), [5, 6, 7, 0, 1]);
    }

    #[test]
    fn the_week_comes_round() {
        assert_eq!(on(20_000, 12 * HOUR, 24), [1, 2, 3, 4, 5, 6]);
        assert_eq!(on(20_007, 12 * HOUR, 24), [0, 1, 2, 3, 4, 5]);
    }

    proptest! {
        /// Against days counted one by one.
        #[test]
        fn no_row_that_is_too_young_is_in_a_due_bucket(
            now in 100 * DAY..40_000 * DAY,
            keep in 1..=144 * HOUR,
            age in 0..8 * DAY,
        ) {
            let written = now - age;
            let bucket = (written / DAY % BUCKETS) as i32;
            let is_due = due(now, Duration::from_secs(keep)).contains(&bucket);
            prop_assert!(!is_due || age >= keep, "written {} s ago", age);
            prop_assert!(!is_due || bucket != (now / DAY % BUCKETS) as i32, "today's is never due");
        }
    }
}
