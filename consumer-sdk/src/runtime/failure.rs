//! An attempt has failed: the ladder says what follows, and here it is done.
//!
//! A failed record is settled only when what takes its place is durable: parked, or its dead letter written and its
//! settlement with it (C10). Where that cannot be done the record stays first of its key and is tried on, visibly.

use std::time::Duration;

use super::attempt::{Reason, TOO_OLD, sentence};
use super::engine::Work;
use super::inbox::{self, Claimed, Committed, Event, InboxError, Name, Park, Verdict};
use super::letters::Failing;
use super::worker::Fate;
use super::{AGAIN, Shared};
use crate::consumer::ParkLimits;
use crate::database::{Database, Lease};
use crate::handler::{Kind, TIMEOUT};
use crate::ladder::{Exhausted, Failure, History, Step};
use crate::metrics::counts::{Retry, Settled};

/// The pause of an exhausted record for which there is no place.
const NOWHERE: Duration = Duration::from_secs(10);

/// The pause between attempts of a record that halts its partition.
const HALTED: Duration = Duration::from_secs(60);

/// A record whose attempt failed.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) reason: Reason,
    /// What kind of handler it has; `None` where none can be given it.
    pub(super) kind: Option<Kind>,
    /// What it is known by, where it has an id.
    pub(super) name: Option<Name>,
    /// The token of its claim, where its handler ran outside of the transaction.
    pub(super) token: Option<uuid::Uuid>,
}

/// The ladder's word on the first record of the run, carried out.
pub(super) async fn failed(shared: &Shared, work: &mut Work, failed: Failed) -> Fate {
    let now = shared.now();
    let Some(record) = work.first_mut() else { return Fate::Again(AGAIN) };
    let tries = &mut record.tries;
    let first_failure = *tries.first_failure.get_or_insert(now);
    if failed.failure == Failure::Uncounted {
        tries.uncounted = tries.uncounted.saturating_add(1);
    } else {
        (tries.counted, tries.uncounted) = (tries.counted.saturating_add(1), 0);
    }
    let tries = record.tries;
    let history = History { attempts: tries.counted, uncounted: tries.uncounted, first_failure };
    let step = shared.registered.ladder.step(history, now, failed.failure, &mut rand::rng());
    let (place, said) = (record.place(), &failed.reason.said);
    let attempts = tries.counted;
    match step {
        Step::RetryIn(delay) => {
            shared.registered.metrics.retried(record, Retry::InPlace);
            tracing::warn!(place, attempts, again_in = ?delay, "an attempt failed: {said}");
            Fate::Again(delay)
        }
        Step::Park { rung, due } => {
            let due = due.saturating_sub(now);
            shared.registered.metrics.retried(record, Retry::Rung(rung));
            match place_of(shared, failed.kind) {
                Some(database) => {
                    tracing::warn!(place, attempts, rung, due_in = ?due, "parked: {said}");
                    let park = Park { due, attempts, rung, held: false, error: said };
                    let name = name_of(work, failed.name);
                    otherwise(shared, database, work, &name, Instead::Parked(park)).await
                }
                None => {
                    tracing::warn!(place, attempts, rung, again_in = ?due, "its key waits here: {said}");
                    Fate::Again(due)
                }
            }
        }
        Step::Exhausted(how) => exhausted(shared, work, failed, how).await,
    }
}

/// Where the park is, for those that may wait there.
fn place_of(shared: &Shared, kind: Option<Kind>) -> Option<&Database> {
    shared.database.as_ref().filter(|_| kind.is_none_or(Kind::parks))
}

fn name_of(work: &Work, name: Option<Name>) -> Name {
    // A record without id is known by where it stands.
    name.or_else(|| work.first().map(Name::of_place)).unwrap_or_else(|| Name::of_key(String::new()))
}

