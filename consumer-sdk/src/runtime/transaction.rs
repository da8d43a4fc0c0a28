//! Claim, effects and commit in one transaction: of one event, of a group with a savepoint each, or of a batch.
//!
//! | | one event | group | batch |
//! |---|---|---|---|
//! | handler is called | once | once for each | once for all |
//! | a failure undoes | the transaction | that event, and the later ones of its key do not run | the transaction |
//! | then | the ladder | the ladder, after the commit | the events run again, in parts where it is not known whose fault it was |
//!
//! Whatever leaves a group gives its claim back in the transaction that made it, since a rollback to a savepoint leaves
//! the claim standing (C9), and is decided about after the commit by itself. So does an event of a batch whose payload
//! cannot be read. Only the loss of the connection or of the COMMIT repeats a whole group, and then in parts, and a
//! statement that failed and whose answer its handler did not wait for ([`Tx::execute_pipelined`]).

mod batch;

use std::time::Duration;

use super::Shared;
use super::attempt::{Attempt, KILLS, Reason, TRANSIENT, attempt, sentence};
use super::inbox::{self, Claimed, Committed, Event, InboxError, Name, Verdict};
use super::permit::{No, Running, Told, permit};
use crate::database::{Database, Lease};
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::ladder::Failure;
use crate::lane::Lane;
use crate::metrics::counts::{Ended, Settled};
use crate::record::Record;
use crate::tx::{Closed, Tx};

/// How long a connection has to become free of what a handler left behind before it is cancelled and thrown away.
const FREE: Duration = Duration::from_secs(2);

/// What became of a record in a transaction.
#[derive(Debug)]
pub(super) enum Turn {
    /// Settled, durably, and how.
    Settled(Settled),
    /// The attempt came to this, and nothing of it is left in the database.
    Attempted(Attempt),
    /// Its handler cannot be given it.
    GiveUp(Reason, Option<Kind>),
    /// Older than what the inbox remembers.
    TooOld,
    /// It kills processes.
    Convicted(u16),
    /// Another has it, or an earlier event of its key has to be decided about first: it comes again.
    Later,
    /// What it ran with came to nothing through another, who is known: it runs again.
    Again,
    /// What it ran with came to nothing, and nobody knows through whom: it runs again, with a part of the others.
    Apart,
    /// It runs again, by itself.
    Alone,
    /// Another has claimed it and takes its time: it waits by itself (C55).
    Blocked,
    /// Too many fail: its handler waits so long.
    Wait(Duration),
    /// There is no room in the park, where an earlier event of its key is.
    Full,
    /// The database is in trouble.
    Trouble(String),
    /// Its partition has left, or the consumer stops.
    Left,
}

impl Turn {
    /// Whether something has to be written before it is known what follows.
    pub(super) fn is_written_about(&self) -> bool {
        matches!(self, Turn::Attempted(_) | Turn::GiveUp(..) | Turn::TooOld | Turn::Convicted(_))
    }
}

/// A record that is to run, with what it is known by and who handles it.
pub(super) struct Entry<'w> {
    pub(super) record: &'w Record,
    pub(super) lane: Lane,
    pub(super) name: Name,
    pub(super) handler: &'w Bound,
    /// The retry budget's word that it may run.
    pub(super) told: Told<'w>,
}

impl Entry<'_> {
    fn event(&self) -> Event<'_> {
        Event { record: self.record, name: &self.name }
    }
}

/// An entry and what is known of it so far.
struct Place<'w, 's> {
    entry: Entry<'w>,
    verdict: Verdict,
    turn: Option<Turn>,
    running: Option<Running<'s>>,
    /// How long its handler took; of a batch the part of one event.
    took: Duration,
}

impl Place<'_, '_> {
    /// Claimed by this transaction, and nothing is known of it yet.
    fn is_open(&self) -> bool {
        self.verdict == Verdict::Run && self.turn.is_none()
    }

    /// Claimed by this transaction, and to be given back by it.
    fn goes_back(&self) -> bool {
        self.verdict == Verdict::Run && !matches!(self.turn, Some(Turn::Settled(_)))
    }
}

