//! The records of some topics, read from Kafka from the beginning.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};

use super::judge::Published;
use crate::wait::eventually;

/// How long Kafka may be silent before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of aborted and of open transactions, too.
    ReadUncommitted,
    /// Only those that a careful consumer sees.
    ReadCommitted,
}

/// What stands on the log, as far as it was read. Reading blocks the calling thread.
pub struct Log {
    consumer: BaseConsumer,
    /// Asks for the ends: on the consumer's own connection each question would wait behind a fetch that
    /// waits for records.
    asker: BaseConsumer,
    partitions: Vec<(String, i32)>,
    records: Vec<Published>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("partitions", &self.partitions)
            .field("records", &self.records.len())
            .finish()
    }
}

impl Log {
    /// Opens all partitions of these topics at their beginning; reads nothing yet.
    ///
    /// # Panics
    /// When Kafka does not answer or a topic is missing.
    pub fn open(brokers: &str, topics: &[&str], isolation: Isolation) -> Log {
        let isolation = match isolation {
            Isolation::ReadUncommitted => "read_uncommitted",
            Isolation::ReadCommitted => "read_committed",
        };
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("group.id", "history")
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation)
            .set("fetch.queue.backoff.ms", "5")
            .set("allow.auto.create.topics", "false")
            // A broker that is killed on purpose is no news.
            .set("log_level", "2");
        let [consumer, asker]: [BaseConsumer; 2] = [(); 2].map(|()| config.create().expect("a Kafka client"));
        let mut list = TopicPartitionList::new();
        for topic in topics {
            let metadata = asker.fetch_metadata(Some(topic), PATIENCE).expect("Kafka answers");
            let found = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
            assert!(!found.is_empty(), "there is no topic {topic}");
            for partition in found {
                list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a legal offset");
            }
        }
        consumer.assign(&list).expect("partitions that are there");
        let partitions = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        Log { consumer, asker, partitions, records: Vec::new() }
    }

    /// What was read so far; within a partition in the order of offsets.
    pub fn records(&self) -> &[Published] {
        &self.records
    }

    /// Partition and offset of each record: of a topic without transactions none is left out.
    pub fn places(&self) -> Vec<(i32, i64)> {
        let mut places: Vec<_> =
            self.records.iter().map(|record| (record.partition, record.offset)).collect();
        places.sort_unstable();
        places
    }

    /// Reads on to the ends that the partitions have now.
    ///
    /// # Panics
    /// When Kafka is silent for a minute.
    pub fn catch_up(&mut self) {
        let mut left: HashMap<(String, i32), i64> = HashMap::new();
        for (topic, partition) in &self.partitions {
            // A partition that was just made may not have been told to its leader yet.
            let (low, end) = eventually(PATIENCE, &format!("the end of {topic}/{partition}"), || {
                self.asker.fetch_watermarks(topic, *partition, PATIENCE).ok()
            });
            if end > low {
                left.insert((topic.clone(), *partition), end);
            }
        }
        let mut heard = Instant::now();
        loop {
            // Transaction markers take offsets and are no records, so the end is told by the position.
            self.drop_reached(&mut left);
            if left.is_empty() {
                return;
            }
            while let Some(message) = self.consumer.poll(Duration::from_millis(50)) {
                if let Ok(message) = message {
                    self.records.push(published(&message));
                    heard = Instant::now();
                    if left.get(&(message.topic().to_owned(), message.partition()))
                        == Some(&(message.offset() + 1))
                    {
                        break;
                    }
                }
            }
            assert!(heard.elapsed() < PATIENCE, "Kafka is silent before the ends {left:?}");
        }
    }

    fn drop_reached(&self, left: &mut HashMap<(String, i32), i64>) {
        let positions = self.consumer.position().expect("an assignment");
        for reached in positions.elements() {
            if let Offset::Offset(offset) = reached.offset() {
                let name = (reached.topic().to_owned(), reached.partition());
                if left.get(&name).is_some_and(|end| offset >= *end) {
                    left.remove(&name);
                }
            }
        }
    }
}

fn published(message: &BorrowedMessage<'_>) -> Published {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Published {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect(),
    }
}
