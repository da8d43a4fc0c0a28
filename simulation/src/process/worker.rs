//! A worker, as `consumer-sdk/src/runtime/{worker,transaction,permit}.rs` have it, one statement or wait a step:
//!
//! | step | where it comes from |
//! |---|---|
//! | `Idle` | `worker::next`, `worker::plan` |
//! | `Claim`, `Look` | `inbox::claim_now`: claim first, then look for markers (C52) |
//! | `LineUp` | `Group::line_up` |
//! | `Ask` | `Group::one_by_one`, `permit::permit` |
//! | `Handle` | `Group::one`, `Group::look_behind`; the handler itself |
//! | `End`, `Answer` | `Group::end`, `inbox::commit` |
//! | `Decide` | `worker::decide`; the rest is in [`conclude`](super::conclude) |
//!
//! Before each step it looks whether a partition of its records was lost, as the `select!` of `worker::work` does.

use std::collections::VecDeque;
use std::ops::Range;

use outbox_consumer::journal::Ending;
use outbox_consumer::ladder::Failure;
use outbox_consumer::simulation::Permit;

use super::conclude::{Conclusion, Fate, Job, end};
use super::turn::{Place, TRANSIENT, Turn};
use super::{Core, Stepped};
use crate::Mutant;
use crate::around::Around;
use crate::database::{Answer, Change, Claim, Follow, TxId};
use crate::log::{End, EventId};

/// `inbox::GROUP_WAITS` and `inbox::ONE_WAITS`.
const WAITS: (u64, u64) = (200, 500);

/// What ends a statement that waits for another transaction.
pub const STATEMENT: u64 = 30_000;

#[derive(Debug, Clone, Copy)]
enum At {
    Idle,
    Claim { since: u64 },
    Look,
    LineUp { key: usize, since: u64 },
    Ask { place: usize },
    Handle { place: usize },
    End,
    Answer,
    Decide,
    Conclude,
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    at: At,
    works: Vec<Job>,
    places: Vec<Place>,
    keys: Vec<Range<usize>>,
    parked: Vec<bool>,
    tx: Option<TxId>,
    rest: VecDeque<Conclusion>,
}

impl Worker {
    /// A worker without work.
    pub fn idle() -> Worker {
        Worker {
            at: At::Idle,
            works: Vec::new(),
            places: Vec::new(),
            keys: Vec::new(),
            parked: Vec::new(),
            tx: None,
            rest: VecDeque::new(),
        }
    }

