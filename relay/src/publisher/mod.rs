//! Publishing: one idempotent, gapless librdkafka producer a session, bounded in flight.
//!
//! The router hands records over, the broker answers with delivery reports, and each report settles
//! its row in the [`crate::ledger`]. A producer never outlives its session: what was in flight when a
//! session ends is published again by the next one, under the same ids; with exactly one delivery what was seen of it
//! is nothing, since its Kafka transaction is aborted ([`Gate`]).

mod client;
pub(crate) mod delivery;
mod firsts;
mod gate;
mod poller;
mod refusals;
mod window;

pub use client::{Contact, base_config, batch_bytes, metadata_config};
pub use delivery::Refusal;
pub use firsts::Firsts;
pub use gate::{Gate, Held};
pub use poller::{A_RIGHT, Confirmations, Poller};
pub use refusals::{Reach, Refusals};
pub use window::{Charge, Load, Window};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaSettings;
use crate::ledger::Settler;
use crate::observe::Observed;
use crate::router::Record;
use delivery::{Delivery, STATE_RECORD};

/// Hands records to librdkafka. Cheap to share between the router and the poller.
pub struct Publisher {
    producer: BaseProducer<Delivery>,
    flow: Flow,
}

/// Limit of one question for a topic's partitions.
const LEARN: Duration = Duration::from_secs(2);

/// How often a producer that is to be ended is looked at.
const RETIRE: Duration = Duration::from_millis(5);

/// How a producer is used. A refusal ends the session, and the producer with it, but where records go one at a
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// As many in flight as the window allows, each sent as soon as it can be.
    Full,
    /// The same, but records wait a moment for company: what is far behind gains from large batches more than it
    /// loses by waiting. Each request costs the broker and us as much as dozens of records.
    CatchUp,
    /// One record in flight; whoever sent it asks what became of it. A refusal then says something of that
    /// record only, and the producer goes on.
    OneAtATime,
}

/// How long reports are served before anybody is told of them.
const SERVING: Duration = Duration::from_millis(10);

/// Lag above which records wait for company.
const FAR_BEHIND: Duration = Duration::from_secs(1);

/// Lag below which they no longer do. Far below the other, since every change waits until nothing is in flight.
const CAUGHT_UP: Duration = Duration::from_millis(100);

impl Flow {
    /// What suits a stream that is so far behind.
    #[must_use]
    pub fn at(self, lag: Duration) -> Flow {
        match self {
            Flow::Full if lag > FAR_BEHIND => Flow::CatchUp,
            Flow::CatchUp if lag < CAUGHT_UP => Flow::Full,
            Flow::Full | Flow::CatchUp | Flow::OneAtATime => self,
        }
    }
}

/// With exactly one delivery the session's producer writes in transactions, and under this name fences whoever had the
/// lane before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transactional {
    /// `transactional.id`, the one of the state record's own producer.
    pub id: String,
    /// `transaction.timeout.ms`.
    pub timeout: Duration,
}

