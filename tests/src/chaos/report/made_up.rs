//! A run that never happened, as large as a real one.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bench::machine::Machine;
use crate::chaos::record::{Fault, Rule, Run, Sample};

/// Kinds, with a target and about how long they last.
const KINDS: [(&str, &str, f64); 20] = [
    ("relay killed", "relay-1", 1.2),
    ("relay frozen", "relay-1", 8.0),
    ("relay told to stop", "relay-2", 2.0),
    ("second relay started", "relay-2", 6.0),
    ("broker killed", "broker-2", 9.0),
    ("broker frozen", "broker-1", 12.0),
    ("broker restarted", "broker-3", 7.0),
    ("every broker away", "broker-1", 10.0),
    ("PostgreSQL killed", "postgres", 3.0),
    ("PostgreSQL stopped fast", "postgres", 2.5),
    ("backends terminated", "postgres", 0.1),
    ("COMMIT's answer lost", "services", 1.0),
    ("consumer killed", "orders-1", 1.0),
    ("consumer frozen beyond its session", "orders-2", 14.0),
    ("consumer joins", "billing-1", 0.5),
    ("consumer leaves", "billing-2", 0.5),
    ("relay cut off from PostgreSQL", "relay-1", 0.2),
    ("relay in the dark towards PostgreSQL", "relay-2", 11.0),
    ("broker's answers delayed", "broker-3", 9.0),
    ("consumer half-open to PostgreSQL", "orders-1", 5.0),
];

/// 600 samples and 180 faults; the same of the same seed.
pub fn run(seed: u64) -> Run {
    let mut random = StdRng::seed_from_u64(seed);
    let faults = faults(&mut random);
    Run {
        command: format!("make chaos CHAOS_SEED={seed} CHAOS_SECONDS=540"),
        seed,
        commit: "0123abc".to_owned(),
        began: "2026-01-02T03:04:05.678Z".to_owned(),
        duration_s: 540.0,
        settled_s: 42.0,
        machine: Machine {
            processor: "Made-up Processor".to_owned(),
            cores: 2,
            memory_mib: 24_000,
            kernel: "Linux 6.1 x86_64".to_owned(),
            congestion_control: "cubic".to_owned(),
            broker: String::new(),
        },
        versions: [("PostgreSQL", "15.18"), ("Kafka", "4.3.0"), ("Java", "17"), ("librdkafka", "2.12.1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        cast: vec![
            ("relay-1".to_owned(), "lane 0, slot outbox_0, pgoutput text".to_owned()),
            ("orders-1".to_owned(), "group orders, 16 at once, park".to_owned()),
        ],
        samples: samples(&mut random, &faults),
        faults,
        figures: [
            ("committed", 412_337),
            ("published", 413_020),
            ("effects", 824_674),
            ("dead letters", 212),
        ]
        .map(|(name, figure)| (name.to_owned(), figure))
        .into(),
        rules: [
            ("every committed event is published", 412_337),
            ("nothing is published that was not committed", 413_020),
            ("the events of a key are published in the order of their commits", 412_337),
            ("every event has its effect once, in each consumer", 824_674),
            ("the effects of a key are in its order", 824_674),
            ("an event that cannot be handled is a dead letter", 212),
            ("nothing waits when everything is settled", 8),
        ]
        .map(|(says, looked_at)| Rule { says: says.to_owned(), looked_at, broken_by: Vec::new() })
        .into(),
    }
}

fn faults(random: &mut StdRng) -> Vec<Fault> {
    let mut faults: Vec<Fault> = (0..180)
        .map(|number| {
            let (kind, target, about) = KINDS[number % KINDS.len()];
            let from_s = random.random_range(4.0..520.0);
            let until_s = from_s + about * random.random_range(0.6..1.5);
            let seen = random.random_bool(0.95).then(|| format!("{target} said so in its log: <{kind}>"));
            Fault { kind: kind.to_owned(), target: target.to_owned(), from_s, until_s, seen }
        })
        .collect();
    faults.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    faults
}

fn samples(random: &mut StdRng, faults: &[Fault]) -> Vec<Sample> {
    let mut samples = Vec::new();
    let (mut committed, mut published, mut effects, mut parked) = (0u64, 0u64, 0u64, 0u64);
    let mut waiting: BTreeMap<&str, u64> = BTreeMap::new();
    for second in 0..600u64 {
        let at_s = second as f64;
        let under = |part: &str, after: f64| {
            faults.iter().any(|fault| {
                fault.target.starts_with(part) && fault.from_s <= at_s && at_s < fault.until_s + after
            })
        };
        let writes = if under("postgres", 0.0) { 0 } else { random.random_range(700..900) };
        committed += if second < 560 { writes } else { 0 };
        let flows = |down: bool, waits: u64, most: u64| if down { 0 } else { waits.min(most) };
        published += flows(under("relay", 2.0), committed - published, 2_600);
        let lag = published * 2 - effects;
        effects += flows(under("orders", 1.0), lag, 4_800);
        parked = (parked + random.random_range(0..3)).saturating_sub(random.random_range(0..4));
        *waiting.entry("bytes").or_default() =
            (committed - published) * 450 + random.random_range(0..200_000);
        samples.push(Sample {
            at_s,
            committed,
            published,
            effects,
            unconfirmed_bytes: (!under("postgres", 3.0)).then(|| waiting["bytes"]),
            parked_keys: (!under("services", 1.0)).then_some(parked),
            lag: (!under("broker-1", 0.0)).then_some(published * 2 - effects),
        });
    }
    samples
}
