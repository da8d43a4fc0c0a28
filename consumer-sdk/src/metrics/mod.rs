//! What a running consumer lets be seen.
//!
//! | module | what it owns |
//! |---|---|
//! | [`counts`] | what is counted of events, as atomics |
//! | [`partitions`], [`marks`] | what was read of each partition, how far behind it is, and since when |
//! | [`engine`] | what the engine lets be seen |
//! | [`parked`] | the question to the park table |
//! | [`ends`] | the thread that asks where the logs end |
//! | [`status`] | all of it at one moment |
//! | [`families`] | the same as metrics, by name |
//! | [`admin`] | the same for a probe, a scraper and a person, where a port is asked for |
//!
//! The data path adds to atomics and to at most two histograms per event, and knows no exporter. A library opens no port
//! and chooses no exporter by itself: metrics go to the meter provider that the application has made OpenTelemetry's
//! global one before the consumer runs. Labels are topics, partitions, event types and closed sets; never a key,
//! a payload or what an error said.

pub(crate) mod admin;
pub(crate) mod counts;
pub(crate) mod ends;
pub(crate) mod engine;
mod families;
mod marks;
pub(crate) mod parked;
mod partitions;
pub(crate) mod status;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Meter;
use outbox_postgres_link::PoolLook;
use parking_lot::Mutex;

use crate::consumer::ParkLimits;
use crate::record::Record;
use counts::{Cause, Counts, Ended, Named, Retry, Series, Settled};
use engine::EngineLook;
use families::Histograms;
use marks::Mark;
use parked::ParkedLook;
use partitions::Partitions;
use status::Status;

/// The name of the meter.
pub(crate) const SCOPE: &str = "outbox_consumer";

/// A look at everything is taken again after this long, so that the instruments of one collection share one.
const FRESH: Duration = Duration::from_secs(1);

/// What a consumer is called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Its name, the scope of its inbox.
    pub(crate) consumer: String,
    /// The group it reads in.
    pub(crate) group: String,
}

/// Where what happens is written down. Cloning it is cheap; everything in a consumer shares one.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

/// Where metrics come from, as long as the consumer lives.
#[derive(Clone)]
struct Source(Weak<Inner>);

/// Something that is asked at each look; `None` once it has gone.
type Ask<T> = OnceLock<Box<dyn Fn() -> Option<T> + Send + Sync>>;

struct Inner {
    names: Names,
    begun: Instant,
    counts: Counts,
    partitions: Mutex<Partitions>,
    commits: AtomicU64,
    commits_failed: AtomicU64,
    assigned: AtomicU64,
    revoked: AtomicU64,
    lost: AtomicU64,
    standstills: AtomicU64,
    jumps: [AtomicU64; Jump::ALL.len()],
    engine: Ask<EngineLook>,
    pool: Ask<PoolLook>,
    park: OnceLock<ParkLimits>,
    told: Mutex<Told>,
    /// For the application's meter, and for that of the admin port.
    histograms: [OnceLock<Histograms>; 2],
    fresh: Mutex<Option<(Instant, Arc<Status>)>>,
}

/// What is said now and then.
#[derive(Default)]
struct Told {
    draining: bool,
    halted: Option<String>,
    parked: Option<(Instant, ParkedLook)>,
    parked_asked: Option<Instant>,
    /// When the park had no room last, and when that was said last.
    park_full: Option<Instant>,
    park_full_said: Option<Instant>,
    kafka_answered: Option<Instant>,
    /// Why it does not, since then.
    kafka_trouble: Option<String>,
}

/// How a partition left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Given back in order.
    Revoked,
    /// Another has it already (C30).
    Lost,
}

/// Why a partition does not begin where this consumer had left it (C49).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jump {
    /// Its committed offset lies behind what was reached.
    Back,
    /// Nothing is committed, although something was reached.
    Forgotten,
    /// Its log begins beyond the committed offset: records were deleted before they were read.
    Deleted,
    /// Its log ends before the committed offset: it is another log.
    Replaced,
}