/// Runs the entries of some keys; a turn for each.
pub(super) async fn run(
    shared: &Shared,
    database: &Database,
    entries: Vec<Vec<Entry<'_>>>,
) -> Vec<Vec<Turn>> {
    let counts: Vec<usize> = entries.iter().map(Vec::len).collect();
    let turns = Group::run(shared, database, entries).await;
    let mut turns = turns.into_iter();
    counts.into_iter().map(|count| turns.by_ref().take(count).collect()).collect()
}

/// A transaction that is under way.
struct Group<'w, 's> {
    shared: &'s Shared,
    /// In the order of their keys.
    places: Vec<Place<'w, 's>>,
    /// Of each key, its part of the places.
    keys: Vec<std::ops::Range<usize>>,
    lease: Option<Lease>,
    /// The savepoint that stands and that nobody has released. Each has a name of its own: behind a pipelined statement
    /// that failed none is made, and a rollback to one of the same name would go to an earlier event's.
    savepoint: Option<usize>,
    /// Statements were sent whose answers are to be looked at before the COMMIT.
    pipelined: bool,
    /// One of those failed, and nobody knows whose it was: all is undone.
    spoilt: bool,
    /// The time-out of a statement that the transaction has, in milliseconds, where it was set for a handler.
    limit: Option<u128>,
}

impl<'w, 's> Group<'w, 's> {
    async fn run(shared: &'s Shared, database: &Database, entries: Vec<Vec<Entry<'w>>>) -> Vec<Turn> {
        let alone = entries.iter().map(Vec::len).sum::<usize>() == 1;
        let limit = entries.iter().flatten().map(|entry| entry.handler.timeout).max().unwrap_or_default();
        let events: Vec<Vec<Event<'_>>> =
            entries.iter().map(|key| key.iter().map(Entry::event).collect()).collect();
        let claimed = inbox::claim(database, &shared.registered.name, &events, limit).await;
        let Claimed { lease, verdicts, parked } = match claimed {
            Ok(claimed) => claimed,
            Err(error) => return entries.iter().flatten().map(|_| refused(&error, alone)).collect(),
        };
        let mut group = Group {
            shared,
            places: Vec::new(),
            keys: Vec::new(),
            lease: Some(lease),
            savepoint: None,
            pipelined: false,
            spoilt: false,
            limit: None,
        };
        let mut verdicts = verdicts.into_iter();
        for key in entries {
            let begin = group.places.len();
            group.places.extend(key.into_iter().map(|entry| {
                let verdict = verdicts.next().unwrap_or(Verdict::Claimed);
                let turn = standing(&verdict);
                Place { entry, verdict, turn, running: None, took: Duration::ZERO }
            }));
            group.keys.push(begin..group.places.len());
        }
        for (key, parked) in parked.into_iter().enumerate() {
            group.line_up(key, parked).await;
        }
        let batched =
            group.places.first().is_some_and(|place| matches!(place.entry.handler.kind, Kind::Batch(_)));
        if batched && !alone {
            Box::pin(group.batch()).await;
        } else {
            group.one_by_one(alone).await;
        }
        group.end(alone).await;
        group.copies();
        group.tell();
        group.places.into_iter().map(|place| place.turn.unwrap_or(Turn::Again)).collect()
    }

    /// What stands before an event of a key: an earlier one with an external handler, or a parked one.
    async fn line_up(&mut self, key: usize, parked: bool) {
        let range = self.keys[key].clone();
        let mut blocked = false;
        for place in &mut self.places[range.clone()] {
            blocked |= matches!(place.turn, Some(Turn::Later | Turn::TooOld));
            if blocked && place.is_open() {
                place.turn = Some(Turn::Later);
            }
        }
        if !parked {
            return;
        }
        let Some(lease) = &self.lease else { return };
        let queued: Vec<usize> = range.filter(|at| self.places[*at].is_open()).collect();
        let events: Vec<Event<'_>> = queued.iter().map(|at| self.places[*at].entry.event()).collect();
        let follow = inbox::follow(lease, &self.shared.registered, &events);
        let followed = Box::pin(inbox::bounded(follow, inbox::OWN)).await;
        let turn = || match &followed {
            Ok(true) => Turn::Settled(Settled::Queued),
            // The marker has gone meanwhile: look again, and run.
            Ok(false) => Turn::Later,
            Err(InboxError::Full) => Turn::Full,
            Err(error) => Turn::Trouble(sentence(error)),
        };
        queued.into_iter().for_each(|at| self.places[at].turn = Some(turn()));
        if matches!(followed, Err(InboxError::Postgres(_) | InboxError::Database(_) | InboxError::Silent(_)))
        {
            // The transaction is over, or the connection.
            self.lease = None;
        }
    }

