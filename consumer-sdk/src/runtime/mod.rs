//! What runs while a consumer runs.
//!
//! | module | what it owns |
//! |---|---|
//! | [`client`] | the thread with the Kafka client: polls, assignments, pauses, commits |
//! | [`engine`] | what is in hand, behind one lock: keys, frontiers, intake, journal |
//! | [`worker`] | tasks that take records, and the one place that acts on what became of them |
//! | [`transaction`] | claim, effects and commit in one transaction: one event, a group, a batch |
//! | [`outside`], [`light`] | handlers that run outside of any transaction: with a claim, or many at a time |
//! | [`business_key`] | what `dedup_by` calls an event, or why it has no name |
//! | [`company`] | with whom a record runs next that is not settled |
//! | [`attempt`], [`permit`] | one call of a handler; the crash journal's word before it |
//! | [`failure`], [`letters`] | what follows a failed attempt; dead letters |
//! | [`retention`] | how long settlements are kept |
//! | [`inbox`] | what all of them ask of the database |
//! | [`parked`] | the task that runs parked keys when they are due |
//! | [`reached`] | the task that remembers how far each partition has come, and notices when its offset was moved back |

mod attempt;
mod business_key;
mod client;
mod company;
mod engine;
mod failure;
mod inbox;
mod letters;
mod light;
mod outside;
mod parked;
mod permit;
mod reached;
mod retention;
mod transaction;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::consumer::{Registered, RunError};
use crate::database::{Database, DatabaseError};
use crate::intake::Held;
use crate::journal::DEFAULT_CONVICT_AFTER;
use crate::record::Record;
use client::Client;
use engine::Engine;
#[cfg(feature = "simulation")]
pub use engine::simulation;
use letters::Letters;
use reached::Reached;

/// Most records in hand, and their bytes, unless told otherwise.
pub(crate) const MOST: Held = Held { count: 20_000, bytes: 64 << 20 };

/// The pause before the database is asked again, or another's claim is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often the engine is looked at before its lock is waited for asleep: some microseconds.
const SPINS: usize = 500;

/// How long workers are waited for at the end.
const LAST: Duration = Duration::from_secs(15);

/// How long the Kafka client is waited for behind them.
const LEAVING: Duration = Duration::from_secs(20);

/// What the client's thread and the workers share.
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    pub(crate) registered: Registered,
    pub(crate) database: Option<Database>,
    letters: Letters,
    /// There is a record to run.
    work: Notify,
    /// The journal may answer otherwise than before.
    permits: Notify,
    /// How many wait for that.
    permits_wanted: AtomicUsize,
    /// Records that are settled, to be dropped by the client's thread.
    settled: Mutex<Vec<Vec<Record>>>,
    /// Handlers without a transaction that wait for something, or for their permit.
    waiting: AtomicUsize,
    stopping: AtomicBool,
    stopped: Notify,
    /// The next number of a part of a group that came to nothing.
    parts: AtomicU32,
    /// What was reached before, and which partitions read it again.
    reached: Reached,
    /// Why the consumer cannot go on.
    halt: Mutex<Option<String>>,
    begun: Instant,
    /// Tells this run of the consumer from every other.
    run: Uuid,
}

impl Shared {
    /// The engine. Whoever has it does not have it for long, so that it is worth to wait for it awake: what the system
    /// takes to wake a thread is as much as dozens of records take.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        for _ in 0..SPINS {
            if let Some(engine) = self.engine.try_lock() {
                return engine;
            }
            std::hint::spin_loop();
        }
        self.engine.lock()
    }

    /// Leaves settled records to the client's thread, which made them: what one thread frees of another's memory makes
    /// both wait for it.
    fn bury(&self, settled: Vec<Record>) {
        if !settled.is_empty() {
            self.settled.lock().push(settled);
        }
    }

    /// Lets a worker look for records; one that finds more than it takes wakes the next.
    fn wake(&self, ready: usize) {
        if ready > 0 {
            self.work.notify_one();
        }
    }

    /// Lets those ask again whom the journal made wait.
    fn permits_changed(&self) {
        if self.permits_wanted.load(SeqCst) > 0 {
            self.permits.notify_waiters();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Ends everything in order.
    fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.stopped.notify_waiters();
        self.work.notify_waiters();
        self.permits.notify_waiters();
    }

    /// Ends everything, for a reason that no retry mends.
    fn halt(&self, why: String) {
        tracing::error!("{why}");
        self.registered.metrics.halted(&why);
        self.halt.lock().get_or_insert(why);
        self.stop();
    }

    /// Time since the consumer began: the clock of attempts.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits, or less long where the consumer stops.
    async fn pause(&self, delay: Duration) {
        let stopped = self.stopped.notified();
        if !self.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stopped => {}
            }
        }
    }
}

