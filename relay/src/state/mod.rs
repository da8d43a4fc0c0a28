//! What the relay remembers.
//!
//! The [`StateRecord`] lives on a compacted Kafka topic and not in PostgreSQL: a database that is
//! restored or fails over takes what it holds back in time, and the two disagreeing is exactly what
//! must be noticed. The order of writes is ledger, then the record acknowledged, then feedback up to
//! the recorded position; the slot is therefore never ahead of the record unless somebody moved it.

mod record;
mod ring;

#[cfg(test)]
mod corpus;

pub use record::{
    FORMAT_VERSION, ListedEntry, MAX_CARRIED, MAX_LISTED, MAX_RECORD_BYTES, RecordedPhase, StateError,
    StateRecord, Unlisted,
};
pub use ring::{Candidates, MAX_RING_ENTRIES, MAX_SNAPSHOT_BYTES, PublishedSnapshot, Ring};

pub(crate) mod draft;
mod peek;
mod readers;
mod recorder;
mod store;
mod together;
pub mod topic;

pub use peek::{PeekError, peek};
pub use readers::glance;
pub use recorder::{Place, Recorder, RecorderParts};
#[cfg(feature = "simulation")]
pub(crate) use store::is_anothers;
pub use store::{Store, StoreError};
pub use together::Together;
