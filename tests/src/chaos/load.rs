//! The services: producers in several shapes, beside each other on one outbox.
//!
//! Small and mixed transactions, with savepoints and rollbacks, are those of [`crate::workload`]. Beside them one commits
//! late, so that its rows come to the log behind younger ones, and one commits in two phases. All take the numbers of a
//! key under its lock, so that the order of commits stands in the data.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

use super::lot::ODD;
use super::stage::{AGGREGATES, Stage};
use crate::workload::{Settings, Workload};

/// Keys of each aggregate type in the usual traffic.
const KEYS: usize = 20;
/// Keys of whoever commits late, and in two phases, each.
const OWN_KEYS: u64 = 6;
/// Pause of a service that met an error.
const AGAIN: Duration = Duration::from_millis(100);

/// What the services know of what they did.
#[derive(Debug, Default)]
struct Counts {
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

/// The services at work.
#[derive(Debug)]
pub struct Load {
    usual: Mutex<Vec<Workload>>,
    others: Mutex<Vec<JoinHandle<()>>>,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    /// What was said last: while services stop, what they did is on its way from one place to another.
    said: AtomicU64,
}

impl Load {
    /// Starts them, `rate` rows a second all together, about.
    pub async fn start(stage: &Stage, seed: u64, rate: u32) -> Load {
        let url = stage.services_url();
        let usual = |seed: u64, largest: usize, share: u32| Settings {
            seed,
            connections: 2,
            keys: KEYS,
            aggregate_types: AGGREGATES.map(String::from).to_vec(),
            largest,
            large_per_mille: 20,
            rows_per_second: Some((rate * share / 100).max(1)),
        };
        let single = Workload::start(&url, usual(seed, 1, 40)).await;
        let mixed = Workload::start(&url, usual(seed.wrapping_add(100), 200, 50)).await;
        let counts = Arc::new(Counts::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let mut others = Vec::new();
        for (shape, seed) in
            [(Shape::Late, seed.wrapping_add(200)), (Shape::TwoPhase, seed.wrapping_add(201))]
        {
            let service = Service {
                url: url.clone(),
                shape,
                random: StdRng::seed_from_u64(seed),
                counts: counts.clone(),
                stopping: stopping.clone(),
            };
            others.push(tokio::spawn(service.run()));
        }
        let (usual, others) = (Mutex::new(vec![single, mixed]), Mutex::new(others));
        Load { usual, others, counts, stopping, said: AtomicU64::new(0) }
    }

    /// Rows whose commit is known.
    pub fn committed(&self) -> u64 {
        let usual = self.usual.lock().iter().map(Workload::rows).sum::<u64>();
        let now = usual + self.counts.committed.load(SeqCst);
        self.said.fetch_max(now, SeqCst).max(now)
    }

    /// Lets every service finish what it has begun; returns how many rows were rolled back, as far as is known.
    ///
    /// # Panics
    /// When a service met an error that is none of a lost connection.
    pub async fn stop(&self) -> u64 {
        self.stopping.store(true, SeqCst);
        let (usual, others) =
            (std::mem::take(&mut *self.usual.lock()), std::mem::take(&mut *self.others.lock()));
        for other in others {
            other.await.expect("a service that meets no error");
        }
        for usual in usual {
            let counts = usual.stop().await;
            self.counts.committed.fetch_add(counts.rows.load(SeqCst), SeqCst);
            self.counts.rolled_back.fetch_add(counts.rolled_back.load(SeqCst), SeqCst);
        }
        self.counts.rolled_back.load(SeqCst)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Its transactions stay open for seconds. Its keys are those of which some events fail for good.
    Late,
    /// PREPARE TRANSACTION, a while, COMMIT PREPARED; sometimes ROLLBACK PREPARED.
    TwoPhase,
}

struct Service {
    url: String,
    shape: Shape,
    random: StdRng,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
}

impl Service {
    async fn run(mut self) {
        loop {
            if let Ok(client) = connect(&self.url).await
                && let Err(error) = self.write(&client).await
            {
                let lost = error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57"));
                assert!(lost, "{:?}: {error:?}", self.shape);
            }
            if self.stopping.load(SeqCst) && self.is_settled().await {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether nothing is prepared any more.
    async fn is_settled(&self) -> bool {
        if self.shape != Shape::TwoPhase {
            return true;
        }
        match connect(&self.url).await {
            Ok(client) => prepared(&client).await.is_ok_and(|left| left.is_empty()),
            Err(_) => false,
        }
    }

    async fn write(&mut self, client: &Client) -> Result<(), Error> {
        if self.shape == Shape::TwoPhase {
            // What an earlier connection has left: nobody knows its fate, so it is decided now.
            for name in prepared(client).await? {
                client.batch_execute(&format!("COMMIT PREPARED '{name}'")).await?;
            }
        }
        while !self.stopping.load(SeqCst) {
            match self.shape {
                Shape::Late => self.late(client).await?,
                Shape::TwoPhase => self.two_phase(client).await?,
            }
        }
        Ok(())
    }

    async fn late(&mut self, client: &Client) -> Result<(), Error> {
        client.batch_execute("BEGIN").await?;
        let key = format!("{ODD}{}", self.random.random_range(0..OWN_KEYS));
        let rows = self.random.random_range(1..=4);
        self.insert(client, &key, rows).await?;
        self.pause(300..3_000).await;
        let commits = self.random.random_range(0..10) > 0;
        client.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).await?;
        self.count(commits, rows);
        Ok(())
    }

    async fn two_phase(&mut self, client: &Client) -> Result<(), Error> {
        let key = format!("prepared-{}", self.random.random_range(0..OWN_KEYS));
        let (name, rows) =
            (format!("chaos-{:x}", self.random.random::<u64>()), self.random.random_range(1..=5));
        client.batch_execute("BEGIN").await?;
        self.insert(client, &key, rows).await?;
        client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await?;
        self.pause(50..1_500).await;
        let commits = self.random.random_range(0..5) > 0;
        let end = if commits { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(&format!("{end} PREPARED '{name}'")).await?;
        self.count(commits, rows);
        Ok(())
    }

    fn count(&self, commits: bool, rows: u64) {
        let count = if commits { &self.counts.committed } else { &self.counts.rolled_back };
        count.fetch_add(rows, SeqCst);
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(millis))).await;
    }

    async fn insert(&mut self, client: &Client, key: &str, rows: u64) -> Result<(), Error> {
        client.execute("INSERT INTO entity (key) VALUES ($1) ON CONFLICT DO NOTHING", &[&key]).await?;
        let taken = "UPDATE entity SET n = n + $2 WHERE key = $1 RETURNING n";
        let rows = i64::try_from(rows).expect("a few rows");
        let last: i64 = client.query_one(taken, &[&key, &rows]).await?.get(0);
        for n in last - rows + 1..=last {
            let kind = ["Made", "Changed", "Ended"][self.random.random_range(0..3)];
            let payload = format!("{{\"key\":\"{key}\",\"n\":{n}}}");
            enqueue(client, AGGREGATES[0], key, kind, &payload).await?;
        }
        Ok(())
    }
}

/// One event by the contract's function; returns its id.
///
/// # Errors
/// What the server or the driver answered.
pub async fn enqueue(
    client: &Client,
    aggregate: &str,
    key: &str,
    kind: &str,
    payload: &str,
) -> Result<String, Error> {
    let call = "SELECT outbox.enqueue($1, $2, $3, $4::text::json)::text";
    Ok(client.query_one(call, &[&aggregate, &key, &kind, &payload]).await?.get(0))
}

async fn prepared(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'chaos-%'", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // The client meets the same error.
        let _ = connection.await;
    });
    Ok(client)
}
