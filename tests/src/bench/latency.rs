//! The open loop: single-row transactions at their intended times, whatever becomes of those before, and one
//! consumer. All times are of one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::ground::{Ground, NAME, PARTITIONS};
use super::results::{LatencyRun, Percentiles};
use crate::cluster::Postgres;
use crate::wait::eventually;

/// Connections that take turns, so that one slow commit does not hold up the next transactions.
const CONNECTIONS: u64 = 4;

/// Filler of the payload, which is about as long as a backlog's.
const FILLER: usize = 180;

/// Nanoseconds from the start of the measurement by row; 0 is not yet.
type Times = Arc<Vec<AtomicU64>>;

/// A consumer that notes when each row arrives.
pub struct Receiver {
    received: Times,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Consumes the topic from its beginning, on a thread of its own, for `rows` rows.
    ///
    /// # Panics
    /// When librdkafka refuses the configuration.
    pub fn start(ground: &Ground, topic: &str, rows: u64, zero: Instant) -> Receiver {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", ground.kafka.brokers())
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.min.bytes", "1")
            .set("fetch.queue.backoff.ms", "1")
            .create()
            .expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..i32::try_from(PARTITIONS).expect("few partitions") {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assignment).expect("an assignment");
        let received: Times = times(rows);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (received, stop) = (received.clone(), stop.clone());
            move || {
                while !stop.load(Relaxed) {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                        let now = nanos(zero);
                        if let Some(row) = message.payload().and_then(number) {
                            // The first time counts.
                            let _ = received[row as usize].compare_exchange(0, now, Relaxed, Relaxed);
                        }
                    }
                }
            }
        });
        Receiver { received, stop, thread: Some(thread) }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the consumer shows as rows that never came.
            let _ = thread.join();
        }
    }
}

/// Sends `seconds * rate` rows beginning with row `first`, and waits until the last has been received.
///
/// # Panics
/// When the server refuses, or a row does not arrive within a minute.
pub fn run(
    ground: &Ground,
    receiver: &Receiver,
    zero: Instant,
    (first, seconds, rate): (u64, u64, u64),
) -> LatencyRun {
    let rows = seconds * rate;
    let step = Duration::from_secs(1) / u32::try_from(rate).expect("a rate");
    // Everything is connected and prepared by then.
    let begin = Instant::now() + Duration::from_millis(500);
    let committed = times(rows);
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let committed = committed.clone();
            let turns = (connection..rows).step_by(CONNECTIONS as usize);
            scope.spawn(move || send(&ground.postgres, turns, &committed, (first, begin, step, zero)));
        }
    });
    let received = &receiver.received[first as usize..(first + rows) as usize];
    eventually(Duration::from_secs(60), "every row to arrive", || {
        received.iter().all(|time| time.load(Relaxed) > 0).then_some(())
    });
    let millis = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
    let (mut from_commit, mut from_intended, mut commit) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let intended =
            (begin + step * u32::try_from(row).expect("few rows")).duration_since(zero).as_nanos() as u64;
        let (committed, received) =
            (committed[row as usize].load(Relaxed), received[row as usize].load(Relaxed));
        from_commit.push(millis(committed, received));
        from_intended.push(millis(intended, received));
        commit.push(millis(intended, committed));
    }
    LatencyRun {
        rows,
        from_commit: Percentiles::of(from_commit),
        from_intended: Percentiles::of(from_intended),
        commit: Percentiles::of(commit),
    }
}

/// One connection's share of the rows.
fn send(
    postgres: &Postgres,
    turns: impl Iterator<Item = u64>,
    committed: &Times,
    (first, begin, step, zero): (u64, Instant, Duration, Instant),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = postgres.connect(NAME).await;
        let insert = format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
             VALUES ('{NAME}', $1, 'OrderPlaced', $2::text::json)"
        );
        let insert = client.prepare(&insert).await.expect("the outbox");
        let filler = "0123456789abcdef".repeat(FILLER / 16);
        for row in turns {
            let number = first + row;
            let key = format!("customer-{}", number * 7919 % 10_000);
            let payload = format!("{{\"n\":{number},\"filler\":\"{filler}\"}}");
            let intended = begin + step * u32::try_from(row).expect("few rows");
            // On the thread itself: the runtime's timers are exact to a millisecond only. Nothing else runs on it.
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            client.execute(&insert, &[&key, &payload]).await.expect("an insert");
            committed[row as usize].store(nanos(zero), Relaxed);
        }
    });
}

fn times(rows: u64) -> Times {
    Arc::new((0..rows).map(|_| AtomicU64::new(0)).collect())
}

fn nanos(zero: Instant) -> u64 {
    u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The number of a row, from its payload.
fn number(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?.strip_prefix("{\"n\":")?;
    text.split_once(',')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_known_by_their_number() {
        assert_eq!(number(b"{\"n\":42,\"filler\":\"x\"}"), Some(42));
        assert_eq!(number(b"{\"order\":42}"), None);
    }
}