/// Makes the producers of one session, one after the other: the flow of a producer cannot be changed.
pub struct Publishers {
    kafka: KafkaSettings,
    settler: Settler,
    window: Arc<Window>,
    observed: Arc<Observed>,
    refusals: Arc<Refusals>,
    transactional: Option<Transactional>,
    /// Records go one at a time, and whoever sends them asks what became of each.
    alone: AtomicBool,
    current: Mutex<Arc<Publisher>>,
    /// Takes leave of the former ones.
    retiring: Mutex<Vec<JoinHandle<()>>>,
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
        transactional: Option<Transactional>,
    ) -> Result<Publishers, KafkaError> {
        let limit = refusals.batch_limit();
        let context = Delivery::new(settler.clone(), window.clone(), observed.clone(), flow);
        let first = Publisher::new(kafka, context, flow, limit, transactional.as_ref())?;
        let alone = AtomicBool::new(flow == Flow::OneAtATime && transactional.is_none());
        let current = Mutex::new(Arc::new(first));
        let retiring = Mutex::default();
        Ok(Publishers {
            kafka: kafka.clone(),
            settler,
            window,
            observed,
            refusals,
            transactional,
            alone,
            current,
            retiring,
        })
    }

    /// Where refusals are kept.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whether events are published in transactions.
    pub fn is_transactional(&self) -> bool {
        self.transactional.is_some()
    }

    /// Says whether records go one at a time from now on, where the producer stays the same.
    pub fn send_alone(&self, alone: bool) {
        self.alone.store(alone, SeqCst);
    }

    /// Whether records go one at a time now.
    pub fn sends_alone(&self) -> bool {
        self.alone.load(SeqCst)
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

    /// Puts a producer of another flow in its place. Nothing may be in flight: only the records of one producer
    /// stay in order by themselves.
    ///
    /// # Errors
    /// As [`Publishers::new`].
    pub fn switch(&self, flow: Flow) -> Result<Arc<Publisher>, KafkaError> {
        let limit = self.refusals.batch_limit();
        let (settler, window, observed) = (self.settler.clone(), self.window.clone(), self.observed.clone());
        let context = Delivery::new(settler, window, observed, flow);
        let next = Publisher::new(&self.kafka, context, flow, limit, self.transactional.as_ref())?;
        self.send_alone(flow == Flow::OneAtATime && self.transactional.is_none());
        let next = Arc::new(next);
        let former = std::mem::replace(&mut *self.current.lock(), next.clone());
        // librdkafka joins its threads, which nobody on the data path shall wait for.
        let leaving = thread::Builder::new().name("retire".into()).spawn(move || former.retire());
        let mut retiring = self.retiring.lock();
        retiring.retain(|thread| !thread.is_finished());
        retiring.extend(leaving);
        Ok(next)
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        for thread in self.retiring.get_mut().drain(..) {
            // It does nothing that panics.
            let _left = thread.join();
        }
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
        context: Delivery,
        flow: Flow,
        batch_limit: Option<usize>,
        transactional: Option<&Transactional>,
    ) -> Result<Publisher, KafkaError> {
        let producer = client::data_producer(kafka, context, flow, batch_limit, transactional)?;
        Ok(Publisher { producer, flow })
    }

    /// Fences whoever had the transactional id before; what they left open is aborted.
    ///
    /// # Errors
    /// As librdkafka says; a slice that ran out is one.
    pub fn take_over(&self, slice: Duration) -> KafkaResult<()> {
        self.producer.init_transactions(slice)
    }

    /// Begins the next Kafka transaction.
    ///
    /// # Errors
    /// As librdkafka says.
    pub fn begin(&self) -> KafkaResult<()> {
        self.producer.begin_transaction()
    }

    /// Commits the Kafka transaction at hand. To be called again until it is done: an answer that did not come is no answer.
    ///
    /// # Errors
    /// As librdkafka says; a slice that ran out is one.
    pub fn commit(&self, slice: Duration) -> KafkaResult<()> {
        self.producer.commit_transaction(slice)
    }

    /// Aborts the Kafka transaction at hand.
    ///
    /// # Errors
    /// As librdkafka says; a slice that ran out is one.
    pub fn abort(&self, slice: Duration) -> KafkaResult<()> {
        self.producer.abort_transaction(slice)
    }

    /// Sends the state record in the Kafka transaction at hand.
    ///
    /// # Errors
    /// librdkafka does not take it.
    pub fn send_state(&self, topic: &str, partition: i32, key: &str, bytes: &[u8]) -> KafkaResult<()> {
        let record = BaseRecord::<str, [u8], usize>::with_opaque_to(topic, STATE_RECORD)
            .partition(partition)
            .key(key)
            .payload(bytes);
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// Whether nothing waits for an answer of the broker, or for being told.
    pub fn is_quiet(&self) -> bool {
        self.producer.in_flight_count() == 0
    }

    /// The refusal of the state record.
    pub fn state_refusal(&self) -> Option<KafkaError> {
        self.delivery().state_refusal()
    }

    /// Why the Kafka transaction at hand can only be aborted, in librdkafka's words.
    pub fn broken(&self) -> Option<String> {
        self.delivery().broken()
    }

    /// Ends the producer, on whatever thread this is called, once nobody else uses it.
    fn retire(self: Arc<Publisher>) {
        while Arc::strong_count(&self) > 1 {
            thread::sleep(RETIRE);
        }
    }

    /// How it is used.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Hands one record over; never blocks. `word` comes back with the report: what the ledger has to be told, and
    /// [beside it](Charge::beside) the room that the record took.
    pub fn hand_over(&self, record: &Record<'_>, partition: i32, word: usize) -> HandOver {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for header in record.headers.iter() {
            headers = headers.insert(Header { key: header.0, value: Some(header.1) });
        }
        let mut base = BaseRecord::<[u8], [u8], usize>::with_opaque_to(record.topic, word)
            .partition(partition)
            .timestamp(record.timestamp_ms)
            .headers(headers);
        base.key = record.key;
        base.payload = record.value;
        match self.producer.send(base) {
            Ok(()) => HandOver::Accepted,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => HandOver::Full,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), _)) => HandOver::Dead,
            // The transaction at hand takes nothing any more.
            Err((error @ KafkaError::MessageProduction(RDKafkaErrorCode::State), _)) => {
                self.delivery().breaks(error.to_string());
                HandOver::Dead
            }
            Err((error, _)) => HandOver::Refused(error),
        }
    }

    /// Asks the cluster for the topic's partitions, which librdkafka does by itself every five minutes only.
    pub fn learn(&self, topic: &str) {
        // Without an answer the next hand-over is refused as the last one was.
        let _asked = self.producer.client().fetch_metadata(Some(topic), LEARN);
    }

    /// What was reported.
    fn delivery(&self) -> &Delivery {
        self.producer.context()
    }

    /// Whether any record was not delivered: its row will not settle, so nobody may wait for it.
    pub fn has_failed(&self) -> bool {
        self.delivery().has_failed()
    }

    /// The refusal of a record, if nobody has asked for it yet.
    fn refusal(&self) -> Option<Refusal> {
        self.delivery().refusal()
    }

    /// The refusal of the record that was sent alone, if it was refused; asked once.
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.delivery().take_refusal()
    }

    /// Serves the reports that have come, and waits for none. Whether these were all.
    fn serve(&self) -> bool {
        let (delivery, began) = (self.delivery(), Instant::now());
        let all = loop {
            let heard = delivery.heard();
            // One event, which may be the reports of a whole batch.
            self.producer.poll(Duration::ZERO);
            if delivery.heard() == heard {
                break true;
            }
            if began.elapsed() > SERVING {
                break false;
            }
        };
        delivery.settle_up();
        all
    }

    /// The fatal error of a dead producer.
    fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_follows_the_lag_and_does_not_flutter() {
        let millis = Duration::from_millis;
        assert_eq!(Flow::Full.at(millis(900)), Flow::Full);
        assert_eq!(Flow::Full.at(millis(1_100)), Flow::CatchUp);
        assert_eq!(Flow::CatchUp.at(millis(900)), Flow::CatchUp);
        assert_eq!(Flow::CatchUp.at(millis(50)), Flow::Full);
        // Records go one by one until the refused ones are passed, however far behind that is.
        assert_eq!(Flow::OneAtATime.at(millis(1_000_000)), Flow::OneAtATime);
    }
}
