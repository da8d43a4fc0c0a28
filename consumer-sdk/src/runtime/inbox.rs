//! What a worker asks of the database: one transaction for claim, park marker and effects.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, Lease};
use crate::record::Record;

/// What the claim of an event answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is this transaction's: run it.
    Run,
    /// It is settled, as the word says: skip it.
    Settled(String),
    /// An external handler has it: wait.
    Claimed,
    /// It is older than what the inbox remembers.
    TooOld,
}

/// Why the database did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboxError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the inbox")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the inbox holds as much for this key, or in all, as it may")]
    Full,
}

/// An open transaction in which an event was claimed.
pub(super) struct Claimed {
    pub(super) lease: Lease,
    pub(super) verdict: Verdict,
    /// An earlier event of the key is parked.
    pub(super) behind: bool,
}

/// What the commit of a transaction came to.
pub(super) enum Committed {
    /// It stands.
    Yes,
    /// A statement of the handler had failed, and the handler said nothing of it: nothing was committed.
    Aborted,
    /// The server refused, and rolled back.
    Refused(tokio_postgres::Error),
    /// The answer is missing.
    Unknown(tokio_postgres::Error),
}

/// The limit of statements that are the consumer's own.
const OWN: Duration = Duration::from_secs(30);

/// Begins a transaction and claims the event. One round trip: claim first, and then, as a statement with a newer
/// snapshot, the look for a park marker, which a stale owner may have committed while the claim waited (C52).
pub(super) async fn claim(
    database: &Arc<Database>,
    scope: &str,
    record: &Record,
    id: Uuid,
    limit: Duration,
) -> Result<Claimed, InboxError> {
    let lease = database.lease().await?;
    let ready = lease.ready();
    let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", limit.as_millis().max(1));
    let (ids, created) = (vec![id], vec![record.created_at()]);
    let (topics, partitions, offsets) =
        (vec![record.topic.as_ref()], vec![record.partition], vec![record.offset]);
    let keys = vec![order_key(record, &id)];
    let claim: [&(dyn ToSql + Sync); 6] = [&scope, &ids, &created, &topics, &partitions, &offsets];
    let look: [&(dyn ToSql + Sync); 3] = [&scope, &topics, &keys];
    // Sent in this order, whichever answer is looked at first.
    let ((), verdicts, marked) = tokio::try_join!(
        biased;
        ready.client.batch_execute(&begin),
        ready.client.query_one(&ready.claim, &claim),
        ready.client.query_one(&ready.marked, &look),
    )?;
    let verdicts: Vec<String> = verdicts.try_get(0)?;
    let marked: Option<Vec<i32>> = marked.try_get(0)?;
    let verdict = match verdicts.into_iter().next().as_deref() {
        Some("run") => Verdict::Run,
        Some("claimed") => Verdict::Claimed,
        Some("too_old") => Verdict::TooOld,
        Some(settled) => Verdict::Settled(settled.to_owned()),
        None => Verdict::Claimed,
    };
    let behind = marked.is_some_and(|places| !places.is_empty());
    Ok(Claimed { lease, verdict, behind })
}

/// Ends the transaction without effect. A connection that does not even take that is thrown away.
pub(super) async fn roll_back(lease: Lease) {
    let rolled = tokio::time::timeout(OWN, lease.ready().client.batch_execute("ROLLBACK")).await;
    if matches!(rolled, Ok(Ok(()))) {
        lease.give_back();
    }
}

/// Commits. A transaction in which a statement failed would answer COMMIT with a rollback that looks like
/// success to the driver; the statement before it does not.
pub(super) async fn commit(lease: Lease) -> Committed {
    let client = &lease.ready().client;
    let (alive, committed) =
        tokio::join!(biased; client.batch_execute("SELECT"), client.batch_execute("COMMIT"));
    match (alive, committed) {
        (Ok(()), Ok(())) => {
            lease.give_back();
            Committed::Yes
        }
        (Err(error), Ok(())) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            lease.give_back();
            Committed::Aborted
        }
        // Refused with a reason of the transaction's own (a deferred constraint, a serialization failure). A server
        // that goes away (class 57) may have committed before.
        (_, Err(error)) if error.code().is_some_and(|code| !code.code().starts_with("57")) => {
            Committed::Refused(error)
        }
        (Err(error), _) | (_, Err(error)) => Committed::Unknown(error),
    }
}

/// Ends what a handler that ran out of time left behind. The connection is thrown away: the cancel request
/// might meet whatever it did next (C45).
pub(super) async fn cancel(lease: Lease) {
    let token = lease.ready().client.cancel_token();
    if let Err(error) = token.cancel_query(NoTls).await {
        tracing::debug!(%error, "cancelling a statement");
    }
}

