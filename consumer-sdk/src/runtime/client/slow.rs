//! What is read again because somebody moved offsets back is read slowly, until it has caught up or somebody gives the
//! word (C49): a billion events that nobody meant to repeat are stopped in time, and a few are over before anybody looks.
//!
//! Read in slices: so many records at once, and then nothing of these partitions until the slice is over. A pause makes
//! the client fetch again what it had fetched, so there are few of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::intake::Orders;
use crate::lane::Lane;

/// Records that are repeated in one slice, of all partitions of this instance together.
pub(super) const IN_A_SLICE: usize = 10_000;
/// How long a slice lasts: together a thousand records a second.
const SLICE: Duration = Duration::from_secs(10);

/// How much was repeated, and what waits therefore.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// When the present slice began, and how much of it is used.
    slice: Option<(Instant, usize)>,
    paused: BTreeSet<Lane>,
}

impl Slow {
    /// Records were read that had been settled before.
    pub(super) fn repeated(&mut self, now: Instant, records: usize) {
        self.slice.get_or_insert((now, 0)).1 += records;
    }

    /// A record of a partition has come; one that was to be paused is paused again (see [`crate::intake::Intake::came`]).
    pub(super) fn came(&mut self, lane: Lane) {
        self.paused.remove(&lane);
    }

    /// Whether the present slice is used up.
    pub(super) fn is_used_up(&self, now: Instant) -> bool {
        self.slice.is_some_and(|(since, used)| used >= IN_A_SLICE && now.duration_since(since) < SLICE)
    }

    /// Whether there is nothing to be ordered while no partition repeats.
    pub(super) fn is_at_rest(&self) -> bool {
        self.paused.is_empty()
    }

    /// Whether the partition waits for the next slice. Nothing else may be ordered for it meanwhile.
    pub(super) fn is_paused(&self, lane: Lane) -> bool {
        self.paused.contains(&lane)
    }

    /// What to pause and what to resume now: `behind` are the partitions that repeat, `present` those that are assigned,
    /// `may` be paused those that are read.
    pub(super) fn orders(
        &mut self,
        now: Instant,
        behind: impl Fn(Lane) -> bool,
        present: &[Lane],
        may: impl Fn(Lane) -> bool,
    ) -> Orders {
        self.paused.retain(|lane| present.contains(lane));
        if self.slice.is_some_and(|(since, _)| now.duration_since(since) >= SLICE) {
            self.slice = None;
        }
        let used_up = self.is_used_up(now);
        let waits = |lane: &Lane| used_up && behind(*lane);
        let resume: Vec<Lane> = self.paused.iter().copied().filter(|lane| !waits(lane)).collect();
        resume.iter().for_each(|lane| _ = self.paused.remove(lane));
        let pause: Vec<Lane> = present
            .iter()
            .copied()
            .filter(|lane| waits(lane) && may(*lane) && self.paused.insert(*lane))
            .collect();
        Orders { pause, resume }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Lane = Lane { topic: 0, partition: 1, epoch: 1 };
    const TWO: Lane = Lane { topic: 0, partition: 2, epoch: 2 };
    const LANES: [Lane; 2] = [ONE, TWO];

    /// The orders of a moment, of partitions that may be paused; the first of the two repeats.
    fn orders(slow: &mut Slow, now: Instant) -> (Vec<Lane>, Vec<Lane>) {
        let Orders { pause, resume } = slow.orders(now, |lane| lane == ONE, &LANES, |_| true);
        (pause, resume)
    }

    #[test]
    fn a_slice_that_is_used_up_pauses_whoever_repeats_until_its_end() {
        let (mut slow, begin) = (Slow::default(), Instant::now());
        slow.repeated(begin, IN_A_SLICE - 1);
        assert_eq!(orders(&mut slow, begin), (vec![], vec![]), "the first thousands are read at once");
        slow.repeated(begin, 1);
        assert_eq!(orders(&mut slow, begin), (vec![ONE], vec![]), "and no other partition waits");
        assert_eq!(orders(&mut slow, begin + SLICE / 2), (vec![], vec![]), "told once");
        assert!(slow.is_paused(ONE) && !slow.is_paused(TWO));
        assert_eq!(orders(&mut slow, begin + SLICE), (vec![], vec![ONE]));
        assert_eq!(orders(&mut slow, begin + SLICE), (vec![], vec![]));
        slow.repeated(begin + SLICE, IN_A_SLICE);
        assert_eq!(orders(&mut slow, begin + SLICE), (vec![ONE], vec![]), "the next slice is as large");
    }

    #[test]
    fn whoever_repeats_no_more_goes_on_at_once() {
        let (mut slow, begin) = (Slow::default(), Instant::now());
        slow.repeated(begin, IN_A_SLICE);
        orders(&mut slow, begin);
        let Orders { pause, resume } = slow.orders(begin, |_| false, &LANES, |_| true);
        assert_eq!((pause, resume), (vec![], vec![ONE]));
    }

    #[test]
    fn one_that_left_is_forgotten_and_one_that_is_read_all_the_same_is_paused_again() {
        let (mut slow, begin) = (Slow::default(), Instant::now());
        slow.repeated(begin, IN_A_SLICE);
        orders(&mut slow, begin);
        slow.came(ONE);
        assert_eq!(orders(&mut slow, begin), (vec![ONE], vec![]), "the client lost the order");
        let Orders { pause, resume } = slow.orders(begin + SLICE, |_| true, &[TWO], |_| true);
        assert_eq!((pause, resume), (vec![], vec![]), "it is not here any more");
    }
}
