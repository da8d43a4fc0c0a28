//! Kafka is away for longer than the source's patience: the replication stream lives on, memory stays
//! bounded, `/ready` says what stands still, and everything arrives when the brokers are back.

use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres, usual_version};
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::wait::watch;
use outbox_tests::workload::{self, Workload};
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(120);

/// The most memory that a relay may hold, whatever its backlog.
const MOST_KIB: u64 = 128 * 1024;

/// How much it may grow while only the backlog grows.
const GROWTH_KIB: u64 = 8 * 1024;

/// `wal_sender_timeout` of the tests: the default where the full size is asked for.
fn patience() -> Duration {
    Duration::from_secs(if proving() { 10 } else { 3 })
}

fn config(outbox: &Outbox<'_>) -> RelayConfig {
    let timeout = format!("{}s", patience().as_secs());
    outbox.config.clone().text("source.wal_sender_timeout", &timeout).text("admin.stalled_after", "2s")
}

/// What the relay's stream is at one moment: its backend, and how often it began anew.
async fn stream(outbox: &Outbox<'_>, client: &Client, relay: &Relay) -> (Option<i32>, u64) {
    let reconnects = relay.status()["totals"]["reconnects"].as_u64().expect("a count");
    (outbox.walsender(client).await, reconnects)
}

/// Most memory seen during half as much again as the server's patience.
fn outlast_patience(relay: &Relay) -> u64 {
    let until = patience() * 3 / 2;
    let mut most = 0;
    watch(until, || {
        most = most.max(relay.rss_kib());
        None::<()>
    });
    most
}

/// How the brokers go away and come back.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Frozen,
}

impl Fault {
    fn begin(self, kafka: &Kafka) {
        match self {
            Fault::Killed => kafka.kill(),
            Fault::Frozen => kafka.pause(),
        }
    }

    fn end(self, kafka: &Kafka) {
        match self {
            Fault::Killed => kafka.start_again(),
            Fault::Frozen => kafka.resume(),
        }
    }
}

/// One outage under load, with more backlog than every buffer holds together.
async fn outage(outbox: &Outbox<'_>, kafka: &Kafka, fault: Fault, traffic: workload::Settings, label: &str) {
    let client = outbox.connect().await;
    let copied: i64 = client
        .query_one("SELECT count(*) FROM outbox.events WHERE type = 'Copied'", &[])
        .await
        .unwrap()
        .get(0);
    let copied = usize::try_from(copied).unwrap();
    let mut log = outbox.log(kafka);
    let relay = Relay::start(&config(outbox));
    let workload = Workload::start(&outbox.url(), traffic).await;
    relay.wait_ready(LIMIT);
    relay.wait_status(LIMIT, "records", |status| {
        (status["totals"]["records"].as_u64()? > 1_000).then_some(())
    });
    let before = stream(outbox, &client, &relay).await;
    assert!(before.0.is_some());

    fault.begin(kafka);
    let began = Instant::now();
    const ROWS: usize = 40_000;
    outbox.copy(&client, copied, ROWS, 1_500).await;
    let first = outlast_patience(&relay);
    let during = stream(outbox, &client, &relay).await;
    let (code, said) = relay.get("/ready").unwrap();
    println!("{label}: /ready says {code} {said}");
    assert_eq!(code, 503, "not ready while nothing moves");
    assert!(said.starts_with("stalled:"), "{said}");
    outbox.copy(&client, copied + ROWS, ROWS, 1_500).await;
    let second = outlast_patience(&relay);
    assert_eq!(
        stream(outbox, &client, &relay).await,
        before,
        "the stream is the same to the end of the outage"
    );
    assert_eq!(during, before, "the stream is the same while the brokers are away");

    let away = began.elapsed();
    fault.end(kafka);
    let began = Instant::now();
    workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT * 2).await;
    let caught_up = began.elapsed();
    println!(
        "proof: outage={label} away={away:.1?} caught_up={caught_up:.1?} rss_kib={first}/{second} peak_kib={} reconnects={} {verdict}",
        relay.peak_rss_kib(),
        before.1,
    );
    verdict.assert_pass();
    relay.wait_ready(LIMIT);
    assert_eq!(stream(outbox, &client, &relay).await, before, "the stream is the same after it");
    assert!(relay.peak_rss_kib() <= MOST_KIB, "{} KiB", relay.peak_rss_kib());
    assert!(second <= first + GROWTH_KIB, "memory grows with the backlog: {first} KiB, then {second} KiB");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// The mix at a moderate pace; in the full size also small transactions as fast as they go, and large ones.