    /// Calls the handlers, each behind a savepoint of its own unless it is alone.
    async fn one_by_one(&mut self, alone: bool) {
        for key in 0..self.keys.len() {
            for at in self.keys[key].clone() {
                if !self.places[at].is_open() {
                    continue;
                }
                let Some(lease) = self.lease.take() else { return };
                self.one(at, lease, alone).await;
                if !matches!(self.places[at].turn, Some(Turn::Settled(_))) {
                    // Later events of the key do not overtake it (C53).
                    let later = self.places[at + 1..self.keys[key].end].iter_mut();
                    later.filter(|place| place.is_open()).for_each(|place| place.turn = Some(Turn::Later));
                }
            }
        }
    }

    async fn one(&mut self, at: usize, lease: Lease, alone: bool) {
        let shared = self.shared;
        let place = &mut self.places[at];
        let Entry { record, lane, handler, .. } = &place.entry;
        if !alone && handler.runs_alone() {
            // It was given company before that was known.
            place.turn = Some(Turn::Alone);
            self.lease = Some(lease);
            return;
        }
        match permit(shared, *lane, record, alone).await {
            Ok(running) => place.running = Some(running),
            Err(no) => {
                place.turn = Some(denied(no));
                self.lease = Some(lease);
                return;
            }
        }
        let limit = handler.timeout.as_millis().max(1);
        let release =
            self.savepoint.map(|event| format!("RELEASE SAVEPOINT event_{event}; ")).unwrap_or_default();
        // Each has its own time-out: the statement is cancelled, and the group goes on (C51).
        let set = if self.limit == Some(limit) {
            String::new()
        } else {
            format!("SET LOCAL statement_timeout = {limit}; ")
        };
        let prelude = (!alone).then(|| format!("{release}{set}SAVEPOINT event_{at}"));
        let tx = Tx::new(lease, prelude);
        let facts = Facts::new(record, place.entry.name.id);
        let given = tx.clone();
        let begin = || handler.one(facts, Some(given));
        let (came_to, took) = attempt(shared, record, place.entry.name.id, begin, handler.timeout).await;
        place.took = took;
        // Whoever kept the handle is waited for, and then has none.
        let Some(closed) = tx.close().await else { return };
        if closed.begun && !alone {
            (self.savepoint, self.limit) = (Some(at), Some(limit));
        }
        self.pipelined |= closed.pipelined;
        // Once for each connection there may be; a statement that is refused everywhere is a failed attempt.
        let again =
            usize::try_from(record.tries.uncounted).unwrap_or(usize::MAX) < shared.registered.concurrency;
        let stale = closed.stale && (!alone || again);
        if closed.apart {
            handler.shall_run_alone(record);
            // Whatever it answered, it was not let say what it had to.
            self.look_behind(at, closed, Attempt::passed_over(), alone).await;
            self.places[at].turn = Some(Turn::Alone);
            return;
        }
        let came_to = if closed.blameless { came_to.through_nobodys_fault() } else { came_to };
        // What its own pipelined statement was refused for is heard where it is by itself, and so is whether it took too
        // long or waited for those of others.
        let waited = matches!(came_to, Attempt::TimedOut(_)) || closed.unheard;
        let guessed =
            closed.pipelined && closed.in_failed || self.pipelined && closed.begun && waited && !alone;
        let came_to = self.look_behind(at, closed, came_to, alone).await;
        if self.spoilt || guessed && !matches!(came_to, Attempt::Done(_)) {
            self.places[at].turn = Some(if self.spoilt { Turn::Apart } else { Turn::Alone });
            return;
        }
        if !matches!(came_to, Attempt::Done(_)) {
            let record = self.places[at].entry.record;
            shared.registered.metrics.attempted(record, came_to.ended(), took);
        }
        self.places[at].turn = Some(match came_to {
            Attempt::Done(_) => Turn::Settled(Settled::Done),
            Attempt::Failed(_, _) if stale => Turn::Alone,
            failed => Turn::Attempted(failed),
        });
    }

