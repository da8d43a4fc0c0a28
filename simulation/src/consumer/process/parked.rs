//! The task that runs parked keys, as `consumer-sdk/src/runtime/parked.rs` has it: an attempt is counted in a transaction
//! of its own before it begins, and made in a second one; what follows is written in that one. What stands behind a first
//! event that is done follows in company, in a third.
//!
//! | step | where it comes from |
//! |---|---|
//! | `Look` | `parked::keep`, `parked::turn` up to `take` |
//! | `First` | `resume` within the savepoint, and what is done with its verdict |
//! | `Counted` | the answer to `delay(… begun …)` |
//! | `Again` | `resume` in the second transaction |
//! | `Handle` | `parked::run`: the handler, and `after`, `exhausted`, `delay`, `unpark`, `remove` |
//! | `Chained`, `Company` | `parked::company`: what follows, until one fails or has enough |
//! | `Write` | the locks that those wait for, and their COMMIT |
//! | `Answer` | `parked::commit` |

use outbox_consumer::ladder::{Exhausted, Failure, Step};

use super::conclude::{DEATH, ladder, millis};
use super::turn::TRANSIENT;
use super::worker::STATEMENT;
use super::{AGAIN, Core, Stepped};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::{Answer, Change, Delay, Gone, Lock, Marker, Said, State, TxId};
use crate::consumer::judge::CONVICT_AFTER;
use crate::consumer::log::{End, EventId, KeyId};

/// `parked::TROUBLE`.
const TROUBLE: u64 = 2_000;
/// `parked::BETWEEN`.
const BETWEEN: u64 = 2_000;
/// `company::MOST`.
const MOST: u32 = 50;
/// `parked::NOWHERE`.
const NOWHERE: u64 = 30_000;

/// What is written at the end of a turn.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// The key waits.
    Delay(Delay),
    /// The event leaves its key, and the marker goes with the last.
    Unpark(EventId),
    /// The same of one that is done: others may follow.
    Done(EventId),
    /// Those of the company leave their key.
    Part,
    /// The same, and the key waits for the one that failed.
    Stopped(Delay),
    /// The marker goes, for nothing stands behind it.
    Remove,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Look,
    First { since: u64 },
    Counted,
    Again,
    Handle { event: EventId },
    Write { what: Written, since: u64 },
    Chained,
    Company,
    Answer,
}

/// The task.
#[derive(Debug)]
pub struct Keeper {
    at: At,
    tx: Option<TxId>,
    key: KeyId,
    /// The event whose attempt is counted.
    counted: Option<EventId>,
    /// What the key said when this turn began.
    found: Said,
    attempts: u32,
    first_failed: u64,
    /// What has run in company and is not committed yet.
    company: Vec<EventId>,
    /// It looks again then.
    pauses: u64,
}

impl Keeper {
    /// A task that has nothing in hand.
    pub fn idle() -> Keeper {
        Keeper {
            at: At::Look,
            tx: None,
            key: 0,
            counted: None,
            found: Said::default(),
            attempts: 0,
            first_failed: 0,
            company: Vec::new(),
            pauses: 0,
        }
    }

