//! Seeded outbox traffic whose order per key can be read from the data.
//!
//! | module | what it owns |
//! |---|---|
//! | `events` | what an event looks like: keys, payloads, headers of all kinds |
//! | `transaction` | one transaction: locks, counters, savepoints, its end |
//! | `insert` | the ways in which rows get into the table |
//!
//! Every transaction locks the rows of its keys in the table `entity`, always in the same order, and takes
//! the next numbers of their counters; it writes the counters back before it commits. A number so says the
//! event's place in the commit order of its key, and a rollback, also one to a savepoint, leaves no gap. The
//! truth is what stands in PostgreSQL afterwards: an unanswered COMMIT needs no guess.

mod events;
mod insert;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// What traffic is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides everything but the interleaving; printed at the start.
    pub seed: u64,
    /// Connections that write at once.
    pub connections: usize,
    /// Keys per aggregate type.
    pub keys: usize,
    /// Aggregate types; each has a topic.
    pub aggregate_types: Vec<String>,
    /// Rows of the largest transactions.
    pub largest: usize,
    /// Of a thousand events so many have a payload of more than 3,000 bytes; the others stay below 600.
    pub large_per_mille: u32,
    /// About how many rows a second are written, all connections together; `None` is as fast as it goes.
    pub rows_per_second: Option<u32>,
}

impl Default for Settings {
    /// Four connections, 40 keys of two aggregate types, 1 to 1,000 rows, as fast as it goes, and the seed of
    /// `OUTBOX_TEST_SEED` or a new one.
    fn default() -> Settings {
        Settings {
            seed: seed(),
            connections: 4,
            keys: 20,
            aggregate_types: vec!["order".into(), "payment".into()],
            largest: 1_000,
            large_per_mille: 0,
            rows_per_second: None,
        }
    }
}

/// The seed of `OUTBOX_TEST_SEED`, or a new one.
///
/// # Panics
/// When the variable holds something else than a number.
pub fn seed() -> u64 {
    let named = std::env::var("OUTBOX_TEST_SEED").ok();
    named.map_or_else(rand::random, |seed| seed.parse().expect("OUTBOX_TEST_SEED is a number"))
}

/// What was written, as far as the writers know.
#[derive(Debug, Default)]
pub struct Counts {
    /// Transactions whose COMMIT was answered.
    pub transactions: AtomicU64,
    /// Rows of those.
    pub rows: AtomicU64,
    /// Rows that were inserted and rolled back, with their transaction or to a savepoint.
    pub rolled_back: AtomicU64,
    /// Connections that were lost and made anew.
    pub reconnects: AtomicU64,
}

/// Writers at work. Dropping it stops them at once.
#[derive(Debug)]
pub struct Workload {
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Makes the table `entity` (if it is not there) and starts the writers. `url` belongs to a role that may
    /// do that and insert into `outbox.events`.
    ///
    /// # Panics
    /// When the database cannot be reached or refuses.
    pub async fn start(url: &str, settings: Settings) -> Workload {
        eprintln!("workload: seed {} ({settings:?})", settings.seed);
        let client = connect(url).await.expect("the database");
        make_entities(&client, &settings).await.expect("the table of entities");
        let counts = Arc::new(Counts::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let settings = Arc::new(settings);
        let writers = (0..settings.connections)
            .map(|number| {
                let writer = Writer {
                    number,
                    url: url.to_owned(),
                    random: StdRng::seed_from_u64(settings.seed.wrapping_add(number as u64)),
                    settings: settings.clone(),
                    counts: counts.clone(),
                    stopping: stopping.clone(),
                    started: Instant::now(),
                    written: 0,
                };
                tokio::spawn(writer.run())
            })
            .collect();
        Workload { counts, stopping, writers }
    }

    /// What was written so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Rows whose COMMIT was answered so far.
    pub fn rows(&self) -> u64 {
        self.counts.rows.load(Ordering::SeqCst)
    }

    /// Lets every writer finish its transaction.
    ///
    /// # Panics
    /// When a writer met an error that is none of a lost connection.
    pub async fn stop(mut self) -> Arc<Counts> {
        self.stopping.store(true, Ordering::SeqCst);
        for writer in std::mem::take(&mut self.writers) {
            writer.await.expect("a writer that meets no error");
        }
        self.counts.clone()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }
}

struct Writer {
    number: usize,
    url: String,
    random: StdRng,
    settings: Arc<Settings>,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    started: Instant,
    /// Rows of this writer, rolled back ones included; what the pace is measured by.
    written: u64,
}

impl Writer {
    /// From connection to connection, until told to stop.
    async fn run(mut self) {
        while !self.is_stopping() {
            let Ok(mut client) = connect(&self.url).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if let Err(error) = self.write(&mut client).await {
                let lost = error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57"));
                assert!(lost, "writer {}: {error:?}", self.number);
                self.counts.reconnects.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    async fn write(&mut self, client: &mut Client) -> Result<(), tokio_postgres::Error> {
        while !self.is_stopping() {
            let plan = transaction::Plan::draw(&mut self.random, &self.settings);
            let outcome = transaction::run(client, plan, &mut self.random, self.number).await?;
            let Counts { transactions, rows, rolled_back, .. } = &*self.counts;
            transactions.fetch_add(u64::from(outcome.committed > 0), Ordering::SeqCst);
            rows.fetch_add(outcome.committed, Ordering::SeqCst);
            rolled_back.fetch_add(outcome.rolled_back, Ordering::SeqCst);
            self.written += outcome.committed + outcome.rolled_back;
            self.keep_pace().await;
        }
        Ok(())
    }

    /// A writer that is ahead of its share of the pace waits.
    async fn keep_pace(&self) {
        if let Some(pace) = self.settings.rows_per_second {
            let share = f64::from(pace) / self.settings.connections as f64;
            let due = Duration::from_secs_f64(self.written as f64 / share);
            // Slices, so that stopping does not wait for what a large transaction has earned.
            while self.started.elapsed() < due && !self.is_stopping() {
                tokio::time::sleep((due - self.started.elapsed().min(due)).min(Duration::from_millis(50)))
                    .await;
            }
        }
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // The client meets the same error.
        let _ = connection.await;
    });
    Ok(client)
}

async fn make_entities(client: &Client, settings: &Settings) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS entity (key text PRIMARY KEY, n bigint NOT NULL DEFAULT 0)",
        )
        .await?;
    let keys: Vec<String> = settings
        .aggregate_types
        .iter()
        .flat_map(|kind| (0..settings.keys).map(move |number| events::key(kind, number)))
        .collect();
    client
        .execute("INSERT INTO entity (key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", &[&keys])
        .await?;
    Ok(())
}

/// Whether something happens whose chance is `percent`.
fn chance(random: &mut impl Rng, percent: u32) -> bool {
    random.random_range(0..100) < percent
}
