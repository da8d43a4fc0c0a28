//! Letters on Kafka: the topic they go to, and what the sink takes.

use outbox_consumer::dead_letters::{Evidence, Letter, SinkError, topic};
use outbox_tests::cluster;

use super::{Stage, client, says};

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_is_made_like_its_source_and_one_that_is_there_is_looked_at() {
    let kafka = &cluster::shared().kafka;
    kafka.create_topic("dlq_topic", 3, &[("max.message.bytes", "2000000")]).await;
    kafka
        .create_topic(
            "dlq_topic.weak.dlq",
            1,
            &[("retention.ms", "3600000"), ("max.message.bytes", "2000000")],
        )
        .await;
    let made = topic::prepare(&client(kafka), "dlq_topic", "strong", topic::RETENTION).await.unwrap();
    assert_eq!((made.name.as_str(), made.partitions), ("dlq_topic.strong.dlq", 3));
    let again = topic::prepare(&client(kafka), "dlq_topic", "strong", topic::RETENTION).await.unwrap();
    assert_eq!(again.concerns, [], "made with partitions, retention and record size that suffice");
    let weak = topic::prepare(&client(kafka), "dlq_topic", "weak", topic::RETENTION).await.unwrap();
    let said: Vec<String> = weak.concerns.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    says(
        &said.concat(),
        &["has 1 partitions and its source has 3", "keeps records for 1 h", "takes records of 2000000"],
    );
    let error = topic::prepare(&client(kafka), "dlq_nothing", "strong", topic::RETENTION).await.unwrap_err();
    says(&error.to_string(), &["topic dlq_nothing does not exist"]);
    assert!(!kafka.topics().iter().any(|name| name.starts_with("dlq_nothing")), "looking makes no topic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_takes_only_letters_of_its_group_and_of_prepared_sources() {
    let stage = Stage::prepare("dlq_sink").await;
    let attempt = async |evidence: Evidence, value: &[u8]| {
        let letter = Letter { key: None, value: Some(value), headers: &[], evidence: &evidence };
        stage.sink.send(letter).await.unwrap_err()
    };
    let evidence = stage.evidence(1, "x", 0);
    let other = attempt(Evidence { group: "another".into(), ..evidence.clone() }, b"").await;
    assert!(matches!(other, SinkError::OtherGroup { .. }) && !other.is_waited_for(), "{other:?}");
    let unknown = attempt(Evidence { topic: "another".into(), ..evidence.clone() }, b"").await;
    assert!(matches!(unknown, SinkError::NotPrepared { .. }) && !unknown.is_waited_for(), "{unknown:?}");
    let large = attempt(evidence, &vec![0; 2_000_000]).await;
    assert!(matches!(large, SinkError::TooLarge { .. }) && large.is_waited_for(), "{large:?}");
    says(&large.to_string(), &["raise its max.message.bytes"]);
}
