//! The envelope of a replication stream: the payload of one CopyData message from the server.

use super::cursor::Cursor;
use super::error::DecodeError;
use super::time::PgTime;
use crate::lsn::Lsn;

/// What the server sends on a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMessage<'a> {
    /// One message of the output plugin.
    XLogData {
        /// Where the message comes from in the WAL. For a Commit this is the end of the transaction; for
        /// a Begin it is the transaction's first record, so it does not grow from message to message.
        wal_start: Lsn,
        /// The same position again; logical walsenders send no more than that.
        wal_end: Lsn,
        /// When the server sent it, by the server's clock.
        send_time: PgTime,
        /// The plugin's message, for [`Message::parse`](super::Message::parse).
        body: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has read its WAL. It stands behind every row sent before it, and says
        /// nothing about rows that are still unpublished here.
        wal_end: Lsn,
        /// When the server sent it, by the server's clock.
        send_time: PgTime,
        /// The server wants an answer soon, or it ends the connection.
        reply_requested: bool,
    },
}

impl<'a> CopyMessage<'a> {
    /// Decodes the payload of one CopyData message.
    ///
    /// # Errors
    ///
    /// The payload is neither row data nor a keepalive, or is too short or too long for it.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(payload);
        match cursor.u8("the kind of a replication message")? {
            b'w' => Ok(CopyMessage::XLogData {
                wal_start: Lsn(cursor.u64("the start of the WAL data")?),
                wal_end: Lsn(cursor.u64("the end of the WAL data")?),
                send_time: PgTime(cursor.i64("the time of sending")?),
                body: cursor.rest(),
            }),
            b'k' => {
                let wal_end = Lsn(cursor.u64("the server's WAL end")?);
                let send_time = PgTime(cursor.i64("the time of sending")?);
                let reply_requested = cursor.u8("whether a reply is requested")? != 0;
                cursor.end("the keepalive")?;
                Ok(CopyMessage::Keepalive { wal_end, send_time, reply_requested })
            }
            byte => Err(DecodeError::UnknownByte {
                expected: "row data (`w`) or a keepalive (`k`)",
                offset: 0,
                byte,
            }),
        }
    }
}
