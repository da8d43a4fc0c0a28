//! What Kafka says of itself, asked behind the proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::stage::{SCOPES, Stage};
use crate::cluster::Kafka;

/// Limit of one question.
const QUESTION: Duration = Duration::from_secs(3);

/// Leaders by topic and partition; a partition without one has -1.
pub type Leaders = BTreeMap<(String, i32), i32>;

/// Asks the brokers. Every question blocks.
pub struct Cluster {
    client: BaseConsumer,
    groups: Vec<BaseConsumer>,
    brokers: usize,
    ends: BTreeMap<(String, i32), i64>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Asks this Kafka; nothing is asked yet.
    ///
    /// # Panics
    /// When no client can be made.
    pub fn of(kafka: &Kafka) -> Cluster {
        let client = |group: &str| -> BaseConsumer {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", kafka.inside()).set("group.id", group).set("log_level", "0");
            config.set("reconnect.backoff.max.ms", "500").set("socket.timeout.ms", "3000");
            config.create().expect("a Kafka client")
        };
        let groups = SCOPES.iter().map(|(scope, _)| client(scope)).collect();
        Cluster { client: client("chaos"), groups, brokers: kafka.count(), ends: BTreeMap::new() }
    }

    /// Leaders of all partitions of the events' topics, if somebody answers.
    pub fn leaders(&self) -> Option<Leaders> {
        self.partitions(|partition| Some(partition.leader()))
    }

    /// Whether all brokers are there and every replica of every topic is in sync.
    pub fn is_whole(&self) -> bool {
        let Ok(metadata) = self.client.fetch_metadata(None, QUESTION) else { return false };
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        metadata.brokers().len() == self.brokers
            && partitions.into_iter().all(|p| p.leader() > 0 && p.isr().len() == p.replicas().len())
    }

    /// Replicas by topic and partition, the preferred leader first.
    pub fn replicas(&self) -> Option<BTreeMap<(String, i32), Vec<i32>>> {
        self.partitions(|partition| Some(partition.replicas().to_vec()))
    }

    fn partitions<T>(
        &self,
        of: impl Fn(&rdkafka::metadata::MetadataPartition) -> Option<T>,
    ) -> Option<BTreeMap<(String, i32), T>> {
        let metadata = self.client.fetch_metadata(None, QUESTION).ok()?;
        let topics = Stage::topics();
        let ours = metadata.topics().iter().filter(|topic| topics.iter().any(|name| name == topic.name()));
        let mut found = BTreeMap::new();
        for topic in ours {
            for partition in topic.partitions() {
                found.insert((topic.name().to_owned(), partition.id()), of(partition)?);
            }
        }
        Some(found)
    }

    /// Records on the events' topics, as far as the brokers say; where one does not, as it said before.
    pub fn published(&mut self) -> u64 {
        let Some(leaders) = self.leaders() else { return self.sum() };
        for (topic, partition) in leaders.into_keys() {
            if let Ok((_, end)) = self.client.fetch_watermarks(&topic, partition, QUESTION) {
                self.ends.insert((topic, partition), end);
            }
        }
        self.sum()
    }

    fn sum(&self) -> u64 {
        self.ends.values().map(|end| end.unsigned_abs()).sum()
    }

    /// Records that the groups have not committed past, by the ends that [`Cluster::published`] found; `None` where
    /// somebody does not answer.
    pub fn lag(&self) -> Option<u64> {
        let mut lag = 0;
        for group in &self.groups {
            let mut list = TopicPartitionList::new();
            self.ends.keys().for_each(|(topic, partition)| _ = list.add_partition(topic, *partition));
            let committed = group.committed_offsets(list, QUESTION).ok()?;
            for element in committed.elements() {
                let end =
                    self.ends.get(&(element.topic().to_owned(), element.partition())).copied().unwrap_or(0);
                let reached = match element.offset() {
                    Offset::Offset(offset) => offset,
                    _ => 0,
                };
                lag += (end - reached).max(0).unsigned_abs();
            }
        }
        Some(lag)
    }
}
