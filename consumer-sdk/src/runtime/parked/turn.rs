//! One turn of a parked key: an attempt of its first event, and what follows.
//!
//! What stands behind it follows in company ([`super::company`]). The attempt is counted before it begins, in a transaction of its own: should it end the process, whoever takes the
//! key next finds it begun by another run, and has that for an answer (C18, C25).

use std::sync::Arc;
use std::time::Duration;

use super::LOOK;
use super::company::{self, Spoilt, alone, still_alone, together, was_left};
use super::key::{BEGIN, Delay, First, Key, commit};
use crate::database::{Database, Lease};
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::journal::DEFAULT_CONVICT_AFTER;
use crate::ladder::{Exhausted, Failure, History, Step};
use crate::metrics::counts::{Ended, Retry, Settled};
use crate::runtime::Shared;
use crate::runtime::attempt::{Attempt, KILLS, Reason, TRANSIENT, UNREGISTERED, attempt, sentence};
use crate::runtime::business_key::business_key;
use crate::runtime::inbox::{self, InboxError};
use crate::runtime::letters::Failing;
use crate::runtime::permit::{Parked, Told};
use crate::tx::Tx;

/// What a lease has beyond the time-out of a handler that runs outside of the transaction.
const MARGIN: Duration = Duration::from_secs(10);

/// The pause of a key whose dead letter cannot be written.
const NOWHERE: Duration = Duration::from_secs(30);

/// The longest that a key of a paused handler waits before it is asked about again.
const PAUSED: Duration = Duration::from_secs(5);

/// What a parked key says of its last failure while an attempt is under way, and behind that how many attempts ended
/// with their process.
const BEGUN: &str = "an attempt was begun by run ";
const DEATHS: &str = "; deaths: ";

/// What the inbox says of an event that is claimed.
pub(super) const RUN: &str = "run";

/// How long the transaction that makes an attempt may come behind the one that counts it, before others may take the key.
const BETWEEN: Duration = Duration::from_secs(2);
pub(super) fn deaths(last_error: &str) -> u32 {
    last_error.rsplit_once(DEATHS).and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// The turn of one key. What it answers: whether there may be more that is due.
pub(super) struct Turn<'s> {
    pub(super) shared: &'s Arc<Shared>,
    database: &'s Database,
    pub(super) spoilt: &'s Spoilt,
    pub(super) scope: &'s str,
    pub(super) key: Key,
    /// What the key goes on to say of an attempt that is not to be made again, if its dead letter cannot be written.
    begun: Option<String>,
    /// How many events of the key are to run one by one, with this one.
    pub(super) alone: usize,
    /// 1 where the attempt at hand was begun in company, and so was not counted before.
    pub(super) to_count: i32,
}

