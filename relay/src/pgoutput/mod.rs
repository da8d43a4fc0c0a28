//! The decoder of `pgoutput`, in place: what it returns borrows from the frame it was given, and
//! nothing is copied.
//!
//! | file | what it owns |
//! |---|---|
//! | [`copy`] | the envelope: row data or keepalive |
//! | [`message`] | the messages of the plugin, protocol version 1 |
//! | [`relation`] | a table's description |
//! | [`tuple`] | the columns of a row |
//! | [`time`] | PostgreSQL's clock |
//! | [`error`] | what was expected, and where |
//!
//! Whatever the bytes are, decoding ends in a value or a [`DecodeError`]; it never panics. Every length
//! is checked against what is there, and bytes that are left over are an error too: a message that is
//! only nearly understood would be a lost event.
//!
//! Format: PostgreSQL documentation, "Streaming Replication Protocol" and "Logical Replication Message
//! Formats".

pub mod copy;
mod cursor;
pub mod error;
pub mod message;
pub mod relation;
pub mod time;
pub mod tuple;

#[cfg(test)]
mod tests;

pub use copy::CopyMessage;
pub use error::DecodeError;
pub use message::{LogicalMessage, Message, Truncate, cut_insert, cut_message};
pub use relation::{Relation, RelationColumn};
pub use time::PgTime;
pub use tuple::{Column, Tuple};
