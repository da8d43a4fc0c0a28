//! How a reader ended.

use std::io;
use std::time::Duration;

use crate::wire::ServerError;

/// Why a reader reads no more. What that means for the session is decided there.
#[derive(Debug, thiserror::Error)]
pub enum ReaderEnd {
    /// It was told to.
    #[error("the reader was stopped")]
    Stopped,
    /// The server ended the stream, with its error (such as `57P01`) if it gave one.
    #[error("the server ended the replication stream")]
    ClosedByServer(#[source] Option<ServerError>),
    /// The connection broke.
    #[error("the replication connection failed while {doing}")]
    Io {
        /// What was going on.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing came although a sign of life was asked for again and again: the connection is dead on the
    /// way or the server hangs.
    #[error("the server was silent for {after:?} although the relay asked for a sign of life")]
    Silent {
        /// For how long.
        after: Duration,
    },
    /// What came are not the frames of a replication stream.
    #[error("the replication stream cannot be cut into frames")]
    Framing(#[from] FramingError),
}

/// What came are not the frames of a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A length that cannot be.
    #[error("message `{}` claims a length of {length}", tag.escape_ascii())]
    Length {
        /// First byte of the message.
        tag: u8,
        /// The length as sent, which counts its own four bytes.
        length: u32,
    },
    /// A message that does not belong to a stream.
    #[error("message `{}` does not belong to a replication stream", tag.escape_ascii())]
    Tag {
        /// First byte of the message.
        tag: u8,
    },
}
