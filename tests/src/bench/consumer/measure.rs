//! Every measurement, in its order.

use super::drain::{bursts, drain};
use super::ground::Ground;
use super::job::Work;
use super::latency::Loop;
use super::pgbench;
use super::plan::{CONNECTIONS, Counts, GROUP, KEYS, Part, Plan, SLEEPERS, SLOW_WARM_UP};
use super::preload::{Spread, Writer};
use super::results::{Case, LatencyRun, Pair, Results, Run};
use crate::bench::alone::{alone, say};

/// Topics that are filled before anything is measured.
const UNIFORM: &str = "uniform";
const ZIPF: &str = "zipf";
const FEW: &str = "few-keys";
const MANY: &str = "many-keys";
/// Short ones, drained to their ends: of the beginning of a long one the most frequent key's partition would have
/// less than its share, and a slow handler would be charged with the hundred thousand events that are read ahead of it.
const SLEEP: &str = "uniform-sleep";
const GROUPED: &str = "uniform-group";
const ONE: &str = "uniform-one";
const SLEEP_ZIPF: &str = "zipf-sleep";
const GROUP_ZIPF: &str = "zipf-group";
const ONE_ZIPF: &str = "zipf-one";

/// Seconds of the open loop before the first run that counts.
const SETTLE: u64 = 5;

/// Measures everything of the plan.
///
/// # Panics
/// With a sentence, when a measurement cannot be made.
pub async fn measure(plan: &Plan) -> Results {
    say(&format!("starting PostgreSQL {} and Kafka", plan.postgres));
    let mut ground = Ground::prepare(plan).await;
    let postgres = ground.text("SELECT current_setting('server_version')").await;
    let mut results = Results { postgres, ..Results::default() };
    let cases: Vec<Case> = Case::ALL.into_iter().filter(|case| is_wanted(plan, *case)).collect();
    let mut writer = Writer::new(&ground.kafka.brokers(), plan.seed);
    fill(plan, &ground, &mut writer, &cases).await;
    warm_up(plan, &mut ground, &cases).await;
    for number in 0..plan.pairs {
        let mut pair = Pair::default();
        // Forwards and backwards in turn: no case is always behind the same other.
        let mut order = cases.clone();
        if number % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let _alone = alone(plan.lock.as_deref());
            let run = run(case, &plan.counts, &mut ground, &mut writer).await;
            say(&format!("pair {}, {}: {}", number + 1, case.name(), describe(&run)));
            pair.runs.insert(case, run);
        }
        results.pairs.push(pair);
    }
    if plan.includes(Part::Latency) {
        results.latency = open_loop(plan, &mut ground).await;
    }
    results
}

fn is_wanted(plan: &Plan, case: Case) -> bool {
    let parts = [Part::Nothing, Part::Backlog, Part::Keys, Part::Sleep, Part::Postgres];
    parts.into_iter().any(|part| plan.includes(part) && case.serves(part))
}

/// Writes what the cases read.
async fn fill(plan: &Plan, ground: &Ground, writer: &mut Writer, cases: &[Case]) {
    let counts = &plan.counts;
    let topics = [
        (UNIFORM, Spread::Uniform(KEYS), counts.backlog),
        (ZIPF, Spread::zipf(KEYS), counts.backlog),
        (FEW, Spread::Uniform(counts.few_keys), counts.keyed),
        (MANY, Spread::Uniform(counts.many_keys), counts.keyed),
        (SLEEP, Spread::Uniform(KEYS), counts.sleep),
        (GROUPED, Spread::Uniform(KEYS), counts.grouped),
        (ONE, Spread::Uniform(KEYS), counts.one_by_one),
        (SLEEP_ZIPF, Spread::zipf(KEYS), counts.sleep_zipf),
        (GROUP_ZIPF, Spread::zipf(KEYS), counts.grouped),
        (ONE_ZIPF, Spread::zipf(KEYS), counts.one_by_one),
    ];
    for (topic, keys, events) in topics {
        if cases.iter().any(|case| reads(*case) == Some(topic)) {
            ground.kafka.create_topic(topic, super::ground::PARTITIONS, &[]).await;
            let begun = std::time::Instant::now();
            writer.fill(topic, &keys, events);
            say(&format!("{topic}: {events} events in {:.1} s", begun.elapsed().as_secs_f64()));
        }
    }
}

fn reads(case: Case) -> Option<&'static str> {
    match case {
        Case::BareUniform | Case::NothingUniform => Some(UNIFORM),
        Case::SleepUniform => Some(SLEEP),
        Case::GroupUniform | Case::PipelinedUniform => Some(GROUPED),
        Case::OneUniform => Some(ONE),
        Case::NothingZipf | Case::BareZipf => Some(ZIPF),
        Case::SleepZipf => Some(SLEEP_ZIPF),
        Case::GroupZipf => Some(GROUP_ZIPF),
        Case::OneZipf => Some(ONE_ZIPF),
        Case::FewKeys => Some(FEW),
        Case::ManyKeys => Some(MANY),
        Case::Bursts | Case::Pgbench | Case::PgbenchGroups => None,
    }
}

