//! The replication connection: a thin, blocking client on `postgres-protocol`.
//!
//! | file | what it owns |
//! |---|---|
//! | [`connection`] | one connection in command mode: messages in, messages out, deadlines |
//! | [`channel`] | the bytes of a connection, in the clear or through TLS |
//! | `secure` | asking for TLS, and the handshake |
//! | `socket` | dialling, and what is set on the socket before and after |
//! | `kernel` | how far the server is, and in how many segments its data came |
//! | `startup` | start-up parameters and authentication |
//! | `query` | the simple query protocol |
//! | [`commands`] | the replication commands |
//! | [`timeline`] | a timeline's history |
//! | `quote` | identifiers and literals |
//! | [`stream`] | the connection once it streams |
//! | [`status`] | the feedback message |
//! | [`error`] | what can go wrong, with what the server said |
//!
//! It blocks because the thread that reads rows is the relay's hottest path, and a blocking socket with a
//! small receive buffer drains a slot at about twice the rate of an asynchronous one. What a failure
//! means for the session is not decided here; the errors carry the facts.
//!
//! Protocol: PostgreSQL documentation, "Frontend/Backend Protocol" and "Streaming Replication Protocol".

pub(crate) mod channel;
pub mod commands;
pub mod connection;
pub mod error;
pub(crate) mod kernel;
mod query;
mod quote;
mod secure;
mod socket;
mod startup;
pub mod status;
pub mod stream;
pub mod timeline;

#[cfg(test)]
pub(crate) mod fake;

pub use commands::{CreatedSlot, SystemIdentity};
pub use connection::{Connection, Interrupt, Target};
pub use error::{ServerError, WireError};
pub use query::Row;
pub(crate) use startup::LOGGING_IN;
pub use status::Status;
pub use stream::ReplicationStream;
pub use timeline::{TimelineHistory, TimelineSwitch};
