//! `outbox-simulate`: looks for a schedule in which something does not hold, or runs one again; or makes every mistake and
//! says how it was seen.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;

use clap::Parser;
use outbox_simulation::explore::explore;
use outbox_simulation::mutants::{BUDGET, HEAD, see};
use outbox_simulation::schedule::Schedule;
use outbox_simulation::shrink::shrink;
use outbox_simulation::{Half, Mutant, Subject};
use serde_json::json;

/// Simulates the cores of consumer or relay among processes that die and servers that go away.
/// Exits with 1 where something does not hold, and prints the schedule that shows it.
#[derive(Debug, Parser)]
#[command(name = "outbox-simulate", version)]
struct Arguments {
    /// Which half; a mistake says so by itself
    #[arg(long, value_enum, default_value = "consumer")]
    half: Half,
    /// The first seed; drawn where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Steps to take
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Run this schedule instead and tell its story
    #[arg(long, value_name = "TEXT")]
    replay: Option<Schedule>,
    /// A mistake that is made on purpose
    #[arg(long, value_parser = Mutant::named)]
    mutant: Option<Mutant>,
    /// Make every mistake of both halves and print the table of how it was seen, in Markdown
    #[arg(long)]
    mutants: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn subject(&self) -> Subject {
        self.mutant.map_or(Subject::Sound(self.half), Subject::Mutated)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failed = match &arguments.replay {
        _ if arguments.mutants => table(&arguments),
        Some(schedule) => replay(&arguments, schedule),
        None => search(&arguments),
    };
    ExitCode::from(u8::from(failed))
}

/// The table of all mistakes; whether one was not seen.
fn table(arguments: &Arguments) -> bool {
    let seed = arguments.seed.unwrap_or(1);
    println!("{HEAD}");
    let mut unseen = Vec::new();
    for mutant in Mutant::all() {
        match see(mutant, seed, true) {
            Some(seen) => println!("{seen}"),
            None => unseen.push(mutant.name()),
        }
    }
    if !unseen.is_empty() {
        println!("\nNot seen within {BUDGET} steps: {}", unseen.join(", "));
    }
    !unseen.is_empty()
}

fn replay(arguments: &Arguments, schedule: &Schedule) -> bool {
    let outcome = arguments.subject().run(schedule, true);
    let failed = outcome.violation.is_some();
    if arguments.json {
        println!(
            "{}",
            json!({ "steps": outcome.steps, "violation": outcome.violation, "story": outcome.story })
        );
        return failed;
    }
    outcome.story.iter().for_each(|line| println!("{line}"));
    match outcome.violation {
        Some(violation) => println!("violated: {violation}"),
        None => println!("everything holds, in {} steps", outcome.steps),
    }
    failed
}

fn search(arguments: &Arguments) -> bool {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let shows = stderr().is_terminal() && !arguments.json;
    let mut shown = 0;
    let subject = arguments.subject();
    let explored = explore(seed, arguments.steps, subject, |steps| {
        if shows && steps / 100_000 > shown {
            shown = steps / 100_000;
            let _written = write!(stderr(), "\r{steps} of {} steps", arguments.steps);
        }
    });
    if shows {
        eprintln!();
    }
    let (runs, steps, a_minute) = (explored.runs, explored.steps, explored.a_minute());
    let Some((of, schedule, violation)) = explored.failed else {
        if arguments.json {
            println!(
                "{}",
                json!({ "seed": seed, "runs": runs, "steps": steps, "steps_a_minute": a_minute, "violation": null })
            );
        } else {
            println!("seed {seed}: everything holds in {runs} runs, {steps} steps, {a_minute:.0} a minute");
        }
        return false;
    };
    let shrunk = shrink(&schedule, subject);
    let (schedule, violation) =
        shrunk.map_or((schedule, violation), |shrunk| (shrunk.schedule, shrunk.violation));
    if arguments.json {
        println!(
            "{}",
            json!({ "seed": seed, "failed": of, "runs": runs, "steps": steps, "steps_a_minute": a_minute,
                    "violation": violation, "schedule": schedule.to_string(), "length": schedule.steps.len() })
        );
    } else {
        let half = subject.half().name();
        println!("seed {of}, after {steps} steps: {violation}");
        println!("in {} steps: outbox-simulate --half {half} --replay {schedule}", schedule.steps.len());
    }
    true
}
