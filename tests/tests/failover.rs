//! A primary that crashes under load, and a physical standby that is promoted: the relay finds it by the second host of
//! its URL and goes on, with the slot that the standby kept or, where there is none, from the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_tests::cluster::{self, Postgres};
use outbox_tests::history::{Verdict, settled_verdict};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene, insert_statement};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

/// The relay's configuration with both servers, the one that shall be asked first in front.
fn of_both(name: &str, first: &Postgres, second: &Postgres, brokers: &str) -> RelayConfig {
    let url =
        format!("postgres://relay_{name}@127.0.0.1:{},127.0.0.1:{}/{name}", first.port(), second.port());
    RelayConfig::new(name, &url, "secret of the relay", brokers)
}

/// Inserts until the server is gone.
async fn write_until_it_is_gone(scene: &Scene<'_>, gone: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let client = scene.postgres.connect(&scene.name).await;
    let (kind, mut at) = (scene.name.clone(), scene.inserted());
    tokio::spawn(async move {
        while client.batch_execute(&insert_statement(&kind, at, 5)).await.is_ok() {
            at += 5;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(gone.load(Ordering::SeqCst), "an insert failed before the server was stopped");
        at
    })
}

/// Crashes the primary under load and promotes the standby; answers what became of everything that the promoted
/// server has, and the relay's status.
async fn fail_over(major: u32, name: &'static str) -> (Verdict, Value, Relay) {
    let primary = Postgres::start(major);
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(&primary, kafka, name).await;
    let standby = primary.standby().await;
    scene.reconnect().await;
    // The standby first: the relay has to go on to the primary, and to stay there.
    scene.config = of_both(name, &standby, &primary, &kafka.brokers());
    scene.insert(35).await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    if major >= 17 {
        let there = standby.connect(name).await;
        let slot = scene.slot();
        let patience = Duration::from_secs(120);
        eventually_async(patience, "the standby to keep the slot", async || {
            // What the slot needs has to move on before the standby can keep it.
            scene.insert(7).await;
            scene.database.batch_execute("CHECKPOINT").await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let synced = "SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = $1";
            let found = there.query_opt(synced, &[&slot]).await.unwrap()?;
            found.get::<_, Option<bool>>(0)?.then_some(())
        })
        .await;
    } else {
        // A snapshot from which it can be told what is published.
        eventually_async(LIMIT, "a published snapshot", async || {
            let record = scene.state_record()?;
            (!record["ring"].as_array()?.is_empty()).then_some(())
        })
        .await;
    }
    let gone = Arc::new(AtomicBool::new(false));
    let writer = write_until_it_is_gone(&scene, gone.clone()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    gone.store(true, Ordering::SeqCst);
    primary.stop_immediate();
    let written = writer.await.expect("no panic");
    standby.promote().await;
    scene.database = standby.connect(name).await;
    let kept: u64 = scene.text("SELECT count(*)::text FROM outbox.events").await.parse().unwrap();
    println!("{major}: {written} rows written, {kept} kept by the promoted standby");
    scene.rewind(kept);
    scene.insert(35).await;
    let mut log = scene.log();
    let verdict = settled_verdict(&scene.database, &mut log, Duration::from_secs(120)).await;
    let status = relay.status();
    assert_eq!(status["epoch"], 2, "{status:#}");
    scene.insert(7).await;
    assert_eq!(settled_verdict(&scene.database, &mut log, LIMIT).await.lost, 0);
    (verdict, status, relay)
}

async fn survives_with_its_slot(major: u32, name: &'static str) {
    let (verdict, status, relay) = fail_over(major, name).await;
    verdict.assert_pass();
    assert_eq!(
        (verdict.lost, verdict.phantoms),
        (0, 0),
        "what is published waits for the standby: {verdict}"
    );
    let fills: u64 = status["totals"]["fills"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(fills, 0, "the slot survived: {status:#}");
    println!("proof: promotion on PostgreSQL {major} with a failover slot: {verdict}");
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_of_postgres_17_goes_on_with_the_slot_that_it_kept() {
    survives_with_its_slot(17, "failover_17").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_of_postgres_18_goes_on_with_the_slot_that_it_kept() {
    survives_with_its_slot(18, "failover_18").await;
}

/// What was published beyond the switch point and then lost is named; nothing that the promoted server has is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_without_the_slot_is_filled_from_its_table() {
    let (verdict, status, relay) = fail_over(15, "failover_15").await;
    assert_eq!((verdict.lost, verdict.reordered, verdict.altered), (0, 0, 0), "{verdict}");
    assert_eq!(status["totals"]["fills"]["failover"], 1, "{status:#}");
    println!("proof: promotion on PostgreSQL 15 without a slot: {verdict}\n{}", relay.log().lines().count());
}