fn loads(outbox: &Outbox<'_>) -> Vec<(&'static str, workload::Settings)> {
    let mix = workload::Settings { rows_per_second: Some(2_000), ..outbox.traffic() };
    let small = workload::Settings { largest: 3, ..outbox.traffic() };
    let large = workload::Settings { largest: 20_000, rows_per_second: Some(8_000), ..outbox.traffic() };
    let all = vec![("mix", mix), ("small", small), ("large", large)];
    all.into_iter().take(if proving() { 3 } else { 1 }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_outlives_a_broker_that_is_killed_for_longer_than_wal_sender_timeout() {
    let (postgres, kafka) = (Postgres::start(usual_version()), Kafka::start());
    let outbox = Outbox::make("killed", &postgres, &kafka).await;
    for (name, traffic) in loads(&outbox) {
        outage(&outbox, &kafka, Fault::Killed, traffic, &format!("killed/{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_outlives_a_broker_that_is_frozen_for_longer_than_wal_sender_timeout() {
    let (postgres, kafka) = (Postgres::start(usual_version()), Kafka::start());
    let outbox = Outbox::make("frozen", &postgres, &kafka).await;
    for (name, traffic) in loads(&outbox) {
        outage(&outbox, &kafka, Fault::Frozen, traffic, &format!("frozen/{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_starts_without_kafka_waits_visibly_and_then_works() {
    let (postgres, kafka) = (Postgres::start(usual_version()), Kafka::start());
    let outbox = Outbox::make("waits", &postgres, &kafka).await;
    let client = outbox.connect().await;
    outbox.copy(&client, 0, 2_000, 100).await;
    let mut log = outbox.log(&kafka);
    kafka.kill();
    let relay = Relay::start(&config(&outbox));
    let waiting = relay.wait_status(LIMIT, "what the relay waits for", |status| {
        status["waiting_for"].as_str().filter(|what| what.contains("state topic")).map(str::to_owned)
    });
    println!("waiting for: {waiting}");
    let before = stream(&outbox, &client, &relay).await;
    assert!(before.0.is_some(), "the slot is owned meanwhile");
    outlast_patience(&relay);
    assert!(relay.ended().is_none() && !relay.is_ready());
    assert_eq!(stream(&outbox, &client, &relay).await, before, "the stream is the same");
    let status = relay.status();
    assert!(status["waiting_for"].as_str().is_some_and(|what| what.contains("state")), "{status}");
    kafka.start_again();
    let began = Instant::now();
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: started_without_kafka arrived_after={:.1?} {verdict}", began.elapsed());
    verdict.assert_pass();
    relay.wait_ready(LIMIT);
    assert_eq!(stream(&outbox, &client, &relay).await, before, "and the same it worked with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_again_and_again_halts_nothing() {
    let (postgres, kafka) = (Postgres::start(usual_version()), Kafka::start());
    let outbox = Outbox::make("again", &postgres, &kafka).await;
    let client = outbox.connect().await;
    let mut log = outbox.log(&kafka);
    let relay = Relay::start(&config(&outbox));
    relay.wait_ready(LIMIT);
    let traffic = workload::Settings { rows_per_second: Some(2_000), ..outbox.traffic() };
    let workload = Workload::start(&outbox.url(), traffic).await;
    let restarts = if proving() { 10 } else { 3 };
    for _ in 0..restarts {
        let published = relay.status()["totals"]["records"].as_u64().unwrap();
        relay.wait_status(LIMIT, "records after a restart", |status| {
            (status["totals"]["records"].as_u64()? > published + 500).then_some(())
        });
        kafka.restart();
    }
    workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: broker_restarts={restarts} {verdict}");
    verdict.assert_pass();
    assert_eq!(stream(&outbox, &client, &relay).await.1, 0, "no session was lost by it\n{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
