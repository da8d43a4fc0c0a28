//! From an open transaction to events that are claimed and lined up.

use std::ops::Range;

use super::super::Core;
use super::super::turn::Turn;
use super::{At, STATEMENT, Worker};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::{Claim, Follow, TxId};

/// `inbox::GROUP_WAITS` and `inbox::ONE_WAITS`.
const WAITS: (u64, u64) = (200, 500);

impl Worker {
    pub(super) fn claim(&mut self, core: &mut Core, around: &mut Around, since: u64) -> bool {
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
    pub(super) fn wait(&mut self, around: &mut Around, tx: TxId, since: u64) -> bool {
        let limit = if self.alone() { WAITS.1 } else { WAITS.0 };
        if around.now < since + limit {
            return false;
        }
        around.db.abort(tx, None);
        self.tx = None;
        self.all(if self.alone() { Turn::Wait } else { Turn::Alone });
        true
    }

    pub(super) fn look(&mut self, core: &mut Core, around: &mut Around) -> bool {
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

    pub(super) fn see_markers(&mut self, core: &Core, around: &Around) {
        let marked = |range: &Range<usize>| {
            let first = self.places.get(range.start).filter(|_| !range.is_empty())?;
            Some(around.db.is_marked(core.scope, around.log.events[first.event].key))
        };
        self.parked = self.keys.iter().map(|range| marked(range).unwrap_or(false)).collect();
    }

    pub(super) fn line_up(&mut self, core: &mut Core, around: &mut Around, key: usize, since: u64) -> bool {
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
}
