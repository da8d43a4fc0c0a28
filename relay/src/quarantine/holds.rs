//! Which keys are held, and which rows of the stream are settled by an entry already.

use std::collections::{HashMap, HashSet};

use super::desk::Outcome;
use super::entry::{Cause, State};
use crate::config::Policy;
use crate::lsn::Lsn;
use crate::router::RowPosition;

/// What the router knows of the quarantine. Begins with what the table holds; follows the stream after that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Held keys by the order they stand in (a topic, usually).
    queues: HashMap<String, HashSet<Vec<u8>>>,
    /// Rows at or behind the session's position that are in the table, by commit LSN and ordinal. The epoch is
    /// no part of it: after a failover the shared part of the log comes again in a new one.
    known: HashMap<(Lsn, u64), Known>,
    /// Entries that are not settled.
    open: u64,
    /// Those of them that a decision further on in the stream settles. They count against no bound: a relay
    /// that halted for a full quarantine has to come as far as the decision.
    leaving: u64,
}

/// A row of the stream that is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The event's id.
    pub event_id: Option<String>,
    /// The hold that begins where the row stands: queue and key. Not before: earlier events of the key, which
    /// were in flight when the former session ended, come again and have to pass.
    pub holds: Option<(String, Vec<u8>)>,
}

/// Where a row stands that is put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it begins.
    pub state: State,
    /// Why it is here.
    pub cause: Cause,
    /// The queue that it stands in or heads; `None` where nothing is held.
    pub held_by: Option<String>,
}

/// Why a row is not put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The policy is to halt before it.
    Policy,
    /// There may be no more entries.
    Full,
}

impl Holds {
    /// With so many entries that are not settled, and so many of these that are decided on.
    pub fn new(open: u64, leaving: u64) -> Holds {
        Holds { open, leaving, ..Holds::default() }
    }

    /// Holds a key.
    pub fn hold(&mut self, held_by: &str, key: &[u8]) {
        if !self.holds(held_by, key) {
            self.queues.entry(held_by.to_owned()).or_default().insert(key.to_vec());
        }
    }

    /// Whether a key is held. Without any held key, one look at a length.
    pub fn holds(&self, held_by: &str, key: &[u8]) -> bool {
        !self.queues.is_empty() && self.queues.get(held_by).is_some_and(|keys| keys.contains(key))
    }

    /// Lifts a hold.
    pub fn lift(&mut self, held_by: &str, key: &[u8]) {
        if let Some(keys) = self.queues.get_mut(held_by) {
            keys.remove(key);
            if keys.is_empty() {
                self.queues.remove(held_by);
            }
        }
    }

    /// Held keys.
    pub fn held_keys(&self) -> u64 {
        self.queues.values().map(|keys| keys.len() as u64).sum()
    }

    /// A row that is in the table and comes again.
    pub fn know(&mut self, commit_lsn: Lsn, ordinal: u64, known: Known) {
        self.known.insert((commit_lsn, ordinal), known);
    }

