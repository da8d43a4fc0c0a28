//! Published snapshots: which transactions of the table are wholly on the broker, at a few moments.
//!
//! Now and then the relay asks the primary for `pg_current_snapshot()` and the WAL insert position.
//! Every transaction visible in that snapshot committed below that position. Once the confirmed position
//! has reached it, each row of each such transaction is published, and the pair says so for ever: a
//! table can be filled from it, and its rows below it can be cleaned up.
//!
//! "For ever" needs that no crash came between. A transaction with asynchronous commit is visible before
//! it is flushed; a crash takes it back, its xid is used again, and other log comes to stand at the same
//! LSNs. The confirmed position then reaches the LSN in the new history. So a candidate counts only when
//! an answer came on the SQL connection on which it was taken **after** the position had reached it: a
//! crash would have ended that connection.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// Most snapshots that the ring keeps.
pub const MAX_RING_ENTRIES: usize = 24;

/// A snapshot whose text is longer is passed over (8 KiB, about 700 transactions open at once): the next
/// one is probably shorter, and the record stays bounded.
pub const MAX_SNAPSHOT_BYTES: usize = 8 * 1024;

/// Most candidates that wait for the confirmed position.
const MAX_CANDIDATES: usize = 8;

/// Every row of every transaction that is visible in `snapshot` is on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSnapshot {
    /// WAL insert position right after the snapshot was taken.
    pub lsn: Lsn,
    /// Text of the `pg_snapshot`.
    pub snapshot: String,
    /// When it was taken, by the relay's clock. For people; nothing is decided by it.
    pub taken_at: Timestamp,
}

/// The published snapshots that are remembered, oldest first, LSNs strictly ascending.
///
/// After a failover the newest one that the two histories share is needed, and how far back that is
/// nobody knows; so the ring keeps the newest and fewer the older they are, about half as many for each
/// doubling of the distance from the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ring(Vec<PublishedSnapshot>);

impl Ring {
    /// Adds a snapshot as the newest and thins the ring. One at the same LSN takes the newest's place;
    /// one below it, or too long, is passed over.
    pub fn push(&mut self, published: PublishedSnapshot) {
        if published.snapshot.len() > MAX_SNAPSHOT_BYTES {
            return;
        }
        match self.newest() {
            Some(newest) if published.lsn < newest.lsn => return,
            Some(newest) if published.lsn == newest.lsn => {
                self.0.pop();
            }
            _ => {}
        }
        self.0.push(published);
        if self.0.len() > MAX_RING_ENTRIES {
            self.0.remove(self.most_dispensable());
        }
    }

    /// Keeps what stands at or below `lsn`: beyond it the server's history is another one.
    pub fn cut_to(&mut self, lsn: Lsn) {
        self.0.retain(|entry| entry.lsn <= lsn);
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<&PublishedSnapshot> {
        self.0.last()
    }

    /// The newest snapshot whose LSN is at or below `lsn`.
    pub fn newest_at_or_below(&self, lsn: Lsn) -> Option<&PublishedSnapshot> {
        self.0.iter().rev().find(|entry| entry.lsn <= lsn)
    }

    /// All snapshots, oldest first.
    pub fn entries(&self) -> &[PublishedSnapshot] {
        &self.0
    }

    /// Whether it is what [`Ring::push`] can have made; a ring that was read may be anything.
    pub(super) fn is_sound(&self) -> bool {
        self.0.len() <= MAX_RING_ENTRIES
            && self.0.iter().all(|entry| entry.snapshot.len() <= MAX_SNAPSHOT_BYTES)
            && self.0.windows(2).all(|pair| pair[0].lsn < pair[1].lsn)
    }

    /// The inner entry without which the gap between its neighbours is smallest for its age: its going
    /// costs least where a gap as large as the age is fair. Needs three entries or more. Distances
    /// between LSNs serve only to choose; no position is made of them.
    fn most_dispensable(&self) -> usize {
        let newest = self.0[self.0.len() - 1].lsn.0;
        let gap = |at: usize| u128::from(self.0[at + 1].lsn.0 - self.0[at - 1].lsn.0);
        let age = |at: usize| u128::from(newest - self.0[at].lsn.0);
        (1..self.0.len() - 1).min_by(|&a, &b| (gap(a) * age(b)).cmp(&(gap(b) * age(a)))).unwrap_or(0)
    }
}

/// Snapshots on their way into the ring.
#[derive(Debug, Default)]
pub struct Candidates {
    waiting: VecDeque<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    published: PublishedSnapshot,
    generation: u64,
    evidence: Evidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    Taken,
    /// The confirmed position has reached the LSN.
    Reached,
    /// And after that the connection still answered.
    Answered,
}

impl Candidates {
    /// A snapshot and the WAL insert position were answered on SQL connection number `generation`.
    /// Passed over when the text is too long or enough candidates wait: those come first, and while
    /// they wait a newer one says nothing that a later one will not.
    pub fn taken(&mut self, lsn: Lsn, snapshot: String, taken_at: Timestamp, generation: u64) {
        if snapshot.len() > MAX_SNAPSHOT_BYTES || self.waiting.len() >= MAX_CANDIDATES {
            return;
        }
        let published = PublishedSnapshot { lsn, snapshot, taken_at };
        self.waiting.push_back(Candidate { published, generation, evidence: Evidence::Taken });
    }

