//! A small orders service, such as anybody might have: several connections, each transaction locks an
//! order, changes it, and emits an event about it in the same transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outbox_schema::OutboxEvent;
use outbox_schema::tokio_postgres::{EnqueueError, enqueue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, Statement, Transaction};

use super::broker::AGGREGATE;
use super::postgres::{Postgres, PostgresError, SUPERUSER};
use super::verdict::Committed;

/// The service's database.
pub const DATABASE: &str = "shop";
/// The role the relay logs in as.
pub const RELAY_ROLE: &str = "relay";
/// The role the service logs in as.
const SERVICE_ROLE: &str = "shop";
/// Connections, each busy with a transaction of its own.
const WORKERS: u32 = 8;
/// Orders open at one time; the fewer, the more the workers wait for each other's locks.
const OPEN_ORDERS: usize = 60;
/// Share of transactions that are rolled back after they have emitted.
const ROLLED_BACK: f64 = 0.1;
/// Share of transactions that do a second step inside a savepoint.
const WITH_SAVEPOINT: f64 = 0.25;
/// Share of these whose savepoint is rolled back.
const SAVEPOINT_ROLLED_BACK: f64 = 0.4;

/// The life of an order: type of the event, and the status it leads to.
const LIFE: [(&str, &str); 8] = [
    ("OrderPlaced", "placed"),
    ("OrderLineAdded", "placed"),
    ("OrderLineAdded", "placed"),
    ("OrderAddressChanged", "placed"),
    ("OrderPaid", "paid"),
    ("OrderPacked", "packed"),
    ("OrderShipped", "shipped"),
    ("OrderDelivered", "delivered"),
];
/// What a worker emits that came too late for the delivery.
const AFTERWARDS: (&str, &str) = ("OrderReviewed", "delivered");

/// Takes the row lock, so that whoever wants to change the same order waits; gives its version.
const LOCK: &str = "INSERT INTO orders (id, status, version) VALUES ($1, 'new', 0)
    ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING version";
const CHANGE: &str = "UPDATE orders SET status = $2, version = $3 WHERE id = $1";

