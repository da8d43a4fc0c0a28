use outbox_consumer::simulation;

use crate::explore::explore;
use crate::mutants::{BUDGET, HEAD, see};
use crate::schedule::Schedule;
use crate::shrink::shrink;
use crate::{Half, Mutant, Subject, consumer};

/// The full counts: those of `make prove`.
fn proving() -> bool {
    std::env::var_os("OUTBOX_PROVE").is_some_and(|value| value == "1")
}

fn everything_holds(half: Half) {
    let seed = rand::random();
    let steps = if proving() { 600_000_000 } else { 15_000_000 };
    println!("seed {seed}");
    let subject = Subject::Sound(half);
    let explored = explore(seed, steps, subject, |_| {});
    let half = half.name();
    if let Some((of, schedule, violation)) = &explored.failed {
        let short = shrink(schedule, subject).map_or_else(|| schedule.clone(), |shrunk| shrunk.schedule);
        panic!("seed {of}: {violation}\noutbox-simulate --half {half} --replay {short}");
    }
    println!(
        "proof: the simulated {half} held in {} runs of {} steps in all, {:.0} million steps a minute",
        explored.runs,
        explored.steps,
        explored.a_minute() / 1e6
    );
}

#[test]
fn everything_holds_of_the_consumer() {
    everything_holds(Half::Consumer);
}

#[test]
fn everything_holds_of_the_relay() {
    everything_holds(Half::Relay);
}

/// The schedules are made short where the table is written, by `outbox-simulate --mutants`.
fn every_mistake_is_seen(half: Half) {
    println!("{HEAD}");
    let (mut seen, mut unseen) = (0, Vec::new());
    for mutant in Mutant::of(half) {
        match see(mutant, 1, false) {
            Some(how) => {
                seen += 1;
                println!("{how}");
            }
            None => unseen.push(mutant.name()),
        }
    }
    assert!(unseen.is_empty(), "not seen within {BUDGET} steps: {unseen:?}");
    println!("proof: the simulation saw each of {seen} mistakes of the {}", half.name());
}

#[test]
fn every_mistake_is_seen_of_the_consumer() {
    every_mistake_is_seen(Half::Consumer);
}

#[test]
fn every_mistake_is_seen_of_the_relay() {
    every_mistake_is_seen(Half::Relay);
}

#[test]
fn names_are_each_of_one_mistake() {
    let mut names: Vec<String> = Mutant::all().map(Mutant::name).collect();
    let many = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), many);
    for mutant in Mutant::all() {
        assert_eq!(Mutant::named(&mutant.name()), Ok(mutant));
        assert!(!mutant.guard().is_empty());
    }
}

#[test]
fn a_failing_schedule_becomes_short_and_can_be_read() {
    let mutant = consumer::Mutant::Engine(simulation::Mutant::CommitPastInFlight);
    let subject = Subject::Mutated(Mutant::Consumer(mutant));
    let (_, schedule, _) = explore(1, BUDGET, subject, |_| {}).failed.unwrap();
    let short = shrink(&schedule, subject).unwrap();
    assert!(short.schedule.steps.len() <= 12, "{}", short.schedule);
    let text = short.schedule.to_string();
    let again: Schedule = text.parse().unwrap();
    assert_eq!(again, short.schedule);
    assert_eq!(subject.run(&again, false).violation, Some(short.violation));
    assert_eq!(Subject::Sound(Half::Consumer).run(&again, false).violation, None);
    assert!("1.2/3:x".parse::<Schedule>().is_err());
}

#[test]
fn a_schedule_says_all_that_happens() {
    for half in Half::ALL {
        for seed in 0..20 {
            let schedule = Schedule::drawn(seed, 2_000);
            let run = || Subject::Sound(half).run(&schedule, true);
            let (one, other) = (run(), run());
            assert_eq!((one.steps, one.story), (other.steps, other.story), "seed {seed}");
        }
    }
}