/// Runs a consumer until `shutdown` resolves.
///
/// # Errors
/// [`RunError`]: librdkafka refuses the configuration, the database is not usable, or the consumer had to halt.
pub(crate) async fn run(
    config: &ClientConfig,
    registered: Registered,
    database: Option<Database>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    crate::librdkafka::refused().map_or(Ok(()), |why| Err(RunError::SetUp(vec![why])))?;
    let letters = Letters::new(config);
    let mut shutdown = std::pin::pin!(shutdown);
    if let Some(database) = &database {
        // A mistake in the set-up is told at once, and not by every record.
        tokio::select! {
            biased;
            () = shutdown.as_mut() => {
                tracing::info!("told to stop before anything was read");
                return Ok(());
            }
            begun = begin(letters.config(), &registered, database) => begun?,
        }
    }
    let topics = registered.topics.clone();
    let concurrency = registered.concurrency;
    let shared = shared(registered, database, letters);
    let watched = Arc::downgrade(&shared);
    shared.registered.metrics.watch_engine(move || Some(watched.upgrade()?.engine.lock().look()));
    if let Some(database) = shared.database.clone() {
        shared.registered.metrics.watch_pool(move || database.look());
    }
    let client =
        Client::new(config, &topics, shared.clone()).map_err(|error| RunError::Kafka(error.into()))?;
    let (ends, ended_client) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("kafka".into()).spawn(move || {
        client.run();
        // Nobody may be there to hear it any more.
        let _unheard = ends.send(());
    });
    thread.map_err(RunError::Thread)?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        tasks.spawn(worker::work(shared.clone()));
    }
    if shared.database.is_some() {
        tasks.spawn(parked::keep(shared.clone()));
        tasks.spawn(reached::keep(shared.clone()));
    }
    let halted = async {
        while !shared.is_stopping() {
            let stopped = shared.stopped.notified();
            tokio::select! {
                () = stopped => {}
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    };
    tokio::select! {
        () = shutdown.as_mut() => {
            shared.registered.metrics.draining();
            tracing::info!("told to stop: finishing what runs");
        }
        () = halted => {}
    }
    shared.stop();
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST, ended).await.is_err() {
        tracing::warn!("handlers did not end in time; what they did is not committed, and comes again");
    }
    // The client's thread waits for handlers, and then for librdkafka's, which wait by a clock that may have been set back.
    match tokio::time::timeout(LEAVING, ended_client).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(RunError::Halted("the client's thread panicked".into())),
        Err(_) => tracing::warn!(
            "librdkafka does not end; unless it has left the group, that waits for the session's end"
        ),
    }
    let settled = shared.engine().count();
    tracing::info!(settled, "stopped");
    match shared.halt.lock().take() {
        Some(why) => Err(RunError::Halted(why)),
        None => Ok(()),
    }
}

/// What the threads and tasks of a consumer share that begins now.
fn shared(registered: Registered, database: Option<Database>, letters: Letters) -> Arc<Shared> {
    Arc::new(Shared {
        engine: Mutex::new(Engine::new(MOST, DEFAULT_CONVICT_AFTER)),
        registered,
        database,
        letters,
        work: Notify::new(),
        permits: Notify::new(),
        permits_wanted: AtomicUsize::new(0),
        settled: Mutex::default(),
        waiting: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
        stopped: Notify::new(),
        parts: AtomicU32::new(0),
        reached: Reached::default(),
        halt: Mutex::default(),
        begun: Instant::now(),
        run: Uuid::from_u128(rand::random()),
    })
}

/// How often a database that is away is asked at the start, once a second.
const TRIES: usize = 60;

/// Looks for the inbox and declares the consumer. A database that is away comes back, mostly; what is wrong with one that
/// is there is told at once.
async fn begin(
    config: &ClientConfig,
    registered: &Registered,
    database: &Database,
) -> Result<(), DatabaseError> {
    for _ in 1..TRIES {
        let begun = async {
            database.look_for_inbox().await?;
            retention::declare(config, registered, database).await
        };
        match begun.await {
            Err(error) if !error.is_permanent() => {
                tracing::warn!(error = attempt::sentence(&error), "waiting for the database");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            answer => return answer,
        }
    }
    database.look_for_inbox().await?;
    retention::declare(config, registered, database).await
}

/// What a failed client of Kafka is called.
impl From<KafkaError> for RunError {
    fn from(error: KafkaError) -> RunError {
        RunError::Kafka(Box::new(error))
    }
}
