//! Handlers that run outside of any transaction: claimed before and settled behind, or not known to the inbox at all.

use std::time::Duration;

use super::attempt::{Attempt, Reason, TOO_OLD, attempt, sentence};
use super::engine::Work;
use super::failure::{Failed, failed, no_room, trouble};
use super::inbox::{self, Claimed, Committed, Event, InboxError, Name, Outside, Verdict};
use super::permit::{No, Told, permit};
use super::transaction::convicted;
use super::worker::Fate;
use super::{AGAIN, Shared};
use crate::database::Database;
use crate::event::Facts;
use crate::handler::{Bound, Kind, TIMEOUT};
use crate::ladder::Failure;
use crate::metrics::counts::{Named, Settled};

/// What a claim's lease has beyond the handler's time-out.
const MARGIN: Duration = Duration::from_secs(10);

/// The pause before a settlement is tried again whose handler has run.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Claim, handler, settlement: three things one after the other.
pub(super) async fn external(
    shared: &Shared,
    database: &Database,
    work: &mut Work,
    handler: &Bound,
    name: Name,
    mut told: Told<'_>,
) -> Fate {
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let scope = &shared.registered.name;
    let once = handler.kind == Kind::AtMostOnce;
    let lease = (!once).then(|| handler.timeout + MARGIN);
    let claimed = inbox::claim_outside(database, scope, Event { record, name: &name }, lease).await;
    let Outside { verdict, token, behind } = match claimed {
        Ok(claimed) => claimed,
        Err(InboxError::Waits) => return Fate::Again(AGAIN),
        Err(error) => return trouble(work, &sentence(&error)),
    };
    let token = match (verdict, token) {
        (Verdict::Run, Some(token)) => token,
        (Verdict::Run, None) if behind => return queue_up(shared, database, work, &name).await,
        (Verdict::Settled(how), _) => {
            tracing::debug!(id = %name.id, how, "settled before: skipped");
            return Fate::Settled(Settled::Duplicate);
        }
        (Verdict::Claimed, _) if once => {
            tracing::warn!(id = %name.id, "somebody began it and did not settle it: it is never run again");
            return Fate::Settled(Settled::Duplicate);
        }
        (Verdict::TooOld, _) => return too_old(shared, work, handler, name).await,
        (Verdict::Run | Verdict::Claimed | Verdict::Repeated, _) => return Fate::Again(AGAIN),
    };
    let running = match permit(shared, work.lane(), record, true).await {
        Ok(running) => running,
        Err(no) => {
            give_back(shared, database, &name, token).await;
            return match no {
                No::Gone | No::Isolated => Fate::Left,
                No::Convicted(deaths) => {
                    let (failure, reason) = convicted(deaths);
                    let failing =
                        Failed { failure, reason, kind: Some(handler.kind), name: Some(name), token: None };
                    failed(shared, work, failing).await
                }
            };
        }
    };
    let facts = Facts::new(record, name.id);
    let begin = || handler.one(facts, None);
    let (came_to, took) = attempt(shared, record, name.id, begin, handler.timeout).await;
    shared.registered.metrics.attempted(record, came_to.ended(), took);
    told.end(came_to.is_failure().filter(|failed| !failed || record.tries.counted == 0));
    let fate = match came_to {
        Attempt::Done(result) => {
            settle(shared, database, &name, token, Settled::Done, (result.as_deref(), None)).await
        }
        Attempt::Rejected(why) => {
            tracing::warn!(id = %name.id, why, "rejected");
            settle(shared, database, &name, token, Settled::Rejected, (None, Some(&why))).await
        }
        failure if once => {
            // It may have had its effect: never again.
            let reason =
                failure.failure().map_or_else(|| Reason::new("failed", "it failed"), |(_, reason)| reason);
            let kind = Some(handler.kind);
            let failing =
                Failed { failure: Failure::Permanent, reason, kind, name: Some(name), token: Some(token) };
            failed(shared, work, failing).await
        }
        failure => {
            give_back(shared, database, &name, token).await;
            let Some((failure, reason)) = failure.failure() else { return Fate::Again(AGAIN) };
            let failing = Failed { failure, reason, kind: Some(handler.kind), name: Some(name), token: None };
            failed(shared, work, failing).await
        }
    };
    if matches!(fate, Fate::Settled(_)) {
        running.settled();
    }
    fate
}