    /// Meets a row: whether it is settled by an entry, by the same place in the log and, as far as both are
    /// known, the same event. (On another history another transaction may stand at the same place.) From here
    /// on its key is held, if it is held.
    pub fn meet(&mut self, at: &RowPosition, event_id: impl FnOnce() -> Option<String>) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let Some(known) = self.known.get(&(at.commit_lsn, at.ordinal)) else { return false };
        let same = match (&known.event_id, event_id()) {
            (Some(known), Some(met)) => *known == met,
            (None, _) | (_, None) => true,
        };
        if let (true, Some((held_by, key))) = (same, known.holds.clone()) {
            self.hold(&held_by, &key);
        }
        same
    }

    /// Whether a hold begins with a row that is taken in. Everything before it has to be on the broker then: one of
    /// its key that is refused later would come before it, and the queue have two that hold it.
    pub fn begins(&self, queue: Option<&str>, key: &[u8], policy: Policy) -> bool {
        policy == Policy::HoldKey && queue.is_some_and(|queue| !self.holds(queue, key))
    }

    /// Takes in a row that cannot be published or must not be yet: behind what is held of its queue and key, or
    /// by the policy of its topic.
    ///
    /// # Errors
    /// See [`NotTaken`]; nothing has changed then.
    pub fn take_in(
        &mut self,
        queue: Option<String>,
        key: &[u8],
        cause: Cause,
        policy: Policy,
        max: u64,
    ) -> Result<Standing, NotTaken> {
        let behind = queue.as_deref().is_some_and(|queue| self.holds(queue, key));
        let (state, cause, held_by) = match (policy, queue) {
            // What is held already stays in order, whatever the policy is by now.
            (_, Some(queue)) if behind => (State::Queued, Cause::Behind, Some(queue)),
            (Policy::HoldKey, Some(queue)) => (State::Held, cause, Some(queue)),
            // Without a key there is no order to hold.
            (Policy::HoldKey, None) | (Policy::Continue, _) => (State::Passed, cause, None),
            (Policy::Halt, _) => return Err(NotTaken::Policy),
        };
        if self.open - self.leaving >= max {
            return Err(NotTaken::Full);
        }
        self.open += 1;
        if let Some(queue) = &held_by {
            self.hold(queue, key);
        }
        Ok(Standing { state, cause, held_by })
    }

    /// What became of a decided entry is written down, and so many entries are settled by it. Its key is free
    /// again, unless one of those behind it is stuck: that one holds it from now on.
    pub fn written_down(&mut self, outcome: &Outcome, settled: u64) {
        self.counted(settled);
        self.carried_out(outcome);
    }

    /// So many entries are settled.
    pub fn counted(&mut self, settled: u64) {
        self.open = self.open.saturating_sub(settled);
        self.leaving = self.leaving.saturating_sub(settled).min(self.open);
    }

    /// A decision is carried out, and its key free again unless one of those behind it is stuck.
    pub fn carried_out(&mut self, outcome: &Outcome) {
        if let (None, Some((held_by, key))) = (&outcome.stuck, &outcome.queue) {
            self.lift(held_by, key);
        }
    }

    /// Entries that are not settled.
    pub fn open(&self) -> u64 {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::super::desk::Stuck;
    use super::*;

    fn at(lsn: u64, ordinal: u64, epoch: u64) -> RowPosition {
        RowPosition { epoch, commit_lsn: Lsn(lsn), ordinal, commit_unix_millis: 0 }
    }

    #[test]
    fn a_key_is_held_within_its_order_only() {
        let mut holds = Holds::default();
        assert!(!holds.holds("t", b"k"));
        holds.hold("t", b"k");
        holds.hold("t", b"k");
        holds.hold("t", b"l");
        assert!(holds.holds("t", b"k") && !holds.holds("u", b"k") && !holds.holds("t", b"m"));
        assert_eq!(holds.held_keys(), 2);
        holds.lift("t", b"k");
        assert!(!holds.holds("t", b"k") && holds.holds("t", b"l"));
        holds.lift("t", b"l");
        assert_eq!(holds, Holds::default());
    }

    fn known(id: Option<&str>) -> Known {
        Known { event_id: id.map(str::to_owned), holds: None }
    }

    #[test]
    fn a_known_row_is_known_in_every_epoch_and_by_its_id() {
        let mut holds = Holds::default();
        holds.know(Lsn(9), 2, known(Some("id-1")));
        holds.know(Lsn(9), 3, known(None));
        assert!(
            holds.meet(&at(9, 2, 1), || Some("id-1".to_owned()))
                && holds.meet(&at(9, 2, 7), || Some("id-1".to_owned()))
        );
        assert!(!holds.meet(&at(9, 2, 1), || Some("id-2".to_owned())), "another history");
        assert!(holds.meet(&at(9, 3, 1), || None) && holds.meet(&at(9, 3, 1), || Some("x".to_owned())));
        assert!(
            !holds.meet(&at(9, 4, 1), || Some("id-1".to_owned()))
                && !holds.meet(&at(8, 2, 1), || Some("id-1".to_owned()))
        );
    }

    #[test]
    fn a_hold_begins_where_its_row_is_met_again() {
        let mut holds = Holds::default();
        let queue = Some(("t".to_owned(), b"k".to_vec()));
        holds.know(Lsn(9), 2, Known { event_id: None, holds: queue });
        assert!(!holds.meet(&at(8, 0, 1), || None) && !holds.holds("t", b"k"), "an earlier event passes");
        assert!(holds.meet(&at(9, 2, 1), || None) && holds.holds("t", b"k"));
    }

    fn take(holds: &mut Holds, key: &[u8], policy: Policy) -> Result<State, NotTaken> {
        let queue = Some("t".to_owned());
        holds.take_in(queue, key, Cause::Header, policy, 3).map(|standing| standing.state)
    }

    fn outcome(stuck: bool) -> Outcome {
        let id = (1, Lsn(1), 0);
        let stuck = stuck.then(|| Stuck { id, cause: Cause::Header, reason: "still".to_owned() });
        let queue = Some(("t".to_owned(), b"k".to_vec()));
        Outcome { head: id, discard: false, queue, last: None, stuck }
    }

    #[test]
    fn what_is_behind_a_held_one_queues_whatever_the_policy_is() {
        let mut holds = Holds::default();
        assert_eq!(take(&mut holds, b"k", Policy::Continue), Ok(State::Passed));
        assert_eq!(take(&mut holds, b"k", Policy::Halt), Err(NotTaken::Policy));
        assert!(holds.begins(Some("t"), b"k", Policy::HoldKey));
        assert!(
            !holds.begins(Some("t"), b"k", Policy::Continue) && !holds.begins(None, b"", Policy::HoldKey)
        );
        assert_eq!(take(&mut holds, b"k", Policy::HoldKey), Ok(State::Held));
        assert!(!holds.begins(Some("t"), b"k", Policy::HoldKey));
        assert_eq!(take(&mut holds, b"k", Policy::Halt), Ok(State::Queued));
        let keyless = Holds::default().take_in(None, b"", Cause::NullColumn, Policy::HoldKey, 1);
        let passed = Standing { state: State::Passed, cause: Cause::NullColumn, held_by: None };
        assert_eq!(keyless, Ok(passed));
    }

    #[test]
    fn entries_are_bounded() {
        let mut holds = Holds::new(2, 0);
        assert_eq!(take(&mut holds, b"k", Policy::HoldKey), Ok(State::Held));
        assert_eq!(take(&mut holds, b"l", Policy::HoldKey), Err(NotTaken::Full));
        assert!(!holds.holds("t", b"l"), "what is not taken holds nothing");
        holds.written_down(&outcome(true), 2);
        assert!(holds.holds("t", b"k") && holds.open() == 1, "one is stuck");
        holds.written_down(&outcome(false), 9);
        assert!(!holds.holds("t", b"k") && holds.open() == 0);
        // What is decided on counts against no bound until it is settled.
        let mut full = Holds::new(4, 2);
        assert_eq!(take(&mut full, b"l", Policy::Continue), Ok(State::Passed));
        assert_eq!(take(&mut full, b"l", Policy::Continue), Err(NotTaken::Full));
        full.written_down(&outcome(false), 2);
        assert_eq!((full.open(), take(&mut full, b"l", Policy::Continue)), (3, Err(NotTaken::Full)));
    }
}
