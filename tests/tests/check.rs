//! `outbox-relay check` and `outbox-relay plan`, run as an operator runs them: each broken thing has its finding and
//! its command, and looking changes nothing.

use std::collections::BTreeSet;
use std::net::TcpListener;

use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::quarantine::Entry;
use outbox_tests::relay::RelayConfig;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

/// What there is to say of every set-up here: one broker, and a server as it is installed.
const USUAL: [&str; 2] = ["topic-unreplicated", "wal-keep-unlimited"];

/// One run of `check --json`.
struct Report {
    code: Option<i32>,
    document: Value,
}

impl Report {
    #[track_caller]
    fn of(config: &RelayConfig) -> Report {
        let (status, text) = config.command(&["check", "--json"]);
        let document =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status}\n{text}"));
        Report { code: status.code(), document }
    }

    fn findings(&self) -> &Vec<Value> {
        self.document["findings"].as_array().expect("findings")
    }

    /// The codes of errors and warnings, without the usual ones.
    fn codes(&self) -> Vec<&str> {
        let wrong = self.findings().iter().filter(|f| f["severity"] == "error" || f["severity"] == "warning");
        let codes: BTreeSet<&str> = wrong.map(|finding| finding["code"].as_str().unwrap()).collect();
        codes.into_iter().filter(|code| !USUAL.contains(code)).collect()
    }

    /// The finding of a code; of a subject, where there are several.
    #[track_caller]
    fn finding(&self, code: &str) -> &Value {
        let found = self.findings().iter().find(|finding| finding["code"] == code);
        found.unwrap_or_else(|| panic!("no finding {code} in {:#}", self.document))
    }

    /// Every warning and error says what to do, with a command.
    #[track_caller]
    fn assert_helpful(&self) {
        for finding in self.findings() {
            if finding["severity"] == "error" || finding["severity"] == "warning" {
                assert!(finding["do"].is_string() && finding["command"].is_string(), "{finding:#}");
            }
        }
    }
}

/// Rows of other kinds than the scene's.
async fn insert(scene: &Scene<'_>, kind: &str, rows: u32, key: &str) {
    let statement = format!(
        "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
         SELECT '{kind}', {key}, 'Made', '{{}}' FROM generate_series(1, {rows}) i"
    );
    scene.database.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_set_up_has_no_error_with_and_without_a_running_relay() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_sound").await;
    scene.insert(300).await;
    let slots = "SELECT coalesce(string_agg(slot_name || confirmed_flush_lsn::text, ' '), '') FROM pg_replication_slots
                  WHERE slot_name LIKE '%check_sound%'";
    let before = scene.text(slots).await;
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes().len()), (Some(0), 0), "{:#}", report.document);
    report.assert_helpful();
    assert_eq!(report.document["relay"], "check_sound");
    assert!(report.finding("start")["seen"].as_str().unwrap().starts_with("would begin at the slot"));
    assert_eq!(scene.text(slots).await, before, "checking makes and moves no slot");

    let relay = scene.start();
    scene.verdict().await.assert_pass();
    let owner = relay.status();
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes().len()), (Some(0), 0), "{:#}", report.document);
    assert!(report.finding("slot")["seen"].as_str().unwrap().starts_with("read by process"));
    assert!(report.finding("start")["seen"].as_str().unwrap().starts_with("goes on from"));
    assert!(report.finding("state-record")["seen"].as_str().unwrap().starts_with("streaming, epoch 1"));
    assert!(report.finding("topic")["seen"].as_str().unwrap().contains("keys are spread over 3"));
    // The relay has noticed nothing.
    scene.insert(10).await;
    scene.verdict().await.assert_pass();
    let status = relay.status();
    assert_eq!(
        (&status["phase"], &status["totals"]["reconnects"], &status["epoch"]),
        (&Value::from("streaming"), &owner["totals"]["reconnects"], &Value::from(1))
    );
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let (status, text) = scene.config.command(&["check"]);
    assert_eq!(status.code(), Some(0), "{text}");
    for part in [
        "\nPostgreSQL\n",
        "\nTopics\n",
        "  ok ",
        "  warning ",
        "ALTER SYSTEM SET max_slot_wal_keep_size",
        "The relay can run;",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours are for terminals");
    let (status, _) = scene.config.command(&["check", "--strict"]);
    assert_eq!(status.code(), Some(1), "--strict lets warnings fail");
    let (status, text) = scene.config.clone().raw("kafka.brokers", "5").command(&["check"]);
    assert_eq!(status.code(), Some(64), "{text}");
    let (status, text) = scene.config.command(&["check", "--what"]);
    assert_eq!(status.code(), Some(2), "{text}");
    println!("proof: check of a sound set-up: {}", report.document["summary"]);
}

