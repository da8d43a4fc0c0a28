//! The checker: what was committed against what was published.
//!
//! | module | what it owns |
//! |---|---|
//! | [`mod@judge`] | the judgement itself, pure: rows and records in, verdict out |
//! | [`verdict`] | what came of it, and how it is printed |
//! | [`rows`] | the committed rows, read from PostgreSQL |
//! | [`log`] | the records, read from Kafka |
//!
//! The order of commits per key is read from the data: events that [`crate::workload`] makes carry a counter
//! per key that was advanced under the key's lock in the same transaction.

pub mod judge;
pub mod log;
pub mod rows;
pub mod verdict;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use outbox_schema::record::DEFAULT_TOPIC_PREFIX;

pub use judge::{Committed, Published, judge};
pub use log::Log;
pub use verdict::Verdict;

/// Time between two looks at the log.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reads the committed rows of `outbox.events`, follows the log until all of them are on it or `limit` has passed, and judges.
/// The log is read once more after that, so that a repetition or a phantom that is close behind is seen. Reading Kafka
/// blocks the calling thread.
///
/// # Panics
/// When PostgreSQL or Kafka does not answer.
pub async fn settled_verdict(database: &tokio_postgres::Client, log: &mut Log, limit: Duration) -> Verdict {
    settled_verdict_of("outbox.events", database, log, limit).await
}

/// The same of another table with its columns, whose topics are the log's.
///
/// # Panics
/// When PostgreSQL or Kafka does not answer.
pub async fn settled_verdict_of(
    table: &str,
    database: &tokio_postgres::Client,
    log: &mut Log,
    limit: Duration,
) -> Verdict {
    let committed = rows::read_from(table, database, DEFAULT_TOPIC_PREFIX).await;
    let deadline = Instant::now() + limit;
    let mut missing: HashSet<&str> = committed.iter().map(|row| row.id.as_str()).collect();
    let mut seen = 0;
    loop {
        log.catch_up();
        for record in &log.records()[seen..] {
            if let Some(id) = record.id() {
                missing.remove(id);
            }
        }
        seen = log.records().len();
        if missing.is_empty() || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    log.catch_up();
    judge(&committed, log.records())
}
