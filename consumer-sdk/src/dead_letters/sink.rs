//! Writes a dead letter, and answers when it is durable.
//!
//! The offset of the failed record may be committed only after that answer (C10). A crash in between leaves a second
//! copy, which the projection joins with the first (C11).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_kafka_link::Unwaited;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::client::Quiet;
use super::evidence::{self, Evidence};
use super::record::{Header, for_client};
use super::topic::{self, Concern, TopicError};

/// How long a full queue of the producer is waited for.
const QUEUE: Duration = Duration::from_secs(5);

/// A record that failed, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// The record's key, untouched.
    pub key: Option<&'a [u8]>,
    /// The record's value, untouched.
    pub value: Option<&'a [u8]>,
    /// The record's headers in their order.
    pub headers: &'a [Header],
    /// What is known of the failure.
    pub evidence: &'a Evidence,
}

/// Where a dead letter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The dead-letter topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The letter's offset.
    pub offset: i64,
}

/// Why a dead letter is not written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Kafka is away, slow or refuses for now.
    #[error("Kafka did not take the dead letter; it is tried again until it does")]
    Broker(#[source] KafkaError),
    /// It will never be taken as it is.
    #[error(
        "dead-letter topic {topic} does not take a record of {bytes} bytes: raise its max.message.bytes (the source's and \
         {} for the evidence)",
        evidence::MOST
    )]
    TooLarge {
        /// The dead-letter topic.
        topic: String,
        /// Size of key, value and headers.
        bytes: usize,
        /// What was answered.
        #[source]
        source: KafkaError,
    },
    /// [`Sink::prepare`] was not called for this source.
    #[error(
        "the dead-letter topic of {source_topic} was not prepared: call Sink::prepare for each source at the start"
    )]
    NotPrepared {
        /// The source topic.
        source_topic: String,
    },
    /// A letter of another group.
    #[error("a dead letter of group {theirs} does not belong into the dead-letter topic of group {ours}")]
    OtherGroup {
        /// The group in the evidence.
        theirs: String,
        /// The group of this sink.
        ours: String,
    },
    /// The producer cannot be made of these settings.
    #[error("the producer of dead letters cannot be made; look at the Kafka settings")]
    Settings(#[source] KafkaError),
}

impl SinkError {
    /// Whether the same letter may be taken later, unchanged. What is not known to be permanent is waited for: the
    /// only other way would be to lose it (C12).
    pub fn is_waited_for(&self) -> bool {
        match self {
            SinkError::Broker(_) | SinkError::TooLarge { .. } => true,
            SinkError::NotPrepared { .. } | SinkError::OtherGroup { .. } | SinkError::Settings(_) => false,
        }
    }
}

/// The producer, whose end nobody waits for.
type Producing = Arc<Unwaited<FutureProducer<Quiet>>>;

/// Writes the dead letters of one group.
pub struct Sink {
    config: ClientConfig,
    group: String,
    retention: Duration,
    producer: Mutex<Producing>,
    topics: Mutex<HashMap<String, (String, i32)>>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("group", &self.group)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// A sink on the cluster of these client settings. Dead letters stay for `retention`:
    /// [`topic::RETENTION`] unless the owner's window is longer.
    ///
    /// # Errors
    /// [`SinkError::Settings`].
    pub fn new(config: &ClientConfig, group: &str, retention: Duration) -> Result<Sink, SinkError> {
        let mut config = config.clone();
        // A copy more is joined with the first; a copy less would be a lost letter.
        config.set("acks", "all").set("enable.idempotence", "true");
        // The limit is the topic's, which the broker knows; the client's own would refuse before it is asked.
        config.set("message.max.bytes", "1000000000");
        // The caller tries again, and wants to say so meanwhile.
        config.set("message.timeout.ms", "30000");
        let producer = Mutex::new(produce(&config)?);
        Ok(Sink { config, group: group.to_owned(), retention, producer, topics: Mutex::default() })
    }

    /// Makes the dead-letter topic of a source where it is missing, and says what is wrong with one that is there.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn prepare(&self, source: &str) -> Result<Vec<Concern>, TopicError> {
        let prepared = topic::prepare(&self.config, source, &self.group, self.retention).await?;
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.insert(source.to_owned(), (prepared.name, prepared.partitions));
        Ok(prepared.concerns)
    }

    /// Writes a letter and answers when every replica in sync has it. It goes to the partition of its source record,
    /// so that the letters of a key stand in the order in which they failed.
    ///
    /// # Errors
    /// [`SinkError`]. Where it [is waited for](SinkError::is_waited_for) the caller keeps the record and sends again;
    /// the letter may stand in the topic all the same, and then twice.
    pub async fn send(&self, letter: Letter<'_>) -> Result<Placed, SinkError> {
        let evidence = letter.evidence;
        if evidence.group != self.group {
            let (theirs, ours) = (evidence.group.clone(), self.group.clone());
            return Err(SinkError::OtherGroup { theirs, ours });
        }
        let (topic, partitions) = {
            let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            let unknown = || SinkError::NotPrepared { source_topic: evidence.topic.clone() };
            topics.get(&evidence.topic).cloned().ok_or_else(unknown)?
        };
        let headers = evidence.headers(letter.headers, evidence::MOST);
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let bytes =
            length(letter.key) + length(letter.value) + headers.iter().map(Header::size).sum::<usize>();
        // The time is now and not the source's: retention counts from it, and an old record would go at once.
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic)
            .partition(evidence.partition % partitions)
            .headers(for_client(&headers));
        record.key = letter.key;
        record.payload = letter.value;
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match producer.send(record, QUEUE).await {
            Ok(delivery) => Ok(Placed { topic, partition: delivery.partition, offset: delivery.offset }),
            Err((error, _)) => {
                self.replace_if_dead(&producer)?;
                Err(refused(topic, bytes, error))
            }
        }
    }

    /// An idempotent producer that lost its sequence takes nothing any more; another one begins a sequence of its own.
    fn replace_if_dead(&self, used: &Producing) -> Result<(), SinkError> {
        if used.client().fatal_error().is_none() {
            return Ok(());
        }
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if producer.client().fatal_error().is_some() {
            *producer = produce(&self.config)?;
        }
        Ok(())
    }
}

fn produce(config: &ClientConfig) -> Result<Producing, SinkError> {
    let producer: FutureProducer<Quiet> =
        config.create_with_context(Quiet::default()).map_err(SinkError::Settings)?;
    Ok(Arc::new(Unwaited::new(producer)))
}

fn refused(topic: String, bytes: usize, source: KafkaError) -> SinkError {
    let too_large = [
        RDKafkaErrorCode::MessageSizeTooLarge,
        RDKafkaErrorCode::MessageBatchTooLarge,
        RDKafkaErrorCode::InvalidMessageSize,
    ];
    match source.rdkafka_error_code() {
        Some(code) if too_large.contains(&code) => SinkError::TooLarge { topic, bytes, source },
        Some(_) | None => SinkError::Broker(source),
    }
}
