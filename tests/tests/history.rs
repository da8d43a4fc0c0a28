//! The workload and the checker on real servers: what is committed by the one is read by the other, and a
//! faithful copy on Kafka passes where a faulty one does not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use outbox_schema::record::Position;
use outbox_schema::sql::MIGRATIONS;
use outbox_tests::cluster;
use outbox_tests::history::log::Isolation;
use outbox_tests::history::{Committed, Log, judge, rows, settled_verdict};
use outbox_tests::wait::eventually_async;
use outbox_tests::workload::{Settings, Workload};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

const LIMIT: Duration = Duration::from_secs(60);

/// Publishes rows as a relay would; positions by their place.
async fn publish(brokers: &str, rows: &[Committed]) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    let sends = rows.iter().enumerate().map(|(place, row)| {
        let position = Position { epoch: 1, commit_lsn: place as u64 + 1, ordinal: 0 }.to_string();
        let mut headers = OwnedHeaders::new();
        for (name, value) in &row.headers {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let headers = headers.insert(Header { key: "position", value: Some(&position) });
        let mut record = FutureRecord::to(&row.topic).key(&row.key).headers(headers);
        record.payload = row.value.as_ref();
        producer.send_result(record).map_err(|(error, _)| error).unwrap()
    });
    for sent in sends.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faithful_copy_passes_and_a_faulty_one_does_not() {
    let servers = cluster::shared();
    servers.postgres.create_database("history").await;
    let database = servers.postgres.connect("history").await;
    for migration in MIGRATIONS {
        database.batch_execute(migration.up).await.unwrap();
    }
    let workload = Workload::start(&servers.postgres.url("history"), Settings::default()).await;
    // A lost connection is no end of the work, and what it had in doubt is decided by PostgreSQL.
    eventually_async(LIMIT, "rows", async || (workload.rows() > 2_000).then_some(())).await;
    servers.postgres.terminate_backends("datname = 'history' AND query ~ 'outbox'").await;
    let before = workload.rows();
    eventually_async(LIMIT, "more rows", async || (workload.rows() > before + 2_000).then_some(())).await;
    let counts = workload.stop().await;
    println!("{counts:?}");
    assert!(counts.rolled_back.load(Ordering::SeqCst) > 0, "rollbacks are part of the work");

    // Whatever was connected when the backends ended may have been this connection, too.
    let database = servers.postgres.connect("history").await;
    let mut committed = rows::read(&database, "outbox.event.").await;
    let lost_answers = counts.reconnects.load(Ordering::SeqCst) * 1_000;
    let answered = counts.rows.load(Ordering::SeqCst);
    assert!((answered..=answered + lost_answers).contains(&(committed.len() as u64)));
    committed.sort_by_key(|row| row.order);
    assert_counters_are_dense(&committed);

    let topics = ["outbox.event.order", "outbox.event.payment"];
    for topic in topics {
        servers.kafka.create_topic(topic, 3, &[]).await;
    }
    let brokers = servers.kafka.brokers();
    let (last, most) = committed.split_last().unwrap();
    publish(&brokers, most).await;
    let mut log = Log::open(&brokers, &topics, Isolation::ReadUncommitted);
    let verdict = settled_verdict(&database, &mut log, Duration::from_secs(1)).await;
    assert_eq!((verdict.lost, verdict.passes()), (1, false), "{verdict} {:#?}", verdict.examples);
    assert!(verdict.examples[0].contains(&last.id));

    publish(&brokers, &committed).await;
    let verdict = settled_verdict(&database, &mut log, LIMIT).await;
    println!("{verdict}");
    verdict.assert_pass();
    assert_eq!(verdict.repeated, most.len() as u64);

    let (_, fewer) = committed.split_first().unwrap();
    assert_eq!(judge(fewer, log.records()).phantoms, 1, "a row that is gone makes its record a phantom");
}

/// Per key the numbers are 1, 2, 3 …: rollbacks leave no gap and nobody takes a number twice.
fn assert_counters_are_dense(committed: &[Committed]) {
    let mut counters = std::collections::HashMap::new();
    for row in committed {
        let counter = counters.entry((&row.topic, &row.key)).or_insert(0);
        *counter += 1;
        assert_eq!(row.order, Some(*counter), "{row:?}");
    }
}
