//! Publishing: one idempotent, gapless librdkafka producer a session, bounded in flight.
//!
//! The router hands records over, the broker answers with delivery reports, and each report settles
//! its row in the [`crate::ledger`]. A producer never outlives its session: what was in flight when a
//! session ends is published again by the next one, under the same ids.

mod client;
mod delivery;
mod poller;
mod window;

pub use client::{Quiet, base_config, metadata_client};
pub use delivery::Refusal;
pub use poller::{Confirmations, Poller};
pub use window::Window;

use std::sync::Arc;

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
    /// Makes the producer; connects in the background.
    ///
    /// # Errors
    /// librdkafka refuses the configuration (an option passed through by the user, usually).
    pub fn new(
        kafka: &KafkaSettings,
        settler: Settler,
        window: Arc<Window>,
        observed: Arc<Observed>,
    ) -> Result<Publisher, KafkaError> {
        let context = Delivery::new(settler, window, observed);
        Ok(Publisher { producer: client::data_producer(kafka, context)? })
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

    /// The first record that the broker or librdkafka refused for good, if any.
    pub fn refusal(&self) -> Option<Refusal> {
        self.producer.context().refusal()
    }

    fn poll(&self, wait: std::time::Duration) {
        self.producer.poll(wait);
    }

    /// The fatal error of a dead producer.
    fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }
}
