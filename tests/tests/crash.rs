//! The relay is killed where it hurts: whatever it was doing, nothing is lost, invented or reordered, and
//! what comes again is the same again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use outbox_relay::lsn::Lsn;
use outbox_tests::cluster::{self, Kafka};
use outbox_tests::history::Log;
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::workload::{self, Workload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// The moment of a kill, told by what the relay shows of itself.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// While it takes over: nothing is published yet.
    TakingOver,
    /// So many records after its start, some of them surely not recorded yet.
    Records(u64),
    /// So many handed over and not acknowledged.
    InFlight(u64),
    /// So many state records are acknowledged and records are in flight: whatever was recorded too early is
    /// lost now.
    Recorded(u64),
}

impl Moment {
    fn draw(random: &mut StdRng) -> Moment {
        match random.random_range(0..10) {
            0 => Moment::TakingOver,
            1..4 => Moment::Records(random.random_range(1..4_000)),
            4..7 => Moment::InFlight(random.random_range(1..100)),
            _ => Moment::Recorded(random.random_range(2..5)),
        }
    }

    fn has_come(self, status: &Value) -> bool {
        let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        match self {
            Moment::TakingOver => status["phase"] == "recovering",
            Moment::Records(count) => number("/totals/records") >= count && costs_something(status),
            Moment::InFlight(count) => number("/in_flight/records") >= count && costs_something(status),
            Moment::Recorded(count) => {
                number("/totals/state_records") >= count && number("/in_flight/records") > 0
            }
        }
    }
}

/// Whether transactions are published beyond the recorded position: they come again after a kill.
fn costs_something(status: &Value) -> bool {
    let position = |name: &str| status["positions"][name].as_str().and_then(|text| text.parse::<Lsn>().ok());
    position("confirmed") > position("recorded")
}

/// What of the log was there at the last kill, to tell repetitions after it.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    records: usize,
}

impl Seen {
    /// Reads on; answers how many of the new records are repetitions of what stood there before.
    fn repeated_since(&mut self, log: &mut Log) -> usize {
        log.catch_up();
        let new: Vec<&str> = log.records()[self.records..].iter().filter_map(|record| record.id()).collect();
        let repeated = new.iter().filter(|id| self.ids.contains(**id)).count();
        self.ids.extend(new.into_iter().map(str::to_owned));
        self.records = log.records().len();
        repeated
    }
}

