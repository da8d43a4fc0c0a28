//! Reads everything the relay publishes, from the first record on, for the screen and for the judge.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use super::broker::{Broker, PARTITIONS};
use super::verdict::Published;
use outbox_schema::record::header;

/// How long the thread waits for a record before it looks around.
const POLL: Duration = Duration::from_millis(50);
/// How long one question to the broker may take.
const ASK: Duration = Duration::from_secs(5);
/// What a record takes on the log beyond key and value: its headers and its share of a batch.
const OVERHEAD: usize = 300;
/// The broker in memory silently drops what is older than 5 MiB or 100,000 batches in a partition. A
/// record is counted uncompressed and as a batch of its own, so these stay below either.
const MOST_BYTES: usize = 4 << 20;
const MOST_RECORDS: usize = 80_000;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The client failed.
    #[error("the log cannot be read")]
    Client(#[from] KafkaError),
    /// The broker dropped records before they were read: nothing can be said about them.
    #[error("partition {partition} goes on at offset {found} after {expected}: the broker dropped records")]
    Gap {
        /// The partition.
        partition: i32,
        /// The offset that should have come.
        expected: i64,
        /// The one that came.
        found: i64,
    },
    /// The end of the log was not reached in time.
    #[error("the end of the log was not reached within {0:?}")]
    Slow(Duration),
    /// The reading thread could not be made, or ended by itself.
    #[error("the thread that reads the log is gone")]
    Thread,
}

/// What has been read so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct ids.
    pub published: usize,
    /// Records beyond the first of their id.
    pub repeated: usize,
}

/// The reader: one thread with one consumer on all partitions, outside of any group.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Read on to the end that the log has now, then stop.
    finish: AtomicBool,
    /// Stop.
    abandon: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    records: Vec<Published>,
    ids: HashSet<Uuid>,
    partitions: [Volume; PARTITIONS as usize],
    failure: Option<LogError>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Volume {
    records: usize,
    bytes: usize,
    next: i64,
}

impl LogReader {
    /// Begins at the first record of every partition.
    ///
    /// # Errors
    /// [`LogError::Client`] or [`LogError::Thread`].
    pub fn start(broker: &Broker) -> Result<LogReader, LogError> {
        let topic = broker.topic();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &broker.servers)
            // The client asks for a name; without subscribing and committing no group comes to be.
            .set("group.id", "outbox-demo")
            .set("enable.auto.commit", "false")
            // Where an offset is gone, say so instead of going on elsewhere.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_uncommitted")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.queue.backoff.ms", "5")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(&topic, partition, Offset::Offset(0))?;
        }
        consumer.assign(&all)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let read = move || {
            if let Err(error) = read(&consumer, &topic, &theirs) {
                theirs.seen.lock().failure = Some(error);
            }
        };
        let thread = thread::Builder::new().name("demo-log".into()).spawn(read);
        Ok(LogReader { shared, thread: Some(thread.map_err(|_| LogError::Thread)?) })
    }

    /// What has been read so far.
    pub fn counts(&self) -> Counts {
        let seen = self.shared.seen.lock();
        let published = seen.ids.len();
        Counts { published, repeated: seen.records.len() - published }
    }

    /// Whether a partition nears what the broker in memory keeps.
    pub fn is_nearly_full(&self) -> bool {
        let seen = self.shared.seen.lock();
        seen.partitions.iter().any(|volume| volume.bytes > MOST_BYTES || volume.records > MOST_RECORDS)
    }

    /// Whether reading has failed; [`LogReader::finish`] says why.
    pub fn has_failed(&self) -> bool {
        self.shared.seen.lock().failure.is_some()
    }

    /// Reads on to the end that the log has now; gives every record, each partition's by offset.
    ///
    /// # Errors
    /// [`LogError`]; what was read says nothing then.
    pub async fn finish(mut self, patience: Duration) -> Result<Vec<Published>, LogError> {
        self.shared.finish.store(true, Relaxed);
        let deadline = Instant::now() + patience;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return Err(LogError::Slow(patience));
            }
            tokio::time::sleep(POLL / 5).await;
        }
        let clean = self.thread.take().is_some_and(|thread| thread.join().is_ok());
        let mut seen = std::mem::take(&mut *self.shared.seen.lock());
        match seen.failure.take() {
            Some(failure) => Err(failure),
            None if clean => Ok(seen.records),
            None => Err(LogError::Thread),
        }
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.shared.abandon.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn read(consumer: &BaseConsumer, topic: &str, shared: &Shared) -> Result<(), LogError> {
    let mut ends: Option<Vec<i64>> = None;
    while !shared.abandon.load(Relaxed) {
        match consumer.poll(POLL) {
            Some(Ok(message)) => shared.seen.lock().add(&message)?,
            Some(Err(error)) if is_final(&error) => return Err(error.into()),
            // What else the client reports it mends by itself.
            Some(Err(_)) | None => {}
        }
        if ends.is_none() && shared.finish.load(Relaxed) {
            ends = Some(ends_of(consumer, topic)?);
        }
        if ends.as_ref().is_some_and(|ends| shared.seen.lock().has_reached(ends)) {
            break;
        }
    }
    Ok(())
}

