//! How many bytes may be out at once.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A chunk counts for at least this, so that the number of chunks is bounded as well as their bytes.
const LEAST_CHARGE: usize = 4096;

/// Buffers kept for the next chunk instead of being freed.
const SPARE_BUFFERS: usize = 4;

/// Counts the bytes of chunks that are handed out, and takes their buffers back. Its lock is taken twice
/// per chunk, not per row.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: usize,
    /// Length of the buffers that are kept.
    standard: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    out: usize,
    spare: Vec<Vec<u8>>,
}

impl Allowance {
    pub(super) fn new(limit: usize) -> Self {
        // Large enough for a receive buffer's worth of segments, small enough that several are out.
        let standard = (limit / 4).clamp(16 * 1024, 256 * 1024);
        Allowance { limit, standard, state: Mutex::default(), changed: Condvar::new() }
    }

    /// A buffer of at least the standard length and at least `least` bytes. Its content is arbitrary.
    pub(super) fn buffer(&self, least: usize) -> Vec<u8> {
        if least <= self.standard
            && let Some(buffer) = self.state.lock().spare.pop()
        {
            return buffer;
        }
        vec![0; least.max(self.standard)]
    }

    /// Counts a chunk as handed out; returns what it counts for.
    pub(super) fn charge(&self, bytes: usize) -> usize {
        let charge = bytes.max(LEAST_CHARGE);
        self.state.lock().out += charge;
        charge
    }

    /// Takes a chunk back.
    pub(super) fn give_back(&self, charge: usize, buffer: Vec<u8>) {
        let mut state = self.state.lock();
        state.out -= charge;
        if buffer.len() == self.standard && state.spare.len() < SPARE_BUFFERS {
            state.spare.push(buffer);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits at most `limit` until a chunk of `bytes` may be handed out; says whether it may. A chunk that
    /// is larger than the whole allowance may go alone.
    pub(super) fn has_room(&self, bytes: usize, limit: Duration) -> bool {
        let fits = |state: &State| state.out == 0 || state.out.saturating_add(bytes) <= self.limit;
        let mut state = self.state.lock();
        if !fits(&state) && !limit.is_zero() {
            self.changed.wait_for(&mut state, limit);
        }
        fits(&state)
    }

    /// Waits at most `limit` for [`wake`](Self::wake).
    pub(super) fn rest(&self, limit: Duration) {
        self.changed.wait_for(&mut self.state.lock(), limit);
    }

    /// Ends a wait.
    pub(super) fn wake(&self) {
        // Under the lock, so that it cannot fall between a waiter's look and its waiting.
        let _state = self.state.lock();
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_means_no_room_until_something_comes_back() {
        let allowance = Allowance::new(100_000);
        let charge = allowance.charge(60_000);
        assert!(allowance.has_room(40_000, Duration::ZERO));
        assert!(!allowance.has_room(40_001, Duration::ZERO));
        allowance.give_back(charge, Vec::new());
        assert!(allowance.has_room(100_000, Duration::ZERO));
    }

    #[test]
    fn what_is_larger_than_everything_goes_alone() {
        let allowance = Allowance::new(1000);
        assert!(allowance.has_room(5_000_000, Duration::ZERO));
        let charge = allowance.charge(1);
        assert!(!allowance.has_room(5_000_000, Duration::ZERO));
        allowance.give_back(charge, Vec::new());
        assert!(allowance.has_room(5_000_000, Duration::ZERO));
    }

    #[test]
    fn small_chunks_are_bounded_in_number() {
        let allowance = Allowance::new(10 * LEAST_CHARGE);
        let mut number = 0;
        while allowance.has_room(1, Duration::ZERO) {
            allowance.charge(1);
            number += 1;
        }
        assert_eq!(number, 10);
    }

    #[test]
    fn only_standard_buffers_are_kept_and_only_a_few() {
        let allowance = Allowance::new(1024 * 1024);
        for _ in 0..2 * SPARE_BUFFERS {
            let charge = allowance.charge(1);
            allowance.give_back(charge, vec![1; allowance.standard]);
        }
        let charge = allowance.charge(1);
        allowance.give_back(charge, vec![2; 2 * allowance.standard]);
        assert_eq!(allowance.state.lock().spare.len(), SPARE_BUFFERS);
        assert_eq!(allowance.buffer(allowance.standard + 1).len(), allowance.standard + 1);
        assert_eq!(allowance.buffer(1)[0], 1, "a kept buffer is used again");
    }
}