/// Commits nothing any more: the position behind the last commit, as PostgreSQL writes it.
async fn last_commit(outbox: &Outbox<'_>) -> String {
    let client = outbox.connect().await;
    client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_relay_is_killed_at_random_points() {
    let servers = cluster::shared();
    let outbox = Outbox::make("crash", &servers.postgres, &servers.kafka).await;
    let config = outbox.config.clone().text("state.interval", "200ms");
    // Acknowledgements that take their time leave state records between sending and acknowledgement, where
    // one that says too much loses something.
    let slow = config.clone().text("kafka.linger", "500ms");
    let traffic = workload::Settings { rows_per_second: Some(3_000), ..outbox.traffic() };
    let mut random = StdRng::seed_from_u64(traffic.seed);
    let workload = Workload::start(&outbox.url(), traffic).await;
    let mut log = outbox.log(&servers.kafka);
    let mut seen = Seen::default();
    let kills = if proving() { 60 } else { 15 };
    let (mut with_repeats, mut all_repeats) = (0, Vec::new());
    let mut relay = Relay::start(&config);
    for kill in 0..kills {
        let moment = Moment::draw(&mut random);
        let what = format!("{moment:?}, the moment of kill {kill}");
        let status =
            relay.wait_status(LIMIT, &what, |status| moment.has_come(status).then(|| status.clone()));
        relay.kill();
        let repeats = seen.repeated_since(&mut log);
        println!(
            "kill {kill}: {moment:?}, in flight {}, recorded {} of published {}; the kill before was followed by {repeats} repetitions",
            status["in_flight"]["records"], status["positions"]["recorded"], status["positions"]["confirmed"],
        );
        with_repeats += usize::from(repeats > 0);
        all_repeats.push(repeats);
        relay = Relay::start(if kill % 2 == 0 { &slow } else { &config });
    }
    relay.wait_ready(LIMIT);
    let counts = workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    let repeats = seen.repeated_since(&mut log);
    with_repeats += usize::from(repeats > 0);
    println!("{counts:?}\n{verdict} ragged={}", verdict.ragged);
    println!("proof: kills={kills} with_repeats={with_repeats} repeated={} {verdict}", verdict.repeated);
    verdict.assert_pass();
    assert_eq!(verdict.ragged, 0, "a repetition begins anew and goes on in order");
    assert!(
        2 * with_repeats >= kills,
        "only {with_repeats} of {kills} kills left something in flight: {all_repeats:?}"
    );

    relay.terminate();
    drains_and_repeats_nothing(&outbox, &config, &servers.kafka).await;
}

/// Published, not recorded, told to stop: what follows is repeated by nobody.
async fn drains_and_repeats_nothing(outbox: &Outbox<'_>, config: &RelayConfig, kafka: &Kafka) {
    // Without the drain nothing would be recorded after the first record.
    let config = config.clone().text("state.interval", "60s").text("state.idle_interval", "60s");
    let relay = Relay::start(&config);
    let workload = Workload::start(
        &outbox.url(),
        workload::Settings { rows_per_second: Some(3_000), ..outbox.traffic() },
    )
    .await;
    relay.wait_status(LIMIT, "records", |status| {
        (status["totals"]["records"].as_u64()? > 2_000).then_some(())
    });
    workload.stop().await;
    let last = last_commit(outbox).await;
    let mut log = outbox.log(kafka);
    let before = outbox.verdict(&mut log, LIMIT).await;
    before.assert_pass();
    let client = outbox.connect().await;
    assert!(!outbox.is_confirmed(&client, &last).await, "the drain has nothing to do");
    let began = Instant::now();
    let status = relay.terminate();
    println!("proof: drain exit={:?} took={:?}", status.code(), began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    assert!(outbox.is_confirmed(&client, &last).await, "the slot stands at the last commit");

    let relay = Relay::start(&config);
    outbox.copy(&client, 0, 20, 10).await;
    let after = outbox.verdict(&mut log, LIMIT).await;
    after.assert_pass();
    assert_eq!(after.published, before.published + 20);
    assert_eq!(after.repeated, before.repeated, "nothing is repeated after a drain");
    assert_eq!(relay.status()["totals"]["records"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_ends_in_time_and_loses_nothing() {
    let servers = cluster::shared();
    let outbox = Outbox::make("drain", &servers.postgres, &servers.kafka).await;
    let traffic = workload::Settings { rows_per_second: Some(3_000), ..outbox.traffic() };
    let workload = Workload::start(&outbox.url(), traffic).await;
    let drains = if proving() { 10 } else { 3 };
    for _ in 0..drains {
        let relay = Relay::start(&outbox.config);
        let busy = |status: &Value| (status["in_flight"]["records"].as_u64()? > 0).then_some(());
        relay.wait_status(LIMIT, "records in flight", busy);
        let status = relay.terminate();
        assert_eq!(status.code(), Some(0), "{}", relay.log());
    }
    workload.stop().await;
    let _relay = Relay::start(&outbox.config);
    let verdict = outbox.verdict(&mut outbox.log(&servers.kafka), LIMIT).await;
    println!("proof: drains_under_load={drains} {verdict}");
    verdict.assert_pass();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_in_its_middle_comes_again_as_a_whole() {
    let servers = cluster::shared();
    let outbox = Outbox::make("copy", &servers.postgres, &servers.kafka).await;
    let seed = workload::seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rows: usize = if proving() { 400_000 } else { 60_000 };
    outbox.copy(&outbox.connect().await, 0, rows, 100).await;
    let mut log = outbox.log(&servers.kafka);
    let mut seen = Seen::default();
    let config = outbox.config.clone().raw("kafka.max_in_flight_records", "1000");
    for part in 0..3 {
        let point = (rows / 4) as u64 * part + random.random_range(1..rows as u64 / 4);
        let relay = Relay::start(&config);
        relay.wait_status(LIMIT, "the middle of the COPY", |status| {
            (status["totals"]["records"].as_u64()? >= point).then_some(())
        });
        relay.kill();
        let repeated = seen.repeated_since(&mut log);
        println!(
            "killed {point} records into the COPY; {} stand on the log, {repeated} again",
            seen.ids.len()
        );
        assert!(seen.ids.len() < rows, "the kill came after the whole COPY");
        assert!(repeated > 0 || part == 0, "what was published in a part comes again");
    }
    let relay = Relay::start(&config);
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: copy_rows={rows} kills=3 {verdict}");
    verdict.assert_pass();
    assert_eq!(verdict.published, rows as u64);
    assert!(seen.repeated_since(&mut log) > 0, "the last relay publishes the COPY from its beginning");
    relay.wait_status(LIMIT, "one transaction", |status| {
        (status["totals"]["transactions"].as_u64()? >= 1).then_some(())
    });
}
