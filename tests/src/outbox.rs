//! An outbox to test with: a database of its own with contract, publication, role and slot as
//! `outbox-relay init` makes them, topics of its own, and the configuration of its relay.

use std::time::Duration;

use outbox_schema::record::DEFAULT_TOPIC_PREFIX;
use tokio_postgres::Client;

use crate::cluster::{Kafka, Postgres};
use crate::history::log::Isolation;
use crate::history::{Log, Verdict, settled_verdict};
use crate::relay::RelayConfig;
use crate::workload;

/// Partitions of each topic.
const PARTITIONS: usize = 3;

/// The password of the relay's role.
const PASSWORD: &str = "relay password";

/// One outbox; its database, relay, role and topics carry its name.
#[derive(Debug)]
pub struct Outbox<'a> {
    name: &'static str,
    postgres: &'a Postgres,
    /// What its relay is started with; tests add keys of their own.
    pub config: RelayConfig,
}

impl<'a> Outbox<'a> {
    /// Makes database and topics and runs `outbox-relay init`. `name` is a legal name of a relay.
    ///
    /// # Panics
    /// When a server does not answer, or `init` fails.
    pub async fn make(name: &'static str, postgres: &'a Postgres, kafka: &Kafka) -> Outbox<'a> {
        postgres.create_database(name).await;
        let role = format!("{name}_relay");
        let config = RelayConfig::new(name, &postgres.url_for(&role, name), PASSWORD, &kafka.brokers())
            .text("state.topic", &format!("state.{name}"));
        let (status, said) = config.init(&postgres.url(name), &[]);
        assert!(status.success(), "init failed ({status})\n{said}");
        let outbox = Outbox { name, postgres, config };
        for topic in outbox.topics() {
            kafka.create_topic(&topic, PARTITIONS, &[]).await;
        }
        outbox
    }

    /// Aggregate types of its own, so that its topics are, too.
    pub fn aggregate_types(&self) -> Vec<String> {
        ["order", "payment"].map(|kind| format!("{}_{kind}", self.name)).into()
    }

    /// The topics of [`Outbox::aggregate_types`].
    pub fn topics(&self) -> Vec<String> {
        self.aggregate_types().iter().map(|kind| format!("{DEFAULT_TOPIC_PREFIX}{kind}")).collect()
    }

    /// URL of a role that may write the outbox.
    pub fn url(&self) -> String {
        self.postgres.url(self.name)
    }

    /// The default traffic, on its own aggregate types.
    pub fn traffic(&self) -> workload::Settings {
        workload::Settings { aggregate_types: self.aggregate_types(), ..workload::Settings::default() }
    }

    /// A superuser's connection to its database.
    pub async fn connect(&self) -> Client {
        self.postgres.connect(self.name).await
    }

    /// Its topics from their beginning, as every consumer may see them.
    pub fn log(&self, kafka: &Kafka) -> Log {
        let topics = self.topics();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        Log::open(&kafka.brokers(), &topics, Isolation::ReadUncommitted)
    }

    /// Waits until every committed row is on the log, and judges.
    pub async fn verdict(&self, log: &mut Log, limit: Duration) -> Verdict {
        settled_verdict(&self.connect().await, log, limit).await
    }

    /// Process id of the backend that streams from the slot, if any does.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn walsender(&self, client: &Client) -> Option<i32> {
        let active = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        let row = client.query_one(active, &[&self.slot()]).await.expect("the slot is there");
        row.get(0)
    }

    /// Whether the slot is confirmed up to `lsn`, as PostgreSQL writes it.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn is_confirmed(&self, client: &Client, lsn: &str) -> bool {
        let compare = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots
                       WHERE slot_name = $1";
        client.query_one(compare, &[&self.slot(), &lsn]).await.expect("the slot is there").get(0)
    }

    /// Name of its replication slot.
    pub fn slot(&self) -> String {
        format!("outbox_{}", self.name)
    }

    /// Commits `rows` rows of `bytes` bytes each in one transaction by one COPY. Their order per key goes
    /// on at `first`, which counts rows from 0 and has to be a multiple of 20.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn copy(&self, client: &Client, first: usize, rows: usize, bytes: usize) {
        const KEYS: usize = 20;
        let kind = &self.aggregate_types()[0];
        let copy = "COPY outbox.events (aggregatetype, aggregateid, type, payload) FROM STDIN";
        let mut sink = Box::pin(client.copy_in(copy).await.expect("COPY"));
        let filler = "x".repeat(bytes);
        for chunk in (first..first + rows).collect::<Vec<_>>().chunks(500) {
            let lines: String = chunk
                .iter()
                .map(|row| {
                    let n = row / KEYS + 1;
                    format!("{kind}\tcopied-{}\tCopied\t{{\"n\":{n},\"x\":\"{filler}\"}}\n", row % KEYS)
                })
                .collect();
            let sent = futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(lines)).await;
            sent.unwrap_or_else(|error| panic!("{error:?}"));
        }
        let copied = sink.as_mut().finish().await.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(copied, rows as u64);
    }
}

/// Whether the counts of `make prove` are asked for.
pub fn proving() -> bool {
    std::env::var_os("OUTBOX_PROVE").is_some_and(|value| value == "1")
}
