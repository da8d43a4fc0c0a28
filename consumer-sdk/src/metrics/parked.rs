//! What stands in the park table. The table is shared by all instances of a consumer, so each shows the same.

use std::time::Duration;

use tokio_postgres::Client;

/// How often it is asked for, at most.
pub(crate) const EVERY: Duration = Duration::from_secs(15);
/// What was asked for longer ago is shown no more: the database is away, and an old number would look like a fact.
pub(super) const STALE: Duration = Duration::from_secs(60);

/// How long the park counts as full behind an event that it had no room for, which asks again sooner than that.
pub(super) const FULL: Duration = Duration::from_secs(30);

/// Keys of a consumer that are parked, and the events behind them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ParkedLook {
    /// Keys that wait for their next attempt, by rung, from rung 0.
    pub(crate) waiting: Vec<u64>,
    /// Keys that wait for somebody.
    pub(crate) held: u64,
    /// Events of all these keys.
    pub(crate) events: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Since the first failure of the oldest; zero where nothing is parked.
    pub(crate) oldest: Duration,
}

/// Asks the park table. One row per key and a bounded number of keys: a look at a few thousand rows at most.
///
/// # Errors
/// The database's.
pub(crate) async fn look(client: &Client, scope: &str) -> Result<ParkedLook, tokio_postgres::Error> {
    let statement =
        "SELECT CASE WHEN state = 'waiting' THEN rung END, count(*), coalesce(sum(waiting), 0)::bigint,
                            coalesce(sum(bytes), 0)::bigint,
                            extract(epoch FROM clock_timestamp() - min(first_failed_at))::float8
                       FROM inbox.parked_key WHERE scope = $1 GROUP BY 1";
    let mut look = ParkedLook::default();
    for row in client.query(statement, &[&scope]).await? {
        let [keys, events, bytes] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?]
            .map(|count: i64| u64::try_from(count).unwrap_or(0));
        let rung: Option<i32> = row.try_get(0)?;
        match rung.map(|rung| usize::try_from(rung).unwrap_or(0).min(super::counts::RUNGS - 1)) {
            Some(rung) => {
                look.waiting.resize(look.waiting.len().max(rung + 1), 0);
                look.waiting[rung] += keys;
            }
            None => look.held += keys,
        }
        look.events += events;
        look.bytes += bytes;
        let oldest: f64 = row.try_get(4)?;
        look.oldest = look.oldest.max(Duration::try_from_secs_f64(oldest.max(0.0)).unwrap_or_default());
    }
    Ok(look)
}
