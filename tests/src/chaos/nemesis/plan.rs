//! Which kind of fault comes when, in one lane.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use rand::RngExt;
use rand::seq::SliceRandom;

/// A round, in which every kind comes once, takes about so long.
const ROUND: Duration = Duration::from_secs(100);
/// How often each kind has to be seen in a run that has the time for it.
const WANTED: usize = 5;

/// The plan of a lane. Kinds are numbers.
#[derive(Debug)]
pub struct Plan {
    /// When each is due, and which it is.
    due: VecDeque<(Duration, usize)>,
    seen: Vec<usize>,
    tried: Vec<usize>,
    wanted: usize,
}

impl Plan {
    /// Rounds of all kinds, each in an order of its own, spread over the time with some chance.
    pub fn draw(kinds: usize, duration: Duration, random: &mut impl Rng) -> Plan {
        let rounds = (duration.as_secs_f64() / ROUND.as_secs_f64()).round().max(1.0);
        // A small number that was rounded.
        let rounds = rounds as usize;
        let slot = duration / u32::try_from(rounds * kinds).unwrap_or(u32::MAX).max(1);
        let mut due = VecDeque::new();
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..kinds).collect();
            order.shuffle(random);
            for (place, kind) in order.into_iter().enumerate() {
                let begin = slot * u32::try_from(round * kinds + place).unwrap_or(u32::MAX);
                due.push_back((begin + slot.mul_f64(random.random_range(0.0..0.5)), kind));
            }
        }
        Plan { due, seen: vec![0; kinds], tried: vec![0; kinds], wanted: rounds.min(WANTED) }
    }

    /// The next fault, and when it is due from the beginning: of the plan, and behind it of what is owed still.
    pub fn next_due(&mut self) -> Option<(Duration, usize)> {
        self.due.pop_front().or_else(|| {
            let owed = (0..self.seen.len()).filter(|kind| self.seen[*kind] < self.wanted);
            // What cannot be seen at all is not tried for ever.
            let owed = owed.filter(|kind| self.tried[*kind] < 3 * self.wanted);
            owed.min_by_key(|kind| self.seen[*kind]).map(|kind| (Duration::ZERO, kind))
        })
    }

    /// A fault of this kind was made.
    pub fn struck(&mut self, kind: usize, seen: bool) {
        self.tried[kind] += 1;
        self.seen[kind] += usize::from(seen);
    }

    /// Whether a kind was not seen as often as wanted.
    pub fn is_owed(&self) -> bool {
        self.seen.iter().any(|seen| *seen < self.wanted)
    }

    /// Whether a kind was not tried at all yet.
    pub fn is_first_round(&self) -> bool {
        self.tried.contains(&0)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn drawn(kinds: usize, seconds: u64, seed: u64) -> Vec<(Duration, usize)> {
        let mut plan = Plan::draw(kinds, Duration::from_secs(seconds), &mut StdRng::seed_from_u64(seed));
        let mut drawn = Vec::new();
        while let Some(next) = plan.next_due() {
            plan.struck(next.1, true);
            drawn.push(next);
        }
        drawn
    }

    #[test]
    fn ten_minutes_have_every_kind_at_least_five_times_and_in_time() {
        for seed in 0..20 {
            let drawn = drawn(9, 600, seed);
            for kind in 0..9 {
                assert!(drawn.iter().filter(|(_, found)| *found == kind).count() >= 5);
            }
            assert!(drawn.is_sorted() && drawn.iter().all(|(at, _)| *at < Duration::from_secs(600)));
        }
    }

    #[test]
    fn a_minute_has_every_kind_once() {
        let mut kinds: Vec<usize> = drawn(6, 60, 3).into_iter().map(|(_, kind)| kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, (0..6).collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_draws_the_same_plan_and_another_another() {
        assert_eq!(drawn(9, 600, 7), drawn(9, 600, 7));
        assert_ne!(drawn(9, 600, 7), drawn(9, 600, 8));
    }

    #[test]
    fn what_was_not_seen_comes_again_but_not_for_ever() {
        let mut plan = Plan::draw(2, Duration::from_secs(60), &mut StdRng::seed_from_u64(1));
        let mut made = Vec::new();
        while let Some((_, kind)) = plan.next_due() {
            made.push(kind);
            plan.struck(kind, kind == 0);
        }
        assert_eq!(made.iter().filter(|kind| **kind == 0).count(), 1);
        assert_eq!(made.iter().filter(|kind| **kind == 1).count(), 3);
        assert!(plan.is_owed());
    }
}
