//! How far the consumers' group has come: which offsets it has committed, against the ends of the log.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::task::JoinError;

use super::broker::{Broker, PARTITIONS};

/// How long one question to the broker may take.
const ASK: Duration = Duration::from_secs(5);

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The client failed.
    #[error("the consumers' committed offsets cannot be read")]
    Client(#[from] KafkaError),
    /// The question panicked.
    #[error("asking for the consumers' committed offsets failed")]
    Ask(#[from] JoinError),
}

/// The group of the consumers, seen from outside.
pub struct Group {
    consumer: Arc<BaseConsumer>,
    topic: String,
}

impl Group {
    /// Of this broker; asks nothing yet.
    ///
    /// # Errors
    /// [`GroupError::Client`].
    pub fn of(broker: &Broker) -> Result<Group, GroupError> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &broker.servers)
            // Asks as the group does, and never joins it.
            .set("group.id", &broker.group)
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(Group { consumer: Arc::new(consumer), topic: broker.topic() })
    }

    /// What it has committed, and the ends that the log has now.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn standing(&self) -> Result<Standing, GroupError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        Ok(tokio::task::spawn_blocking(move || standing(&consumer, &topic)).await??)
    }
}

fn standing(consumer: &BaseConsumer, topic: &str) -> Result<Standing, KafkaError> {
    let mut all = TopicPartitionList::new();
    all.add_partition_range(topic, 0, PARTITIONS - 1);
    let mut standing = Standing::default();
    for element in consumer.committed_offsets(all, ASK)?.elements() {
        element.error()?;
        let (first, end) = consumer.fetch_watermarks(topic, element.partition(), ASK)?;
        let committed = match element.offset() {
            Offset::Offset(offset) => offset,
            // Nothing yet.
            _ => first,
        };
        standing.partitions.push(Partition { committed, end });
    }
    Ok(standing)
}

/// How far the group has come in each partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Partition {
    committed: i64,
    end: i64,
}

impl Standing {
    /// Records that are not committed yet.
    pub fn remaining(&self) -> u64 {
        self.partitions.iter().map(|Partition { committed, end }| end.abs_diff(*committed)).sum()
    }

    /// Whether each partition has come on since, or has no more to do.
    pub fn has_come_on_since(&self, before: &Standing) -> bool {
        let come_on = |(now, before): (&Partition, &Partition)| {
            now.committed > before.committed || now.committed == now.end
        };
        self.partitions.iter().zip(&before.partitions).all(come_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(partitions: [(i64, i64); 2]) -> Standing {
        let partition = |(committed, end)| Partition { committed, end };
        Standing { partitions: partitions.map(partition).into() }
    }

    #[test]
    fn a_group_has_come_on_when_every_partition_has() {
        let before = standing([(5, 9), (0, 0)]);
        assert_eq!(before.remaining(), 4);
        assert!(!before.has_come_on_since(&before));
        assert!(standing([(6, 9), (0, 0)]).has_come_on_since(&before));
        assert!(!standing([(6, 9), (0, 1)]).has_come_on_since(&before));
        assert!(standing([(9, 9), (1, 4)]).has_come_on_since(&before));
    }

    #[tokio::test]
    async fn a_group_that_never_committed_has_everything_before_it() {
        let broker = Broker::in_memory().unwrap();
        let standing = Group::of(&broker).unwrap().standing().await.unwrap();
        assert_eq!((standing.partitions.len(), standing.remaining()), (PARTITIONS as usize, 0));
    }
}
