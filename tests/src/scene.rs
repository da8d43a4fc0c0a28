//! What most tests begin with: a database of their own with the contract in it, topics, a relay's
//! configuration, and rows whose order per key can be read from the data.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use crate::cluster::{Kafka, Postgres};
use crate::history::log::Isolation;
use crate::history::{Log, Verdict, settled_verdict};
use crate::relay::{Relay, RelayConfig};

/// Partitions of a scene's topic.
pub const PARTITIONS: usize = 3;

/// Keys that [`Scene::insert`] spreads its rows over.
pub const KEYS: u64 = 7;

/// How long anything may take before a test fails; generous, since test machines are busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A database, a topic and a relay's configuration under one name.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The relay's name, the database's, and the aggregate type of its events.
    pub name: String,
    /// The server of the database.
    pub postgres: &'a Postgres,
    /// Where the topic is.
    pub kafka: &'a Kafka,
    /// The superuser's connection to the database.
    pub database: Client,
    /// The relay's configuration.
    pub config: RelayConfig,
    inserted: AtomicU64,
}

impl<'a> Scene<'a> {
    /// Makes the database and the topic, and lets `outbox-relay init` make schema, role and slot.
    ///
    /// # Panics
    /// When a server does not answer or `init` fails.
    pub async fn prepare(postgres: &'a Postgres, kafka: &'a Kafka, name: &str) -> Scene<'a> {
        let scene = Scene::bare(postgres, kafka, name).await;
        kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
        scene.init(&[]);
        scene
    }

    /// Makes an empty database, and nothing else.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn bare(postgres: &'a Postgres, kafka: &'a Kafka, name: &str) -> Scene<'a> {
        postgres.create_database(name).await;
        let url = postgres.url_for(&format!("relay_{name}"), name);
        Scene {
            name: name.to_owned(),
            postgres,
            kafka,
            database: postgres.connect(name).await,
            config: RelayConfig::new(name, &url, "secret of the relay", &kafka.brokers()),
            inserted: AtomicU64::new(0),
        }
    }

    /// Changes the configuration.
    #[must_use]
    pub fn configured(mut self, change: impl FnOnce(RelayConfig) -> RelayConfig) -> Scene<'a> {
        self.config = change(self.config);
        self
    }

    /// Runs `outbox-relay init` as the superuser; returns what it wrote.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn init(&self, arguments: &[&str]) -> String {
        let (status, text) = self.try_init(arguments);
        assert!(status.success(), "init: {status}\n{text}");
        text
    }

    /// Runs `outbox-relay init`; returns how it ended and what it wrote.
    pub fn try_init(&self, arguments: &[&str]) -> (ExitStatus, String) {
        self.config.init(&self.postgres.url(&self.name), arguments)
    }

    /// Starts a relay and waits until it streams.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&self) -> Relay {
        let relay = Relay::start(&self.config);
        relay.wait_status(LIMIT, "the relay to stream", |status| {
            (status["phase"] == "streaming").then_some(())
        });
        relay
    }

    /// Starts a relay that has to halt, and returns what it logged.
    ///
    /// # Panics
    /// When it does not end, or not with exit code 3.
    #[track_caller]
    pub fn start_halts(&self) -> String {
        let relay = Relay::start(&self.config);
        let status = relay.wait_exit(LIMIT);
        let log = relay.log();
        assert_eq!(status.code(), Some(3), "a halt was expected\n{log}");
        log
    }

    /// The topic of [`Scene::insert`].
    pub fn topic(&self) -> String {
        format!("outbox.event.{}", self.name)
    }

    /// The slot.
    pub fn slot(&self) -> String {
        format!("outbox_{}", self.name)
    }

    /// Inserts rows in one statement. Row `i` of all belongs to key `i mod KEYS` and is the next of that key.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn insert(&self, rows: u64) {
        let first = self.inserted.fetch_add(rows, Ordering::SeqCst);
        let statement = insert_statement(&self.name, first, rows);
        self.database.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Forgets what was inserted: the database was put back to an earlier state with `rows` rows.
    pub fn rewind(&self, rows: u64) {
        self.inserted.store(rows, Ordering::SeqCst);
    }

    /// How many rows [`Scene::insert`] has made.
    pub fn inserted(&self) -> u64 {
        self.inserted.load(Ordering::SeqCst)
    }

    /// Connects anew, after the server was started again.
    pub async fn reconnect(&mut self) {
        self.database = self.postgres.connect(&self.name).await;
    }

    /// The topic, from its beginning.
    ///
    /// # Panics
    /// When Kafka does not answer.
    pub fn log(&self) -> Log {
        Log::open(&self.kafka.brokers(), &[&self.topic()], Isolation::ReadUncommitted)
    }

    /// The relay's newest state record.
    ///
    /// # Panics
    /// When Kafka does not answer.
    pub fn state_record(&self) -> Option<serde_json::Value> {
        let mut log = Log::open(&self.kafka.brokers(), &["outbox.relay.state"], Isolation::ReadCommitted);
        log.catch_up();
        let key = format!("{}/0", self.name);
        let newest =
            log.records().iter().rev().find(|record| record.key.as_deref() == Some(key.as_bytes()))?;
        serde_json::from_slice(newest.value.as_deref()?).ok()
    }

    /// Waits until every committed row is on the topic, and judges.
    ///
    /// # Panics
    /// When a server does not answer.
    pub async fn verdict(&self) -> Verdict {
        settled_verdict(&self.database, &mut self.log(), LIMIT).await
    }

    /// A value that one row of one column holds, as text.
    ///
    /// # Panics
    /// When there is none.
    pub async fn text(&self, query: &str) -> String {
        let row =
            self.database.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        row.get(0)
    }

    /// `confirmed_flush_lsn` of the slot.
    ///
    /// # Panics
    /// When there is no slot.
    pub async fn confirmed(&self) -> String {
        let slot = self.slot();
        self.text(&format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await
    }
}

/// The statement of [`Scene::insert`], for tests that run it in a transaction of their own.
pub fn insert_statement(kind: &str, first: u64, rows: u64) -> String {
    format!(
        "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
         SELECT '{kind}', 'k' || i % {KEYS}, 'Counted', format('{{\"n\":%s}}', i / {KEYS} + 1)::json
           FROM generate_series({first}, {}) i ORDER BY i",
        (first + rows).saturating_sub(1)
    )
}