impl Jump {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Jump; 4] = [Jump::Back, Jump::Forgotten, Jump::Deleted, Jump::Replaced];

    /// As labels have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Jump::Back => "back",
            Jump::Forgotten => "forgotten",
            Jump::Deleted => "deleted",
            Jump::Replaced => "replaced",
        }
    }
}

/// Set-up.
impl Metrics {
    /// Nothing was seen yet. `topics` are those that are read, `types` those that have a handler: the labels there
    /// will be.
    pub(crate) fn new(names: Names, topics: &[String], types: &[String]) -> Metrics {
        Metrics(Arc::new(Inner {
            counts: Counts::new(&names.consumer, topics, types),
            names,
            begun: Instant::now(),
            partitions: Mutex::default(),
            commits: AtomicU64::new(0),
            commits_failed: AtomicU64::new(0),
            assigned: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            standstills: AtomicU64::new(0),
            jumps: Default::default(),
            engine: OnceLock::new(),
            pool: OnceLock::new(),
            park: OnceLock::new(),
            told: Mutex::default(),
            histograms: [OnceLock::new(), OnceLock::new()],
            fresh: Mutex::new(None),
        }))
    }

    /// Publishes everything through a meter; at most two are.
    pub(crate) fn publish(&self, meter: &Meter) {
        let source = Source(Arc::downgrade(&self.0));
        if let Some(free) = self.0.histograms.iter().find(|histograms| histograms.get().is_none()) {
            free.get_or_init(|| families::publish(meter, &source));
        }
    }

    /// Asks the engine at each look. `ask` holds it weakly, takes its lock, and is called with none held.
    pub(crate) fn watch_engine(&self, ask: impl Fn() -> Option<EngineLook> + Send + Sync + 'static) {
        let _first = self.0.engine.set(Box::new(ask));
    }

    /// Asks the pool at each look.
    pub(crate) fn watch_pool(&self, ask: impl Fn() -> PoolLook + Send + Sync + 'static) {
        let _first = self.0.pool.set(Box::new(move || Some(ask())));
    }

    /// How much the park may hold.
    pub(crate) fn park_may_hold(&self, limits: ParkLimits) {
        let _first = self.0.park.set(limits);
    }

    /// What the consumer is called.
    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }
}

/// What the client's thread tells.
impl Metrics {
    /// Records were read.
    pub(crate) fn read<'r>(&self, records: impl Iterator<Item = &'r Record>) {
        let read = self.0.begun.elapsed();
        let mut partitions = self.0.partitions.lock();
        let mut records = records.peekable();
        // The client hands out what it has fetched of one partition before that of the next.
        while let Some(first) = records.peek() {
            let (topic, partition) = (first.topic.clone(), first.partition);
            let same = |record: &&Record| record.partition == partition && record.topic == topic;
            let of_it = std::iter::from_fn(|| records.next_if(same)).map(|record| {
                (Mark { offset: record.offset, read, timestamp: record.timestamp }, record.bytes())
            });
            partitions.read(&topic, partition, of_it);
        }
    }

    /// A partition was assigned and is read from `offset`; `starts` is the crash journal's count of unclean starts there.
    pub(crate) fn assigned(&self, topic: &Arc<str>, partition: i32, offset: i64, starts: u16) {
        self.0.assigned.fetch_add(1, Relaxed);
        self.0.partitions.lock().assigned(topic, partition, offset, starts);
    }

    /// A partition has left.
    pub(crate) fn unassigned(&self, topic: &str, partition: i32, how: Left) {
        let count = match how {
            Left::Revoked => &self.0.revoked,
            Left::Lost => &self.0.lost,
        };
        count.fetch_add(1, Relaxed);
        self.0.partitions.lock().unassigned(topic, partition);
    }

    /// The client did not read a partition that it was to read.
    pub(crate) fn stood_still(&self) {
        self.0.standstills.fetch_add(1, Relaxed);
    }

    /// A partition does not begin where this consumer had left it.
    pub(crate) fn jumped(&self, jump: Jump) {
        self.0.jumps[jump as usize].fetch_add(1, Relaxed);
    }

    /// A partition's offset was committed, or was not.
    pub(crate) fn committed(&self, done: bool) {
        let count = if done { &self.0.commits } else { &self.0.commits_failed };
        count.fetch_add(1, Relaxed);
    }

    /// The cluster has answered.
    pub(crate) fn kafka_answered(&self) {
        let mut told = self.0.told.lock();
        told.kafka_answered = Some(Instant::now());
        told.kafka_trouble = None;
    }

    /// Why a broker cannot be spoken to; it counts until the cluster answers.
    pub(crate) fn kafka_says(&self, why: String) {
        self.0.told.lock().kafka_trouble = Some(why);
    }

    /// Where a partition's log ends.
    pub(crate) fn log_ends(&self, topic: &str, partition: i32, end: i64) {
        self.0.partitions.lock().ends(topic, partition, end, self.0.begun.elapsed());
    }
}