impl<'s> Turn<'s> {
    pub(super) fn new(
        shared: &'s Arc<Shared>,
        database: &'s Database,
        spoilt: &'s Spoilt,
        key: Key,
    ) -> Turn<'s> {
        let scope = &shared.registered.name;
        Turn { shared, database, spoilt, scope, key, begun: None, alone: 0, to_count: 0 }
    }

    /// Looks at the first event of the key in the transaction that has locked it, and runs it in the next one. `running`
    /// is the crash journal's word that a handler may run.
    pub(super) async fn run(
        mut self,
        lease: Lease,
        last_error: &str,
        running: Parked,
    ) -> Result<bool, InboxError> {
        lease.batch_execute("SAVEPOINT claim").await?;
        let (verdict, first) = match self.resume(&lease, None).await? {
            Some(found) => found,
            None => return self.remove(lease).await,
        };
        if verdict != RUN {
            return self.unpark(lease, first.seq).await;
        }
        lease.batch_execute("ROLLBACK TO SAVEPOINT claim").await?;
        if was_left(last_error, &together(self.shared.run)) {
            return self.delay(lease, Delay { said: &company::left(), ..Delay::default() }).await;
        }
        self.alone = alone(last_error);
        let handler = first.record.event_type().and_then(|name| self.shared.registered.handlers.get(name));
        self.begun = last_error.starts_with(BEGUN).then(|| last_error.to_owned());
        if last_error.starts_with(BEGUN) && handler.is_some_and(|handler| handler.kind == Kind::AtMostOnce) {
            let reason = Reason::new(KILLS, "an attempt was begun and not settled: it is never made again");
            return self.exhausted(lease, &first, (Failure::Permanent, &reason), Exhausted::Skip).await;
        }
        let deaths = deaths(last_error);
        let begun = format!("{BEGUN}{}{DEATHS}{deaths}", self.shared.run);
        if last_error.starts_with(BEGUN) && last_error != begun {
            let deaths = deaths + 1;
            let convicted = deaths >= u32::from(DEFAULT_CONVICT_AFTER);
            let failure = if convicted { Failure::Permanent } else { TRANSIENT };
            let said =
                format!("the process died, or lost its database, while it ran this record{DEATHS}{deaths}");
            return self.after(lease, &first, failure, Reason::new(KILLS, said), false).await;
        }
        let Some(handler) = handler else {
            // Of a version of this consumer that knew its type.
            let reason = Reason::new(UNREGISTERED, "no handler is registered for its type any more");
            return self.exhausted(lease, &first, (Failure::Permanent, &reason), Exhausted::Hold).await;
        };
        if let Some(reason) = self.unnamed(handler, &first) {
            return self.after(lease, &first, Failure::Permanent, reason, false).await;
        }
        let told = match Told::admitted(self.shared, handler) {
            Ok(told) => told,
            // It makes room for keys of other handlers, which are due as well.
            Err(wait) => {
                let due = wait.clamp(LOOK, PAUSED);
                return self.delay(lease, Delay { due, said: last_error, ..Delay::default() }).await;
            }
        };
        // One that is never made again stays begun whatever comes.
        self.begun = (handler.kind == Kind::AtMostOnce).then(|| begun.clone());
        let counts = i32::from(last_error != begun);
        if self.key.attempts == 0 {
            // Its ladder, and with it its deadline, begins with this attempt.
            self.key.failing_for = Duration::ZERO;
        }
        self.key.attempts += u32::from(counts > 0);
        let outside = !matches!(handler.kind, Kind::Transactional | Kind::Batch(_));
        // The lock of the second transaction keeps others away from then on; outside of it time has to.
        let due = if outside { handler.timeout + MARGIN } else { BETWEEN };
        self.put_off(&lease, &Delay { due, counts, said: &begun, ..Delay::default() }).await?;
        // On the same connection: whoever had to wait for another would be taken for dead.
        lease.batch_execute("COMMIT AND CHAIN").await?;
        match self.resume_again(&lease, outside.then(|| handler.timeout + MARGIN)).await? {
            Some((verdict, again)) if verdict == RUN && again.seq == first.seq => {
                if outside {
                    self.run_outside(lease, handler, again, (told, running)).await
                } else {
                    self.run_inside(lease, handler, again, (told, running)).await
                }
            }
            // Somebody decided between the two transactions; what stands shows at the next turn.
            Some(_) | None => {
                inbox::roll_back(lease).await;
                Ok(false)
            }
        }
    }

    /// Why the event still has no business key: it was parked without one, as what its own id says it is.
    pub(super) fn unnamed(&self, handler: &Bound, first: &First) -> Option<Reason> {
        let dedup = handler.dedup.as_deref().filter(|_| first.event_id() == first.name.id)?;
        business_key(dedup, &Facts::new(&first.record, first.name.id)).err()
    }

    /// A handler in the transaction of the claim.
    async fn run_inside(
        &mut self,
        lease: Lease,
        handler: &Bound,
        first: First,
        (mut told, running): (Told<'_>, Parked),
    ) -> Result<bool, InboxError> {
        let shared = self.shared;
        let limit = handler.timeout.as_millis().max(1);
        lease.batch_execute(&format!("SET LOCAL statement_timeout = {limit}; SAVEPOINT handler")).await?;
        let tx = Tx::new(lease, None);
        let facts = Facts::new(&first.record, first.event_id());
        let given = tx.clone();
        let begin = || handler.one(facts, Some(given));
        let (came_to, took) = attempt(shared, &first.record, first.name.id, begin, handler.timeout).await;
        drop(running);
        told.end(success(&came_to));
        let Some(closed) = tx.close().await else { return Ok(true) };
        let lease = closed.lease;
        // What follows in the transaction is for the consumer's own role.
        let release = if lease.may_leave_something() {
            "RELEASE SAVEPOINT handler; RESET ROLE"
        } else {
            "RELEASE SAVEPOINT handler"
        };
        let came_to = match came_to {
            // In a transaction in which a statement failed this fails, too, whatever the handler says of it.
            Attempt::Done(result) => match lease.batch_execute(release).await {
                Ok(()) => return self.done(lease, handler, &first, (Attempt::Done(result), took)).await,
                Err(error) if error.code().is_some() => Attempt::passed_over(),
                Err(error) => return Err(error.into()),
            },
            other if closed.blameless => other.through_nobodys_fault(),
            other => other,
        };
        shared.registered.metrics.attempted(&first.record, came_to.ended(), took);
        if closed.stale || matches!(came_to, Attempt::TimedOut(_)) {
            // The transaction goes with its connection, and the claim with it; another may be at the key by now.
            inbox::cancel(lease).await;
            let Some((failure, reason)) = came_to.failure() else { return Ok(true) };
            return self.after(self.begin().await?, &first, failure, reason, false).await;
        }
        lease.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
        match came_to {
            Attempt::Rejected(why) => {
                inbox::settle(&lease, self.scope, &[&first.name], "rejected", &why).await?;
                tracing::warn!(id = %first.name.id, why, "rejected");
                self.unpark(lease, first.seq).await
            }
            came_to => {
                let lost = (TRANSIENT, Reason::new("lost", "it failed"));
                let (failure, reason) = came_to.failure().unwrap_or(lost);
                self.after(lease, &first, failure, reason, true).await
            }
        }
    }

    /// The handler is done: what it wrote is committed, with the event off its key, or the commit is refused. Others of the
    /// key follow in company.
    async fn done(
        &mut self,
        lease: Lease,
        handler: &Bound,
        first: &First,
        (came_to, took): (Attempt, Duration),
    ) -> Result<bool, InboxError> {
        let most = self.company_of(handler, &lease);
        let left = self.leave(lease, first.seq, most > 0).await;
        let metrics = &self.shared.registered.metrics;
        match left {
            Ok((settled, goes_on)) => {
                metrics.attempted(&first.record, came_to.ended(), took);
                if settled {
                    metrics.settled(&first.record, Settled::Done);
                }
                match goes_on {
                    Some(lease) => self.follow(lease, most).await,
                    None => Ok(settled),
                }
            }
            // By what was deferred to it, say. A server that goes away may have committed before.
            Err(InboxError::Postgres(error))
                if error.code().is_some_and(|code| !code.code().starts_with("57")) =>
            {
                metrics.attempted(&first.record, Ended::NotCommitted, took);
                let Some((failure, reason)) = Attempt::not_committed(error).failure() else {
                    return Ok(true);
                };
                self.after(self.begin().await?, first, failure, reason, false).await
            }
            Err(error) => Err(error),
        }
    }

    /// The event leaves its key. Whether that is committed; and, where others may follow in company and there are some, the
    /// connection, in a transaction that has just begun.
    async fn leave(
        &self,
        lease: Lease,
        seq: i64,
        company: bool,
    ) -> Result<(bool, Option<Lease>), InboxError> {
        if self.take_off(&lease, &[seq]).await? == 0 {
            return Ok((self.remove(lease).await?, None));
        }
        if company && self.goes_on(&lease).await? {
            let said = together(self.shared.run);
            self.put_off(&lease, &Delay { due: BETWEEN, said: &said, ..Delay::default() }).await?;
            // No statement of this transaction has failed, or the answers would have said so: it does commit.
            lease.batch_execute("COMMIT AND CHAIN").await?;
            return Ok((true, Some(lease)));
        }
        if self.alone > 1 {
            self.put_off(&lease, &Delay { said: &still_alone(self.alone - 1), ..Delay::default() }).await?;
        }
        Ok((commit(lease).await?, None))
    }

    /// A handler outside of the transaction: claimed with a lease, run, settled by the token.
    async fn run_outside(
        &self,
        lease: Lease,
        handler: &Bound,
        first: First,
        (mut told, running): (Told<'_>, Parked),
    ) -> Result<bool, InboxError> {
        let (shared, name) = (self.shared, &first.name);
        let Some(token) = first.token else {
            inbox::roll_back(lease).await;
            return Ok(false);
        };
        if !commit(lease).await? {
            return Ok(false);
        }
        let facts = Facts::new(&first.record, first.event_id());
        let begin = || handler.one(facts, None);
        let (came_to, took) = attempt(shared, &first.record, name.id, begin, handler.timeout).await;
        drop(running);
        told.end(success(&came_to));
        shared.registered.metrics.attempted(&first.record, came_to.ended(), took);
        let how = match &came_to {
            Attempt::Done(result) => Some(("done", result.as_deref(), None)),
            Attempt::Rejected(why) => Some(("rejected", None, Some(why.as_str()))),
            Attempt::Failed(..) | Attempt::TimedOut(_) => None,
        };
        if let Some(how) = how {
            // Where this fails the lease ends, and the call is made once more, under the same idempotency key.
            inbox::settle_outside(self.database, self.scope, name, token, how).await?;
        } else {
            inbox::give_back_outside(self.database, self.scope, name, token).await?;
        }
        let lease = self.begin().await?;
        match came_to.failure() {
            None => self.unpark(lease, first.seq).await,
            // It may have had its effect: never again.
            Some((_, reason)) if handler.kind == Kind::AtMostOnce => {
                self.exhausted(lease, &first, (Failure::Permanent, &reason), Exhausted::Skip).await
            }
            Some((failure, reason)) => self.after(lease, &first, failure, reason, false).await,
        }
    }

    /// The attempt has failed: the ladder says what follows. `claimed`: by this very transaction.
    pub(super) async fn after(
        &self,
        lease: Lease,
        first: &First,
        failure: Failure,
        reason: Reason,
        claimed: bool,
    ) -> Result<bool, InboxError> {
        let (registered, key) = (&self.shared.registered, &self.key);
        let history = History { attempts: key.attempts, uncounted: 1, first_failure: Duration::ZERO };
        let step = registered.ladder.step(history, key.failing_for, failure, &mut rand::rng());
        if self.alone > 0 {
            // What the key says from now on says nothing of that; one that ends the process may still be behind.
            self.spoilt.spoil(key);
        }
        if claimed {
            // The claim goes, and the event is parked again.
            inbox::settle(&lease, self.scope, &[&first.name], "retry", &reason.said).await?;
        }
        let (due, rung, counts) = match step {
            Step::RetryIn(delay) => {
                registered.metrics.retried(&first.record, Retry::InPlace);
                // Nobody's fault, which takes no rung: the attempt was counted before it began (C44).
                let uncounted = failure == Failure::Uncounted;
                (delay, (!uncounted).then_some(0), -i32::from(uncounted))
            }
            Step::Park { rung, due } => {
                registered.metrics.retried(&first.record, Retry::Rung(rung));
                (due.saturating_sub(key.failing_for), Some(rung), 0)
            }
            Step::Exhausted(how) => return self.exhausted(lease, first, (failure, &reason), how).await,
        };
        let said = &reason.said;
        tracing::warn!(id = %first.name.id, topic = key.topic, ?rung, due_in = ?due, "a parked event failed again: {said}");
        self.delay(lease, Delay { due, rung, counts, said, ..Delay::default() }).await
    }

    /// No attempt is left: a dead letter, and the key goes on; or the key is held.
    async fn exhausted(
        &self,
        lease: Lease,
        first: &First,
        (failure, reason): (Failure, &Reason),
        how: Exhausted,
    ) -> Result<bool, InboxError> {
        let (registered, key) = (&self.shared.registered, &self.key);
        let (id, said) = (first.name.id, reason.said.as_str());
        if how != Exhausted::Skip {
            tracing::error!(%id, topic = key.topic, "held, with its key, until somebody releases it: {said}");
            return self.delay(lease, Delay { held: true, said, ..Delay::default() }).await;
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
        match self.shared.letters.send(registered, failing).await {
            Ok(placed) => {
                registered.metrics.dead_letter(&first.record, reason.counted(failure));
                tracing::error!(%id, letter = %placed, "a dead letter: {said}");
            }
            Err(error) => {
                tracing::error!(%id, again_in = ?NOWHERE, error = sentence(&error), "its dead letter is not written");
                // An attempt that was begun elsewhere stays begun: what it comes to is found once more, and nothing runs.
                let said = self.begun.as_deref().unwrap_or(said);
                return self.delay(lease, Delay { due: NOWHERE, said, ..Delay::default() }).await;
            }
        }
        // Claimed once more by this transaction, which may then decide otherwise about it.
        let Some((verdict, again)) = self.resume(&lease, None).await? else {
            inbox::roll_back(lease).await;
            return Ok(false);
        };
        if verdict == RUN && again.seq == first.seq {
            inbox::settle(&lease, self.scope, &[&again.name], "dead", said).await?;
        }
        self.unpark(lease, again.seq).await
    }

    /// A transaction of another connection.
    async fn begin(&self) -> Result<Lease, InboxError> {
        let lease = self.database.lease().await?;
        lease.batch_execute(BEGIN).await?;
        Ok(lease)
    }

    /// The key waits for its next attempt, or for somebody.
    async fn delay(&self, lease: Lease, delay: Delay<'_>) -> Result<bool, InboxError> {
        self.put_off(&lease, &delay).await?;
        commit(lease).await
    }

    /// Takes the event off its key and commits; then the marker, where nothing stands behind it.
    async fn unpark(&self, lease: Lease, seq: i64) -> Result<bool, InboxError> {
        if self.take_off(&lease, &[seq]).await? > 0 {
            return commit(lease).await;
        }
        // In the same transaction: from the lock on followers wait, and a follower that was quicker is counted.
        self.remove(lease).await
    }
}

/// What an attempt tells the retry budget: a failure says nothing new of the other events, since it failed before.
pub(super) fn success(came_to: &Attempt) -> Option<bool> {
    came_to.is_failure().filter(|failed| !failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_read_from_what_a_key_says_and_from_nothing_else() {
        assert_eq!(deaths(&format!("{BEGUN}x{DEATHS}2")), 2);
        assert_eq!(deaths(&format!("the process died{DEATHS}3")), 3);
        assert_eq!(["", "no stock", "; deaths: many"].map(deaths), [0, 0, 0]);
    }
}