    /// Whether it has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.at, At::Look)
    }

    /// Whether a handler runs.
    pub fn runs(&self) -> bool {
        matches!(self.at, At::Handle { .. } | At::Company)
    }

    /// One step.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        if around.now < self.pauses || core.stopping && self.is_idle() {
            return Stepped::Idle;
        }
        if let Some(tx) =
            self.tx.filter(|_| !matches!(self.at, At::Look | At::Counted | At::Chained | At::Answer))
            && around.db.hear(tx, around.now).is_err()
        {
            return self.trouble(around);
        }
        match self.at {
            At::Look => self.look(core, around),
            At::First { since } => self.first(core, around, since),
            At::Counted => self.counted(core, around),
            At::Again => self.again(core, around),
            At::Handle { event } => self.handle(core, around, event),
            At::Write { what, since } => self.write(core, around, what, since),
            At::Chained => self.chained(core, around),
            At::Company => self.follow(core, around),
            At::Answer => self.answer(around),
        }
    }

    fn rests(&mut self, around: &mut Around, pause: u64) -> Stepped {
        if let Some(tx) = self.tx.take() {
            around.db.abort(tx, None);
        }
        self.at = At::Look;
        self.pauses = around.now + pause;
        Stepped::On
    }

    /// The database answers no more; its connection is thrown away.
    fn trouble(&mut self, around: &mut Around) -> Stepped {
        if let Some(tx) = self.tx.take() {
            around.db.drop_connection(tx, around.now);
        }
        self.rests(around, TROUBLE)
    }

    fn look(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        self.pauses = around.now + AGAIN;
        // One record is on trial, and whatever ran beside it could be the one that kills.
        if core.engine.is_isolated() {
            return Stepped::Idle;
        }
        let (scope, now) = (core.scope, around.now);
        let due = |marker: &Marker| !marker.held && marker.due <= now;
        let markers = around.db.markers.iter().filter(|((of, _), marker)| *of == scope && due(marker));
        let candidates: Vec<KeyId> = markers.map(|((_, key), _)| *key).collect();
        if candidates.is_empty() {
            return Stepped::Idle;
        }
        let Ok(tx) = around.db.begin(core.who, now) else { return self.rests(around, TROUBLE) };
        self.tx = Some(tx);
        let taken = candidates.into_iter().find(|key| around.db.lock(tx, Lock::Claimant(scope, *key)));
        let Some(key) = taken else {
            self.rests(around, AGAIN);
            return Stepped::Idle;
        };
        self.key = key;
        if let Some(marker) = around.db.markers.get(&(scope, key)) {
            (self.attempts, self.first_failed) = (marker.attempts, marker.first_failed);
        }
        self.pauses = 0;
        self.at = At::First { since: now };
        Stepped::On
    }

    /// `inbox.resume`: the first event, claimed; `None` where its row is another's for the moment.
    fn resume(&self, core: &Core, around: &mut Around) -> Option<Result<EventId, Option<EventId>>> {
        let (scope, tx) = (core.scope, self.tx?);
        let queue = around.db.markers.get(&(scope, self.key)).map(|marker| &marker.queue);
        let first = match queue {
            Some(queue) if around.is(Mutant::UnparkWrongOrder) => queue.back().copied(),
            Some(queue) => queue.front().copied(),
            None => None,
        };
        let Some(event) = first else { return Some(Err(None)) };
        if !around.db.lock(tx, Lock::Claim(scope, event)) {
            return None;
        }
        match around.db.row(scope, event) {
            Some(State::Parked) => Some(Ok(event)),
            _ => Some(Err(Some(event))),
        }
    }

    fn first(&mut self, core: &mut Core, around: &mut Around, since: u64) -> Stepped {
        let Some(tx) = self.tx else { return Stepped::Idle };
        let (scope, now) = (core.scope, around.now);
        let event = match self.resume(core, around) {
            None if now < since + STATEMENT => return Stepped::Idle,
            None => return self.trouble(around),
            Some(Err(None)) => return self.writes(around, Written::Remove),
            Some(Err(Some(settled))) => return self.writes(around, Written::Unpark(settled)),
            Some(Ok(event)) => event,
        };
        around.db.unlock(tx, Lock::Claim(scope, event));
        let said = around.db.markers.get(&(scope, self.key)).map(|marker| marker.said).unwrap_or_default();
        let run = core.who.1;
        self.found = said;
        if said.begun_by.is_some_and(|by| by != run) {
            let deaths = said.deaths + 1;
            around.tell(|| format!("{:?}: parked event {event} ended {deaths} processes", core.who));
            if deaths >= u32::from(CONVICT_AFTER) {
                return self.after(core, around, event, Failure::Permanent, deaths);
            }
            return self.after(core, around, event, DEATH, deaths);
        }
        if !around.db.lock(tx, Lock::Marker(scope, self.key)) {
            return if now < since + STATEMENT { Stepped::Idle } else { self.trouble(around) };
        }
        if said.together_by.is_some_and(|by| by != run) {
            around.tell(|| format!("{:?}: a company of key {} ended with its process", core.who, self.key));
            let said = Said { alone: MOST, ..Said::default() };
            return self
                .writes(around, Written::Delay(Delay { due: now, attempts: 0, held: false, said, now }));
        }
        let counts = u32::from(said.begun_by != Some(run));
        // What this process has begun itself has ended nobody, whatever another took it for: it may make it.
        if counts > 0 {
            around.judge.counts_parked(scope, event);
        }
        self.attempts += counts;
        self.counted = Some(event);
        let begun = Said { begun_by: Some(run), deaths: said.deaths, ..Said::default() };
        let delay = Delay { due: now + BETWEEN, attempts: counts, held: false, said: begun, now };
        around.db.change(tx, Change::Delay(scope, self.key, delay));
        around.db.commit(tx);
        self.at = At::Counted;
        Stepped::On
    }

    fn counted(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return Stepped::Idle };
        self.tx = None;
        if answer != Answer::Yes {
            return self.rests(around, TROUBLE);
        }
        match around.db.begin(core.who, around.now) {
            Ok(tx) => {
                self.tx = Some(tx);
                self.at = At::Again;
                Stepped::On
            }
            Err(Gone) => self.rests(around, TROUBLE),
        }
    }

    fn again(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        let Some(tx) = self.tx else { return Stepped::Idle };
        if !around.db.lock(tx, Lock::Claimant(core.scope, self.key)) {
            return self.rests(around, TROUBLE);
        }
        match self.resume(core, around) {
            None => Stepped::Idle,
            Some(Ok(event)) if self.counted == Some(event) || around.is(Mutant::AnotherFirst) => {
                around.judge.hold(self.counted == Some(event), || {
                    format!("parked event {event} runs, and the attempt of {:?} is counted", self.counted)
                });
                around.judge.runs_parked(core.scope, event);
                around.tell(|| format!("{:?} runs parked event {event}", core.who));
                self.at = At::Handle { event };
                Stepped::On
            }
            // Somebody decided between the two transactions.
            Some(_) => self.rests(around, AGAIN),
        }
    }

    fn handle(&mut self, core: &mut Core, around: &mut Around, event: EventId) -> Stepped {
        let Some(tx) = self.tx else { return Stepped::Idle };
        let scope = core.scope;
        let what = &mut around.log.events[event];
        let call = what.calls[scope];
        what.calls[scope] += 1;
        match (call >= u32::from(what.fails)).then_some(what.end) {
            Some(End::Kill) => {
                around.judge.killed(&around.log, true, scope, event);
                Stepped::Killed(event)
            }
            None => self.after(core, around, event, TRANSIENT, 0),
            Some(End::Permanent) => self.after(core, around, event, Failure::Permanent, 0),
            Some(End::Reject) => {
                around.db.change(tx, Change::Settle(scope, event, State::Rejected));
                self.writes(around, Written::Unpark(event))
            }
            Some(End::Done | End::Skip) => {
                around.db.change(tx, Change::Settle(scope, event, State::Done));
                around.db.change(tx, Change::Effect(scope, event));
                self.writes(around, Written::Done(event))
            }
        }
    }

    /// `after` and `exhausted`.
    fn after(
        &mut self,
        core: &Core,
        around: &mut Around,
        event: EventId,
        failure: Failure,
        deaths: u32,
    ) -> Stepped {
        let (now, failing_for) = (around.now, around.now.saturating_sub(self.first_failed));
        let Some(tx) = self.tx else { return Stepped::Idle };
        let step = ladder(around, self.attempts, failing_for, failure);
        around.tell(|| {
            format!("{:?}: parked event {event} failed {} times: {step:?}", core.who, self.attempts)
        });
        if deaths > 0 && matches!(step, Step::Exhausted(Exhausted::Skip)) {
            around.judge.gives_up(core.scope, event);
        }
        let said = Said { deaths, ..Said::default() };
        let delay = |due, held| Written::Delay(Delay { due, attempts: 0, held, said, now });
        let what = match step {
            Step::RetryIn(wait) => delay(now + millis(wait), false),
            Step::Park { due, .. } => delay(now + millis(due).saturating_sub(failing_for), false),
            Step::Exhausted(Exhausted::Hold | Exhausted::Halt) => delay(now, true),
            // Its dead letter cannot be written.
            // An attempt that was begun elsewhere stays begun.
            Step::Exhausted(Exhausted::Skip) if around.fault(10) => {
                let convicted = deaths > 0 && !around.is(Mutant::LetterlessRuns);
                let said = if convicted { self.found } else { said };
                Written::Delay(Delay { due: now + NOWHERE, attempts: 0, held: false, said, now })
            }
            Step::Exhausted(Exhausted::Skip) => {
                if !around.db.lock(tx, Lock::Claim(core.scope, event)) {
                    return self.trouble(around);
                }
                around.db.change(tx, Change::Settle(core.scope, event, State::Dead));
                Written::Unpark(event)
            }
        };
        self.writes(around, what)
    }

    fn writes(&mut self, around: &Around, what: Written) -> Stepped {
        self.at = At::Write { what, since: around.now };
        Stepped::On
    }

    fn write(&mut self, core: &Core, around: &mut Around, what: Written, since: u64) -> Stepped {
        let Some(tx) = self.tx else { return Stepped::Idle };
        let (scope, key) = (core.scope, self.key);
        let careless = around.is(Mutant::MarkerUnlocked);
        if !careless && !around.db.lock(tx, Lock::Marker(scope, key)) {
            return if around.now < since + STATEMENT { Stepped::Idle } else { self.trouble(around) };
        }
        let gone = match what {
            Written::Unpark(event) | Written::Done(event) => vec![event],
            Written::Part | Written::Stopped(_) => std::mem::take(&mut self.company),
            Written::Remove | Written::Delay(_) => Vec::new(),
        };
        for event in &gone {
            around.db.change(tx, Change::Pop(scope, key, *event));
        }
        let left = |marker: &Marker| marker.queue.iter().any(|waiting| !gone.contains(waiting));
        let left = around.db.markers.get(&(scope, key)).is_some_and(left);
        let free = around.db.markers.get(&(scope, key)).is_some_and(|marker| !marker.held);
        let alone = self.found.alone.saturating_sub(1);
        let (run, now) = (core.who.1, around.now);
        let mut says = |due, said| {
            let delay = Delay { due, attempts: 0, held: false, said, now };
            around.db.change(tx, Change::Delay(scope, key, delay));
        };
        let mut next = At::Answer;
        match what {
            Written::Delay(delay) | Written::Stopped(delay) => {
                around.db.change(tx, Change::Delay(scope, key, delay));
            }
            _ if !left => around.db.change(tx, Change::Remove(scope, key)),
            Written::Done(_) if alone > 0 => says(now, Said { alone, ..Said::default() }),
            Written::Done(_) if free => {
                says(now + BETWEEN, Said { together_by: Some(run), ..Said::default() });
                next = At::Chained;
            }
            Written::Part if gone.is_empty() => says(now, Said::default()),
            Written::Done(_) | Written::Unpark(_) | Written::Remove | Written::Part => {}
        }
        around.db.commit(tx);
        self.at = next;
        Stepped::On
    }

    /// The first event is committed, and what follows runs in another transaction of the same connection.
    fn chained(&mut self, core: &Core, around: &mut Around) -> Stepped {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return Stepped::Idle };
        self.tx = None;
        if answer != Answer::Yes {
            return self.rests(around, TROUBLE);
        }
        let Ok(tx) = around.db.begin(core.who, around.now) else { return self.rests(around, TROUBLE) };
        self.tx = Some(tx);
        if !around.db.lock(tx, Lock::Claimant(core.scope, self.key)) {
            return self.rests(around, 0);
        }
        self.company.clear();
        self.at = At::Company;
        Stepped::On
    }

    /// One more of the company, or its end.
    fn follow(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        let Some(tx) = self.tx else { return Stepped::Idle };
        let scope = core.scope;
        let queue =
            around.db.markers.get(&(scope, self.key)).map(|marker| marker.queue.clone()).unwrap_or_default();
        let next = queue.into_iter().find(|event| !self.company.contains(event));
        // Others are waited for, the company has lasted long enough, or what is next was decided about meanwhile.
        let runs = next.filter(|event| around.db.row(scope, *event) == Some(State::Parked));
        let Some(event) = runs.filter(|_| !core.engine.is_isolated() && !around.fault(5)) else {
            return self.parts(core, around, next);
        };
        if !around.db.lock(tx, Lock::Claim(scope, event)) {
            return Stepped::Idle;
        }
        around.judge.counts_parked(scope, event);
        around.tell(|| format!("{:?} runs parked event {event} in company", core.who));
        let what = &mut around.log.events[event];
        let call = what.calls[scope];
        what.calls[scope] += 1;
        let failure = match (call >= u32::from(what.fails)).then_some(what.end) {
            Some(End::Kill) => return Stepped::Killed(event),
            None => TRANSIENT,
            Some(End::Permanent) => Failure::Permanent,
            Some(End::Reject) => {
                around.db.change(tx, Change::Settle(scope, event, State::Rejected));
                self.company.push(event);
                return self.parts(core, around, None);
            }
            Some(End::Done | End::Skip) => {
                around.db.change(tx, Change::Settle(scope, event, State::Done));
                around.db.change(tx, Change::Effect(scope, event));
                self.company.push(event);
                return Stepped::On;
            }
        };
        if around.is(Mutant::CompanyPasses) {
            let behind =
                around.db.markers.get(&(scope, self.key)).and_then(|marker| marker.queue.back().copied());
            if let Some(behind) = behind.filter(|behind| *behind != event && !self.company.contains(behind)) {
                around.db.change(tx, Change::Settle(scope, behind, State::Done));
                around.db.change(tx, Change::Effect(scope, behind));
                self.company.push(behind);
            }
        }
        // It begins its ladder with this attempt.
        (self.attempts, self.first_failed) = (1, around.now);
        self.after(core, around, event, failure, 0);
        if let At::Write { what: Written::Delay(delay), since } = self.at {
            let delay = Delay { attempts: 1, ..delay };
            self.at = At::Write { what: Written::Stopped(delay), since };
        } else if let At::Write { what: Written::Unpark(dead), since } = self.at {
            self.company.push(dead);
            self.at = At::Write { what: Written::Part, since };
        }
        Stepped::On
    }

    fn parts(&mut self, core: &Core, around: &mut Around, next: Option<EventId>) -> Stepped {
        let kept = next.filter(|_| around.is(Mutant::CompanyKeeps));
        if let (Some(tx), Some(event)) = (self.tx, kept)
            && around.db.lock(tx, Lock::Claim(core.scope, event))
        {
            around.db.change(tx, Change::Settle(core.scope, event, State::Done));
            self.company.push(event);
        }
        self.writes(around, Written::Part)
    }

    fn answer(&mut self, around: &mut Around) -> Stepped {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return Stepped::Idle };
        self.tx = None;
        self.rests(around, if answer == Answer::Yes { 0 } else { TROUBLE })
    }
}