async fn exhausted(shared: &Shared, work: &mut Work, failed: Failed, how: Exhausted) -> Fate {
    // What may never run again has nothing to wait for.
    let how = if failed.kind == Some(Kind::AtMostOnce) { Exhausted::Skip } else { how };
    let Some(record) = work.first_mut() else { return Fate::Again(AGAIN) };
    let (place, attempts) = (record.place(), record.tries.counted);
    let said = &failed.reason.said;
    match (how, place_of(shared, failed.kind)) {
        (Exhausted::Skip, _) => bury(shared, work, failed).await,
        (Exhausted::Hold, Some(database)) => {
            tracing::error!(place, attempts, "held, with its key, until somebody releases it: {said}");
            let park = Park { due: Duration::ZERO, attempts, rung: 0, held: true, error: said };
            let name = name_of(work, failed.name);
            otherwise(shared, database, work, &name, Instead::Parked(park)).await
        }
        (Exhausted::Hold, None) => {
            tracing::error!(place, attempts, again_in = ?NOWHERE, "exhausted; its key is held here, and it is tried on: {said}");
            Fate::Again(NOWHERE)
        }
        (Exhausted::Halt, _) => {
            if !std::mem::replace(&mut record.tries.halts, true) {
                shared.engine().halt(work.lane());
            }
            tracing::error!(place, attempts, again_in = ?HALTED, "its partition is halted, and nothing more is read of it: {said}");
            Fate::Again(HALTED)
        }
    }
}

/// Writes the dead letter, and then the settlement.
async fn bury(shared: &Shared, work: &mut Work, failed: Failed) -> Fate {
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let failing_for =
        record.tries.first_failure.map_or(Duration::ZERO, |first| shared.now().saturating_sub(first));
    let handler = failed.kind.and(record.event_type());
    let failing = Failing {
        record,
        name: failed.name.as_ref(),
        handler,
        reason: &failed.reason,
        attempts: record.tries.counted,
        failing_for,
        replay: 0,
    };
    match shared.letters.send(&shared.registered, failing).await {
        Ok(placed) => {
            shared.registered.metrics.dead_letter(record, failed.reason.counted(failed.failure));
            tracing::error!(place = record.place(), letter = %placed, "a dead letter: {}", failed.reason.said);
        }
        Err(error) => {
            // Nothing has taken its place: it stays first of its key (C12).
            tracing::error!(place = record.place(), again_in = ?NOWHERE, error = sentence(&error), "its dead letter is not written");
            return Fate::Again(NOWHERE);
        }
    }
    let (Some(database), false) = (&shared.database, failed.kind == Some(Kind::Idempotent)) else {
        return Fate::Settled(Settled::Dead);
    };
    let name = name_of(work, failed.name);
    let said = failed.reason.said.as_str();
    match failed.token {
        Some(token) => {
            let how = ("dead", None, Some(said));
            match inbox::settle_outside(database, &shared.registered.name, &name, token, how).await {
                Ok(_) => Fate::Settled(Settled::Dead),
                Err(error) => trouble(work, &sentence(&error)),
            }
        }
        None if failed.reason.cause == TOO_OLD => Fate::Settled(Settled::Dead),
        None => otherwise(shared, database, work, &name, Instead::Dead(said)).await,
    }
}

