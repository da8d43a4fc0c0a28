//! Huge transactions: memory does not grow with them, and every row is published once, in order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, Kafka};
use outbox_tests::outbox::proving;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{KEYS, PARTITIONS, Scene};
use outbox_tests::wait::eventually_async;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};
use serde_json::Value;

/// A million rows are written, decoded from disk and published by a machine that does other things, too.
const LIMIT: Duration = Duration::from_secs(420);

/// What one run has shown.
struct Run {
    rows: u64,
    peak_kib: u64,
    seconds: f64,
}

/// So many rows surely take less log than the ceiling lies ahead (1 GiB).
const BELOW_CEILING: u64 = 2_000_000;

async fn run(kafka: &Kafka, name: &str, rows: u64) -> Run {
    let scene = Scene::prepare(&cluster::shared().postgres, kafka, name).await;
    // Seven rows before: the topic is known and its partitions are recorded when Kafka stops.
    let relay = scene.start();
    scene.insert(KEYS).await;
    relay.wait_status(LIMIT, "the first rows", |status| recorded(status, KEYS, 1));
    if rows < BELOW_CEILING {
        kafka.pause();
        scene.insert(rows).await;
    } else {
        // Its commit is above the recorded ceiling, and before a higher one is recorded nothing is handed over.
        scene.insert(rows).await;
        relay.wait_status(LIMIT, "the large transaction on its way", |status| {
            (status["totals"]["records"].as_u64()? > KEYS + 1_000).then_some(())
        });
        kafka.pause();
    }
    fill_up(&scene, &relay).await;
    kafka.resume();
    let started = Instant::now();
    relay.wait_status(LIMIT, "every row to be published and recorded", |status| {
        recorded(status, rows + KEYS, 2)
    });
    let seconds = started.elapsed().as_secs_f64();
    let peak_kib = relay.peak_rss_kib();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    check(&scene, rows);
    println!(
        "proof: one transaction of {rows} rows: peak RSS {:.1} MB, {:.0} rows/s",
        peak_kib as f64 / 1024.0,
        rows as f64 / seconds
    );
    Run { rows, peak_kib, seconds }
}

fn recorded(status: &Value, records: u64, transactions: u64) -> Option<()> {
    let totals = &status["totals"];
    let done = totals["records"].as_u64()? >= records && totals["transactions"].as_u64()? >= transactions;
    (done && status["positions"]["recorded"] == status["positions"]["confirmed"]).then_some(())
}

/// Waits until everything that may hold rows is full, which is the most that a relay ever holds: the window
/// of records in flight, and what is read ahead, since the server cannot write any more.
async fn fill_up(scene: &Scene<'_>, relay: &Relay) {
    relay.wait_status(LIMIT, "a full window", |status| {
        (status["in_flight"]["records"].as_u64()? >= 20_000).then_some(())
    });
    let waits = format!(
        "SELECT coalesce(a.wait_event, '') FROM pg_replication_slots s
           JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = '{}'",
        scene.slot()
    );
    let mut looks = 0;
    eventually_async(LIMIT, "the server to wait for the relay", async || {
        looks = if scene.text(&waits).await == "WalSenderWriteData" { looks + 1 } else { 0 };
        (looks >= 50).then_some(())
    })
    .await;
}

/// Reads the topic without keeping it: every row of the large transaction once, in order per partition, with its own content.
fn check(scene: &Scene<'_>, rows: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", scene.kafka.brokers())
        .set("group.id", "memory")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let partition = i32::try_from(partition).unwrap();
        list.add_partition_offset(&scene.topic(), partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut last: HashMap<i32, u64> = HashMap::new();
    let mut home: HashMap<Vec<u8>, i32> = HashMap::new();
    let (mut count, mut sum, mut ends, mut first) = (0u64, 0u64, 0, 0);
    let deadline = Instant::now() + LIMIT;
    while ends < PARTITIONS {
        assert!(Instant::now() < deadline, "{count} records and no end");
        let message = match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => message,
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => {
                ends += 1;
                continue;
            }
            _ => continue,
        };
        let position = message.headers().unwrap().iter().find(|header| header.key == "position").unwrap();
        let position = std::str::from_utf8(position.value.unwrap()).unwrap();
        let ordinal: u64 = position.rsplit('/').next().unwrap().parse().unwrap();
        if message.payload() == Some(b"{\"n\":1}") {
            first += 1;
            continue;
        }
        let before = last.insert(message.partition(), ordinal);
        assert!(before.is_none_or(|before| before < ordinal), "{ordinal} after {before:?}");
        let key = message.key().unwrap();
        assert_eq!(key, format!("k{}", ordinal % KEYS).as_bytes());
        assert_eq!(*home.entry(key.to_vec()).or_insert(message.partition()), message.partition());
        assert_eq!(message.payload().unwrap(), format!("{{\"n\":{}}}", ordinal / KEYS + 2).as_bytes());
        (count, sum) = (count + 1, sum + ordinal);
    }
    // Increasing within each partition, so distinct; with count and sum they are 0 to rows - 1.
    assert_eq!((first, count, sum), (KEYS, rows, rows * (rows - 1) / 2));
}

/// How far peaks of transactions of different sizes may be apart.
const APART_KIB: u64 = 8 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_transaction() {
    let prove = proving();
    // Of its own, since it is paused.
    let kafka = Kafka::start();
    let mut runs = vec![run(&kafka, "memory_small", 300_000).await];
    runs.push(run(&kafka, "memory_large", 1_000_000).await);
    if prove {
        runs.push(run(&kafka, "memory_huge", 5_000_000).await);
    }
    // What else the machine does can only add to a peak: a size whose peak stands out is tried again, and the least
    // of its peaks counts. One that grows with the transaction stands out every time.
    for again in 1..=2 {
        let (least, most) = (
            runs.iter().map(|run| run.peak_kib).min().unwrap(),
            runs.iter().map(|run| run.peak_kib).max().unwrap(),
        );
        if most - least <= APART_KIB {
            break;
        }
        let highest = runs.iter_mut().max_by_key(|run| run.peak_kib).unwrap();
        let name = format!("memory_again_{again}");
        highest.peak_kib = highest.peak_kib.min(run(&kafka, &name, highest.rows).await.peak_kib);
    }
    let least = runs.iter().map(|run| run.peak_kib).min().unwrap();
    let most = runs.iter().map(|run| run.peak_kib).max().unwrap();
    let largest = runs.last().unwrap();
    println!(
        "proof: peak RSS up to {} rows in one transaction: {:.1} MB, {:.1} MB apart, {:.0} s",
        largest.rows,
        most as f64 / 1024.0,
        (most - least) as f64 / 1024.0,
        largest.seconds
    );
    assert!(most <= 128 * 1024, "{most} KiB");
    assert!(most - least <= APART_KIB, "{least} to {most} KiB");
}
