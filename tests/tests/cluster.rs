//! The private servers do what tests rely on: they start, stop, crash, freeze and come back with their data.

use std::time::Duration;

use outbox_tests::cluster::{Kafka, POSTGRES_VERSIONS, Postgres};
use outbox_tests::fault::proxy::{Direction, Flow};
use outbox_tests::wait::eventually;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_postgres::error::SqlState;

const LIMIT: Duration = Duration::from_secs(60);

async fn number(postgres: &Postgres, query: &str) -> i64 {
    postgres.connect("postgres").await.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_postgres_version_survives_what_tests_do_to_it() {
    for version in POSTGRES_VERSIONS {
        let started = std::time::Instant::now();
        let postgres = Postgres::start(version);
        println!("PostgreSQL {version} started in {:?}", started.elapsed());
        let found = number(&postgres, "SELECT current_setting('server_version_num')::bigint / 10000").await;
        assert_eq!(found, i64::from(version));
        let client = postgres.connect("postgres").await;
        client.batch_execute("CREATE TABLE t AS SELECT 1::bigint AS n").await.unwrap();
        let fast = postgres.stop_fast();
        println!("PostgreSQL {version} stopped fast in {fast:?}");
        assert!(client.simple_query("SELECT 1").await.is_err());

        let snapshot = postgres.snapshot();
        postgres.start_again();
        postgres.connect("postgres").await.execute("UPDATE t SET n = 2", &[]).await.unwrap();
        postgres.stop_immediate();
        postgres.start_again();
        assert_eq!(number(&postgres, "SELECT n FROM t").await, 2, "a crash loses no commit");
        postgres.stop_immediate();
        postgres.restore(&snapshot);
        postgres.start_again();
        assert_eq!(number(&postgres, "SELECT n FROM t").await, 1, "a restored snapshot goes back in time");
    }
}

#[tokio::test]
async fn a_promotion_begins_a_timeline_and_keeps_slots() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let slot = "SELECT 1::bigint FROM pg_create_logical_replication_slot('s', 'pgoutput')";
        number(&postgres, slot).await;
        postgres.stop_fast();
        postgres.start_promoted().await;
        assert_eq!(number(&postgres, "SELECT timeline_id::bigint FROM pg_control_checkpoint()").await, 2);
        assert_eq!(number(&postgres, "SELECT count(*) FROM pg_replication_slots").await, 1);
    }
}

#[tokio::test]
async fn passwords_are_checked_and_backends_terminated() {
    let postgres = Postgres::start(15);
    postgres.create_database("orders").await;
    let client = postgres.connect("orders").await;
    client.batch_execute("CREATE ROLE app LOGIN PASSWORD 'right'").await.unwrap();
    let refused = postgres.connect_as("app", "wrong", "orders").await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    let app = postgres.connect_as("app", "right", "orders").await.unwrap();
    assert_eq!(postgres.terminate_backends("usename = 'app'").await, 1);
    assert!(app.simple_query("SELECT 1").await.is_err());
    assert!(client.simple_query("SELECT 1").await.is_ok());
}

/// Newest offset of partition 0, if the broker answers within a second.
fn end_of(brokers: &str, topic: &str) -> Option<i64> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("log_level", "0").create().unwrap();
    consumer.fetch_watermarks(topic, 0, Duration::from_secs(1)).ok().map(|(_, end)| end)
}

async fn publish(brokers: &str, topic: &str) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("log_level", "0")
        .create()
        .unwrap();
    producer.send(FutureRecord::to(topic).key("k").payload("v"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_broker_survives_what_tests_do_to_it() {
    let started = std::time::Instant::now();
    let kafka = Kafka::start();
    println!("Kafka started in {:?}", started.elapsed());
    let brokers = kafka.brokers();
    kafka.create_topic("t", 3, &[("cleanup.policy", "compact")]).await;
    publish(&brokers, "t").await;

    kafka.pause();
    assert_eq!(end_of(&brokers, "t"), None, "a paused broker does not answer");
    kafka.resume();
    eventually(LIMIT, "the resumed broker", || end_of(&brokers, "t"));
    kafka.kill();
    assert_eq!(end_of(&brokers, "t"), None, "a killed broker does not answer");
    let started = std::time::Instant::now();
    kafka.start_again();
    println!("Kafka started again in {:?}", started.elapsed());
    let ends: i64 = (0..3)
        .map(|partition| {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
            consumer.fetch_watermarks("t", partition, LIMIT).unwrap().1
        })
        .sum();
    assert_eq!(ends, 1, "an acknowledged record survives a kill");
    assert!(!kafka.topics().contains(&"typo".to_owned()));
}

#[tokio::test]
async fn a_typo_makes_a_topic_only_where_asked_for() {
    for wanted in [false, true] {
        let builder = Kafka::builder();
        let kafka = if wanted { builder.auto_create_topics() } else { builder }.start();
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("message.timeout.ms", "3000")
            .set("allow.auto.create.topics", "true")
            .create()
            .unwrap();
        let sent = producer.send(FutureRecord::to("typo").key("k").payload("v"), LIMIT).await;
        assert_eq!(sent.is_ok(), wanted);
        assert_eq!(kafka.topics().contains(&"typo".to_owned()), wanted);
    }
}

#[tokio::test]
async fn clients_reach_a_broker_through_its_proxy_only() {
    let kafka = Kafka::builder().proxied().start();
    kafka.create_topic("t", 1, &[]).await;
    publish(&kafka.brokers(), "t").await;
    assert_eq!(end_of(&kafka.brokers(), "t"), Some(1));
    assert!(kafka.proxy().bytes(Direction::ToServer) > 0);
    kafka.proxy().set(Direction::ToClient, Flow::Hold);
    assert_eq!(end_of(&kafka.brokers(), "t"), None, "answers that are held do not arrive");
    kafka.proxy().resume();
    eventually(LIMIT, "the broker behind its proxy", || end_of(&kafka.brokers(), "t"));
}

#[tokio::test]
async fn three_brokers_do_without_one() {
    let kafka = Kafka::builder().brokers(3).start();
    kafka.create_topic("t", 1, &[]).await;
    kafka.node(0).kill();
    publish(&kafka.brokers(), "t").await;
    kafka.start_again();
    assert_eq!(end_of(&kafka.brokers(), "t"), Some(1));
}
