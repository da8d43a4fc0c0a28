//! The end of the transaction, and what becomes of each event of it.

use outbox_consumer::journal::Ending;

use super::super::Core;
use super::super::conclude::{Conclusion, Fate, end};
use super::super::turn::{Place, TRANSIENT, Turn};
use super::{At, Worker};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::Answer;

impl Worker {
    /// Gives back what did not go well, and commits.
    pub(super) fn end(&mut self, core: &mut Core, around: &mut Around) -> bool {
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

    pub(super) fn answer(&mut self, core: &mut Core, around: &mut Around) -> bool {
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

    pub(super) fn committed(&mut self, core: &mut Core) {
        for place in self.places.iter_mut().filter(|place| matches!(place.turn, Some(Turn::Settled(_)))) {
            if let Some(running) = place.running.take() {
                core.engine.handler_ended(running, Ending::Settled);
            }
        }
    }

    /// What the transaction settled is not settled.
    pub(super) fn undone(&mut self, turn: Turn) {
        for place in self.places.iter_mut().filter(|place| place.claimed) {
            if place.turn.is_none() || place.is_settled() {
                place.turn = Some(turn);
            }
        }
    }

    /// A further copy is what the first one is; and what ran has survived.
    pub(super) fn told(&mut self, core: &mut Core) -> bool {
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

    pub(super) fn survived(&mut self, core: &mut Core) {
        for running in self.places.iter_mut().filter_map(|place| place.running.take()) {
            core.engine.handler_ended(running, Ending::Survived);
        }
    }

    /// What is settled frees its key at once; the rest is decided about, one by one.
    pub(super) fn decide(&mut self, core: &mut Core, around: &mut Around) -> bool {
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

    pub(super) fn conclude(&mut self, core: &mut Core, around: &mut Around) -> bool {
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
    pub(super) fn leave(&mut self, core: &mut Core, around: &mut Around) {
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
