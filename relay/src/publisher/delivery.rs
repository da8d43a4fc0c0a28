//! Delivery reports: each settles its row or names the record that was refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use outbox_kafka_link::trouble;
use outbox_postgres_link::Program;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::window::{Charge, Load, Window};
use super::{Flow, Refusals};
use crate::ledger::Settler;
use crate::observe::Observed;
use crate::session::{End, Refused, of_kafka};

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

/// What the state record carries through the producer of events. No row has it: no opaque of the ledger is 0.
pub(super) const STATE_RECORD: usize = 0;

/// The facility of librdkafka's log by which it says that a transaction has failed.
const BROKEN: &str = "TXNERR";

/// The producer's context. Runs on the poller's thread.
pub(crate) struct Delivery {
    settler: Settler,
    window: Arc<Window>,
    observed: Arc<Observed>,
    refusal: Mutex<Option<Refusal>>,
    /// A record was not delivered, for whatever reason.
    failed: AtomicBool,
    /// Why the Kafka transaction at hand can only be aborted.
    broken: Mutex<Option<String>>,
    /// Why the state record in it was refused.
    state: Mutex<Option<KafkaError>>,
    tally: Mutex<Tally>,
    /// Reports after which they are told.
    tally_at: u64,
    /// What librdkafka has called for: reports, lines of its log, errors.
    heard: AtomicU64,
}

impl Delivery {
    pub(crate) fn new(
        settler: Settler,
        window: Arc<Window>,
        observed: Arc<Observed>,
        flow: Flow,
    ) -> Delivery {
        // What is sent alone is waited for.
        let tally_at = if flow == Flow::OneAtATime { 1 } else { TALLY.min(window.max_records().div_ceil(8)) };
        let (refusal, failed, tally) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        let (broken, state) = (Mutex::default(), Mutex::default());
        let heard = AtomicU64::new(0);
        Delivery { settler, window, observed, refusal, failed, broken, state, tally, tally_at, heard }
    }

    /// How much librdkafka has called for: what is the same after a poll says that there was nothing to serve.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    fn hear(&self) {
        self.heard.fetch_add(1, Relaxed);
    }

    /// Tells of all reports there were.
    pub(crate) fn settle_up(&self) {
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

    /// The end of the session where a record was refused. One that was sent alone is asked for by whoever sent it.
    pub(crate) fn refused(&self, flow: Flow, refusals: &Refusals, batch_bytes: usize) -> Option<End> {
        let refusal = self.refusal.lock().clone().filter(|_| flow != Flow::OneAtATime)?;
        Some(End::refused(&refusal, refusals, batch_bytes))
    }

    /// The end of the session where a record was dropped, and nobody says why: its row would never settle, and the
    /// position stand still without a word.
    pub(crate) fn dropped(&self, flow: Flow) -> Option<End> {
        let dropped = self.has_failed() && flow != Flow::OneAtATime;
        dropped.then(|| End::Reconnect("librdkafka dropped a record without a reason".into()))
    }

    /// The broker has a record.
    pub(crate) fn taken(&self, word: usize, bytes: usize) {
        let (opaque, charge) = Charge::apart(word);
        self.settler.settle(opaque);
        self.count(charge, Some(bytes));
    }

    /// A record was not taken: why, where that says something of the record.
    pub(crate) fn not_taken(&self, word: usize, refusal: Option<Refusal>) {
        let (_, charge) = Charge::apart(word);
        if let Some(refusal) = refusal {
            self.refusal.lock().get_or_insert(refusal);
        }
        self.failed.store(true, SeqCst);
        self.count(charge, None);
    }

    fn count(&self, charge: Charge, published: Option<usize>) {
        let mut tally = self.tally.lock();
        tally.room = tally.room.and(charge);
        if let Some(bytes) = published {
            tally.published += 1;
            tally.bytes += bytes as u64;
        }
        if tally.room.records() >= self.tally_at {
            self.tell(&mut tally);
        }
    }

    pub(crate) fn take_refusal(&self) -> Option<Refusal> {
        self.failed.store(false, SeqCst);
        self.refusal.lock().take()
    }

    /// The refusal that is not asked for yet.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().clone()
    }

    /// The Kafka transaction at hand can only be aborted.
    pub(crate) fn breaks(&self, why: String) {
        self.broken.lock().get_or_insert(why);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().clone()
    }

    pub(crate) fn state_refusal(&self) -> Option<KafkaError> {
        self.state.lock().clone()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }
}

/// What an error says of the record itself. What a dead producer drops after the refusal, and what a session drops at
/// its end, says nothing.
fn refusal(error: &KafkaError, message: &BorrowedMessage<'_>, bytes: usize) -> Option<Refusal> {
    let code = error.rdkafka_error_code()?;
    let echo = matches!(
        code,
        RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::GaplessGuarantee
    );
    (!echo).then(|| Refusal {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        code,
        message: error.to_string(),
        bytes,
    })
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hear();
        super::client::log(level, facility, message);
        // librdkafka tells of it here alone, until somebody wants to commit.
        if facility == BROKEN {
            self.breaks(message.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear();
        // Broker trouble: librdkafka goes on by itself; said so that a person can see why it waits.
        match trouble::of_error(Program::Relay, &error, reason) {
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
        self.hear();
        let (Ok(message) | Err((_, message))) = result;
        if word == STATE_RECORD {
            if let Err((error, _)) = result {
                self.state.lock().get_or_insert(error.clone());
            }
            return;
        }
        let bytes = message.key_len() + message.payload_len();
        match result {
            Ok(_) => self.taken(word, bytes),
            Err((error, message)) => self.not_taken(word, refusal(error, message, bytes)),
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
