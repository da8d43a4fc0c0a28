//! Rows that cannot be published: they are put aside, their key is held, everything else flows, and what is
//! released comes in order. However a record is refused, no later event of its key overtakes it.

use std::time::Duration;

use outbox_relay::lsn::Lsn;
use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::history::Published;
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually, eventually_async};
use outbox_tests::workload::{self, Workload};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use tokio_postgres::Client;

/// With this limit of a record an event of more than 3,000 bytes cannot be published.
const SMALL_RECORDS: &str = "2048";

/// An event of a key; `n` is its place among them.
async fn event(scene: &Scene<'_>, key: &str, n: u32, bytes: usize) {
    event_with(scene, key, n, &"x".repeat(bytes)).await;
}

async fn event_with(scene: &Scene<'_>, key: &str, n: u32, text: &str) {
    let payload = format!("{{\"n\":{n},\"x\":\"{text}\"}}");
    let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                  VALUES ($1, $2, 'Made', $3::text::json)";
    scene.database.execute(insert, &[&scene.name, &key, &payload]).await.unwrap();
}

/// Entries by state, in the order of their positions: `key/n`.
async fn entries(client: &Client, state: &str) -> Vec<String> {
    let select = "SELECT convert_from(key, 'UTF8') FROM outbox.quarantine WHERE state = $1
                   ORDER BY epoch, commit_lsn, ordinal";
    client.query(select, &[&state]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Decides of the oldest held or passed entry, as an operator with `psql` would.
async fn decide_first(client: &Client, decision: &str) {
    let decide = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, $1, 'by a test')
                    FROM outbox.quarantine WHERE state IN ('held', 'passed')
                   ORDER BY epoch, commit_lsn, ordinal LIMIT 1";
    assert_eq!(client.execute(decide, &[&decision]).await.unwrap(), 1);
}

async fn wait_entries(client: &Client, state: &str, keys: &[&str]) {
    let what = format!("{keys:?} to be {state}");
    eventually_async(LIMIT, &what, async || (entries(client, state).await == keys).then_some(())).await;
}

/// `key/n` of every record, in the order of the log of each partition.
fn published(records: &[Published], key: &str) -> Vec<u64> {
    let number = |record: &Published| {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        value["n"].as_u64().unwrap()
    };
    records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes())).map(number).collect()
}

/// Waits until a key's records are these.
#[track_caller]
fn wait_published(scene: &Scene<'_>, key: &str, numbers: &[u64]) {
    let mut log = scene.log();
    let what = format!("{key} to be published as {numbers:?}");
    eventually(LIMIT, &what, || {
        log.catch_up();
        (published(log.records(), key) == numbers).then_some(())
    });
}

