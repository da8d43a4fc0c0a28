//! Reads a lane's state record without owning the lane and without disturbing its owner: for commands that
//! only show it. A session reads with [`super::Store`], after it has fenced every other writer.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{StateError, StateRecord};
use crate::config::Settings;
use crate::publisher::{Contact, base_config};
use crate::router::topics::cluster::{Cluster, Look};

/// One wait for the broker; between two the limit is looked at.
const SLICE: Duration = Duration::from_millis(500);

/// Why the record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    /// The broker refused, or could not be asked.
    #[error("the state topic {topic} cannot be read")]
    Kafka {
        /// The topic.
        topic: String,
        /// What was said.
        source: KafkaError,
    },
    /// It took too long.
    #[error("the state topic {topic} was not read to its end within {limit:?}")]
    Slow {
        /// The topic.
        topic: String,
        /// The limit.
        limit: Duration,
    },
    /// The record cannot be understood.
    #[error("the state record on topic {topic}")]
    Record {
        /// The topic.
        topic: String,
        /// What is wrong with it.
        source: StateError,
    },
}

/// The newest committed record of a lane; `None` where there is none.
///
/// # Errors
/// See [`PeekError`].
pub fn peek(settings: &Settings, lane: u32, limit: Duration) -> Result<Option<StateRecord>, PeekError> {
    let topic = || settings.state.topic.clone();
    let bytes =
        newest(settings, lane, limit).map_err(|source| PeekError::Kafka { topic: topic(), source })?;
    match bytes {
        None => Err(PeekError::Slow { topic: topic(), limit }),
        Some(None) => Ok(None),
        Some(Some(bytes)) => StateRecord::decode(&bytes)
            .map(Some)
            .map_err(|source| PeekError::Record { topic: topic(), source }),
    }
}

/// The newest value under the lane's key; `None` when the limit has passed.
fn newest(settings: &Settings, lane: u32, limit: Duration) -> Result<Option<Option<Vec<u8>>>, KafkaError> {
    let deadline = Instant::now() + limit;
    let topic = &settings.state.topic;
    let cluster = Cluster::new(&settings.kafka)?;
    loop {
        match cluster.look(topic) {
            // A lane that has never run on a topic that is still to grow.
            Ok(Look::There(shape)) if shape.partitions.get() <= lane => return Ok(Some(None)),
            Ok(Look::There(_)) => break,
            Ok(Look::Missing) => return Ok(Some(None)),
            // Reading it says what is wrong.
            Ok(Look::Illegal | Look::Unauthorized) => break,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
    let consumer: BaseConsumer<Contact> = base_config(&settings.kafka)
        .set("group.id", "outbox-relay-metadata")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .create_with_context(Contact::default())?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, i32::try_from(lane).unwrap_or(i32::MAX), Offset::Beginning)?;
    consumer.assign(&from)?;
    let key = format!("{}/{lane}", settings.name);
    let mut newest = None;
    loop {
        match consumer.poll(SLICE) {
            Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                newest = message.payload().map(<[u8]>::to_vec);
            }
            // Another lane's, or another relay's.
            Some(Ok(_)) | None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Some(newest)),
            Some(Err(error)) if Instant::now() >= deadline => return Err(error),
            Some(Err(error)) => tracing::debug!(%error, "reading the state record"),
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
}
