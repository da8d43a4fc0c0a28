//! Whether each mistake is seen, within which time, and the table that says so.

use std::fmt;
use std::time::Duration;

use crate::explore::explore;
use crate::schedule::Schedule;
use crate::shrink::shrink;
use crate::subject::{Mutant, Subject};

/// Steps within which each mistake has to be seen.
pub const BUDGET: u64 = 60_000_000;

/// How a mistake was seen.
#[derive(Debug)]
pub struct Seen {
    /// The mistake.
    pub mutant: Mutant,
    /// The seed of the schedule that shows it.
    pub seed: u64,
    /// Schedules, steps and time until then.
    pub runs: u64,
    /// Steps in all of them.
    pub steps: u64,
    /// The time that it took.
    pub took: Duration,
    /// The short form, where it was asked for.
    pub short: Option<Schedule>,
    /// What did not hold.
    pub violation: String,
}

/// Makes the mistake until it is seen, or the budget is spent. `shorten`: makes its schedule short, which takes longer
/// than to find it.
pub fn see(mutant: Mutant, seed: u64, shorten: bool) -> Option<Seen> {
    let subject = Subject::Mutated(mutant);
    let explored = explore(seed, BUDGET, subject, |_| {});
    let (seed, schedule, violation) = explored.failed?;
    let short = if shorten { shrink(&schedule, subject) } else { None };
    let (short, violation) = match short {
        Some(short) => (Some(short.schedule), short.violation),
        None => (None, violation),
    };
    Some(Seen {
        mutant,
        seed,
        runs: explored.runs,
        steps: explored.steps,
        took: explored.took,
        short,
        violation,
    })
}

/// The head of the table.
pub const HEAD: &str = "| mutant | guard that it removes | caught by | schedules | steps | seconds | shortest | what does not hold |\n\
                        |---|---|---|---|---|---|---|---|";

impl fmt::Display for Seen {
    /// A line of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { mutant, seed, runs, steps, took, short, violation } = self;
        let (name, guard, half) = (mutant.name(), mutant.guard(), mutant.half().name());
        let seconds = took.as_secs_f64();
        let length = short.as_ref().map_or("–".to_owned(), |short| format!("{} steps", short.steps.len()));
        let said: String = violation.replace('|', "/").chars().take(120).collect();
        write!(
            f,
            "| `{name}` | {guard} | simulation of the {half}, seed {seed} | {runs} | {steps} | {seconds:.2} | {length} | {said} |"
        )
    }
}
