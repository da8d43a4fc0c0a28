//! The messages of the output plugin, protocol version 1: transactions arrive whole and in commit order.

use super::cursor::Cursor;
use super::error::DecodeError;
use super::relation::Relation;
use super::time::PgTime;
use super::tuple::{Column, Tuple};
use crate::lsn::Lsn;

/// One message of `pgoutput`.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Where its commit record begins: the commit LSN that identifies the transaction.
        final_lsn: Lsn,
        /// When it committed.
        commit_time: PgTime,
        /// Its transaction id.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Unused by the server so far.
        flags: u8,
        /// Where the commit record begins; the same as the Begin's.
        commit_lsn: Lsn,
        /// Where the commit record ends: the position that may be confirmed once the transaction is
        /// published.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTime,
    },
    /// The transaction came to this server from another one.
    Origin {
        /// Its commit LSN there.
        commit_lsn: Lsn,
        /// Name of the origin.
        name: &'a str,
    },
    /// A table's description.
    Relation(Relation<'a>),
    /// Description of a type that is not built in.
    Type {
        /// OID.
        id: u32,
        /// Schema; empty for `pg_catalog`.
        namespace: &'a str,
        /// Name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// [`Relation::id`] of its table.
        relation_id: u32,
        /// The row.
        tuple: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// [`Relation::id`] of its table.
        relation_id: u32,
        /// The old key or row, as far as the replica identity asks for it.
        old: Option<Tuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// [`Relation::id`] of its table.
        relation_id: u32,
        /// The old key or row, as far as the replica identity goes.
        old: Tuple<'a>,
    },
    /// Tables were truncated.
    Truncate(Truncate<'a>),
    /// `pg_logical_emit_message`.
    Logical(LogicalMessage<'a>),
}

/// Tables were truncated by one statement.
#[derive(Debug, Clone, Copy)]
pub struct Truncate<'a> {
    /// Bit 0: CASCADE, bit 1: RESTART IDENTITY.
    pub flags: u8,
    relation_ids: &'a [u8],
}

impl<'a> Truncate<'a> {
    /// [`Relation::id`] of each table.
    pub fn relation_ids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (ids, _) = self.relation_ids.as_chunks::<4>();
        ids.iter().map(|id| u32::from_be_bytes(*id))
    }
}

/// A message that an SQL session put into the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Whether it belongs to the transaction around it. If not, it comes at once, between transactions.
    pub transactional: bool,
    /// Where it stands in the WAL.
    pub lsn: Lsn,
    /// Says whom it is for.
    pub prefix: &'a str,
    /// Its content.
    pub content: &'a [u8],
}

/// Of an Insert whose end is missing: the relation's id and the columns that are whole. `None` for another
/// message, or where not even the id is there.
pub fn cut_insert(kept: &[u8]) -> Option<(u32, Vec<Column<'_>>)> {
    let mut cursor = Cursor::new(kept);
    if cursor.u8("the kind of a message").ok()? != b'I' {
        return None;
    }
    let relation_id = cursor.u32("a relation's id").ok()?;
    let mut columns = Vec::new();
    if cursor.u8("the kind of a row") == Ok(b'N')
        && let Ok(count) = cursor.u16("the number of columns")
    {
        for _ in 0..count {
            match Column::read(&mut cursor) {
                Ok(column) => columns.push(column),
                Err(_) => break,
            }
        }
    }
    Some((relation_id, columns))
}

/// Of a transactional message whose end is missing: prefix, and the beginning of the content. `None` for another
/// message, or where not even that is there.
pub fn cut_message(kept: &[u8]) -> Option<(&str, &[u8])> {
    let mut cursor = Cursor::new(kept);
    let transactional =
        cursor.u8("the kind of a message").ok()? == b'M' && cursor.u8("the message's flags").ok()? & 1 != 0;
    let _lsn = cursor.u64("the message's LSN").ok()?;
    let prefix = cursor.text("the message's prefix").ok()?;
    let _length = cursor.u32("the message's content").ok()?;
    transactional.then(|| (prefix, cursor.rest()))
}

