//! What a worker asks of the database: one transaction for claim, park marker and effects.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::consumer::{ParkLimits, Registered};
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
    /// A further copy of an event that this transaction claimed.
    Repeated,
}

impl Verdict {
    fn of(word: String) -> Verdict {
        match word.as_str() {
            "run" => Verdict::Run,
            "claimed" => Verdict::Claimed,
            "too_old" => Verdict::TooOld,
            "repeated" => Verdict::Repeated,
            _ => Verdict::Settled(word),
        }
    }
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
    #[error("another has claimed one of the events and takes its time")]
    Waits,
    #[error("the transaction came to nothing")]
    Lost,
    #[error("the database did not answer within {0:?}")]
    Silent(Duration),
}

/// Waits for the database no longer than this: what stands between may keep a connection open that leads nowhere, and a
/// server's own limits are of no use then.
pub(super) async fn bounded<T>(
    answer: impl Future<Output = Result<T, InboxError>>,
    limit: Duration,
) -> Result<T, InboxError> {
    tokio::time::timeout(limit, answer).await.unwrap_or(Err(InboxError::Silent(limit)))
}

impl InboxError {
    fn of(error: tokio_postgres::Error) -> InboxError {
        match error.code() {
            Some(&SqlState::LOCK_NOT_AVAILABLE) => InboxError::Waits,
            _ => InboxError::Postgres(error),
        }
    }
}

/// What an event is known by in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The event's id, or that of its business key.
    pub(crate) id: Uuid,
    /// When the event was made, where the id does not say it; `None` for a business key, which has no time.
    pub(crate) created: Option<Timestamp>,
    /// The business key that the id was made of.
    pub(crate) business_key: Option<String>,
}

impl Name {
    /// Of an event that is known by its own id.
    pub(crate) fn of_id(id: Uuid, record: &Record) -> Name {
        // A version-7 id has the time in it, whatever the header says.
        let created = if id.get_version_num() == 7 { None } else { record.created_at() };
        Name { id, created, business_key: None }
    }

    /// Of a business key, as `inbox.key_id()` makes it: a version-8 UUID of its SHA-256.
    pub(crate) fn of_key(business_key: String) -> Name {
        let digest = Sha256::digest(business_key.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Name {
            id: uuid::Builder::from_custom_bytes(bytes).into_uuid(),
            created: None,
            business_key: Some(business_key),
        }
    }

    /// Of a record that has no id of its own: where it stands.
    pub(crate) fn of_place(record: &Record) -> Name {
        Name::of_key(format!("record {}/{}/{}", record.topic, record.partition, record.offset))
    }
}

/// An event that is to be claimed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'r> {
    pub(crate) record: &'r Record,
    pub(crate) name: &'r Name,
}

/// An open transaction in which events were claimed.
pub(super) struct Claimed {
    pub(super) lease: Lease,
    /// One for each event.
    pub(super) verdicts: Vec<Verdict>,
    /// For each key, whether an earlier event of it is parked.
    pub(super) parked: Vec<bool>,
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
    Unknown(String),
}

/// The limit of statements that are the consumer's own.
pub(super) const OWN: Duration = Duration::from_secs(30);

/// How long a claim waits for another's. A group's events are then claimed one by one (C55); one that waits by itself
/// gives its worker to others, and comes again.
const GROUP_WAITS: Duration = Duration::from_millis(200);
const ONE_WAITS: Duration = Duration::from_millis(500);

