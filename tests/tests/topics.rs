//! Topics: made as configured, too small in retention, growing under a running relay, and the command.

use outbox_relay::pgoutput::Message;
use outbox_relay::router::command::{Command, Do};
use outbox_relay::router::partition;
use outbox_tests::cluster::{self, Kafka};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene};
use outbox_tests::wait::eventually;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap()
}

/// Partitions and replicas of a topic.
fn layout(kafka: &Kafka, topic: &str) -> (usize, usize) {
    let admin = admin(kafka);
    let metadata = admin.inner().fetch_metadata(Some(topic), LIMIT).unwrap();
    let partitions = metadata.topics()[0].partitions();
    (partitions.len(), partitions[0].replicas().len())
}

/// The value of a topic's configuration.
async fn configured(kafka: &Kafka, topic: &str, name: &str) -> String {
    let admin = admin(kafka);
    let described = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await;
    let resource = described.unwrap().remove(0).unwrap();
    resource.get(name).unwrap().value.clone().unwrap()
}

/// Waits until the relay says that it waits for something with `part` in its sentence.
#[track_caller]
fn waits_for(relay: &Relay, part: &str) -> String {
    relay.wait_status(LIMIT, part, |status| {
        status["waiting_for"].as_str().filter(|text| text.contains(part)).map(str::to_owned)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_made_as_configured_and_one_broker_gives_one_replica() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let scene = Scene::bare(&servers.postgres, kafka, "topics_made").await.configured(|config| {
        config
            .raw("topics.create", "true")
            .raw("topics.partitions", "5")
            .text("topics.retention", "1h")
            .text("topics.options.\"cleanup.policy\"", "compact,delete")
    });
    scene.init(&[]);
    scene.insert(35).await;
    assert!(!kafka.topics().contains(&scene.topic()));
    let relay = scene.start();
    eventually(LIMIT, "the topic", || kafka.topics().contains(&scene.topic()).then_some(()));
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (35, 0), "{verdict}");
    assert_eq!(layout(kafka, &scene.topic()), (5, 1));
    for (name, value) in
        [("min.insync.replicas", "1"), ("retention.ms", "3600000"), ("cleanup.policy", "compact,delete")]
    {
        assert_eq!(configured(kafka, &scene.topic(), name).await, value, "{name}");
    }
    let log = relay.log();
    let said =
        log.lines().find(|line| line.contains("instead of 3 and 2")).unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains(&scene.topic()) && said.contains("1 broker"), "{said}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_the_cluster_cannot_give_are_waited_for_with_a_sentence() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let mut scene = Scene::bare(&servers.postgres, kafka, "topics_replicas")
        .await
        .configured(|config| config.raw("topics.create", "true").raw("topics.replication", "3"));
    scene.init(&[]);
    scene.insert(7).await;
    let relay = scene.start();
    let waiting = waits_for(&relay, "topics.replication = 3");
    assert!(waiting.contains(&scene.topic()), "{waiting}");
    assert!(!kafka.topics().contains(&scene.topic()), "nothing lesser was made");
    let log = relay.log();
    assert_eq!(log.matches("topics.replication = 3").count(), 1, "said once\n{log}");
    relay.kill();
    // What the brokers do not take is said, too.
    let option = "topics.options.\"retention.mss\"";
    scene.config = scene.config.clone().raw("topics.replication", "1").text(option, "5");
    let relay = scene.start();
    waits_for(&relay, "topics.options holds what the brokers do not take");
    // Made by hand meanwhile, it is taken as it is.
    kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: {waiting}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_older_than_the_topics_retention_halts_and_nothing_is_published() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let scene = Scene::bare(&servers.postgres, kafka, "topics_old").await;
    kafka.create_topic(&scene.topic(), PARTITIONS, &[("retention.ms", "1")]).await;
    scene.init(&[]);
    scene.insert(7).await;
    for attempt in 1..=2 {
        let log = scene.start_halts();
        let halted = log.lines().find(|line| line.contains("halted: ")).unwrap_or_default();
        for part in [scene.topic().as_str(), "(retention.ms=1)", "old by its commit time", "LogAppendTime"] {
            assert!(halted.contains(part), "attempt {attempt}: `{part}` is missing in\n{log}");
        }
        let mut records = scene.log();
        records.catch_up();
        assert_eq!(records.records().len(), 0, "attempt {attempt}");
        println!("proof: {halted}");
    }
    let topic = scene.topic();
    let mended = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", "3600000");
    admin(kafka).alter_configs([&mended], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (7, 0), "{verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_is_noticed_by_a_running_relay_and_a_switch_is_a_message_in_its_stream() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let scene = Scene::prepare(&servers.postgres, kafka, "topics_grown")
        .await
        .configured(|config| config.text("topics.look_interval", "200ms"));
    let relay = scene.start();
    scene.insert(7).await;
    scene.verdict().await.assert_pass();
    assert_eq!(relay.status()["topics"]["grown"], serde_json::json!([]));

    let topic = scene.topic();
    let grown = admin(kafka).create_partitions(&[NewPartitions::new(&topic, 8)], &AdminOptions::new()).await;
    grown.unwrap().remove(0).unwrap();
    let seen = relay.wait_status(LIMIT, "growth", |status| {
        status["topics"]["grown"].as_array().filter(|grown| !grown.is_empty()).cloned()
    });
    assert_eq!(seen, [serde_json::json!({"topic": topic, "pinned": PARTITIONS, "found": 8})]);
    let (_, metrics) = relay.get("/metrics").unwrap();
    assert!(metrics.contains("outbox_relay_topics_grown{relay=\"topics_grown\"} 1\n"), "{metrics}");
    let log = relay.log();
    assert_eq!(log.matches("the topic has grown").count(), 1, "said once\n{log}");

    let (status, said) = scene.config.command(&["topics", "list", "--json"]);
    assert!(status.success(), "{said}");
    let list: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let listed = &list["topics"][0];
    let found = (&listed["topic"], &listed["pinned"], &listed["found"], &listed["note"]);
    let expected =
        (&Value::from(topic.clone()), &Value::from(PARTITIONS), &Value::from(8), &Value::from("has grown"));
    assert_eq!(found, expected, "{said}");
    assert_eq!(listed["min_insync_replicas"], 1, "{said}");
    let (_, table) = scene.config.command(&["topics", "list"]);
    assert!(table.contains("has grown") && table.contains("1048588"), "{table}");

    switch_is_explained_refused_and_told(&scene, relay).await;
}

/// Only explained without `--yes`; what does not fit is refused; with it the order is in the stream.
async fn switch_is_explained_refused_and_told(scene: &Scene<'_>, relay: Relay) {
    let topic = scene.topic();
    let switch = |more: &[&str]| scene.config.command(&[&["topics", "switch", &topic], more].concat());
    let (status, said) = switch(&[]);
    assert!(status.success() && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("spread over 3 partitions; --yes spreads them over 8"), "{said}");
    for (arguments, part) in [
        (["--partitions", "9", "--yes"], "has 8 partitions, not 9"),
        (["--partitions", "2", "--yes"], "never over fewer"),
    ] {
        let (status, said) = switch(&arguments);
        assert!(status.code() == Some(1) && said.contains(part), "{said}");
    }
    let (status, said) = switch(&["--partitions", "3", "--yes"]);
    assert!(status.success() && said.contains("already"), "{said}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let probe = "SELECT pg_create_logical_replication_slot('topics_grown_probe', 'pgoutput')::text";
    scene.text(probe).await;
    let (status, said) = switch(&["--yes", "--timeout", "1"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("no relay topics_grown is running"), "{said}");
    let changes = "SELECT data FROM pg_logical_slot_get_binary_changes('topics_grown_probe', NULL, NULL,
        'proto_version', '1', 'publication_names', 'outbox_topics_grown', 'messages', 'true')";
    let rows = scene.database.query(changes, &[]).await.unwrap();
    let told: Vec<Do> = rows
        .iter()
        .filter_map(|row| match Message::parse(row.get(0)).unwrap() {
            Message::Logical(message) => {
                assert!(message.transactional);
                Command::read(message.prefix, message.content, "topics_grown", 0)
            }
            _ => None,
        })
        .collect();
    let partitions = 8.try_into().unwrap();
    assert_eq!(told, [Do::Switch { topic, partitions }], "the refused ones told nothing");
    scene.database.batch_execute("SELECT pg_drop_replication_slot('topics_grown_probe')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_ahead_of_time_by_the_command() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let scene = Scene::bare(&servers.postgres, kafka, "topics_ahead")
        .await
        .configured(|config| config.text("topics.options.\"max.message.bytes\"", "20000"));
    let other = format!("{}.other", scene.topic());
    kafka.create_topic(&other, 2, &[]).await;
    let create = || scene.config.command(&["topics", "create", &scene.topic(), &other]);
    let (status, said) = create();
    assert!(status.success(), "{said}");
    assert!(said.contains(&format!("{}: made, 12 partitions, 1 replicas", scene.topic())), "{said}");
    assert!(said.contains(&format!("{other}: exists, 2 partitions")), "{said}");
    assert_eq!(layout(kafka, &scene.topic()), (12, 1));
    assert_eq!(configured(kafka, &scene.topic(), "max.message.bytes").await, "20000");
    let (status, said) = create();
    assert!(
        status.success() && said.contains(&format!("{}: exists, 12 partitions", scene.topic())),
        "{said}"
    );
    // Differs from the other in `.` and `_` only: Kafka takes no such topic.
    let (status, said) = scene.config.command(&["topics", "create", &other.replace(".other", "_other")]);
    assert!(status.code() == Some(1) && said.contains("`.` and `_`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_that_make_the_same_topic_do_not_mind() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let first = Scene::bare(&servers.postgres, kafka, "topics_race_one").await;
    let second = Scene::bare(&servers.postgres, kafka, "topics_race_two").await;
    let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                  SELECT 'topics_race', 'k' || i, 'Raced', '{}' FROM generate_series(1, 20) i";
    let mut relays = Vec::new();
    for scene in [&first, &second] {
        scene.init(&[]);
        scene.database.batch_execute(insert).await.unwrap();
    }
    for scene in [&first, &second] {
        relays.push(Relay::start(&scene.config.clone().raw("topics.create", "true")));
    }
    for relay in &relays {
        let published = |status: &Value| (status["totals"]["records"] == 20).then_some(());
        relay.wait_status(LIMIT, "all records", published);
        assert_eq!(relay.status()["topics"]["grown"], serde_json::json!([]));
    }
    assert_eq!(layout(kafka, "outbox.event.topics_race"), (12, 1));
    for relay in relays {
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_moves_the_keys_between_two_transactions_and_only_then() {
    let servers = cluster::shared();
    let kafka = &servers.kafka;
    let scene = Scene::prepare(&servers.postgres, kafka, "topics_switched")
        .await
        .configured(|config| config.text("topics.look_interval", "200ms"));
    let relay = scene.start();
    scene.insert(70).await;
    scene.verdict().await.assert_pass();
    let topic = scene.topic();
    let grown = admin(kafka).create_partitions(&[NewPartitions::new(&topic, 8)], &AdminOptions::new()).await;
    grown.unwrap().remove(0).unwrap();
    relay.wait_status(LIMIT, "growth", |status| (status["topics"]["grown"][0]["found"] == 8).then_some(()));
    // Grown, and not followed.
    scene.insert(70).await;
    scene.verdict().await.assert_pass();

    let (status, said) = scene.config.command(&["topics", "switch", &topic, "--yes"]);
    assert!(status.success() && said.contains("spread over 8 partitions"), "{said}");
    assert_eq!(relay.status()["topics"]["grown"], serde_json::json!([]));
    scene.insert(70).await;
    let mut log = scene.log();
    eventually(LIMIT, "all events", || {
        log.catch_up();
        (log.records().len() >= 210).then_some(())
    });
    // Every key: in order, the first 140 rows on its partition of 3, the others on its partition of 8.
    let mut next: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut records = log.records().to_vec();
    records.sort_by_key(|record| {
        let position = record.header("position").unwrap();
        let (transaction, ordinal) = position.rsplit_once('/').unwrap();
        (transaction.to_owned(), ordinal.parse::<u64>().unwrap())
    });
    for record in &records {
        let key = record.key.clone().unwrap();
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let n = value["n"].as_u64().unwrap();
        let expected = next.entry(key.clone()).or_insert(1);
        assert_eq!(n, *expected, "each once, in order: {:?}", record.header("position"));
        *expected += 1;
        let count = NonZeroU32::new(if n <= 20 { PARTITIONS as u32 } else { 8 }).unwrap();
        assert_eq!(record.partition, partition(&key, count), "n = {n}");
    }
    assert!(records.iter().any(|record| record.partition >= PARTITIONS as i32), "some key moved");

    // The pin outlives the relay, and the order, which the next session may read again, changes nothing.
    relay.kill();
    let relay = scene.start();
    scene.insert(70).await;
    eventually(LIMIT, "all events", || {
        log.catch_up();
        let last = log.records().iter().filter(|record| {
            let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            value["n"] == 40
        });
        (last.count() >= 7).then_some(())
    });
    let (_, said) = scene.config.command(&["topics", "list", "--json"]);
    let list: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(list["topics"][0]["pinned"], 8, "{said}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
