//! One backlog drained by each, and the open loop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::plan::{Part, Plan, warm_up};
use super::relays::{Running, System};
use super::results::{Latency, Results, Run};
use super::topic::Topic;
use crate::bench::alone::{alone, say};
use crate::bench::drain;
use crate::bench::ground::{Backlog, Ground, slot};
use crate::bench::latency::{self, Receiver};
use crate::bench::plan::{Plan as RelayPlan, Shape};
use crate::bench::usage::{cpu_seconds, memory_kib};
use crate::wait::eventually_async;

/// Longest drain.
const LIMIT: Duration = Duration::from_secs(300);

/// Time between two looks at the topic; rates are of what a look saw.
const LOOK: Duration = Duration::from_millis(10);

/// Drains by the relay before anything is measured: the broker's code is compiled by then.
const WARM_UPS: usize = 5;

/// Rows of such a drain.
const WARM_UP: Shape = Shape { per_transaction: 100, rows: 500_000 };

/// The case of the open loop.
pub const STEADY: &str = "commit to consumer, a row per transaction at a steady rate";

/// Measures everything of the plan that begins with an outbox.
///
/// # Panics
/// With a sentence, when a measurement cannot be made.
pub async fn measure(plan: &Plan) -> Vec<Results> {
    let mut results = Vec::new();
    if !plan.includes(Part::Capture) && !plan.includes(Part::Latency) {
        return results;
    }
    say(&format!("relays: starting PostgreSQL {} and Kafka", plan.postgres));
    let mut ground = Ground::prepare(&relay_plan(plan)).await;
    let wanted = |system: &System| *system == System::Relay || plan.wants(system.name());
    let systems: Vec<System> = System::ALL.into_iter().filter(wanted).collect();
    if plan.includes(Part::Capture) {
        let rows = WARM_UP.rows.min(plan.counts.hundreds);
        let backlog = ground.load(Shape { rows, ..WARM_UP }).await;
        for _ in 0..WARM_UPS {
            drain::relay(&mut ground, &backlog).await;
        }
        for shape in plan.shapes() {
            results.extend(rounds(plan, &mut ground, shape, &systems).await);
        }
    }
    if plan.includes(Part::Latency) {
        for system in systems.into_iter().filter(|system| *system != System::Recvlogical) {
            results.push(open_loop(plan, &mut ground, system).await);
        }
    }
    results
}

/// What the ground of the relay's own benchmark needs to know.
fn relay_plan(plan: &Plan) -> RelayPlan {
    RelayPlan {
        pairs: plan.pairs,
        shapes: Vec::new(),
        latency_runs: plan.counts.latency_runs,
        latency_seconds: plan.counts.latency_seconds,
        latency_rate: plan.counts.rate,
        seed: plan.seed,
        postgres: plan.postgres,
        relay_keys: Vec::new(),
        lock: plan.lock.clone(),
    }
}

async fn rounds(plan: &Plan, ground: &mut Ground, shape: Shape, systems: &[System]) -> Vec<Results> {
    let case = format!("backlog drained, {}", shape.name());
    let backlog = ground.load(shape).await;
    say(&format!("{case}: {} rows loaded", shape.rows));
    let results = systems.iter().map(|system| Results::new(&system.entry(&case), &system.version(ground)));
    let mut results: Vec<Results> = results.collect();
    for round in 0..plan.pairs {
        for place in turns(systems.len(), round) {
            let (system, found) = (systems[place], &mut results[place]);
            let _alone = alone(plan.lock.as_deref());
            let run = match system {
                System::Recvlogical => baseline(ground, &backlog).await,
                _ => drain(ground, &backlog, system).await,
            };
            say(&format!("round {}, {}, {}: {}", round + 1, found.system, found.settings, describe(&run)));
            found.add(run);
        }
    }
    results
}

