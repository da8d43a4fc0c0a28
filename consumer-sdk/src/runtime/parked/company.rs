//! What stands behind the first event of a parked key and has not failed itself: run in one transaction, once the first is
//! done. So a key goes on far faster than its events come, and its park ends.
//!
//! | what happens in company | what follows |
//! |---|---|
//! | an event fails | what ran before it is committed; its attempt is counted; the rest waits behind it |
//! | it fails for the last time, and becomes a dead letter | the same, but it runs once more, by itself: nobody else's effects wait for Kafka, and no letter is of an event whose company was not committed |
//! | it leaves something in the session | the company ends with it |
//! | it runs out of time, or the COMMIT is refused | nothing of the company has happened; the key's next events run one by one |
//! | the process ends | the key says so, and whoever finds it runs its next events one by one: in company nobody is named (C25) |

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_postgres::error::SqlState;

use super::key::{Delay, First, Key, commit};
use super::turn::{RUN, Turn, success};
use crate::database::Lease;
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::ladder::{Exhausted, Failure, History, Step};
use crate::metrics::counts::{Ended, Settled};
use crate::runtime::attempt::{Attempt, Reason, TRANSIENT, attempt};
use crate::runtime::inbox::{self, InboxError};
use crate::runtime::permit::{Parked, Told};
use crate::tx::Tx;

/// Events of a company, where groups are not configured to be smaller.
pub(super) const MOST: usize = 50;
/// A company that has lasted this long begins no further event: whoever is suspected of killing the process waits for it,
/// and so does whoever needs what it has locked.
const LONGEST: Duration = Duration::from_millis(500);
/// Keys of which it is remembered that their company came to nothing.
const REMEMBERED: usize = 1_000;

/// What a key says while a company of its events is under way.
const TOGETHER: &str = "events of this key were begun together by run ";
/// Behind what a key says: so many of its events are to run one by one.
const ALONE: &str = "; alone: ";
/// What a key says between two events.
const NEXT: &str = "it waited behind an event that is settled";

/// What a company that this run begins is known by.
pub(super) fn together(run: impl std::fmt::Display) -> String {
    format!("{TOGETHER}{run}")
}

/// Whether a company was begun, and by another than this run: its process has ended, or lost its database.
pub(super) fn was_left(last_error: &str, ours: &str) -> bool {
    last_error.starts_with(TOGETHER) && last_error != ours
}

/// What a key says whose company was left.
pub(super) fn left() -> String {
    format!("the process died, or lost its database, while it ran events of this key together{ALONE}{MOST}")
}

