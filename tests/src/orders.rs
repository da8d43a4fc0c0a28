//! A consumer under test: its database with the inbox and a table of effects, its topic, the program that is killed,
//! and the judge of what it did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_schema::sql::inbox;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cluster::{Kafka, Postgres};
use crate::fault::process::{Launch, Process};

/// Partitions of the topic.
pub const PARTITIONS: usize = 6;

/// The scene of one test.
pub struct Orders<'s> {
    name: String,
    postgres: &'s Postgres,
    brokers: String,
    program: PathBuf,
    logs: tempfile::TempDir,
    /// The superuser's connection.
    pub client: Client,
    producer: BaseProducer,
}

/// What was found of the effects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Events with an effect.
    pub happened: usize,
    /// Events with more than one.
    pub doubled: usize,
    /// Effects that came after a later one of their key.
    pub reordered: usize,
}

impl<'s> Orders<'s> {
    /// Makes database, inbox, effects and topic.
    ///
    /// # Panics
    /// When a server refuses.
    pub async fn prepare(name: &str, postgres: &'s Postgres, kafka: &Kafka, program: &Path) -> Orders<'s> {
        postgres.create_database(name).await;
        let client = postgres.connect(name).await;
        client.batch_execute(&inbox::up()).await.expect("the inbox");
        let tables = "CREATE TABLE effects (at bigserial PRIMARY KEY, event uuid NOT NULL, key text NOT NULL, number bigint NOT NULL);
                      CREATE TABLE warehouse (open boolean NOT NULL); INSERT INTO warehouse VALUES (false)";
        client.batch_execute(tables).await.expect("the effects");
        kafka.create_topic(name, PARTITIONS, &[]).await;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .create()
            .expect("a producer");
        let logs = tempfile::tempdir().expect("a directory");
        let (name, brokers, program) = (name.to_owned(), kafka.brokers(), program.to_owned());
        Orders { name, postgres, brokers, program, logs, client, producer }
    }

    /// The consumer's name: the scope of its inbox, and its group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends an event.
    ///
    /// # Panics
    /// When librdkafka's queue is full.
    pub fn send(&self, id: Uuid, key: &str, payload: &str) {
        self.send_as("OrderPlaced", id, key, payload);
    }

    /// Sends an event of a type.
    ///
    /// # Panics
    /// When librdkafka's queue is full.
    pub fn send_as(&self, event_type: &str, id: Uuid, key: &str, payload: &str) {
        let id = id.to_string();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "id", value: Some(&id) })
            .insert(Header { key: "type", value: Some(event_type) });
        let record = BaseRecord::to(&self.name).key(key).payload(payload).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error).expect("room in the producer");
    }

    /// Waits until everything that was sent is acknowledged.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("acknowledgements");
    }

    /// Starts an instance of the consumer.
    pub fn start(&self, instance: usize) -> Process {
        self.start_with(instance, &self.postgres.url(&self.name))
    }

    /// Starts an instance that reaches its database by another way.
    pub fn start_with(&self, instance: usize, database: &str) -> Process {
        let environment = [
            ("KAFKA_BROKERS", self.brokers.as_str()),
            ("DATABASE_URL", database),
            ("ORDER_TOPIC", &self.name),
            ("ORDER_CONSUMER", &self.name),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Process::start(Launch {
            name: format!("consumer {instance} of {}", self.name),
            command: vec![self.program.display().to_string()],
            environment: environment.into(),
            user: None,
            on_test_death: "KILL",
            log: self.logs.path().join(format!("{instance}.log")),
        })
    }

    /// What the effects say.
    ///
    /// # Panics
    /// When the database does not answer.
    pub async fn effects(&self) -> Effects {
        let rows = self.client.query("SELECT event, key, number FROM effects ORDER BY at", &[]).await;
        let rows = rows.expect("the effects");
        let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let mut effects = Effects::default();
        for row in rows {
            let (event, key, number): (Uuid, String, i64) = (row.get(0), row.get(1), row.get(2));
            *times.entry(event).or_default() += 1;
            let before = newest.entry(key).or_insert(number);
            effects.reordered += usize::from(number < *before);
            *before = (*before).max(number);
        }
        effects.happened = times.len();
        effects.doubled = times.values().filter(|count| **count > 1).count();
        effects
    }

    /// A number that a query answers.
    ///
    /// # Panics
    /// When it answers none.
    pub async fn number(&self, query: &str) -> i64 {
        let row = self.client.query_one(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }

    /// The end of an instance's log, for a panic's message.
    pub fn log(&self, instance: usize) -> String {
        let text =
            std::fs::read_to_string(self.logs.path().join(format!("{instance}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
