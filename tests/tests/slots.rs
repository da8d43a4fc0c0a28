//! Slot, server and state record that do not agree: said, halted, nothing lost and nothing published wrongly. What
//! is filled instead is in `fill.rs`.

use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::history::{Published, Verdict};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually, eventually_async};

/// Every loss halts, as where a table cannot be filled from.
pub(crate) fn halting(config: RelayConfig) -> RelayConfig {
    ["slot_gone", "slot_invalidated", "slot_ahead", "failover"]
        .into_iter()
        .fold(config, |config, loss| config.text(&format!("recovery.{loss}"), "halt"))
}

/// Publishes what stands in the table, and drains.
async fn publish(scene: &Scene<'_>) {
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// The topic as it is now.
fn published(scene: &Scene<'_>) -> Vec<Published> {
    let mut log = scene.log();
    log.catch_up();
    log.records().to_vec()
}

/// Starts the relay, which has to halt with all of `words` in its sentence, twice, and publishes nothing.
#[track_caller]
fn halts(scene: &Scene<'_>, words: &[&str]) -> String {
    let before = published(scene).len();
    let mut sentence = String::new();
    for attempt in 1..=2 {
        let log = scene.start_halts();
        let halted = log.lines().find(|line| line.contains("halted: ")).unwrap_or_default();
        for word in words {
            assert!(halted.contains(word), "attempt {attempt}: `{word}` is missing in\n{log}");
        }
        sentence = halted.split_once("halted: ").map_or("", |(_, said)| said).to_owned();
    }
    assert_eq!(published(scene).len(), before, "a halted relay has published something");
    sentence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_advanced_by_hand_halts_with_both_positions() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "slot_advanced").await.configured(halting);
    scene.insert(10).await;
    publish(&scene).await;
    let recorded = scene.confirmed().await;
    scene.insert(5).await;
    let advance = format!(
        "SELECT end_lsn::text FROM pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        scene.slot()
    );
    let moved = scene.text(&advance).await;
    assert_ne!(recorded, moved);
    let sentence = halts(&scene, &[&moved, "ahead of the state record"]);
    println!("proof: slot advanced from {recorded} to {moved}: {sentence}");
    // The record may stand a little above the slot's last confirmed position, never above the new one.
    assert!(sentence.contains("0/"), "{sentence}");
    assert_eq!(sentence.matches("0/").count(), 4, "both positions, twice: {sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_halts_and_so_does_one_made_anew_by_hand() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "slot_dropped").await.configured(halting);
    scene.insert(10).await;
    publish(&scene).await;
    scene.insert(5).await;
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    let gone = halts(&scene, &["the replication slot is gone"]);
    let slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'outbox_slot_dropped'";
    assert_eq!(scene.text(slots).await, "0", "a new slot would hide the gap");

    let make = "SELECT lsn::text FROM pg_create_logical_replication_slot('outbox_slot_dropped', 'pgoutput')";
    let made = scene.text(make).await;
    scene.insert(5).await;
    let recreated = halts(&scene, &[&made, "ahead of the state record"]);
    println!("proof: slot dropped: {gone}\nproof: slot made anew: {recreated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_invalidated_halts_with_its_reason() {
    let postgres = Postgres::builder(usual_version())
        .setting("max_slot_wal_keep_size", "16MB")
        .setting("max_wal_size", "32MB")
        .setting("min_wal_size", "32MB")
        .start();
    let kafka = &cluster::shared().kafka;
    let scene = Scene::prepare(&postgres, kafka, "slot_invalidated").await.configured(halting);
    scene.insert(10).await;
    publish(&scene).await;
    scene.insert(5).await;
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
    let sentence = halts(&scene, &["invalidated", "max_slot_wal_keep_size"]);
    println!("proof: slot invalidated: {sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_disk_is_noticed_below_the_position_and_after_it_was_passed_again() {
    let postgres = Postgres::start(usual_version());
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(&postgres, kafka, "slot_restored").await;
    scene.insert(20).await;
    publish(&scene).await;
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    scene.insert(400).await;
    publish(&scene).await;
    let position = scene.confirmed().await;
    assert_eq!(published(&scene).len(), 420);

    let mut sentences = Vec::new();
    let restore = async |scene: &mut Scene<'_>| {
        postgres.stop_fast();
        postgres.restore(&snapshot);
        postgres.start_again();
        scene.reconnect().await;
        scene.rewind(20);
    };
    restore(&mut scene).await;
    sentences.push(halts(&scene, &["the server's WAL ends at", "restored"]));

    // Other events take the place of those that were lost, at the same positions and beyond.
    scene.insert(900).await;
    assert!(passes(&scene, &position).await, "the new history has to reach beyond {position}");
    sentences.push(halts(&scene, &["not the one that was published from"]));

    // And a history in which nothing of the outbox took their place.
    restore(&mut scene).await;
    fill_beyond(&scene, &position).await;
    sentences.push(halts(&scene, &["not the one that was published from"]));
    assert_eq!(published(&scene).len(), 420);
    for sentence in sentences {
        println!("proof: disk restored: {sentence}");
    }
}

/// Writes log that is nothing to the outbox until the server has flushed well beyond `position`.
async fn fill_beyond(scene: &Scene<'_>, position: &str) {
    scene.database.batch_execute("CREATE TABLE IF NOT EXISTS filler (text text)").await.unwrap();
    eventually_async(LIMIT, "the log to pass the position", async || {
        let fill = "INSERT INTO filler SELECT repeat('x', 900) FROM generate_series(1, 100)";
        scene.database.batch_execute(fill).await.unwrap();
        passes(scene, position).await.then_some(())
    })
    .await;
}

/// Runs a relay until it has confirmed what it has not published: the position moves on by keepalives.
async fn follow(scene: &Scene<'_>) -> String {
    let end = scene.text("SELECT pg_current_wal_flush_lsn()::text").await;
    let relay = scene.start();
    eventually_async(LIMIT, "the slot to follow the log", async || {
        let reached = format!("SELECT ('{}'::pg_lsn >= '{end}'::pg_lsn)::text", scene.confirmed().await);
        (scene.text(&reached).await == "true").then_some(())
    })
    .await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    scene.confirmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_restored_disk_behind_the_last_event_are_never_confirmed_unseen() {
    let postgres = Postgres::start(usual_version());
    let mut scene = Scene::prepare(&postgres, &cluster::shared().kafka, "slot_behind").await;
    scene.insert(20).await;
    publish(&scene).await;
    fill_beyond(&scene, &scene.confirmed().await).await;
    let snapshot_at = follow(&scene).await;
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    fill_beyond(&scene, &snapshot_at).await;
    let position = follow(&scene).await;

    // The slot of the restored disk stands above the last event, so that the event itself does not come
    // again; rows that were committed since do, below the position.
    postgres.stop_fast();
    postgres.restore(&snapshot);
    postgres.start_again();
    scene.reconnect().await;
    scene.insert(30).await;
    fill_beyond(&scene, &position).await;
    let sentence = halts(&scene, &["not the one that was published from"]);
    println!("proof: disk restored behind the last event, halted twice: {sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_halt_the_state_record_can_be_forgotten_and_everything_published_again() {
    let scene = Scene::prepare(&cluster::shared().postgres, &cluster::shared().kafka, "slot_forgotten").await;
    let scene = scene.configured(halting);
    scene.insert(20).await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    let (status, text) = scene.config.command(&["forget", "--yes"]);
    assert_eq!(status.code(), Some(5), "a running relay keeps its memory: {text}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    scene.text("SELECT pg_drop_replication_slot('outbox_slot_forgotten')::text").await;
    halts(&scene, &["the replication slot is gone", "outbox-relay forget --yes"]);

    let (status, text) = scene.config.command(&["forget"]);
    assert!(status.success() && text.contains("nothing was changed"), "{text}");
    halts(&scene, &["the replication slot is gone"]);
    let (status, text) = scene.config.command(&["forget", "--yes"]);
    assert!(status.success() && text.contains("forgotten: slot_forgotten/0: streaming"), "{text}");
    let relay = Relay::start(&scene.config.clone().argument("--existing=publish"));
    scene.insert(5).await;
    eventually(LIMIT, "every row again", || (published(&scene).len() == 45).then_some(()));
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (25, 20), "{verdict}");
    let records = published(&scene);
    assert_eq!(
        epochs(&records).iter().filter(|epoch| **epoch == "2").count(),
        25,
        "positions never come again"
    );
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

async fn passes(scene: &Scene<'_>, position: &str) -> bool {
    let query = format!("SELECT (pg_current_wal_flush_lsn() > '{position}'::pg_lsn + 4096)::text");
    scene.text(&query).await == "true"
}

fn epochs(records: &[Published]) -> Vec<&str> {
    records.iter().map(|r| r.header("position").unwrap().split('/').next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_gets_a_new_epoch_and_goes_on() {
    let postgres = Postgres::start(usual_version());
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(&postgres, kafka, "slot_promoted").await;
    scene.insert(20).await;
    publish(&scene).await;
    scene.insert(5).await;
    postgres.stop_fast();
    postgres.start_promoted().await;
    scene.reconnect().await;
    scene.insert(5).await;
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (30, 0), "{verdict}");
    assert_eq!(relay.status()["epoch"], 2);
    let records = published(&scene);
    let count = |epoch| epochs(&records).into_iter().filter(|found| *found == epoch).count();
    assert_eq!((count("1"), count("2")), (20, 10));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    // A restart on the same timeline is no new epoch.
    scene.insert(5).await;
    publish(&scene).await;
    let records = published(&scene);
    assert_eq!(epochs(&records).into_iter().filter(|epoch| *epoch == "2").count(), 15);
    println!("proof: promoted: {verdict}, epoch 2 for 15 records");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_transactions_goes_on_from_the_shared_history_and_names_the_rest() {
    let postgres = Postgres::start(usual_version());
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(&postgres, kafka, "slot_failover").await;
    scene.insert(20).await;
    publish(&scene).await;
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    scene.insert(100).await;
    publish(&scene).await;
    postgres.stop_fast();
    postgres.restore(&snapshot);
    postgres.start_promoted().await;
    scene.reconnect().await;
    scene.rewind(20);
    scene.insert(300).await;
    let relay = scene.start();
    let mut log = scene.log();
    let verdict: Verdict = outbox_tests::history::settled_verdict(&scene.database, &mut log, LIMIT).await;
    // Published and lost by the database: nothing can take them back, but they are named.
    assert_eq!((verdict.lost, verdict.phantoms, verdict.altered), (0, 100, 0), "{verdict}");
    assert_eq!(verdict.published, 420, "{verdict}");
    assert_eq!(relay.status()["epoch"], 2);
    let records = log.records();
    assert!(epochs(records).iter().filter(|epoch| **epoch == "2").count() >= 300);
    assert!(relay.log().contains("were lost in the failover"), "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: failover with loss: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_under_the_same_name_halts() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "slot_other").await;
    scene.insert(10).await;
    publish(&scene).await;

    let other = Postgres::start(usual_version());
    let mut stranger = Scene::bare(&other, &servers.kafka, "slot_other").await;
    stranger.init(&[]);
    stranger.insert(10).await;
    stranger.config = RelayConfig::new(
        "slot_other",
        &other.url_for("relay_slot_other", "slot_other"),
        "secret of the relay",
        &servers.kafka.brokers(),
    );
    let sentence = halts(&stranger, &["this is database system", "and the state record is of system"]);
    println!("proof: other system: {sentence}");
    // The first one goes on as if nothing had been.
    scene.insert(5).await;
    publish(&scene).await;
}