    /// Sees to the transaction after a handler: what failed is undone, and what the handler did not say is found out.
    async fn look_behind(&mut self, at: usize, closed: Closed, came_to: Attempt, alone: bool) -> Attempt {
        let Closed { mut lease, begun, failed, stale, unheard, .. } = closed;
        let came_to = match came_to {
            Attempt::Done(_) if failed => Attempt::passed_over(),
            Attempt::Done(_) if unheard => {
                match tokio::time::timeout(inbox::OWN, lease.batch_execute("SELECT")).await {
                    Ok(Ok(())) => came_to,
                    Ok(Err(_)) | Err(_) => Attempt::passed_over(),
                }
            }
            other => other,
        };
        if matches!(came_to, Attempt::Done(_)) {
            self.lease = Some(lease);
            return came_to;
        }
        if stale {
            return came_to;
        }
        if alone {
            // Nothing else is in it. A statement that still runs is cancelled with it.
            match tokio::time::timeout(FREE, lease.end("ROLLBACK")).await {
                Ok(Ok(())) => lease.give_back(),
                Ok(Err(_)) => {}
                Err(_) => inbox::cancel(lease).await,
            }
            return came_to;
        }
        if !begun {
            self.lease = Some(lease);
            return came_to;
        }
        let back = format!("ROLLBACK TO SAVEPOINT event_{at}");
        match tokio::time::timeout(FREE, lease.batch_execute(&back)).await {
            // It was made, so all that was sent before it went well.
            Ok(Ok(())) => {
                self.lease = Some(lease);
                return came_to;
            }
            Ok(Err(_)) => {}
            // The last resort, which costs the connection and so the group.
            Err(_) => inbox::cancel(lease).await,
        }
        self.spoilt |= self.pipelined;
        came_to
    }

    /// Hears what became of the statements that nobody has waited for. Where one of them failed the connection is not used
    /// again: a statement that is kept and fits its table no more would fail every group on it.
    async fn heard(&mut self, mut lease: Lease) -> Option<Lease> {
        let limit = self.places.iter().map(|place| place.entry.handler.timeout).max().unwrap_or_default();
        let error = match tokio::time::timeout(inbox::OWN + limit, lease.batch_execute("SELECT")).await {
            Ok(Ok(())) => return Some(lease),
            Ok(Err(error)) => {
                // So that nobody waits for its locks until the server has missed it.
                let rolled_back = tokio::time::timeout(FREE, lease.end("ROLLBACK")).await;
                tracing::debug!(?rolled_back, "the end of a group");
                sentence(&error)
            }
            Err(_) => {
                inbox::cancel(lease).await;
                "they took too long".to_owned()
            }
        };
        tracing::info!(
            error,
            "pipelined statements came to nothing: the events of their group run again in parts"
        );
        self.spoilt = true;
        None
    }

