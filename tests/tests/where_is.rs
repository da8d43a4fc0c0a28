//! `outbox-relay where`: every answer that an event can have, on the servers that give it.

use outbox_tests::cluster;
use outbox_tests::emitted;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::{eventually, eventually_async};
use serde_json::Value;

/// Runs it with `--json` and expects an exit code.
#[track_caller]
fn answer(scene: &Scene<'_>, line: &str, code: i32) -> Value {
    let text = said(scene, &format!("{line} --json"), code);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn said(scene: &Scene<'_>, line: &str, code: i32) -> String {
    let mut command = vec!["where"];
    command.extend(line.split(' '));
    let (status, text) = scene.config.command(&command);
    assert_eq!(status.code(), Some(code), "{line}\n{text}");
    text
}

async fn newest(scene: &Scene<'_>) -> String {
    scene.text("SELECT id::text FROM outbox.events ORDER BY seq DESC LIMIT 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_absent_waiting_published_or_maybe() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "where_table").await;
    let nowhere = "00000000-0000-4000-8000-000000000009";
    assert!(said(&scene, nowhere, 6).contains("it is not in the table"));
    assert_eq!(answer(&scene, "no-uuid", 6)["table"], Value::Array(Vec::new()));

    // Nothing is remembered yet, and nobody runs.
    scene.insert(1).await;
    let first = newest(&scene).await;
    let found = answer(&scene, &first, 0);
    assert_eq!(found["table"][0]["stand"], "waiting", "{found:#}");
    assert!(said(&scene, &first, 0).contains("not yet published: this relay has published nothing"));

    let relay = scene.start();
    scene.verdict().await.assert_pass();
    let found = eventually(LIMIT, "the event to be known as published", || {
        Some(answer(&scene, &first, 0)).filter(|found| found["table"][0]["stand"] == "published")
    });
    let row = &found["table"][0];
    assert_eq!(row["route"]["topic"], "outbox.event.where_table", "{found:#}");
    assert_eq!(row["route"]["key"], "k0");
    assert!(row["seq"].is_string() && row["writer"].is_string() && row["bucket"].is_string(), "{found:#}");
    let mut log = scene.log();
    log.catch_up();
    let record = log.records()[0].clone();
    assert_eq!(row["route"]["partition"], record.partition);

    // By a look at Kafka: offset and position.
    let found = answer(&scene, &format!("{first} --on-kafka"), 0);
    let copies = found["kafka"]["found"].as_array().unwrap();
    assert_eq!(copies.len(), 1, "{found:#}");
    assert_eq!(copies[0]["offset"], record.offset);
    assert_eq!(copies[0]["position"].as_str(), record.header("position"));
    assert_eq!(
        (&found["kafka"]["complete"], &found["kafka"]["partition"]),
        (&true.into(), &record.partition.into())
    );

    // A relay that is frozen has its lane for a while, and nobody knows what it has sent.
    relay.pause();
    scene.insert(1).await;
    let second = newest(&scene).await;
    let found = answer(&scene, &second, 0);
    assert_eq!(found["table"][0]["stand"], "maybe", "{found:#}");
    assert!(found["table"][0]["sentence"].as_str().unwrap().contains("may be published"), "{found:#}");
    relay.resume();
    eventually(LIMIT, "the second to be known as published", || {
        (answer(&scene, &second, 0)["table"][0]["stand"] == "published").then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // Stopped, and another event after its end.
    scene.insert(1).await;
    let third = newest(&scene).await;
    assert_eq!(answer(&scene, &third, 0)["table"][0]["stand"], "waiting");
    assert!(said(&scene, &third, 0).contains("no relay is running"));
    let looked = said(&scene, &format!("{third} --on-kafka"), 0);
    assert!(looked.contains("on Kafka it is not among"), "{looked}");
    // Cleaned up: only Kafka has it.
    scene.database.batch_execute("TRUNCATE outbox.events").await.unwrap();
    said(&scene, &first, 6);
    let looked = said(&scene, &format!("{first} --on-kafka --topic {}", scene.topic()), 0);
    assert!(looked.contains("on Kafka it is 1 times"), "{looked}");
    let asked = said(&scene, &format!("{first} --on-kafka"), 1);
    assert!(asked.contains("say --topic"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_quarantine_is_told_with_its_reason() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "where_held").await;
    let scene = scene.configured(|config| config.text("kafka.max_record_bytes", "2048"));
    let relay = scene.start();
    for bytes in [3_000, 10] {
        let insert = format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
             VALUES ('where_held', 'k', 'Made', to_json(repeat('x', {bytes})))"
        );
        scene.database.batch_execute(&insert).await.unwrap();
    }
    relay.wait_status(LIMIT, "both to be held", |status| (status["quarantine"]["open"] == 2).then_some(()));
    let head = scene.text("SELECT id::text FROM outbox.events ORDER BY seq LIMIT 1").await;
    let follower = newest(&scene).await;
    let found = answer(&scene, &head, 0);
    assert_eq!(
        (&found["table"][0]["stand"], &found["quarantine"][0]["state"]),
        (&"held".into(), &"held".into())
    );
    assert!(
        found["table"][0]["unpublishable"].as_str().unwrap().contains("kafka.max_record_bytes"),
        "{found:#}"
    );
    let text = said(&scene, &head, 0);
    assert!(
        text.contains("in the quarantine it is held at position 1/") && text.contains("too_large"),
        "{text}"
    );
    assert_eq!(answer(&scene, &follower, 0)["quarantine"][0]["state"], "queued");

    let discard =
        scene.config.command(&["quarantine", "discard", &head, "--note", "a test", "--yes", "--wait"]);
    assert!(discard.0.success(), "{}", discard.1);
    eventually_async(LIMIT, "the follower to be published", async || {
        let states =
            "SELECT string_agg(state, ' ' ORDER BY epoch, commit_lsn, ordinal) FROM outbox.quarantine";
        (scene.text(states).await == "discarded published").then_some(())
    })
    .await;
    assert_eq!(answer(&scene, &head, 0)["table"][0]["stand"], "discarded");
    assert_eq!(answer(&scene, &follower, 0)["table"][0]["stand"], "published");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_messages_quarantine_and_kafka_tell() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "where_messages").await;
    let relay = scene.start();
    let id = scene.text("SELECT outbox.emit('where_messages', 'k', 'T', '{}')::text").await;
    let look = format!("{id} --on-kafka --topic {} --key k", scene.topic());
    eventually(LIMIT, "the event to be found on Kafka", || {
        let mut command = vec!["where"];
        command.extend(look.split(' '));
        scene.config.command(&command).0.success().then_some(())
    });
    let found = answer(&scene, &look, 0);
    assert_eq!(
        (&found["table"], &found["kafka"]["found"][0]["offset"]),
        (&Value::Null, &0.into()),
        "{found:#}"
    );
    assert!(said(&scene, &id, 6).contains("stand in no table"));
    drop(relay);
}
