//! Servers, topics and tables.

use tokio_postgres::Client;

use super::instance::Instance;
use super::job::{Job, Work};
use super::plan::{KEYS, Plan};
use super::preload::key;
use crate::cluster::{Kafka, Postgres};
use outbox_schema::sql::inbox;

/// The database.
pub const NAME: &str = "bench";

/// Partitions of each topic.
pub const PARTITIONS: usize = 12;

/// What the server is run with beyond its defaults. Durable, as in operation; quiet, so that neither a checkpoint nor a
/// vacuum falls into one run and not into the other.
pub const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "16GB"),
    ("track_commit_timestamp", "on"),
];

/// What every run shares.
pub struct Ground {
    /// PostgreSQL with an inbox and the tables of the handlers.
    pub postgres: Postgres,
    /// One broker.
    pub kafka: Kafka,
    /// The superuser's connection.
    pub client: Client,
    logs: tempfile::TempDir,
    runs: u32,
}

impl Ground {
    /// Starts the servers and makes the tables.
    ///
    /// # Panics
    /// When a server does not start or refuses.
    pub async fn prepare(plan: &Plan) -> Ground {
        let builder = SETTINGS
            .iter()
            .fold(Postgres::builder(plan.postgres), |builder, (name, value)| builder.setting(name, value));
        let postgres = builder.start();
        let kafka = Kafka::builder().as_shipped().start();
        postgres.create_database(NAME).await;
        let client = postgres.connect(NAME).await;
        client.batch_execute(&inbox::up()).await.expect("the inbox");
        let (first, last) = (key(0), key(KEYS - 1));
        let tables = format!(
            "CREATE TABLE stock (sku text PRIMARY KEY, free bigint NOT NULL) WITH (fillfactor = 50);
             INSERT INTO stock SELECT 'sku-' || lpad(n::text, 7, '0'), 0 FROM generate_series(0, {KEYS} - 1) n;
             CREATE TABLE effect (number bigint PRIMARY KEY);
             SELECT inbox.upkeep()"
        );
        client.batch_execute(&tables).await.expect("the tables");
        let ground =
            Ground { postgres, kafka, client, logs: tempfile::tempdir().expect("a directory"), runs: 0 };
        let ends = format!("SELECT count(*) FROM stock WHERE sku IN ('{first}', '{last}')");
        assert_eq!(ground.number(&ends).await, 2, "the keys of the topics and of the table");
        ground
    }

    /// Starts a process for the next run, with a name that none had before.
    pub fn start(&mut self, topic: &str, work: Work, (warm_up, every): (u64, u64)) -> (String, Instance) {
        let name = self.new_name();
        let job = Job { name: name.clone(), topic: topic.to_owned(), work, warm_up, every };
        let database = self.postgres.url(NAME);
        (name, Instance::start(&job, &self.kafka.brokers(), &database, self.logs.path()))
    }

    /// A name of a run that none had before.
    pub fn new_name(&mut self) -> String {
        self.runs += 1;
        format!("run{}", self.runs)
    }

    /// An empty topic whose name none had before.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn new_topic(&mut self, what: &str) -> String {
        self.runs += 1;
        let topic = format!("{what}-{}", self.runs);
        self.kafka.create_topic(&topic, PARTITIONS, &[]).await;
        topic
    }

    /// Forgets the effects of earlier runs, so that each begins with the same tables.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn clear(&self) {
        let statements =
            ["TRUNCATE inbox.settlement", "UPDATE stock SET free = 0", "VACUUM FULL stock", "CHECKPOINT"];
        for statement in statements {
            self.client
                .batch_execute(statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    /// A number that a query answers.
    ///
    /// # Panics
    /// When it answers none.
    pub async fn number(&self, query: &str) -> i64 {
        let row = self.client.query_one(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }

    /// A text that a query answers.
    ///
    /// # Panics
    /// When it answers none.
    pub async fn text(&self, query: &str) -> String {
        let row = self.client.query_one(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }

    /// A directory for files of a run.
    pub fn directory(&self) -> &std::path::Path {
        self.logs.path()
    }
}