/// Settles a claimed event otherwise than as done: rejected, say.
pub(super) async fn settle(
    lease: &Lease,
    scope: &str,
    record: &Record,
    id: Uuid,
    state: &str,
    reason: &str,
) -> Result<(), InboxError> {
    let statement = "SELECT inbox.settle_group($1, $2::uuid[], $3::text[], $4::timestamptz[], $5::text[])";
    let (ids, created): (_, Vec<Option<Timestamp>>) = (vec![id], vec![record.created_at()]);
    let client = &lease.ready().client;
    client.execute(statement, &[&scope, &ids, &vec![state], &created, &vec![reason]]).await?;
    Ok(())
}

/// How a key is parked.
pub(super) struct Park<'p> {
    /// When the key is due.
    pub(super) due: Duration,
    pub(super) attempts: u32,
    pub(super) rung: usize,
    /// It is due only when somebody releases it.
    pub(super) held: bool,
    pub(super) error: &'p str,
}

/// Parks the key of a claimed event, which stands first behind its marker.
pub(super) async fn park(
    lease: &Lease,
    scope: &str,
    record: &Record,
    id: Uuid,
    park: &Park<'_>,
) -> Result<(), InboxError> {
    let statement = "SELECT inbox.park($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6::uuid[], $7::int[],
         $8::bigint[], $9::timestamptz[], $10::bytea[], $11::bytea[], $12::json[], $13::timestamptz[], $14, $15, $16)";
    let held = park.held.then_some("hold");
    let (attempts, rung) = (clamp(park.attempts), clamp(u32::try_from(park.rung).unwrap_or(u32::MAX)));
    let parts = Parts::of(record, id);
    let (topic, key, due) = (record.topic.as_ref(), order_key(record, &id), park.due.as_secs_f64());
    let answer = lease
        .ready()
        .client
        .query_one(
            statement,
            &[
                &scope,
                &topic,
                &key,
                &due,
                &park.error,
                &parts.ids,
                &parts.partitions,
                &parts.offsets,
                &parts.times,
                &parts.keys,
                &parts.values,
                &parts.headers,
                &parts.created,
                &attempts,
                &rung,
                &held,
            ],
        )
        .await?;
    match answer.try_get::<_, String>(0)?.as_str() {
        "parked" => Ok(()),
        _ => Err(InboxError::Full),
    }
}

/// Queues a claimed event behind the marker of its key; false where the marker is gone by now.
pub(super) async fn follow(
    lease: &Lease,
    scope: &str,
    record: &Record,
    id: Uuid,
) -> Result<bool, InboxError> {
    let statement =
        "SELECT inbox.follow($1, $2, $3, $4::uuid[], $5::int[], $6::bigint[], $7::timestamptz[], $8::bytea[],
         $9::bytea[], $10::json[], $11::timestamptz[])";
    let parts = Parts::of(record, id);
    let (topic, key) = (record.topic.as_ref(), order_key(record, &id));
    let answer = lease
        .ready()
        .client
        .query_one(
            statement,
            &[
                &scope,
                &topic,
                &key,
                &parts.ids,
                &parts.partitions,
                &parts.offsets,
                &parts.times,
                &parts.keys,
                &parts.values,
                &parts.headers,
                &parts.created,
            ],
        )
        .await?;
    match answer.try_get::<_, String>(0)?.as_str() {
        "parked" => Ok(true),
        "unmarked" => Ok(false),
        _ => Err(InboxError::Full),
    }
}

/// The name in the inbox of a record that has no id of its own.
pub(super) async fn id_of_nameless(database: &Arc<Database>, record: &Record) -> Result<Uuid, InboxError> {
    let lease = database.lease().await?;
    let name = format!("record {}/{}/{}", record.topic, record.partition, record.offset);
    let row = lease.ready().client.query_one("SELECT inbox.key_id($1)", &[&name]).await?;
    let id = row.try_get(0)?;
    lease.give_back();
    Ok(id)
}

/// The record as the park table takes it: arrays of one.
struct Parts<'r> {
    ids: Vec<Uuid>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    times: Vec<Timestamp>,
    keys: Vec<Option<&'r [u8]>>,
    values: Vec<Option<&'r [u8]>>,
    headers: Vec<Value>,
    created: Vec<Option<Timestamp>>,
}

impl Parts<'_> {
    fn of(record: &Record, id: Uuid) -> Parts<'_> {
        let headers = record
            .packed
            .headers()
            .map(|(name, value)| json!([name, value.map(|value| BASE64.encode(value))]));
        Parts {
            ids: vec![id],
            partitions: vec![record.partition],
            offsets: vec![record.offset],
            times: vec![Timestamp::from_millisecond(record.timestamp).unwrap_or(Timestamp::UNIX_EPOCH)],
            keys: vec![record.key()],
            values: vec![record.value()],
            headers: vec![headers.collect()],
            created: vec![record.created_at()],
        }
    }
}

/// What order is kept by. A record without key has no order to keep: it is a key of its own.
fn order_key<'r>(record: &'r Record, id: &'r Uuid) -> &'r [u8] {
    record.key().unwrap_or(id.as_bytes())
}

fn clamp(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
