//! Clean-up by a running relay: what is published and old goes, everything else stays, whatever happens meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::history::{Log, Verdict, judge, rows};
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually_async, watch};
use outbox_tests::workload::{self, Workload};
use serde_json::Value;
use tokio_postgres::Client;

/// Keeps each row that was ever committed, so that the history can be judged after the rows are gone.
const LEDGER: &str = "
    CREATE TABLE ledger (LIKE outbox.events);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.ledger SELECT NEW.*; RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION note();";

/// Puts what is gone back, for the judge. No relay may run any more.
const RESTORE: &str = "
    DROP TRIGGER note ON outbox.events;
    INSERT INTO outbox.events SELECT l.* FROM ledger l WHERE NOT EXISTS (
        SELECT FROM outbox.events e WHERE e.bucket = l.bucket AND e.seq = l.seq);";

/// Ids of rows that were committed and are gone.
const GONE: &str = "SELECT l.id::text FROM ledger l WHERE NOT EXISTS (
    SELECT FROM outbox.events e WHERE e.bucket = l.bucket AND e.seq = l.seq)";

fn eager(config: RelayConfig) -> RelayConfig {
    config
        .text("cleanup.interval", "200ms")
        .text("state.interval", "100ms")
        .text("state.idle_interval", "200ms")
}

async fn prepare<'a>(postgres: &'a Postgres, kafka: &'a Kafka, name: &str) -> Scene<'a> {
    let scene = Scene::prepare(postgres, kafka, name).await.configured(eager);
    scene.database.batch_execute(LEDGER).await.unwrap();
    scene
}

/// From now on rows are written as they would have been so many days ago.
async fn write_days_ago(client: &Client, days: u32) {
    let bucket =
        format!("((floor(date_part('epoch', clock_timestamp()) / 86400)::bigint - {days}) % 8)::smallint");
    let defaults = format!(
        "ALTER TABLE outbox.events ALTER bucket SET DEFAULT {bucket},
                                   ALTER created_at SET DEFAULT clock_timestamp() - interval '{days} days'"
    );
    client.batch_execute(&defaults).await.unwrap_or_else(|error| panic!("{error:?}"));
}

