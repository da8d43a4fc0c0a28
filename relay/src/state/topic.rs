//! The state topic: compacted, small segments, one partition a lane. The relay makes it, for it is the
//! relay's own; topics of events it never makes unasked.

use std::time::Duration;

use outbox_kafka_link::Unwaited;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaSettings;
use crate::publisher::{Contact, base_config, metadata_config};

/// Limit of one request to the cluster; the caller tries again.
const REQUEST: Duration = Duration::from_secs(5);

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
    /// Kafka refuses, or says nothing more.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// Makes the state topic unless it is there. Replicated three times where the cluster has three
/// brokers, on all brokers where it has fewer.
///
/// # Errors
/// The cluster does not answer within a few seconds, or refuses to make the topic.
pub async fn ensure(kafka: &KafkaSettings, topic: &str, contact: &Contact) -> Result<(), TopicError> {
    let (there, brokers) = look(kafka.clone(), topic.to_owned(), contact.clone()).await?;
    if there {
        return Ok(());
    }
    let admin: AdminClient<Contact> = base_config(kafka).create_with_context(contact.clone())?;
    let admin = Unwaited::new(admin);
    let replicas = brokers.clamp(1, 3);
    let in_sync = if replicas == 3 { "2" } else { "1" };
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(replicas))
        .set("cleanup.policy", "compact")
        // Read from the beginning at every start, so it is kept short.
        .set("segment.bytes", "1048576")
        .set("segment.ms", "3600000")
        .set("min.cleanable.dirty.ratio", "0.1")
        .set("min.insync.replicas", in_sync);
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    for result in admin.create_topics([&new], &options).await? {
        match result {
            Ok(_) => tracing::info!(topic, replicas, "made the state topic"),
            // Another relay was quicker.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code).into()),
        }
    }
    Ok(())
}

/// Whether the topic exists, and how many brokers the cluster has.
async fn look(kafka: KafkaSettings, topic: String, contact: Contact) -> Result<(bool, i32), TopicError> {
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
        let there = metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none());
        Ok((there, i32::try_from(metadata.brokers().len()).unwrap_or(i32::MAX)))
    });
    work.await.unwrap_or(Err(KafkaError::Canceled.into()))
}