fn is_final(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::Fatal
        )
    })
}

fn ends_of(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i64>, LogError> {
    let end = |partition| Ok(consumer.fetch_watermarks(topic, partition, ASK)?.1);
    (0..PARTITIONS).map(end).collect()
}

impl Seen {
    fn add(&mut self, message: &BorrowedMessage<'_>) -> Result<(), LogError> {
        let (partition, found) = (message.partition(), message.offset());
        let bytes =
            message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len) + OVERHEAD;
        let volume = usize::try_from(partition).ok().and_then(|index| self.partitions.get_mut(index));
        let Some(volume) = volume else { return Ok(()) };
        // Offsets of the demo's topic are dense: no compaction, no transaction markers.
        if found != volume.next {
            return Err(LogError::Gap { partition, expected: volume.next, found });
        }
        *volume = Volume { records: volume.records + 1, bytes: volume.bytes + bytes, next: found + 1 };
        let id = id_of(message).unwrap_or(Uuid::nil());
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        self.ids.insert(id);
        self.records.push(Published { id, key, partition });
        Ok(())
    }

    fn has_reached(&self, ends: &[i64]) -> bool {
        self.partitions.iter().zip(ends).all(|(volume, end)| volume.next >= *end)
    }
}

fn id_of(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let header = message.headers()?.iter().find(|named| named.key == header::ID)?;
    Uuid::try_parse_ascii(header.value?).ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    fn send(producer: &BaseProducer, topic: &str, id: Uuid, partition: i32) {
        let id = id.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: header::ID, value: Some(&id) });
        let record = BaseRecord::to(topic).key("o-1").payload("{}").partition(partition).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    #[tokio::test]
    async fn everything_up_to_the_end_is_read() {
        let broker = Broker::in_memory().unwrap();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &broker.servers).create().unwrap();
        for (id, partition) in [(1, 0), (2, 0), (1, 0), (3, 11)] {
            send(&producer, &broker.topic(), Uuid::from_u128(id), partition);
        }
        producer.flush(ASK).unwrap();
        let reader = LogReader::start(&broker).unwrap();
        let records = reader.finish(ASK * 2).await.unwrap();
        let of = |partition| -> Vec<u128> {
            records.iter().filter(|r| r.partition == partition).map(|r| r.id.as_u128()).collect()
        };
        assert_eq!((of(0), of(11), records.len()), (vec![1, 2, 1], vec![3], 4));
        assert!(records.iter().all(|record| record.key == "o-1"));
    }

    #[test]
    fn the_end_is_reached_when_every_partition_is() {
        let mut seen = Seen::default();
        let mut ends = vec![0; PARTITIONS as usize];
        assert!(seen.has_reached(&ends));
        ends[3] = 2;
        assert!(!seen.has_reached(&ends));
        seen.partitions[3].next = 2;
        assert!(seen.has_reached(&ends));
    }
}
