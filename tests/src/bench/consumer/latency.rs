//! The open loop: events at their intended times, whatever becomes of those before, and when another session sees their
//! effects. All times are of one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio_postgres::Client;
use uuid::Uuid;

use super::ground::{Ground, NAME};
use super::instance::Instance;
use super::plan::{Counts, KEYS};
use super::preload::{EVENT_TYPE, key, payload};
use super::results::LatencyRun;
use crate::bench::results::Percentiles;
use crate::bench::usage::memory_kib;

/// Time between two looks of the session that watches.
const LOOK: Duration = Duration::from_millis(1);

/// How long the last effect may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nanoseconds from the start of the measurement by event; 0 is not yet.
type Times = Arc<Vec<AtomicU64>>;

/// Notes when the broker has acknowledged an event.
struct Acknowledged {
    times: Times,
    zero: Instant,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if result.is_ok() {
            self.times[number].store(nanos(self.zero), Relaxed);
        }
    }
}

/// The open loop over all its runs.
pub struct Loop {
    topic: String,
    zero: Instant,
    /// What `zero` is on the clock of the server, in microseconds since 1970.
    zero_micros: i64,
    acknowledged: Times,
    producer: Arc<ThreadedProducer<Acknowledged>>,
}

impl Loop {
    /// An open loop of so many events in all.
    ///
    /// # Panics
    /// When librdkafka refuses the configuration.
    pub fn new(ground: &Ground, topic: &str, events: u64) -> Loop {
        let (acknowledged, zero) = (times(events), Instant::now());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", ground.kafka.brokers())
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .create_with_context(Acknowledged { times: acknowledged.clone(), zero })
            .expect("a producer");
        Loop {
            topic: topic.to_owned(),
            zero,
            zero_micros: i64::try_from(now.as_micros()).expect("a year before 290,000"),
            acknowledged,
            producer: Arc::new(producer),
        }
    }

    /// One run: `seconds` of events, beginning with number `first`.
    ///
    /// # Panics
    /// When the effects do not come within a minute.
    pub async fn run(
        &self,
        ground: &Ground,
        instance: &Instance,
        counts: &Counts,
        (first, seconds): (u64, u64),
    ) -> LatencyRun {
        let events = seconds * counts.rate;
        let step = Duration::from_secs(1) / u32::try_from(counts.rate).expect("a rate");
        let watching = ground.postgres.connect(NAME).await;
        let begin = Instant::now() + Duration::from_millis(200);
        let before = instance.cpu_nanos();
        let sending = std::thread::spawn({
            let (producer, topic) = (self.producer.clone(), self.topic.clone());
            move || (0..events).for_each(|turn| send(&producer, &topic, first + turn, at(begin, step, turn)))
        });
        let seen = self.watch(&watching, first, events).await;
        let load = (instance.cpu_nanos() - before) as f64 / begin.elapsed().as_nanos() as f64;
        sending.join().expect("every event was sent");
        let committed = self.committed(&ground.client, first, events).await;
        let millis = |to: &dyn Fn(u64) -> f64| {
            let intended = |turn| at(begin, step, turn).duration_since(self.zero).as_nanos() as f64 / 1e6;
            Percentiles::of((0..events).map(|turn| to(turn) - intended(turn)).collect())
        };
        LatencyRun {
            events,
            acknowledged: millis(&|turn| {
                self.acknowledged[(first + turn) as usize].load(Relaxed) as f64 / 1e6
            }),
            committed: millis(&|turn| committed[turn as usize]),
            seen: millis(&|turn| seen[turn as usize]),
            peak_rss_kib: memory_kib(instance.pid(), "VmHWM").unwrap_or(0),
            load,
        }
    }

    /// Looks for effects until all are there; when each was first seen, in milliseconds. Seen is when the answer has
    /// come, so the time is never too short, and too long by one look at most.
    async fn watch(&self, client: &Client, first: u64, events: u64) -> Vec<f64> {
        let look = client.prepare("SELECT number FROM effect WHERE number >= $1").await.expect("the effects");
        let mut seen = vec![0.0_f64; events as usize];
        let (mut below, mut last) = (0, Instant::now());
        while below < seen.len() {
            tokio::time::sleep(LOOK).await;
            let from = i64::try_from(first + below as u64).expect("few events");
            let rows = client.query(&look, &[&from]).await.expect("the effects");
            let now = nanos(self.zero) as f64 / 1e6;
            for row in &rows {
                let place = (row.get::<_, i64>(0) as u64 - first) as usize;
                if seen[place] == 0.0 {
                    (seen[place], last) = (now, Instant::now());
                }
            }
            below += seen[below..].iter().take_while(|time| **time > 0.0).count();
            assert!(last.elapsed() < PATIENCE, "{} effects are missing", seen.len() - below);
        }
        seen
    }

    /// The times of the commits by the server's clock, in milliseconds.
    async fn committed(&self, client: &Client, first: u64, events: u64) -> Vec<f64> {
        let query =
            "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM effect
                      WHERE number >= $1 AND number < $1 + $2 ORDER BY number";
        let numbers = (i64::try_from(first), i64::try_from(events));
        let (Ok(first), Ok(events)) = numbers else { panic!("few events") };
        let rows = client.query(query, &[&first, &events]).await.expect("the times of commits");
        rows.iter().map(|row| (row.get::<_, i64>(0) - self.zero_micros) as f64 / 1e3).collect()
    }
}

fn at(begin: Instant, step: Duration, turn: u64) -> Instant {
    begin + step * u32::try_from(turn).expect("few events")
}

/// Sends an event at its time, or at once where that has passed.
fn send(producer: &ThreadedProducer<Acknowledged>, topic: &str, number: u64, intended: Instant) {
    let key = key(u32::try_from(number * 7919 % u64::from(KEYS)).expect("few keys"));
    let payload = payload(number, [number; 4]);
    let id = Uuid::now_v7().to_string();
    let headers = OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: "id", value: Some(&id) })
        .insert(Header { key: "type", value: Some(EVENT_TYPE) });
    let place = usize::try_from(number).expect("few events");
    std::thread::sleep(intended.saturating_duration_since(Instant::now()));
    let record = BaseRecord::with_opaque_to(topic, place).key(&key).payload(&payload).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("room in the producer");
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What was not sent shows as effects that are missing.
        let _ = self.producer.flush(Duration::from_secs(10));
    }
}

fn times(events: u64) -> Times {
    Arc::new((0..events).map(|_| AtomicU64::new(0)).collect())
}

fn nanos(zero: Instant) -> u64 {
    u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
