//! One topic drained by each.

use std::fs;

use super::capture::{describe, turns};
use super::consumers::{Contender, System, Work};
use super::plan::{Counts, Part, Plan, warm_up};
use super::results::{Latency, Results, Run, Settings};
use crate::bench::alone::{alone, say};
use crate::bench::consumer::ground::{Ground, PARTITIONS};
use crate::bench::consumer::latency::Loop;
use crate::bench::consumer::plan::{Counts as ConsumerCounts, KEYS, Plan as ConsumerPlan};
use crate::bench::consumer::preload::{Spread, Writer};
use crate::bench::usage::cpu_seconds;

/// The topic that everybody reads from its beginning.
const TOPIC: &str = "uniform";

/// Drains by the bare loop before anything is measured: the broker's code is compiled by then.
const WARM_UPS: usize = 3;

/// Everybody, case by case, in the order of a round.
pub fn contenders() -> Vec<Contender> {
    use Settings::{Defaults, Tuned};
    use System::{Bare, Consumer, Parallel, Spring};
    let peers = |work, settings: &[Settings]| -> Vec<Contender> {
        let of = |settings| [Parallel, Spring].map(|system| Contender { system, settings, work });
        settings.iter().flat_map(|settings| of(*settings)).collect()
    };
    let ours = |work, settings| Contender { system: Consumer, settings, work };
    let mut all =
        vec![Contender { system: Bare, settings: Tuned, work: Work::Nothing }, ours(Work::Nothing, Defaults)];
    all.extend(peers(Work::Nothing, &[Tuned, Defaults]));
    all.extend([ours(Work::Sleep, Tuned), ours(Work::Sleep, Defaults)]);
    all.extend(peers(Work::Sleep, &[Tuned, Defaults]));
    all.push(ours(Work::One, Defaults));
    all.extend(peers(Work::One, &[Tuned, Defaults]));
    // Neither of the others shares a commit by default.
    all.push(ours(Work::Shared, Defaults));
    all.extend(peers(Work::Shared, &[Tuned]));
    all
}

/// Everybody in the open loop.
fn steady() -> Vec<Contender> {
    use Settings::{Defaults, Tuned};
    use System::{Consumer, Parallel, Spring};
    let all =
        [(Consumer, Defaults), (Parallel, Tuned), (Spring, Tuned), (Parallel, Defaults), (Spring, Defaults)];
    all.map(|(system, settings)| Contender { system, settings, work: Work::Insert }).into()
}

/// Events for a contender, so that each run lasts seconds and none half a minute.
fn events(counts: &Counts, contender: Contender) -> u64 {
    match (contender.work, contender.system, contender.settings) {
        (Work::Nothing, System::Parallel, _) => counts.nothing_slow,
        (Work::Nothing, ..) => counts.nothing,
        // One thread handles a thousand a second at most.
        (Work::Sleep, System::Spring, Settings::Defaults) => counts.sleep_slow,
        (Work::Sleep, System::Consumer | System::Parallel, Settings::Tuned) => counts.sleep_fast,
        (Work::Sleep, ..) => counts.sleep,
        (Work::One, System::Spring, Settings::Defaults) => counts.one_slow,
        (Work::One, ..) => counts.one,
        (Work::Insert, ..) => loop_events(counts),
        (Work::Shared, System::Spring, _) => counts.shared_lists,
        (Work::Shared, ..) => counts.shared,
    }
}

/// Events of the open loop in all.
fn loop_events(counts: &Counts) -> u64 {
    (counts.settle + counts.latency_runs as u64 * counts.latency_seconds) * counts.rate
}

/// Measures everything of the plan that begins with a topic.
///
/// # Panics
/// With a sentence, when a measurement cannot be made.
pub async fn measure(plan: &Plan) -> Vec<Results> {
    let mut results = Vec::new();
    if !plan.includes(Part::Consume) && !plan.includes(Part::Latency) {
        return results;
    }
    say(&format!("consumers: starting PostgreSQL {} and Kafka", plan.postgres));
    let mut ground = Ground::prepare(&consumer_plan(plan)).await;
    let processed = "CREATE TABLE processed (consumer text, id uuid, PRIMARY KEY (consumer, id))";
    ground.client.batch_execute(processed).await.expect("the peers' table");
    let wanted =
        |contender: &Contender| contender.system == System::Consumer || plan.wants(contender.system.name());
    if plan.includes(Part::Consume) {
        let contenders: Vec<Contender> = contenders().into_iter().filter(wanted).collect();
        results.extend(rounds(plan, &mut ground, &contenders).await);
    }
    if plan.includes(Part::Latency) {
        for contender in steady().into_iter().filter(wanted) {
            results.push(open_loop(plan, &mut ground, contender).await);
        }
    }
    results
}

async fn rounds(plan: &Plan, ground: &mut Ground, contenders: &[Contender]) -> Vec<Results> {
    ground.kafka.create_topic(TOPIC, PARTITIONS, &[]).await;
    let most = contenders.iter().map(|contender| events(&plan.counts, *contender)).max().unwrap_or(0);
    Writer::new(&ground.kafka.brokers(), plan.seed).fill(TOPIC, &Spread::Uniform(KEYS), most);
    let bare = Contender { system: System::Bare, settings: Settings::Tuned, work: Work::Nothing };
    for _ in 0..WARM_UPS {
        drain(ground, bare, most).await;
    }
    let results =
        contenders.iter().map(|contender| Results::new(&contender.entry(), &contender.system.version()));
    let mut results: Vec<Results> = results.collect();
    for round in 0..plan.pairs {
        for place in turns(contenders.len(), round) {
            let (contender, found) = (contenders[place], &mut results[place]);
            let _alone = alone(plan.lock.as_deref());
            let run = drain(ground, contender, events(&plan.counts, contender)).await;
            let who = format!("{}, {}, {}", found.case, found.system, found.settings);
            say(&format!("round {}, {who}: {}", round + 1, describe(&run)));
            found.add(run);
        }
    }
    results
}

