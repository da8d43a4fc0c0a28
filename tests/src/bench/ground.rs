//! Servers, table and backlog.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Client;

use super::plan::{Plan, Shape};
use crate::cluster::{Kafka, Postgres};
use crate::relay::RelayConfig;
use crate::wait::eventually;

/// Database, relay and aggregate type.
pub const NAME: &str = "bench";

/// The slot that every run's slot is a copy of.
const BASE: &str = "bench_base";

/// Partitions of each run's topic.
pub const PARTITIONS: usize = 12;

/// Connections that load a backlog.
const LOADERS: u64 = 4;

/// The password of the relay's role.
const PASSWORD: &str = "relay password";

/// What the server is run with beyond its defaults and what logical replication needs. Durable, as in
/// operation; quiet, so that neither a checkpoint nor a vacuum falls into one reader's time and not into
/// the other's.
const SETTINGS: [(&str, &str); 7] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "16GB"),
    ("log_replication_commands", "on"),
    ("log_line_prefix", "%n [%p] "),
];

/// The servers of one worker and what every run shares.
pub struct Ground {
    /// PostgreSQL with the outbox that `outbox-relay init` makes.
    pub postgres: Postgres,
    /// One broker.
    pub kafka: Kafka,
    /// The superuser's connection.
    pub client: Client,
    keys: Vec<(String, String)>,
    runs: u32,
}

/// What a backlog is.
#[derive(Debug)]
pub struct Backlog {
    /// Its form.
    pub shape: Shape,
    /// A position behind its last transaction.
    pub end: String,
    /// Bytes of log that it takes.
    pub wal_bytes: u64,
}

impl Ground {
    /// Starts the servers and makes the outbox.
    ///
    /// # Panics
    /// When a server does not start or `init` fails.
    pub async fn prepare(plan: &Plan) -> Ground {
        let mut builder = Postgres::builder(plan.postgres);
        for (name, value) in SETTINGS {
            builder = builder.setting(name, value);
        }
        let postgres = builder.start();
        let kafka = Kafka::builder().as_shipped().start();
        postgres.create_database(NAME).await;
        let client = postgres.connect(NAME).await;
        let keys = plan.relay_keys.iter().filter_map(|key| key.split_once('='));
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let ground = Ground { postgres, kafka, client, keys, runs: 0 };
        let (status, said) = ground.config("first").init(&ground.postgres.url(NAME), &[]);
        assert!(status.success(), "init failed ({status})\n{said}");
        ground.client.batch_execute(&loader(plan.seed)).await.expect("the loader");
        ground
    }

    /// The settings as a report shows them.
    pub fn settings() -> Vec<String> {
        SETTINGS.iter().take(5).map(|(name, value)| format!("{name} = {value}")).collect()
    }

    /// The relay's configuration of one run: a topic and a memory of its own, all else by default but for
    /// the keys of the plan.
    fn config(&self, run: &str) -> RelayConfig {
        let url = self.postgres.url_for("relay_bench", NAME);
        let config = RelayConfig::new(NAME, &url, PASSWORD, &self.kafka.brokers())
            .text("kafka.topic_prefix", &format!("{run}."))
            .text("state.topic", &format!("state.{run}"));
        self.keys.iter().fold(config, |config, (key, value)| config.raw(key, value))
    }

    /// The relay's configuration of the next run, whose topic exists and is empty.
    pub async fn next_run(&mut self) -> (RelayConfig, String) {
        self.next_run_with(&[]).await
    }

    /// The same with further keys, as text.
    pub async fn next_run_with(&mut self, further: &[(&str, &str)]) -> (RelayConfig, String) {
        self.runs += 1;
        let run = format!("run{}", self.runs);
        let topic = format!("{run}.{NAME}");
        self.kafka.create_topic(&topic, PARTITIONS, &[]).await;
        // As on every start but a relay's very first.
        let state = format!("state.{run}");
        self.kafka.create_topic(&state, 1, &[("cleanup.policy", "compact")]).await;
        let config = further.iter().fold(self.config(&run), |config, (key, value)| config.text(key, value));
        (config, topic)
    }

    /// Loads a backlog behind the base slot, in the place of the one before.
    pub async fn load(&self, shape: Shape) -> Backlog {
        self.drop_slot(&slot()).await;
        self.drop_slot(BASE).await;
        self.client.batch_execute("TRUNCATE outbox.events; CHECKPOINT").await.expect("an empty table");
        let create = format!("SELECT pg_create_logical_replication_slot('{BASE}', 'pgoutput')");
        self.client.batch_execute(&create).await.expect("the base slot");
        let start = self.text("SELECT pg_current_wal_insert_lsn()::text").await;
        let transactions = shape.transactions();
        let share = transactions.div_ceil(LOADERS);
        let loading = (0..LOADERS).map(async |loader| {
            let first = (loader * share).min(transactions);
            let count = share.min(transactions - first);
            let client = self.postgres.connect(NAME).await;
            let per = shape.per_transaction;
            let call = format!("SET synchronous_commit = off; CALL load({}, {count}, {per})", first * per);
            for statement in call.split("; ") {
                client
                    .batch_execute(statement)
                    .await
                    .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            }
        });
        futures_util::future::join_all(loading).await;
        // Flushed, so that a reader may have all of it.
        let flush = "SET synchronous_commit = on; CREATE TABLE IF NOT EXISTS flushed (); DROP TABLE flushed; CHECKPOINT";
        self.client.batch_execute(flush).await.expect("a flush");
        let end = self.text("SELECT pg_current_wal_flush_lsn()::text").await;
        let bytes = self.text(&format!("SELECT ('{end}'::pg_lsn - '{start}'::pg_lsn)::bigint::text")).await;
        Backlog { shape, end, wal_bytes: bytes.parse().expect("a number") }
    }

