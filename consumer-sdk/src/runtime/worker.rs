//! One record at a time: from the claim to the settlement. One function turns what happened into what follows.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use uuid::Uuid;

use super::Shared;
use super::engine::Work;
use super::inbox::{self, Claimed, Committed, InboxError, Park, Verdict};
use crate::consumer::Unregistered;
use crate::database::{Database, Lease};
use crate::handler::{Kind, Registration};
use crate::journal::{Ending, Permit, Started};
use crate::ladder::{Exhausted, Failure, History, Step};
use crate::outcome::Outcome;
use crate::tx::Tx;

/// The pause before the database is asked again, or another's claim is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is said of a handler that is done although its transaction cannot be committed any more.
pub(super) const PASSED_OVER: &str =
    "a statement had failed, and the handler passed over its error: nothing was committed";

/// The pause of an exhausted record for which there is no place.
const NOWHERE: Duration = Duration::from_secs(10);

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The handler's work is done.
    Done,
    /// It never will be.
    Rejected(String),
    /// It has failed.
    Failed(Failure, String),
    /// It ran out of time, and its connection may be in the middle of a statement.
    TimedOut(Duration),
}

/// What becomes of a record. Acted on by [`settle`] alone.
#[derive(Debug)]
enum Fate {
    /// Settled, durably. Whether a handler of this process did it.
    Settled { without_handler: bool },
    /// It comes again after a while, and holds its key meanwhile.
    Again(Duration),
    /// It comes again when the partition is assigned again; nothing of it is decided here.
    Left,
}

/// The loop of one worker. Ends when the consumer stops.
pub(super) async fn work(shared: Arc<Shared>) {
    while let Some(work) = next(&shared).await {
        let mut lost = work.lost.clone();
        let mut held = Some(work);
        let fate = {
            let work = held.as_mut().expect("just put there");
            tokio::select! {
                biased;
                // The partition is another's: what runs for it ends here, and decides nothing (C30).
                () = gone(&mut lost) => Fate::Left,
                fate = run(&shared, work) => fate,
            }
        };
        if let Some(work) = held {
            settle(&shared, work, fate);
        }
    }
}