async fn open_loop(plan: &Plan, ground: &mut Ground, contender: Contender) -> Results {
    ground.clear().await;
    ground.client.batch_execute("TRUNCATE processed, effect").await.expect("empty tables");
    let (counts, topic) = (plan.counts, ground.new_topic("steady").await);
    let events = loop_events(&counts);
    let (_, instance) = contender.start(ground, &topic, (0, events));
    let open_loop = Loop::new(ground, &topic, events);
    let mut results = Results::new(&contender.entry(), &contender.system.version());
    let rate = ConsumerCounts { rate: counts.rate, ..ConsumerCounts::FULL };
    {
        let _alone = alone(plan.lock.as_deref());
        open_loop.run(ground, &instance, &rate, (0, counts.settle)).await;
    }
    for number in 0..counts.latency_runs as u64 {
        let _alone = alone(plan.lock.as_deref());
        let first = (counts.settle + number * counts.latency_seconds) * counts.rate;
        let run = open_loop.run(ground, &instance, &rate, (first, counts.latency_seconds)).await;
        let (found, system, settings) = (run.seen, contender.system.name(), contender.settings);
        say(&format!(
            "record to commit, {system}, {settings}: p50 {:.2}, p99 {:.2} ms",
            found.p50, found.p99
        ));
        let cpu = run.load * 1e6 / counts.rate as f64;
        results.cpu_us_per_event.entry("itself".to_owned()).or_default().push(cpu);
        let latency = Latency { events: run.events, from_intended: run.seen, handed_over: run.acknowledged };
        results.add_latency(latency, run.peak_rss_kib);
    }
    instance.end();
    results
}

/// What the ground of the consumer's own benchmark needs to know.
fn consumer_plan(plan: &Plan) -> ConsumerPlan {
    ConsumerPlan {
        only: Vec::new(),
        pairs: plan.pairs,
        seed: plan.seed,
        postgres: plan.postgres,
        counts: ConsumerCounts::FULL,
        lock: plan.lock.clone(),
    }
}

async fn drain(ground: &mut Ground, contender: Contender, events: u64) -> Run {
    if contender.work.is_effect() {
        ground.clear().await;
        ground.client.batch_execute("TRUNCATE processed").await.expect("an empty table");
    }
    let warm_up = warm_up(events);
    let (group, instance) = contender.start(ground, TOPIC, (warm_up, events));
    let warm = instance.hear();
    let others = Others::now(ground);
    let last = instance.hear();
    let counted = (last.handled - warm.handled) as f64;
    let mut cpu = others.until_now(ground, counted);
    cpu.push(("itself", (last.cpu_nanos - warm.cpu_nanos) as f64 / 1e3 / counted));
    if !contender.work.is_effect() {
        cpu.retain(|(process, _)| *process != "PostgreSQL");
    }
    instance.end();
    let once = if contender.work.is_effect() { Some(is_once(ground, contender, &group).await) } else { None };
    Run {
        warm: counted / (last.seconds - warm.seconds),
        whole: last.handled as f64 / last.seconds,
        cpu: cpu.into_iter().map(|(process, cpu)| (process.to_owned(), cpu)).collect(),
        peak_rss_kib: last.peak_rss_kib,
        once,
    }
}

/// Whether there is an effect for each event that was settled, and no other.
async fn is_once(ground: &Ground, contender: Contender, group: &str) -> bool {
    let effects = ground.number("SELECT -sum(free)::bigint FROM stock").await;
    let settled = match contender.system {
        System::Consumer => {
            format!("SELECT count(*) FROM inbox.settlement WHERE scope = '{group}' AND state = 'done'")
        }
        _ => format!("SELECT count(*) FROM processed WHERE consumer = '{group}'"),
    };
    effects == ground.number(&settled).await && effects > 0
}

/// Processor time of the servers so far.
struct Others {
    broker: f64,
    postgres: f64,
}

impl Others {
    fn now(ground: &Ground) -> Others {
        let broker = cpu_seconds(ground.kafka.node(0).pid()).unwrap_or(0.0);
        Others { broker, postgres: postgres_seconds(ground) }
    }

    /// What they have used since, by event.
    fn until_now(&self, ground: &Ground, events: f64) -> Vec<(&'static str, f64)> {
        let now = Others::now(ground);
        let of = |now: f64, then: f64| (now - then) * 1e6 / events;
        vec![("broker", of(now.broker, self.broker)), ("PostgreSQL", of(now.postgres, self.postgres))]
    }
}

/// Of the server's main process and all that it has started and that run still.
fn postgres_seconds(ground: &Ground) -> f64 {
    let pid = fs::read_to_string(ground.postgres.data().join("postmaster.pid")).unwrap_or_default();
    let Some(main) = pid.lines().next().and_then(|pid| pid.parse::<u32>().ok()) else { return 0.0 };
    let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.chain([main]).filter_map(cpu_seconds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_measured_in_each_case_that_it_has() {
        let contenders = contenders();
        let count = |work, system| contenders.iter().filter(|c| c.work == work && c.system == system).count();
        for system in [System::Parallel, System::Spring] {
            assert_eq!([Work::Nothing, Work::Sleep, Work::One].map(|work| count(work, system)), [2; 3]);
            assert_eq!(count(Work::Shared, system), 1);
        }
        let works = [Work::Nothing, Work::Sleep, Work::One, Work::Shared];
        assert!(works.into_iter().all(|work| count(work, System::Consumer) > 0));
    }
}
