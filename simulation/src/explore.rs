//! Many runs, one after the other, each with a schedule of its own.

use std::time::{Duration, Instant};

use crate::schedule::Schedule;
use crate::subject::Subject;

/// Steps with faults of one run; what follows until everything rests comes on top.
pub const LENGTH: usize = 1_500;

/// What many runs came to.
#[derive(Debug)]
pub struct Explored {
    /// Runs that were made.
    pub runs: u64,
    /// Steps in all of them.
    pub steps: u64,
    /// The time that it took.
    pub took: Duration,
    /// The first that failed: its seed, its schedule and what did not hold.
    pub failed: Option<(u64, Schedule, String)>,
}

impl Explored {
    /// Steps in a minute.
    pub fn a_minute(&self) -> f64 {
        self.steps as f64 * 60.0 / self.took.as_secs_f64().max(1e-6)
    }
}

/// Runs the schedules of `seed`, `seed` + 1 and so on until so many steps are taken or one fails. `tell` hears of the
/// steps now and then.
pub fn explore(seed: u64, steps: u64, subject: Subject, mut tell: impl FnMut(u64)) -> Explored {
    let begun = Instant::now();
    let mut explored = Explored { runs: 0, steps: 0, took: Duration::ZERO, failed: None };
    while explored.steps < steps && explored.failed.is_none() {
        let seed = seed.wrapping_add(explored.runs);
        // Some are short, so that what needs many steps is not all there is.
        let length = [LENGTH, LENGTH / 4, LENGTH, 3 * LENGTH][(seed % 4) as usize];
        let schedule = Schedule::drawn(seed, length);
        let outcome = subject.run(&schedule, false);
        explored.runs += 1;
        explored.steps += outcome.steps;
        explored.failed = outcome.violation.map(|violation| (seed, schedule, violation));
        tell(explored.steps);
    }
    explored.took = begun.elapsed();
    explored
}
