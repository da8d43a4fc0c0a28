//! Every measurement under one congestion control, in the network namespace of this process.

use std::time::{Duration, Instant};

use super::alone::{alone, say};
use super::drain;
use super::ground::{Backlog, Ground};
use super::latency::{self, Receiver};
use super::machine::congestion_control;
use super::plan::{Plan, Shape};
use super::results::{Drains, GuaranteePair, Latency, Pair, RelayDrain, Results};
use super::usage::{Watch, memory_kib};
use crate::relay::Relay;

/// Rows of the drain that warms the broker up.
const WARM_UP: Shape = Shape { per_transaction: 100, rows: 500_000 };

/// Further drains of them after the cold one: the broker's code is compiled by then.
const WARM_UPS: usize = 10;

/// Rows per transaction of the backlog that is drained with either guarantee.
const GUARANTEES: u64 = 100;

/// Seconds of the open loop before the first run that counts.
const SETTLE: u64 = 5;

/// Measures everything of the plan.
///
/// # Panics
/// With a sentence, when a measurement cannot be made.
pub async fn measure(plan: &Plan, own_namespace: bool) -> Results {
    let control = congestion_control();
    say(&format!("congestion control {control}: starting PostgreSQL {} and Kafka", plan.postgres));
    let mut ground = Ground::prepare(plan).await;
    let version = ground.text("SELECT current_setting('server_version')").await;
    let mut results = Results {
        congestion_control: control,
        own_namespace,
        postgres: version,
        postgres_settings: Ground::settings(),
        payload_type: String::new(),
        payload_bytes: 0.0,
        drains: Vec::new(),
        latency: None,
    };
    // The first drain into a broker that has just been started is named and kept apart.
    let mut cold = None;
    for &shape in &plan.shapes {
        if results.drains.is_empty() {
            let backlog = ground.load(WARM_UP).await;
            let _alone = alone(plan.lock.as_deref());
            cold = Some(drain::relay(&mut ground, &backlog).await);
            say(&format!("cold broker: {}", describe(cold.as_ref(), WARM_UP.rows)));
            for _ in 0..WARM_UPS {
                drain::relay(&mut ground, &backlog).await;
            }
        }
        let loading = Instant::now();
        let backlog = ground.load(shape).await;
        say(&format!(
            "{}: {} rows loaded in {:.1} s",
            shape.name(),
            shape.rows,
            loading.elapsed().as_secs_f64()
        ));
        if results.payload_type.is_empty() {
            let query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                         WHERE attrelid = 'outbox.events'::regclass AND attname = 'payload'";
            results.payload_type = ground.text(query).await;
            let average =
                ground.text("SELECT avg(octet_length(payload::text))::text FROM outbox.events").await;
            results.payload_bytes = average.parse().expect("a number");
        }
        let pairs = pairs(plan, &mut ground, &backlog).await;
        // Once is enough: what it costs hangs on the broker, not on the network.
        let measured = shape.per_transaction == GUARANTEES && !own_namespace;
        let guarantees = if measured { guarantees(plan, &mut ground, &backlog).await } else { Vec::new() };
        let wal_bytes = backlog.wal_bytes;
        results.drains.push(Drains { shape, wal_bytes, cold: cold.take(), pairs, guarantees });
    }
    if plan.latency_runs > 0 {
        results.latency = Some(open_loop(plan, &mut ground).await);
    }
    results
}

/// At least once and exactly once, in turns.
async fn guarantees(plan: &Plan, ground: &mut Ground, backlog: &Backlog) -> Vec<GuaranteePair> {
    let mut pairs = Vec::new();
    for number in 0..plan.pairs {
        let _alone = alone(plan.lock.as_deref());
        let exactly_first = number % 2 == 1;
        let pair = if exactly_first {
            let exactly_once = drain::exactly_once(ground, backlog).await;
            let at_least_once = drain::relay(ground, backlog).await;
            GuaranteePair { exactly_first, at_least_once, exactly_once }
        } else {
            let at_least_once = drain::relay(ground, backlog).await;
            let exactly_once = drain::exactly_once(ground, backlog).await;
            GuaranteePair { exactly_first, at_least_once, exactly_once }
        };
        let rows = backlog.shape.rows as f64;
        say(&format!(
            "guarantees {}: at least once {:.0} k/s, exactly once {:.0} k/s = {:.2} x",
            number + 1,
            rows / pair.at_least_once.seconds / 1000.0,
            rows / pair.exactly_once.seconds / 1000.0,
            pair.ratio()
        ));
        pairs.push(pair);
    }
    pairs
}

