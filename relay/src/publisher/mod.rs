//! Publishing: one idempotent, gapless librdkafka producer a session, bounded in flight.
//!
//! The router hands records over, the broker answers with delivery reports, and each report settles
//! its row in the [`crate::ledger`]. A producer never outlives its session: what was in flight when a
//! session ends is published again by the next one, under the same ids.

mod client;
mod delivery;
mod poller;
mod refusals;
mod trouble;
mod window;

pub use client::{Contact, base_config, batch_bytes, metadata_config};
pub use delivery::Refusal;
pub use poller::{Confirmations, Poller};
pub use refusals::{Reach, Refusals};
pub use window::Window;

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaSettings;
use crate::ledger::Settler;
use crate::observe::Observed;
use crate::router::Record;
use delivery::Delivery;

/// Hands records to librdkafka. Cheap to share between the router and the poller.
pub struct Publisher {
    producer: BaseProducer<Delivery>,
    flow: Flow,
}

/// Limit of one question for a topic's partitions.
const LEARN: std::time::Duration = std::time::Duration::from_secs(2);

/// How a producer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// As many in flight as the window allows. A refusal ends the session, and the producer with it.
    Full,
    /// One record in flight; whoever sent it asks what became of it. A refusal then says something of that
    /// record only, and the producer goes on.
    OneAtATime,
}

/// Makes the producers of one session: one, or a second one when records no longer go one at a time.
pub struct Publishers {
    kafka: KafkaSettings,
    settler: Settler,
    window: Arc<Window>,
    observed: Arc<Observed>,
    refusals: Arc<Refusals>,
    current: Mutex<Arc<Publisher>>,
}

impl Publishers {
    /// Makes the first producer; it connects in the background.
    ///
    /// # Errors
    /// librdkafka refuses the configuration (an option passed through by the user, usually).
    pub fn new(
        kafka: &KafkaSettings,
        settler: Settler,
        window: Arc<Window>,
        observed: Arc<Observed>,
        refusals: Arc<Refusals>,
        flow: Flow,
    ) -> Result<Publishers, KafkaError> {
        let limit = refusals.batch_limit();
        let first = Publisher::new(kafka, &settler, &window, &observed, flow, limit)?;
        let current = Mutex::new(Arc::new(first));
        Ok(Publishers { kafka: kafka.clone(), settler, window, observed, refusals, current })
    }

    /// Where refusals are kept.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The most that a batch of the producer in use may hold.
    pub fn batch_bytes(&self) -> usize {
        client::batch_bytes(&self.kafka, self.refusals.batch_limit())
    }

    /// Makes batches of later producers smaller than what a topic takes; false where that would change nothing.
    pub fn limit_batches(&self, topic_takes: usize) -> bool {
        let before = self.batch_bytes();
        self.refusals.limit_batches(topic_takes / 10 * 9);
        self.batch_bytes() < before
    }

    /// The producer in use.
    pub fn current(&self) -> Arc<Publisher> {
        self.current.lock().clone()
    }

    /// Puts a producer of full flow in its place. Nothing may be in flight.
    ///
    /// # Errors
    /// As [`Publishers::new`].
    pub fn full_flow(&self) -> Result<Arc<Publisher>, KafkaError> {
        let limit = self.refusals.batch_limit();
        let next =
            Publisher::new(&self.kafka, &self.settler, &self.window, &self.observed, Flow::Full, limit)?;
        let next = Arc::new(next);
        *self.current.lock() = next.clone();
        Ok(next)
    }
}

/// What became of one hand-over.
#[derive(Debug)]
pub enum HandOver {
    /// librdkafka has it; a delivery report will follow.
    Accepted,
    /// librdkafka's queue is full; try again after a delivery report.
    Full,
    /// It will never take this record.
    Refused(KafkaError),
    /// The producer is dead after an earlier fatal error; its cause is the publisher's refusal.
    Dead,
}

impl Publisher {
    fn new(
        kafka: &KafkaSettings,
        settler: &Settler,
        window: &Arc<Window>,
        observed: &Arc<Observed>,
        flow: Flow,
        batch_limit: Option<usize>,
    ) -> Result<Publisher, KafkaError> {
        let context = Delivery::new(settler.clone(), window.clone(), observed.clone());
        Ok(Publisher { producer: client::data_producer(kafka, context, flow, batch_limit)?, flow })
    }

    /// How it is used.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Hands one record over; never blocks. `opaque` comes back to the ledger with the report.
    pub fn hand_over(&self, record: &Record<'_>, partition: i32, opaque: usize) -> HandOver {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for header in record.headers.iter() {
            headers = headers.insert(Header { key: header.0, value: Some(header.1) });
        }
        let mut base = BaseRecord::<[u8], [u8], usize>::with_opaque_to(record.topic, opaque)
            .partition(partition)
            .timestamp(record.timestamp_ms)
            .headers(headers);
        base.key = record.key;
        base.payload = record.value;
        match self.producer.send(base) {
            Ok(()) => HandOver::Accepted,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => HandOver::Full,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), _)) => HandOver::Dead,
            Err((error, _)) => HandOver::Refused(error),
        }
    }

    /// Asks the cluster for the topic's partitions, which librdkafka does by itself every five minutes only.
    pub fn learn(&self, topic: &str) {
        // Without an answer the next hand-over is refused as the last one was.
        let _asked = self.producer.client().fetch_metadata(Some(topic), LEARN);
    }

    /// The first record that the broker or librdkafka refused for good, if any.
    pub fn refusal(&self) -> Option<Refusal> {
        self.producer.context().refusal()
    }

    /// Whether any record was not delivered: its row will not settle, so nobody may wait for it.
    pub fn has_failed(&self) -> bool {
        self.producer.context().has_failed()
    }

    /// The refusal of the record that was sent alone, if it was refused; asked once.
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.producer.context().take_refusal()
    }

    fn poll(&self, wait: std::time::Duration) {
        self.producer.poll(wait);
    }

    /// The fatal error of a dead producer.
    fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }
}