async fn gone(lost: &mut tokio::sync::watch::Receiver<bool>) {
    // A sender that went away is no loss: the partition left in order, after its handlers.
    if lost.wait_for(|lost| *lost).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The next record; `None` when the consumer stops.
async fn next(shared: &Shared) -> Option<Work> {
    loop {
        let woken = shared.work.notified();
        if shared.is_stopping() {
            return None;
        }
        let (work, more) = {
            let mut engine = shared.engine.lock();
            (engine.take(), engine.ready() > 0)
        };
        if work.is_some() {
            if more {
                shared.work.notify_one();
            }
            return work;
        }
        // A record that came between is told of again by the next: never for longer than this.
        let _timeout = tokio::time::timeout(AGAIN, woken).await;
    }
}

/// The only place that acts on what became of a record.
fn settle(shared: &Arc<Shared>, work: Work, fate: Fate) {
    match fate {
        Fate::Settled { without_handler } => {
            let mut engine = shared.engine.lock();
            engine.settle(work, without_handler);
            let ready = engine.ready() > 0;
            drop(engine);
            if ready {
                shared.work.notify_one();
            }
            shared.permits.notify_waiters();
        }
        Fate::Again(delay) => {
            let Some(hold) = shared.engine.lock().hold(work) else { return };
            let shared = shared.clone();
            tokio::spawn(async move {
                shared.pause(delay).await;
                shared.engine.lock().resume(hold);
                shared.work.notify_one();
            });
        }
        // Its partition has left, so the engine lets the key go and settles nothing; where the consumer stops,
        // nobody takes the key again.
        Fate::Left => drop(shared.engine.lock().hold(work)),
    }
}

/// Runs one record.
async fn run(shared: &Arc<Shared>, work: &mut Work) -> Fate {
    let registered = &shared.registered;
    let handler = match work.record().event_type().map(|name| registered.handlers.get(name)) {
        Some(Some(handler)) => handler,
        Some(None) if registered.unregistered == Unregistered::Skip => {
            return Fate::Settled { without_handler: true };
        }
        Some(None) => {
            let name = work.record().event_type().unwrap_or_default();
            return unreadable(shared, work, format!("no handler is registered for the type {name}")).await;
        }
        None => return unreadable(shared, work, "the record has no header `type`".into()).await,
    };
    let Some(id) = work.record().id else {
        return unreadable(shared, work, "the record has no header `id` that is a UUID".into()).await;
    };
    match (handler.kind, &shared.database) {
        (Kind::Transactional, Some(database)) => transactional(shared, database, work, handler, id).await,
        (Kind::Transactional, None) => {
            shared.halt("a transactional handler is registered, and there is no database".into());
            Fate::Left
        }
        (Kind::Idempotent, _) => idempotent(shared, work, handler, id).await,
    }
}

/// Claim, handler and commit in one transaction.
async fn transactional(
    shared: &Arc<Shared>,
    database: &Arc<Database>,
    work: &mut Work,
    handler: &Registration,
    id: Uuid,
) -> Fate {
    let scope = &shared.registered.name;
    let claimed = inbox::claim(database, scope, work.record(), id, handler.timeout).await;
    let Claimed { lease, verdict, behind } = match claimed {
        Ok(claimed) => claimed,
        Err(error) => return trouble(work, &error),
    };
    match verdict {
        Verdict::Run => {}
        Verdict::Settled(how) => {
            tracing::debug!(%id, how, "settled before: skipped");
            inbox::roll_back(lease).await;
            return Fate::Settled { without_handler: true };
        }
        Verdict::Claimed => {
            inbox::roll_back(lease).await;
            return Fate::Again(AGAIN);
        }
        Verdict::TooOld => {
            inbox::roll_back(lease).await;
            shared.halt(format!(
                "event {id} at {} is older than what the inbox remembers, so nobody knows whether it was handled: \
                 look at inbox.store, and at why so old an event comes",
                place(work)
            ));
            return Fate::Left;
        }
    }
    if behind {
        return queue_up(shared, lease, work, id).await;
    }
    let running = match permit(shared, work).await {
        Ok(running) => running,
        Err(no) => {
            inbox::roll_back(lease).await;
            return match no {
                No::Convicted(deaths) => {
                    let said =
                        format!("the process died {deaths} times while this record was the only one it ran");
                    failed(shared, work, Some(id), Failure::Permanent, said).await
                }
                No::Gone => Fate::Left,
            };
        }
    };
    let fate = in_transaction(shared, database, work, handler, (id, lease)).await;
    if matches!(fate, Fate::Settled { .. }) {
        running.settled();
    }
    fate
}

/// The handler and the end of the transaction in which its event is claimed.
async fn in_transaction(
    shared: &Arc<Shared>,
    database: &Arc<Database>,
    work: &mut Work,
    handler: &Registration,
    (id, lease): (Uuid, Lease),
) -> Fate {
    let tx = Tx::new(lease);
    let attempt = attempt(handler, work, id, Some(tx.clone())).await;
    // Whoever kept the handle is waited for, and then has none.
    let lease = tx.close().await;
    match (attempt, lease) {
        (Attempt::Done, Some(lease)) => match inbox::commit(lease).await {
            Committed::Yes => Fate::Settled { without_handler: false },
            Committed::Aborted => failed(shared, work, Some(id), transient(), PASSED_OVER.into()).await,
            Committed::Refused(error) => {
                let error = crate::outcome::HandlerError::from(error);
                failed(shared, work, Some(id), error.failure(), error.sentence()).await
            }
            Committed::Unknown(error) => {
                tracing::warn!(%error, "the answer to a COMMIT is missing: claiming again to learn what became of it");
                // The claim waits for the old backend, so what it answers is what became of it (C43); it comes
                // as the record's next turn, before anything is counted.
                Fate::Again(Duration::ZERO)
            }
        },
        (Attempt::Done, None) => Fate::Again(Duration::ZERO),
        (Attempt::Rejected(reason), lease) => {
            give_up(lease).await;
            rejected(shared, database, work, id, &reason).await
        }
        (Attempt::Failed(failure, said), lease) => {
            give_up(lease).await;
            failed(shared, work, Some(id), failure, said).await
        }
        (Attempt::TimedOut(limit), lease) => {
            if let Some(lease) = lease {
                inbox::cancel(lease).await;
            }
            failed(shared, work, Some(id), transient(), format!("the handler took longer than {limit:?}"))
                .await
        }
    }
}

async fn give_up(lease: Option<Lease>) {
    if let Some(lease) = lease {
        inbox::roll_back(lease).await;
    }
}

/// No transaction, no claim.
async fn idempotent(shared: &Arc<Shared>, work: &mut Work, handler: &Registration, id: Uuid) -> Fate {
    let running = match permit(shared, work).await {
        Ok(running) => running,
        Err(No::Gone) => return Fate::Left,
        Err(No::Convicted(deaths)) => {
            let said = format!("the process died {deaths} times while this record was the only one it ran");
            return failed(shared, work, Some(id), Failure::Permanent, said).await;
        }
    };
    let fate = match attempt(handler, work, id, None).await {
        Attempt::Done => Fate::Settled { without_handler: false },
        Attempt::Rejected(reason) => {
            tracing::warn!(%id, reason, "rejected");
            Fate::Settled { without_handler: false }
        }
        Attempt::Failed(failure, said) => failed(shared, work, Some(id), failure, said).await,
        Attempt::TimedOut(limit) => {
            failed(shared, work, Some(id), transient(), format!("the handler took longer than {limit:?}"))
                .await
        }
    };
    if matches!(fate, Fate::Settled { .. }) {
        running.settled();
    }
    fate
}

/// Why a handler may not start.
enum No {
    /// Its record kills processes.
    Convicted(u16),
    /// Its partition has left, or the consumer stops.
    Gone,
}

/// A handler that runs, as the crash journal has to know of it. Dropped, also with the future of a lost partition, it
/// says that this process has survived it.
struct Running<'s> {
    shared: &'s Shared,
    started: Option<Started>,
}

