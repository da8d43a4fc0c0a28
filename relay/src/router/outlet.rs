//! Where records leave the router: pinned, partitioned, within the window, counted, handed over.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::topics::{TopicError, Topics};
use super::{Plan, PlanError, RowPosition, Scratch, Unpublishable, Value, partition};
use crate::ledger::Writer;
use crate::pgoutput::DecodeError;
use crate::publisher::{HandOver, Publisher, Window};
use crate::session::compare::HaltReason;
use crate::session::{End, Ending, Refused, of_kafka};

/// How long a full window is waited for before the session is asked whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Why a frame could not be routed. Each ends the session with its sentence.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The stream does not read as the protocol says.
    #[error("the replication stream cannot be decoded")]
    Decode(#[from] DecodeError),
    /// The outbox table lost a column that is needed.
    #[error("the outbox table cannot be routed")]
    Plan(#[from] PlanError),
    /// A row cannot become a record.
    #[error("the row at position {position} cannot be published")]
    Row {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// What is wrong with it.
        source: Unpublishable,
    },
    /// librdkafka will not take the record.
    #[error("the row at position {position}, for topic {topic}, was refused")]
    Refused {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// Where it was going.
        topic: String,
        /// Why not.
        source: Box<KafkaError>,
    },
    /// A row is larger than the relay holds.
    #[error(
        "a change of {bytes} bytes is above source.max_row_bytes; raise it, or keep such rows out of the outbox"
    )]
    TooLarge {
        /// Length of the frame.
        bytes: usize,
    },
    /// The messages came in an order that the protocol forbids.
    #[error("{0} came where the protocol does not allow it")]
    OutOfPlace(&'static str),
    /// What was skipped as published is not what was published.
    #[error(transparent)]
    OtherHistory(Box<HaltReason>),
    /// The topic cannot be published to.
    #[error("Kafka")]
    Topic(#[from] TopicError),
}

impl RouteError {
    /// The end of the session that ran into this: a halt, unless the trouble is the producer's.
    pub fn end(&self) -> End {
        if let RouteError::Refused { source, .. } = self
            && source.rdkafka_error_code().is_some_and(|code| of_kafka(code) == Refused::TheProducer)
        {
            return End::reconnect(self);
        }
        End::halt(self)
    }
}

/// The router's and the fill's way out.
pub struct Outlet {
    /// Topics and pins.
    pub topics: Topics,
    /// The ledger's writing side.
    pub ledger: Writer,
    /// The producer.
    pub publisher: Arc<Publisher>,
    /// The bound on what is in flight.
    pub window: Arc<Window>,
    /// The session's end.
    pub ending: Arc<Ending>,
}

impl Outlet {
    /// Makes a record of a row and hands it over; waits for its topic and for room. Returns without
    /// having done so only when the session is over.
    ///
    /// # Errors
    /// The row cannot be published.
    pub fn publish(
        &mut self,
        plan: &Plan,
        row: &[Value<'_>],
        at: &RowPosition,
        scratch: &mut Scratch,
    ) -> Result<(), RouteError> {
        let record = plan
            .record(row, at, scratch)
            .map_err(|source| RouteError::Row { position: at.text(), source })?;
        let Some(count) = self.topics.partitions(record.topic)? else { return Ok(()) };
        // A record without a key has no order to keep; its id spreads such records.
        let partition = partition(record.key.unwrap_or(record.id), count);
        let bytes = record.charge();
        while !self.window.take(bytes) {
            self.window.wait(bytes, LOOK);
            if self.ending.is_over() {
                return Ok(());
            }
        }
        let opaque = self.ledger.row();
        loop {
            match self.publisher.hand_over(&record, partition, opaque) {
                HandOver::Accepted => return Ok(()),
                HandOver::Full if !self.ending.is_over() => self.ending.pause(Duration::from_millis(1)),
                // The session is over or about to be: the poller says why.
                HandOver::Full | HandOver::Dead => return Ok(()),
                HandOver::Refused(source) => {
                    return Err(RouteError::Refused {
                        position: at.text(),
                        topic: record.topic.to_owned(),
                        source: source.into(),
                    });
                }
            }
        }
    }
}
