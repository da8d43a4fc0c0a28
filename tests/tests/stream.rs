//! What may happen to tables and topics while the relay streams, and rows that cannot be published.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use outbox_tests::cluster::{self, Kafka};
use outbox_tests::history::Published;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene};
use outbox_tests::wait::{eventually, eventually_async};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;

/// Debezium's table.
const PLAIN: &str = "CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255), aggregateid varchar(255), type varchar(255), payload jsonb)";

/// A relay on a table of Debezium's shape. `publication` is made before `init` where the test needs another
/// than the usual one.
async fn plain(name: &str, publication: Option<&str>) -> Scene<'static> {
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, name)
        .await
        .configured(|config| config.text("outbox.table", "public.outbox"));
    servers.kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    scene.database.batch_execute(PLAIN).await.unwrap();
    if let Some(publication) = publication {
        scene.database.batch_execute(publication).await.unwrap();
    }
    scene.init(&[]);
    scene
}

/// Inserts one row per key `from`, `from + 1`, …; the payload says which.
async fn insert_plain(scene: &Scene<'_>, from: u32, rows: u32) {
    let statement = format!(
        "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
         SELECT '{}', 'same', 'Made', jsonb_build_object('n', i) FROM generate_series({from}, {}) i",
        scene.name,
        from + rows - 1
    );
    scene.database.batch_execute(&statement).await.unwrap();
}

/// Waits until the topic holds `count` events and answers what it holds.
fn wait_events(scene: &Scene<'_>, count: usize) -> Vec<Published> {
    let mut log = scene.log();
    eventually(LIMIT, "events on the topic", || {
        log.catch_up();
        (distinct(log.records()) >= count).then(|| log.records().to_vec())
    })
}

fn distinct(records: &[Published]) -> usize {
    records.iter().map(|record| record.id().unwrap()).collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_five_column_table_is_published_by_mapping() {
    let scene = plain("stream_plain", None).await;
    let relay = scene.start();
    insert_plain(&scene, 1, 3).await;
    let records = wait_events(&scene, 3);
    let rows = scene.database.query("SELECT id::text, payload::text FROM public.outbox", &[]).await.unwrap();
    let mut payloads: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for record in &records {
        let payload = payloads.remove(record.id().unwrap()).unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"same"[..]));
        assert_eq!(record.value.as_deref(), Some(payload.as_bytes()));
        assert_eq!(record.header("type"), Some("Made"));
        assert!(record.header("position").unwrap().starts_with("1/"));
    }
    assert!(payloads.is_empty());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_and_truncate_breaks_nothing() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "stream_partitions").await;
    let relay = scene.start();
    scene.insert(20).await;
    let bucket =
        scene.text("SELECT ((extract(epoch FROM clock_timestamp())::bigint / 86400) % 8)::text").await;
    let swap = format!(
        "BEGIN;
         ALTER TABLE outbox.events DETACH PARTITION outbox.events_{bucket};
         CREATE TABLE outbox.events_new (LIKE outbox.events INCLUDING ALL);
         ALTER TABLE outbox.events ATTACH PARTITION outbox.events_new FOR VALUES IN ({bucket});
         COMMIT"
    );
    scene.database.batch_execute(&swap).await.unwrap();
    scene.insert(20).await;
    // A detached table is no part of the outbox: what is written to it is nobody's event.
    let back = format!(
        "ALTER TABLE outbox.events DETACH PARTITION outbox.events_new;
         INSERT INTO outbox.events_{bucket} SELECT * FROM outbox.events_new;
         ALTER TABLE outbox.events ATTACH PARTITION outbox.events_{bucket} FOR VALUES IN ({bucket});
         DROP TABLE outbox.events_new"
    );
    scene.database.batch_execute(&back).await.unwrap();
    scene.insert(20).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (60, 0), "{verdict}");

    scene.database.batch_execute("TRUNCATE outbox.events").await.unwrap();
    scene.insert(20).await;
    scene.database.batch_execute(&format!("TRUNCATE outbox.events_{bucket}")).await.unwrap();
    scene.insert(20).await;
    let records = wait_events(&scene, 100);
    assert_eq!(records.len(), 100);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: partitions detached, attached, truncated: {verdict}, 100 records in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_column_changes_nothing_and_a_renamed_one_that_is_needed_halts_by_name() {
    let scene = plain("stream_columns", None).await;
    let relay = scene.start();
    insert_plain(&scene, 1, 2).await;
    scene
        .database
        .batch_execute("ALTER TABLE public.outbox ADD COLUMN extra text DEFAULT 'x'")
        .await
        .unwrap();
    insert_plain(&scene, 3, 2).await;
    wait_events(&scene, 4);
    let refused = scene.database.batch_execute("ALTER TABLE public.outbox DROP COLUMN type").await;
    assert!(refused.is_err(), "the publication's column list protects its columns");
    let rename = "ALTER TABLE public.outbox RENAME COLUMN type TO kind;
                  INSERT INTO public.outbox (aggregatetype, aggregateid, kind) VALUES ('stream_columns', 'same', 'x')";
    scene.database.batch_execute(rename).await.unwrap();
    let log = halted(&relay);
    assert!(log.contains("\"type\""), "{log}");
    assert_eq!(wait_events(&scene, 4).len(), 4);
    // Mended, it goes on with the row that it halted on.
    scene.database.batch_execute("ALTER TABLE public.outbox RENAME COLUMN kind TO type").await.unwrap();
    let log = scene.start_halts();
    assert!(log.contains("\"type\""), "the log was written under the other name\n{log}");
}