async fn pairs(plan: &Plan, ground: &mut Ground, backlog: &Backlog) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for number in 0..plan.pairs {
        let _alone = alone(plan.lock.as_deref());
        // A B B A A B B A: neither is always the first to read log that the other left in the caches.
        let relay_first = number % 2 == 1;
        let pair = if relay_first {
            let relay = drain::relay(ground, backlog).await;
            Pair { relay_first, baseline: drain::baseline(ground, backlog).await, relay }
        } else {
            let baseline = drain::baseline(ground, backlog).await;
            Pair { relay_first, baseline, relay: drain::relay(ground, backlog).await }
        };
        let rows = backlog.shape.rows as f64;
        say(&format!(
            "pair {}: pg_recvlogical {:.0} k/s, relay {} = {:.2} x",
            number + 1,
            rows / pair.baseline.seconds / 1000.0,
            describe(Some(&pair.relay), backlog.shape.rows),
            pair.ratio()
        ));
        pairs.push(pair);
    }
    pairs
}

fn describe(drain: Option<&RelayDrain>, rows: u64) -> String {
    drain.map_or_else(String::new, |drain| {
        let micros = |cpu: f64| cpu * 1e6 / rows as f64;
        format!(
            "{:.0} k/s (steady {:.0}; µs/event relay {:.2}, walsender {:.2}, broker {:.2}; {:.0} MiB; segments {:?})",
            rows as f64 / drain.seconds / 1000.0,
            drain.steady_records as f64 / drain.steady_seconds / 1000.0,
            micros(drain.relay_cpu),
            micros(drain.walsender_cpu),
            micros(drain.broker_cpu),
            drain.peak_rss_kib as f64 / 1024.0,
            drain.segments
        )
    })
}

async fn open_loop(plan: &Plan, ground: &mut Ground) -> Latency {
    ground.new_slot().await;
    let (config, topic) = ground.next_run().await;
    let relay = Relay::start(&config);
    relay.wait_ready(Duration::from_secs(60));
    let (rate, seconds, runs) = (plan.latency_rate, plan.latency_seconds, plan.latency_runs as u64);
    let zero = Instant::now();
    let receiver = Receiver::start(ground, &topic, (SETTLE + runs * seconds) * rate, zero);
    let mut latency = Latency { rate, seconds, runs: Vec::new(), rss_kib: 0, relay_load: 0.0 };
    {
        let _alone = alone(plan.lock.as_deref());
        latency::run(ground, &receiver, zero, (0, SETTLE, rate));
    }
    let mut worked = 0.0;
    for run in 0..runs {
        let _alone = alone(plan.lock.as_deref());
        let watch = Watch::start(&[relay.pid()]);
        let first = (SETTLE + run * seconds) * rate;
        let measured = latency::run(ground, &receiver, zero, (first, seconds, rate));
        worked += watch.used(relay.pid());
        let found = &measured.from_commit;
        say(&format!(
            "latency {}: p50 {:.2} p90 {:.2} p99 {:.2} max {:.1} ms",
            run + 1,
            found.p50,
            found.p90,
            found.p99,
            found.max
        ));
        latency.rss_kib = latency.rss_kib.max(memory_kib(relay.pid(), "VmRSS").expect("the relay runs"));
        latency.runs.push(measured);
    }
    latency.relay_load = worked / (runs * seconds) as f64;
    let status = relay.terminate();
    assert!(status.success(), "the relay did not drain: {status}\n{}", relay.log());
    latency
}
