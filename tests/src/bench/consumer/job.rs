//! The process that is measured: a consumer with a handler, or the bare loop. It says on its standard output what it
//! has handled, and ends when its standard input does.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use outbox_consumer::ladder::{hours, in_place};
use outbox_consumer::{Consumer, Event, Raw, Tx, WithDatabase, done, idempotent, transactional};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::{Deserialize, Serialize};

use super::preload::{EVENT_TYPE, Order};
use crate::bench::usage::{cpu_nanos, memory_kib};

/// What the process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Name of the consumer, of its group and of the scope of its inbox.
    pub name: String,
    /// What it reads.
    pub topic: String,
    /// What it does with an event.
    pub work: Work,
    /// It tells when it has handled this many, and then every [`Job::every`] more.
    pub warm_up: u64,
    /// Events between two tellings.
    pub every: u64,
}

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Nothing, and by librdkafka alone.
    Bare,
    /// Nothing.
    Nothing,
    /// A sleep of one millisecond.
    Sleep {
        /// Handlers at once.
        handlers: usize,
    },
    /// A row of its key is updated.
    Update {
        /// Handlers at once.
        handlers: usize,
        /// Most events of one commit.
        group: usize,
        /// Whether the handler waits for no answer.
        pipelined: bool,
    },
    /// A row is inserted, by the consumer's defaults.
    Insert,
}

/// What the process says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Events handled.
    pub handled: u64,
    /// Seconds since the first.
    pub seconds: f64,
    /// Processor time of the process until then.
    pub cpu_nanos: u64,
    /// The most memory that it has held, in KiB.
    pub peak_rss_kib: u64,
}

/// Counts what was handled.
struct Tally {
    zero: Instant,
    handled: AtomicU64,
    first_nanos: AtomicU64,
    warm_up: u64,
    every: u64,
}

impl Tally {
    fn of(job: &Job) -> Arc<Tally> {
        let (handled, first_nanos) = (AtomicU64::new(0), AtomicU64::new(0));
        let (warm_up, every) = (job.warm_up, job.every.max(1));
        Arc::new(Tally { zero: Instant::now(), handled, first_nanos, warm_up, every })
    }

    fn count(&self) {
        let before = self.handled.fetch_add(1, Relaxed);
        if before == 0 {
            self.first_nanos.store(self.nanos(), Relaxed);
        }
        let handled = before + 1;
        if handled >= self.warm_up && (handled - self.warm_up).is_multiple_of(self.every) {
            self.tell(handled);
        }
    }

    fn tell(&self, handled: u64) {
        let since = self.nanos().saturating_sub(self.first_nanos.load(Relaxed));
        let own = std::process::id();
        let told = Told {
            handled,
            seconds: since as f64 / 1e9,
            cpu_nanos: cpu_nanos(own).unwrap_or(0),
            peak_rss_kib: memory_kib(own, "VmHWM").unwrap_or(0),
        };
        println!("{}", serde_json::to_string(&told).expect("numbers"));
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Does the job until standard input ends.
///
/// # Errors
/// The consumer's own.
pub fn run(job: &Job) -> anyhow::Result<()> {
    let tally = Tally::of(job);
    if job.work == Work::Bare {
        return bare(job, &tally);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(consume(job, tally))
}

/// librdkafka with the consumer's own settings, and nothing behind it.
fn bare(job: &Job, tally: &Tally) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", std::env::var("KAFKA_BROKERS")?)
        .set("group.id", &job.name)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "16384")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .create()?;
    consumer.subscribe(&[&job.topic])?;
    let ended = Arc::new(AtomicU64::new(0));
    let hearing = std::thread::spawn({
        let ended = ended.clone();
        move || {
            until_told();
            ended.store(1, Relaxed);
        }
    });
    while ended.load(Relaxed) == 0 {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message?;
            tally.count();
        }
    }
    // It has nothing that could panic.
    let _ = hearing.join();
    Ok(())
}

async fn consume(job: &Job, tally: Arc<Tally>) -> anyhow::Result<()> {
    let told = async {
        let waiting = tokio::task::spawn_blocking(until_told);
        // It has nothing that could panic.
        let _ = waiting.await;
    };
    match job.work {
        Work::Bare => {}
        Work::Nothing => {
            let nothing = move |_: Event<Raw>| {
                tally.count();
                std::future::ready(done())
            };
            set_up(job, Consumer::without_database(&job.name))
                .on(EVENT_TYPE, idempotent(nothing))
                .run_until(told)
                .await?;
        }
        Work::Sleep { handlers } => {
            let sleep = move |_: Event<Raw>| {
                let tally = tally.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    tally.count();
                    done()
                }
            };
            set_up(job, Consumer::without_database(&job.name))
                .concurrency(handlers)
                .on(EVENT_TYPE, idempotent(sleep))
                .run_until(told)
                .await?;
        }
        Work::Update { handlers, group, pipelined } => {
            let update = move |order: Event<Order>, tx: Tx| {
                let tally = tally.clone();
                async move {
                    let sku = order.facts().key().unwrap_or_default();
                    let update = "UPDATE stock SET free = free - 1 WHERE sku = $1";
                    if pipelined {
                        tx.execute_pipelined(update, &[&sku]).await?;
                    } else {
                        tx.execute(update, &[&sku]).await?;
                    }
                    tally.count();
                    done()
                }
            };
            grouped(set_up(job, Consumer::from_env(&job.name)), group)
                .concurrency(handlers)
                .on(EVENT_TYPE, transactional(update))
                .run_until(told)
                .await?;
        }
        Work::Insert => {
            let insert = move |order: Event<Order>, tx: Tx| {
                let tally = tally.clone();
                async move {
                    tx.execute("INSERT INTO effect (number) VALUES ($1)", &[&order.number]).await?;
                    tally.count();
                    done()
                }
            };
            set_up(job, Consumer::from_env(&job.name))
                .on(EVENT_TYPE, transactional(insert))
                .run_until(told)
                .await?;
        }
    }
    Ok(())
}

fn set_up<D>(job: &Job, consumer: Consumer<D>) -> Consumer<D> {
    consumer.owner("bench", hours(1)).topic(&job.topic).retry(in_place(3))
}

/// At most so many events of one commit.
fn grouped(consumer: Consumer<WithDatabase>, most: usize) -> Consumer<WithDatabase> {
    consumer.group_commit(most)
}

/// Standard input ends when the one that asked does.
fn until_told() {
    let mut nothing = [0; 64];
    while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
}