/// What workers and the park's task tell.
impl Metrics {
    /// Where the events of a topic and a type are counted.
    pub(crate) fn series(&self, topic: &str, event_type: Option<&str>) -> u32 {
        u32::try_from(self.0.counts.number(topic, event_type)).unwrap_or(u32::MAX)
    }

    /// Counts events together that have the same series, one after the other.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { metrics: self, series: None, attempts: 0, settled: 0, today: None }
    }

    /// A handler was called, and ended so after this long. To be told before the attempt is counted in the record.
    pub(crate) fn attempted(&self, record: &Record, ended: Ended, took: Duration) {
        let series = self.0.counts.of_record(record);
        series.attempts[ended.number()].fetch_add(1, Relaxed);
        if ended.is_failure() && record.tries.counted > 0 {
            series.again.fetch_add(1, Relaxed);
        }
        for histograms in self.0.histograms.iter().filter_map(OnceLock::get) {
            histograms.handler.record(took.as_secs_f64(), &series.labels);
        }
    }

    /// A record is settled, durably.
    pub(crate) fn settled(&self, record: &Record, how: Settled) {
        let series = self.0.counts.of_record(record);
        series.settled[how.number()].fetch_add(1, Relaxed);
        if how == Settled::Done && self.is_heard() && record.timestamp > 0 {
            self.aged(record, series, today());
        }
    }

    /// Whether anybody hears of what histograms hold.
    fn is_heard(&self) -> bool {
        self.0.histograms.iter().any(|histograms| histograms.get().is_some())
    }

    /// How old a record is that is done.
    fn aged(&self, record: &Record, series: &Series, today: i64) {
        // A clock ahead of ours makes it zero.
        let age = today.saturating_sub(record.timestamp).max(0) as f64 / 1000.0;
        for histograms in self.0.histograms.iter().filter_map(OnceLock::get) {
            histograms.record_to_commit.record(age, &series.labels);
        }
    }

    /// An attempt has failed, and another follows.
    pub(crate) fn retried(&self, record: &Record, retry: Retry) {
        self.0.counts.of_record(record).retried(retry);
    }

    /// An event became a dead letter.
    pub(crate) fn dead_letter(&self, record: &Record, cause: Cause) {
        let series = self.0.counts.of_record(record);
        series.dead[cause.number()].fetch_add(1, Relaxed);
    }

    /// Whether the park table is to be asked again; the caller then does.
    pub(crate) fn parked_is_due(&self) -> bool {
        let mut told = self.0.told.lock();
        let due = told.parked_asked.is_none_or(|at| at.elapsed() >= parked::EVERY);
        if due {
            told.parked_asked = Some(Instant::now());
        }
        due
    }

    /// There was no room in the park. Whether that is to be said: it was not for so long.
    pub(crate) fn park_is_full(&self, silent: Duration) -> bool {
        let (mut told, now) = (self.0.told.lock(), Instant::now());
        told.park_full = Some(now);
        let due = told.park_full_said.is_none_or(|at| now.duration_since(at) >= silent);
        if due {
            told.park_full_said = Some(now);
        }
        due
    }

    /// What stands in the park table.
    pub(crate) fn saw_parked(&self, look: ParkedLook) {
        self.0.told.lock().parked = Some((Instant::now(), look));
    }
}