/// The publication as `init` makes it.
const WHOLE: &str = "ALTER PUBLICATION outbox_check_broken SET TABLE outbox.events (id, aggregatetype, aggregateid, \
    type, schema_version, version, partition_key, headers, traceparent, payload, created_at)";

/// What breaks a sound set-up, what mends it, the codes of its findings, and a part of the first one's command.
const BROKEN: &[(&str, &str, &[&str], &str)] = &[
    (
        "ALTER ROLE relay_check_broken NOREPLICATION",
        "ALTER ROLE relay_check_broken REPLICATION",
        &["replication-right"],
        "ALTER ROLE \"relay_check_broken\" REPLICATION;",
    ),
    (
        "REVOKE SELECT ON outbox.events FROM outbox_relay",
        "GRANT SELECT ON outbox.events TO outbox_relay",
        &["table-read"],
        "GRANT SELECT ON \"outbox\".\"events\"",
    ),
    (
        "REVOKE UPDATE ON outbox.quarantine FROM outbox_relay",
        "GRANT UPDATE ON outbox.quarantine TO outbox_relay",
        &["quarantine-rights"],
        "UPDATE ON outbox.quarantine",
    ),
    (
        "REVOKE USAGE ON SCHEMA outbox FROM outbox_producer",
        "GRANT USAGE ON SCHEMA outbox TO outbox_producer",
        &["producers-locked-out"],
        "GRANT USAGE ON SCHEMA outbox TO outbox_producer;",
    ),
    (
        "ALTER TABLE outbox.events_3 SET UNLOGGED",
        "ALTER TABLE outbox.events_3 SET LOGGED",
        &["table-unlogged"],
        "SET LOGGED",
    ),
    (
        "ALTER TABLE outbox.events RENAME COLUMN traceparent TO trace",
        "ALTER TABLE outbox.events RENAME COLUMN trace TO traceparent",
        &["columns-missing", "publication-columns"],
        "outbox.columns.",
    ),
    (
        "ALTER PUBLICATION outbox_check_broken SET (publish = 'delete')",
        "ALTER PUBLICATION outbox_check_broken SET (publish = 'insert')",
        &["publication-inserts"],
        "SET (publish = 'insert');",
    ),
    (
        "ALTER PUBLICATION outbox_check_broken SET TABLE outbox.events (id, payload)",
        WHOLE,
        &["publication-columns"],
        "SET TABLE \"outbox\".\"events\" (\"id\", \"aggregatetype\"",
    ),
    (
        "ALTER PUBLICATION outbox_check_broken SET TABLE outbox.events WHERE (type <> 'x')",
        WHOLE,
        &["publication-filter"],
        "SET TABLE",
    ),
    (
        "ALTER PUBLICATION outbox_check_broken DROP TABLE outbox.events",
        WHOLE,
        &["publication-table"],
        "ADD TABLE",
    ),
    (
        "DROP PUBLICATION outbox_check_broken",
        "CREATE PUBLICATION outbox_check_broken WITH (publish = 'insert', publish_via_partition_root = true)",
        &["publication-missing"],
        "outbox-relay init --admin-url",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_thing_in_the_database_has_its_finding_and_its_command() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_broken").await;
    scene.insert(10).await;
    for (breaks, mends, codes, command) in BROKEN {
        scene.database.batch_execute(breaks).await.unwrap_or_else(|error| panic!("{breaks}: {error:?}"));
        let report = Report::of(&scene.config);
        assert_eq!(report.codes(), *codes, "{breaks}: {:#}", report.document);
        let finding = report.finding(codes[0]);
        assert!(finding["command"].as_str().unwrap().contains(command), "{finding:#}");
        let fails = finding["severity"] == "error";
        assert_eq!(report.code, Some(i32::from(fails)), "{breaks}");
        scene.database.batch_execute(mends).await.unwrap_or_else(|error| panic!("{mends}: {error:?}"));
        println!("proof: check after `{breaks}`: {}: {}", finding["code"], finding["command"]);
    }
    scene.database.batch_execute(WHOLE).await.unwrap();
    assert_eq!(Report::of(&scene.config).code, Some(0), "everything is mended");

    Entry::held("check_broken", 0x100, 0).insert(&scene.database).await;
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes()), (Some(0), vec!["quarantine-open"]), "{:#}", report.document);
    scene.text("SELECT pg_drop_replication_slot('outbox_check_broken')::text").await;
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes()), (Some(1), vec!["quarantine-open", "slot-missing"]));
    assert_eq!(report.finding("slot-missing")["command"], "outbox-relay run --existing=publish");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_that_would_cost_events_has_its_finding() {
    let servers = cluster::shared();
    let (name, kafka) = ("check_topics", &servers.kafka);
    let scene = Scene::prepare(&servers.postgres, kafka, name).await;
    let scene = scene.configured(|config| config.text("state.topic", "state.check_topics"));
    kafka.create_topic("state.check_topics", 1, &[("cleanup.policy", "delete")]).await;
    // An aggregate type for each setting.
    let cases = [
        ("small", "max.message.bytes", "1000", "topic-record-limit", "max.message.bytes="),
        ("short", "retention.ms", "3600000", "topic-retention-short", "retention.ms="),
        ("insync", "min.insync.replicas", "2", "topic-insync-impossible", "min.insync.replicas="),
        ("unclean", "unclean.leader.election.enable", "true", "topic-unclean-election", "=false"),
        ("ahead", "message.timestamp.after.max.ms", "1000", "topic-time-after", "after.max.ms=3600000"),
        ("compacted", "cleanup.policy", "compact", "topic-compacted", "cleanup.policy=delete"),
    ];
    for (kind, setting, value, ..) in cases {
        let topic = format!("outbox.event.{name}.{kind}");
        kafka.create_topic(&topic, 3, &[(setting, value)]).await;
        insert(&scene, &format!("{name}.{kind}"), 1, "'k'").await;
    }
    insert(&scene, &format!("{name}.nowhere"), 1, "'k'").await;
    let report = Report::of(&scene.config);
    assert_eq!(report.code, Some(1), "{:#}", report.document);
    report.assert_helpful();
    for (kind, .., code, command) in cases {
        let topic = format!("outbox.event.{name}.{kind}");
        let of_topic: Vec<&Value> = report
            .findings()
            .iter()
            .filter(|f| {
                f["subject"] == topic.as_str() && f["severity"] != "ok" && f["code"] != "topic-unreplicated"
            })
            .collect();
        assert_eq!(of_topic.len(), 1, "{of_topic:#?}");
        assert_eq!(of_topic[0]["code"], code);
        let said = of_topic[0]["command"].as_str().unwrap();
        assert!(said.contains(command) && said.contains(&topic) && said.contains(&kafka.brokers()), "{said}");
    }
    let missing = report.finding("topic-missing");
    assert_eq!(missing["subject"], format!("outbox.event.{name}.nowhere"));
    assert_eq!(missing["command"], "outbox-relay topics create outbox.event.check_topics.nowhere");
    let state = report.finding("state-topic-not-compacted");
    assert!(state["command"].as_str().unwrap().ends_with("cleanup.policy=compact"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_the_events_id_and_a_row_that_is_too_large_are_noticed() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_keys").await;
    insert(&scene, "check_keys", 300, "gen_random_uuid()::text").await;
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes()), (Some(0), vec!["keys-unique"]), "{:#}", report.document);
    assert!(
        report.finding("keys-unique")["seen"]
            .as_str()
            .unwrap()
            .contains("300 different keys in the newest 300 rows")
    );

    insert(&scene, "check_keys", 700, "'one'").await;
    let config = scene.config.clone().raw("kafka.max_record_bytes", "2000");
    let report = Report::of(&config);
    assert_eq!(report.codes(), ["payload-large"], "{:#}", report.document);
    assert_eq!(report.finding("keys-dominated")["severity"], "note");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_side_is_silent_the_other_is_still_looked_at() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_half").await;
    scene.insert(3).await;
    // Bound and never accepted from: a server that is silent; nothing listens on the other.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = |port: u16| format!("postgres://relay_check_half@127.0.0.1:{port}/check_half");

    let config = scene.config.clone().text("source.url", &url(closed.port()));
    let report = Report::of(&config);
    assert_eq!(
        (report.code, report.codes()),
        (Some(1), vec!["postgres-unreachable"]),
        "{:#}",
        report.document
    );
    assert_eq!(report.finding("kafka")["severity"], "ok", "Kafka was looked at");
    let config = scene.config.clone().text("source.url", &url(silent.local_addr().unwrap().port()));
    let report = Report::of(&config.text("source.connect_timeout", "1s"));
    assert_eq!(report.codes(), ["postgres-unreachable"]);
    let config = scene.config.clone().text("source.password", "wrong");
    let report = Report::of(&config);
    assert_eq!(report.codes(), ["postgres-unreachable"]);
    assert!(report.finding("postgres-unreachable")["do"].as_str().unwrap().contains("password"));

    let config = scene.config.clone().text("kafka.brokers", &closed.to_string());
    let report = Report::of(&config);
    assert_eq!((report.code, report.codes()), (Some(1), vec!["kafka-unreachable"]), "{:#}", report.document);
    let seen = report.finding("kafka-unreachable")["seen"].as_str().unwrap();
    assert!(seen.contains("Connection refused"), "{seen}");
    for code in ["server", "publication", "keys", "slot"] {
        assert_eq!(report.finding(code)["severity"], "ok", "PostgreSQL was looked at: {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_replicate_is_told_all_at_once() {
    let postgres = Postgres::builder(usual_version())
        .setting("wal_level", "replica")
        .setting("max_slot_wal_keep_size", "64MB")
        .setting("max_prepared_transactions", "5")
        .start();
    let scene = Scene::bare(&postgres, &cluster::shared().kafka, "check_server").await;
    scene
        .database
        .batch_execute(
            "CREATE ROLE relay_check_server LOGIN PASSWORD 'secret of the relay';
             CREATE TABLE t (i int)",
        )
        .await
        .unwrap();
    scene
        .database
        .batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'forgotten'")
        .await
        .unwrap();
    scene.database.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    scene.database.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually_async(LIMIT, "the setting to be taken over", async || {
        (scene.text("SELECT current_setting('synchronous_standby_names')").await == "*").then_some(())
    })
    .await;
    let report = Report::of(&scene.config);
    assert_eq!(report.code, Some(1));
    let expected = [
        "prepared-transaction",
        "publication-missing",
        "quarantine-missing",
        "relay-group",
        "replication-right",
        "slot-missing",
        "synchronous-standby",
        "table-missing",
        "wal-keep-small",
        "wal-level",
    ];
    assert_eq!(report.codes(), expected, "{:#}", report.document);
    report.assert_helpful();
    for (code, command) in [
        ("wal-level", "ALTER SYSTEM SET wal_level = 'logical';"),
        ("prepared-transaction", "ROLLBACK PREPARED 'forgotten';"),
        ("table-missing", "outbox-relay init --admin-url"),
    ] {
        let said = report.finding(code)["command"].as_str().unwrap();
        assert!(said.contains(command), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_makes_no_topic_even_where_brokers_would() {
    let kafka = Kafka::builder().auto_create_topics().start();
    let scene = Scene::bare(&cluster::shared().postgres, &kafka, "check_makes").await;
    scene.init(&[]);
    scene.insert(3).await;
    let report = Report::of(&scene.config);
    assert_eq!((report.code, report.codes()), (Some(1), vec!["auto-create-topics", "topic-missing"]));
    let plan = scene.config.command(&["plan"]);
    assert_eq!(plan.0.code(), Some(0), "{}", plan.1);
    assert_eq!(kafka.topics(), [""; 0], "a look has made a topic");
}

/// One run of `plan --json`.
#[track_caller]
fn plan(scene: &Scene<'_>, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = vec!["plan", "--json"];
    command.extend(arguments);
    let (status, text) = scene.config.command(&command);
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status}\n{text}"));
    (status.code(), document)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_the_start_then_does() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_plan").await;
    let scene = scene.configured(crate::slots::halting);
    scene.insert(10).await;
    let (code, fresh) = plan(&scene, &[]);
    assert_eq!(
        (code, &fresh["decision"], &fresh["would"]),
        (Some(0), &"begin".into(), &"run".into()),
        "{fresh:#}"
    );
    assert_eq!(fresh["position"], scene.confirmed().await.as_str());

    let relay = scene.start();
    scene.verdict().await.assert_pass();
    let (code, running) = plan(&scene, &[]);
    assert_eq!((code, &running["would"]), (Some(5), &"wait".into()), "{running:#}");
    assert!(running["owner"].as_str().unwrap().starts_with("process "), "{running:#}");
    assert_eq!(running["decision"], "continue");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    scene.insert(5).await;
    let (code, stopped) = plan(&scene, &[]);
    assert_eq!(
        (code, &stopped["decision"], &stopped["owner"]),
        (Some(0), &"continue".into(), &Value::Null),
        "{stopped:#}"
    );
    assert!(stopped["unpublished_bytes"].as_u64().unwrap() > 0, "{stopped:#}");
    let (status, text) = scene.config.command(&["plan"]);
    assert!(status.success() && text.starts_with("A start would go on"), "{text}");

    let slot = scene.slot();
    scene
        .text(&format!(
            "SELECT end_lsn::text FROM pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"
        ))
        .await;
    let (code, ahead) = plan(&scene, &[]);
    assert_eq!((code, &ahead["would"]), (Some(3), &"halt".into()), "{ahead:#}");
    assert!(ahead["sentence"].as_str().unwrap().contains("ahead of the state record"), "{ahead:#}");
    assert_eq!(Report::of(&scene.config).codes(), ["slot-ahead"]);

    scene.text(&format!("SELECT pg_drop_replication_slot('{slot}')::text")).await;
    let (code, gone) = plan(&scene, &[]);
    assert_eq!((code, &gone["decision"]), (Some(3), &"halt".into()), "{gone:#}");
    let sentence = gone["sentence"].as_str().unwrap().strip_prefix("halt: the replication slot is gone");
    assert!(sentence.is_some(), "{gone:#}");
    assert_eq!(Report::of(&scene.config).codes(), ["slot-gone"]);
    // The start agrees, and planning has made no slot.
    assert!(scene.start_halts().contains("the replication slot is gone"));

    let (status, text) = scene.config.command(&["forget", "--yes"]);
    assert!(status.success(), "{text}");
    let (code, refused) = plan(&scene, &[]);
    assert_eq!(code, Some(3), "{refused:#}");
    let (code, fill) = plan(&scene, &["--existing", "publish"]);
    assert_eq!((code, &fill["decision"], &fill["rows"]), (Some(0), &"fill".into(), &15.into()), "{fill:#}");
    let (code, skip) = plan(&scene, &["--existing", "skip"]);
    assert_eq!((code, &skip["decision"]), (Some(0), &"make-slot".into()), "{skip:#}");
    println!("proof: plan: {} / {} / {}", stopped["sentence"], ahead["sentence"], fill["sentence"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_keys_by_rule_are_looked_at_as_the_relay_makes_them() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "check_rules").await;
    let config =
        scene.config.clone().text("route.topic", "ruled.{aggregatetype}").text("route.key", "{type}");
    insert(&scene, "check_rules", 200, "'k' || i").await;
    let report = Report::of(&config);
    assert_eq!(report.finding("topic-missing")["subject"], "ruled.check_rules");
    assert_eq!(report.finding("keys-dominated")["subject"], "route.key");
    servers.kafka.create_topic("ruled.check_rules", 3, &[]).await;
    let report = Report::of(&config);
    assert!(!report.codes().contains(&"topic-missing"), "{:#}", report.document);
    assert_eq!(report.code, Some(0), "{:#}", report.document);
}
