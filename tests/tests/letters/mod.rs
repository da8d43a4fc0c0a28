//! Dead letters from the failure to the decision: written to Kafka, projected into PostgreSQL, listed, replayed and
//! discarded with `outbox-dlq` as an operator runs it. No consumer runs: what one would do to a parked event is done
//! here by hand. With one that runs: `consumer_letters`.

mod decided;
mod operator;
mod projected;
mod replayed;
mod tool;
mod written;

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
pub(crate) use operator::{Ended, Operator, ended, says, tool};
use outbox_consumer::dead_letters::{Evidence, Header, Letter, Placed, Sink, topic};
use outbox_tests::cluster::{self, Kafka};
use outbox_tests::inbox::{Inbox, SCOPE, Session, server};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A consumer with an inbox and a source topic, whose events fail.
struct Stage {
    inbox: Inbox,
    session: Session,
    kafka: &'static Kafka,
    name: &'static str,
    topic: String,
    sink: Sink,
    operator: Operator,
}

fn client(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers()).set("log_level", "2");
    config
}

impl Stage {
    async fn prepare(name: &'static str) -> Stage {
        let kafka = &cluster::shared().kafka;
        let inbox = Inbox::prepare(name).await;
        let session = inbox.consumer().await;
        let topic = format!("letters.{name}");
        kafka.create_topic(&topic, 3, &[]).await;
        let sink = Sink::new(&client(kafka), name, topic::RETENTION).unwrap();
        assert_eq!(sink.prepare(&topic).await.unwrap(), []);
        let database = format!("postgres://{name}:secret@127.0.0.1:{}/{name}", server().port());
        let operator = Operator { database, brokers: kafka.brokers() };
        Stage { inbox, session, kafka, name, topic, sink, operator }
    }

    fn evidence(&self, number: u32, cause: &str, replay: u32) -> Evidence {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Evidence {
            topic: self.topic.clone(),
            partition: 1,
            offset: i64::from(number),
            timestamp: Some(1_700_000_000_000),
            group: self.name.to_owned(),
            scope: SCOPE.to_owned(),
            handler: Some("reserve_stock".into()),
            id: Some(self.inbox.id(number).parse().unwrap()),
            created: None,
            event_type: Some("OrderPlaced".into()),
            class: Some("StockError".into()),
            message: format!("no stock for order {number}"),
            stack: Some("line 1\nline 2".into()),
            cause: cause.to_owned(),
            attempts: 4,
            first_failed: at,
            last_failed: at,
            instance: "pod-1".into(),
            sdk: "outbox-consumer 0.1.0".into(),
            owner: "inventory-team".into(),
            deadline: "2026-01-02T00:00:00Z".parse().unwrap(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            replay,
            truncated: false,
        }
    }

    /// Writes an event's dead letter, as often as it is called. An empty key is none.
    async fn send(&self, number: u32, key: &str, cause: &str, replay: u32) -> Placed {
        let id = Header::text("id", self.inbox.id(number));
        let empty = Header { name: "empty".into(), value: None };
        let value = format!("value \u{0} {number}");
        let letter = Letter {
            key: (!key.is_empty()).then_some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[id, empty],
            evidence: &self.evidence(number, cause, replay),
        };
        self.sink.send(letter).await.unwrap()
    }

    /// The event is settled as dead, and its letter written and projected.
    async fn dead(&self, numbers: &[u32], key: &str, cause: &str) {
        let (claim, settle) = (self.inbox.claim(numbers), self.inbox.settle(numbers, "dead"));
        self.inbox.admin.run(&format!("BEGIN; {claim}; {settle}; COMMIT")).await;
        for number in numbers {
            self.send(*number, key, cause, 0).await;
        }
    }

    fn command(&self, line: &[&str]) -> Command {
        self.operator.command(line)
    }

    fn run(&self, line: &[&str]) -> Ended {
        self.operator.run(line)
    }

    #[track_caller]
    fn does(&self, line: &[&str]) -> String {
        self.operator.does(line)
    }

    #[track_caller]
    fn fails(&self, line: &[&str]) -> String {
        self.operator.fails(line)
    }

    #[track_caller]
    fn json(&self, line: &[&str]) -> Value {
        self.operator.json(line)
    }

    fn project(&self) -> String {
        self.does(&["project", "--group", self.name])
    }

    /// Records in the source topic.
    fn published(&self) -> i64 {
        let consumer: BaseConsumer = client(self.kafka).create().unwrap();
        (0..3).map(|partition| consumer.fetch_watermarks(&self.topic, partition, PATIENCE).unwrap().1).sum()
    }

    async fn states(&self) -> Vec<String> {
        self.session.rows("SELECT state, replay FROM inbox.dead_letters ORDER BY letter").await
    }

    /// What a claimant does with the first event of a key.
    async fn run_parked(&self, key: &str, ending: &str) {
        let topic = &self.topic;
        self.session
            .run(&format!(
                "BEGIN; SELECT inbox.resume('{SCOPE}', '{topic}', '{key}'); {ending};
                 SELECT inbox.unpark('{SCOPE}', '{topic}', '{key}', (SELECT array_agg(seq) FROM inbox.parked_event));
                 SELECT inbox.remove_parked_key('{SCOPE}', '{topic}', '{key}'); COMMIT"
            ))
            .await;
    }
}