async fn count(client: &Client, condition: &str) -> i64 {
    let query = format!("SELECT count(*) FROM outbox.events WHERE {condition}");
    client.query_one(&query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn gone(client: &Client) -> Vec<String> {
    let rows = client.query(GONE, &[]).await.unwrap_or_else(|error| panic!("{error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Something is written, so that the log and the relay's position go on.
async fn go_on(client: &Client) {
    client.batch_execute("SELECT pg_logical_emit_message(true, 'test', 'on')").await.unwrap();
}

async fn wait_gone(scene: &Scene<'_>, rows: usize) {
    eventually_async(LIMIT, "the rows to be removed", async || {
        go_on(&scene.database).await;
        (gone(&scene.database).await.len() == rows).then_some(())
    })
    .await;
}

fn kept(status: &Value, reason: &str) -> u64 {
    let all = status["cleanup"]["kept"].as_array().into_iter().flatten();
    all.filter(|kept| kept["reason"] == reason).filter_map(|kept| kept["count"].as_u64()).sum()
}

/// Waits until the clean-up has left rows for this reason, often enough to be no coincidence.
async fn wait_kept(scene: &Scene<'_>, relay: &Relay, reason: &str) {
    eventually_async(LIMIT, reason, async || {
        go_on(&scene.database).await;
        let status = relay.try_status()?;
        (kept(&status, reason) >= 3).then_some(())
    })
    .await;
}

/// Judges everything that was ever committed. The relay has ended.
async fn verdict(client: &Client, log: &mut Log) -> Verdict {
    client.batch_execute(RESTORE).await.unwrap_or_else(|error| panic!("{error:?}"));
    let committed = rows::read(client, outbox_schema::record::DEFAULT_TOPIC_PREFIX).await;
    log.catch_up();
    judge(&committed, log.records())
}

async fn passes(scene: &Scene<'_>, relay: &Relay) {
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let verdict = verdict(&scene.database, &mut scene.log()).await;
    println!("proof: {}: {verdict}", scene.name);
    verdict.assert_pass();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_bucket_is_emptied_while_producers_insert() {
    let servers = cluster::shared();
    let scene = prepare(&servers.postgres, &servers.kafka, "clean_past").await;
    for (days, rows) in [(3, 50), (2, 30), (1, 20)] {
        write_days_ago(&scene.database, days).await;
        scene.insert(rows).await;
    }
    write_days_ago(&scene.database, 0).await;
    let relay = scene.start();
    eventually_async(LIMIT, "the past buckets to be emptied", async || {
        scene.insert(1).await;
        (gone(&scene.database).await.len() == 80).then_some(())
    })
    .await;
    let recent = "created_at > clock_timestamp() - interval '36 hours'";
    assert_eq!(count(&scene.database, "true").await, count(&scene.database, recent).await);
    assert_eq!(
        count(&scene.database, "true").await as u64,
        scene.inserted() - 80,
        "yesterday's and today's stay"
    );
    let status =
        relay.wait_status(LIMIT, "a look at what is left, of which yesterday's is the oldest", |status| {
            let oldest = status["cleanup"]["oldest_row_seconds"].as_u64()?;
            (86_000..170_000).contains(&oldest).then(|| status.clone())
        });
    assert_eq!(status["totals"]["cleaned_rows"], 80);
    assert_eq!(status["totals"]["cleaned_buckets"], 2);
    assert_eq!(status["totals"]["foreign_changes"], 0, "the stream sees nothing of it");
    assert_eq!(
        (&status["cleanup"]["mode"], &status["slot"]["wal_status"]),
        (&"buckets".into(), &"reserved".into())
    );
    assert!(status["cleanup"]["table_bytes"].as_u64() > Some(0), "{}", status["cleanup"]);
    let (_, metrics) = relay.get("/metrics").unwrap();
    assert!(metrics.contains("outbox_relay_cleaned_rows_total{relay=\"clean_past\"} 80"), "{metrics}");
    passes(&scene, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_runs_on_keeps_its_bucket_until_its_rows_are_published() {
    let servers = cluster::shared();
    let scene = prepare(&servers.postgres, &servers.kafka, "clean_open").await;
    write_days_ago(&scene.database, 3).await;
    scene.insert(10).await;
    let open = servers.postgres.connect("clean_open").await;
    let late = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                VALUES ('clean_open', 'late', 'Counted', '{\"n\": 1}')";
    open.batch_execute(&format!("BEGIN; {late}")).await.unwrap();
    let relay = scene.start();
    wait_kept(&scene, &relay, "open").await;
    assert_eq!(count(&scene.database, "true").await, 10);
    open.batch_execute("COMMIT").await.unwrap();
    wait_gone(&scene, 11).await;
    passes(&scene, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_keeps_everything() {
    let kafka = Kafka::start();
    let scene = prepare(&cluster::shared().postgres, &kafka, "clean_away").await;
    let relay = scene.start();
    scene.insert(5).await;
    scene.verdict().await.assert_pass();
    kafka.pause();
    write_days_ago(&scene.database, 3).await;
    scene.insert(20).await;
    eventually_async(LIMIT, "the relay to look and leave the rows", async || {
        go_on(&scene.database).await;
        let status = relay.try_status()?;
        let looks = ["unpublished", "relay", "unrecorded"].map(|reason| kept(&status, reason));
        (looks.iter().sum::<u64>() >= 3).then_some(())
    })
    .await;
    assert_eq!(gone(&scene.database).await.len(), 0);
    kafka.resume();
    wait_gone(&scene, 20).await;
    passes(&scene, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relay_of_the_table_is_waited_for_and_so_is_a_lost_slot() {
    let postgres = Postgres::builder(usual_version())
        .setting("max_slot_wal_keep_size", "48MB")
        .setting("max_wal_size", "32MB")
        .setting("min_wal_size", "32MB")
        .start();
    let scene = prepare(&postgres, &cluster::shared().kafka, "clean_other").await;
    write_days_ago(&scene.database, 3).await;
    scene.insert(10).await;
    let other = "CREATE PUBLICATION outbox_other FOR TABLE outbox.events WITH (publish = 'insert',
                 publish_via_partition_root = true)";
    scene.database.batch_execute(other).await.unwrap();
    let slot = "SELECT lsn::text FROM pg_create_logical_replication_slot('outbox_other', 'pgoutput')";
    scene.text(slot).await;
    let relay = scene.start();
    wait_kept(&scene, &relay, "relay").await;
    let words = relay.status()["cleanup"]["result"].to_string();
    assert!(words.contains("nobody streams from slot outbox_other"), "{words}");

    // Log that only the other slot keeps, until the server gives it up.
    scene.database.batch_execute("CREATE TABLE filler (text text)").await.unwrap();
    eventually_async(LIMIT, "the other slot to be lost", async || {
        let fill = "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i";
        scene.database.batch_execute(fill).await.unwrap();
        scene.database.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        scene.database.batch_execute("CHECKPOINT").await.unwrap();
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'outbox_other'";
        (scene.text(status).await == "lost").then_some(())
    })
    .await;
    relay.wait_status(LIMIT, "a slot that is lost to be waited for", |status| {
        status["cleanup"]["result"].as_str()?.contains("slot outbox_other is lost").then_some(())
    });
    let limit = &relay.status()["slot"]["keep_limit_bytes"];
    assert_eq!(limit, &Value::from(48 << 20));
    assert!(relay.status()["slot"]["safe_wal_bytes"].is_i64());
    assert_eq!(gone(&scene.database).await.len(), 0);
    let forget = "SELECT pg_drop_replication_slot('outbox_other')::text";
    scene.text(forget).await;
    scene.database.batch_execute("DROP PUBLICATION outbox_other").await.unwrap();
    wait_gone(&scene, 10).await;
    passes(&scene, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_leaves_everything_and_an_older_contract_does() {
    let servers = cluster::shared();
    let scene = prepare(&servers.postgres, &servers.kafka, "clean_off").await;
    let scene = scene.configured(|config| config.text("cleanup.mode", "off"));
    write_days_ago(&scene.database, 3).await;
    scene.insert(10).await;
    let relay = scene.start();
    let looks = |relay: &Relay| {
        let looked = relay.status()["cleanup"]["looked_at"].clone();
        let again = |status: &Value| {
            let now = &status["cleanup"]["looked_at"];
            (now.is_string() && *now != looked).then_some(())
        };
        relay.wait_status(LIMIT, "another look", again);
    };
    // The log goes on for longer than it takes elsewhere.
    watch(Duration::from_secs(15), || {
        looks(&relay);
        None::<()>
    });
    assert_eq!(gone(&scene.database).await.len(), 0);
    assert!(relay.status()["cleanup"]["table_bytes"].as_u64() > Some(0));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let scene = scene.configured(|config| config.text("cleanup.mode", "buckets"));
    let older = "DROP FUNCTION outbox.clean_bucket(integer, pg_snapshot, pg_lsn, interval)";
    scene.database.batch_execute(older).await.unwrap();
    let relay = scene.start();
    wait_kept(&scene, &relay, "contract").await;
    assert_eq!(relay.status()["ready"], true, "events go on");
    passes(&scene, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_table_go_in_small_batches() {
    const TABLE: &str = "
        CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
            aggregateid text NOT NULL, type text NOT NULL, payload jsonb, at timestamptz NOT NULL DEFAULT clock_timestamp(),
            w xid8 NOT NULL DEFAULT pg_current_xact_id())";
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, "clean_rows").await;
    servers.kafka.create_topic(&scene.topic(), 3, &[]).await;
    let scene = scene.configured(|config| {
        eager(config)
            .text("outbox.table", "public.outbox")
            .text("outbox.columns.writer", "w")
            .text("outbox.columns.created_at", "at")
            .text("cleanup.mode", "delete")
            .text("cleanup.keep", "1h")
            .raw("cleanup.batch_rows", "10")
    });
    scene.database.batch_execute(TABLE).await.unwrap();
    let said = scene.init(&[]);
    assert!(said.contains("may delete from public.outbox"), "{said}");
    let insert = |rows: u32, more: &str, values: &str| {
        format!(
            "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload {more})
             SELECT 'clean_rows', 'k', 'Made', '{{}}' {values} FROM generate_series(1, {rows})"
        )
    };
    let old = ", clock_timestamp() - interval '2 hours'";
    let relay = scene.start();
    scene.database.batch_execute(&insert(95, ", at", old)).await.unwrap();
    scene.database.batch_execute(&insert(5, "", "")).await.unwrap();
    // Its writer has never been.
    scene.database.batch_execute(&insert(1, ", at, w", &format!("{old}, '90000000000'"))).await.unwrap();
    eventually_async(LIMIT, "the old rows to be removed", async || {
        go_on(&scene.database).await;
        (scene.text("SELECT count(*)::text FROM public.outbox").await == "6").then_some(())
    })
    .await;
    wait_kept(&scene, &relay, "unpublished").await;
    assert_eq!(
        scene.text("SELECT count(*)::text FROM public.outbox").await,
        "6",
        "the young, and the unknown"
    );
    assert_eq!(relay.status()["totals"]["cleaned_rows"], 95);
    assert_eq!(relay.status()["totals"]["foreign_changes"], 0);
    let mut log = scene.log();
    log.catch_up();
    let ids: HashSet<&str> = log.records().iter().filter_map(|record| record.id()).collect();
    assert_eq!(ids.len(), 101, "everything was published");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// A day lasts two seconds: rows go into one past bucket after the other, and come round after ten.
const SHORT_DAYS: &str = "
    ALTER TABLE outbox.events
        ALTER bucket SET DEFAULT ((floor(date_part('epoch', clock_timestamp()) / 86400)::bigint - 2
            - floor(date_part('epoch', clock_timestamp()) / 2)::bigint % 5) % 8)::smallint,
        ALTER created_at SET DEFAULT clock_timestamp() - interval '7 days'";

#[tokio::test(flavor = "multi_thread")]
async fn under_load_and_kills_nothing_goes_that_is_not_published() {
    let servers = cluster::shared();
    let outbox = Outbox::make("clean_kills", &servers.postgres, &servers.kafka).await;
    let client = outbox.connect().await;
    client.batch_execute(&format!("{LEDGER} {SHORT_DAYS}")).await.unwrap();
    // Acknowledgements that take their time leave rows that are committed and not published.
    let config = eager(outbox.config.clone()).text("kafka.linger", "500ms");
    let traffic = workload::Settings { rows_per_second: Some(1_000), largest: 100, ..outbox.traffic() };
    let workload = Workload::start(&outbox.url(), traffic).await;
    let mut log = outbox.log(&servers.kafka);
    let kills = if proving() { 20 } else { 6 };
    let mut removed = 0;
    for kill in 0..kills {
        let relay = Relay::start(&config);
        // In the middle of it: more rows go than had gone at the start.
        relay.wait_status(LIMIT, "rows to be removed", |status| {
            (status["totals"]["cleaned_rows"].as_u64()? > 0).then_some(())
        });
        relay.kill();
        let gone = gone(&client).await;
        log.catch_up();
        let published: HashSet<&str> = log.records().iter().filter_map(|record| record.id()).collect();
        let lost: Vec<&String> = gone.iter().filter(|id| !published.contains(id.as_str())).collect();
        assert!(
            lost.is_empty(),
            "removed and not published at kill {kill}: {} of {}",
            lost.len(),
            gone.len()
        );
        removed = gone.len();
    }
    workload.stop().await;
    let relay = Relay::start(&config);
    let left = outbox.verdict(&mut log, LIMIT).await;
    assert_eq!(left.lost, 0, "{left}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let verdict = verdict(&client, &mut log).await;
    println!("proof: cleaned up under load: kills={kills} removed at the last={removed} {verdict}");
    verdict.assert_pass();
    assert!(removed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_only_refers_to_its_row_keeps_it() {
    let servers = cluster::shared();
    let scene = prepare(&servers.postgres, &servers.kafka, "clean_referred").await;
    let scene = scene.configured(|config| config.text("source.max_row_bytes", "64KiB"));
    write_days_ago(&scene.database, 3).await;
    scene.insert(7).await;
    let large = format!(
        "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
         VALUES ('clean_referred', 'large', 'Made', to_json(repeat('x', {})))",
        100_000
    );
    scene.database.batch_execute(&large).await.unwrap();
    let relay = scene.start();
    wait_kept(&scene, &relay, "quarantine").await;
    assert_eq!(count(&scene.database, "true").await, 8);
    let position = scene.text("SELECT position FROM outbox.quarantine").await;
    let discard = ["quarantine", "discard", &position, "--note", "a test", "--yes"];
    let (status, said) = scene.config.command(&discard);
    assert!(status.success(), "{said}");
    wait_gone(&scene, 8).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    // The event was discarded; everything else is there.
    let mut log = scene.log();
    log.catch_up();
    assert_eq!(log.records().len(), 7);
}
