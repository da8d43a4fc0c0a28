//! A parked key in the database: locked, its events claimed, put off, taken off. What a turn does with it is
//! [`super::turn`].

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::company::alone;
use super::turn::{Turn, deaths};
use crate::database::{Database, Lease};
use crate::packed::{Header, Packed};
use crate::record::{Body, Record, Tries};
use crate::runtime::inbox::{self, Committed, InboxError, Name};

pub(super) const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 30000";

/// The pause before its lock is asked for again, which whoever looks for keys has for a moment; and how often.
const LOCK_AGAIN: Duration = Duration::from_millis(20);
const LOCK_TRIES: usize = 50;

/// A parked key that a transaction has locked.
pub(super) struct Key {
    pub(super) topic: String,
    pub(super) key: Vec<u8>,
    /// Attempts so far, with the one that is under way.
    pub(super) attempts: u32,
    /// How long ago its first event failed first.
    pub(super) failing_for: Duration,
}

#[cfg(test)]
impl Key {
    /// One that was never tried.
    pub(super) fn named(topic: &str, key: &[u8]) -> Key {
        Key { topic: topic.to_owned(), key: key.to_owned(), attempts: 0, failing_for: Duration::ZERO }
    }
}

/// A key that is due, and the transaction that has locked it.
pub(super) struct Taken {
    pub(super) key: Key,
    pub(super) lease: Lease,
    pub(super) last_error: String,
}

impl Taken {
    /// Whether an attempt of its first event ended with its process, or a company of its events did.
    pub(super) fn is_suspect(&self) -> bool {
        deaths(&self.last_error) > 0 || alone(&self.last_error) > 0
    }
}

/// Locks a key that is due and that nobody else has.
pub(super) async fn take(database: &Database, scope: &str) -> Result<Option<Taken>, InboxError> {
    let taken = "SELECT topic, key, attempts, extract(epoch FROM clock_timestamp() - first_failed_at)::float8, last_error
                   FROM inbox.take_parked_key($1)";
    let lease = database.lease().await?;
    lease.batch_execute(BEGIN).await?;
    let taken = lease.prepared(taken).await?;
    let Some(row) = lease.query_opt(&taken, &[&scope]).await? else {
        inbox::roll_back(lease).await;
        return Ok(None);
    };
    let attempts: i32 = row.try_get(2)?;
    let seconds: f64 = row.try_get(3)?;
    let key = Key {
        topic: row.try_get(0)?,
        key: row.try_get(1)?,
        attempts: u32::try_from(attempts).unwrap_or(0),
        failing_for: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default(),
    };
    Ok(Some(Taken { key, lease, last_error: row.try_get(4)? }))
}

/// The first event of a parked key.
pub(super) struct First {
    pub(super) record: Record,
    pub(super) name: Name,
    pub(super) seq: i64,
    pub(super) replay: u32,
    /// Of a claim for a handler that runs outside of the transaction.
    pub(super) token: Option<Uuid>,
}

impl First {
    /// The id by which the event is known to its handler.
    pub(super) fn event_id(&self) -> Uuid {
        let said = self.record.header(outbox_schema::record::header::ID);
        said.and_then(|text| Uuid::parse_str(text).ok()).unwrap_or(self.name.id)
    }
}

/// How a key waits.
#[derive(Default)]
pub(super) struct Delay<'d> {
    pub(super) due: Duration,
    /// `None` leaves it on its rung.
    pub(super) rung: Option<usize>,
    /// It waits for somebody.
    pub(super) held: bool,
    /// An attempt is counted.
    pub(super) counts: i32,
    pub(super) said: &'d str,
}

