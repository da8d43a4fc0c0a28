//! librdkafka's configuration: what every client shares, and what keeps the promises.

use std::sync::Arc;
use std::time::Duration;

use outbox_kafka_link::protocol::PROTOCOL;
use outbox_kafka_link::trouble;
use outbox_postgres_link::Program;
use parking_lot::Mutex;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::delivery::Delivery;
use super::{Flow, Transactional};
use crate::config::KafkaSettings;
use crate::observe::Observed;

/// What every client of the relay is made with: brokers, the user's own options, quick reconnects.
pub fn base_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "outbox-relay")
        .set(PROTOCOL, &kafka.protocol)
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

/// What a client that only asks is made with: it never creates a topic, joins no group, and says why it was
/// not answered.
pub fn metadata_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = base_config(kafka);
    // A connection that a broker closes says nothing else; the context hears it.
    config.set("log.connection.close", "true").set_log_level(RDKafkaLogLevel::Info);
    config
}

/// The context of a client whose callers see every error themselves and try again. What they see is that
/// no broker was reached; why, librdkafka says here, when it is [asked](Contact::trouble).
#[derive(Debug, Clone, Default)]
pub struct Contact {
    observed: Option<Arc<Observed>>,
    newest: Arc<Mutex<Option<String>>>,
}

impl Contact {
    /// Trouble is seen from outside, too.
    pub fn seen_in(observed: &Arc<Observed>) -> Contact {
        Contact { observed: Some(observed.clone()), newest: Arc::default() }
    }

    /// Why no broker was reached, after a consumer's call has failed; `None` where nothing was said.
    pub fn trouble(&self, consumer: &BaseConsumer<Contact>) -> Option<String> {
        // One call serves what has come up to an error; the bound is there because a broker may go on.
        for _ in 0..20 {
            if consumer.poll(SAYS).is_none() {
                break;
            }
        }
        self.newest()
    }

    /// Takes what was heard last; `None` where nothing was.
    pub fn newest(&self) -> Option<String> {
        self.newest.lock().take()
    }

    fn hear(&self, sentence: String) {
        if let Some(observed) = &self.observed {
            observed.error(sentence.clone());
        }
        let mut newest = self.newest.lock();
        if newest.as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
        }
        *newest = Some(sentence);
    }

    /// Shows what is waited for, or that it has come.
    pub fn waiting_for(&self, what: Option<String>) {
        if let Some(observed) = &self.observed {
            observed.waiting_for(what);
        }
    }

    /// Hears what a producer whose call has failed has to say.
    pub fn listen(producer: &BaseProducer<Contact>) {
        producer.poll(SAYS);
    }
}

/// How long a client is listened to after a call has failed.
const SAYS: Duration = Duration::from_millis(20);

impl ClientContext for Contact {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
        if let Some(sentence) = trouble::of_log(Program::Relay, facility, message) {
            self.hear(sentence);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(sentence) = trouble::of_error(Program::Relay, &error, reason) {
            self.hear(sentence);
        }
    }
}

impl ConsumerContext for Contact {}

impl ProducerContext for Contact {
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

/// How long records wait for company while the relay is far behind, at least. At some hundred thousand records a
/// second and a dozen partitions it makes batches of about a hundred.
const COMPANY: Duration = Duration::from_millis(8);

/// The producer of events. Every line that keeps a promise says which.
pub(super) fn data_producer(
    kafka: &KafkaSettings,
    context: Delivery,
    flow: Flow,
    batch_limit: Option<usize>,
    transactional: Option<&Transactional>,
) -> Result<BaseProducer<Delivery>, KafkaError> {
    let linger = match flow {
        // What is seen at the end of a Kafka transaction gains nothing by leaving earlier.
        Flow::Full if transactional.is_none() => kafka.linger,
        Flow::Full => kafka.linger.max(COMPANY),
        Flow::CatchUp => kafka.linger.max(COMPANY),
        // Nothing keeps a record company that is sent alone.
        Flow::OneAtATime => Duration::ZERO,
    };
    let alone = flow == Flow::OneAtATime;
    let mut config = base_config(kafka);
    config
        // Acknowledged means on every in-sync replica (R1).
        .set("acks", "all")
        // Retries neither double nor reorder within a session.
        .set("enable.idempotence", "true")
        // A record refused for good must not be overtaken by later ones of its key (R17). The producer dies
        // of it; where one record is in flight at a time nothing can overtake, and it need not.
        // In a transaction a refusal ends all of it, which nobody sees.
        .set("enable.gapless.guarantee", if alone || transactional.is_some() { "false" } else { "true" })
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
    if let Some(Transactional { id, timeout }) = transactional {
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", timeout.as_millis().to_string())
            // Within a transaction a record may not wait longer than the transaction.
            .set("message.timeout.ms", timeout.saturating_sub(WITHIN).as_millis().to_string());
    }
    BaseProducer::from_config_and_context(&config, context)
}

/// So much before the end of its transaction a record is given up, and with it the transaction.
const WITHIN: Duration = Duration::from_secs(10);

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
