//! Losses at random points under concurrent writers, with transactions of every kind open across them: 0 missing, ids
//! unchanged. The seed is printed.

use std::time::Duration;

use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene, insert_statement};
use outbox_tests::workload::{self, Workload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use crate::fill::publish;

/// Transactions that began before the loss and end after it, or after the new slot was made.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_were_open_across_the_loss_come_once_whichever_way() {
    let postgres = Postgres::builder(usual_version()).setting("max_prepared_transactions", "4").start();
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "fill_open").await;
    scene.insert(14).await;
    publish(&scene).await;
    let kind = &scene.name;
    // Of a key of its own each, so that late commits do not disorder the others.
    let row = |key: &str, n: u32| {
        format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
             VALUES ('{kind}', '{key}', 'Late', '{{\"n\":{n}}}')"
        )
    };
    let [early, late, saved, copied] = [(); 4].map(|()| postgres.connect(&scene.name));
    let (early, late, saved, copied) = tokio::join!(early, late, saved, copied);
    for (client, key) in [(&early, "early"), (&late, "late"), (&saved, "saved"), (&copied, "copied")] {
        client.batch_execute(&format!("BEGIN; {}", row(key, 1))).await.unwrap();
    }
    let prepared = postgres.connect(&scene.name).await;
    prepared.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", row("prepared", 1))).await.unwrap();
    let aborted = format!(
        "SAVEPOINT a; {}; ROLLBACK TO a; SAVEPOINT b; {}; RELEASE b",
        row("saved", 2),
        row("saved", 2)
    );
    saved.batch_execute(&aborted).await.unwrap();

    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    early.batch_execute("COMMIT").await.unwrap();
    scene.insert(7).await;
    // The new slot waits for those that are open, and says for whom.
    let relay = Relay::start(&scene.config);
    relay.wait_status(LIMIT, "the fill to name what it waits for", |status| {
        let said = status["waiting_for"].as_str()?;
        (said.contains("open transactions") && said.contains("prepared transaction")).then_some(())
    });
    scene.database.batch_execute(&insert_statement(kind, 21, 7)).await.unwrap();
    late.batch_execute("COMMIT").await.unwrap();
    saved.batch_execute("COMMIT").await.unwrap();
    let sink = copied.copy_in("COPY outbox.events (aggregatetype, aggregateid, type, payload) FROM STDIN");
    let mut sink = Box::pin(sink.await.unwrap());
    let copy = format!("{kind}\tcopied\tLate\t{{\"n\":2}}\n{kind}\tcopied\tLate\t{{\"n\":3}}\n");
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(copy)).await.unwrap();
    sink.as_mut().finish().await.unwrap();
    copied.batch_execute("COMMIT").await.unwrap();
    prepared.batch_execute("COMMIT PREPARED 'p'").await.unwrap();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (14 + 7 + 7 + 8, 0), "{verdict}");
    assert_eq!(relay.status()["totals"]["fills"]["slot_gone"], 1);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: open across the loss: {verdict}");
}

/// What somebody does to the slot.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Dropped,
    Advanced,
    MadeAnew,
}

impl Blow {
    async fn strike(self, outbox: &Outbox<'_>, client: &Client) {
        let slot = outbox.slot();
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        let statement = match self {
            Blow::Dropped => drop,
            Blow::Advanced => format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"),
            Blow::MadeAnew => {
                format!("{drop}; SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
            }
        };
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_after_losses_at_random_points_under_writers() {
    let servers = cluster::shared();
    let outbox = Outbox::make("fill_random", &servers.postgres, &servers.kafka).await;
    let config = outbox.config.clone().text("state.interval", "100ms");
    // As often as here it is never filled otherwise.
    let config = config.raw("recovery.max_fills", "16").text("recovery.window", "1s");
    let rounds = if proving() { 200 } else { 20 };
    let traffic = workload::Settings { rows_per_second: Some(400), largest: 200, ..outbox.traffic() };
    let mut random = StdRng::seed_from_u64(traffic.seed);
    let workload = Workload::start(&outbox.url(), traffic).await;
    let client = outbox.connect().await;
    let (mut filled, mut killed, mut exact) = (0, 0, 0);
    for round in 0..rounds {
        let relay = Relay::start(&config);
        relay.wait_status(LIMIT, "the relay to stream", |status| {
            (status["phase"] == "streaming").then_some(())
        });
        filled += relay.status()["totals"]["fills"]
            .as_object()
            .map_or(0, |fills| fills.values().filter_map(serde_json::Value::as_u64).sum::<u64>());
        // Sometimes long enough for a snapshot to be known as published.
        let most = if round % 4 == 0 { 5_000 } else { 800 };
        tokio::time::sleep(Duration::from_millis(random.random_range(50..most))).await;
        exact += u32::from(most > 800);
        if random.random_bool(0.7) {
            relay.kill();
        } else {
            relay.terminate();
        }
        let gone = "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = $1 AND active";
        outbox_tests::wait::eventually_async(LIMIT, "the slot to be let go of", async || {
            client.query_one(gone, &[&outbox.slot()]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
        let blow = [Blow::Dropped, Blow::Advanced, Blow::MadeAnew][random.random_range(0..3)];
        blow.strike(&outbox, &client).await;
        if random.random_bool(0.4) {
            let relay = Relay::start(&config);
            let some = random.random_range(0..400);
            relay.wait_status(LIMIT, "the fill", |status| {
                let records = status["totals"]["records"].as_u64()?;
                let begun = status["phase"] == "filling" && records >= some;
                (begun || status["phase"] == "streaming").then_some(())
            });
            relay.kill();
            killed += 1;
        }
    }
    let relay = Relay::start(&config);
    relay.wait_ready(LIMIT);
    let counts = workload.stop().await;
    let verdict = outbox.verdict(&mut outbox.log(&servers.kafka), Duration::from_secs(120)).await;
    println!("{counts:?}");
    println!("proof: losses={rounds} fills_seen={filled} killed_in_fill={killed} long={exact} {verdict}");
    verdict.assert_pass();
    // Of those that were not killed in their fill; a slot that stands at the end of the log is lost without a gap.
    assert!(filled >= rounds / 5, "{filled} fills of {rounds} losses were seen");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
