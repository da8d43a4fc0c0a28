//! A busy server whose outbox is idle: the log is released all the same, and while Kafka is down it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually_async;
use tokio::task::JoinHandle;

/// Writes to a table that is no outbox until told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Busy {
    async fn start(postgres: &Postgres, database: &str) -> Busy {
        let client = postgres.connect(database).await;
        client.batch_execute("CREATE TABLE busy (n bigint, text text)").await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let writer = tokio::spawn(async move {
            let statement = "INSERT INTO busy SELECT i, repeat('x', 400) FROM generate_series(1, 200) i";
            while !told.load(Ordering::SeqCst) {
                client.batch_execute(statement).await.unwrap();
            }
        });
        Busy { stop, writer }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.writer.await.unwrap();
    }
}

const NOW: &str = "SELECT pg_current_wal_lsn()::text";

/// Whether `megabytes` were written since `from`.
async fn written(scene: &Scene<'_>, from: &str, megabytes: u32) -> bool {
    let query =
        format!("SELECT (pg_wal_lsn_diff(pg_current_wal_lsn(), '{from}') > {megabytes} * 1048576)::text");
    scene.text(&query).await == "true"
}

async fn confirms(scene: &Scene<'_>, mark: &str) -> bool {
    let slot = scene.slot();
    let query = format!(
        "SELECT (confirmed_flush_lsn >= '{mark}')::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    scene.text(&query).await == "true"
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_outbox_in_a_busy_server_releases_its_log_within_ten_seconds() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "idle").await;
    let relay = scene.start();
    scene.insert(10).await;
    scene.verdict().await.assert_pass();
    servers.postgres.create_database("idle_neighbour").await;
    let here = Busy::start(&servers.postgres, "idle").await;
    let there = Busy::start(&servers.postgres, "idle_neighbour").await;

    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let from = scene.text(NOW).await;
        eventually_async(LIMIT, "a busy log", async || written(&scene, &from, 10).await.then_some(())).await;
        let mark = scene.text(NOW).await;
        let started = Instant::now();
        eventually_async(LIMIT, "the slot to pass the mark", async || {
            confirms(&scene, &mark).await.then_some(())
        })
        .await;
        slowest = slowest.max(started.elapsed());
    }
    assert!(relay.is_ready(), "{:?}", relay.get("/ready"));
    here.stop().await;
    there.stop().await;

    // And with only the other database writing, of which the stream shows nothing at all.
    let there = Busy::start_again(&servers.postgres, "idle_neighbour").await;
    let from = scene.text(NOW).await;
    eventually_async(LIMIT, "a busy log", async || written(&scene, &from, 10).await.then_some(())).await;
    let mark = scene.text(NOW).await;
    let started = Instant::now();
    eventually_async(LIMIT, "the slot to pass the mark", async || {
        confirms(&scene, &mark).await.then_some(())
    })
    .await;
    let neighbour = started.elapsed();
    there.stop().await;

    // Nobody wrote a heartbeat: what stands in the contract's schema are the ten rows.
    let tables = "SELECT string_agg(relname || ' ' || n_tup_ins + n_tup_upd, ', ')
                    FROM pg_stat_user_tables WHERE schemaname = 'outbox' AND n_tup_ins + n_tup_upd > 0";
    eventually_async(LIMIT, "statistics", async || {
        let row = scene.database.query_one(tables, &[]).await.unwrap();
        row.get::<_, Option<String>>(0).filter(|text| text.ends_with(" 10") && !text.contains(','))
    })
    .await;
    assert_eq!(relay.status()["totals"]["records"], 10);
    println!("proof: idle outbox confirmed within {slowest:.1?}, beside a busy database {neighbour:.1?}");
    assert!(slowest <= Duration::from_secs(10), "{slowest:?}");
    assert!(neighbour <= Duration::from_secs(10), "{neighbour:?}");
}

impl Busy {
    async fn start_again(postgres: &Postgres, database: &str) -> Busy {
        postgres.connect(database).await.batch_execute("DROP TABLE busy").await.unwrap();
        Busy::start(postgres, database).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_down_the_slot_stands_still_and_the_relay_says_so() {
    let postgres = Postgres::start(usual_version());
    let kafka = Kafka::start();
    let scene = Scene::prepare(&postgres, &kafka, "idle_down")
        .await
        .configured(|config| config.text("admin.stalled_after", "4s").text("state.idle_interval", "1s"));
    let relay = scene.start();
    scene.insert(10).await;
    scene.verdict().await.assert_pass();
    let busy = Busy::start(&postgres, "idle_down").await;
    relay.wait_ready(LIMIT);
    let backend =
        format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{}'", scene.slot());
    let before = scene.text(&backend).await;

    kafka.pause();
    let said = relay_says(&relay);
    let stood = scene.confirmed().await;
    let mark = scene.text(NOW).await;
    eventually_async(LIMIT, "a busy log", async || written(&scene, &mark, 10).await.then_some(())).await;
    // The relay has seen that log go by, and confirmed none of it.
    let beyond = scene.text(NOW).await;
    eventually_async(LIMIT, "the relay to read on", async || {
        let received = relay.status()["positions"]["received"].as_str().unwrap().to_owned();
        let query = format!("SELECT ('{received}'::pg_lsn >= '{beyond}')::text");
        (scene.text(&query).await == "true").then_some(())
    })
    .await;
    assert_eq!(scene.confirmed().await, stood, "the slot moved although Kafka could not record it");
    let metrics = relay.get("/metrics").unwrap().1;
    let lag =
        metrics.lines().find(|line| line.starts_with("outbox_relay_slot_lag_bytes")).unwrap_or(&metrics);
    let lag: f64 = lag.rsplit(' ').next().and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
    assert!(lag > 1e6, "the metric says how much log the slot holds: {metrics}");

    kafka.resume();
    eventually_async(LIMIT, "the slot to pass the mark", async || {
        confirms(&scene, &beyond).await.then_some(())
    })
    .await;
    relay.wait_ready(LIMIT);
    assert_eq!(scene.text(&backend).await, before, "the stream was lost on the way");
    busy.stop().await;
    println!("proof: Kafka down: {said}");
}

fn relay_says(relay: &outbox_tests::relay::Relay) -> String {
    relay.wait_status(LIMIT, "the relay to say that it stalls", |status| {
        status["reason"].as_str().filter(|reason| reason.starts_with("stalled")).map(str::to_owned)
    })
}
