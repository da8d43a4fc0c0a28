//! Rows that stand in the table before there is a slot: refused, published first, or never.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene, insert_statement};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

/// Schema, role and publication, but no slot: what stands in the table comes through none.
async fn without_slot<'a>(postgres: &'a Postgres, name: &str) -> Scene<'a> {
    let kafka = &cluster::shared().kafka;
    let scene = Scene::bare(postgres, kafka, name).await;
    kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    scene.init(&["--existing=publish"]);
    scene
}

fn records(status: &Value) -> Option<u64> {
    status["totals"]["records"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_slot_are_refused_until_somebody_says_what_becomes_of_them() {
    let scene = without_slot(&cluster::shared().postgres, "existing_refused").await;
    scene.insert(10).await;
    let (status, text) = scene.try_init(&[]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("--existing"), "{text}");
    let log = scene.start_halts();
    let sentence = "there is no replication slot and no state record, but the outbox table holds rows";
    assert!(log.contains(sentence), "{log}");
    assert!(log.contains("--existing=publish") && log.contains("--existing=skip"), "{log}");
    let slots = scene
        .text("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'outbox_existing_refused'");
    assert_eq!(slots.await, "0", "refusing makes no slot");
    assert_eq!(scene.state_record(), None, "refusing remembers nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_rows_are_published_by_seq_and_the_stream_follows_without_a_gap() {
    let scene = without_slot(&cluster::shared().postgres, "existing_publish").await;
    let before = 20_000;
    scene.insert(before).await;
    // A small window makes the fill long enough for others to insert meanwhile.
    let config = scene.config.clone().raw("kafka.max_in_flight_records", "40");
    let relay = Relay::start(&config.argument("--existing=publish").argument("--no-wait"));
    let in_phase = |phase: &str| relay.try_status().is_some_and(|status| status["phase"] == phase);
    let mut during = 0;
    while !in_phase("streaming") {
        // Its own sessions follow each other, and none of them takes the one before for another owner.
        assert!(relay.ended().is_none(), "{}", relay.log());
        if in_phase("filling") {
            scene.insert(10).await;
            during += 10;
        }
    }
    assert!(during > 0, "nothing was inserted while the fill ran");
    scene.insert(10).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.repeated, 0, "{verdict}");

    let mut seqs = HashMap::new();
    for row in scene.database.query("SELECT id::text, seq FROM outbox.events", &[]).await.unwrap() {
        seqs.insert(row.get::<_, String>(0), u64::try_from(row.get::<_, i64>(1)).unwrap());
    }
    let mut log = scene.log();
    log.catch_up();
    let mut filled = 0;
    for record in log.records() {
        let position: Vec<&str> = record.header("position").unwrap().split('/').collect();
        assert_eq!(position[0], "1");
        if position[1] == "0000000000000000" {
            assert_eq!(position[2].parse::<u64>().unwrap(), seqs[record.id().unwrap()]);
            filled += 1;
        }
    }
    assert!(filled >= before && filled < verdict.committed, "{filled} of {}", verdict.committed);
    let record = scene.state_record().unwrap();
    assert_eq!(
        (&record["phase"], &record["epoch"]),
        (&Value::from("streaming"), &Value::from(1)),
        "{record}"
    );
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let told = scene.init(&[]);
    assert!(told.contains("may insert") || told.contains("to insert"), "{told}");
    println!(
        "proof: existing rows: {filled} filled, {during} inserted meanwhile, {} streamed, {verdict}",
        verdict.committed - filled
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_killed_half_way_begins_again_without_being_told() {
    let scene = without_slot(&cluster::shared().postgres, "existing_killed").await;
    let rows = 20_000;
    scene.insert(rows).await;
    let slow = scene.config.clone().raw("kafka.max_in_flight_records", "20");
    let mut reached = Vec::new();
    for attempt in 0..2 {
        // Only the first start is told; the record on Kafka tells the others.
        let config = if attempt == 0 { slow.clone().argument("--existing=publish") } else { slow.clone() };
        let relay = Relay::start(&config);
        relay.wait_status(LIMIT, "the fill", |status| {
            (status["phase"] == "filling" && records(status)? > 500).then_some(())
        });
        relay.kill();
        let mut log = scene.log();
        log.catch_up();
        reached.push(log.records().len());
        let record = scene.state_record().expect("the phase is recorded before the slot is made");
        assert!(record["phase"]["filling"].is_object(), "{record}");
        scene.insert(100).await;
    }
    assert!(reached[0] > 500 && reached[0] < 20_000, "killed half way: {reached:?}");
    let relay = scene.start();
    scene.insert(100).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, rows + 300);
    assert!(verdict.repeated >= reached[0] as u64, "the fill began again: {verdict}");
    assert_eq!(scene.state_record().unwrap()["phase"], "streaming");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: fill killed after {reached:?} records: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_the_slot_up_and_is_named() {
    // Of its own: an open transaction holds up every slot of its server.
    let postgres = Postgres::start(usual_version());
    let scene = without_slot(&postgres, "existing_open").await;
    scene.insert(14).await;
    let mut other = scene.postgres.connect(&scene.name).await;
    let open = other.transaction().await.unwrap();
    open.batch_execute(&insert_statement(&scene.name, 14, 7)).await.unwrap();
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    scene.rewind(21);

    let relay = Relay::start(&scene.config.clone().argument("--existing=publish"));
    let started = Instant::now();
    let waiting = relay.wait_status(LIMIT, "the open transaction to be named", |status| {
        status["waiting_for"]
            .as_str()
            .filter(|text| text.contains(&format!("process {pid} ")))
            .map(str::to_owned)
    });
    assert_eq!(records(&relay.status()), Some(0), "nothing is published before the slot is there");
    // Longer than any limit of the two connections that have to live through it.
    relay.wait_status(LIMIT, "a long wait", |_| (started.elapsed() > Duration::from_secs(12)).then_some(()));
    assert_eq!(relay.status()["phase"], "filling");
    open.commit().await.unwrap();
    relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
    scene.insert(7).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (28, 0), "{verdict}");
    println!("proof: open transaction: {waiting}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_waits_for_an_open_transaction_can_be_stopped() {
    // Of its own: an open transaction holds up every slot of its server.
    let postgres = Postgres::start(usual_version());
    let scene = without_slot(&postgres, "existing_stopped").await;
    scene.insert(7).await;
    let mut other = scene.postgres.connect(&scene.name).await;
    let open = other.transaction().await.unwrap();
    open.batch_execute(&insert_statement(&scene.name, 7, 7)).await.unwrap();
    let relay = Relay::start(&scene.config.clone().argument("--existing=publish"));
    relay.wait_status(LIMIT, "the open transaction to be named", |status| {
        status["waiting_for"].as_str().filter(|text| text.contains("in a transaction")).map(str::to_owned)
    });
    let started = Instant::now();
    relay.send_term();
    let status = relay.wait_exit(LIMIT);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(4), "the fill is not done: {}", relay.log());
    open.commit().await.unwrap();
    scene.rewind(14);
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_rows_are_never_published_and_later_ones_are() {
    let scene = without_slot(&cluster::shared().postgres, "existing_skip").await;
    scene.insert(50).await;
    let relay = Relay::start(&scene.config.clone().argument("--existing=skip"));
    relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
    scene.insert(30).await;
    let mut log = scene.log();
    eventually_async(LIMIT, "the later rows", async || {
        log.catch_up();
        (log.records().len() >= 30).then_some(())
    })
    .await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    // Without the flag, as every later start.
    let relay = scene.start();
    scene.insert(7).await;
    eventually_async(LIMIT, "rows after a restart", async || {
        log.catch_up();
        (log.records().len() >= 37).then_some(())
    })
    .await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    log.catch_up();
    let later = "SELECT id::text FROM outbox.events ORDER BY seq OFFSET 50";
    let mut expected: Vec<String> =
        scene.database.query(later, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let mut found: Vec<String> = log.records().iter().map(|r| r.id().unwrap().to_owned()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_an_order_is_not_filled_from_and_can_still_be_skipped() {
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, "existing_plain")
        .await
        .configured(|config| config.text("outbox.table", "public.outbox"));
    servers.kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    let table = "CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                   aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
                   type varchar(255) NOT NULL, payload jsonb)";
    scene.database.batch_execute(table).await.unwrap();
    scene.init(&["--existing=publish"]);
    let insert = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
                  VALUES ('existing_plain', 'a', 'Made', '{}')";
    scene.database.batch_execute(insert).await.unwrap();
    let told = scene.config.clone().argument("--existing=publish");
    let relay = Relay::start(&told);
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "{}", relay.log());
    assert!(relay.log().contains("has no `seq` column mapped"), "{}", relay.log());

    // The sentence offers a way out, and it leads out.
    let relay = Relay::start(&scene.config.clone().argument("--existing=skip"));
    relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
    scene.database.batch_execute(insert).await.unwrap();
    relay.wait_status(LIMIT, "the later row", |status| (records(status)? == 1).then_some(()));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
