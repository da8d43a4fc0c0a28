//! The contract between the services that write events, the relay that publishes them and the consumers
//! that read them.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`sql`] | the migrations of the outbox, and the SQL that each relay needs |
//! | [`event`] | an event as a service writes it, checked before it is sent |
//! | [`tokio_postgres`], [`sqlx`] | `enqueue`: one event, in the caller's transaction (features of these names) |
//! | [`record`] | the record on Kafka: topic, key, headers, position |
//! | [`testing`] | "my service emitted exactly these" |
//! | [`golden`] | rows and their records, byte for byte, for the tests of every crate |
//!
//! Everything here can be done from any language with the SQL alone; the crate spares Rust services the
//! typing and finds mistakes before the server does.

pub mod event;
pub mod golden;
pub mod record;
pub mod sql;
#[cfg(feature = "sqlx")]
pub mod sqlx;
pub mod testing;
#[cfg(feature = "tokio-postgres")]
pub mod tokio_postgres;

mod enqueue;
mod json;

pub use enqueue::EnqueueError;
pub use event::{EventError, OutboxEvent};
