//! A row becomes a record and leaves for Kafka, in order.
//!
//! | module | what it owns |
//! |---|---|
//! | [`row`] | what this module needs to know of a table and a row |
//! | [`column`] | a column's value as text, as bytes, as an instant |
//! | [`binary`] | values in binary form, written as their text |
//! | [`plan`] | which column plays which part, compiled from each Relation message |
//! | [`record`] | the record that a row makes by its plan |
//! | [`rules`] | topic, key and headers by rule |
//! | [`topic`] | Kafka's rules for a topic's name |
//! | [`headers`] | the record's headers, and the row's own among them |
//! | [`created_at`] | PostgreSQL's time text as RFC 3339 |
//! | [`bytea`] | PostgreSQL's hex text as bytes |
//! | [`unpublishable`] | why a row makes no record |
//! | [`place`] | what can be read of such a row: who it is and where it belongs |
//! | [`partition`] | the partition of a key, as Java's producer chooses it |
//! | [`pins`] | the partition counts that this choice is made over |
//! | [`topics`] | topics looked up, waited for or made, and pinned before their first record |
//! | [`emitted`] | an event that came as a message, as a row |
//! | [`command`] | what a person tells the running relay by a message in the stream |
//! | `error` | why a frame cannot be routed, and how the session ends of it |
//! | [`outlet`] | a record on its way out: within the window, counted, handed over |
//! | [`aside`] | a row on its way into the quarantine |
//! | [`release`] | what was decided of the quarantine, carried out where the stream says so |
//! | [`course`] | where the stream stands: what is published already, and whether that is believed; pure |
//! | [`thread`] | the thread that walks the stream |
//!
//! Rows become records without I/O, without waiting and without allocation; what comes behind `pins` in this
//! list is for the edges. Payloads are passed on as
//! they are.

pub mod aside;
pub mod binary;
pub mod bytea;
mod column;
pub mod command;
pub mod course;
pub mod created_at;
pub mod emitted;
mod error;
pub mod headers;
pub mod outlet;
pub mod partition;
pub mod pins;
pub mod place;
pub mod plan;
pub mod record;
pub mod release;
pub mod row;
mod rules;
pub mod thread;
pub mod topic;
pub mod topics;
pub mod unpublishable;

pub use headers::Headers;
pub use partition::partition;
pub use pins::{PinError, Pins};
pub use place::Place;
pub use plan::{Part, Plan, PlanError};
pub use record::{Record, RowPosition, Scratch};
pub use row::{ColumnInfo, RelationShape, Value};
pub use unpublishable::Unpublishable;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod transaction_tests;