/// What is written of an event in place of its handler's effects.
pub(super) enum Instead<'a> {
    Rejected(&'a str),
    Dead(&'a str),
    Parked(Park<'a>),
}

/// Settles an event as rejected, in a transaction without the handler's effects.
pub(super) async fn rejected(
    shared: &Shared,
    database: &Database,
    work: &mut Work,
    name: &Name,
    reason: &str,
) -> Fate {
    tracing::warn!(id = %name.id, reason, "rejected");
    otherwise(shared, database, work, name, Instead::Rejected(reason)).await
}

/// Claims the event anew and writes what becomes of it.
async fn otherwise(
    shared: &Shared,
    database: &Database,
    work: &mut Work,
    name: &Name,
    instead: Instead<'_>,
) -> Fate {
    let scope = &shared.registered.name;
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let event = Event { record, name };
    let Claimed { lease, verdicts, parked } =
        match inbox::claim(database, scope, &[vec![event]], TIMEOUT).await {
            Ok(claimed) => claimed,
            Err(InboxError::Waits) => return Fate::Again(AGAIN),
            Err(error) => return trouble(work, &sentence(&error)),
        };
    match verdicts.into_iter().next() {
        Some(Verdict::Run) => {}
        // Another owner has decided meanwhile, or is about to.
        Some(Verdict::Settled(_)) => {
            inbox::roll_back(lease).await;
            return Fate::Settled(Settled::Duplicate);
        }
        Some(Verdict::Claimed | Verdict::TooOld | Verdict::Repeated) | None => {
            inbox::roll_back(lease).await;
            return Fate::Again(AGAIN);
        }
    }
    let behind = parked.first() == Some(&true);
    let write = async {
        match &instead {
            Instead::Parked(_) if behind => inbox::follow(&lease, &shared.registered, &[event]).await,
            Instead::Parked(park) => {
                inbox::park(&lease, &shared.registered, event, park).await.map(|()| true)
            }
            // It has run, and failed: it decides nothing about the parked ones.
            Instead::Rejected(why) => {
                inbox::settle(&lease, scope, &[name], "rejected", why).await.map(|()| true)
            }
            Instead::Dead(why) => inbox::settle(&lease, scope, &[name], "dead", why).await.map(|()| true),
        }
    };
    let written = inbox::bounded(write, inbox::OWN).await;
    match written {
        Ok(true) => {
            let how = match instead {
                Instead::Parked(_) if behind => Settled::Queued,
                Instead::Parked(Park { held: true, .. }) => Settled::Held,
                Instead::Parked(_) => Settled::Parked,
                Instead::Rejected(_) => Settled::Rejected,
                Instead::Dead(_) => Settled::Dead,
            };
            committed_or_again(lease, how).await
        }
        // The marker has gone meanwhile: look again.
        Ok(false) => {
            inbox::roll_back(lease).await;
            Fate::Again(Duration::ZERO)
        }
        Err(error) => {
            if !matches!(error, InboxError::Postgres(_) | InboxError::Silent(_)) {
                inbox::roll_back(lease).await;
            }
            match error {
                InboxError::Full => no_room(shared, work),
                error => trouble(work, &sentence(&error)),
            }
        }
    }
}

async fn committed_or_again(lease: Lease, how: Settled) -> Fate {
    match inbox::commit(lease).await {
        Committed::Yes => Fate::Settled(how),
        Committed::Aborted | Committed::Refused(_) | Committed::Unknown(_) => Fate::Again(AGAIN),
    }
}

/// The park is full: the record stays first of its key, where it is, until there is room. Nothing is counted.
pub(super) fn no_room(shared: &Shared, work: &Work) -> Fate {
    let Some(record) = work.first() else { return Fate::Again(AGAIN) };
    let (place, ParkLimits { events_of_key, events, bytes }) = (record.place(), shared.registered.park);
    // Of thousands of keys that wait one says it.
    if shared.registered.metrics.park_is_full(NOWHERE / 2) {
        tracing::error!(
            place,
            again_in = ?NOWHERE,
            "the park is full: it may hold {events_of_key} events of a key, and {events} events or {bytes} bytes in all; what \
             would be parked waits here with its key. Mend what fails, release or discard what is held (outbox-dlq parked), \
             or raise park_limits()"
        );
    }
    Fate::Again(NOWHERE)
}

/// The database is in trouble, not the record: nothing is counted.
pub(super) fn trouble(work: &mut Work, said: &str) -> Fate {
    let Some(record) = work.first_mut() else { return Fate::Again(AGAIN) };
    let tries = &mut record.tries;
    tries.uncounted = tries.uncounted.saturating_add(1);
    let delay = AGAIN * 2_u32.pow(tries.uncounted.min(4));
    tracing::warn!(again_in = ?delay, "waiting for the database: {said}");
    Fate::Again(delay)
}