    /// Whether it has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.at, At::Idle)
    }

    /// One step.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        if self.works.iter().any(|job| job.work.is_lost()) {
            self.leave(core, around);
            return Stepped::On;
        }
        match self.at {
            At::Idle => self.next(core, around).into(),
            At::Claim { since } => self.claim(core, around, since).into(),
            At::Look => self.look(core, around).into(),
            At::LineUp { key, since } => self.line_up(core, around, key, since).into(),
            At::Ask { place } => self.ask(core, around, place).into(),
            At::Handle { place } => self.handle(core, around, place),
            At::End => self.end(core, around).into(),
            At::Answer => self.answer(core, around).into(),
            At::Decide => self.decide(core, around).into(),
            At::Conclude => self.conclude(core, around).into(),
        }
    }

    fn alone(&self) -> bool {
        self.places.len() == 1
    }

    fn next(&mut self, core: &mut Core, around: &mut Around) -> bool {
        if core.stopping {
            return false;
        }
        let works = core.engine.take(around.settings.workers);
        if works.is_empty() {
            return false;
        }
        self.works = works.into_iter().map(|work| Job::new(core, around, work)).collect();
        self.places.clear();
        self.keys.clear();
        for Job { work, .. } in &self.works {
            let begin = self.places.len();
            for offset in work.offsets() {
                let Some(event) = around.log.at(work.lane().partition, offset) else { continue };
                if around.log.events[event].end == End::Skip {
                    break;
                }
                let (turn, running) = (None, None);
                self.places.push(Place {
                    offset,
                    event,
                    claimed: false,
                    repeats: false,
                    turn,
                    running,
                    named: false,
                });
            }
            self.keys.push(begin..self.places.len());
        }
        around.tell(|| {
            let events: Vec<EventId> = self.places.iter().map(|place| place.event).collect();
            format!("{:?} takes events {events:?}", core.who)
        });
        if self.places.is_empty() {
            // Nobody's concern: settled without a handler.
            for mut job in std::mem::take(&mut self.works) {
                core.engine.settle(&mut job.work, 0, true);
                end(core, around, job, Fate::GoOn);
            }
            return true;
        }
        match around.db.begin(core.who, around.now) {
            Ok(tx) => {
                self.tx = Some(tx);
                self.at = At::Claim { since: around.now };
                if around.is(Mutant::LookBeforeClaim) {
                    self.see_markers(core, around);
                }
            }
            Err(_) => {
                if around.is(Mutant::AskBeforeClaim) {
                    self.ask_early(core);
                }
                self.all(Turn::Trouble);
            }
        }
        true
    }

    /// A mutant asks the journal although the database is away.
    fn ask_early(&mut self, core: &mut Core) {
        if let (true, Permit::Start(running)) = (self.alone(), core.engine.may_start(&self.works[0].work, 0))
        {
            core.engine.handler_ended(running, Ending::Survived);
        }
    }

    /// The transaction came to nothing, and so did everything in it.
    fn all(&mut self, turn: Turn) {
        for place in &mut self.places {
            place.turn = Some(turn);
        }
        self.at = At::Decide;
    }

    fn claim(&mut self, core: &mut Core, around: &mut Around, since: u64) -> bool {
        let Some(tx) = self.tx else { return false };
        if around.db.hear(tx, around.now).is_err() {
            self.tx = None;
            self.all(Turn::Trouble);
            return true;
        }
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_key(|at| (self.places[*at].event, *at));
        let mut last = None;
        for at in order {
            let place = &self.places[at];
            let event = place.event;
            if last == Some(event) {
                self.places[at].repeats = true;
            } else if !place.claimed && place.turn.is_none() {
                match around.db.claim(tx, core.scope, event, around.is(Mutant::DedupOutside)) {
                    Claim::Run => self.places[at].claimed = true,
                    Claim::Settled(_) => self.places[at].turn = Some(Turn::Settled(false)),
                    Claim::Waits => return self.wait(around, tx, since),
                }
            }
            last = Some(event);
        }
        self.at = At::Look;
        true
    }

    /// Another transaction has the event.
    fn wait(&mut self, around: &mut Around, tx: TxId, since: u64) -> bool {
        let limit = if self.alone() { WAITS.1 } else { WAITS.0 };
        if around.now < since + limit {
            return false;
        }
        around.db.abort(tx, None);
        self.tx = None;
        self.all(if self.alone() { Turn::Wait } else { Turn::Alone });
        true
    }

    fn look(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let Some(tx) = self.tx else { return false };
        if around.db.hear(tx, around.now).is_err() {
            self.tx = None;
            self.all(Turn::Trouble);
            return true;
        }
        if !around.is(Mutant::LookBeforeClaim) {
            self.see_markers(core, around);
        }
        self.at = At::LineUp { key: 0, since: around.now };
        true
    }

    fn see_markers(&mut self, core: &Core, around: &Around) {
        let marked = |range: &Range<usize>| {
            let first = self.places.get(range.start).filter(|_| !range.is_empty())?;
            Some(around.db.is_marked(core.scope, around.log.events[first.event].key))
        };
        self.parked = self.keys.iter().map(|range| marked(range).unwrap_or(false)).collect();
    }

    fn line_up(&mut self, core: &mut Core, around: &mut Around, key: usize, since: u64) -> bool {
        let Some(range) = self.keys.get(key).cloned() else {
            self.at = At::Ask { place: 0 };
            return true;
        };
        let now = around.now;
        let Some(tx) = self.tx.filter(|_| self.parked[key] && !around.is(Mutant::FollowerRuns)) else {
            self.at = At::LineUp { key: key + 1, since: now };
            return true;
        };
        let mut turn = if around.db.hear(tx, now).is_ok() { None } else { Some(Turn::Trouble) };
        for at in range.clone().filter(|at| self.places[*at].is_open()) {
            let event = self.places[at].event;
            let of = around.log.events[event].key;
            match turn.map_or_else(|| around.db.follow(tx, core.scope, of, event), |_| Follow::Parked) {
                Follow::Waits if now < since + STATEMENT => return false,
                Follow::Waits => turn = Some(Turn::Trouble),
                Follow::Unmarked => turn = Some(Turn::Later),
                Follow::Parked => {}
            }
        }
        let becomes = turn.unwrap_or(Turn::Settled(false));
        self.places[range].iter_mut().filter(|place| place.is_open()).for_each(|p| p.turn = Some(becomes));
        if turn == Some(Turn::Trouble) {
            around.db.abort(tx, None);
            self.tx = None;
        }
        self.at = At::LineUp { key: key + 1, since: now };
        true
    }

    /// The next open event: may its handler start?
    fn ask(&mut self, core: &mut Core, around: &mut Around, from: usize) -> bool {
        let open = (from..self.places.len()).find(|at| self.places[*at].is_open());
        let (Some(at), Some(_)) = (open, self.tx) else {
            self.at = At::End;
            return true;
        };
        let key = self.key_of(at);
        let (work, index) = (&self.works[key].work, at - self.keys[key].start);
        let permit = core.engine.may_start(work, index);
        let lane = work.lane();
        let asked = self.places[at].offset;
        if core.engine.has_to_be_isolated() {
            match around.groups[core.group].tenure(core.who, lane.partition) {
                Some(tenure) if !tenure.asked.contains(&asked) => tenure.asked.push(asked),
                Some(_) => {}
                None => around.judge.forgives(core.group, self.places[at].event),
            }
        }
        if !self.alone() && core.engine.is_isolated() {
            match permit {
                Permit::Start(running) => core.engine.handler_ended(running, Ending::Survived),
                Permit::CommitFirst | Permit::Wait => {
                    core.engine.will_not_start(&self.works[key].work, index)
                }
                Permit::Convict(_) | Permit::Gone => {}
            }
            return self.denied(at, Turn::Alone, around);
        }
        match permit {
            Permit::Start(running) => {
                self.places[at].running = Some(running);
                self.starts(core, around, at);
                self.at = At::Handle { place: at };
                true
            }
            Permit::Convict(deaths) => {
                around.judge.convicted(&around.log, self.places[at].event, deaths);
                self.denied(at, Turn::Convicted(deaths), around)
            }
            Permit::Gone => self.denied(at, Turn::Left, around),
            Permit::CommitFirst | Permit::Wait if core.stopping => {
                core.engine.will_not_start(&self.works[key].work, index);
                self.denied(at, Turn::Left, around)
            }
            Permit::CommitFirst | Permit::Wait => false,
        }
    }

    fn key_of(&self, place: usize) -> usize {
        self.keys.iter().position(|range| range.contains(&place)).unwrap_or(0)
    }

    fn denied(&mut self, at: usize, turn: Turn, around: &Around) -> bool {
        self.places[at].turn = Some(turn);
        self.later(at, around);
        true
    }

    /// Later events of the key do not overtake one that is not settled (C53).
    fn later(&mut self, at: usize, around: &Around) {
        if !self.places[at].is_settled() && !around.is(Mutant::LaterRuns) {
            let range = at + 1..self.keys[self.key_of(at)].end;
            let later = self.places[range].iter_mut().filter(|place| place.is_open());
            later.for_each(|place| place.turn = Some(Turn::Later));
        }
        self.at = At::Ask { place: at + 1 };
    }

    /// What must hold when a handler starts.
    fn starts(&mut self, core: &mut Core, around: &mut Around, at: usize) {
        let (offset, event) = (self.places[at].offset, self.places[at].event);
        let lane = self.works[self.key_of(at)].work.lane();
        around.tell(|| format!("{:?} starts the handler of event {event}", core.who));
        let isolated = core.engine.has_to_be_isolated();
        self.places[at].named = isolated;
        around.judge.hold(!isolated || core.handlers == 0, || {
            format!("event {event} starts in isolation beside {} others", core.handlers)
        });
        core.handlers += 1;
        let group = &mut around.groups[core.group];
        let text = group.committed[lane.partition as usize].clone();
        // Of a partition that is another's by now nothing can be committed, and nobody knows it yet.
        let Some(tenure) = group.tenure(core.who, lane.partition) else { return };
        let commits = tenure.commits;
        around.judge.hold(commits > 0, || format!("event {event} starts before its start is committed"));
        if isolated {
            let said =
                outbox_consumer::metadata::parse(text.0.unwrap_or(0), text.1.as_bytes()).unwrap_or_default();
            let named = said.journal.named.iter().any(|named| named.offset == offset);
            around.judge.hold(named, || format!("event {event} starts in isolation and is not named"));
        }
    }

    /// The handler.
    fn handle(&mut self, core: &mut Core, around: &mut Around, at: usize) -> Stepped {
        let (event, alone) = (self.places[at].event, self.alone());
        let Some(tx) = self.tx else { return Stepped::Idle };
        let what = &mut around.log.events[event];
        let call = what.calls[core.scope];
        what.calls[core.scope] += 1;
        let came_to = (call >= u32::from(what.fails)).then_some(what.end);
        if came_to == Some(End::Kill) {
            // Where its partition has left in order meanwhile, the count was taken back with it.
            let lane = self.works[self.key_of(at)].work.lane();
            if self.places[at].named && core.engine.assignment().contains(&lane) {
                around.judge.killed(&around.log, false, core.group, event);
            }
            return Stepped::Killed(event);
        }
        core.handlers -= 1;
        let stale = around.db.hear(tx, around.now).is_err();
        let turn = match came_to {
            _ if stale => Turn::Alone,
            _ if around.fault(40) => Turn::Failed(Failure::Uncounted),
            None => Turn::Failed(TRANSIENT),
            Some(End::Reject) => Turn::Rejected,
            Some(End::Permanent) => Turn::Failed(Failure::Permanent),
            Some(End::Done | End::Skip | End::Kill) => Turn::Settled(true),
        };
        around.tell(|| format!("{:?}: the handler of event {event} comes to {turn:?}", core.who));
        // It ran out of time: its statement is cancelled, and the connection thrown away.
        let cancelled = turn != Turn::Settled(true) && around.fault(8);
        if turn == Turn::Settled(true) {
            around.db.change(tx, Change::Effect(core.scope, event));
        } else if stale || cancelled {
            around.db.drop_connection(tx, around.now);
            self.tx = None;
        } else if alone {
            around.db.abort(tx, None);
            self.tx = None;
        }
        self.places[at].turn = Some(turn);
        self.later(at, around);
        if self.tx.is_none() {
            self.at = At::End;
        }
        Stepped::On
    }

    /// Gives back what did not go well, and commits.
    fn end(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let Some(tx) = self.tx else {
            self.undone(Turn::Alone);
            return self.told(core);
        };
        if !self.places.iter().any(|place| place.claimed && place.is_settled()) {
            around.db.abort(tx, None);
            self.tx = None;
            return self.told(core);
        }
        let back = self.places.iter().filter(|place| place.claimed && !place.is_settled());
        for place in back {
            if !around.is(Mutant::ClaimStays) {
                around.db.settle(tx, core.scope, place.event, None);
            }
        }
        if around.db.hear(tx, around.now).is_err() {
            self.tx = None;
            self.undone(Turn::Alone);
            return self.told(core);
        }
        around.db.commit(tx);
        self.at = At::Answer;
        true
    }

    fn answer(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return false };
        if around.is(Mutant::DedupOutside) && self.tx.is_some_and(|tx| around.db.txs.contains_key(&tx)) {
            return false;
        }
        self.tx = None;
        match answer {
            Answer::Yes => self.committed(core),
            Answer::Unknown if around.is(Mutant::UnansweredIsDone) => self.committed(core),
            Answer::Refused if self.alone() => self.undone(Turn::Failed(TRANSIENT)),
            Answer::Refused | Answer::Unknown => self.undone(Turn::Alone),
        }
        self.told(core)
    }

    fn committed(&mut self, core: &mut Core) {
        for place in self.places.iter_mut().filter(|place| matches!(place.turn, Some(Turn::Settled(_)))) {
            if let Some(running) = place.running.take() {
                core.engine.handler_ended(running, Ending::Settled);
            }
        }
    }

    /// What the transaction settled is not settled.
    fn undone(&mut self, turn: Turn) {
        for place in self.places.iter_mut().filter(|place| place.claimed) {
            if place.turn.is_none() || place.is_settled() {
                place.turn = Some(turn);
            }
        }
    }

    /// A further copy is what the first one is; and what ran has survived.
    fn told(&mut self, core: &mut Core) -> bool {
        for at in 0..self.places.len() {
            if self.places[at].repeats {
                let event = self.places[at].event;
                let first = self.places[..at].iter().find(|place| place.event == event);
                let settled = first.is_some_and(Place::is_settled);
                self.places[at].turn = Some(if settled { Turn::Settled(false) } else { Turn::Later });
            }
        }
        self.survived(core);
        self.at = At::Decide;
        true
    }

    fn survived(&mut self, core: &mut Core) {
        for running in self.places.iter_mut().filter_map(|place| place.running.take()) {
            core.engine.handler_ended(running, Ending::Survived);
        }
    }

    /// What is settled frees its key at once; the rest is decided about, one by one.
    fn decide(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let works = std::mem::take(&mut self.works);
        for (mut job, range) in works.into_iter().zip(std::mem::take(&mut self.keys)) {
            let mut left = Vec::new();
            for place in &self.places[range] {
                match place.turn.unwrap_or(Turn::Alone) {
                    Turn::Settled(ran) => {
                        around.judge.settled(&around.db, &around.log, core.scope, place.event);
                        core.engine.settle(&mut job.work, left.len(), !ran);
                    }
                    turn => left.push((turn, place.event)),
                }
            }
            for (at, (turn, _)) in left.iter().enumerate() {
                if *turn == Turn::Alone {
                    job.work.alone(at);
                }
            }
            match left.first() {
                None => end(core, around, job, Fate::GoOn),
                Some((turn, event)) => self.rest.push_back(Conclusion::new(job, *turn, *event)),
            }
        }
        self.places.clear();
        self.at = At::Conclude;
        true
    }

    fn conclude(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let Some(first) = self.rest.front_mut() else {
            self.at = At::Idle;
            return true;
        };
        let stepped = first.step(core, around);
        if first.is_over()
            && let Some(conclusion) = self.rest.pop_front()
        {
            conclusion.end(core, around);
        }
        stepped
    }

    /// A partition of the group is lost: its part is over, and what others have in it runs again.
    fn leave(&mut self, core: &mut Core, around: &mut Around) {
        if let Some(tx) = self.tx.take() {
            around.db.drop_connection(tx, around.now);
        }
        if matches!(self.at, At::Handle { .. }) {
            core.handlers -= 1;
        }
        self.survived(core);
        for job in std::mem::take(&mut self.works) {
            let fate = if job.work.is_lost() { Fate::Left } else { Fate::GoOn };
            end(core, around, job, fate);
        }
        self.places.clear();
        self.at = At::Idle;
    }
}
