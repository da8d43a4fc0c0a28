//! Delivery reports: each settles its row or names the record that was refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::Flow;
use super::window::{Charge, Load, Window};
use crate::ledger::Settler;
use crate::observe::Observed;
use crate::session::{Refused, of_kafka};

/// A record that will never be taken as it is: where it was going and why it was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Topic it was sent to.
    pub topic: String,
    /// Partition it was sent to.
    pub partition: i32,
    /// What the broker or librdkafka answered.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words for it.
    pub message: String,
    /// Bytes of key and value.
    pub bytes: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { topic, partition, code, message, bytes } = self;
        write!(f, "a record of {bytes} bytes for {topic}[{partition}] was refused: {message} ({code})")?;
        match of_kafka(*code) {
            Refused::TheRight => write!(f, "; give the relay's user the right to write to the topic"),
            Refused::TheRecord | Refused::ItsTime | Refused::TheProducer => Ok(()),
        }
    }
}

/// The producer's context. Runs on the poller's thread.
pub(super) struct Delivery {
    settler: Settler,
    window: Arc<Window>,
    observed: Arc<Observed>,
    refusal: Mutex<Option<Refusal>>,
    /// A record was not delivered, for whatever reason.
    failed: AtomicBool,
    tally: Mutex<Tally>,
    /// Reports after which they are told.
    tally_at: u64,
}

impl Delivery {
    pub(super) fn new(
        settler: Settler,
        window: Arc<Window>,
        observed: Arc<Observed>,
        flow: Flow,
    ) -> Delivery {
        // What is sent alone is waited for.
        let tally_at = if flow == Flow::OneAtATime { 1 } else { TALLY.min(window.max_records().div_ceil(8)) };
        let (refusal, failed, tally) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        Delivery { settler, window, observed, refusal, failed, tally, tally_at }
    }

    /// Tells of all reports there were.
    pub(super) fn settle_up(&self) {
        self.tell(&mut self.tally.lock());
    }

    fn tell(&self, tally: &mut Tally) {
        let Tally { room, published, bytes } = std::mem::take(tally);
        if room.records() > 0 {
            self.observed.published_records.add(published);
            self.observed.published_bytes.add(bytes);
            self.window.give_back(room);
        }
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().clone()
    }

    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        self.failed.store(false, SeqCst);
        self.refusal.lock().take()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    fn refused(&self, error: &KafkaError, message: &BorrowedMessage<'_>, bytes: usize) {
        let Some(code) = error.rdkafka_error_code() else { return };
        // What a dead producer drops after the refusal, and what a session drops at its end, says
        // nothing about the record itself.
        if matches!(
            code,
            RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::PurgeInflight
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::GaplessGuarantee
        ) {
            return;
        }
        self.refusal.lock().get_or_insert_with(|| Refusal {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            code,
            message: error.to_string(),
            bytes,
        });
    }
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Broker trouble: librdkafka goes on by itself; said so that a person can see why it waits.
        match super::client::trouble(&error, reason) {
            Some(sentence) => {
                tracing::warn!("waiting for the broker: {sentence}");
                self.observed.error(sentence);
            }
            None => tracing::warn!(%error, reason, "waiting for the brokers"),
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Delivery {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, word: usize) {
        let (opaque, charge) = Charge::apart(word);
        let (Ok(message) | Err((_, message))) = result;
        let bytes = message.key_len() + message.payload_len();
        match result {
            Ok(_) => self.settler.settle(opaque),
            Err((error, message)) => {
                self.refused(error, message, bytes);
                self.failed.store(true, SeqCst);
            }
        }
        let mut tally = self.tally.lock();
        tally.room = tally.room.and(charge);
        if result.is_ok() {
            tally.published += 1;
            tally.bytes += bytes as u64;
        }
        if tally.room.records() >= self.tally_at {
            self.tell(&mut tally);
        }
    }
}

/// Reports that the router, and whoever looks from outside, are not told of yet: each telling costs more than
/// the report itself.
#[derive(Default)]
struct Tally {
    room: Load,
    published: u64,
    bytes: u64,
}

/// Most reports in a tally.
const TALLY: u64 = 64;
