//! librdkafka's configuration: what every client shares, and what keeps the promises.

use std::time::Duration;

use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::Flow;
use super::delivery::Delivery;
use crate::config::KafkaSettings;

/// What every client of the relay is made with: brokers, the user's own options, quick reconnects.
pub fn base_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "outbox-relay")
        // A typo in a topic's name must not make a topic (R40).
        .set("allow.auto.create.topics", "false")
        // A broker that is back should be seen within a second or two, not within ten.
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("log.connection.close", "false");
    for (key, value) in &kafka.options {
        config.set(key, value);
    }
    config
}

/// A client that only asks for metadata and watermarks; it never creates a topic and joins no group.
///
/// # Errors
/// librdkafka refuses the configuration.
pub fn metadata_client(kafka: &KafkaSettings) -> Result<BaseConsumer<Quiet>, KafkaError> {
    base_config(kafka)
        .set("group.id", "outbox-relay-metadata")
        .set("enable.auto.commit", "false")
        .create_with_context(Quiet)
}

/// The context of a client whose callers see every error themselves and try again.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    /// The transaction that a record is part of fails with it.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Largest batch of the producer of events, before compression: below the largest record, so that a batch
/// is never refused where each of its records would be taken. A larger record travels alone. `limit` is less where a
/// topic takes less, or a batch was refused.
pub fn batch_bytes(kafka: &KafkaSettings, limit: Option<usize>) -> usize {
    let usual = (kafka.max_record_bytes * 9 / 10).clamp(1, 1_000_000);
    limit.map_or(usual, |limit| usual.min(limit))
}

/// The producer of events. Every line that keeps a promise says which.
pub(super) fn data_producer(
    kafka: &KafkaSettings,
    context: Delivery,
    flow: Flow,
    batch_limit: Option<usize>,
) -> Result<BaseProducer<Delivery>, KafkaError> {
    // Nothing keeps a record company that is sent alone.
    let linger = if flow == Flow::Full { kafka.linger } else { Duration::ZERO };
    let mut config = base_config(kafka);
    config
        // Acknowledged means on every in-sync replica (R1).
        .set("acks", "all")
        // Retries neither double nor reorder within a session.
        .set("enable.idempotence", "true")
        // A record refused for good must not be overtaken by later ones of its key (R17). The producer dies
        // of it; where one record is in flight at a time nothing can overtake, and it need not.
        .set("enable.gapless.guarantee", if flow == Flow::Full { "true" } else { "false" })
        .set("max.in.flight.requests.per.connection", "5")
        // Broker trouble is waited for, however long it takes; nothing is given up on.
        .set("message.timeout.ms", "0")
        .set("compression.type", &kafka.compression)
        .set("linger.ms", (linger.as_secs_f64() * 1000.0).to_string())
        .set("message.max.bytes", kafka.max_record_bytes.max(1000).to_string())
        .set("batch.size", batch_bytes(kafka, batch_limit).to_string())
        // Our own window is the bound; librdkafka's queue only has to be a little larger.
        .set("queue.buffering.max.messages", (kafka.max_in_flight_records + 1000).to_string())
        .set("queue.buffering.max.kbytes", (kafka.max_in_flight_bytes / 1024 * 2 + 65_536).to_string());
    BaseProducer::from_config_and_context(&config, context)
}

/// librdkafka's own log lines at the levels of ours. They name brokers and topics, never payloads.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // librdkafka warns at every start that the gapless guarantee is experimental; it is wanted.
    let level = if facility == "CONFWARN" { RDKafkaLogLevel::Debug } else { level };
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }
}