impl Running<'_> {
    /// The record is settled.
    fn settled(mut self) {
        self.end(Ending::Settled);
    }

    fn end(&mut self, ending: Ending) {
        if let Some(started) = self.started.take() {
            self.shared.engine.lock().handler_ended(started, ending);
            self.shared.permits.notify_waiters();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end(Ending::Survived);
    }
}

/// Waits until the crash journal lets the handler start.
async fn permit<'s>(shared: &'s Shared, work: &Work) -> Result<Running<'s>, No> {
    loop {
        let changed = shared.permits.notified();
        let permit = shared.engine.lock().may_start(work);
        match permit {
            Permit::Start(started) => return Ok(Running { shared, started: Some(started) }),
            Permit::Convict { deaths } => return Err(No::Convicted(deaths)),
            Permit::Gone => return Err(No::Gone),
            Permit::CommitFirst | Permit::Wait => {}
        }
        if shared.is_stopping() {
            shared.engine.lock().will_not_start(work);
            return Err(No::Gone);
        }
        // The client's thread commits at its next turn, which is never far.
        let _timeout = tokio::time::timeout(AGAIN / 10, changed).await;
    }
}

/// Calls the handler. A panic is a failed attempt, never a dead process.
async fn attempt(handler: &Registration, work: &Work, id: Uuid, tx: Option<Tx>) -> Attempt {
    let record = work.record();
    let answer = match panic::catch_unwind(AssertUnwindSafe(|| handler.call.call(record, id, tx))) {
        Ok(Ok(answer)) => answer,
        Ok(Err(unreadable)) => return Attempt::Failed(Failure::Permanent, unreadable),
        Err(panic) => return Attempt::Failed(transient(), panicked(panic.as_ref())),
    };
    judge(answer, handler.timeout).await
}

