//! Why a frame cannot be routed, and how the session ends that ran into it.

use super::PlanError;
use super::topics::TopicError;
use crate::lsn::Lsn;
use crate::pgoutput::DecodeError;
use crate::session::End;
use crate::session::compare::HaltReason;

/// Why a frame cannot be routed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The stream does not read as the protocol says.
    #[error("the replication stream cannot be decoded")]
    Decode(#[from] DecodeError),
    /// The outbox table lost a column that is needed.
    #[error("the outbox table cannot be routed")]
    Plan(#[from] PlanError),
    /// A row cannot be published, and the policy of its topic is to halt.
    #[error("the row at position {position} cannot be published: {reason}")]
    Row {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record's time is not one that its topic takes.
    #[error(
        "the row at position {position} was refused for its time: {reason}. So is every record beside it: mend the \
         topic's limits on timestamps (or the clock), then start again"
    )]
    Time {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// What the broker said.
        reason: String,
    },
    /// A row is too large to be held, and what was held of it does not say which key to hold.
    #[error(
        "the row at position {position} has {bytes} bytes, more than source.max_row_bytes, and its key is not in what \
         was kept of it: raise source.max_row_bytes, or let the publication send key and routing columns first"
    )]
    TooLarge {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// Length of the frame.
        bytes: usize,
    },
    /// The quarantine holds as much as it may.
    #[error(
        "the row at position {position} cannot be published ({reason}), and the quarantine holds quarantine.max_entries \
         = {max} already: decide about what is held (`outbox-relay quarantine list`), or raise the limit"
    )]
    QuarantineFull {
        /// `<epoch>/<commit LSN>/<ordinal>` of the row.
        position: String,
        /// Why it is not published.
        reason: String,
        /// The limit.
        max: u64,
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
    /// A topic takes less than a batch may hold.
    #[error("a topic takes batches of {limit} bytes at most: going on with smaller ones")]
    Batches {
        /// What it takes.
        limit: usize,
    },
    /// A PostgreSQL transaction is larger than one Kafka transaction shall be.
    #[error(
        "the transaction at {commit_lsn} has more than delivery.max_transaction_records = {max} records: raise the limit \
         (and delivery.transaction_timeout, if it takes so long), or set delivery.larger = \"split\", with which its events \
         come at least once and may be seen in parts"
    )]
    TooMany {
        /// Where it commits.
        commit_lsn: Lsn,
        /// The limit.
        max: u64,
    },
    /// The Kafka transaction at hand is given up; the next session knows what to do otherwise.
    #[error("{0}")]
    Anew(String),
    /// A right is missing, or a topic: the Kafka transaction at hand must not stay open for as long as that takes.
    #[error("{0}")]
    HoldsBack(String),
    /// The producer cannot go on; a new session may.
    #[error("{0}")]
    Producer(String),
}

impl RouteError {
    /// Whether it is the time of one record that its topic does not take.
    pub(super) fn is_about_time(&self) -> bool {
        matches!(
            self,
            RouteError::Time { .. }
                | RouteError::Topic(TopicError::TooOld { .. } | TopicError::TooNew { .. })
        )
    }

    /// Whether it would come again at the same place: what a Kafka transaction holds from before it would never be seen.
    pub fn stays(&self) -> bool {
        match self {
            RouteError::HoldsBack(_) | RouteError::Topic(_) | RouteError::OtherHistory(_) => true,
            RouteError::Producer(_) | RouteError::Batches { .. } | RouteError::Anew(_) => false,
            RouteError::Decode(_)
            | RouteError::Plan(_)
            | RouteError::Row { .. }
            | RouteError::Time { .. }
            | RouteError::TooLarge { .. }
            | RouteError::QuarantineFull { .. }
            | RouteError::OutOfPlace(_)
            | RouteError::TooMany { .. } => true,
        }
    }

    /// The end of the session that ran into this: a halt, unless the trouble is the producer's.
    pub fn end(&self) -> End {
        match self {
            RouteError::Producer(_) | RouteError::HoldsBack(_) => End::reconnect(self),
            RouteError::Topic(TopicError::HoldsBack(_)) => End::reconnect(self),
            RouteError::Batches { .. } | RouteError::Anew(_) => End::Again(self.to_string()),
            RouteError::OtherHistory(reason) => End::Astray(reason.clone()),
            RouteError::Decode(_)
            | RouteError::Plan(_)
            | RouteError::Row { .. }
            | RouteError::Time { .. }
            | RouteError::TooLarge { .. }
            | RouteError::QuarantineFull { .. }
            | RouteError::OutOfPlace(_)
            | RouteError::TooMany { .. }
            | RouteError::Topic(_) => End::halt(self),
        }
    }
}