/// How many events of the key are to run one by one.
pub(super) fn alone(last_error: &str) -> usize {
    last_error.rsplit_once(ALONE).and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// What a key says of those that are still to run one by one.
pub(super) fn still_alone(alone: usize) -> String {
    format!("{NEXT}{ALONE}{alone}")
}

/// Keys whose company came to nothing, through whom is not known: how many of their events run one by one.
#[derive(Debug, Default)]
pub(super) struct Spoilt(Mutex<HashMap<(String, Vec<u8>), usize>>);

impl Spoilt {
    pub(super) fn spoil(&self, key: &Key) {
        let mut spoilt = self.0.lock();
        if spoilt.len() >= REMEMBERED {
            spoilt.clear();
        }
        spoilt.insert((key.topic.clone(), key.key.clone()), MOST);
    }

    /// Whether the key's next event runs without company; counted.
    fn takes_one(&self, key: &Key) -> bool {
        let mut spoilt = self.0.lock();
        let name = (key.topic.clone(), key.key.clone());
        let Some(left) = spoilt.get_mut(&name) else { return false };
        *left -= 1;
        if *left == 0 {
            spoilt.remove(&name);
        }
        true
    }
}

/// How a company came to its end.
enum Stopped {
    /// Nobody failed.
    Well,
    /// The event that stands first now failed.
    Failed(First, Failure, Reason),
    /// It never will be done.
    Rejected(First, String),
}

/// What one event came to.
enum One {
    Done(Duration),
    Failed(Failure, Reason),
    Rejected(String),
    /// The transaction is gone, with all that was done in it.
    Spoilt,
}

/// A company at work.
struct Company {
    /// In order, with what the inbox says of them: all that it says to run are claimed.
    waiting: VecDeque<(String, First)>,
    done: Vec<(First, Duration)>,
    began: Instant,
}

impl Turn<'_> {
    /// Most events that may follow in company, now that the first is done.
    pub(super) fn company_of(&self, handler: &Bound, lease: &Lease) -> usize {
        let apart =
            handler.kind != Kind::Transactional || handler.runs_alone() || lease.may_leave_something();
        if apart || self.alone > 0 || self.spoilt.takes_one(&self.key) {
            return 0;
        }
        match self.shared.registered.group_commit.min(MOST) {
            0 | 1 => 0,
            most => most,
        }
    }

    /// Runs what stands first now, in the transaction that has just been begun on this connection. That a company is under
    /// way is on the key already.
    pub(super) async fn follow(&mut self, mut lease: Lease, most: usize) -> Result<bool, InboxError> {
        // None of them has failed before.
        (self.key.attempts, self.key.failing_for) = (1, Duration::ZERO);
        lease.batch_execute("SET LOCAL statement_timeout = 30000").await?;
        let waiting = match self.resume_some(&lease, None, most).await {
            Ok(waiting) => waiting.into(),
            // Whoever looks for keys has its lock for a moment.
            Err(InboxError::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                inbox::roll_back(lease).await;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let mut company = Company { waiting, done: Vec::new(), began: Instant::now() };
        let mut stopped = Stopped::Well;
        // Somebody may have held the key since its first event was committed.
        let free = self.goes_on(&lease).await?;
        while free && let Some(handler) = company.next_handler(self) {
            let (Ok(told), Some(running)) =
                (Told::admitted(self.shared, handler), Parked::begin(self.shared))
            else {
                break;
            };
            let Some((_, first)) = company.waiting.pop_front() else { break };
            let (open, one) = self.one(lease, handler, &first, (told, running)).await?;
            let Some(open) = open else {
                self.spoilt.spoil(&self.key);
                return Ok(true);
            };
            lease = open;
            match one {
                One::Done(took) => company.done.push((first, took)),
                One::Failed(failure, reason) => stopped = Stopped::Failed(first, failure, reason),
                One::Rejected(why) => stopped = Stopped::Rejected(first, why),
                One::Spoilt => {}
            }
            if !matches!(stopped, Stopped::Well) || lease.may_leave_something() {
                break;
            }
        }
        self.part(lease, company, stopped).await
    }

    /// One of them, behind a savepoint. No lease comes back where the transaction is lost.
    async fn one(
        &self,
        lease: Lease,
        handler: &Bound,
        first: &First,
        (mut told, running): (Told<'_>, Parked),
    ) -> Result<(Option<Lease>, One), InboxError> {
        let limit = handler.timeout.as_millis().max(1);
        lease.batch_execute(&format!("SET LOCAL statement_timeout = {limit}; SAVEPOINT handler")).await?;
        let tx = Tx::new(lease, None);
        let facts = Facts::new(&first.record, first.event_id());
        let given = tx.clone();
        let begin = || handler.one(facts, Some(given));
        let (came_to, took) =
            attempt(self.shared, &first.record, first.name.id, begin, handler.timeout).await;
        drop(running);
        told.end(success(&came_to));
        let Some(closed) = tx.close().await else { return Ok((None, One::Spoilt)) };
        let lease = closed.lease;
        let came_to = match came_to {
            Attempt::Done(_) => match lease.batch_execute("RELEASE SAVEPOINT handler").await {
                Ok(()) => return Ok((Some(lease), One::Done(took))),
                Err(error) if error.code().is_some() => Attempt::passed_over(),
                Err(error) => return Err(error.into()),
            },
            other if closed.blameless => other.through_nobodys_fault(),
            other => other,
        };
        self.shared.registered.metrics.attempted(&first.record, came_to.ended(), took);
        if closed.stale || matches!(came_to, Attempt::TimedOut(_)) {
            inbox::cancel(lease).await;
            return Ok((None, One::Spoilt));
        }
        lease.batch_execute("ROLLBACK TO SAVEPOINT handler").await?;
        let one = match came_to {
            Attempt::Rejected(why) => One::Rejected(why),
            came_to => {
                let lost = (TRANSIENT, Reason::new("lost", "it failed"));
                let (failure, reason) = came_to.failure().unwrap_or(lost);
                One::Failed(failure, reason)
            }
        };
        Ok((Some(lease), one))
    }

    /// Whether what stopped the company has no attempt left and becomes a dead letter.
    fn becomes_a_letter(&self, stopped: &Stopped) -> bool {
        let Stopped::Failed(_, failure, _) = stopped else { return false };
        let history = History { attempts: 1, uncounted: 1, first_failure: Duration::ZERO };
        let step = self.shared.registered.ladder.step(history, Duration::ZERO, *failure, &mut rand::rng());
        matches!(step, Step::Exhausted(Exhausted::Skip))
    }

    /// Commits what is done; whatever else was claimed waits again, behind the one that failed.
    async fn part(&mut self, lease: Lease, company: Company, stopped: Stopped) -> Result<bool, InboxError> {
        let Company { waiting, mut done, .. } = company;
        let mut back: Vec<_> = {
            let claimed = waiting.iter().filter(|(verdict, _)| verdict == RUN);
            claimed.map(|(_, first)| &first.name).collect()
        };
        let alone_again = !done.is_empty() && self.becomes_a_letter(&stopped);
        if let (Stopped::Failed(first, ..), true) = (&stopped, alone_again) {
            back.insert(0, &first.name);
        }
        if lease.may_leave_something() {
            // What follows in the transaction is for the consumer's own role.
            lease.batch_execute("RESET ROLE").await?;
        }
        if !back.is_empty() {
            inbox::settle(&lease, self.scope, &back, "retry", "it waits behind an event of its key").await?;
        }
        let mut seqs: Vec<i64> = done.iter().map(|(first, _)| first.seq).collect();
        if let Stopped::Rejected(first, why) = &stopped {
            inbox::settle(&lease, self.scope, &[&first.name], "rejected", why).await?;
            tracing::warn!(id = %first.name.id, why, "rejected");
            seqs.push(first.seq);
        }
        let left = self.take_off(&lease, &seqs).await?;
        if seqs.is_empty() {
            self.put_off(&lease, &Delay { said: NEXT, ..Delay::default() }).await?;
        }
        let committed = match stopped {
            Stopped::Failed(..) if alone_again => commit(lease).await,
            Stopped::Failed(first, failure, reason) => {
                self.to_count = 1;
                self.after(lease, &first, failure, reason, true).await
            }
            Stopped::Well | Stopped::Rejected(..) if left > 0 => commit(lease).await,
            Stopped::Well | Stopped::Rejected(..) => self.remove(lease).await,
        };
        match committed {
            Ok(true) => {}
            // By what was deferred to it, say, and nobody knows by whom.
            Err(InboxError::Postgres(error)) if error.code().is_some() => {
                self.spoilt.spoil(&self.key);
                tracing::warn!(%error, topic = self.key.topic, "parked events that ran together are not committed; they run one by one");
                return Ok(true);
            }
            other => return other,
        }
        let metrics = &self.shared.registered.metrics;
        for (first, took) in done.drain(..) {
            metrics.attempted(&first.record, Ended::Done, took);
            metrics.settled(&first.record, Settled::Done);
        }
        Ok(true)
    }
}

impl Company {
    /// The handler of the next of them, where it may have company.
    fn next_handler<'t>(&self, turn: &Turn<'t>) -> Option<&'t Bound> {
        let (verdict, first) = self.waiting.front()?;
        let late = !self.done.is_empty() && self.began.elapsed() > LONGEST;
        // What was settled otherwise is taken off when it stands first.
        if late || verdict != RUN || turn.shared.is_stopping() {
            return None;
        }
        let handler = turn.shared.registered.handlers.get(first.record.event_type()?)?;
        let together = handler.kind == Kind::Transactional && !handler.runs_alone();
        (together && turn.unnamed(handler, first).is_none()).then_some(handler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_says_of_its_company_is_read_as_it_was_written() {
        let ours = together("a");
        assert!(was_left(&together("b"), &ours) && !was_left(&ours, &ours) && !was_left("no stock", &ours));
        assert_eq!(
            (alone(&left()), alone(&still_alone(7)), alone(NEXT), alone("; alone: all")),
            (MOST, 7, 0, 0)
        );
        assert!(!was_left(&left(), &ours), "said once");
    }

    #[test]
    fn a_key_that_is_spoilt_has_no_company_for_a_while() {
        let key = |name: &str| Key::named("t", name.as_bytes());
        let spoilt = Spoilt::default();
        spoilt.spoil(&key("a"));
        assert_eq!((0..100).filter(|_| spoilt.takes_one(&key("a"))).count(), MOST);
        assert!(!spoilt.takes_one(&key("b")));
    }
}