/// Forwards and backwards in turn: nobody is always behind the same other.
pub fn turns(count: usize, round: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

/// A run in a line.
pub fn describe(run: &Run) -> String {
    let cpu: Vec<String> = run.cpu.iter().map(|(process, cpu)| format!("{process} {cpu:.2}")).collect();
    let once = if run.once == Some(false) { ", NOT ONCE" } else { "" };
    format!(
        "{:.1} thousand/s warm, {:.1} in all; µs/event {}; {} MiB{once}",
        run.warm / 1000.0,
        run.whole / 1000.0,
        cpu.join(", "),
        run.peak_rss_kib / 1024
    )
}

/// It reads the same log and publishes nothing. It has nothing to warm up.
async fn baseline(ground: &Ground, backlog: &Backlog) -> Run {
    let drained = drain::baseline(ground, backlog).await;
    let rows = backlog.shape.rows as f64;
    let cpu = [("itself", drained.client_cpu), ("walsender", drained.walsender_cpu)];
    Run {
        warm: rows / drained.seconds,
        whole: rows / drained.seconds,
        cpu: cpu.map(|(process, cpu)| (process.to_owned(), cpu * 1e6 / rows)).into(),
        ..Run::default()
    }
}

/// A moment of a drain.
struct Moment {
    at: f64,
    records: u64,
    cpu: BTreeMap<String, f64>,
}

impl Moment {
    fn now(records: u64, pids: &[(&str, u32)]) -> Moment {
        let cpu = pids.iter().map(|(name, pid)| ((*name).to_owned(), cpu_seconds(*pid).unwrap_or(0.0)));
        Moment { at: unix_seconds(), records, cpu: cpu.collect() }
    }
}

async fn drain(ground: &mut Ground, backlog: &Backlog, system: System) -> Run {
    ground.copy_slot().await;
    let (config, name) = ground.next_run().await;
    let (log, topic) = (ground.log(), Topic::new(ground, &name));
    let running = system.start(ground, &config, &name);
    let (start, _) = log.replication_started();
    let (rows, broker) = (backlog.shape.rows, ground.kafka.node(0).pid());
    let warm = reach(&topic, &running, warm_up(rows));
    // Debezium may have asked more than once; who streams now is who counts.
    let walsender = walsender(ground).await;
    let pids = [("itself", running.pid()), ("walsender", walsender), ("broker", broker)];
    let warm = Moment::now(warm, &pids);
    let end = reach(&topic, &running, rows);
    let end = Moment::now(end, &pids);
    let peak_rss_kib = memory_kib(running.pid(), "VmHWM").expect("it runs");
    topic.check();
    running.stop();
    assert_eq!(topic.records(), rows, "every row once, since nobody was restarted");
    topic.delete().await;
    if system == System::Relay {
        assert!(ground.is_confirmed(&backlog.end).await, "the slot is not confirmed behind the backlog");
    }
    let counted = (end.records - warm.records) as f64;
    let used = |(process, cpu): (&String, &f64)| (process.clone(), (end.cpu[process] - cpu) * 1e6 / counted);
    Run {
        warm: counted / (end.at - warm.at),
        whole: rows as f64 / (end.at - start),
        cpu: warm.cpu.iter().map(used).collect(),
        peak_rss_kib,
        once: None,
    }
}

/// Waits until so many records are on the log, and says how many there were.
fn reach(topic: &Topic, running: &Running, records: u64) -> u64 {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = topic.records();
        if seen >= records {
            return seen;
        }
        running.assert_alive();
        assert!(Instant::now() < deadline, "{seen} of {records} records within {LIMIT:?}");
        std::thread::sleep(LOOK);
    }
}

async fn walsender(ground: &Ground) -> u32 {
    let active = format!(
        "SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = '{}'",
        slot()
    );
    ground.text(&active).await.parse().expect("a number")
}

async fn open_loop(plan: &Plan, ground: &mut Ground, system: System) -> Results {
    let counts = &plan.counts;
    ground.new_slot().await;
    let (config, topic) = ground.next_run().await;
    let running = system.start(ground, &config, &topic);
    let mut results = Results::new(&system.entry(STEADY), &system.version(ground));
    eventually_async(Duration::from_secs(90), "it to stream", async || {
        running.assert_alive();
        (walsender(ground).await != 0).then_some(())
    })
    .await;
    let zero = Instant::now();
    let rows = (counts.settle + counts.latency_runs as u64 * counts.latency_seconds) * counts.rate;
    let receiver = Receiver::start(ground, &topic, rows, zero);
    {
        let _alone = alone(plan.lock.as_deref());
        latency::run(ground, &receiver, zero, (0, counts.settle, counts.rate));
    }
    for number in 0..counts.latency_runs as u64 {
        let _alone = alone(plan.lock.as_deref());
        let pids = [("itself", running.pid()), ("broker", ground.kafka.node(0).pid())];
        let before = Moment::now(0, &pids);
        let first = (counts.settle + number * counts.latency_seconds) * counts.rate;
        let run = latency::run(ground, &receiver, zero, (first, counts.latency_seconds, counts.rate));
        let after = Moment::now(run.rows, &pids);
        for (process, cpu) in after.cpu {
            let used = (cpu - before.cpu[&process]) * 1e6 / run.rows as f64;
            results.cpu_us_per_event.entry(process).or_default().push(used);
        }
        let (found, settings) = (run.from_intended, results.settings);
        say(&format!(
            "latency, {}, {settings}: p50 {:.2}, p99 {:.2} ms",
            system.name(),
            found.p50,
            found.p99
        ));
        let run = Latency { events: run.rows, from_intended: run.from_intended, handed_over: run.commit };
        results.add_latency(run, memory_kib(running.pid(), "VmHWM").expect("it runs"));
    }
    running.stop();
    // The next one makes the slot anew.
    let free = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{}' AND NOT active", slot());
    eventually_async(Duration::from_secs(60), "the slot to be free", async || {
        ground.client.query_opt(&free, &[]).await.ok()?.map(|_| ())
    })
    .await;
    results
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_forwards_and_backwards() {
        assert_eq!(turns(3, 0), [0, 1, 2]);
        assert_eq!(turns(3, 1), [2, 1, 0]);
    }
}