/// The broker compiles its code while it is first used: no case should have that in its time.
async fn warm_up(plan: &Plan, ground: &mut Ground, cases: &[Case]) {
    let counts = &plan.counts;
    let topics = [
        (UNIFORM, counts.backlog),
        (ZIPF, counts.backlog),
        (FEW, counts.keyed),
        (MANY, counts.keyed),
        (GROUPED, counts.grouped),
    ];
    for (topic, events) in topics {
        if cases.iter().any(|case| reads(*case) == Some(topic)) {
            let _alone = alone(plan.lock.as_deref());
            drain(ground, topic, Work::Bare, events, 1).await;
            // It commits, too, which the bare loop does not.
            drain(ground, topic, Work::Nothing, events / 4, 1).await;
        }
    }
}

async fn run(case: Case, counts: &Counts, ground: &mut Ground, writer: &mut Writer) -> Run {
    let topic = reads(case).unwrap_or_default();
    let warm_up = counts.warm_up;
    let update = |group, pipelined| Work::Update { handlers: CONNECTIONS, group, pipelined };
    match case {
        Case::BareUniform | Case::BareZipf => drain(ground, topic, Work::Bare, counts.backlog, warm_up).await,
        Case::NothingUniform | Case::NothingZipf => {
            drain(ground, topic, Work::Nothing, counts.backlog, warm_up).await
        }
        Case::FewKeys | Case::ManyKeys => drain(ground, topic, Work::Nothing, counts.keyed, warm_up).await,
        Case::Bursts => bursts(ground, writer, &Spread::Uniform(KEYS), (counts.burst, counts.bursts)).await,
        Case::SleepUniform => {
            drain(ground, topic, Work::Sleep { handlers: SLEEPERS }, counts.sleep, SLOW_WARM_UP).await
        }
        Case::SleepZipf => {
            drain(ground, topic, Work::Sleep { handlers: SLEEPERS }, counts.sleep_zipf, SLOW_WARM_UP).await
        }
        Case::Pgbench => {
            ground.clear().await;
            pgbench::run(ground, 1, counts.pgbench_seconds).await
        }
        Case::PgbenchGroups => {
            ground.clear().await;
            pgbench::run(ground, GROUP, counts.pgbench_seconds).await
        }
        Case::OneUniform | Case::OneZipf => {
            ground.clear().await;
            drain(ground, topic, update(1, false), counts.one_by_one, SLOW_WARM_UP).await
        }
        Case::GroupUniform | Case::GroupZipf => {
            ground.clear().await;
            drain(ground, topic, update(GROUP, false), counts.grouped, SLOW_WARM_UP).await
        }
        Case::PipelinedUniform => {
            ground.clear().await;
            drain(ground, topic, update(GROUP, true), counts.grouped, SLOW_WARM_UP).await
        }
    }
}

fn describe(run: &Run) -> String {
    let cpu = run.cpu_micros.map_or_else(String::new, |cpu| format!(", {cpu:.2} µs"));
    let memory = run.peak_rss_kib.map_or_else(String::new, |kib| format!(", {} MiB", kib / 1024));
    let once = match run.once {
        Some(false) => ", NOT ONCE",
        Some(true) => ", once",
        None => "",
    };
    format!("{:.1} thousand/s{cpu}{memory}{once}", run.rate() / 1000.0)
}

async fn open_loop(plan: &Plan, ground: &mut Ground) -> Vec<LatencyRun> {
    let counts = &plan.counts;
    ground.clear().await;
    let topic = ground.new_topic("steady").await;
    let events = (SETTLE + counts.latency_runs as u64 * counts.latency_seconds) * counts.rate;
    let (_, instance) = ground.start(&topic, Work::Insert, (0, events));
    let open_loop = Loop::new(ground, &topic, events);
    let mut runs = Vec::new();
    {
        let _alone = alone(plan.lock.as_deref());
        open_loop.run(ground, &instance, counts, (0, SETTLE)).await;
    }
    for number in 0..counts.latency_runs as u64 {
        let _alone = alone(plan.lock.as_deref());
        let first = (SETTLE + number * counts.latency_seconds) * counts.rate;
        let run = open_loop.run(ground, &instance, counts, (first, counts.latency_seconds)).await;
        let (seen, committed) = (run.seen, run.committed);
        say(&format!(
            "latency {}: seen p50 {:.2} p99 {:.2}, committed p50 {:.2} p99 {:.2} ms",
            number + 1,
            seen.p50,
            seen.p99,
            committed.p50,
            committed.p99
        ));
        runs.push(run);
    }
    instance.end();
    runs
}
