//! `delivery.guarantee = "exactly_once"`: whoever reads committed records sees each event once, in order and its
//! PostgreSQL transaction as a whole, through kills of relay and broker, a frozen relay, refusals and halts.

use std::collections::{BTreeMap, HashMap, HashSet};

use outbox_tests::cluster::{self, Kafka};
use outbox_tests::history::log::Isolation;
use outbox_tests::history::{Log, Published, Verdict, settled_verdict};
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene, insert_statement};
use outbox_tests::wait::{eventually, eventually_async};
use outbox_tests::workload::{self, Workload};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tokio_postgres::Client;

/// A Kafka transaction that nobody ends by time alone within a test.
const LONG: &str = "10s";

async fn scene<'a>(name: &str) -> Scene<'a> {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
    scene.configured(|config| config.text("delivery.guarantee", "exactly_once"))
}

fn log_of(scene: &Scene<'_>, isolation: Isolation) -> Log {
    Log::open(&scene.kafka.brokers(), &[&scene.topic()], isolation)
}

/// What a careful reader has seen when everything is there.
async fn seen(scene: &Scene<'_>) -> Verdict {
    settled_verdict(&scene.database, &mut log_of(scene, Isolation::ReadCommitted), LIMIT).await
}

#[track_caller]
fn assert_once(verdict: &Verdict) {
    verdict.assert_pass();
    assert_eq!((verdict.repeated, verdict.ragged), (0, 0), "seen more than once: {verdict}");
}

