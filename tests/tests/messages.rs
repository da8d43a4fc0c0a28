//! Events that are messages in the log and no rows: published as rows would be, in commit order, nothing of what was
//! rolled back; what cannot be read is put aside, and what a lost slot did not bring is named.

use outbox_tests::cluster;
use outbox_tests::emitted;
use outbox_tests::history::Published;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene, insert_statement};
use outbox_tests::wait::{eventually, eventually_async};
use outbox_tests::workload::{Settings, Workload};

fn records(scene: &Scene<'_>) -> Vec<Published> {
    let mut log = scene.log();
    log.catch_up();
    log.records().to_vec()
}

/// Everything committed is on the log once, and nothing else is.
async fn published_once(scene: &Scene<'_>) {
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(
        (verdict.published, verdict.repeated),
        (verdict.committed, 0),
        "rows are published beside messages: {verdict}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emitted_and_committed_is_published_once_in_commit_order() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_order").await;
    let (status, said) = scene.config.command(&["check"]);
    assert!(status.success() && !said.contains("outbox.events"), "{said}");
    let relay = scene.start();

    scene.insert(40).await;
    let tx = |end: &str| format!("BEGIN; {}; {end}", insert_statement(&scene.name, 40, 10));
    scene.database.batch_execute(&tx("ROLLBACK")).await.unwrap();
    let savepoint = format!(
        "BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
        insert_statement("messages_order", 40, 10),
        insert_statement("messages_order", 40, 3)
    );
    scene.database.batch_execute(&savepoint).await.unwrap();
    // Two emitters of one key: the first to emit is the last to commit.
    let late = servers.postgres.connect(&scene.name).await;
    let emit = |key: &str, n: u32| {
        format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) \
             VALUES ('messages_order', '{key}', 'Counted', '{{\"n\":{n}}}')"
        )
    };
    late.batch_execute(&format!("BEGIN; {}", emit("shared", 2))).await.unwrap();
    scene.database.batch_execute(&emit("shared", 1)).await.unwrap();
    late.batch_execute("COMMIT").await.unwrap();
    scene.database.batch_execute(&emit("shared", 3)).await.unwrap();
    published_once(&scene).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let relay = scene.start();
    scene.database.batch_execute(&emit("shared", 4)).await.unwrap();
    published_once(&scene).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producers_bytes_and_the_headers_of_a_row_arrive() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_bytes").await;
    let relay = scene.start();
    let payloads = [
        " {\"b\" :1.50,  \"a\":[ ], \"a\": \"\\u0000\\ud800 \\\\\"}\n",
        "null",
        "\"größe 😀\"",
        "  123456789012345678901234567890 ",
    ];
    let mut ids = Vec::new();
    for payload in payloads {
        let emit = "SELECT outbox.emit('messages_bytes', E'o-\"1\\\\', 'Made', $1::text::json, headers => '{\"tenant\": \"eu\", \
                    \"n\": 1.50}', version => 7, schema_version => 3, partition_key => 'p-1',
                    traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')::text";
        ids.push(scene.database.query_one(emit, &[&payload]).await.unwrap().get::<_, String>(0));
    }
    let tombstone = scene.text("SELECT outbox.emit('messages_bytes', 'o-2', 'Erased', NULL)::text").await;
    let v4 = "00000000-0000-4000-8000-000000000001";
    scene
        .text(&format!("SELECT outbox.emit('messages_bytes', 'o-2', 'Old', '{{}}', id => '{v4}')::text"))
        .await;
    let found = eventually(LIMIT, "six records", || Some(records(&scene)).filter(|found| found.len() >= 6));
    for (id, payload) in ids.iter().zip(payloads) {
        let record = found.iter().find(|record| record.id() == Some(id)).unwrap();
        assert_eq!(record.value.as_deref().map(String::from_utf8_lossy).as_deref(), Some(payload));
        assert_eq!(record.key.as_deref(), Some(b"p-1".as_slice()));
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["id", "type", "position", "version", "schema_version", "traceparent", "n", "tenant"];
        assert_eq!(names, expected, "in the order of a row's");
        assert_eq!((record.header("n"), record.header("version")), (Some("1.50"), Some("7")));
    }
    let erased = found.iter().find(|record| record.id() == Some(&tombstone)).unwrap();
    assert_eq!((erased.key.as_deref(), &erased.value), (Some(b"o-2".as_slice()), &None));
    let old = found.iter().find(|record| record.id() == Some(v4)).unwrap();
    assert!(old.header("created_at").is_some_and(|at| at.len() == 27 && at.ends_with('Z')), "{old:?}");

    // Who may not insert may not emit, and what could not be published is refused where it is made.
    let refused = scene.database.batch_execute("SELECT outbox.emit('ä', 'k', 't', '{}')").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!((refused.code().code(), refused.column()), ("22023", Some("aggregatetype")));
    let role = servers
        .postgres
        .connect_as("relay_messages_bytes", "secret of the relay", "messages_bytes")
        .await
        .unwrap();
    let forbidden = role.batch_execute("SELECT outbox.emit('a', 'k', 't', '{}')").await.unwrap_err();
    assert_eq!(forbidden.code().unwrap().code(), "42501");
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_transactional_is_no_event() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_loose").await;
    let relay = scene.start();
    let loose = "SELECT pg_logical_emit_message(false, 'outbox.event', '{\"id\":\"x\",\"aggregatetype\":\"messages_loose\",
                 \"aggregateid\":\"k\",\"type\":\"T\",\"payload\":1}')::text";
    scene.database.batch_execute(&format!("BEGIN; {loose}; ROLLBACK; {loose}")).await.unwrap();
    // Another's prefix is another's concern.
    scene.text("SELECT pg_logical_emit_message(true, 'somebody', 'hello')::text").await;
    scene.insert(5).await;
    published_once(&scene).await;
    relay.wait_status(LIMIT, "both to be counted", |status| {
        (status["totals"]["refused_messages"] == 2).then_some(())
    });
    assert_eq!(relay.log().matches("is not transactional").count(), 1, "{}", relay.log());
    assert_eq!(records(&scene).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_while_the_relay_is_killed() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_killed").await;
    let traffic = Settings {
        aggregate_types: vec![scene.name.clone()],
        largest: 100,
        rows_per_second: Some(1_500),
        ..Settings::default()
    };
    println!("seed {}", traffic.seed);
    let workload = Workload::start(&servers.postgres.url(&scene.name), traffic).await;
    for kill in 0..4 {
        let relay = scene.start();
        // Some of them are not recorded yet, most likely.
        relay.wait_status(LIMIT, "records", |status| {
            (status["totals"]["records"].as_u64() > Some(1_000 + 200 * kill)).then_some(())
        });
        relay.kill();
    }
    workload.stop().await;
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert!(verdict.repeated > 0, "the kills cost something: {verdict}");
    println!("{verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// States of the quarantine, in the order of the stream.
async fn states(scene: &Scene<'_>) -> String {
    let all = "SELECT coalesce(string_agg(state, ' ' ORDER BY epoch, commit_lsn, ordinal), '') FROM outbox.quarantine";
    scene.text(all).await
}

async fn wait_states(scene: &Scene<'_>, wanted: &str) {
    eventually_async(LIMIT, &format!("the quarantine to be {wanted:?}"), async || {
        (states(scene).await == wanted).then_some(())
    })
    .await;
}

async fn decide(scene: &Scene<'_>, decision: &str, state: &str) {
    let decide = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, $1, 'by a test')
                    FROM outbox.quarantine WHERE state = $2 ORDER BY epoch, commit_lsn, ordinal LIMIT 1";
    assert_eq!(scene.database.execute(decide, &[&decision, &state]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_put_aside_and_holds_its_key_where_it_has_one() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_broken").await;
    let relay = scene.start();
    let emit = |content: &str| {
        format!("SELECT pg_logical_emit_message(true, 'outbox.event', $x${content}$x$)::text")
    };
    scene.text(&emit("no JSON at all")).await;
    wait_states(&scene, "passed").await;
    let kept = "SELECT convert_from(row_values[1], 'UTF8') || ' / ' || cause || ' / ' || reason FROM outbox.quarantine";
    assert_eq!(
        scene.text(kept).await,
        "no JSON at all / undecodable / the message is no event: its content is not a JSON object"
    );
    // What lacks its id has a key, and what follows waits for it.
    scene
        .text(&emit(r#"{"aggregatetype":"messages_broken","aggregateid":"k","type":"T","payload":{"n":1}}"#))
        .await;
    wait_states(&scene, "passed held").await;
    let follower = scene.text("SELECT outbox.emit('messages_broken', 'k', 'T', '{}')::text").await;
    let other = scene.text("SELECT outbox.emit('messages_broken', 'other', 'T', '{}')::text").await;
    wait_states(&scene, "passed held queued").await;
    let ids = |records: &[Published]| -> Vec<String> {
        records.iter().filter_map(|record| record.id().map(str::to_owned)).collect()
    };
    eventually(LIMIT, "another key to be published", || {
        (ids(&records(&scene)) == [other.clone()]).then_some(())
    });

    // Restarted in between, all is as it was; what is released and still no event is kept.
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let relay = scene.start();
    decide(&scene, "release", "passed").await;
    let tried = "SELECT count(*)::text FROM outbox.quarantine
                  WHERE state IN ('passed', 'held') AND decided_at IS NULL AND note IS NOT NULL";
    eventually_async(LIMIT, "the release to come to nothing", async || {
        (scene.text(tried).await == "1").then_some(())
    })
    .await;
    assert_eq!(scene.config.command(&["quarantine", "list"]).0.code(), Some(0));
    let still = "SELECT count(*)::text FROM outbox.quarantine WHERE state IN ('passed', 'held')";
    assert_eq!(scene.text(still).await, "2");
    decide(&scene, "discard", "held").await;
    eventually_async(LIMIT, "both to be discarded", async || {
        let open = scene.text(still).await;
        if open != "0" {
            let again =
                "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, 'discard', 'by a test')
                           FROM outbox.quarantine WHERE state IN ('passed', 'held') LIMIT 1";
            scene.database.execute(again, &[]).await.unwrap();
        }
        (open == "0" && states(&scene).await == "discarded discarded published").then_some(())
    })
    .await;
    eventually(LIMIT, "the follower to be published", || {
        let found = ids(&records(&scene));
        (found.len() == 2 && found.contains(&follower) && found.contains(&other)).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_slot_halts_with_the_range_that_is_gone() {
    let servers = cluster::shared();
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_lost").await;
    let relay = scene.start();
    scene.insert(20).await;
    published_once(&scene).await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let position = scene.state_record().unwrap()["position"].as_str().unwrap().to_owned();
    scene.text(&format!("SELECT pg_drop_replication_slot('{}')::text", scene.slot())).await;
    scene.insert(5).await;
    let (status, plan) = scene.config.command(&["plan"]);
    let log = scene.start_halts();
    for said in [&plan, &log] {
        for part in [&format!("in the log from {position} to "), "is in no table", "--existing=skip"] {
            assert!(said.contains(part), "`{part}` is missing in\n{said}");
        }
        assert!(!said.contains("--existing=publish"), "{said}");
    }
    assert_eq!(status.code(), Some(3), "{plan}");

    // Told to, it begins anew with what is emitted from then on.
    let (status, said) = scene.config.command(&["forget", "--yes"]);
    assert!(status.success(), "{said}");
    let relay = Relay::start(&scene.config.clone().argument("--existing=skip"));
    relay.wait_status(LIMIT, "the relay to stream", |status| (status["phase"] == "streaming").then_some(()));
    let id = scene.text("SELECT outbox.emit('messages_lost', 'after', 'T', '{}')::text").await;
    eventually(LIMIT, "an event after the loss", || {
        records(&scene).iter().any(|record| record.id() == Some(&id)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_rows_does_not_become_one_of_messages() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "messages_switched").await;
    scene.insert(3).await;
    let scene = scene.configured(|config| config.text("outbox.from", "messages"));
    let log = scene.start_halts();
    assert!(log.contains("publication outbox_messages_switched holds outbox.events"), "{log}");
    let (status, said) = scene.try_init(&[]);
    assert!(!status.success() && said.contains("choose another name"), "{said}");
    let (status, said) = scene.config.command(&["check"]);
    assert!(!status.success() && said.contains("holds tables"), "{said}");

    // And back: nothing is asked of the messages.
    let scene = emitted::scene(&servers.postgres, &servers.kafka, "messages_back").await;
    let scene = scene.configured(|config| config.text("outbox.from", "table"));
    let log = scene.start_halts();
    assert!(log.contains("does not contain the outbox table"), "{log}");
}
