//! The task that runs parked keys when they are due. Any number of instances do this beside each other: a key is
//! locked for the transaction that runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::inbox::{self, Committed, InboxError};
use super::worker::{Attempt, PASSED_OVER, judge};
use super::{Shared, worker};
use crate::database::{Database, Lease};
use crate::handler::Kind;
use crate::ladder::{Failure, History, Step};
use crate::packed::Packed;
use crate::record::{Body, Record, Tries};
use crate::tx::Tx;

/// How often keys that are due are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How often the inbox is kept up.
const UPKEEP: Duration = Duration::from_secs(3600);
/// The pause while the database is away.
const TROUBLE: Duration = Duration::from_secs(2);

/// A failure that counts, and may be over next time.
const TRANSIENT: Failure = Failure::Transient { after: Duration::ZERO };

/// Runs until the consumer stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(database) = shared.database.clone() else { return };
    let mut kept_up = None::<Instant>;
    while !shared.is_stopping() {
        if kept_up.is_none_or(|at| at.elapsed() > UPKEEP) {
            kept_up = Some(Instant::now());
            if let Err(error) = upkeep(&database).await {
                tracing::warn!(
                    error = worker::sentence(&error),
                    "upkeep of the inbox; trying again in an hour"
                );
            }
        }
        match turn(&shared, &database).await {
            // There may be more that are due.
            Ok(true) => {}
            Ok(false) => shared.pause(LOOK).await,
            Err(error) => {
                tracing::warn!(error = worker::sentence(&error), "parked keys: waiting for the database");
                shared.pause(TROUBLE).await;
            }
        }
    }
}

/// Makes partitions of the inbox in advance and drops what is older than the floor; one instance at a time does.
async fn upkeep(database: &Arc<Database>) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let said: String =
        lease.ready().client.query_one("SELECT said FROM inbox.upkeep()", &[]).await?.try_get(0)?;
    lease.give_back();
    tracing::debug!("upkeep of the inbox: {said}");
    Ok(())
}

/// A parked key that this transaction has locked.
struct Key {
    topic: String,
    key: Vec<u8>,
    attempts: u32,
    /// How long ago its first event failed first.
    failing_for: Duration,
}

/// Runs the first event of one key that is due, if there is one.
async fn turn(shared: &Shared, database: &Arc<Database>) -> Result<bool, InboxError> {
    let lease = database.lease().await?;
    lease.ready().client.batch_execute("BEGIN; SET LOCAL statement_timeout = 30000").await?;
    let scope = &shared.registered.name;
    let taken = "SELECT topic, key, attempts, extract(epoch FROM clock_timestamp() - first_failed_at)::float8
                   FROM inbox.take_parked_key($1)";
    let Some(row) = lease.ready().client.query_opt(taken, &[scope]).await? else {
        inbox::roll_back(lease).await;
        return Ok(false);
    };
    let attempts: i32 = row.try_get(2)?;
    let seconds: f64 = row.try_get(3)?;
    let key = Key {
        topic: row.try_get(0)?,
        key: row.try_get(1)?,
        attempts: u32::try_from(attempts).unwrap_or(0),
        failing_for: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default(),
    };
    let first = "SELECT verdict, seq, id, partition, record_offset, record_time, record_key, record_value, headers::text
                   FROM inbox.resume($1, $2, $3)";
    let Some(row) = lease.ready().client.query_opt(first, &[scope, &key.topic, &key.key]).await? else {
        return remove(scope, lease, &key).await;
    };
    let (verdict, seq): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    if verdict != "run" {
        return unpark(scope, lease, &key, seq).await;
    }
    let id: Uuid = row.try_get(2)?;
    let record = read(&row, &key, id)?;
    run(shared, lease, &key, record, (id, seq)).await
}

/// The record as it was parked.
fn read(row: &Row, key: &Key, id: Uuid) -> Result<Record, InboxError> {
    let time: Timestamp = row.try_get(5)?;
    let headers: String = row.try_get(8)?;
    // What inbox.park() was given; a header that somebody else wrote otherwise is left out.
    let headers: Vec<(String, Option<String>)> = serde_json::from_str(&headers).unwrap_or_default();
    let decoded: Vec<(String, Option<Vec<u8>>)> = headers
        .into_iter()
        .map(|(name, value)| (name, value.and_then(|value| BASE64.decode(value).ok())))
        .collect();
    let headers: Vec<_> = decoded.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let body = Body {
        topic: Arc::from(key.topic.as_str()),
        partition: row.try_get(3)?,
        offset: row.try_get(4)?,
        timestamp: time.as_millisecond(),
        id: Some(id),
        packed: Packed::new(row.try_get(6)?, row.try_get(7)?, &headers),
    };
    Ok(Record::new(body, Tries { counted: key.attempts, ..Tries::default() }))
}

