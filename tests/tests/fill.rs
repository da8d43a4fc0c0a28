//! Each loss that can be answered, answered with a fill: nothing missing, ids unchanged, a new epoch, and the loss named
//! in log and metrics. Where it must not be filled the relay halts. How exact a fill is stands in `fill_exact.rs`.

use std::collections::HashSet;

use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::history::{Published, Verdict};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually, eventually_async};

/// Snapshots that the relay knows to be wholly published.
pub(crate) fn snapshots(scene: &Scene<'_>) -> usize {
    let record = scene.state_record().unwrap_or_default();
    record["ring"].as_array().map_or(0, Vec::len)
}

/// Publishes what stands in the table, waits until the relay knows by a snapshot that all of it is, and drains.
pub(crate) async fn publish(scene: &Scene<'_>) {
    let insert_lsn = scene.text("SELECT pg_current_wal_insert_lsn()::text").await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    eventually_async(LIMIT, "a snapshot behind all that was inserted", async || {
        let record = scene.state_record()?;
        let newest = record["ring"].as_array()?.last()?["lsn"].as_str()?.to_owned();
        let behind = format!("SELECT ('{newest}'::pg_lsn >= '{insert_lsn}'::pg_lsn)::text");
        (scene.text(&behind).await == "true").then_some(())
    })
    .await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

fn published(scene: &Scene<'_>) -> Vec<Published> {
    let mut log = scene.log();
    log.catch_up();
    log.records().to_vec()
}

fn of_epoch(scene: &Scene<'_>, epoch: &str) -> usize {
    let epoch_of =
        |record: &Published| record.header("position").unwrap().split('/').next().unwrap().to_owned();
    published(scene).iter().filter(|record| epoch_of(record) == epoch).count()
}

/// The relay starts, fills after the loss, says so, and streams on.
async fn fills(scene: &Scene<'_>, loss: &str, words: &[&str]) -> Verdict {
    let plan = scene.config.command(&["plan"]);
    assert!(plan.0.success() && plan.1.contains("make a new slot, publish"), "{}", plan.1);
    let relay = scene.start();
    scene.insert(5).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    let log = relay.log();
    for word in words.iter().chain(&["As configured, a new slot is made"]) {
        assert!(log.contains(word), "`{word}` is missing in\n{log}");
    }
    let status = relay.status();
    assert_eq!(status["totals"]["fills"][loss], 1, "{status:#}");
    assert_eq!(status["epoch"], 2, "{status:#}");
    let metric = format!("outbox_relay_fills_total{{loss=\"{loss}\",relay=\"{}\"}} 1", scene.name);
    let (_, metrics) = relay.get("/metrics").unwrap();
    assert!(metrics.contains(&metric), "{metrics}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: filled after {loss}: {verdict}, {} records of epoch 2", of_epoch(scene, "2"));
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_dropped_slot_what_is_missing_comes_from_the_table_and_nothing_else() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "fill_gone").await;
    scene.insert(30).await;
    publish(&scene).await;
    scene.insert(12).await;
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    scene.insert(3).await;
    let verdict = fills(&scene, "slot_gone", &["the replication slot is gone"]).await;
    assert_eq!(
        (verdict.committed, verdict.repeated),
        (50, 0),
        "the snapshot says which are missing: {verdict}"
    );
    assert_eq!(of_epoch(&scene, "2"), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_slot_was_advanced_or_made_anew_what_is_missing_comes_from_the_table() {
    let servers = cluster::shared();
    for name in ["fill_advanced", "fill_recreated"] {
        let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
        scene.insert(30).await;
        publish(&scene).await;
        scene.insert(12).await;
        let slot = scene.slot();
        if name == "fill_recreated" {
            scene.text(&format!("SELECT pg_drop_replication_slot('{slot}')::text")).await;
            let make =
                format!("SELECT lsn::text FROM pg_create_logical_replication_slot('{slot}', 'pgoutput')");
            scene.text(&make).await;
        } else {
            let advance = format!(
                "SELECT end_lsn::text FROM pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"
            );
            scene.text(&advance).await;
        }
        scene.insert(3).await;
        let verdict = fills(&scene, "slot_ahead", &["ahead of the state record"]).await;
        assert_eq!((verdict.committed, verdict.repeated), (50, 0), "{name}: {verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_invalidated_slot_what_is_missing_comes_from_the_table() {
    let postgres = Postgres::builder(usual_version())
        .setting("max_slot_wal_keep_size", "16MB")
        .setting("max_wal_size", "32MB")
        .setting("min_wal_size", "32MB")
        .start();
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "fill_invalidated").await;
    scene.insert(30).await;
    publish(&scene).await;
    scene.insert(15).await;
    scene.database.batch_execute("CREATE TABLE filler (text text)").await.unwrap();
    eventually_async(LIMIT, "the slot to be lost", async || {
        let fill = "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i";
        scene.database.batch_execute(fill).await.unwrap();
        scene.database.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        scene.database.batch_execute("CHECKPOINT").await.unwrap();
        let status = "SELECT coalesce(wal_status, '') FROM pg_replication_slots";
        (scene.text(status).await == "lost").then_some(())
    })
    .await;
    let verdict = fills(&scene, "slot_invalidated", &["has invalidated the replication slot"]).await;
    assert_eq!((verdict.committed, verdict.repeated), (50, 0), "{verdict}");
}

/// What was published and then lost by the failover is named; what the two histories share and is not published, and
/// what was committed since, comes from the table.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_without_a_slot_what_is_missing_comes_from_the_table() {
    let postgres = Postgres::start(usual_version());
    let mut scene = Scene::prepare(&postgres, &cluster::shared().kafka, "fill_failover").await;
    scene.insert(20).await;
    publish(&scene).await;
    scene.insert(10).await;
    postgres.stop_fast();
    let standby = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    // Published by the primary, and never on the standby. Their transaction ids are used again there.
    scene.insert(40).await;
    publish(&scene).await;
    postgres.stop_fast();
    postgres.restore(&standby);
    postgres.start_promoted().await;
    scene.reconnect().await;
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    scene.rewind(30);
    for _ in 0..20 {
        scene.insert(5).await;
    }
    let relay = scene.start();
    let mut log = scene.log();
    let verdict = outbox_tests::history::settled_verdict(&scene.database, &mut log, LIMIT).await;
    assert_eq!((verdict.lost, verdict.phantoms, verdict.altered), (0, 40, 0), "{verdict}");
    assert_eq!(relay.status()["totals"]["fills"]["failover"], 1);
    assert!(relay.log().contains("there is no replication slot on it"), "{}", relay.log());
    assert!(relay.log().contains("the server has lost"), "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: filled after failover: {verdict}");
}

/// With the recorded base gone the whole table comes again: repeated, never lost.
#[tokio::test(flavor = "multi_thread")]
async fn another_system_and_a_restored_disk_are_filled_with_everything_where_that_is_wished() {
    let postgres = Postgres::start(usual_version());
    let kafka = &cluster::shared().kafka;
    let wished =
        |config: RelayConfig| config.text("recovery.restored", "fill").text("recovery.other_system", "fill");
    let mut scene = Scene::prepare(&postgres, kafka, "fill_restored").await.configured(wished);
    scene.insert(20).await;
    publish(&scene).await;
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    scene.insert(400).await;
    publish(&scene).await;
    postgres.stop_fast();
    postgres.restore(&snapshot);
    postgres.start_again();
    scene.reconnect().await;
    scene.rewind(20);
    // Beyond the position of the lost history, so that only the stream shows that time went back.
    scene.insert(900).await;
    let relay = scene.start();
    let mut log = scene.log();
    let verdict = outbox_tests::history::settled_verdict(&scene.database, &mut log, LIMIT).await;
    assert_eq!((verdict.lost, verdict.phantoms, verdict.altered), (0, 400, 0), "{verdict}");
    assert_eq!(relay.status()["totals"]["fills"]["restored"], 1, "{}", relay.log());
    assert!(relay.log().contains("not the one that was published from"), "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let other = Postgres::start(usual_version());
    let mut stranger = Scene::bare(&other, kafka, "fill_restored").await;
    stranger.init(&[]);
    stranger.insert(10).await;
    stranger.config = wished(RelayConfig::new(
        "fill_restored",
        &other.url_for("relay_fill_restored", "fill_restored"),
        "secret of the relay",
        &kafka.brokers(),
    ));
    let relay = stranger.start();
    let mut log = stranger.log();
    let verdict = outbox_tests::history::settled_verdict(&stranger.database, &mut log, LIMIT).await;
    assert_eq!(verdict.lost, 0, "{verdict}");
    let status = relay.status();
    assert_eq!(
        (&status["totals"]["fills"]["other_system"], &status["epoch"]),
        (&1.into(), &3.into()),
        "{status:#}"
    );
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// A slot that is gone hides that time went back: the last published transaction is asked for, and its snapshots are
/// not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_disk_without_a_slot_is_noticed_before_its_snapshots_are_believed() {
    let postgres = Postgres::start(usual_version());
    let mut scene = Scene::prepare(&postgres, &cluster::shared().kafka, "fill_unbelieved").await;
    scene.insert(20).await;
    publish(&scene).await;
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    for _ in 0..50 {
        scene.insert(8).await;
    }
    publish(&scene).await;
    let position = scene.confirmed().await;
    postgres.stop_fast();
    postgres.restore(&snapshot);
    postgres.start_again();
    scene.reconnect().await;
    scene.rewind(20);
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    // One transaction whose log reaches beyond the position, and no xid near those that were published.
    scene.insert(900).await;
    let beyond = format!("SELECT (pg_current_wal_flush_lsn() > '{position}'::pg_lsn)::text");
    assert_eq!(scene.text(&beyond).await, "true");
    let log = scene.start_halts();
    assert!(log.contains("not the one that was published from"), "{log}");
    assert!(snapshots(&scene) > 0, "it had snapshots to believe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_rows_are_deleted_at_once_is_never_taken_for_filled() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "fill_deleted").await;
    scene.insert(20).await;
    publish(&scene).await;
    scene.database.batch_execute("BEGIN").await.unwrap();
    scene.insert(5).await;
    scene.database.batch_execute("DELETE FROM outbox.events; COMMIT").await.unwrap();
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    let log = scene.start_halts();
    assert!(log.contains("the replication slot is gone") && log.contains("outbox.rows_stay"), "{log}");
    let slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'outbox_fill_deleted'";
    assert_eq!(scene.text(slots).await, "0", "nothing was changed");

    // Told that rows stay it fills, and told that they do not it never does.
    let never = scene.config.clone().raw("outbox.rows_stay", "false");
    let halted = Relay::start(&never);
    assert_eq!(halted.wait_exit(LIMIT).code(), Some(3), "{}", halted.log());
    let (status, text) = never.text("recovery.slot_gone", "fill").command(&["config", "check"]);
    assert!(!status.success() && text.contains("outbox.rows_stay is false"), "{text}");
    let told = scene.configured(|config| config.raw("outbox.rows_stay", "true"));
    let relay = told.start();
    assert_eq!(relay.status()["totals"]["filled_rows"], 0);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_by_themselves_are_bounded() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "fill_bounded").await;
    let scene = scene.configured(|config| config.raw("recovery.max_fills", "2"));
    scene.insert(10).await;
    publish(&scene).await;
    let drop = format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot());
    for _ in 0..2 {
        scene.text(&drop).await;
        scene.insert(5).await;
        let relay = scene.start();
        scene.verdict().await.assert_pass();
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
    scene.text(&drop).await;
    let log = scene.start_halts();
    assert!(log.contains("happened 2 times within 24 h"), "{log}");
    let (status, plan) = scene.config.command(&["plan"]);
    assert_eq!(status.code(), Some(3), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_is_killed_begins_again_with_the_same_base() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "fill_killed").await;
    let slow =
        |config: RelayConfig| config.raw("kafka.max_in_flight_records", "20").text("kafka.linger", "20ms");
    let scene = scene.configured(slow);
    scene.insert(30).await;
    publish(&scene).await;
    let base = scene.state_record().unwrap()["ring"].as_array().unwrap().last().unwrap()["snapshot"].clone();
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    scene.insert(8_000).await;
    for kill in 1..=3_u64 {
        let relay = Relay::start(&scene.config);
        relay.wait_status(LIMIT, "some rows of the fill", |status| {
            (status["phase"] == "filling" && status["totals"]["records"].as_u64()? > 100 * kill).then_some(())
        });
        relay.kill();
        let record = scene.state_record().unwrap();
        assert_eq!(record["phase"]["filling"]["base"], base, "{record:#}");
        assert_eq!(record["epoch"], 2, "a fill begun again is the same fill");
    }
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, 8_030);
    let first =
        "SELECT string_agg(id::text, ' ') FROM (SELECT id FROM outbox.events ORDER BY seq LIMIT 30) e";
    let first = scene.text(first).await;
    let first: HashSet<&str> = first.split(' ').collect();
    let records = published(&scene);
    let seen = records.iter().filter(|record| first.contains(record.id().unwrap())).count();
    assert_eq!((first.len(), seen), (30, 30), "what the base sees does not come again");
    eventually(LIMIT, "the phase to be streaming", || {
        (scene.state_record()?["phase"] == "streaming").then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: fill killed three times: {verdict}");
}
