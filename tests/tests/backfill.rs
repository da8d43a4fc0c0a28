//! Events that are published again on demand: the same ids, in the order of their insertion, at one place in the stream,
//! whatever happens to the relay meanwhile.

use outbox_tests::cluster;
use outbox_tests::history::Published;
use outbox_tests::scene::{KEYS, LIMIT, Scene};
use outbox_tests::wait::eventually;
use serde_json::Value;

fn records(scene: &Scene<'_>) -> Vec<Published> {
    let mut log = scene.log();
    log.catch_up();
    log.records().to_vec()
}

/// Positions of all copies of an event, in the order of the log.
fn positions(records: &[Published], id: &str) -> Vec<String> {
    let copies = records.iter().filter(|record| record.id() == Some(id));
    copies.map(|record| record.header("position").unwrap().to_owned()).collect()
}

/// Ids by a query, in the order of `seq`.
async fn ids(scene: &Scene<'_>, condition: &str) -> Vec<String> {
    let select = format!("SELECT id::text FROM outbox.events WHERE {condition} ORDER BY seq");
    scene.database.query(&select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Ids of the records behind the first `skip`, of one key, in the order of their partition.
fn again(records: &[Published], wanted: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut copies = Vec::new();
    for record in records {
        let id = record.id().unwrap().to_owned();
        if !seen.insert(id.clone()) && wanted.contains(&id) {
            copies.push(id);
        }
    }
    copies
}

fn backfill(scene: &Scene<'_>, line: &str, code: i32) -> String {
    let mut command = vec!["backfill"];
    command.extend(line.split(' '));
    let (status, text) = scene.config.command(&command);
    assert_eq!(status.code(), Some(code), "{line}\n{text}");
    text
}

fn report(scene: &Scene<'_>, line: &str, code: i32) -> Value {
    let text = backfill(scene, &format!("{line} --json"), code);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_events_come_again_under_their_ids_in_order() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "backfill_key")
        .await
        .configured(|config| config.raw("outbox.backfill", "true"));
    scene.insert(10 * KEYS).await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();

    let by_key = "--key k1 --aggregatetype backfill_key";
    let looked = report(&scene, &format!("{by_key} --dry-run"), 0);
    assert_eq!((&looked["events"], &looked["told"]), (&Value::from(10), &Value::from(0)), "{looked}");
    assert_eq!(records(&scene).len() as u64, 10 * KEYS, "a dry run does nothing");

    let done = report(&scene, by_key, 0);
    assert_eq!((&done["told"], &done["confirmed"]), (&Value::from(10), &Value::from(true)), "{done}");
    // Confirmed means that it is on the log.
    let wanted = ids(&scene, "aggregateid = 'k1'").await;
    let found = records(&scene);
    assert_eq!(again(&found, &wanted), wanted, "in the order of seq");
    assert_eq!(found.len() as u64, 10 * KEYS + 10, "and nothing else");
    for record in found.iter().rev().take(10).filter(|record| record.key.as_deref() == Some(b"k1")) {
        let copies: Vec<&Published> = found.iter().filter(|other| other.id() == record.id()).collect();
        let [first, second] = copies[..] else { panic!("{copies:?}") };
        assert_eq!((&first.value, first.partition), (&second.value, second.partition));
        let rest = |record: &Published| -> Vec<(String, Vec<u8>)> {
            record.headers.iter().filter(|(name, _)| name != "position").cloned().collect()
        };
        assert_eq!(rest(first), rest(second), "the same but for the position");
        assert!(first.header("position") < second.header("position"));
    }

    let one = ids(&scene, "aggregateid = 'k3'").await[4].clone();
    let other = ids(&scene, "aggregateid = 'k5'").await[0].clone();
    backfill(&scene, &format!("--id {one} --id {other}"), 0);
    let found = records(&scene);
    assert_eq!((positions(&found, &one).len(), positions(&found, &other).len()), (2, 2));
    let nothing = backfill(&scene, "--id 00000000-0000-4000-8000-000000000009", 0);
    assert!(nothing.contains("no event of the table is meant"), "{nothing}");
    let wrong = backfill(&scene, "--id x", 1);
    assert!(wrong.contains("an id that was given cannot be one of"), "{wrong}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_paced_asked_about_and_survives_the_relays_death() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "backfill_killed")
        .await
        .configured(|config| config.raw("outbox.backfill", "true"));
    scene.insert(1_200).await;
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    let from = "--from 2020-01-01T00:00:00Z";
    let asked = backfill(&scene, from, 1);
    assert!(asked.contains("1200 events are to be published again") && asked.contains("--yes"), "{asked}");
    assert_eq!(records(&scene).len(), 1_200, "nobody agreed");

    // Told while no relay runs: it stands in the log, and the next one publishes it.
    relay.kill();
    let last = ids(&scene, "true").await[999].clone();
    let after = scene.text(&format!("SELECT seq::text FROM outbox.events WHERE id = '{last}'")).await;
    let told = report(&scene, &format!("{from} --after {after} --rate 2000 --no-wait"), 0);
    assert_eq!((&told["told"], &told["confirmed"]), (&Value::from(200), &Value::from(false)), "{told}");

    let relay = scene.start();
    let began = std::time::Instant::now();
    let whole = std::thread::scope(|threads| {
        let run = threads.spawn(|| report(&scene, &format!("{from} --yes --rate 600"), 0));
        let records = |status: &Value| status["totals"]["records"].as_u64();
        relay.wait_status(LIMIT, "the relay to be amid it", |status| {
            (records(status) > Some(400)).then_some(())
        });
        relay.kill();
        let relay = scene.start();
        let whole = run.join().unwrap();
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
        whole
    });
    assert!(began.elapsed().as_secs_f64() >= 1_190.0 / 600.0, "paced: {:?}", began.elapsed());
    assert_eq!((&whole["told"], &whole["confirmed"]), (&Value::from(1_200), &Value::from(true)), "{whole}");
    let found = records(&scene);
    let all = ids(&scene, "true").await;
    for id in &all {
        assert!(positions(&found, id).len() >= 2, "{id} came again");
    }
    for id in &all[1_000..] {
        assert!(positions(&found, id).len() >= 3, "{id} came with both");
    }
    // Each key's new positions are in the order of seq.
    for key in 0..KEYS {
        let key = format!("k{key}");
        let order = ids(&scene, &format!("aggregateid = '{key}'")).await;
        let newest: Vec<String> =
            order.iter().map(|id| positions(&found, id).into_iter().max().unwrap()).collect();
        assert!(newest.is_sorted(), "{key}: {newest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "backfill_refused").await;
    let of_messages = scene.config.clone().text("outbox.from", "messages");
    scene.insert(1).await;
    let closed = backfill(&scene, "--from 2020-01-01T00:00:00Z", 1);
    assert!(closed.contains("outbox.backfill is false"), "{closed}");
    let scene = scene.configured(|config| config.raw("outbox.backfill", "true"));
    scene.insert(3).await;
    let silent = backfill(&scene, "--from 2020-01-01T00:00:00Z", 1);
    assert!(silent.contains("no relay backfill_refused is streaming"), "{silent}");
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    let gone = backfill(&scene, "--from 2020-01-01T00:00:00Z", 1);
    assert!(gone.contains("there is no slot outbox_backfill_refused"), "{gone}");
    scene.database.batch_execute("REVOKE SELECT ON outbox.events FROM outbox_relay").await.unwrap();
    let forbidden = backfill(&scene, "--from 2020-01-01T00:00:00Z", 1);
    assert!(forbidden.contains("role relay_backfill_refused may not read"), "{forbidden}");
    let (status, messages) = of_messages.command(&["backfill", "--id", "x"]);
    assert_eq!(status.code(), Some(1), "{messages}");
    assert!(messages.contains("events stand in no table"), "{messages}");
    let scene = scene.configured(|config| config.text("source.max_row_bytes", "64KiB"));
    scene.database.batch_execute("GRANT SELECT ON outbox.events TO outbox_relay").await.unwrap();
    let make = format!(
        "SELECT slot_name::text FROM pg_create_logical_replication_slot('{}', 'pgoutput')",
        scene.slot()
    );
    scene.text(&make).await;
    let large = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                 VALUES ('large', 'k', 'Made', to_json(repeat('x', 100000)))";
    scene.database.batch_execute(large).await.unwrap();
    let large = backfill(&scene, "--key k --aggregatetype large --no-wait", 1);
    assert!(large.contains("source.max_row_bytes allows 65536"), "{large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_takes_what_comes_again_behind_it() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "backfill_held")
        .await
        .configured(|config| config.raw("outbox.backfill", "true"));
    let scene = scene.configured(|config| config.text("kafka.max_record_bytes", "2048"));
    let insert = |bytes: usize| {
        format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
             VALUES ('backfill_held', 'k', 'Made', to_json(repeat('x', {bytes})))"
        )
    };
    let relay = scene.start();
    scene.database.batch_execute(&format!("{}; {}", insert(10), insert(3_000))).await.unwrap();
    relay.wait_status(LIMIT, "the key to be held", |status| {
        (status["quarantine"]["held_keys"] == 1).then_some(())
    });
    let first = ids(&scene, "length(payload::text) < 100").await[0].clone();
    backfill(&scene, &format!("--id {first}"), 0);
    let states = "SELECT string_agg(state, ' ' ORDER BY epoch, commit_lsn, ordinal) FROM outbox.quarantine";
    assert_eq!(scene.text(states).await, "held queued");
    eventually(LIMIT, "one copy only", || (positions(&records(&scene), &first).len() == 1).then_some(()));
}