/// The topic's first event, with which its partition count is recorded at once: what follows waits for the time.
async fn pinned(scene: &Scene<'_>, relay: &Relay) {
    scene.insert(1).await;
    relay.wait_status(LIMIT, "the first event to be committed", |status| {
        (number(status, "/delivery/committed_records") == 1).then_some(())
    });
}

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Rows by the transaction that wrote them.
async fn transactions(client: &Client) -> HashMap<String, Vec<String>> {
    let select = "SELECT writer::text, array_agg(id::text) FROM outbox.events GROUP BY writer";
    let rows = client.query(select, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The transactions of which a part is to be seen.
async fn seen_in_part(client: &Client, log: &mut Log) -> Vec<String> {
    log.catch_up();
    // Asked behind it: what was seen is committed.
    let written = transactions(client).await;
    let ids: HashSet<&str> = log.records().iter().filter_map(Published::id).collect();
    let in_part = |rows: &Vec<String>| {
        let count = rows.iter().filter(|id| ids.contains(id.as_str())).count();
        count != 0 && count != rows.len()
    };
    written.iter().filter(|(_, rows)| in_part(rows)).map(|(writer, _)| writer.clone()).collect()
}

/// The moment of a kill.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Records(u64),
    InFlight(u64),
    Committed(u64),
}

impl Moment {
    fn draw(random: &mut StdRng) -> Moment {
        match random.random_range(0..3) {
            0 => Moment::Records(random.random_range(1..3_000)),
            1 => Moment::InFlight(random.random_range(1..100)),
            _ => Moment::Committed(random.random_range(2..8)),
        }
    }

    fn has_come(self, status: &Value) -> bool {
        match self {
            Moment::Records(count) => number(status, "/totals/records") >= count,
            Moment::InFlight(count) => number(status, "/in_flight/records") >= count,
            Moment::Committed(count) => {
                number(status, "/delivery/transactions_committed") >= count
                    && number(status, "/in_flight/records") > 0
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_seen_once_and_in_order_through_kills_of_relay_and_broker() {
    // One broker at a time is killed: a single one, killed within a commit, may lose the markers (KAFKA-20734).
    let kafka = Kafka::builder().brokers(3).start();
    let outbox = Outbox::make("exactly_once", &cluster::shared().postgres, &kafka).await;
    let config = outbox.config.clone().text("delivery.guarantee", "exactly_once");
    let topics = outbox.topics();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let traffic = workload::Settings { rows_per_second: Some(2_000), ..outbox.traffic() };
    println!("seed {}", traffic.seed);
    let mut random = StdRng::seed_from_u64(traffic.seed);
    let client = outbox.connect().await;
    let workload = Workload::start(&outbox.url(), traffic).await;
    let mut committed = Log::open(&kafka.brokers(), &topics, Isolation::ReadCommitted);
    let mut all = outbox.log(&kafka);
    let kills = if proving() { 100 } else { 10 };
    let mut brokers = 0;
    let mut relay = Relay::start(&config);
    for kill in 0..kills {
        let moment = Moment::draw(&mut random);
        let what = format!("{moment:?}, the moment of kill {kill}");
        relay.wait_status(2 * LIMIT, &what, |status| moment.has_come(status).then_some(()));
        if kill % 5 == 3 {
            // The relay goes on by itself.
            kafka.restart_one(brokers % kafka.count());
            brokers += 1;
            let records = number(&relay.status(), "/totals/records");
            relay.wait_status(2 * LIMIT, "records after the broker's kill", |status| {
                (number(status, "/totals/records") > records).then_some(())
            });
            continue;
        }
        relay.kill();
        // Nobody publishes now. What was being committed may need a moment until every partition shows it.
        eventually_async(LIMIT, "no transaction to be seen in part", async || {
            let in_part = seen_in_part(&client, &mut committed).await;
            in_part.is_empty().then_some(())
        })
        .await;
        relay = Relay::start(&config);
    }
    let counts = workload.stop().await;
    let verdict = settled_verdict(&client, &mut committed, 2 * LIMIT).await;
    all.catch_up();
    let written = all.records().len();
    let visible = committed.records().len();
    println!("{counts:?}");
    println!("proof: kills={kills} brokers={brokers} written={written} seen={visible} {verdict}");
    assert_once(&verdict);
    assert!(written > visible, "no kill left anything unfinished: this could not have failed");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // What a drain leaves is nothing to repeat.
    for _ in 0..3 {
        let workload = Workload::start(&outbox.url(), outbox.traffic()).await;
        let relay = Relay::start(&config);
        relay.wait_status(LIMIT, "records", |status| (number(status, "/totals/records") > 200).then_some(()));
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
        workload.stop().await;
    }
    let relay = Relay::start(&config);
    let verdict = settled_verdict(&client, &mut committed, 2 * LIMIT).await;
    assert_once(&verdict);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_that_is_taken_over_and_thaws_adds_nothing() {
    let scene = scene("exactly_frozen").await;
    // The first one's Kafka transaction is open when it is frozen.
    let first = Relay::start(&scene.config.clone().text("delivery.commit_interval", LONG));
    let settings = workload::Settings {
        connections: 3,
        aggregate_types: vec![scene.name.clone()],
        rows_per_second: Some(1_500),
        ..workload::Settings::default()
    };
    let workload = Workload::start(&scene.postgres.url(&scene.name), settings).await;
    first.wait_status(LIMIT, "records", |status| (number(status, "/totals/records") > 1_000).then_some(()));
    let second = Relay::start(&scene.config);
    second.wait_status(LIMIT, "standby", |status| (status["phase"] == "standby").then_some(()));
    // Handed over is not written: what a frozen relay had only in its queue is no record of an open transaction.
    let mut all = log_of(&scene, Isolation::ReadUncommitted);
    eventually(LIMIT, "records of the open transaction", || {
        all.catch_up();
        (!all.records().is_empty()).then_some(())
    });
    first.pause();
    let published = |more: u64| {
        let before = number(&second.status(), "/totals/records");
        second.wait_status(LIMIT, "more records", |status| {
            (number(status, "/totals/records") >= before + more).then_some(())
        });
    };
    published(2_000);
    first.resume();
    first.wait_status(LIMIT, "standby", |status| (status["phase"] == "standby").then_some(()));
    published(2_000);
    assert_eq!(second.status()["phase"], "streaming");
    workload.stop().await;
    let verdict = seen(&scene).await;
    all.catch_up();
    println!("proof: frozen, written={} {verdict}", all.records().len());
    assert_once(&verdict);
    assert!(all.records().len() as u64 > verdict.published, "the frozen one had written nothing");
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_on_the_state_topic_is_named_and_can_be_aborted() {
    // Of its own: other relays' records are behind it as well.
    let topic = "state.exactly_hanging";
    let scene = scene("exactly_hanging").await.configured(|config| config.text("state.topic", topic));
    let relay = scene.start();
    pinned(&scene, &relay).await;
    relay.kill();
    // Nobody ends it but the operator: the relay's fence is for its own transactional id.
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", scene.kafka.brokers())
        .set("transactional.id", "exactly_hanging_other")
        .set("transaction.timeout.ms", "900000")
        .create()
        .unwrap();
    other.init_transactions(LIMIT).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to(topic).key("nobody's").payload("").partition(0)).unwrap();
    other.flush(LIMIT).unwrap();
    scene.insert(9).await;

    let relay = Relay::start(&scene.config);
    let (written, decided) = relay.wait_status(LIMIT, "the open transaction to be named", |status| {
        let said = status["waiting_for"].as_str().filter(|_| status["phase"] == "recovering")?;
        let (_, rest) = said.split_once(&format!("partition 0 of the state topic {topic}"))?;
        let numbers: Vec<u64> =
            rest.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        numbers.first().copied().zip(numbers.get(1).copied())
    });
    assert!(written > decided, "nothing is undecided: {decided} of {written}");
    let (status, shown) = scene
        .kafka
        .tool("TransactionsCommand", &["describe-producers", "--topic", topic, "--partition", "0"]);
    let mut begins = shown.lines().filter_map(|line| line.split_whitespace().last());
    assert!(status.success() && begins.any(|begin| begin == decided.to_string()), "{shown}");
    assert_eq!(relay.status()["ready"], false, "{}", relay.status());

    // What the runbook says.
    let begun = decided.to_string();
    let abort = ["abort", "--topic", topic, "--partition", "0", "--start-offset", &begun];
    let (status, said) = scene.kafka.tool("TransactionsCommand", &abort);
    assert!(status.success(), "{said}");
    let verdict = seen(&scene).await;
    assert_once(&verdict);
    assert_eq!(verdict.published, 10);
    assert_eq!(relay.status()["waiting_for"], Value::Null, "{}", relay.status());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

async fn limit_of(kafka: &Kafka, topic: &str, bytes: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    admin.alter_configs([&change], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
}

async fn event(scene: &Scene<'_>, key: &str, n: u32, text: &str) {
    let payload = format!("{{\"n\":{n},\"x\":\"{text}\"}}");
    let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                  VALUES ($1, $2, 'Made', $3::text::json)";
    scene.database.execute(insert, &[&scene.name, &key, &payload]).await.unwrap();
}

/// How often each event of a key was seen, by its number.
fn times(log: &Log, key: &str) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for record in log.records().iter().filter(|record| record.key.as_deref() == Some(key.as_bytes())) {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        *times.entry(value["n"].as_u64().unwrap()).or_default() += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_is_put_aside_and_everything_else_is_there_once() {
    // Only the broker can refuse: the relay does not look at the topic's limit again.
    let scene = scene("exactly_refused").await.configured(|config| config.text("topics.look_interval", "1h"));
    let relay = scene.start();
    event(&scene, "warm", 1, "x").await;
    relay.wait_status(LIMIT, "a record", |status| (number(status, "/totals/records") == 1).then_some(()));
    limit_of(scene.kafka, &scene.topic(), "2048").await;
    let large: String =
        StdRng::seed_from_u64(1).sample_iter(Alphanumeric).take(6_000).map(char::from).collect();
    for n in 1..=30 {
        event(&scene, "small", n, "x").await;
        if n == 15 {
            event(&scene, "large", 1, &large).await;
            event(&scene, "large", 2, "x").await;
        }
    }
    let entries = "SELECT count(*) FROM outbox.quarantine WHERE convert_from(key, 'UTF8') = 'large'";
    eventually_async(LIMIT, "the large one and the one behind it to be put aside", async || {
        (scene.database.query_one(entries, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    let mut log = log_of(&scene, Isolation::ReadCommitted);
    eventually(LIMIT, "everything else", || {
        log.catch_up();
        (times(&log, "small").len() == 30).then_some(())
    });
    assert!(times(&log, "small").values().all(|times| *times == 1), "{:?}", times(&log, "small"));
    assert_eq!(times(&log, "large"), BTreeMap::new());

    // Released, it is published once, and what waited for it behind it; also where the relay is killed while it is.
    limit_of(scene.kafka, &scene.topic(), "1048588").await;
    let decide = "SELECT outbox.decide(relay, lane, epoch, commit_lsn, ordinal, 'release', 'mended')
                    FROM outbox.quarantine WHERE state = 'held'";
    assert_eq!(scene.database.execute(decide, &[]).await.unwrap(), 1);
    let mut all = log_of(&scene, Isolation::ReadUncommitted);
    eventually(LIMIT, "the released event to be written", || {
        all.catch_up();
        (times(&all, "large").contains_key(&2)).then_some(())
    });
    relay.kill();
    let relay = scene.start();
    let open = "SELECT count(*) FROM outbox.quarantine WHERE settled_at IS NULL";
    eventually_async(LIMIT, "nothing to be held any more", async || {
        (scene.database.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    event(&scene, "large", 3, "x").await;
    eventually(LIMIT, "all events of the key", || {
        log.catch_up();
        (times(&log, "large").len() == 3).then_some(())
    });
    assert_eq!(times(&log, "large"), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert_once(&seen(&scene).await);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_waited_for_hides_nothing_that_came_before_its_event() {
    let scene = scene("exactly_waits").await;
    let scene = scene.configured(|config| config.text("delivery.commit_interval", LONG));
    let relay = scene.start();
    pinned(&scene, &relay).await;
    scene.insert(9).await;
    let missing = format!("{}_later", scene.name);
    let both = format!(
        "BEGIN; {}; INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
                   VALUES ('{missing}', 'k', 'Made', '{{\"n\":1}}'); COMMIT",
        insert_statement(&scene.name, 70, 3).replace("'k' ||", "'later' ||")
    );
    scene.database.batch_execute(&both).await.unwrap();
    relay.wait_status(LIMIT, "the missing topic", |status| {
        status["waiting_for"].as_str().is_some_and(|text| text.contains(&missing)).then_some(())
    });
    let mut log = log_of(&scene, Isolation::ReadCommitted);
    eventually(LIMIT, "what came before", || {
        log.catch_up();
        (log.records().len() == 10).then_some(())
    });
    // Again and again: of the transaction that waits nothing is to be seen.
    let waited = number(&relay.status(), "/totals/reconnects");
    relay.wait_status(LIMIT, "it to give up and wait anew", |status| {
        (number(status, "/totals/reconnects") > waited).then_some(())
    });
    log.catch_up();
    assert_eq!(log.records().len(), 10, "a part of the transaction that waits is to be seen");
    let topic = format!("outbox.event.{missing}");
    scene.kafka.create_topic(&topic, 1, &[]).await;
    let mut later = Log::open(&scene.kafka.brokers(), &[&topic], Isolation::ReadCommitted);
    eventually(LIMIT, "the rest", || {
        log.catch_up();
        later.catch_up();
        (log.records().len() == 13 && later.records().len() == 1).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_above_the_limit_halts_and_what_came_before_it_is_there() {
    let scene = scene("exactly_larger").await.configured(|config| {
        config.raw("delivery.max_transaction_records", "50").text("delivery.commit_interval", LONG)
    });
    let relay = scene.start();
    pinned(&scene, &relay).await;
    scene.insert(19).await;
    scene.insert(51).await;
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "a halt was expected\n{}", relay.log());
    assert!(relay.log().contains("delivery.max_transaction_records = 50"), "{}", relay.log());
    let mut log = log_of(&scene, Isolation::ReadCommitted);
    log.catch_up();
    assert_eq!(log.records().len(), 20, "what came before it, and nothing of it");

    let relay = Relay::start(&scene.config.clone().text("delivery.larger", "split"));
    assert_once(&seen(&scene).await);
    relay.wait_status(LIMIT, "a transaction that was split", |status| {
        (number(status, "/delivery/split_transactions") == 1).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
