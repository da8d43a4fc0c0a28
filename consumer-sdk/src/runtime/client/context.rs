//! What librdkafka's callbacks tell: collected here, and done by the client's thread between two polls (C29).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;

use crate::kafka::Heard;
use crate::metrics::Metrics;

/// What the callbacks tell.
#[derive(Debug)]
pub(super) enum Signal {
    Assign(TopicPartitionList),
    Revoke {
        partitions: TopicPartitionList,
        lost: bool,
    },
    /// For each partition of the commit of this number.
    Committed(u64, Vec<KafkaResult<()>>),
    /// Where the logs of the assigned partitions ended, just now.
    Ends(HashMap<(String, i32), i64>),
}

/// Collects signals.
pub(super) struct Context {
    signals: Mutex<Vec<Signal>>,
    heard: Heard,
    metrics: Metrics,
    /// The client is being dropped.
    closing: AtomicBool,
}

impl Context {
    /// Nothing told yet. What keeps brokers from being spoken to is seen in `metrics`.
    pub(super) fn new(metrics: Metrics) -> Context {
        Context {
            signals: Mutex::default(),
            heard: Heard::default(),
            metrics,
            closing: AtomicBool::new(false),
        }
    }

    /// Tells the client's thread.
    pub(super) fn tell(&self, signal: Signal) {
        self.signals.lock().push(signal);
    }

    /// What was told, in its order; none of it is told again.
    pub(super) fn heard(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// An answer to a commit and its number, where one has come; everything else stays where it is.
    pub(super) fn answer(&self) -> Option<(u64, Vec<KafkaResult<()>>)> {
        let mut signals = self.signals.lock();
        let at = signals.iter().position(|signal| matches!(signal, Signal::Committed(..)))?;
        match signals.remove(at) {
            Signal::Committed(number, results) => Some((number, results)),
            _ => None,
        }
    }

    /// Nobody listens any more.
    pub(super) fn close(&self) {
        self.closing.store(true, SeqCst);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(sentence) = self.heard.log(level, facility, message) {
            self.metrics.kafka_says(sentence);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(sentence) = self.heard.error(&error, reason) {
            self.metrics.kafka_says(sentence);
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(SeqCst) {
            // Nobody hears signals any more, and the client leaves the group only when this is answered.
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "leaving the group");
            }
            return;
        }
        let signal = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Signal::Assign(list.clone()),
            // Whatever else it is called, the assignment is over.
            _ => Signal::Revoke { partitions: list.clone(), lost: consumer.assignment_lost() },
        };
        self.signals.lock().push(signal);
    }
}