    /// Gives the relay's slot the position of the base slot.
    pub async fn copy_slot(&self) {
        self.drop_slot(&slot()).await;
        let copy = format!("SELECT pg_copy_logical_replication_slot('{BASE}', '{}')", slot());
        self.client.batch_execute(&copy).await.expect("a copy of the base slot");
    }

    /// Makes the relay's slot anew, at the end of the log.
    pub async fn new_slot(&self) {
        self.drop_slot(&slot()).await;
        self.drop_slot(BASE).await;
        let create = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", slot());
        self.client.batch_execute(&create).await.expect("the relay's slot");
    }

    async fn drop_slot(&self, name: &str) {
        // The backend of a client that has just ended may need a moment to let go of it.
        let gone = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active";
        crate::wait::eventually_async(Duration::from_secs(60), "the slot to be free", async || {
            self.client.query_opt(gone, &[&name]).await.ok()?.is_none().then_some(())
        })
        .await;
        let drop =
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        self.client.execute(drop, &[&name]).await.expect("a slot is dropped");
    }

    /// Whether the relay's slot is confirmed up to `lsn`.
    pub async fn is_confirmed(&self, lsn: &str) -> bool {
        let compare = format!(
            "SELECT (confirmed_flush_lsn >= '{lsn}'::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = '{}'",
            slot()
        );
        self.text(&compare).await == "true"
    }

    /// The only value of a query.
    ///
    /// # Panics
    /// When there is none.
    pub async fn text(&self, query: &str) -> String {
        let row =
            self.client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        row.get(0)
    }

    /// A look at the server's log from now on.
    pub fn log(&self) -> ServerLog {
        let path = self.postgres.log_file();
        let from = std::fs::metadata(&path).map_or(0, |file| file.len());
        ServerLog { path, from }
    }
}

/// The relay's slot.
pub fn slot() -> String {
    format!("outbox_{NAME}")
}

/// The relay's publication, which both readers read through.
pub fn publication() -> String {
    format!("outbox_{NAME}")
}

/// The server's log from some moment on.
pub struct ServerLog {
    path: PathBuf,
    from: u64,
}

impl ServerLog {
    /// When the server was told `START_REPLICATION` since then, in Unix seconds, and the process that it told.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub fn replication_started(&self) -> (f64, u32) {
        eventually(Duration::from_secs(60), "START_REPLICATION in the server's log", || {
            let mut file = File::open(&self.path).ok()?;
            file.seek(SeekFrom::Start(self.from)).ok()?;
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            text.lines().find_map(started)
        })
    }
}

/// `1763735000.123 [4711] LOG:  received replication command: START_REPLICATION …`
fn started(line: &str) -> Option<(f64, u32)> {
    if !line.contains("received replication command: START_REPLICATION") {
        return None;
    }
    let (time, rest) = line.split_once(" [")?;
    Some((time.parse().ok()?, rest.split_once(']')?.0.parse().ok()?))
}

/// A procedure that commits `transactions` transactions of `per` rows each, counted from `first`.
fn loader(seed: u64) -> String {
    format!(
        r#"CREATE FUNCTION filler(i bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
             SELECT md5((i + {seed})::text) $$;
           CREATE PROCEDURE load(first bigint, transactions bigint, per bigint) LANGUAGE plpgsql AS $$
           BEGIN
             FOR t IN 0 .. transactions - 1 LOOP
               INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
               SELECT '{NAME}', 'customer-' || (i * 7919 % 10000), 'OrderPlaced',
                      ('{{"order":' || i || ',"customer":"customer-' || (i * 7919 % 10000)
                       || '","currency":"EUR","status":"placed","lines":[{{"sku":"' || left(f, 12)
                       || '","quantity":2,"price":"19.90"}}],"address":"' || right(f, 20)
                       || '","trace":"' || f || '"}}')::json
                 FROM (SELECT i, filler(i) f FROM generate_series(first + t * per, first + t * per + per - 1) i) rows;
               COMMIT;
             END LOOP;
           END $$"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_stream_is_found_in_the_log() {
        let line = "1763735000.123 [4711] LOG:  received replication command: START_REPLICATION SLOT \"s\" LOGICAL 0/0";
        assert_eq!(started(line), Some((1_763_735_000.123, 4711)));
        assert_eq!(started("1763735000.123 [4711] STATEMENT:  START_REPLICATION SLOT"), None);
    }
}
