//! The state topic: compacted, small segments, one partition for each number of a lane. The relay makes it, for it
//! is the relay's own; topics of events it never makes unasked.

use std::time::Duration;

use outbox_kafka_link::Unwaited;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use crate::config::{KafkaSettings, StateSettings};
use crate::publisher::{Contact, base_config, metadata_config};

/// Limit of one request to the cluster; the caller tries again.
const REQUEST: Duration = Duration::from_secs(5);
/// Looks within one call, where others make the topic or let it grow at the same moment, and until brokers know of it.
const ATTEMPTS: usize = 10;
/// Time between two of them.
const AGAIN: Duration = Duration::from_millis(100);

/// Why the state topic cannot be seen to.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No broker was reached; the sentence says why.
    #[error("{trouble}")]
    Unreachable {
        /// Why.
        trouble: String,
        /// What the call failed with.
        #[source]
        source: KafkaError,
    },
    /// It has too few partitions, and Kafka refuses to add some.
    #[error(
        "it has {found} partitions and the lanes need {needed}: allow the relay's user to alter it, or add them \
         (kafka-topics.sh --alter --topic … --partitions {needed})"
    )]
    Partitions {
        /// How many it has.
        found: u32,
        /// One more than the largest number of a lane.
        needed: u32,
        /// What Kafka said.
        #[source]
        source: KafkaError,
    },
    /// Kafka refuses, or says nothing more.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// Makes the state topic unless it is there, and gives it the partitions that it lacks. Replicated three times where the
/// cluster has three brokers, on all brokers where it has fewer.
///
/// Partitions may be added at any time: which one a lane's record is in says the lane's number, never a hash of its key,
/// so that no record is looked for elsewhere afterwards.
///
/// # Errors
/// The cluster does not answer within a few seconds, or refuses to make the topic or to let it grow.
pub async fn ensure(
    kafka: &KafkaSettings,
    state: &StateSettings,
    contact: &Contact,
) -> Result<(), TopicError> {
    for _ in 0..ATTEMPTS {
        let (found, brokers) = look(kafka.clone(), state.topic.clone(), contact.clone()).await?;
        match found {
            Some(found) if found >= state.partitions => return Ok(()),
            Some(found) => grow(kafka, state, found, contact).await?,
            None if make(kafka, state, brokers, contact).await? => return Ok(()),
            None => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
    // Whoever reads or writes waits until the brokers know of the partition.
    Ok(())
}

fn admin(kafka: &KafkaSettings, contact: &Contact) -> KafkaResult<Unwaited<AdminClient<Contact>>> {
    Ok(Unwaited::new(base_config(kafka).create_with_context(contact.clone())?))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

/// Adds partitions, unless somebody else has just done so, who may need fewer.
async fn grow(
    kafka: &KafkaSettings,
    state: &StateSettings,
    found: u32,
    contact: &Contact,
) -> Result<(), TopicError> {
    let (topic, needed) = (state.topic.as_str(), state.partitions);
    let more = NewPartitions::new(topic, needed as usize);
    for result in admin(kafka, contact)?.create_partitions([&more], &options()).await? {
        match result {
            Ok(_) => tracing::info!(topic, from = found, to = needed, "the state topic has grown"),
            Err((_, RDKafkaErrorCode::InvalidPartitions)) => {}
            Err((_, code)) => {
                let source = KafkaError::AdminOp(code);
                return Err(TopicError::Partitions { found, needed, source });
            }
        }
    }
    Ok(())
}

/// Makes the topic; false where another was quicker, who may need fewer partitions.
async fn make(
    kafka: &KafkaSettings,
    state: &StateSettings,
    brokers: i32,
    contact: &Contact,
) -> Result<bool, TopicError> {
    let topic = state.topic.as_str();
    let partitions = i32::try_from(state.partitions).unwrap_or(i32::MAX);
    let replicas = brokers.clamp(1, 3);
    let in_sync = if replicas == 3 { "2" } else { "1" };
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas))
        .set("cleanup.policy", "compact")
        // Read from the beginning at every start, so it is kept short.
        .set("segment.bytes", "1048576")
        .set("segment.ms", "3600000")
        .set("min.cleanable.dirty.ratio", "0.1")
        .set("min.insync.replicas", in_sync);
    for result in admin(kafka, contact)?.create_topics([&new], &options()).await? {
        match result {
            Ok(_) => tracing::info!(topic, replicas, "made the state topic"),
            // Another lane or relay.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(false),
            Err((_, code)) => return Err(KafkaError::AdminOp(code).into()),
        }
    }
    Ok(true)
}

/// How many partitions the topic has, if it exists, and how many brokers the cluster.
async fn look(
    kafka: KafkaSettings,
    topic: String,
    contact: Contact,
) -> Result<(Option<u32>, i32), TopicError> {
    let work = tokio::task::spawn_blocking(move || {
        // Its way to the group's coordinator is what librdkafka says most about when brokers expect something
        // else; it joins no group.
        let client: BaseConsumer<Contact> = metadata_config(&kafka)
            .set("group.id", "outbox-relay-metadata")
            .set("enable.auto.commit", "false")
            .create_with_context(contact.clone())?;
        let metadata = client.fetch_metadata(Some(&topic), REQUEST);
        let trouble = metadata.as_ref().err().and_then(|_| contact.trouble(&client));
        // A consumer takes 100 ms to close, which a start need not wait for.
        tokio::task::spawn_blocking(move || drop(client));
        let metadata = metadata.map_err(|source| match trouble {
            Some(trouble) => TopicError::Unreachable { trouble, source },
            None => TopicError::Kafka(source),
        })?;
        let there = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions = there.map(|found| u32::try_from(found.partitions().len()).unwrap_or(u32::MAX));
        Ok((partitions, i32::try_from(metadata.brokers().len()).unwrap_or(i32::MAX)))
    });
    work.await.unwrap_or(Err(KafkaError::Canceled.into()))
}