/// What the consumer as a whole tells, and asks.
impl Metrics {
    /// It was told to stop, and finishes what runs.
    pub(crate) fn draining(&self) {
        self.0.told.lock().draining = true;
    }

    /// It stops for good; the sentence holds no payload and no key.
    pub(crate) fn halted(&self, why: &str) {
        self.0.told.lock().halted.get_or_insert_with(|| why.to_owned());
    }

    /// Everything, at most a second old.
    pub(crate) fn status(&self) -> Arc<Status> {
        self.0.status()
    }

    /// Records settled since the beginning.
    pub(crate) fn settled_so_far(&self) -> u64 {
        self.0.counts.settled()
    }
}

#[cfg(test)]
impl Metrics {
    /// The next look is a new one.
    fn forget(&self) {
        *self.0.fresh.lock() = None;
    }
}

/// Events whose handlers went well, counted together. What is not counted yet is when this is dropped.
pub(crate) struct Tally<'m> {
    metrics: &'m Metrics,
    series: Option<&'m Series>,
    attempts: u64,
    settled: u64,
    /// The wall's clock: looked at once, where it is asked for.
    today: Option<i64>,
}

impl<'m> Tally<'m> {
    /// A handler's attempt has gone well.
    pub(crate) fn attempted(&mut self, record: &Record, took: Duration) {
        let series = self.of(record);
        self.attempts += 1;
        for histograms in self.metrics.0.histograms.iter().filter_map(OnceLock::get) {
            histograms.handler.record(took.as_secs_f64(), &series.labels);
        }
    }

    /// A record is settled: its handler's work is done.
    pub(crate) fn settled(&mut self, record: &Record) {
        let series = self.of(record);
        self.settled += 1;
        if self.metrics.is_heard() && record.timestamp > 0 {
            let today = *self.today.get_or_insert_with(today);
            self.metrics.aged(record, series, today);
        }
    }