/// Why the service stopped working.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It could not be set up.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A change failed.
    #[error("the orders service could not change an order")]
    Change(#[from] tokio_postgres::Error),
    /// An event was refused.
    #[error("the orders service could not write an event")]
    Enqueue(#[from] EnqueueError),
    /// A worker panicked.
    #[error("a worker of the orders service ended by itself")]
    Worker(#[from] JoinError),
}

/// What the service has done.
#[derive(Debug, Default)]
pub struct Done {
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

impl Done {
    /// Events whose transaction was committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Relaxed)
    }

    /// Events that were inserted and rolled back, with their transaction or a savepoint.
    pub fn rolled_back(&self) -> u64 {
        self.rolled_back.load(Relaxed)
    }
}

/// Makes the database and the roles, before the relay is initialised.
///
/// # Errors
/// [`PostgresError`].
pub async fn make_database(postgres: &Postgres) -> Result<(), PostgresError> {
    let client = postgres.connect(SUPERUSER, SUPERUSER).await?;
    let password = postgres.password();
    let statements = [
        format!("CREATE DATABASE {DATABASE}"),
        format!("CREATE ROLE {RELAY_ROLE} LOGIN REPLICATION PASSWORD '{password}'"),
        format!("CREATE ROLE {SERVICE_ROLE} LOGIN PASSWORD '{password}'"),
    ];
    for statement in statements {
        client.batch_execute(&statement).await.map_err(refused("make the service's database"))?;
    }
    Ok(())
}

/// Makes the service's table, and lets the service write events, once the outbox is there.
///
/// # Errors
/// [`PostgresError`].
pub async fn make_table(postgres: &Postgres) -> Result<(), PostgresError> {
    let client = postgres.connect(SUPERUSER, DATABASE).await?;
    let statements = format!(
        "CREATE TABLE orders (id text PRIMARY KEY, status text NOT NULL, version bigint NOT NULL);
         GRANT SELECT, INSERT, UPDATE ON orders TO {SERVICE_ROLE};
         GRANT outbox_producer TO {SERVICE_ROLE};"
    );
    client.batch_execute(&statements).await.map_err(refused("make the service's table"))
}

/// Everything that was committed to the outbox.
///
/// # Errors
/// [`PostgresError`].
pub async fn committed(postgres: &Postgres) -> Result<Vec<Committed>, PostgresError> {
    let client = postgres.connect(SUPERUSER, DATABASE).await?;
    let rows = client.query("SELECT id, aggregateid, version FROM outbox.events", &[]).await;
    let rows = rows.map_err(refused("show the outbox"))?;
    let event = |row: &tokio_postgres::Row| {
        Ok(Committed { id: row.try_get(0)?, order: row.try_get(1)?, version: row.try_get(2)? })
    };
    rows.iter().map(event).collect::<Result<_, _>>().map_err(refused("show the outbox"))
}

fn refused(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    move |source| PostgresError::Sql { what, source }
}

/// The running service. Dropping it ends it in the middle of its transactions.
#[derive(Debug)]
pub struct Service {
    done: Arc<Done>,
    closing: Arc<AtomicBool>,
    workers: JoinSet<Result<(), ServiceError>>,
}

impl Service {
    /// Opens the shop: `rate` transactions a second over all workers together, chosen by the seed.
    ///
    /// # Errors
    /// [`PostgresError`]: a worker cannot connect.
    pub async fn open(postgres: &Postgres, rate: u32, seed: u64) -> Result<Service, PostgresError> {
        let done = Arc::new(Done::default());
        let closing = Arc::new(AtomicBool::new(false));
        let orders: Arc<Vec<AtomicU32>> = Arc::new((0..OPEN_ORDERS).map(|_| AtomicU32::new(1)).collect());
        let pace = Duration::from_secs(1) * WORKERS / rate.max(1);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let client = postgres.connect(SERVICE_ROLE, DATABASE).await?;
            let random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(number)));
            let worker = Worker::prepare(client, random, Arc::clone(&orders), Arc::clone(&done)).await;
            let worker = worker.map_err(refused("prepare the service's statements"))?;
            workers.spawn(worker.run(pace, Arc::clone(&closing)));
        }
        Ok(Service { done, closing, workers })
    }

    /// What it has done so far.
    pub fn done(&self) -> &Done {
        &self.done
    }

    /// Whether a worker has ended by itself, which is always an error; [`Service::close`] tells which.
    pub fn has_failed(&self) -> bool {
        !self.closing.load(Relaxed) && self.workers.len() < WORKERS as usize
    }

    /// Lets every worker finish its transaction.
    ///
    /// # Errors
    /// [`ServiceError`], of the first worker that failed.
    pub async fn close(&mut self) -> Result<(), ServiceError> {
        self.closing.store(true, Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// One connection of the service.
struct Worker {
    client: Client,
    statements: Statements,
    random: StdRng,
    /// For each open order, how many were there before it.
    orders: Arc<Vec<AtomicU32>>,
    done: Arc<Done>,
}

#[derive(Clone)]
struct Statements {
    lock: Statement,
    change: Statement,
}

impl Worker {
    async fn prepare(
        client: Client,
        random: StdRng,
        orders: Arc<Vec<AtomicU32>>,
        done: Arc<Done>,
    ) -> Result<Worker, tokio_postgres::Error> {
        let statements =
            Statements { lock: client.prepare(LOCK).await?, change: client.prepare(CHANGE).await? };
        Ok(Worker { client, statements, random, orders, done })
    }

    async fn run(mut self, pace: Duration, closing: Arc<AtomicBool>) -> Result<(), ServiceError> {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !closing.load(Relaxed) {
            ticks.tick().await;
            self.one_transaction().await?;
        }
        Ok(())
    }

    /// Lock, change, emit; now and then a second step in a savepoint; commit or roll back.
    async fn one_transaction(&mut self) -> Result<(), ServiceError> {
        let place = self.random.random_range(0..self.orders.len());
        let life = self.orders[place].load(Relaxed);
        let order = format!("order-{place:02}-{life:03}");
        let second_step = self.random.random_bool(WITH_SAVEPOINT);
        let undo_second = self.random.random_bool(SAVEPOINT_ROLLED_BACK);
        let undo_all = self.random.random_bool(ROLLED_BACK);

        let mut transaction = self.client.transaction().await?;
        let mut version: i64 = transaction.query_one(&self.statements.lock, &[&order]).await?.try_get(0)?;
        version += 1;
        step(&transaction, &self.statements, &order, version).await?;
        let (mut kept, mut undone) = (1, 0);
        if second_step {
            let savepoint = transaction.savepoint("second_step").await?;
            step(&savepoint, &self.statements, &order, version + 1).await?;
            if undo_second {
                savepoint.rollback().await?;
                undone += 1;
            } else {
                savepoint.commit().await?;
                version += 1;
                kept += 1;
            }
        }
        if undo_all {
            transaction.rollback().await?;
            self.done.rolled_back.fetch_add(kept + undone, Relaxed);
            return Ok(());
        }
        transaction.commit().await?;
        self.done.committed.fetch_add(kept, Relaxed);
        self.done.rolled_back.fetch_add(undone, Relaxed);
        if version >= LIFE.len() as i64 {
            // Delivered: the next order takes its place, whoever of the workers notices first.
            let _ = self.orders[place].compare_exchange(life, life + 1, Relaxed, Relaxed);
        }
        Ok(())
    }
}

/// One step in the life of an order that is locked: the change, and the event that tells of it in the same
/// transaction.
async fn step(
    transaction: &Transaction<'_>,
    statements: &Statements,
    order: &str,
    version: i64,
) -> Result<(), ServiceError> {
    let (kind, status) = life(version);
    transaction.execute(&statements.change, &[&order, &status, &version]).await?;
    let payload = serde_json::json!({ "order": order, "version": version, "status": status });
    let event = OutboxEvent::new(AGGREGATE, order, kind).version(version).raw_json(payload.to_string());
    enqueue(transaction, &event).await?;
    Ok(())
}

/// Every type of event that the service emits.
pub fn event_types() -> BTreeSet<&'static str> {
    LIFE.iter().chain([&AFTERWARDS]).map(|(kind, _)| *kind).collect()
}

/// What the change to a version is.
fn life(version: i64) -> (&'static str, &'static str) {
    let index = usize::try_from(version - 1).unwrap_or(usize::MAX);
    LIFE.get(index).copied().unwrap_or(AFTERWARDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_begins_with_placing_and_ends_with_delivery() {
        assert_eq!(life(1).0, "OrderPlaced");
        assert_eq!(life(8).0, "OrderDelivered");
        assert_eq!(life(9), AFTERWARDS);
        assert_eq!(life(0), AFTERWARDS);
    }
}
