//! The task that runs parked keys when they are due. Any number of instances do this beside each other: a key is
//! locked for the transaction that runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::attempt::{Attempt, KILLS, Reason, TRANSIENT, UNREGISTERED, attempt, sentence};
use super::inbox::{self, Committed, InboxError, Name};
use super::letters::Failing;
use super::permit::Told;
use crate::database::{Database, Lease};
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::journal::DEFAULT_CONVICT_AFTER;
use crate::ladder::{Exhausted, Failure, History, Step};
use crate::metrics;
use crate::metrics::counts::{Retry, Settled};
use crate::packed::{Header, Packed};
use crate::record::{Body, Record, Tries};
use crate::tx::Tx;

/// How often keys that are due are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How often the inbox is kept up.
const UPKEEP: Duration = Duration::from_secs(3600);
/// What one turn may take beside its handler: a dead letter that waits for Kafka, and a database that answers late.
const TURN: Duration = Duration::from_secs(120);
/// The pause while the database is away.
const TROUBLE: Duration = Duration::from_secs(2);

/// What a lease has beyond the time-out of a handler that runs outside of the transaction.
const MARGIN: Duration = Duration::from_secs(10);

/// The pause of a key whose dead letter cannot be written.
const NOWHERE: Duration = Duration::from_secs(30);

/// Runs until the consumer stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(database) = shared.database.clone() else { return };
    let mut kept_up = None::<Instant>;
    let handlers = shared.registered.handlers.values().map(|handler| handler.timeout);
    let longest = handlers.max().unwrap_or_default() + TURN;
    while !shared.is_stopping() {
        if kept_up.is_none_or(|at| at.elapsed() > UPKEEP) {
            kept_up = Some(Instant::now());
            if let Err(error) = upkeep(&database).await {
                tracing::warn!(error = sentence(&error), "upkeep of the inbox; trying again in an hour");
            }
        }
        if shared.registered.metrics.parked_is_due()
            && let Err(error) = look(&shared, &database).await
        {
            tracing::debug!(error = sentence(&error), "looking at the parked keys");
        }
        match inbox::bounded(turn(&shared, &database), longest).await {
            // There may be more that are due.
            Ok(true) => {}
            Ok(false) => shared.pause(LOOK).await,
            Err(error) => {
                tracing::warn!(error = sentence(&error), "parked keys: waiting for the database");
                shared.pause(TROUBLE).await;
            }
        }
    }
}

/// What stands in the park, for the metrics.
async fn look(shared: &Shared, database: &Database) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let look = metrics::parked::look(&lease, &shared.registered.name).await?;
    lease.give_back();
    shared.registered.metrics.saw_parked(look);
    Ok(())
}

/// Makes partitions of the inbox in advance and drops what is older than the floor; one instance at a time does.
async fn upkeep(database: &Database) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let said: String = lease.query_one("SELECT said FROM inbox.upkeep()", &[]).await?.try_get(0)?;
    lease.give_back();
    tracing::debug!("upkeep of the inbox: {said}");
    Ok(())
}

/// A parked key that this transaction has locked.
struct Key {
    topic: String,
    key: Vec<u8>,
    /// Attempts so far, with the one that is under way.
    attempts: u32,
    /// How long ago its first event failed first.
    failing_for: Duration,
}

/// The first event of a parked key.
struct First {
    record: Record,
    name: Name,
    seq: i64,
    replay: u32,
    /// Of a claim for a handler that runs outside of the transaction.
    token: Option<Uuid>,
}

const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 30000";

/// What a parked key says of its last failure while an attempt is under way, and behind that how many attempts ended
/// with their process.
const BEGUN: &str = "an attempt was begun by run ";
const DEATHS: &str = "; deaths: ";

/// The time between the transaction that counts an attempt and the one that makes it.
const BETWEEN: Duration = Duration::from_secs(2);