/// Settles what has run. The call is made, so this is tried until it is done, or somebody else has decided.
async fn settle(
    shared: &Shared,
    database: &Database,
    name: &Name,
    token: uuid::Uuid,
    how: Settled,
    (result, error): (Option<&[u8]>, Option<&str>),
) -> Fate {
    let written = (how.name(), result, error);
    loop {
        let settle = inbox::settle_outside(database, &shared.registered.name, name, token, written);
        match inbox::bounded(settle, inbox::OWN).await {
            Ok(true) => return Fate::Settled(how),
            Ok(false) => {
                tracing::warn!(id = %name.id, "its lease had ended and another has taken it: the call may have been made twice");
                return Fate::Again(AGAIN);
            }
            Err(error) => {
                tracing::warn!(id = %name.id, again_in = ?SETTLE_AGAIN, error = sentence(&error), "settling a call that was made");
                if shared.is_stopping() {
                    return Fate::Left;
                }
                shared.pause(SETTLE_AGAIN).await;
            }
        }
    }
}

/// Where this fails the claim goes with its lease.
async fn give_back(shared: &Shared, database: &Database, name: &Name, token: uuid::Uuid) {
    let give = inbox::give_back_outside(database, &shared.registered.name, name, token);
    if let Err(error) = inbox::bounded(give, inbox::OWN).await {
        tracing::debug!(error = sentence(&error), "giving a claim back");
    }
}

async fn too_old(shared: &Shared, work: &mut Work, handler: &Bound, name: Name) -> Fate {
    let (failure, reason) = older_than_dedup();
    let failing = Failed { failure, reason, kind: Some(handler.kind), name: Some(name), token: None };
    failed(shared, work, failing).await
}

/// Nobody knows whether an event was handled that is older than the inbox (C56).
pub(super) fn older_than_dedup() -> (Failure, Reason) {
    let said = "it is older than what the inbox remembers, so nobody knows whether it was handled: look at inbox.store, \
                and at why so old an event comes";
    (Failure::Permanent, Reason::new(TOO_OLD, said))
}

/// Queues the event behind the parked ones of its key.
async fn queue_up(shared: &Shared, database: &Database, work: &mut Work, name: &Name) -> Fate {
    let scope = &shared.registered.name;
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let event = Event { record, name };
    let Claimed { lease, verdicts, parked } =
        match inbox::claim(database, scope, &[vec![event]], TIMEOUT).await {
            Ok(claimed) => claimed,
            Err(InboxError::Waits) => return Fate::Again(AGAIN),
            Err(error) => return trouble(work, &sentence(&error)),
        };
    let followed = if verdicts.first() == Some(&Verdict::Run) && parked.first() == Some(&true) {
        inbox::follow(&lease, &shared.registered, &[event]).await
    } else {
        Ok(false)
    };
    match followed {
        Ok(true) => match inbox::commit(lease).await {
            Committed::Yes => Fate::Settled(Settled::Queued),
            Committed::Aborted | Committed::Refused(_) | Committed::Unknown(_) => Fate::Again(AGAIN),
        },
        // Look again.
        Ok(false) => {
            inbox::roll_back(lease).await;
            Fate::Again(Duration::ZERO)
        }
        Err(error) => {
            inbox::roll_back(lease).await;
            match error {
                InboxError::Full => no_room(shared, work),
                error => trouble(work, &sentence(&error)),
            }
        }
    }
}

/// No transaction, no claim.
pub(super) async fn idempotent(
    shared: &Shared,
    work: &mut Work,
    handler: &Bound,
    name: Name,
    mut told: Told<'_>,
) -> Fate {
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let kind = Some(handler.kind);
    let running = match permit(shared, work.lane(), record, true).await {
        Ok(running) => running,
        Err(No::Gone | No::Isolated) => return Fate::Left,
        Err(No::Convicted(deaths)) => {
            let (failure, reason) = convicted(deaths);
            return failed(shared, work, Failed { failure, reason, kind, name: Some(name), token: None })
                .await;
        }
    };
    let facts = Facts::new(record, name.id);
    let begin = || handler.one(facts, None);
    let (came_to, took) = attempt(shared, record, name.id, begin, handler.timeout).await;
    shared.registered.metrics.attempted(record, came_to.ended(), took);
    told.end(came_to.is_failure().filter(|failed| !failed || record.tries.counted == 0));
    let fate = match came_to {
        Attempt::Done(_) => Fate::Settled(Settled::Done),
        Attempt::Rejected(reason) => {
            tracing::warn!(id = %name.id, reason, "rejected");
            Fate::Settled(Settled::Rejected)
        }
        failure => match failure.failure() {
            Some((failure, reason)) => {
                failed(shared, work, Failed { failure, reason, kind, name: Some(name), token: None }).await
            }
            None => Fate::Again(AGAIN),
        },
    };
    if matches!(fate, Fate::Settled(_)) {
        running.settled();
    }
    fate
}
