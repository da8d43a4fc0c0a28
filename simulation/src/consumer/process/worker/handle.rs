//! The journal's word, the handler, and what follows for the events behind it.

use outbox_consumer::journal::Ending;
use outbox_consumer::ladder::Failure;
use outbox_consumer::simulation::Permit;

use super::super::turn::{TRANSIENT, Turn};
use super::super::{Core, Stepped};
use super::{At, Worker};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::Change;
use crate::consumer::log::End;

impl Worker {
    /// The next open event: may its handler start?
    pub(super) fn ask(&mut self, core: &mut Core, around: &mut Around, from: usize) -> bool {
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

    pub(super) fn denied(&mut self, at: usize, turn: Turn, around: &Around) -> bool {
        self.places[at].turn = Some(turn);
        self.later(at, around);
        true
    }

    /// Later events of the key do not overtake one that is not settled (C53).
    pub(super) fn later(&mut self, at: usize, around: &Around) {
        if !self.places[at].is_settled() && !around.is(Mutant::LaterRuns) {
            let range = at + 1..self.keys[self.key_of(at)].end;
            let later = self.places[range].iter_mut().filter(|place| place.is_open());
            later.for_each(|place| place.turn = Some(Turn::Later));
        }
        self.at = At::Ask { place: at + 1 };
    }

    /// What must hold when a handler starts.
    pub(super) fn starts(&mut self, core: &mut Core, around: &mut Around, at: usize) {
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
    pub(super) fn handle(&mut self, core: &mut Core, around: &mut Around, at: usize) -> Stepped {
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
}