    /// Another query was answered on SQL connection number `generation`. Proves that the server has not
    /// crashed since the candidates of that connection were taken.
    pub fn answered(&mut self, generation: u64) {
        for candidate in &mut self.waiting {
            if candidate.generation == generation && candidate.evidence == Evidence::Reached {
                candidate.evidence = Evidence::Answered;
            }
        }
    }

    /// The SQL connection is gone, perhaps with the server: nothing that was taken on it can be proven.
    pub fn connection_lost(&mut self) {
        self.waiting.clear();
    }

    /// The confirmed position is `lsn`. Returns the newest snapshot that has become published since the
    /// last call; older ones say less and are dropped.
    pub fn confirmed(&mut self, lsn: Lsn) -> Option<PublishedSnapshot> {
        let mut newest: Option<PublishedSnapshot> = None;
        self.waiting.retain_mut(|candidate| {
            if candidate.evidence == Evidence::Taken && candidate.published.lsn <= lsn {
                candidate.evidence = Evidence::Reached;
            }
            if candidate.evidence != Evidence::Answered {
                return true;
            }
            if newest.as_ref().is_none_or(|n| n.lsn <= candidate.published.lsn) {
                newest = Some(candidate.published.clone());
            }
            false
        });
        newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(lsn: u64) -> PublishedSnapshot {
        PublishedSnapshot {
            lsn: Lsn(lsn),
            snapshot: format!("{lsn}:{lsn}:"),
            taken_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn lsns(ring: &Ring) -> Vec<u64> {
        ring.entries().iter().map(|entry| entry.lsn.0).collect()
    }

    #[test]
    fn the_ring_orders_cuts_and_finds() {
        let mut ring = Ring::default();
        for lsn in [10, 20, 15, 30, 30] {
            ring.push(snapshot(lsn));
        }
        assert_eq!(lsns(&ring), [10, 20, 30]);
        let found = |lsn| ring.newest_at_or_below(Lsn(lsn)).map(|entry| entry.lsn.0);
        assert_eq!([found(9), found(10), found(29), found(99)], [None, Some(10), Some(20), Some(30)]);
        ring.cut_to(Lsn(20));
        assert_eq!(lsns(&ring), [10, 20]);
        ring.cut_to(Lsn(19));
        assert_eq!(lsns(&ring), [10]);
    }

    #[test]
    fn a_newer_snapshot_at_the_same_position_takes_its_place() {
        let mut ring = Ring::default();
        ring.push(snapshot(10));
        ring.push(PublishedSnapshot { snapshot: "12:12:".to_owned(), ..snapshot(10) });
        assert_eq!(ring.entries().len(), 1);
        assert_eq!(ring.newest().unwrap().snapshot, "12:12:");
    }

    #[test]
    fn a_long_snapshot_is_passed_over() {
        let long = |bytes| PublishedSnapshot { snapshot: "1".repeat(bytes), ..snapshot(10) };
        let mut ring = Ring::default();
        ring.push(long(MAX_SNAPSHOT_BYTES + 1));
        assert_eq!(ring.newest(), None);
        ring.push(long(MAX_SNAPSHOT_BYTES));
        assert!(ring.newest().is_some());

        let mut candidates = Candidates::default();
        candidates.taken(Lsn(1), "1".repeat(MAX_SNAPSHOT_BYTES + 1), Timestamp::UNIX_EPOCH, 1);
        candidates.confirmed(Lsn(1));
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(1)), None);
    }

    proptest! {
        #[test]
        fn the_ring_is_bounded_and_thins_with_age(steps in prop::collection::vec(1..1_000u64, 1..3_000)) {
            let mut ring = Ring::default();
            let mut at = 0;
            for step in &steps {
                at += step;
                ring.push(snapshot(at));
                prop_assert!(ring.is_sound());
                prop_assert_eq!(ring.newest().unwrap().lsn, Lsn(at));
            }
            prop_assert_eq!(ring.entries()[0].lsn, Lsn(steps[0]), "the oldest stays");
            // Wherever a history may branch off, the snapshot found below lies at most about as far
            // below that point as the point lies below the newest.
            for pair in ring.entries().windows(2) {
                let (gap, age) = (pair[1].lsn.0 - pair[0].lsn.0, at - pair[1].lsn.0);
                prop_assert!(gap <= age * 3 / 2 + 4_000, "a gap of {} at age {} of {}", gap, age, at);
            }
        }
    }

    #[test]
    fn even_snapshots_end_up_with_half_the_density_per_doubling() {
        let mut ring = Ring::default();
        (0..100_000).for_each(|n| ring.push(snapshot(n * 1_000)));
        let newest = ring.newest().unwrap().lsn.0;
        assert_eq!(ring.entries().len(), MAX_RING_ENTRIES);
        for doubling in 0..16 {
            let (near, far) = (1_000 << doubling, 2_000 << doubling);
            let count = lsns(&ring).iter().filter(|&&lsn| (near..=far).contains(&(newest - lsn))).count();
            assert!((1..=4).contains(&count), "{count} between {near} and {far}");
        }
    }

    fn taken(lsns: &[u64]) -> Candidates {
        let mut candidates = Candidates::default();
        for &lsn in lsns {
            candidates.taken(Lsn(lsn), format!("{lsn}:{lsn}:"), Timestamp::UNIX_EPOCH, 1);
        }
        candidates
    }

    #[test]
    fn published_is_what_was_reached_and_then_answered() {
        let mut candidates = taken(&[10, 20, 30]);
        assert_eq!(candidates.confirmed(Lsn(20)), None, "reached, but nothing was answered since");
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(20)), Some(snapshot(20)));
        assert_eq!(candidates.confirmed(Lsn(29)), None, "10 says less than 20 and is gone");
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(30)), None, "the answer came before 30 was reached");
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(30)), Some(snapshot(30)));
        assert_eq!(candidates.confirmed(Lsn(99)), None);
    }

    #[test]
    fn an_answer_on_another_connection_proves_nothing() {
        let mut candidates = taken(&[10]);
        candidates.confirmed(Lsn(10));
        candidates.answered(2);
        assert_eq!(candidates.confirmed(Lsn(10)), None);
    }

    #[test]
    fn a_lost_connection_takes_its_candidates_with_it() {
        let mut candidates = taken(&[10, 20]);
        candidates.confirmed(Lsn(10));
        candidates.answered(1);
        candidates.connection_lost();
        assert_eq!(candidates.confirmed(Lsn(99)), None);
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(99)), None);
    }

    #[test]
    fn few_candidates_wait_and_the_oldest_are_kept() {
        let mut candidates = taken(&(1..=100).collect::<Vec<_>>());
        candidates.confirmed(Lsn(100));
        candidates.answered(1);
        assert_eq!(candidates.confirmed(Lsn(100)), Some(snapshot(MAX_CANDIDATES as u64)));
    }
}