async fn run(
    shared: &Shared,
    lease: Lease,
    key: &Key,
    record: Record,
    (id, seq): (Uuid, i64),
) -> Result<bool, InboxError> {
    let scope = &shared.registered.name;
    let handler = record.event_type().and_then(|name| shared.registered.handlers.get(name));
    let Some(handler) = handler.filter(|handler| handler.kind == Kind::Transactional) else {
        // Of a version of this consumer that knew its type.
        let said = "no transactional handler is registered for its type";
        inbox::settle(&lease, scope, &record, id, "retry", said).await?;
        return delay(scope, lease, key, id, said, None).await;
    };
    let client = &lease.ready().client;
    let limit =
        format!("SET LOCAL statement_timeout = {}; SAVEPOINT handler", handler.timeout.as_millis().max(1));
    client.batch_execute(&limit).await?;
    let tx = Tx::new(lease);
    let attempt = match handler.call.call(&record, id, Some(tx.clone())) {
        Ok(answer) => judge(answer, handler.timeout).await,
        Err(unreadable) => Attempt::Failed(Failure::Permanent, unreadable),
    };
    let Some(lease) = tx.close().await else { return Ok(true) };
    let (failure, said) = match attempt {
        // In a transaction in which a statement failed this fails, too, whatever the handler says of it.
        Attempt::Done => match lease.ready().client.batch_execute("RELEASE SAVEPOINT handler").await {
            Ok(()) => return unpark(scope, lease, key, seq).await,
            Err(error) if error.code().is_some() => (TRANSIENT, PASSED_OVER.to_owned()),
            Err(error) => return Err(error.into()),
        },
        Attempt::Rejected(reason) => {
            lease.ready().client.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
            inbox::settle(&lease, scope, &record, id, "rejected", &reason).await?;
            tracing::warn!(%id, reason, "rejected");
            return unpark(scope, lease, key, seq).await;
        }
        Attempt::TimedOut(limit) => {
            inbox::cancel(lease).await;
            let due = next(shared, key, TRANSIENT);
            let said = format!("the handler took longer than {limit:?}");
            // Its transaction is gone, and its claim with it; another claimant may be at the key by now.
            let Some(database) = &shared.database else { return Ok(false) };
            let lease = database.lease().await?;
            lease.ready().client.batch_execute("BEGIN; SET LOCAL statement_timeout = 30000").await?;
            return delay(scope, lease, key, id, &said, due).await;
        }
        Attempt::Failed(failure, said) => (failure, said),
    };
    lease.ready().client.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
    inbox::settle(&lease, scope, &record, id, "retry", &said).await?;
    delay(scope, lease, key, id, &said, next(shared, key, failure)).await
}

/// When the next attempt is due, and its rung; `None` where there is none.
fn next(shared: &Shared, key: &Key, failure: Failure) -> Option<(Duration, usize)> {
    let history = History { attempts: key.attempts + 1, uncounted: 1, first_failure: Duration::ZERO };
    match shared.registered.ladder.step(history, key.failing_for, failure, &mut rand::rng()) {
        Step::RetryIn(delay) => Some((delay, 0)),
        Step::Park { rung, due } => Some((due.saturating_sub(key.failing_for), rung)),
        Step::Exhausted(_) => None,
    }
}

/// The attempt has failed: its key waits for the next, or for somebody.
async fn delay(
    scope: &str,
    lease: Lease,
    key: &Key,
    id: Uuid,
    said: &str,
    due: Option<(Duration, usize)>,
) -> Result<bool, InboxError> {
    let (delay, rung) = due.unwrap_or_default();
    let held = due.is_none().then_some("hold");
    match due {
        Some(_) => {
            tracing::warn!(%id, topic = key.topic, rung, due_in = ?delay, "a parked event failed again: {said}")
        }
        None => {
            tracing::error!(%id, topic = key.topic, "held, with its key, until somebody releases it: {said}")
        }
    }
    let statement =
        "SELECT inbox.delay($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7)";
    let rung = i32::try_from(rung).unwrap_or(i32::MAX);
    let client = &lease.ready().client;
    client
        .execute(statement, &[&scope, &key.topic, &key.key, &delay.as_secs_f64(), &said, &rung, &held])
        .await?;
    commit(lease).await
}

/// Takes the event off its key and commits; then the marker, where nothing stands behind it.
async fn unpark(scope: &str, lease: Lease, key: &Key, seq: i64) -> Result<bool, InboxError> {
    let statement = "SELECT inbox.unpark($1, $2, $3, $4)";
    let client = &lease.ready().client;
    let left: i32 =
        client.query_one(statement, &[&scope, &key.topic, &key.key, &vec![seq]]).await?.try_get(0)?;
    if left > 0 {
        return commit(lease).await;
    }
    // In the same transaction: from the lock on followers wait, and a follower that was quicker is counted.
    remove(scope, lease, key).await
}

/// Removes a marker behind which nothing stands.
async fn remove(scope: &str, lease: Lease, key: &Key) -> Result<bool, InboxError> {
    let client = &lease.ready().client;
    let lock = "SELECT inbox.lock_parked_key($1, $2, $3)";
    client.query_one(lock, &[&scope, &key.topic, &key.key]).await?;
    let remove = "SELECT inbox.remove_parked_key($1, $2, $3)";
    client.query_one(remove, &[&scope, &key.topic, &key.key]).await?;
    commit(lease).await
}

async fn commit(lease: Lease) -> Result<bool, InboxError> {
    match inbox::commit(lease).await {
        Committed::Yes => Ok(true),
        Committed::Aborted => Ok(false),
        // What became of it shows at the next turn: the event is there still, or it is not.
        Committed::Refused(error) | Committed::Unknown(error) => Err(error.into()),
    }
}
