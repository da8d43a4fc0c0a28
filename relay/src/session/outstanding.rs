//! What a process has handed over and has not seen confirmed: by that it knows whether it may say that it ended in order.

use parking_lot::Mutex;

use crate::lsn::Lsn;

/// Outlives the sessions of a lane.
#[derive(Debug, Default)]
pub struct Outstanding(Mutex<Option<Lsn>>);

impl Outstanding {
    /// A session begins to stream.
    pub fn begins(&self) {
        self.0.lock().get_or_insert(Lsn::ZERO);
    }

    /// It was lost when it had handed over the transaction that commits here, and perhaps part of it.
    pub fn lost(&self, commit_lsn: Lsn) {
        let mut furthest = self.0.lock();
        *furthest = (*furthest).max(Some(commit_lsn));
    }

    /// It has drained, and so has seen confirmed up to here what it had read. What those before it had left may lie beyond.
    pub fn drained(&self, position: Lsn) {
        let mut furthest = self.0.lock();
        if furthest.is_some_and(|furthest| furthest == Lsn::ZERO || furthest < position) {
            *furthest = None;
        }
    }

    /// Whether anything may be left.
    pub fn is_any(&self) -> bool {
        self.0.lock().is_some()
    }

    /// The slot is confirmed up to here, whoever did it. Whether that was the last that had been left.
    pub fn confirmed(&self, position: Lsn) -> bool {
        let mut furthest = self.0.lock();
        // A commit that begins at the position is not confirmed by it.
        let all = furthest.is_some_and(|furthest| furthest < position);
        if all {
            *furthest = None;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lost_sessions_left_is_confirmed_by_whoever_comes_past_the_furthest_of_it() {
        let outstanding = Outstanding::default();
        assert!(!outstanding.is_any() && !outstanding.confirmed(Lsn(9)));
        outstanding.begins();
        outstanding.lost(Lsn(100));
        // The next one is lost before it has come as far.
        outstanding.begins();
        outstanding.lost(Lsn(70));
        assert!(!outstanding.confirmed(Lsn(80)) && !outstanding.confirmed(Lsn(100)) && outstanding.is_any());
        assert!(outstanding.confirmed(Lsn(101)) && !outstanding.is_any());
        outstanding.begins();
        assert!(outstanding.is_any(), "of one that streams nothing is known yet");
        outstanding.drained(Lsn(1));
        assert!(!outstanding.is_any());
        outstanding.begins();
        outstanding.lost(Lsn(100));
        outstanding.begins();
        outstanding.drained(Lsn(60));
        assert!(outstanding.is_any(), "told to stop before it had come as far as the one before it");
        outstanding.drained(Lsn(101));
        assert!(!outstanding.is_any());
    }
}