impl<'a> Message<'a> {
    /// Decodes one message: the `body` of [`CopyMessage::XLogData`](super::CopyMessage::XLogData).
    ///
    /// # Errors
    ///
    /// The message is of an unknown kind, ends too early, goes on after its end, or holds a byte or text
    /// that does not belong there. An unknown kind is never passed over: it could be a row.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let message = match cursor.u8("the kind of a message")? {
            b'I' => Self::insert(&mut cursor)?,
            b'B' => Self::begin(&mut cursor)?,
            b'C' => Self::commit(&mut cursor)?,
            kind => Self::rare(kind, &mut cursor)?,
        };
        cursor.end("the message")?;
        Ok(message)
    }

    fn rare(kind: u8, cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        match kind {
            b'R' => Ok(Message::Relation(Relation::read(cursor)?)),
            b'U' => Self::update(cursor),
            b'D' => Self::delete(cursor),
            b'T' => Self::truncate(cursor),
            b'Y' => Ok(Message::Type {
                id: cursor.u32("a type's id")?,
                namespace: cursor.text("a type's schema")?,
                name: cursor.text("a type's name")?,
            }),
            b'O' => Ok(Message::Origin {
                commit_lsn: Lsn(cursor.u64("the origin's commit LSN")?),
                name: cursor.text("the origin's name")?,
            }),
            b'M' => Self::logical(cursor),
            byte => Err(DecodeError::UnknownByte { expected: "a known message", offset: 0, byte }),
        }
    }

    fn begin(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        Ok(Message::Begin {
            final_lsn: Lsn(cursor.u64("the transaction's final LSN")?),
            commit_time: PgTime(cursor.i64("the commit time")?),
            xid: cursor.u32("the transaction id")?,
        })
    }

    fn commit(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        Ok(Message::Commit {
            flags: cursor.u8("the commit's flags")?,
            commit_lsn: Lsn(cursor.u64("the commit LSN")?),
            end_lsn: Lsn(cursor.u64("the transaction's end LSN")?),
            commit_time: PgTime(cursor.i64("the commit time")?),
        })
    }

    fn insert(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let relation_id = cursor.u32("the inserted row's relation")?;
        match tuple_kind(cursor)? {
            (b'N', _) => Ok(Message::Insert { relation_id, tuple: Tuple::read(cursor)? }),
            (byte, offset) => Err(DecodeError::UnknownByte { expected: "a new row (`N`)", offset, byte }),
        }
    }

    fn update(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let relation_id = cursor.u32("the updated row's relation")?;
        let (mut kind, mut offset) = tuple_kind(cursor)?;
        let mut old = None;
        if matches!(kind, b'K' | b'O') {
            old = Some(Tuple::read(cursor)?);
            (kind, offset) = tuple_kind(cursor)?;
        }
        if kind != b'N' {
            let expected = if old.is_some() { "a new row (`N`)" } else { "a row (`K`, `O` or `N`)" };
            return Err(DecodeError::UnknownByte { expected, offset, byte: kind });
        }
        Ok(Message::Update { relation_id, old, new: Tuple::read(cursor)? })
    }

    fn delete(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let relation_id = cursor.u32("the deleted row's relation")?;
        match tuple_kind(cursor)? {
            (b'K' | b'O', _) => Ok(Message::Delete { relation_id, old: Tuple::read(cursor)? }),
            (byte, offset) => {
                Err(DecodeError::UnknownByte { expected: "an old row (`K` or `O`)", offset, byte })
            }
        }
    }

    fn truncate(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let count = cursor.u32("the number of truncated relations")?;
        let flags = cursor.u8("the truncation's flags")?;
        // A product beyond the address space is longer than any slice, so `take` refuses it.
        let length = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(4);
        Ok(Message::Truncate(Truncate {
            flags,
            relation_ids: cursor.take(length, "the truncated relations")?,
        }))
    }

    fn logical(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        Ok(Message::Logical(LogicalMessage {
            transactional: cursor.u8("the message's flags")? & 1 != 0,
            lsn: Lsn(cursor.u64("the message's LSN")?),
            prefix: cursor.text("the message's prefix")?,
            content: cursor.counted("the message's content")?,
        }))
    }
}

/// The byte before a row that says which row it is, and where the byte stands.
fn tuple_kind(cursor: &mut Cursor<'_>) -> Result<(u8, usize), DecodeError> {
    let offset = cursor.offset();
    Ok((cursor.u8("the kind of a row")?, offset))
}
