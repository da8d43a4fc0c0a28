//! What the quarantine keeps of a row, and why.

use outbox_schema::record::Position;
use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::router::{ColumnInfo, Place, RelationShape, RowPosition, Unpublishable, Value};

/// Why a row is in the quarantine, as the table's column `cause` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A part without which there is no record is NULL.
    NullColumn,
    /// A value is not what its part asks for.
    Undecodable,
    /// No topic of Kafka's can be called so.
    IllegalTopic,
    /// One of the row's own headers cannot be sent.
    Header,
    /// The record is above the limit of relay or topic.
    TooLarge,
    /// The row is too large to be held; only a reference is kept.
    RowTooLarge,
    /// The broker, or librdkafka for it, refused the record when it was sent alone.
    Refused,
    /// Nothing is wrong with it: it waits behind another of its key.
    Behind,
}

impl Cause {
    /// The code in the table.
    pub fn code(self) -> &'static str {
        match self {
            Cause::NullColumn => "null_column",
            Cause::Undecodable => "undecodable",
            Cause::IllegalTopic => "illegal_topic",
            Cause::Header => "header",
            Cause::TooLarge => "too_large",
            Cause::RowTooLarge => "row_too_large",
            Cause::Refused => "refused",
            Cause::Behind => "behind",
        }
    }

    /// The cause of a row that makes no record.
    pub fn of(why: &Unpublishable) -> Cause {
        match why {
            Unpublishable::Null { .. } => Cause::NullColumn,
            Unpublishable::Undecodable { .. }
            | Unpublishable::Message { .. }
            | Unpublishable::Unchanged { .. }
            | Unpublishable::ColumnCount { .. } => Cause::Undecodable,
            Unpublishable::Topic { .. } | Unpublishable::RuledTopic { .. } => Cause::IllegalTopic,
            Unpublishable::Header { .. } => Cause::Header,
            Unpublishable::RecordTooLarge { .. } => Cause::TooLarge,
            Unpublishable::RowTooLarge { .. } => Cause::RowTooLarge,
        }
    }
}

/// Where an entry begins its life, as the table's column `state` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The first of its key; waits for a decision.
    Held,
    /// Behind a held one.
    Queued,
    /// Nothing waits behind it.
    Passed,
}

impl State {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Queued => "queued",
            State::Passed => "passed",
        }
    }
}

/// A row as the stream brought it, so that a record can be made of it later, by the rules of then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow {
    /// Names and types.
    pub columns: Vec<ColumnInfo>,
    /// Their values; `None` is SQL NULL.
    pub values: Vec<Option<Vec<u8>>>,
    /// A letter a column, as in the stream: `t` text, `b` binary, `n` NULL.
    pub formats: String,
}

impl RawRow {
    /// Copies a row; `None` for one that is not of its table's shape, of which only a reference can be kept.
    pub fn copy(columns: &[ColumnInfo], row: &[Value<'_>]) -> Option<RawRow> {
        let part = |value: &Value<'_>| match *value {
            Value::Null => Some((None, 'n')),
            Value::Text(text) => Some((Some(text.to_vec()), 't')),
            Value::Binary(value) => Some((Some(value.to_vec()), 'b')),
            Value::Unchanged => None,
        };
        let parts: Option<Vec<_>> = row.iter().map(part).collect();
        let (values, formats) = parts.filter(|parts| parts.len() == columns.len())?.into_iter().unzip();
        Some(RawRow { columns: columns.to_vec(), values, formats })
    }

    /// The row's values; `None` where what is stored is not a row.
    pub fn row(&self) -> Option<Vec<Value<'_>>> {
        let formats = self.formats.as_bytes();
        if formats.len() != self.values.len() || self.columns.len() != self.values.len() {
            return None;
        }
        self.values
            .iter()
            .zip(formats)
            .map(|(stored, format)| match (stored, format) {
                (Some(bytes), b't') => Some(Value::Text(bytes)),
                (Some(bytes), b'b') => Some(Value::Binary(bytes)),
                (None, b'n') => Some(Value::Null),
                (Some(_) | None, _) => None,
            })
            .collect()
    }

    /// The shape that a plan is compiled from.
    pub fn shape(&self, schema: &str, table: &str) -> RelationShape {
        RelationShape { schema: schema.to_owned(), table: table.to_owned(), columns: self.columns.clone() }
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        self.values.iter().flatten().map(Vec::len).sum()
    }
}

/// One entry, as it is put into the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The row's position.
    pub at: RowPosition,
    /// What could be read of the row: who it is, where it would go.
    pub place: Place,
    /// The queue that it stands in or heads; `None` where nothing is held.
    pub held_by: Option<String>,
    /// Where it begins.
    pub state: State,
    /// Why it is here.
    pub cause: Cause,
    /// In words; never a value of the row.
    pub reason: String,
    /// The row; `None` where only a reference is kept.
    pub row: Option<RawRow>,
    /// Size of the row.
    pub bytes: u64,
}

impl Entry {
    /// What it counts for while it waits to be stored.
    pub fn charge(&self) -> usize {
        self.row.as_ref().map_or(0, RawRow::bytes) + 1024
    }
}

/// A position as one word: what people and the state record call an entry by.
pub fn position_text(at: &RowPosition) -> String {
    Position { epoch: at.epoch, commit_lsn: at.commit_lsn.0, ordinal: at.ordinal }.to_string()
}

/// Reads [`position_text`]: epoch, commit LSN and ordinal.
pub fn parse_position(text: &str) -> Option<(u64, Lsn, u64)> {
    let position: Position = text.parse().ok()?;
    Some((position.epoch, Lsn(position.commit_lsn), position.ordinal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was() {
        let columns: Vec<ColumnInfo> =
            ["a", "b"].map(|name| ColumnInfo { name: name.to_owned(), type_oid: 25 }).into();
        let row = [Value::Text(b"x"), Value::Null];
        let raw = RawRow::copy(&columns, &row).unwrap();
        assert_eq!(raw.formats, "tn");
        assert_eq!(raw.row().unwrap(), row);
        assert_eq!(raw.bytes(), 1);
        for formats in ["t", "tt", "nn", "tnn", "xn"] {
            assert_eq!(RawRow { formats: formats.to_owned(), ..raw.clone() }.row(), None, "{formats}");
        }
    }

    #[test]
    fn what_is_no_row_is_kept_by_reference() {
        let columns = [ColumnInfo { name: "a".to_owned(), type_oid: 25 }];
        assert_eq!(RawRow::copy(&columns, &[Value::Null, Value::Null]), None);
        assert_eq!(RawRow::copy(&columns, &[Value::Unchanged]), None);
    }

    #[test]
    fn a_position_is_one_word() {
        let at = RowPosition { epoch: 3, commit_lsn: Lsn(0x16), ordinal: 7, commit_unix_millis: 0 };
        assert_eq!(position_text(&at), "3/0000000000000016/7");
        assert_eq!(parse_position("3/0000000000000016/7"), Some((3, Lsn(0x16), 7)));
        assert_eq!(parse_position("3/16"), None);
    }
}
