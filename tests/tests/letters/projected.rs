//! Letters in PostgreSQL: copies are one, foreign ones are read, and all are listed, grouped and shown.

use outbox_consumer::dead_letters::Evidence;
use outbox_tests::cluster::Kafka;
use outbox_tests::inbox::SCOPE;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{Ended, PATIENCE, Stage, client, says};

/// The group begins anew, as after its offsets have expired.
async fn forget_offsets(kafka: &Kafka, group: &str) {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let deleted = admin.delete_groups(&[group], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_collapse_and_are_listed_grouped_and_shown() {
    let stage = Stage::prepare("dlq_list").await;
    stage.dead(&[1, 2], "k-1", "out_of_stock").await;
    stage.dead(&[3], "k-2", "timeout").await;
    let copy = stage.send(1, "k-1", "out_of_stock", 0).await;
    assert_eq!((copy.topic.as_str(), copy.partition), ("letters.dlq_list.dlq_list.dlq", 1));
    says(&stage.project(), &["letters.dlq_list.dlq_list.dlq: read 4, 4 new"]);
    let again = stage.json(&["project", "--group", stage.name]);
    assert_eq!((&again["read"], &again["new"]), (&0.into(), &0.into()), "{again}");
    // From the beginning once more: nothing is new, nothing changes.
    let before = stage.session.rows("SELECT d::text FROM inbox.dead_letter AS d ORDER BY 1").await;
    forget_offsets(stage.kafka, "dlq_list.dlq-projection").await;
    says(&stage.project(), &["read 4, 0 new"]);
    assert_eq!(stage.session.rows("SELECT d::text FROM inbox.dead_letter AS d ORDER BY 1").await, before);
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.dead_letter").await, "3");
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.dead_letter_copy").await, "4");

    let id = stage.inbox.id(1);
    let list = stage.does(&["list"]);
    says(
        &list,
        &[&id, "inventory-team", "StockError: no stock for order 1", "3 dead letters, 3 past their deadline"],
    );
    assert!(
        !list.contains("value") && !list.contains('\x1b'),
        "neither payload nor colours in a file: {list}"
    );
    for (filter, expected) in [
        (&["--cause", "timeout"][..], 1),
        (&["--error", "NO STOCK FOR ORDER 2"], 1),
        (&["--key", "k-1"], 2),
        (&["--key", "\\x6b2d32"], 1),
        (&["--since", "2026-01-01T00:00:01Z"], 0),
        (&["--until", "2026-01-01T00:00:01Z", "--topic", &stage.topic, "--scope", SCOPE], 3),
        (&["--scope", "another"], 0),
        (&["--state", "discarded"], 0),
        (&["--all", "--limit", "2"], 2),
    ] {
        let document = stage.json(&[&["list"], filter].concat());
        assert_eq!(document["letters"].as_array().unwrap().len(), expected, "{filter:?}\n{document}");
    }
    let causes = stage.json(&["causes"]);
    assert_eq!(
        (&causes["causes"][0]["cause"], &causes["causes"][0]["letters"]),
        (&"out_of_stock".into(), &2.into())
    );
    assert_eq!((&causes["causes"][0]["keys"], &causes["causes"][0]["overdue"]), (&1.into(), &2.into()));
    says(&stage.does(&["causes"]), &["out_of_stock", "inventory-team", "3 dead letters of 2 causes"]);

    let page = stage.does(&["show", &id]);
    says(
        &page,
        &["reserve_stock", "letters.dlq_list/1/1", "k-1", "which has passed", "2026-01-01T00:00:00Z"],
    );
    assert_eq!(page.matches("letters.dlq_list.dlq_list.dlq/1/").count(), 2, "{page}");
    assert!(!page.contains("value "), "{page}");
    let page = stage.does(&["show", &id, "--payload"]);
    says(
        &page,
        &[
            "dlq.instance: pod-1",
            "dlq.error.stack: \\x6c696e6520310a",
            "empty: (null)",
            "value    \\x76616c7565",
        ],
    );
    assert_eq!(stage.does(&["show", &id, "--raw"]), "value \u{0} 1");
    assert_eq!(stage.json(&["show", &id])["copies"].as_array().unwrap().len(), 2);
    says(&stage.fails(&["show", "nothing"]), &["there is no dead letter nothing here"]);
}

/// Writes a record with any headers.
async fn write(kafka: &Kafka, topic: &str, headers: &[(&str, &[u8])]) {
    let producer: FutureProducer = client(kafka).create().unwrap();
    let list = headers.iter().fold(OwnedHeaders::new(), |list, (key, value)| {
        list.insert(rdkafka::message::Header { key, value: Some(*value) })
    });
    let record = FutureRecord::<[u8], [u8]>::to(topic).key(b"k").payload(b"v").headers(list);
    producer.send(record, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_other_frameworks_damaged_ones_and_those_of_another_group() {
    let stage = Stage::prepare("dlq_foreign").await;
    let dlt = "dlq_foreign-dlt";
    stage.kafka.create_topic(dlt, 1, &[]).await;
    let spring: [(&str, &[u8]); 5] = [
        ("kafka_dlt-original-topic", b"orders"),
        ("kafka_dlt-original-partition", &7_i32.to_be_bytes()),
        ("kafka_dlt-original-offset", &4711_i64.to_be_bytes()),
        ("kafka_dlt-exception-cause-fqcn", b"com.example.StockException"),
        ("kafka_dlt-exception-message", b"no stock\0"),
    ];
    write(stage.kafka, dlt, &spring).await;
    let connect: [(&str, &[u8]); 4] = [
        ("__connect.errors.topic", b"orders"),
        ("__connect.errors.partition", b"2"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ];
    write(stage.kafka, dlt, &connect).await;
    write(stage.kafka, dlt, &[("dlq.topic", b"orders"), ("dlq.partition", b"\xff")]).await;
    write(stage.kafka, dlt, &[]).await;
    let theirs = Evidence { group: "another".into(), ..stage.evidence(1, "out_of_stock", 0) }.headers(&[], 0);
    let theirs: Vec<(&str, &[u8])> =
        theirs.iter().map(|header| (header.name.as_str(), header.value.as_deref().unwrap())).collect();
    write(stage.kafka, dlt, &theirs).await;

    let line =
        ["project", "--group", "dlq_foreign", "--topic", dlt, "--scope", "warehouse", "--owner", "sink-team"];
    let Ended { code, out, err } = stage.run(&line);
    assert_eq!(code, Some(1), "what is refused is reported: {out}{err}");
    says(&out, &["dlq_foreign-dlt: read 5, 4 new"]);
    says(&err, &["1 not taken up", "of group another, not of dlq_foreign", "dlq_foreign-dlt/0/4"]);
    let rows = "SELECT letter, cause, owner, state FROM inbox.dead_letters ORDER BY letter";
    assert_eq!(
        stage.session.rows(rows).await,
        [
            "dlq_foreign-dlt/0/2 damaged_evidence sink-team open",
            "dlq_foreign-dlt/0/3 no_evidence sink-team open",
            "orders/2/17 DataException sink-team open",
            "orders/7/4711 StockException sink-team open",
        ]
    );
    let page = stage.does(&["show", "orders/7/4711", "--payload"]);
    says(&page, &["warehouse", "no stock", "kafka_dlt-original-partition: \\x00000007"]);
    // It has no settlement here, so the park is not its place; the sentence says so.
    says(&stage.fails(&["replay", "orders/7/4711", "--reason", "x"]), &["has no settlement or no key"]);
    stage.does(&["discard", "orders/2/17", "--reason", "replayed by its team"]);
}