async fn scene<'a>(name: &str) -> Scene<'a> {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
    scene.configured(|config| config.text("kafka.max_record_bytes", SMALL_RECORDS))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_waits_in_order_and_everything_else_flows() {
    let scene = scene("quarantine_hold").await;
    let relay = scene.start();
    for (n, bytes) in [(1, 10), (2, 3_000), (3, 10), (4, 10)] {
        event(&scene, "poisoned", n, bytes).await;
        event(&scene, "healthy", n, 10).await;
    }
    wait_published(&scene, "healthy", &[1, 2, 3, 4]);
    wait_entries(&scene.database, "held", &["poisoned"]).await;
    wait_entries(&scene.database, "queued", &["poisoned", "poisoned"]).await;
    wait_published(&scene, "poisoned", &[1]);
    relay.wait_status(LIMIT, "the held key to be seen", |status| {
        (status["quarantine"]["open"] == 3 && status["quarantine"]["held_keys"] == 1).then_some(())
    });

    // Nothing has changed: it is held again, and says why.
    decide_first(&scene.database, "release").await;
    let tried = "SELECT count(*)::int FROM outbox.quarantine WHERE state = 'held' AND decided_at IS NULL
                    AND note IS NOT NULL AND cause = 'too_large' AND reason LIKE '%kafka.max_record_bytes%'";
    eventually_async(LIMIT, "the entry to be held again", async || {
        (scene.database.query_one(tried, &[]).await.unwrap().get::<_, i32>(0) == 1).then_some(())
    })
    .await;
    // A drained relay has everything confirmed, held rows too, and comes back with the key held.
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let relay = scene.start();
    event(&scene, "poisoned", 5, 10).await;
    wait_entries(&scene.database, "queued", &["poisoned"; 3]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // With another limit it can be released, and everything behind it comes in order.
    let config = scene.config.clone().text("kafka.max_record_bytes", "1MB");
    let relay = Relay::start(&config);
    decide_first(&scene.database, "release").await;
    wait_published(&scene, "poisoned", &[1, 2, 3, 4, 5]);
    wait_entries(&scene.database, "published", &["poisoned"; 4]).await;
    event(&scene, "poisoned", 6, 10).await;
    wait_published(&scene, "poisoned", &[1, 2, 3, 4, 5, 6]);
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (10, 0), "{verdict}");
    relay.wait_status(LIMIT, "nothing to be held", |status| {
        (status["quarantine"]["open"] == 0 && status["quarantine"]["held_keys"] == 0).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    assert!(!relay.log().contains(&"x".repeat(20)), "no payload is logged");
    println!("proof: hold-key: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_entry_is_given_up_and_what_waits_behind_it_comes_in_order() {
    let scene = scene("quarantine_discard").await;
    let relay = scene.start();
    for (n, bytes) in [(1, 10), (2, 3_000), (3, 10), (4, 3_000), (5, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    wait_entries(&scene.database, "queued", &["poisoned"; 3]).await;
    decide_first(&scene.database, "discard").await;
    // The next that cannot be published is held in its place, and the last one waits behind it.
    wait_published(&scene, "poisoned", &[1, 3]);
    wait_entries(&scene.database, "held", &["poisoned"]).await;
    wait_entries(&scene.database, "queued", &["poisoned"]).await;
    decide_first(&scene.database, "discard").await;
    wait_published(&scene, "poisoned", &[1, 3, 5]);
    wait_entries(&scene.database, "discarded", &["poisoned"; 2]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_policy_continue_later_events_of_the_key_pass() {
    let scene = scene("quarantine_continue").await;
    let topic = format!("quarantine.topics.{}", scene.topic());
    let scene = scene.configured(|config| config.text("quarantine.policy", "halt").text(&topic, "continue"));
    let relay = scene.start();
    for (n, bytes) in [(1, 10), (2, 3_000), (3, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    wait_published(&scene, "poisoned", &[1, 3]);
    wait_entries(&scene.database, "passed", &["poisoned"]).await;
    decide_first(&scene.database, "discard").await;
    wait_entries(&scene.database, "discarded", &["poisoned"]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quarantine_halts_and_a_larger_one_goes_on() {
    let scene = scene("quarantine_full").await;
    let scene = scene.configured(|config| config.raw("quarantine.max_entries", "2"));
    for (n, bytes) in [(1, 3_000), (2, 10), (3, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    let log = scene.start_halts();
    assert!(log.contains("quarantine.max_entries") && log.contains("quarantine list"), "{log}");
    wait_entries(&scene.database, "queued", &["poisoned"]).await;
    let config = scene.config.clone().raw("quarantine.max_entries", "3");
    let relay = Relay::start(&config);
    wait_entries(&scene.database, "queued", &["poisoned"; 2]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quarantine_goes_on_as_soon_as_something_in_it_is_decided() {
    let scene = scene("quarantine_decided").await;
    let scene = scene.configured(|config| config.raw("quarantine.max_entries", "2"));
    for (n, bytes) in [(1, 3_000), (2, 10), (3, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    scene.start_halts();
    // The decision stands in the log behind the row that it halted on.
    decide_first(&scene.database, "discard").await;
    let relay = scene.start();
    wait_published(&scene, "poisoned", &[2, 3]);
    wait_entries(&scene.database, "discarded", &["poisoned"]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_events_may_wait_behind_a_held_one_than_the_state_record_lists() {
    const BEHIND: u32 = 1_300;
    let scene = scene("quarantine_backlog").await;
    event(&scene, "poisoned", 1, 3_000).await;
    for hundred in 0..BEHIND / 100 {
        let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                      SELECT $1, 'poisoned', 'Made', json_build_object('n', i) FROM generate_series($2::int, $2 + 99) i";
        let from = i32::try_from(hundred * 100 + 2).unwrap();
        scene.database.execute(insert, &[&scene.name, &from]).await.unwrap();
    }
    event(&scene, "healthy", 1, 10).await;

    // Killed once in the middle of it, so that entries in the table come again in the stream.
    let relay = scene.start();
    let queued = "SELECT count(*) > 1100 FROM outbox.quarantine WHERE state = 'queued'";
    eventually_async(LIMIT, "many to be queued", async || {
        scene.database.query_one(queued, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    relay.kill();
    let relay = scene.start();
    let mut log = scene.log();
    eventually(LIMIT, "the healthy event, once or twice", || {
        log.catch_up();
        (!published(log.records(), "healthy").is_empty()).then_some(())
    });
    relay.wait_status(LIMIT, "all of them to be held", |status| {
        (status["quarantine"]["open"] == BEHIND + 1).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let relay = Relay::start(&scene.config.clone().text("kafka.max_record_bytes", "1MB"));
    decide_first(&scene.database, "release").await;
    wait_published(&scene, "poisoned", &(1..=u64::from(BEHIND) + 1).collect::<Vec<_>>());
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: backlog behind a held event: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_whose_commit_waits_for_a_standby_is_carried_out_once_it_can_be_seen() {
    let postgres = Postgres::start(usual_version());
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "quarantine_standby").await;
    let scene = scene.configured(|config| config.text("kafka.max_record_bytes", SMALL_RECORDS));
    let relay = scene.start();
    for (n, bytes) in [(1, 3_000), (2, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    wait_entries(&scene.database, "queued", &["poisoned"]).await;

    // From here on commits wait for a standby that is not there; the stream does not.
    scene.database.batch_execute("SET synchronous_commit = local").await.unwrap();
    scene.database.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    scene.database.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let asking = scene.postgres.connect(&scene.name).await;
    let deciding = tokio::spawn(async move {
        decide_first(&asking, "discard").await;
    });
    let waiting =
        "SELECT pid, pg_current_wal_flush_lsn()::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let (pid, decided) = eventually_async(LIMIT, "the decision to wait for a standby", async || {
        let row = scene.database.query_opt(waiting, &[]).await.unwrap()?;
        Some((row.get::<_, i32>(0), row.get::<_, String>(1).parse::<Lsn>().unwrap()))
    })
    .await;
    relay.wait_status(LIMIT, "the relay to have read it", |status| {
        let received: Lsn = status["positions"]["received"].as_str()?.parse().ok()?;
        (received >= decided).then_some(())
    });
    relay.wait_status(LIMIT, "what it waits for", |status| {
        status["waiting_for"].as_str()?.contains("standby").then_some(())
    });
    assert_eq!(entries(&scene.database, "held").await, ["poisoned"], "nobody can see the decision yet");

    let cancel = format!("SELECT pg_cancel_backend({pid})");
    scene.database.batch_execute(&cancel).await.unwrap();
    deciding.await.unwrap();
    wait_entries(&scene.database, "discarded", &["poisoned"]).await;
    wait_published(&scene, "poisoned", &[2]);
    assert_eq!(relay.status()["totals"]["reconnects"], 0, "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_outlived_its_topics_retention_is_held_again_instead_of_halting() {
    let scene = scene("quarantine_retention").await;
    let relay = scene.start();
    for (n, bytes) in [(1, 3_000), (2, 10)] {
        event(&scene, "poisoned", n, bytes).await;
    }
    wait_entries(&scene.database, "queued", &["poisoned"]).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    set(scene.kafka, &scene.topic(), "retention.ms", "100").await;
    let large = scene.config.clone().text("kafka.max_record_bytes", "1MB");
    let relay = Relay::start(&large);
    relay.wait_ready(LIMIT);
    decide_first(&scene.database, "release").await;
    let tried = "SELECT count(*)::int FROM outbox.quarantine
                  WHERE state = 'held' AND decided_at IS NULL AND reason LIKE '%retention.ms%'";
    eventually_async(LIMIT, "the entry to be held again", async || {
        (scene.database.query_one(tried, &[]).await.unwrap().get::<_, i32>(0) == 1).then_some(())
    })
    .await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    set(scene.kafka, &scene.topic(), "retention.ms", "604800000").await;
    let relay = Relay::start(&large);
    decide_first(&scene.database, "release").await;
    wait_published(&scene, "poisoned", &[1, 2]);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

async fn limit_of(kafka: &Kafka, topic: &str, bytes: &str) {
    set(kafka, topic, "max.message.bytes", bytes).await;
}

async fn set(kafka: &Kafka, topic: &str, name: &str, value: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    admin.alter_configs([&change], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
}

/// Releases whatever is held until nothing is, as an operator would after the cause is mended.
async fn release_all(client: &Client) -> u64 {
    let mut released = 0;
    eventually_async(LIMIT * 2, "nothing to be held any more", async || {
        let decide = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, 'release', 'mended')
                        FROM outbox.quarantine WHERE state IN ('held', 'passed')";
        released += client.execute(decide, &[]).await.unwrap();
        let open = "SELECT count(*) FROM outbox.quarantine WHERE settled_at IS NULL";
        (client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    released
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_with_poison_rows_and_kills_nothing_is_lost_and_released_events_come_in_order() {
    let servers = cluster::shared();
    let outbox = Outbox::make("poison", &servers.postgres, &servers.kafka).await;
    let config =
        outbox.config.clone().text("kafka.max_record_bytes", SMALL_RECORDS).text("state.interval", "200ms");
    let traffic = workload::Settings {
        rows_per_second: Some(1_500),
        keys: 200,
        large_per_mille: 2,
        largest: 100,
        ..outbox.traffic()
    };
    let mut random = StdRng::seed_from_u64(traffic.seed);
    let workload = Workload::start(&outbox.url(), traffic).await;
    let client = outbox.connect().await;
    let mut log = outbox.log(&servers.kafka);
    let kills = if proving() { 30 } else { 6 };
    let mut relay = Relay::start(&config);
    for kill in 0..kills {
        let (records, rows) = (random.random_range(1..2_000), random.random_range(1..60));
        relay.wait_status(LIMIT, &format!("the moment of kill {kill}"), |status| {
            let total = |name: &str| status["totals"][name].as_u64().unwrap_or(0);
            (total("records") >= records && total("quarantined_rows") >= rows).then_some(())
        });
        relay.kill();
        relay = Relay::start(&config);
    }
    workload.stop().await;
    relay.wait_ready(LIMIT);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let held: i64 = client.query_one("SELECT count(*) FROM outbox.quarantine", &[]).await.unwrap().get(0);
    assert!(held > 0, "nothing was put aside");
    // Mended: releases meet kills, too.
    let mended = outbox.config.clone().text("state.interval", "200ms");
    let mut relay = Relay::start(&mended);
    decide_first(&client, "release").await;
    relay.wait_status(LIMIT, "a decision to be carried out", |status| {
        (status["totals"]["quarantine_settled"].as_u64()? > 0).then_some(())
    });
    relay.kill();
    let all = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, 'release', 'mended')
                 FROM outbox.quarantine WHERE state = 'held'";
    client.execute(all, &[]).await.unwrap();
    relay = Relay::start(&mended);
    relay.wait_status(LIMIT, "a decision to be carried out", |status| {
        (status["totals"]["quarantine_settled"].as_u64()? > 0).then_some(())
    });
    relay.kill();
    let relay = Relay::start(&mended);
    release_all(&client).await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: poison rows: kills={} put_aside={held} {verdict}", kills + 2);
    verdict.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_is_found_alone_and_no_later_event_of_its_key_overtakes() {
    let servers = cluster::shared();
    let outbox = Outbox::make("refused", &servers.postgres, &servers.kafka).await;
    let config = outbox.config.clone().text("state.interval", "200ms");
    let traffic = workload::Settings {
        rows_per_second: Some(1_000),
        keys: 100,
        large_per_mille: 3,
        largest: 50,
        ..outbox.traffic()
    };
    let client = outbox.connect().await;
    let mut log = outbox.log(&servers.kafka);
    let workload = Workload::start(&outbox.url(), traffic).await;
    let relay = Relay::start(&config);
    relay.wait_status(LIMIT, "records", |status| (status["totals"]["records"].as_u64()? > 500).then_some(()));
    // The limit is lowered under a running relay, whose batches it does not know to be too large now.
    for topic in outbox.topics() {
        limit_of(&servers.kafka, &topic, "2500").await;
    }
    let refused = "SELECT count(*) FROM outbox.quarantine WHERE cause = 'refused' AND reason <> ''";
    eventually_async(LIMIT, "records to be refused alone", async || {
        (client.query_one(refused, &[]).await.unwrap().get::<_, i64>(0) >= 3).then_some(())
    })
    .await;
    relay.kill();
    let relay = Relay::start(&config);
    workload.stop().await;
    relay.wait_status(LIMIT, "the rest to be published or put aside", |status| {
        let confirmed = status["positions"]["confirmed"] == status["positions"]["recorded"];
        (confirmed && status["in_flight"]["records"] == 0 && status["phase"] == "streaming").then_some(())
    });
    for topic in outbox.topics() {
        limit_of(&servers.kafka, &topic, "1048588").await;
    }
    let released = release_all(&client).await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: refused records: released={released} {verdict}");
    verdict.assert_pass();
    assert!(relay.terminate().code() == Some(0), "{}", relay.log());
}

/// A broker that has nothing of a producer at a partition takes any sequence number of it there. Were the second record
/// on its way when the first is refused, it would be taken, before the one that is released later.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_the_first_record_of_a_producer_before_its_acknowledgement() {
    let (postgres, kafka) = (&cluster::shared().postgres, Kafka::start());
    // The limit is lowered under a relay that will not look for long: only the broker can refuse.
    let scene = Scene::prepare(postgres, &kafka, "firsts")
        .await
        .configured(|config| config.text("topics.look_interval", "1h"));
    let relay = scene.start();
    // The topic is in use, and the key's partition is not: of twelve, this is another.
    event(&scene, "warm", 0, 10).await;
    relay.wait_status(LIMIT, "a record", |status| (status["totals"]["records"] == 1).then_some(()));
    limit_of(&kafka, &scene.topic(), SMALL_RECORDS).await;
    // What a producer sends now waits in the broker's socket, as far as the producer sends it.
    kafka.pause();
    let incompressible: String =
        StdRng::seed_from_u64(1).sample_iter(Alphanumeric).take(6_000).map(char::from).collect();
    event_with(&scene, "cold", 1, &incompressible).await;
    let in_flight = |status: &serde_json::Value| status["in_flight"]["records"].as_u64();
    relay.wait_status(LIMIT, "the first record to leave", |status| {
        (in_flight(status) == Some(1)).then_some(())
    });
    for n in 2..20 {
        event(&scene, "cold", n, 10).await;
    }
    let since = std::time::Instant::now();
    relay.wait_status(LIMIT, "the others to wait behind it", |status| {
        assert_eq!(in_flight(status), Some(1), "{status}");
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    kafka.resume();
    wait_entries(&scene.database, "held", &["cold"]).await;
    limit_of(&kafka, &scene.topic(), "1048588").await;
    release_all(&scene.database).await;
    wait_published(&scene, "cold", &(1..20).collect::<Vec<u64>>());
    assert!(relay.terminate().code() == Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_for_its_time_halts_the_relay_by_name() {
    let servers = cluster::shared();
    // The limit is lowered under a relay that will not look for long: only the broker can refuse.
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "quarantine_time")
        .await
        .configured(|config| config.text("topics.look_interval", "1h"));
    let relay = scene.start();
    scene.insert(7).await;
    scene.verdict().await.assert_pass();
    relay.pause();
    scene.insert(7).await;
    let old = std::time::Instant::now();
    eventually(LIMIT, "the rows to be older than the limit", || {
        (old.elapsed() > Duration::from_millis(1_500)).then_some(())
    });
    set(&servers.kafka, &scene.topic(), "message.timestamp.before.max.ms", "1000").await;
    relay.resume();
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "{}", relay.log());
    let log = relay.log();
    let refused = log.lines().find(|line| line.contains("was refused") && line.contains("one at a time"));
    assert!(refused.is_some_and(|line| line.contains(&scene.topic())), "by the broker first: {log}");
    let halted = log.lines().find(|line| line.contains("halted: ")).unwrap_or_default();
    assert!(halted.contains("message.timestamp.before.max.ms") && halted.contains(&scene.topic()), "{log}");
    let none = entries(&scene.database, "held").await;
    assert!(none.is_empty(), "its time is every record's: nothing is put aside");
    set(&servers.kafka, &scene.topic(), "message.timestamp.before.max.ms", "9223372036854775807").await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