    fn of(&mut self, record: &Record) -> &'m Series {
        let series = self.metrics.0.counts.of_record(record);
        if self.series.is_none_or(|last| !std::ptr::eq(last, series)) {
            self.count();
            self.series = Some(series);
        }
        series
    }

    fn count(&mut self) {
        let (attempts, settled) = (std::mem::take(&mut self.attempts), std::mem::take(&mut self.settled));
        let Some(series) = self.series else { return };
        if attempts > 0 {
            series.attempts[Ended::Done.number()].fetch_add(attempts, Relaxed);
        }
        if settled > 0 {
            series.settled[Settled::Done.number()].fetch_add(settled, Relaxed);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

impl Source {
    fn status(&self) -> Option<Arc<Status>> {
        Some(self.0.upgrade()?.status())
    }
}

impl Inner {
    fn status(&self) -> Arc<Status> {
        let mut fresh = self.fresh.lock();
        match &*fresh {
            Some((at, status)) if at.elapsed() < FRESH => status.clone(),
            _ => {
                let status = Arc::new(self.look());
                *fresh = Some((Instant::now(), status.clone()));
                status
            }
        }
    }

    fn look(&self) -> Status {
        // With nothing locked here but what only looks take: whoever has the engine may tell something meanwhile.
        let engine = self.engine.get().and_then(|ask| ask()).unwrap_or_default();
        let told = self.told.lock();
        let phase = match (&told.halted, told.draining) {
            (Some(_), _) => "halted",
            (None, true) => "draining",
            (None, false) => "running",
        };
        let halted = told.halted.clone();
        let kafka = status::Kafka {
            answered_seconds_ago: told.kafka_answered.map(|at| at.elapsed().as_secs_f64()),
            trouble: told.kafka_trouble.clone(),
        };
        let parked = told.parked.as_ref().filter(|(at, _)| at.elapsed() < parked::STALE);
        let parked = parked.map(|(at, look)| parked_status(look, at.elapsed()));
        let full = told.park_full.is_some_and(|at| at.elapsed() < parked::FULL);
        drop(told);
        // Let go before the totals lock them again.
        let partitions = self.partitions.lock().status(&engine, self.begun.elapsed(), today());
        Status {
            consumer: status::Who {
                name: self.names.consumer.clone(),
                group: self.names.group.clone(),
                version: env!("CARGO_PKG_VERSION"),
                uptime_seconds: self.begun.elapsed().as_secs(),
            },
            phase,
            halted,
            kafka,
            in_hand: status::InHand {
                records: engine.held.count,
                bytes: engine.held.bytes,
                ready_keys: engine.ready_keys,
                running: engine.running,
                full: engine.full,
            },
            isolation: status::Isolation { on: engine.isolated, suspects: engine.suspects },
            partitions,
            pool: self.pool.get().and_then(|ask| ask()).map(pool_status),
            parked,
            park: self.park.get().map(|limits| status::Park {
                full,
                most_events_of_key: limits.events_of_key,
                most_events: limits.events,
                most_bytes: limits.bytes,
            }),
            totals: self.totals(),
        }
    }

    fn totals(&self) -> status::Totals {
        status::Totals {
            commits: self.commits.load(Relaxed),
            commits_failed: self.commits_failed.load(Relaxed),
            partitions_assigned: self.assigned.load(Relaxed),
            partitions_revoked: self.revoked.load(Relaxed),
            partitions_lost: self.lost.load(Relaxed),
            standstills: self.standstills.load(Relaxed),
            offset_jumps: Jump::ALL.map(|jump| (jump.name(), self.jumps[jump as usize].load(Relaxed))).into(),
            read: self.partitions.lock().counted(),
            events: self.counts.used().map(events).collect(),
        }
    }
}

fn events(series: &counts::Series) -> status::Events {
    fn named<N: Named>(counts: &[AtomicU64]) -> BTreeMap<&'static str, u64> {
        N::ALL.iter().zip(counts).map(|(member, count)| (member.name(), count.load(Relaxed))).collect()
    }
    let retries = series.retries.iter().enumerate().map(|(at, count)| (at, count.load(Relaxed)));
    let rung = |at: usize| at.checked_sub(1).map_or("in_place".to_owned(), |rung| rung.to_string());
    status::Events {
        topic: series.topic.clone(),
        event_type: series.event_type.clone(),
        attempts: named::<Ended>(&series.attempts),
        settled: named::<Settled>(&series.settled),
        retries: retries.filter(|(at, n)| *at == 0 || *n > 0).map(|(at, count)| (rung(at), count)).collect(),
        dead_letters: named::<Cause>(&series.dead),
        same_record_failures: series.again.load(Relaxed),
    }
}

fn pool_status(look: PoolLook) -> status::Pool {
    let PoolLook { size, in_use, idle, waiting, waits, opened, discarded, broken } = look;
    status::Pool { size, in_use, idle, waiting, waits, opened, lost: discarded + broken }
}

fn parked_status(look: &ParkedLook, ago: Duration) -> status::Parked {
    status::Parked {
        waiting_keys: look.waiting.iter().sum(),
        waiting_by_rung: look.waiting.clone(),
        held_keys: look.held,
        events: look.events,
        bytes: look.bytes,
        oldest_seconds: look.oldest.as_secs_f64(),
        asked_seconds_ago: ago.as_secs_f64(),
    }
}

/// The wall's clock in Unix milliseconds.
fn today() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