/// It is sent right behind a BEGIN whose answer has not come. Were that refused, it would commit by itself, and the event be
/// settled without its effect: so it claims for nobody, which is refused too, where the transaction's own time-out is not
/// set. A session begins without one ([`Database::new`]).
const CLAIM: &str = "SELECT verdicts, parked
       FROM inbox.claim_keys(CASE WHEN current_setting('statement_timeout') <> '0' THEN $1 END, $2::uuid[],
                             $3::timestamptz[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::text[],
                             $9::bytea[], $10)";
const MARKED: &str = "SELECT inbox.marked($1, $2::text[], $3::bytea[])";

/// Begins a transaction and claims events, of each key in their order. One round trip: claim first, and then, as a
/// statement with a newer snapshot, the look for park markers, which a stale owner may have committed while the claim
/// waited (C52). What the handler does waits for locks as long as it always would.
pub(super) async fn claim(
    database: &Database,
    scope: &str,
    keys: &[Vec<Event<'_>>],
    limit: Duration,
) -> Result<Claimed, InboxError> {
    bounded(Box::pin(claim_now(database, scope, keys, limit)), limit + OWN).await
}

async fn claim_now(
    database: &Database,
    scope: &str,
    keys: &[Vec<Event<'_>>],
    limit: Duration,
) -> Result<Claimed, InboxError> {
    let lease = database.lease().await?;
    let claim = prepared(&lease, CLAIM).await?;
    let events: Vec<Event<'_>> = keys.iter().flatten().copied().collect();
    let waits = if events.len() > 1 { GROUP_WAITS } else { ONE_WAITS };
    let waits = i32::try_from(waits.as_millis()).unwrap_or(i32::MAX);
    let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", limit.as_millis().max(1));
    let ids: Vec<Uuid> = events.iter().map(|event| event.name.id).collect();
    let created: Vec<Option<Timestamp>> = events.iter().map(|event| event.name.created).collect();
    let topics: Vec<&str> = events.iter().map(|event| event.record.topic.as_ref()).collect();
    let partitions: Vec<i32> = events.iter().map(|event| event.record.partition).collect();
    let offsets: Vec<i64> = events.iter().map(|event| event.record.offset).collect();
    let named: Option<Vec<Option<&str>>> = events
        .iter()
        .any(|event| event.name.business_key.is_some())
        .then(|| events.iter().map(|event| event.name.business_key.as_deref()).collect());
    let firsts: Vec<Event<'_>> = keys.iter().filter_map(|events| events.first().copied()).collect();
    let key_topics: Vec<&str> = firsts.iter().map(|event| event.record.topic.as_ref()).collect();
    let orders: Vec<&[u8]> = firsts.iter().map(|event| order_key(*event)).collect();
    let claims: [&(dyn ToSql + Sync); 10] =
        [&scope, &ids, &created, &topics, &partitions, &offsets, &named, &key_topics, &orders, &waits];
    // Sent in this order, whichever answer is looked at first.
    let ((), claimed) =
        tokio::try_join!(biased; lease.batch_execute(&begin), lease.query_one(&claim, &claims))
            .map_err(InboxError::of)?;
    let verdicts: Vec<String> = claimed.try_get(0)?;
    let marked: Option<Vec<i32>> = claimed.try_get(1)?;
    let mut parked = vec![false; keys.len()];
    for place in marked.unwrap_or_default() {
        let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
        if let Some(parked) = parked.get_mut(place) {
            *parked = true;
        }
    }
    Ok(Claimed { lease, verdicts: verdicts.into_iter().map(Verdict::of).collect(), parked })
}

/// A statement of the inbox; that it cannot be prepared says that there is none, or not for this role.
async fn prepared(lease: &Lease, sql: &str) -> Result<Statement, InboxError> {
    lease.prepared(sql).await.map_err(|error| match error.code() {
        Some(_) => InboxError::Database(DatabaseError::Inbox(error)),
        None => InboxError::Postgres(error),
    })
}

/// Ends the transaction without effect. A connection that does not even take that is thrown away.
pub(super) async fn roll_back(mut lease: Lease) {
    let rolled = tokio::time::timeout(OWN, lease.end("ROLLBACK")).await;
    if matches!(rolled, Ok(Ok(()))) {
        lease.give_back();
    }
}

/// Commits, behind a statement without effect. A transaction in which a statement failed would answer COMMIT with a
/// rollback that looks like success to the driver; the statement before it does not. Both are one message, so that one
/// answer comes.
pub(super) async fn commit(mut lease: Lease) -> Committed {
    let error = match tokio::time::timeout(OWN, lease.end("SELECT; COMMIT")).await {
        Ok(Ok(())) => {
            lease.give_back();
            return Committed::Yes;
        }
        Ok(Err(error)) => error,
        // The connection may lead nowhere: it is thrown away, and what became of the COMMIT is to be found out.
        Err(_) => return Committed::Unknown(InboxError::Silent(OWN).to_string()),
    };
    match error.code() {
        Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            roll_back(lease).await;
            Committed::Aborted
        }
        // Refused with a reason of the transaction's own (a deferred constraint, a serialization failure), which is over
        // by that. A server that goes away (class 57) may have committed before.
        Some(code) if !code.code().starts_with("57") => {
            roll_back(lease).await;
            Committed::Refused(error)
        }
        _ => Committed::Unknown(error.to_string()),
    }
}

/// Ends what a handler that ran out of time left behind. The connection is thrown away: the cancel request
/// might meet whatever it did next (C45).
pub(super) async fn cancel(lease: Lease) {
    // Boxed, as it is seldom wanted: whoever may have to cancel would carry what it needs.
    if let Err(error) = Box::pin(lease.cancel()).await {
        tracing::debug!(%error, "cancelling a statement");
    }
}

/// Settles claimed events otherwise than as done: `retry` gives the claim back.
pub(super) async fn settle(
    lease: &Lease,
    scope: &str,
    names: &[&Name],
    state: &str,
    reason: &str,
) -> Result<(), InboxError> {
    let statement = "SELECT inbox.settle_group($1, $2::uuid[], $3::text[], $4::timestamptz[], $5::text[])";
    let ids: Vec<Uuid> = names.iter().map(|name| name.id).collect();
    let created: Vec<Option<Timestamp>> = names.iter().map(|name| name.created).collect();
    let (states, reasons) = (vec![state; names.len()], vec![reason; names.len()]);
    let statement = prepared(lease, statement).await?;
    lease.execute(&statement, &[&scope, &ids, &states, &created, &reasons]).await?;
    Ok(())
}

/// A claim of a handler that runs outside of the transaction.
pub(super) struct Outside {
    pub(super) verdict: Verdict,
    /// What its settlement needs; of a claim that is to run.
    pub(super) token: Option<Uuid>,
    /// An earlier event of its key is parked: it may not run.
    pub(super) behind: bool,
}

/// Claims an event for a handler that runs outside of any transaction, and commits the claim. Without a lease nobody
/// ever takes it over. Where the key is parked nothing is claimed.
pub(super) async fn claim_outside(
    database: &Database,
    scope: &str,
    event: Event<'_>,
    lease_for: Option<Duration>,
) -> Result<Outside, InboxError> {
    bounded(claim_outside_now(database, scope, event, lease_for), 2 * OWN).await
}

async fn claim_outside_now(
    database: &Database,
    scope: &str,
    event: Event<'_>,
    lease_for: Option<Duration>,
) -> Result<Outside, InboxError> {
    let statement = "SELECT verdict, token FROM inbox.claim($1, $2, $3, make_interval(secs => $4), NULL, $5, $6, $7, NULL, $8)";
    let lease = database.lease().await?;
    let (claim, look) = (prepared(&lease, statement).await?, prepared(&lease, MARKED).await?);
    let Event { record, name } = event;
    let (topic, seconds) = (record.topic.as_ref(), lease_for.map(|lease| lease.as_secs_f64()));
    let claims: [&(dyn ToSql + Sync); 8] = [
        &scope,
        &name.id,
        &name.created,
        &seconds,
        &topic,
        &record.partition,
        &record.offset,
        &name.business_key,
    ];
    let (topics, keys) = (vec![topic], vec![order_key(event)]);
    let looks: [&(dyn ToSql + Sync); 3] = [&scope, &topics, &keys];
    let ((), claimed, marked) = tokio::try_join!(
        biased;
        lease.batch_execute("BEGIN; SET LOCAL statement_timeout = 30000; SET LOCAL lock_timeout = 500"),
        lease.query_one(&claim, &claims),
        lease.query_one(&look, &looks),
    )
    .map_err(InboxError::of)?;
    let verdict = Verdict::of(claimed.try_get(0)?);
    let marked: Option<Vec<i32>> = marked.try_get(0)?;
    let behind = verdict == Verdict::Run && marked.is_some_and(|places| !places.is_empty());
    if behind || verdict != Verdict::Run {
        roll_back(lease).await;
        return Ok(Outside { verdict, token: None, behind });
    }
    match commit(lease).await {
        Committed::Yes => Ok(Outside { verdict, token: claimed.try_get(1)?, behind }),
        Committed::Aborted => Err(InboxError::Lost),
        // Of a claim whose answer is lost nobody has the token: it is taken over when its lease has ended.
        Committed::Refused(error) => Err(error.into()),
        Committed::Unknown(_) => Err(InboxError::Lost),
    }
}

/// Settles such a claim. False where another has it by now.
pub(super) async fn settle_outside(
    database: &Database,
    scope: &str,
    name: &Name,
    token: Uuid,
    (state, result, error): (&str, Option<&[u8]>, Option<&str>),
) -> Result<bool, InboxError> {
    let statement = "SELECT settled FROM inbox.settle($1, $2, $3, $4, $5, $6, $7)";
    let lease = database.lease().await?;
    let statement = prepared(&lease, statement).await?;
    let answer = lease
        .query_one(&statement, &[&scope, &name.id, &token, &state, &name.created, &result, &error])
        .await?;
    lease.give_back();
    Ok(answer.try_get(0)?)
}

/// Gives such a claim back: whoever claims next need not wait for the end of its lease.
pub(super) async fn give_back_outside(
    database: &Database,
    scope: &str,
    name: &Name,
    token: Uuid,
) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let statement = prepared(&lease, "SELECT inbox.renew($1, $2, $3, '0', $4)").await?;
    lease.query_one(&statement, &[&scope, &name.id, &token, &name.created]).await?;
    lease.give_back();
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
    registered: &Registered,
    event: Event<'_>,
    park: &Park<'_>,
) -> Result<(), InboxError> {
    let statement = format!(
        "SELECT inbox.park($1, $2, $3, clock_timestamp() + make_interval(secs => $15), $16, {PARTS}, $17, $18, $19, {BOUNDS})"
    );
    let (due, held) = (park.due.as_secs_f64(), park.held.then_some("hold"));
    let (attempts, rung) = (clamp(park.attempts), clamp(u32::try_from(park.rung).unwrap_or(u32::MAX)));
    let how: [&(dyn ToSql + Sync); 5] = [&due, &park.error, &attempts, &rung, &held];
    let parts = Parts::of(registered, event, &[event]);
    let statement = prepared(lease, &statement).await?;
    let answer = lease.query_one(&statement, &[&parts.parameters()[..], &how].concat()).await?;
    match answer.try_get::<_, String>(0)?.as_str() {
        "parked" => Ok(()),
        _ => Err(InboxError::Full),
    }
}

/// Queues claimed events of one key behind its marker; false where the marker is gone by now.
pub(super) async fn follow(
    lease: &Lease,
    registered: &Registered,
    events: &[Event<'_>],
) -> Result<bool, InboxError> {
    let statement = format!("SELECT inbox.follow($1, $2, $3, {PARTS}, {BOUNDS})");
    let Some(first) = events.first() else { return Ok(true) };
    let parts = Parts::of(registered, *first, events);
    let statement = prepared(lease, &statement).await?;
    let answer = lease.query_one(&statement, &parts.parameters()).await?;
    match answer.try_get::<_, String>(0)?.as_str() {
        "parked" => Ok(true),
        "unmarked" => Ok(false),
        _ => Err(InboxError::Full),
    }
}

/// Events of one key as the functions of the park take them: whose key it is, a list for each part of them, and how much
/// the park may hold.
struct Parts<'r> {
    scope: &'r str,
    topic: &'r str,
    key: &'r [u8],
    ids: Vec<Uuid>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    times: Vec<Timestamp>,
    keys: Vec<Option<&'r [u8]>>,
    values: Vec<Option<&'r [u8]>>,
    headers: Vec<Value>,
    created: Vec<Option<Timestamp>>,
    most_of_key: i32,
    most: i32,
    most_bytes: i64,
}

/// The lists, behind scope, topic and key.
const PARTS: &str =
    "$4::uuid[], $5::int[], $6::bigint[], $7::timestamptz[], $8::bytea[], $9::bytea[], $10::json[],
                     $11::timestamptz[]";

/// How much the park may hold.
const BOUNDS: &str = "max_of_key => $12, max_in_all => $13, max_bytes => $14";

impl<'r> Parts<'r> {
    /// `first` names the key.
    fn of(registered: &'r Registered, first: Event<'r>, events: &[Event<'r>]) -> Parts<'r> {
        let ParkLimits { events_of_key, events: most, bytes } = registered.park;
        let time =
            |record: &Record| Timestamp::from_millisecond(record.timestamp).unwrap_or(Timestamp::UNIX_EPOCH);
        Parts {
            scope: &registered.name,
            topic: &first.record.topic,
            key: order_key(first),
            ids: events.iter().map(|event| event.name.id).collect(),
            partitions: events.iter().map(|event| event.record.partition).collect(),
            offsets: events.iter().map(|event| event.record.offset).collect(),
            times: events.iter().map(|event| time(event.record)).collect(),
            keys: events.iter().map(|event| event.record.key()).collect(),
            values: events.iter().map(|event| event.record.value()).collect(),
            headers: events.iter().map(|event| headers(event.record)).collect(),
            created: events.iter().map(|event| event.name.created).collect(),
            most_of_key: clamp(events_of_key),
            most: clamp(most),
            most_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }

    /// All of them, as `$1` to `$14`.
    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.scope,
            &self.topic,
            &self.key,
            &self.ids,
            &self.partitions,
            &self.offsets,
            &self.times,
            &self.keys,
            &self.values,
            &self.headers,
            &self.created,
            &self.most_of_key,
            &self.most,
            &self.most_bytes,
        ]
    }
}

/// Headers as JSON that keeps their order, their repetitions and their bytes.
fn headers(record: &Record) -> Value {
    let headers = record.packed.headers();
    headers.map(|(name, value)| json!([name, value.map(|value| BASE64.encode(value))])).collect()
}

/// What order is kept by. A record without key has no order to keep: it is a key of its own.
fn order_key<'r>(event: Event<'r>) -> &'r [u8] {
    event.record.key().unwrap_or(event.name.id.as_bytes())
}

fn clamp(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
