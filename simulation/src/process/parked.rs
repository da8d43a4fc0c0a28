//! The task that runs parked keys, as `consumer-sdk/src/runtime/parked.rs` has it: an attempt is counted in a transaction
//! of its own before it begins, and made in a second one; what follows is written in that one.
//!
//! | step | where it comes from |
//! |---|---|
//! | `Look` | `parked::keep`, `parked::turn` up to `take` |
//! | `First` | `resume` within the savepoint, and what is done with its verdict |
//! | `Counted` | the answer to `delay(… begun …)` |
//! | `Again` | `resume` in the second transaction |
//! | `Handle` | `parked::run`: the handler, and `after`, `exhausted`, `delay`, `unpark`, `remove` |
//! | `Write` | the locks that those wait for, and their COMMIT |
//! | `Answer` | `parked::commit` |

use outbox_consumer::ladder::{Exhausted, Failure, Step};

use super::conclude::{DEATH, ladder, millis};
use super::turn::TRANSIENT;
use super::worker::STATEMENT;
use super::{AGAIN, Core, Stepped};
use crate::Mutant;
use crate::around::Around;
use crate::database::{Answer, Change, Delay, Gone, Lock, Marker, Said, State, TxId};
use crate::judge::CONVICT_AFTER;
use crate::log::{End, EventId, KeyId};

/// `parked::TROUBLE`.
const TROUBLE: u64 = 2_000;
/// `parked::BETWEEN`.
const BETWEEN: u64 = 2_000;
/// `parked::NOWHERE`.
const NOWHERE: u64 = 30_000;

/// What is written at the end of a turn.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// The key waits.
    Delay(Delay),
    /// The event leaves its key, and the marker goes with the last.
    Unpark(EventId),
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
            pauses: 0,
        }
    }

    /// Whether it has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.at, At::Look)
    }

    /// Whether a handler runs.
    pub fn runs(&self) -> bool {
        matches!(self.at, At::Handle { .. })
    }

    /// One step.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        if around.now < self.pauses || core.stopping && self.is_idle() {
            return Stepped::Idle;
        }
        if let Some(tx) = self.tx.filter(|_| !matches!(self.at, At::Look | At::Counted | At::Answer))
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
        let counts = u32::from(said.begun_by != Some(run));
        self.attempts += counts;
        self.counted = Some(event);
        let begun = Said { begun_by: Some(run), deaths: said.deaths };
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
                self.writes(around, Written::Unpark(event))
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
        let said = Said { begun_by: None, deaths };
        let delay = |due, held| Written::Delay(Delay { due, attempts: 0, held, said, now });
        let what = match step {
            Step::RetryIn(wait) => delay(now + millis(wait), false),
            Step::Park { due, .. } => delay(now + millis(due).saturating_sub(failing_for), false),
            Step::Exhausted(Exhausted::Hold | Exhausted::Halt) => delay(now, true),
            // Its dead letter cannot be written.
            // An attempt that was begun elsewhere stays begun.
            Step::Exhausted(Exhausted::Skip) if around.fault(10) => {
                let said = if deaths > 0 { self.found } else { said };
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
            Written::Unpark(event) => Some(event),
            Written::Remove | Written::Delay(_) => None,
        };
        if let Some(event) = gone {
            around.db.change(tx, Change::Pop(scope, key, event));
        }
        match what {
            Written::Delay(delay) => around.db.change(tx, Change::Delay(scope, key, delay)),
            Written::Unpark(_) | Written::Remove => {
                let left = |marker: &Marker| marker.queue.iter().all(|waiting| Some(*waiting) == gone);
                if around.db.markers.get(&(scope, key)).is_some_and(left) {
                    around.db.change(tx, Change::Remove(scope, key));
                }
            }
        }
        around.db.commit(tx);
        self.at = At::Answer;
        Stepped::On
    }

    fn answer(&mut self, around: &mut Around) -> Stepped {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return Stepped::Idle };
        self.tx = None;
        self.rests(around, if answer == Answer::Yes { 0 } else { TROUBLE })
    }
}
