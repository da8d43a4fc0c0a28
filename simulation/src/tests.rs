use outbox_consumer::simulation;

use crate::Mutant;
use crate::explore::explore;
use crate::schedule::Schedule;
use crate::shrink::shrink;
use crate::world::run;

/// Steps within which each mistake has to be seen.
const BUDGET: u64 = 60_000_000;

/// The full counts: those of `make prove`.
fn proving() -> bool {
    std::env::var_os("OUTBOX_PROVE").is_some_and(|value| value == "1")
}

#[test]
fn everything_holds() {
    let seed = rand::random();
    let steps = if proving() { 600_000_000 } else { 15_000_000 };
    println!("seed {seed}");
    let explored = explore(seed, steps, None, |_| {});
    if let Some((of, schedule, violation)) = &explored.failed {
        let short = shrink(schedule, None).map_or_else(|| schedule.clone(), |shrunk| shrunk.schedule);
        panic!("seed {of}: {violation}\noutbox-simulate --replay {short}");
    }
    println!(
        "proof: the simulated consumer held in {} runs of {} steps in all, {:.0} million steps a minute",
        explored.runs,
        explored.steps,
        explored.a_minute() / 1e6
    );
}

#[test]
fn every_mistake_is_seen() {
    let seed = 1;
    println!("| mistake | seed | steps until then | shortest schedule | what does not hold |");
    println!("|---|---|---|---|---|");
    let mut unseen = Vec::new();
    for mutant in Mutant::all() {
        let explored = explore(seed, BUDGET, Some(mutant), |_| {});
        let Some((of, schedule, violation)) = explored.failed else {
            unseen.push(mutant.name());
            continue;
        };
        // To make a schedule short takes longer than to find it.
        let short = if proving() { shrink(&schedule, Some(mutant)) } else { None };
        let length = short.as_ref().map_or("–".into(), |short| short.schedule.steps.len().to_string());
        let said = short.map_or(violation, |short| short.violation);
        let said: String = said.chars().take(120).collect();
        println!("| {} | {of} | {} | {length} | {said} |", mutant.name(), explored.steps);
    }
    assert!(unseen.is_empty(), "not seen within {BUDGET} steps: {unseen:?}");
}

#[test]
fn a_failing_schedule_becomes_short_and_can_be_read() {
    let mutant = Some(Mutant::Engine(simulation::Mutant::CommitPastInFlight));
    let (_, schedule, _) = explore(1, BUDGET, mutant, |_| {}).failed.unwrap();
    let short = shrink(&schedule, mutant).unwrap();
    assert!(short.schedule.steps.len() <= 12, "{}", short.schedule);
    let text = short.schedule.to_string();
    let again: Schedule = text.parse().unwrap();
    assert_eq!(again, short.schedule);
    assert_eq!(run(&again, mutant, false).violation, Some(short.violation));
    assert_eq!(run(&again, None, false).violation, None);
    assert!("1.2/3:x".parse::<Schedule>().is_err());
}

#[test]
fn a_schedule_says_all_that_happens() {
    for seed in 0..20 {
        let schedule = Schedule::drawn(seed, 2_000);
        let (one, other) = (run(&schedule, None, true), run(&schedule, None, true));
        assert_eq!((one.steps, one.story), (other.steps, other.story), "seed {seed}");
    }
}
