//! The ladder's promises, and the budget against a naive model.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::budget::PARTS;
use super::*;

const TRANSIENT: Failure = Failure::Transient { after: Duration::ZERO };

fn ladder() -> impl Strategy<Value = Ladder> {
    let rungs = prop::collection::btree_set(1..100_000_u64, 0..6);
    (0..6_u32, rungs, prop::option::of(0..400_000_u64), 1..5_000_u64).prop_map(
        |(n, rungs, deadline, first)| {
            let ladder = in_place(n).then(rungs.into_iter().map(seconds));
            let ladder =
                ladder.backoff(Duration::from_millis(first), seconds(60)).when_exhausted(Exhausted::Halt);
            deadline.map_or(ladder.clone(), |deadline| ladder.deadline(seconds(deadline)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_failing_record_takes_each_step_once_and_never_early(
        ladder in ladder(), seed in any::<u64>(), start in 0..1_000_000_u64, after in 0..1_000_u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let first_failure = seconds(start);
        let after = seconds(after);
        let (mut now, mut attempts, mut rungs) = (first_failure, 0, 0);
        loop {
            attempts += 1;
            prop_assert!(ladder.deadline.is_none_or(|d| now - first_failure <= d), "an attempt after the deadline");
            let history = History { attempts, uncounted: 0, first_failure };
            let step = ladder.step(history, now, Failure::Transient { after }, &mut rng);
            let nominal = |delay: Duration| delay.max(after);
            match step {
                Step::RetryIn(delay) => {
                    prop_assert!(attempts < ladder.in_place && rungs == 0);
                    let least = nominal(ladder.backoff.after(attempts));
                    prop_assert!(delay >= least && delay <= least.mul_f64(1.0 + JITTER) + Duration::from_nanos(9));
                    now += delay;
                }
                Step::Park { rung, due } => {
                    prop_assert_eq!(rung, rungs);
                    prop_assert!(due >= now + nominal(ladder.rungs[rung]));
                    rungs += 1;
                    now = due;
                }
                Step::Exhausted(exhausted) => {
                    prop_assert_eq!(exhausted, Exhausted::Halt);
                    break;
                }
            }
            if after.is_zero() {
                prop_assert!(now - first_failure <= ladder.longest() + Duration::from_nanos(99));
            }
        }
        let all = ladder.in_place + ladder.rungs.len() as u32;
        prop_assert!(attempts == all || attempts < all && ladder.deadline.is_some(), "{attempts} of {all}");
    }

    #[test]
    fn what_is_permanent_ends_and_what_is_uncounted_never_does(
        ladder in ladder(), seed in any::<u64>(), attempts in any::<u32>(), uncounted in any::<u32>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let history = History { attempts, uncounted, first_failure: Duration::ZERO };
        let step = ladder.step(history, hours(1_000), Failure::Permanent, &mut rng);
        prop_assert_eq!(step, Step::Exhausted(Exhausted::Halt));
        match ladder.step(history, hours(1_000), Failure::Uncounted, &mut rng) {
            Step::RetryIn(delay) => {
                prop_assert!(delay >= UNCOUNTED.first && delay <= UNCOUNTED.most.mul_f64(1.0 + JITTER));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn no_numbers_are_too_large(
        seed in any::<u64>(), rungs in prop::collection::vec(any::<u64>(), 0..4), attempts in any::<u32>(),
        (now, first, after) in any::<(u64, u64, u64)>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let ladder = in_place(2).then(rungs.into_iter().map(hours)).backoff(hours(u64::MAX), Duration::MAX);
        let history = History { attempts, uncounted: attempts, first_failure: seconds(first) };
        let failure = Failure::Transient { after: seconds(after) };
        let _ = ladder.step(history, seconds(now), failure, &mut rng);
        let _ = (ladder.check(), ladder.longest());
    }
}

#[test]
fn the_ladder_of_the_readme() {
    let ladder = in_place(3).then([minutes(1), minutes(10), hours(1)]);
    assert_eq!(ladder.check(), Ok(()));
    let mut rng = StdRng::seed_from_u64(1);
    let mut step = |attempts| {
        let history = History { attempts, uncounted: 0, first_failure: Duration::ZERO };
        ladder.step(history, Duration::ZERO, TRANSIENT, &mut rng)
    };
    assert!(matches!((step(1), step(2)), (Step::RetryIn(_), Step::RetryIn(_))));
    let rungs: Vec<usize> = (3..6)
        .filter_map(|n| if let Step::Park { rung, .. } = step(n) { Some(rung) } else { None })
        .collect();
    assert_eq!(rungs, [0, 1, 2]);
    assert_eq!(step(6), Step::Exhausted(Exhausted::Hold));
}

#[test]
fn ladders_that_cannot_be_meant_are_refused() {
    assert_eq!(in_place(1).then([minutes(1), seconds(0)]).check(), Err(LadderError::NoDelay(1)));
    assert_eq!(in_place(1).then([minutes(2), minutes(1)]).check(), Err(LadderError::Shorter(1)));
    assert_eq!(in_place(1).then([minutes(2)]).deadline(minutes(1)).check(), Err(LadderError::Deadline));
    assert_eq!(in_place(1).then(vec![minutes(1); 21]).check(), Err(LadderError::TooMany(21)));
}

/// The budget's rules over the whole past: every outcome is kept and looked at.
struct Model {
    limits: Limits,
    flow: Flow,
    phase: u32,
    past: Vec<(Duration, bool)>,
    probes_failed: u32,
}

impl Model {
    fn enter(&mut self, flow: Flow) {
        (self.flow, self.phase) = (flow, self.phase + 1);
        self.past.clear();
    }

    fn ended(&mut self, phase: u32, failed: bool, now: Duration) {
        if phase != self.phase {
            return;
        }
        if self.flow == Flow::Probing {
            let doubled = self.limits.probe_after * 2_u32.pow(self.probes_failed.min(20));
            self.probes_failed = if failed { self.probes_failed + 1 } else { 0 };
            let probe_at = now + doubled.min(self.limits.probe_most);
            return self.enter(if failed { Flow::Paused { probe_at } } else { Flow::Flowing });
        }
        self.past.push((now, failed));
        let part = (self.limits.window / PARTS).as_nanos();
        let seen = |at: Duration| at.as_nanos() / part + u128::from(PARTS) > now.as_nanos() / part;
        let window: Vec<bool> =
            self.past.iter().filter(|(at, _)| seen(*at)).map(|(_, failed)| *failed).collect();
        let failures = window.iter().filter(|failed| **failed).count();
        let in_a_row = self.past.iter().rev().take_while(|(_, failed)| *failed).count();
        let many = window.len() >= self.limits.sample as usize
            && failures as f64 >= self.limits.ratio * window.len() as f64;
        if failed && (many || in_a_row >= self.limits.consecutive as usize) {
            self.enter(Flow::Paused { probe_at: now + self.limits.probe_after });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_budget_agrees_with_the_model(
        sick in 0.0..1.0_f64, sample in 1..12_u32, consecutive in 2..12_u32, seed in any::<u64>(),
        steps in prop::collection::vec((0..3_000_u64, any::<usize>(), 0..10_u8), 0..300),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Limits { window: seconds(10), ratio: 0.5, sample, consecutive, probe_after: seconds(1), probe_most: seconds(8) };
        let mut budget = Budget::new(limits);
        let mut model = Model { limits, flow: Flow::Flowing, phase: 0, past: Vec::new(), probes_failed: 0 };
        let mut out: Vec<(Admission, u32)> = Vec::new();
        let mut now = Duration::ZERO;
        for (millis, which, what) in steps {
            now += Duration::from_millis(millis);
            if what < 5 {
                let admit = budget.admit(now);
                match model.flow {
                    Flow::Paused { probe_at } if now < probe_at => prop_assert_eq!(admit, Admit::WaitUntil(probe_at)),
                    Flow::Probing => prop_assert_eq!(admit, Admit::WaitForProbe),
                    Flow::Paused { .. } => model.enter(Flow::Probing),
                    Flow::Flowing => {}
                }
                if let Admit::Go(admission) = admit {
                    out.push((admission, model.phase));
                }
            } else if !out.is_empty() {
                // Answers come in any order, some from before a pause.
                let (admission, phase) = out.swap_remove(which % out.len());
                if what == 9 {
                    budget.abandoned(admission, now);
                    if phase == model.phase && model.flow == Flow::Probing {
                        model.enter(Flow::Paused { probe_at: now });
                    }
                } else {
                    let failed = rng.random_bool(sick);
                    budget.ended(admission, failed, now);
                    model.ended(phase, failed, now);
                }
            }
            prop_assert_eq!(budget.flow(), model.flow);
        }
    }
}

#[test]
fn one_probe_at_a_time_brings_the_flow_back() {
    let mut budget = Budget::new(Limits { consecutive: 3, ..Limits::default() });
    let go = |budget: &mut Budget, now| match budget.admit(now) {
        Admit::Go(admission) => admission,
        other => panic!("{other:?}"),
    };
    let straggler = go(&mut budget, seconds(0));
    for _ in 0..3 {
        let attempt = go(&mut budget, seconds(0));
        budget.ended(attempt, true, seconds(0));
    }
    assert_eq!(budget.admit(seconds(0)), Admit::WaitUntil(seconds(1)));
    budget.ended(straggler, false, seconds(0));
    assert_eq!(budget.flow(), Flow::Paused { probe_at: seconds(1) }, "it began before the pause");
    let probe = go(&mut budget, seconds(1));
    assert_eq!(budget.admit(seconds(100)), Admit::WaitForProbe);
    budget.ended(probe, true, seconds(2));
    assert_eq!(budget.flow(), Flow::Paused { probe_at: seconds(3) });
    let probe = go(&mut budget, seconds(3));
    budget.ended(probe, true, seconds(3));
    assert_eq!(budget.flow(), Flow::Paused { probe_at: seconds(5) }, "the delay doubles");
    let probe = go(&mut budget, seconds(5));
    budget.ended(probe, false, seconds(6));
    assert_eq!(budget.flow(), Flow::Flowing);
}