    /// Gives back what did not go well, and commits.
    async fn end(&mut self, alone: bool) {
        let lease = match self.lease.take() {
            Some(lease) if self.pipelined => self.heard(lease).await,
            other => other,
        };
        let Some(lease) = lease else {
            // Undone as a whole. What failed has its turn; whatever else was to be committed runs again.
            let known = |place: &Place<'_, '_>| {
                matches!(place.turn, Some(Turn::Attempted(_) | Turn::Alone | Turn::Apart | Turn::Trouble(_)))
            };
            let known = alone || !self.spoilt && self.places.iter().any(known);
            return self.undone(|| if known { Turn::Again } else { Turn::Apart });
        };
        let settled = self
            .places
            .iter()
            .any(|place| place.verdict == Verdict::Run && matches!(place.turn, Some(Turn::Settled(_))));
        if !settled {
            return inbox::roll_back(lease).await;
        }
        let back: Vec<&Name> =
            self.places.iter().filter(|place| place.goes_back()).map(|place| &place.entry.name).collect();
        let given_back = match back.is_empty() {
            true => Ok(()),
            false => {
                let scope = &self.shared.registered.name;
                let settle = inbox::settle(&lease, scope, &back, "retry", "it leaves its group");
                Box::pin(inbox::bounded(settle, inbox::OWN)).await
            }
        };
        if let Err(error) = given_back {
            tracing::warn!(error = sentence(&error), "a group is undone: its events run again in parts");
            return self.undone(|| Turn::Apart);
        }
        match inbox::commit(lease).await {
            Committed::Yes => {
                for place in &mut self.places {
                    if let (Some(Turn::Settled(how)), Some(running)) = (&place.turn, place.running.take()) {
                        running.settled();
                        if *how == Settled::Done {
                            let metrics = &self.shared.registered.metrics;
                            metrics.attempted(place.entry.record, Ended::Done, place.took);
                        }
                    }
                }
            }
            Committed::Aborted => {
                self.undone(|| if alone { Turn::Attempted(Attempt::passed_over()) } else { Turn::Apart })
            }
            Committed::Refused(error) if alone => {
                if let Attempt::Failed(failure, reason) = Attempt::not_committed(error) {
                    self.undone(|| Turn::Attempted(Attempt::Failed(failure, reason.clone())));
                }
            }
            Committed::Refused(error) => {
                tracing::warn!(%error, "a group was not committed: its events run again in parts");
                self.undone(|| Turn::Apart);
            }
            Committed::Unknown(error) => {
                tracing::warn!(%error, "the answer to a COMMIT is missing: claiming again to learn what became of it");
                // The claim waits for the old backend, so what it answers is what became of it (C43); it comes as the
                // record's next turn, before anything is counted.
                self.undone(|| if alone { Turn::Alone } else { Turn::Apart });
            }
        }
    }

    /// What the transaction settled is not settled.
    fn undone(&mut self, turn: impl Fn() -> Turn) {
        for place in self.places.iter_mut().filter(|place| place.verdict == Verdict::Run) {
            if matches!(place.turn, None | Some(Turn::Settled(_))) {
                place.turn = Some(turn());
            }
        }
    }

    /// Tells the retry budget what first attempts came to.
    fn tell(&mut self) {
        for place in &mut self.places {
            let failed = match &place.turn {
                Some(Turn::Settled(Settled::Done)) => Some(false),
                Some(Turn::Attempted(attempt)) => attempt.is_failure(),
                _ => None,
            };
            let first = place.entry.record.tries.counted == 0;
            place.entry.told.end(failed.filter(|failed| !failed || first));
        }
    }

    /// A further copy of an event is what the first one is.
    fn copies(&mut self) {
        for at in 0..self.places.len() {
            if self.places[at].verdict != Verdict::Repeated {
                continue;
            }
            let id = self.places[at].entry.name.id;
            let first = self.places[..at].iter().find(|place| place.entry.name.id == id);
            let settled = first.is_some_and(|first| matches!(first.turn, Some(Turn::Settled(_))));
            self.places[at].turn =
                Some(if settled { Turn::Settled(Settled::Duplicate) } else { Turn::Later });
        }
    }
}

/// What a verdict alone decides.
fn standing(verdict: &Verdict) -> Option<Turn> {
    match verdict {
        Verdict::Run | Verdict::Repeated => None,
        Verdict::Settled(how) => {
            tracing::debug!(how, "settled before: skipped");
            Some(Turn::Settled(Settled::Duplicate))
        }
        Verdict::Claimed => Some(Turn::Later),
        Verdict::TooOld => Some(Turn::TooOld),
    }
}

fn refused(error: &InboxError, alone: bool) -> Turn {
    match error {
        // One claim that takes its time does not stall the other keys (C55).
        InboxError::Waits if alone => Turn::Blocked,
        InboxError::Waits => Turn::Apart,
        error => Turn::Trouble(sentence(error)),
    }
}

fn denied(no: No) -> Turn {
    match no {
        No::Convicted(deaths) => Turn::Convicted(deaths),
        No::Gone => Turn::Left,
        // In isolation it has no company anyway.
        No::Isolated => Turn::Again,
    }
}

/// Why a convicted record is given up.
pub(super) fn convicted(deaths: u16) -> (Failure, Reason) {
    let said = format!("the process died {deaths} times while this record was the only one it ran");
    (Failure::Permanent, Reason { attempts: deaths.into(), ..Reason::new(KILLS, said) })
}

/// A failure of our own making, for those who cannot run.
pub(super) fn transient(cause: &str, said: &str) -> (Failure, Reason) {
    (TRANSIENT, Reason::new(cause, said))
}