/// Waits for a halt; answers the log.
#[track_caller]
fn halted(relay: &Relay) -> String {
    let status = relay.wait_exit(LIMIT);
    let log = relay.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("halted: "), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_column_that_is_needed_halts_by_name() {
    let whole = "CREATE PUBLICATION outbox_stream_dropped FOR TABLE public.outbox
                 WITH (publish = 'insert', publish_via_partition_root = true)";
    let scene = plain("stream_dropped", Some(whole)).await;
    let relay = scene.start();
    insert_plain(&scene, 1, 2).await;
    wait_events(&scene, 2);
    let drop = "ALTER TABLE public.outbox DROP COLUMN type;
                INSERT INTO public.outbox (aggregatetype, aggregateid) VALUES ('stream_dropped', 'same')";
    scene.database.batch_execute(drop).await.unwrap();
    let log = halted(&relay);
    assert!(log.contains("\"type\""), "{log}");
    let log = scene.start_halts();
    assert!(log.contains("\"type\""), "{log}");
    assert_eq!(wait_events(&scene, 2).len(), 2, "what came before is recorded, nothing is repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_is_not_passed_over_in_silence() {
    let scene = plain("stream_cascade", None).await;
    let relay = scene.start();
    insert_plain(&scene, 1, 2).await;
    wait_events(&scene, 2);
    // Takes the table out of the publication: the stream falls silent, and rows are nobody's.
    scene.database.batch_execute("ALTER TABLE public.outbox DROP COLUMN type CASCADE").await.unwrap();
    let log = halted(&relay);
    assert!(log.contains("outbox_stream_cascade"), "{log}");
    let log = scene.start_halts();
    assert!(log.contains("outbox_stream_cascade"), "{log}");
}

async fn insert_into_mailbox(scene: &Scene<'_>) {
    let insert = "INSERT INTO public.mailbox (aggregatetype, aggregateid, type)
                  VALUES ('stream_renamed', 'same', 'Made')";
    scene.database.batch_execute(insert).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_is_renamed_halts_and_loses_no_row() {
    let scene = plain("stream_renamed", None).await;
    let relay = scene.start();
    insert_plain(&scene, 1, 2).await;
    wait_events(&scene, 2);
    scene.database.batch_execute("ALTER TABLE public.outbox RENAME TO mailbox").await.unwrap();
    insert_into_mailbox(&scene).await;
    // The row is the outbox's under whatever name; then the table is missed under its own.
    assert_eq!(wait_events(&scene, 3).len(), 3);
    let log = halted(&relay);
    assert!(log.contains("under its own name"), "{log}");
    let log = scene.start_halts();
    assert!(log.contains("under its own name"), "{log}");
    insert_into_mailbox(&scene).await;
    scene.database.batch_execute("ALTER TABLE public.mailbox RENAME TO outbox").await.unwrap();
    let relay = scene.start();
    assert_eq!(
        wait_events(&scene, 4).len(),
        4,
        "what came under the other name is published, nothing is repeated"
    );
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_waited_for_by_name_and_never_made() {
    let kafka = Kafka::builder().auto_create_topics().start();
    let postgres = &cluster::shared().postgres;
    let scene = Scene::bare(postgres, &kafka, "stream_missing").await;
    scene.init(&[]);
    let relay = scene.start();
    scene.insert(20).await;
    let waiting = relay.wait_status(LIMIT, "the missing topic to be named", |status| {
        status["waiting_for"].as_str().filter(|text| text.contains(&scene.topic())).map(str::to_owned)
    });
    // Also by a relay that starts and finds the rows waiting.
    relay.kill();
    let relay = scene.start();
    relay.wait_status(LIMIT, "the missing topic to be named", |status| {
        status["waiting_for"].as_str().filter(|text| text.contains(&scene.topic())).map(drop)
    });
    // Long enough for many looks at the topic, and for a broker that makes topics to have made it.
    let looked = std::time::Instant::now();
    eventually(LIMIT, "some looks", || (looked.elapsed() > Duration::from_secs(3)).then_some(()));
    assert!(!kafka.topics().contains(&scene.topic()), "{:?}", kafka.topics());
    kafka.create_topic(&scene.topic(), 5, &[]).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.repeated, 0, "{verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: missing topic: {waiting}; {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_moves_no_key() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "stream_growth").await;
    let relay = scene.start();
    scene.insert(70).await;
    scene.verdict().await.assert_pass();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers.kafka.brokers()).create().unwrap();
    let topic = scene.topic();
    let grown = admin.create_partitions(&[NewPartitions::new(&topic, 8)], &AdminOptions::new()).await;
    grown.unwrap().remove(0).unwrap();
    scene.insert(70).await;
    scene.verdict().await.assert_pass();
    relay.kill();
    let relay = scene.start();
    eventually_async(LIMIT, "the topic to have grown", async || {
        let metadata = admin.inner().fetch_metadata(Some(&scene.topic()), LIMIT).ok()?;
        (metadata.topics()[0].partitions().len() == 8).then_some(())
    })
    .await;
    scene.insert(70).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.misplaced, 0);
    let mut log = scene.log();
    log.catch_up();
    assert!(log.records().iter().all(|record| record.partition < PARTITIONS as i32));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: topic grew from {PARTITIONS} to 8 partitions, no key moved: {verdict}");
}

/// Rows before a bad one: more than are sent at once.
const BEFORE: u32 = 10_000;

/// A bad row between good ones of its key: all before it are published, the relay halts with the reason, and
/// nothing behind it is published, now and at every further start.
async fn halts_on(name: &str, bad: &str, words: &[&str]) {
    let scene = plain(name, None).await.configured(|config| config.text("quarantine.policy", "halt"));
    insert_plain(&scene, 1, BEFORE).await;
    scene.database.batch_execute(bad).await.unwrap();
    insert_plain(&scene, BEFORE + 1, 5).await;
    for attempt in 1..=2 {
        let log = scene.start_halts();
        for word in words {
            assert!(log.contains(word), "attempt {attempt}: `{word}` is missing in\n{log}");
        }
        let mut records = scene.log();
        records.catch_up();
        let copies = records.records().len() as u64;
        assert_eq!(copies, u64::from(BEFORE), "attempt {attempt}: what came before was recorded, too");
        let numbers = records.records().iter().map(|record| {
            let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            value["n"].as_u64().unwrap()
        });
        let published: BTreeSet<u64> = numbers.collect();
        let (count, last) = (published.len() as u64, published.last().copied());
        let all = u64::from(BEFORE);
        assert_eq!(
            (count, last),
            (all, Some(all)),
            "attempt {attempt}: all before it and nothing behind\n{log}"
        );
        println!("proof: {name}: {}", log.lines().find(|line| line.contains("halted: ")).unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_an_illegal_topic_halts_the_relay() {
    let bad = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
               VALUES ('no topic!', 'same', 'Made', '{\"n\": 99}')";
    halts_on("stream_bad_topic", bad, &["aggregatetype", "topic"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_key_halts_the_relay() {
    let bad = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
               VALUES ('stream_no_key', NULL, 'Made', '{\"n\": 99}')";
    halts_on("stream_no_key", bad, &["aggregateid", "NULL"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_for_a_record_halts_the_relay() {
    let bad = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
               VALUES ('stream_too_large', 'same', 'Made', jsonb_build_object('n', repeat('x', 1200000)))";
    halts_on("stream_too_large", bad, &["kafka.max_record_bytes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_to_be_held_halts_the_relay() {
    let bad = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
               VALUES ('stream_huge', 'same', 'Made', jsonb_build_object('n', repeat('x', 20000000)))";
    halts_on("stream_huge", bad, &["source.max_row_bytes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_halts_the_relay() {
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, "stream_refused")
        .await
        .configured(|config| config.text("quarantine.policy", "halt"));
    servers.kafka.create_topic(&scene.topic(), 1, &[("max.message.bytes", "2000")]).await;
    scene.init(&[]);
    scene.insert(7).await;
    let large = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                 SELECT 'stream_refused', 'k0', 'Large', to_json(string_agg(md5(i::text), ''))
                   FROM generate_series(1, 1000) i";
    scene.database.batch_execute(large).await.unwrap();
    scene.insert(7).await;
    for _ in 0..2 {
        let relay = Relay::start(&scene.config);
        let log = halted(&relay);
        assert!(log.contains("refused") && log.contains(&scene.topic()), "{log}");
        // A batch is refused as a whole; sent one at a time all before it arrive, and nothing behind it.
        let mut log = scene.log();
        log.catch_up();
        assert_eq!(distinct(log.records()), 7);
    }
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers.kafka.brokers()).create().unwrap();
    let topic = scene.topic();
    let mended = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "1048588");
    admin.alter_configs([&mended], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, 15);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
