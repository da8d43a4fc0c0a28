//! Entries of the quarantine that a failover lost although the position had passed their rows (R39): they are made again
//! from the rows, hold their keys as before, and can be released. What was settled before is not missed.

use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::history::Published;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually, eventually_async};

/// An event of a key; `n` is its place among them. With 3,000 bytes it is above the scene's limit of a record.
async fn event(scene: &Scene<'_>, key: &str, n: u32, bytes: usize) {
    let payload = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(bytes));
    let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                  VALUES ($1, $2, 'Made', $3::text::json)";
    scene.database.execute(insert, &[&scene.name, &key, &payload]).await.unwrap();
}

/// `state key` of every entry, in the order of their positions.
async fn wait_entries(scene: &Scene<'_>, wanted: &str) {
    let select = "SELECT coalesce(string_agg(state || ' ' || convert_from(key, 'UTF8'), ', '
                         ORDER BY epoch, commit_lsn, ordinal), '') FROM outbox.quarantine";
    eventually_async(LIMIT, &format!("the entries to be: {wanted}"), async || {
        (scene.text(select).await == wanted).then_some(())
    })
    .await;
}

async fn decide(scene: &Scene<'_>, key: &str, decision: &str) {
    let decide = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, $1, 'by a test')
                    FROM outbox.quarantine WHERE state = 'held' AND key = convert_to($2, 'UTF8')";
    assert_eq!(scene.database.execute(decide, &[&decision, &key]).await.unwrap(), 1);
}

fn wait_published(scene: &Scene<'_>, key: &str, numbers: &[u64]) {
    let number = |record: &Published| {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        value["n"].as_u64().unwrap()
    };
    let mut log = scene.log();
    eventually(LIMIT, &format!("{key} to be published as {numbers:?}"), || {
        log.catch_up();
        let of_key = log.records().iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        (of_key.map(number).collect::<Vec<_>>() == numbers).then_some(())
    });
}

fn listed(scene: &Scene<'_>) -> usize {
    let record = scene.state_record().unwrap_or_default();
    record["quarantined"].as_array().map_or(0, Vec::len)
}

async fn set_id(scene: &Scene<'_>, from: &str, to: &str) {
    let update = format!("UPDATE outbox.events SET id = '{to}' WHERE id = '{from}'");
    scene.database.batch_execute(&update).await.unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_a_failover_lost_is_made_again_from_its_row_and_a_settled_one_is_not() {
    let postgres = Postgres::start(usual_version());
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(&postgres, kafka, "quarantine_lost")
        .await
        .configured(|config| config.text("kafka.max_record_bytes", "2048"));
    let relay = scene.start();
    scene.insert(7).await;
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // Rows that both histories have; what the relay makes of them only the one that is lost.
    for (key, n, bytes) in [("kept", 1, 10), ("kept", 2, 3_000), ("kept", 3, 10), ("given_up", 1, 3_000)] {
        event(&scene, key, n, bytes).await;
    }
    postgres.stop_fast();
    let snapshot = postgres.snapshot();
    postgres.start_again();
    scene.reconnect().await;
    let relay = scene.start();
    wait_entries(&scene, "held kept, queued kept, held given_up").await;
    decide(&scene, "given_up", "discard").await;
    wait_entries(&scene, "held kept, queued kept, discarded given_up").await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    assert_eq!(listed(&scene), 2, "what was settled is off the list");

    postgres.stop_fast();
    postgres.restore(&snapshot);
    postgres.start_promoted().await;
    scene.reconnect().await;
    wait_entries(&scene, "").await;

    // Without its row there is nothing to make it from.
    let id = scene
        .text("SELECT id::text FROM outbox.events WHERE aggregateid = 'kept' AND payload ->> 'n' = '2'")
        .await;
    let other = "0197f3a0-0000-7000-8000-0000000000ff";
    set_id(&scene, &id, other).await;
    let halted = scene.start_halts();
    assert!(halted.contains("no row of the outbox has the id of its event"), "{halted}");
    assert!(halted.contains(&id), "{halted}");
    set_id(&scene, other, &id).await;

    let relay = scene.start();
    wait_entries(&scene, "held kept, queued kept").await;
    let reason =
        scene.text("SELECT cause || ': ' || reason FROM outbox.quarantine WHERE state = 'held'").await;
    assert!(reason.starts_with("too_large: made again from its row in the outbox"), "{reason}");
    assert!(relay.log().contains("made again"), "{}", relay.log());
    event(&scene, "kept", 4, 10).await;
    wait_entries(&scene, "held kept, queued kept, queued kept").await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // It is an entry as any other: a start finds it, and a release publishes it and what waits behind it, in order.
    let relay = Relay::start(&scene.config.clone().text("kafka.max_record_bytes", "1MB"));
    decide(&scene, "kept", "release").await;
    wait_published(&scene, "kept", &[1, 2, 3, 4]);
    wait_entries(&scene, "published kept, published kept, published kept").await;
    let given_up = "DELETE FROM outbox.events WHERE aggregateid = 'given_up'";
    scene.database.batch_execute(given_up).await.unwrap();
    scene.insert(7).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: an entry that a failover lost is made again: {verdict}");
}