impl Turn<'_> {
    /// Claims the first event of the key; with a lease for a handler outside of the transaction.
    pub(super) async fn resume(
        &self,
        lease: &Lease,
        lease_for: Option<Duration>,
    ) -> Result<Option<(String, First)>, InboxError> {
        Ok(self.resume_some(lease, lease_for, 1).await?.into_iter().next())
    }

    /// The same of so many events at most, in order.
    pub(super) async fn resume_some(
        &self,
        lease: &Lease,
        lease_for: Option<Duration>,
        most: usize,
    ) -> Result<Vec<(String, First)>, InboxError> {
        let first = "SELECT verdict, seq, id, partition, record_offset, record_time, record_key, record_value, headers::text,
                            replay, token, nullif(event_time, '-infinity')
                       FROM inbox.resume($1, $2, $3, $4, make_interval(secs => $5))";
        let first = lease.prepared(first).await?;
        let (seconds, key) = (lease_for.map(|lease| lease.as_secs_f64()), &self.key);
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let rows = lease.query(&first, &[&self.scope, &key.topic, &key.key, &most, &seconds]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, read(row, key, &self.shared.registered.name)?))).collect()
    }

    /// The same in the transaction of the attempt. Whoever looks for keys may just have this one's lock.
    pub(super) async fn resume_again(
        &self,
        lease: &Lease,
        lease_for: Option<Duration>,
    ) -> Result<Option<(String, First)>, InboxError> {
        lease.batch_execute("SET LOCAL statement_timeout = 30000").await?;
        for _ in 0..LOCK_TRIES {
            match self.resume(lease, lease_for).await {
                Err(InboxError::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    lease.batch_execute("ROLLBACK AND CHAIN; SET LOCAL statement_timeout = 30000").await?;
                    tokio::time::sleep(LOCK_AGAIN).await;
                }
                answer => return answer,
            }
        }
        Ok(None)
    }

    /// The key waits for its next attempt, or for somebody; not committed yet.
    pub(super) async fn put_off(&self, lease: &Lease, delay: &Delay<'_>) -> Result<(), InboxError> {
        let statement =
            "SELECT inbox.delay($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7, $8)";
        let rung = delay.rung.map(|rung| i32::try_from(rung).unwrap_or(i32::MAX));
        let (due, held) = (delay.due.as_secs_f64(), delay.held.then_some("hold"));
        let (key, said, counts) = (&self.key, delay.said, delay.counts + self.to_count);
        let statement = lease.prepared(statement).await?;
        lease
            .execute(&statement, &[&self.scope, &key.topic, &key.key, &due, &said, &rung, &held, &counts])
            .await?;
        Ok(())
    }

    /// Whether nobody holds the key by now.
    pub(super) async fn goes_on(&self, lease: &Lease) -> Result<bool, InboxError> {
        let waits =
            "SELECT state = 'waiting' FROM inbox.parked_key WHERE scope = $1 AND topic = $2 AND key = $3";
        let waits = lease.prepared(waits).await?;
        let row = lease.query_opt(&waits, &[&self.scope, &self.key.topic, &self.key.key]).await?;
        row.map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }

    /// Takes settled events off the key; answers how many are left.
    pub(super) async fn take_off(&self, lease: &Lease, seqs: &[i64]) -> Result<i32, InboxError> {
        let statement = lease.prepared("SELECT inbox.unpark($1, $2, $3, $4)").await?;
        let Key { topic, key, .. } = &self.key;
        Ok(lease.query_one(&statement, &[&self.scope, topic, key, &seqs]).await?.try_get(0)?)
    }

    /// Removes a marker behind which nothing stands.
    pub(super) async fn remove(&self, lease: Lease) -> Result<bool, InboxError> {
        let Key { topic, key, .. } = &self.key;
        for statement in
            ["SELECT inbox.lock_parked_key($1, $2, $3)", "SELECT inbox.remove_parked_key($1, $2, $3)"]
        {
            let statement = lease.prepared(statement).await?;
            lease.query_one(&statement, &[&self.scope, topic, key]).await?;
        }
        commit(lease).await
    }
}

/// The event as it was parked.
fn read(row: &Row, key: &Key, scope: &Arc<str>) -> Result<First, InboxError> {
    let time: Timestamp = row.try_get(5)?;
    let headers: String = row.try_get(8)?;
    // What inbox.park() was given; a header that somebody else wrote otherwise is left out.
    let headers: Vec<(String, Option<String>)> = serde_json::from_str(&headers).unwrap_or_default();
    let decoded: Vec<(String, Option<Vec<u8>>)> = headers
        .into_iter()
        .map(|(name, value)| (name, value.and_then(|value| BASE64.decode(value).ok())))
        .collect();
    let headers: Vec<Header<'_>> =
        decoded.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let packed = Packed::new(row.try_get(6)?, row.try_get(7)?, &headers);
    let id: Uuid = row.try_get(2)?;
    let replay: Option<i32> = row.try_get(9)?;
    let body = Body {
        topic: Arc::from(key.topic.as_str()),
        scope: scope.clone(),
        partition: row.try_get(3)?,
        offset: row.try_get(4)?,
        timestamp: time.as_millisecond(),
        id: Some(id),
        packed,
    };
    // The event's own count is of those before this one.
    let tries = Tries { counted: key.attempts.saturating_sub(1), ..Tries::default() };
    let name = Name { id, created: row.try_get(11)?, business_key: None };
    let replay = replay.and_then(|replay| u32::try_from(replay).ok()).unwrap_or(0);
    Ok(First {
        record: Record::new(body, tries),
        name,
        seq: row.try_get(1)?,
        replay,
        token: row.try_get(10)?,
    })
}

pub(super) async fn commit(lease: Lease) -> Result<bool, InboxError> {
    match inbox::commit(lease).await {
        Committed::Yes => Ok(true),
        Committed::Aborted => Ok(false),
        // What became of it shows at the next turn: the event is there still, or it is not.
        Committed::Refused(error) => Err(error.into()),
        Committed::Unknown(_) => Err(InboxError::Lost),
    }
}
