//! A column of a plan: where it is, what it is for, and how its value becomes bytes of a record.

use super::binary::{Binary, Written};
use super::bytea;
use super::plan::Part;
use super::row::Value;
use super::unpublishable::Unpublishable;

/// A column of the plan: where it is and what it is for.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) index: usize,
    /// The form of its type; `None` where the type is known by its text only.
    pub(super) form: Option<Binary>,
}

/// Bytes of the row itself, or appended to the buffer that goes with the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes<'a> {
    Row(&'a [u8]),
    Buffer,
}

impl<'a> Bytes<'a> {
    /// The bytes, where `buffer` was empty before they were appended.
    pub(super) fn within(self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Bytes::Row(bytes) => bytes,
            Bytes::Buffer => buffer,
        }
    }
}

impl Column {
    /// The column's text as PostgreSQL writes it; `None` for SQL NULL. The row must be as wide as the plan.
    pub(super) fn text<'a>(
        &self,
        row: &[Value<'a>],
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Bytes<'a>>, Unpublishable> {
        match row[self.index] {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(Bytes::Row(text))),
            Value::Binary(value) => match self.form.and_then(|form| form.text(value, buffer)) {
                Some(Written::Same(text)) => Ok(Some(Bytes::Row(text))),
                Some(Written::Appended) => Ok(Some(Bytes::Buffer)),
                None => Err(self.undecodable("a value of its type in binary form")),
            },
            Value::Unchanged => Err(Unpublishable::Unchanged { column: self.name.clone() }),
        }
    }

    /// The column's text, which no record can do without.
    pub(super) fn required<'a>(
        &self,
        row: &[Value<'a>],
        buffer: &mut Vec<u8>,
    ) -> Result<Bytes<'a>, Unpublishable> {
        self.text(row, buffer)?.ok_or_else(|| self.null())
    }

    /// The bytes that the column stands for: those of a `bytea`, the text of everything else. More than
    /// `limit` bytes are not decoded, so that the buffer does not outgrow it.
    pub(super) fn bytes<'a>(
        &self,
        row: &[Value<'a>],
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Bytes<'a>>, Unpublishable> {
        match (row[self.index], self.form) {
            (Value::Text(text), Some(Binary::Bytea)) => {
                let bytes = bytea::decoded_len(text);
                if bytes > limit {
                    return Err(Unpublishable::RecordTooLarge { bytes, limit });
                }
                bytea::decode(text, buffer)
                    .ok_or_else(|| self.undecodable("bytea in hex form (`\\x00ff`)"))?;
                Ok(Some(Bytes::Buffer))
            }
            (Value::Binary(bytes), Some(Binary::Bytea)) => Ok(Some(Bytes::Row(bytes))),
            _ => self.text(row, buffer),
        }
    }

    /// The microseconds since 2000-01-01 00:00 UTC that a timestamp in binary form says.
    pub(super) fn instant(&self, row: &[Value<'_>]) -> Option<i64> {
        match row[self.index] {
            Value::Binary(value) => self.form?.instant(value),
            Value::Null | Value::Unchanged | Value::Text(_) => None,
        }
    }

    /// The column is NULL and must not be.
    pub(super) fn null(&self) -> Unpublishable {
        Unpublishable::Null { column: self.name.clone(), part: self.part }
    }

    /// The column's value is not what it has to be.
    pub(super) fn undecodable(&self, expected: &'static str) -> Unpublishable {
        Unpublishable::Undecodable { column: self.name.clone(), part: self.part, expected }
    }
}
