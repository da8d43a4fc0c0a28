//! The dead letters of a consumer: evidence put together, and sent where somebody will find it.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use outbox_schema::record::header;
use rdkafka::config::ClientConfig;
use tokio::sync::OnceCell;

use super::attempt::Reason;
use super::inbox::Name;
use crate::consumer::Registered;
use crate::dead_letters::evidence::Evidence;
use crate::dead_letters::record::Header;
use crate::dead_letters::sink::{Letter, Placed, Sink, SinkError};
use crate::dead_letters::topic::{self, TopicError};
use crate::record::Record;

/// Why a dead letter is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum LetterError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// A record that is given up, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failing<'r> {
    pub(super) record: &'r Record,
    /// `None` where it has no id.
    pub(super) name: Option<&'r Name>,
    /// The type that its handler is registered for; `None` where there is no handler.
    pub(super) handler: Option<&'r str>,
    pub(super) reason: &'r Reason,
    pub(super) attempts: u32,
    /// Since its first failure.
    pub(super) failing_for: Duration,
    /// Number of the replay that failed.
    pub(super) replay: u32,
}

/// Where a letter stands, for a log.
impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

/// Writes the dead letters of one consumer. The client is made for the first of them, so a consumer without any has
/// none.
pub(super) struct Letters {
    config: ClientConfig,
    instance: String,
    sink: OnceCell<Sink>,
}

impl Letters {
    /// On the cluster of these settings, which are those of the consumer.
    pub(super) fn new(consumer: &ClientConfig) -> Letters {
        // What is the consumer's alone a producer warns of.
        const CONSUMERS: [&str; 14] = [
            "group.id",
            "group.instance.id",
            "group.protocol",
            "partition.assignment.strategy",
            "auto.offset.reset",
            "fetch.queue.backoff.ms",
            "queued.max.messages.kbytes",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "max.poll.interval.ms",
            "allow.auto.create.topics",
            "check.crcs",
        ];
        // Of the map the names alone are taken: for a secret it has another value in its place.
        let mut config = consumer.clone();
        for name in consumer.config_map().into_keys() {
            let of_fetch = name.starts_with("fetch.") || name.starts_with("max.partition.fetch");
            if CONSUMERS.contains(&name) || of_fetch {
                config.remove(name);
            }
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let instance = format!("{}/{}", host.trim(), std::process::id());
        Letters { config, instance, sink: OnceCell::new() }
    }

    /// The cluster's settings for clients that are not the consumer.
    pub(super) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Writes a letter; answers when every replica in sync has it. The topic is made where it is missing.
    ///
    /// # Errors
    /// Nothing was written, as far as is known: the record has to be kept.
    pub(super) async fn send(&self, of: &Registered, failing: Failing<'_>) -> Result<Placed, LetterError> {
        let Failing { record, .. } = failing;
        let retention = topic::RETENTION.max(of.owner.1);
        let sink = self.sink.get_or_try_init(async || Sink::new(&self.config, &of.group, retention)).await?;
        let evidence = self.evidence(of, failing);
        let headers: Vec<Header> = record
            .packed
            .headers()
            .map(|(name, value)| Header { name: name.to_owned(), value: value.map(<[u8]>::to_vec) })
            .collect();
        let letter =
            Letter { key: record.key(), value: record.value(), headers: &headers, evidence: &evidence };
        match sink.send(letter).await {
            Err(SinkError::NotPrepared { .. }) => {
                for concern in sink.prepare(&record.topic).await? {
                    tracing::warn!("{concern}");
                }
                Ok(sink.send(letter).await?)
            }
            sent => Ok(sent?),
        }
    }

    fn evidence(&self, of: &Registered, failing: Failing<'_>) -> Evidence {
        let Failing { record, name, handler, reason, attempts, failing_for, replay } = failing;
        let now = Timestamp::now();
        let ago = SignedDuration::try_from(failing_for).unwrap_or(SignedDuration::ZERO);
        let within = SignedDuration::try_from(of.owner.1).unwrap_or(SignedDuration::MAX);
        Evidence {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            timestamp: (record.timestamp > 0).then_some(record.timestamp),
            group: of.group.clone(),
            scope: of.name.to_string(),
            handler: handler.map(str::to_owned),
            id: name.map(|name| name.id),
            created: name.and_then(|name| name.created),
            event_type: record.event_type().map(str::to_owned),
            class: reason.class.map(str::to_owned),
            message: reason.said.clone(),
            stack: None,
            cause: reason.cause.clone(),
            attempts: attempts.max(reason.attempts).max(1),
            first_failed: now.checked_sub(ago).unwrap_or(now),
            last_failed: now,
            instance: self.instance.clone(),
            sdk: concat!("outbox-consumer/", env!("CARGO_PKG_VERSION")).to_owned(),
            owner: of.owner.0.clone(),
            deadline: now.checked_add(within).unwrap_or(Timestamp::MAX),
            traceparent: record.header(header::TRACEPARENT).map(str::to_owned),
            replay,
            truncated: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_dead_letters_connect_as_the_consumer_does() {
        let mut consumer = ClientConfig::new();
        let connection = [
            ("bootstrap.servers", "k1:9093"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/etc/ca.pem"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", "inventory"),
            ("sasl.password", "hush"),
        ];
        for (name, value) in connection.into_iter().chain([("group.id", "g"), ("fetch.wait.max.ms", "5")]) {
            consumer.set(name, value);
        }
        let letters = Letters::new(&consumer);
        for (name, value) in connection {
            assert_eq!(letters.config().get(name), Some(value), "{name}");
        }
        assert_eq!(
            (letters.config().get("group.id"), letters.config().get("fetch.wait.max.ms")),
            (None, None)
        );
    }
}