pub(super) async fn judge(answer: impl Future<Output = crate::outcome::Handled>, limit: Duration) -> Attempt {
    match tokio::time::timeout(limit, AssertUnwindSafe(answer).catch_unwind()).await {
        Err(_) => Attempt::TimedOut(limit),
        Ok(Err(panic)) => Attempt::Failed(transient(), panicked(panic.as_ref())),
        Ok(Ok(Ok(Outcome::Done))) => Attempt::Done,
        Ok(Ok(Ok(Outcome::Retry { after, reason }))) => Attempt::Failed(Failure::Transient { after }, reason),
        Ok(Ok(Ok(Outcome::Reject { reason }))) => Attempt::Rejected(reason),
        Ok(Ok(Err(error))) => Attempt::Failed(error.failure(), error.sentence()),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    said.map_or("the handler panicked".into(), |said| format!("the handler panicked: {said}"))
}

fn transient() -> Failure {
    Failure::Transient { after: Duration::ZERO }
}

/// Queues the event behind the parked ones of its key.
async fn queue_up(shared: &Shared, lease: Lease, work: &mut Work, id: Uuid) -> Fate {
    match inbox::follow(&lease, &shared.registered.name, work.record(), id).await {
        // The marker has gone meanwhile: look again, and run.
        Ok(false) => {
            inbox::roll_back(lease).await;
            Fate::Again(Duration::ZERO)
        }
        Ok(true) => committed_or_again(lease).await,
        Err(error) => {
            inbox::roll_back(lease).await;
            trouble(work, &error)
        }
    }
}

async fn committed_or_again(lease: Lease) -> Fate {
    match inbox::commit(lease).await {
        Committed::Yes => Fate::Settled { without_handler: true },
        Committed::Aborted | Committed::Refused(_) | Committed::Unknown(_) => Fate::Again(AGAIN),
    }
}

/// Settles an event as rejected, in a transaction without the handler's effects.
async fn rejected(
    shared: &Shared,
    database: &Arc<Database>,
    work: &mut Work,
    id: Uuid,
    reason: &str,
) -> Fate {
    tracing::warn!(%id, reason, place = place(work), "rejected");
    otherwise(shared, database, work, id, Instead::Rejected(reason)).await
}

/// What is written of an event in place of its handler's effects.
enum Instead<'a> {
    Rejected(&'a str),
    Parked(Park<'a>),
}

/// Claims the event anew and writes what becomes of it.
async fn otherwise(
    shared: &Shared,
    database: &Arc<Database>,
    work: &mut Work,
    id: Uuid,
    instead: Instead<'_>,
) -> Fate {
    let scope = &shared.registered.name;
    let claimed = inbox::claim(database, scope, work.record(), id, crate::handler::TIMEOUT).await;
    let Claimed { lease, verdict, behind } = match claimed {
        Ok(claimed) => claimed,
        Err(error) => return trouble(work, &error),
    };
    if verdict != Verdict::Run {
        inbox::roll_back(lease).await;
        // Another owner has decided meanwhile, or is about to.
        return match verdict {
            Verdict::Settled(_) => Fate::Settled { without_handler: true },
            Verdict::Run | Verdict::Claimed | Verdict::TooOld => Fate::Again(AGAIN),
        };
    }
    if behind {
        return queue_up(shared, lease, work, id).await;
    }
    let written = match &instead {
        Instead::Rejected(why) => inbox::settle(&lease, scope, work.record(), id, "rejected", why).await,
        Instead::Parked(park) => inbox::park(&lease, scope, work.record(), id, park).await,
    };
    match written {
        Ok(()) => committed_or_again(lease).await,
        Err(error) => {
            inbox::roll_back(lease).await;
            trouble(work, &error)
        }
    }
}

/// The database is in trouble, not the record: nothing is counted.
fn trouble(work: &mut Work, error: &InboxError) -> Fate {
    let tries = &mut work.record_mut().tries;
    tries.uncounted = tries.uncounted.saturating_add(1);
    let delay = AGAIN * 2_u32.pow(tries.uncounted.min(4));
    tracing::warn!(error = sentence(error), again_in = ?delay, "waiting for the database");
    Fate::Again(delay)
}

pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        source = cause.source();
    }
    said
}

/// A record that no handler can be given.
async fn unreadable(shared: &Arc<Shared>, work: &mut Work, why: String) -> Fate {
    failed(shared, work, None, Failure::Permanent, why).await
}

/// An attempt has failed: the ladder says what follows.
async fn failed(
    shared: &Arc<Shared>,
    work: &mut Work,
    id: Option<Uuid>,
    failure: Failure,
    said: String,
) -> Fate {
    let now = shared.now();
    let tries = &mut work.record_mut().tries;
    let first_failure = *tries.first_failure.get_or_insert(now);
    if failure == Failure::Uncounted {
        tries.uncounted = tries.uncounted.saturating_add(1);
    } else {
        (tries.counted, tries.uncounted) = (tries.counted.saturating_add(1), 0);
    }
    let history = History { attempts: tries.counted, uncounted: tries.uncounted, first_failure };
    let attempts = tries.counted;
    let step = shared.registered.ladder.step(history, now, failure, &mut rand::rng());
    let (due, rung, held) = match step {
        Step::RetryIn(delay) => {
            tracing::warn!(place = place(work), attempts, again_in = ?delay, "an attempt failed: {said}");
            return Fate::Again(delay);
        }
        Step::Park { rung, due } => (due.saturating_sub(now), rung, false),
        Step::Exhausted(Exhausted::Skip | Exhausted::Hold | Exhausted::Halt) => (Duration::ZERO, 0, true),
    };
    let Some(database) = &shared.database else {
        // Nothing can take the record's place: it stays first of its key, and is tried on (C10).
        tracing::error!(place = place(work), attempts, again_in = ?NOWHERE, "exhausted, and there is no place to put it: {said}");
        return Fate::Again(NOWHERE);
    };
    let id = match id {
        Some(id) => id,
        None => match inbox::id_of_nameless(database, work.record()).await {
            Ok(id) => id,
            Err(error) => return trouble(work, &error),
        },
    };
    match held {
        true => {
            tracing::error!(%id, place = place(work), attempts, "held, with its key, until somebody releases it: {said}")
        }
        false => tracing::warn!(%id, place = place(work), attempts, rung, due_in = ?due, "parked: {said}"),
    }
    let park = Park { due, attempts, rung, held, error: &said };
    otherwise(shared, database, work, id, Instead::Parked(park)).await
}

fn place(work: &Work) -> String {
    let record = work.record();
    format!("{}[{}]@{}", record.topic, record.partition, record.offset)
}