fn deaths(last_error: &str) -> u32 {
    last_error.rsplit_once(DEATHS).and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// Runs the first event of one key that is due, if there is one.
///
/// The attempt is counted before it begins, in a transaction of its own: should it end the process, whoever takes the
/// key next finds it begun by another run, and has that for an answer (C18, C25).
async fn turn(shared: &Shared, database: &Database) -> Result<bool, InboxError> {
    // One record is on trial, and whatever ran beside it could be the one that kills.
    if shared.engine.lock().is_isolated() {
        return Ok(false);
    }
    let lease = database.lease().await?;
    lease.batch_execute(BEGIN).await?;
    let scope = &*shared.registered.name;
    let Some((mut key, last_error)) = take(&lease, scope).await? else {
        inbox::roll_back(lease).await;
        return Ok(false);
    };
    lease.batch_execute("SAVEPOINT claim").await?;
    let (verdict, first) = match resume(&lease, scope, &key, None).await? {
        Some(found) => found,
        None => return remove(scope, lease, &key).await,
    };
    if verdict != "run" {
        return unpark(scope, lease, &key, first.seq).await;
    }
    lease.batch_execute("ROLLBACK TO SAVEPOINT claim").await?;
    let handler = first.record.event_type().and_then(|name| shared.registered.handlers.get(name));
    if last_error.starts_with(BEGUN) && handler.is_some_and(|handler| handler.kind == Kind::AtMostOnce) {
        let reason = Reason::new(KILLS, "an attempt was begun and not settled: it is never made again");
        return exhausted(shared, lease, &key, &first, &reason, Exhausted::Skip).await;
    }
    let deaths = deaths(&last_error);
    let begun = format!("{BEGUN}{}{DEATHS}{deaths}", shared.run);
    if last_error.starts_with(BEGUN) && last_error != begun {
        let deaths = deaths + 1;
        let convicted = deaths >= u32::from(DEFAULT_CONVICT_AFTER);
        let failure = if convicted { Failure::Permanent } else { TRANSIENT };
        let said =
            format!("the process died, or lost its database, while it ran this record{DEATHS}{deaths}");
        return after(shared, lease, &key, &first, failure, Reason::new(KILLS, said), false).await;
    }
    let Some(handler) = handler else {
        // Of a version of this consumer that knew its type.
        let reason = Reason::new(UNREGISTERED, "no handler is registered for its type any more");
        return exhausted(shared, lease, &key, &first, &reason, Exhausted::Hold).await;
    };
    // It says nothing new of the others, whatever it comes to: it failed before.
    if Told::admitted(shared, handler).is_err() {
        inbox::roll_back(lease).await;
        return Ok(false);
    }
    let counts = last_error != begun;
    key.attempts += u32::from(counts);
    let outside = !matches!(handler.kind, Kind::Transactional | Kind::Batch(_));
    // The lock of the second transaction keeps others away from then on; outside of it time has to.
    let due = if outside { handler.timeout + MARGIN } else { BETWEEN };
    if !delay(scope, lease, &key, &begun, (due, None), None, counts).await? {
        return Ok(false);
    }
    let lease = database.lease().await?;
    lease.batch_execute(BEGIN).await?;
    let leased = outside.then(|| handler.timeout + MARGIN);
    match resume(&lease, scope, &key, leased).await? {
        Some((verdict, first)) if verdict == "run" => {
            if outside {
                run_outside(shared, database, lease, &key, handler, first).await
            } else {
                run(shared, database, lease, &key, handler, first).await
            }
        }
        // Somebody decided between the two transactions; what stands shows at the next turn.
        Some(_) | None => {
            inbox::roll_back(lease).await;
            Ok(false)
        }
    }
}

/// A key that is due, locked for this transaction, and what it says of its last failure.
async fn take(lease: &Lease, scope: &str) -> Result<Option<(Key, String)>, InboxError> {
    let taken = "SELECT topic, key, attempts, extract(epoch FROM clock_timestamp() - first_failed_at)::float8, last_error
                   FROM inbox.take_parked_key($1)";
    let taken = lease.prepared(taken).await?;
    let Some(row) = lease.query_opt(&taken, &[&scope]).await? else { return Ok(None) };
    let attempts: i32 = row.try_get(2)?;
    let seconds: f64 = row.try_get(3)?;
    let key = Key {
        topic: row.try_get(0)?,
        key: row.try_get(1)?,
        attempts: u32::try_from(attempts).unwrap_or(0),
        failing_for: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default(),
    };
    Ok(Some((key, row.try_get(4)?)))
}

/// Claims the first event of the key; with a lease for a handler outside of the transaction.
async fn resume(
    lease: &Lease,
    scope: &str,
    key: &Key,
    lease_for: Option<Duration>,
) -> Result<Option<(String, First)>, InboxError> {
    let first = "SELECT verdict, seq, id, partition, record_offset, record_time, record_key, record_value, headers::text,
                        replay, token, nullif(event_time, '-infinity')
                   FROM inbox.resume($1, $2, $3, 1, make_interval(secs => $4))";
    let first = lease.prepared(first).await?;
    let seconds = lease_for.map(|lease| lease.as_secs_f64());
    let row = lease.query_opt(&first, &[&scope, &key.topic, &key.key, &seconds]).await?;
    row.map(|row| Ok((row.try_get(0)?, read(&row, key)?))).transpose()
}

/// The event as it was parked.
fn read(row: &Row, key: &Key) -> Result<First, InboxError> {
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

/// A handler in the transaction of the claim.
async fn run(
    shared: &Shared,
    database: &Database,
    lease: Lease,
    key: &Key,
    handler: &Bound,
    first: First,
) -> Result<bool, InboxError> {
    let scope = &shared.registered.name;
    let limit = handler.timeout.as_millis().max(1);
    lease.batch_execute(&format!("SET LOCAL statement_timeout = {limit}; SAVEPOINT handler")).await?;
    let tx = Tx::new(lease, None);
    let facts = Facts::new(&first.record, event_id(&first), scope);
    let given = tx.clone();
    let begin = || handler.one(facts, Some(given));
    let (came_to, took) = attempt(shared, &first.record, first.name.id, begin, handler.timeout).await;
    shared.registered.metrics.attempted(&first.record, came_to.ended(), took);
    let Some(closed) = tx.close().await else { return Ok(true) };
    let lease = closed.lease;
    let (failure, reason) = match came_to {
        // In a transaction in which a statement failed this fails, too, whatever the handler says of it.
        Attempt::Done(_) => match lease.batch_execute("RELEASE SAVEPOINT handler").await {
            Ok(()) => {
                let settled = unpark(scope, lease, key, first.seq).await;
                if matches!(settled, Ok(true)) {
                    shared.registered.metrics.settled(&first.record, Settled::Done);
                }
                return settled;
            }
            Err(error) if error.code().is_some() => {
                Attempt::passed_over().failure().unwrap_or((TRANSIENT, Reason::new("lost", "it failed")))
            }
            Err(error) => return Err(error.into()),
        },
        Attempt::Rejected(why) => {
            lease.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
            inbox::settle(&lease, scope, &[&first.name], "rejected", &why).await?;
            tracing::warn!(id = %first.name.id, why, "rejected");
            return unpark(scope, lease, key, first.seq).await;
        }
        Attempt::TimedOut(_) => {
            inbox::cancel(lease).await;
            let Some((failure, reason)) = came_to.failure() else { return Ok(true) };
            // Its transaction is gone, and its claim with it; another claimant may be at the key by now.
            let lease = database.lease().await?;
            lease.batch_execute(BEGIN).await?;
            return after(shared, lease, key, &first, failure, reason, false).await;
        }
        Attempt::Failed(failure, reason) => (failure, reason),
    };
    lease.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
    after(shared, lease, key, &first, failure, reason, true).await
}

/// The id by which the event is known to its handler.
fn event_id(first: &First) -> Uuid {
    let said = first.record.header(outbox_schema::record::header::ID);
    said.and_then(|text| Uuid::parse_str(text).ok()).unwrap_or(first.name.id)
}

/// A handler outside of the transaction: claimed with a lease, run, settled by the token.
async fn run_outside(
    shared: &Shared,
    database: &Database,
    lease: Lease,
    key: &Key,
    handler: &Bound,
    first: First,
) -> Result<bool, InboxError> {
    let scope = &shared.registered.name;
    let Some(token) = first.token else {
        inbox::roll_back(lease).await;
        return Ok(false);
    };
    if !commit(lease).await? {
        return Ok(false);
    }
    let facts = Facts::new(&first.record, event_id(&first), scope);
    let begin = || handler.one(facts, None);
    let (came_to, took) = attempt(shared, &first.record, first.name.id, begin, handler.timeout).await;
    shared.registered.metrics.attempted(&first.record, came_to.ended(), took);
    let name = &first.name;
    let how = match &came_to {
        Attempt::Done(result) => Some(("done", result.as_deref(), None)),
        Attempt::Rejected(why) => Some(("rejected", None, Some(why.as_str()))),
        Attempt::Failed(..) | Attempt::TimedOut(_) => None,
    };
    if let Some(how) = how {
        // Where this fails the lease ends, and the call is made once more, under the same idempotency key.
        inbox::settle_outside(database, scope, name, token, how).await?;
    } else {
        inbox::give_back_outside(database, scope, name, token).await?;
    }
    let lease = database.lease().await?;
    lease.batch_execute(BEGIN).await?;
    match came_to.failure() {
        None => unpark(scope, lease, key, first.seq).await,
        // It may have had its effect: never again.
        Some((_, reason)) if handler.kind == Kind::AtMostOnce => {
            exhausted(shared, lease, key, &first, &reason, Exhausted::Skip).await
        }
        Some((failure, reason)) => after(shared, lease, key, &first, failure, reason, false).await,
    }
}

/// The attempt has failed: the ladder says what follows. `claimed`: by this very transaction.
async fn after(
    shared: &Shared,
    lease: Lease,
    key: &Key,
    first: &First,
    failure: Failure,
    reason: Reason,
    claimed: bool,
) -> Result<bool, InboxError> {
    let scope = &shared.registered.name;
    let history = History { attempts: key.attempts, uncounted: 1, first_failure: Duration::ZERO };
    let step = shared.registered.ladder.step(history, key.failing_for, failure, &mut rand::rng());
    let (due, rung) = match step {
        Step::RetryIn(delay) => {
            shared.registered.metrics.retried(&first.record, Retry::InPlace);
            (delay, 0)
        }
        Step::Park { rung, due } => {
            shared.registered.metrics.retried(&first.record, Retry::Rung(rung));
            (due.saturating_sub(key.failing_for), rung)
        }
        Step::Exhausted(how) => {
            if claimed {
                give_back(scope, &lease, first, &reason).await?;
            }
            return exhausted(shared, lease, key, first, &reason, how).await;
        }
    };
    if claimed {
        give_back(scope, &lease, first, &reason).await?;
    }
    let said = &reason.said;
    tracing::warn!(id = %first.name.id, topic = key.topic, rung, due_in = ?due, "a parked event failed again: {said}");
    delay(scope, lease, key, said, (due, Some(rung)), None, false).await
}

/// The claim goes, and the event is parked again.
async fn give_back(scope: &str, lease: &Lease, first: &First, reason: &Reason) -> Result<(), InboxError> {
    inbox::settle(lease, scope, &[&first.name], "retry", &reason.said).await
}

/// No attempt is left: a dead letter, and the key goes on; or the key is held.
async fn exhausted(
    shared: &Shared,
    lease: Lease,
    key: &Key,
    first: &First,
    reason: &Reason,
    how: Exhausted,
) -> Result<bool, InboxError> {
    let (scope, id, said) = (&*shared.registered.name, first.name.id, reason.said.as_str());
    if how != Exhausted::Skip {
        tracing::error!(%id, topic = key.topic, "held, with its key, until somebody releases it: {said}");
        return delay(scope, lease, key, said, (Duration::ZERO, None), Some("hold"), false).await;
    }
    // The letter first: an event that counts as dead has one (C10). The key stays locked meanwhile.
    let failing = Failing {
        record: &first.record,
        name: Some(&first.name),
        handler: first.record.event_type(),
        reason,
        attempts: key.attempts,
        failing_for: key.failing_for,
        replay: first.replay,
    };
    match shared.letters.send(&shared.registered, failing).await {
        Ok(placed) => {
            shared.registered.metrics.dead_letter(&first.record, reason.counted(TRANSIENT));
            tracing::error!(%id, letter = %placed, "a dead letter: {said}");
        }
        Err(error) => {
            tracing::error!(%id, again_in = ?NOWHERE, error = sentence(&error), "its dead letter is not written");
            return delay(scope, lease, key, said, (NOWHERE, None), None, false).await;
        }
    }
    // Claimed once more by this transaction, which may then decide otherwise about it.
    let Some((verdict, again)) = resume(&lease, scope, key, None).await? else {
        inbox::roll_back(lease).await;
        return Ok(false);
    };
    if verdict == "run" && again.seq == first.seq {
        inbox::settle(&lease, scope, &[&again.name], "dead", said).await?;
    }
    unpark(scope, lease, key, again.seq).await
}

/// The key waits for its next attempt, or for somebody.
async fn delay(
    scope: &str,
    lease: Lease,
    key: &Key,
    said: &str,
    (due, rung): (Duration, Option<usize>),
    held: Option<&str>,
    counts: bool,
) -> Result<bool, InboxError> {
    let statement =
        "SELECT inbox.delay($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7, $8)";
    let rung = rung.map(|rung| i32::try_from(rung).unwrap_or(i32::MAX));
    let statement = lease.prepared(statement).await?;
    lease
        .execute(
            &statement,
            &[&scope, &key.topic, &key.key, &due.as_secs_f64(), &said, &rung, &held, &counts],
        )
        .await?;
    commit(lease).await
}

/// Takes the event off its key and commits; then the marker, where nothing stands behind it.
async fn unpark(scope: &str, lease: Lease, key: &Key, seq: i64) -> Result<bool, InboxError> {
    let statement = lease.prepared("SELECT inbox.unpark($1, $2, $3, $4)").await?;
    let left: i32 =
        lease.query_one(&statement, &[&scope, &key.topic, &key.key, &vec![seq]]).await?.try_get(0)?;
    if left > 0 {
        return commit(lease).await;
    }
    // In the same transaction: from the lock on followers wait, and a follower that was quicker is counted.
    remove(scope, lease, key).await
}

/// Removes a marker behind which nothing stands.
async fn remove(scope: &str, lease: Lease, key: &Key) -> Result<bool, InboxError> {
    for statement in
        ["SELECT inbox.lock_parked_key($1, $2, $3)", "SELECT inbox.remove_parked_key($1, $2, $3)"]
    {
        let statement = lease.prepared(statement).await?;
        lease.query_one(&statement, &[&scope, &key.topic, &key.key]).await?;
    }
    commit(lease).await
}

async fn commit(lease: Lease) -> Result<bool, InboxError> {
    match inbox::commit(lease).await {
        Committed::Yes => Ok(true),
        Committed::Aborted => Ok(false),
        // What became of it shows at the next turn: the event is there still, or it is not.
        Committed::Refused(error) => Err(error.into()),
        Committed::Unknown(_) => Err(InboxError::Lost),
    }
}
