//! A letter as the database shows it.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio_postgres::Row;
use uuid::Uuid;

use super::output::clean;

/// The columns, in the order in which [`LetterRow::read`] takes them.
pub const COLUMNS: &str = "scope, letter, state, owner, deadline, cause, error, attempts, first_failed_at,
    last_failed_at, event_type, handler, source_topic, source_partition, source_offset, key, id, replay, note, decided_at,
    decided_by, extract(epoch FROM clock_timestamp() - first_failed_at)::float8, deadline < clock_timestamp()";

/// A key, shown as text where it is one, otherwise as `\x` and hex digits; and read the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// Its text.
    pub fn text(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with("\\x") && !text.chars().any(char::is_control) => text.to_owned(),
            Ok(_) | Err(_) => self.0.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        }
    }

    /// A key as it is written on the command line.
    pub fn read(text: &str) -> Result<Key, std::convert::Infallible> {
        Ok(Key(unhex(text).unwrap_or_else(|| text.as_bytes().to_vec())))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let byte = |pair: &[u8]| {
        let value = |digit: u8| char::from(digit).to_digit(16);
        u8::try_from(value(pair[0])? * 16 + value(*pair.get(1)?)?).ok()
    };
    digits.chunks(2).map(byte).collect()
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// A letter, in the state it is in now.
#[derive(Debug, Clone, Serialize)]
pub struct LetterRow {
    /// The consumer whose letter it is.
    pub scope: String,
    /// What names it in the scope.
    pub letter: String,
    /// open, replaying, replayed, discarded, restored, superseded.
    pub state: String,
    /// The team that has to decide.
    pub owner: String,
    /// By when.
    pub deadline: Timestamp,
    /// Class of the cause.
    pub cause: String,
    /// What the last attempt said.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// First failure.
    pub first_failed_at: Timestamp,
    /// Last failure.
    pub last_failed_at: Timestamp,
    /// The event's type.
    pub event_type: Option<String>,
    /// The handler that failed.
    pub handler: Option<String>,
    /// Where the record came from.
    pub source_topic: String,
    /// Its partition.
    pub source_partition: Option<i32>,
    /// Its offset.
    pub source_offset: Option<i64>,
    /// Its key.
    pub key: Option<Key>,
    /// Id under which it is settled.
    pub id: Option<Uuid>,
    /// Number of its last replay; 0 for none.
    pub replay: i32,
    /// Reason of the last decision.
    pub note: Option<String>,
    /// When that was.
    pub decided_at: Option<Timestamp>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// How long ago it failed first, by the server's clock.
    pub age_seconds: f64,
    /// Whether it should have been decided on.
    pub overdue: bool,
}

impl LetterRow {
    /// Reads [`COLUMNS`].
    pub fn read(row: &Row) -> LetterRow {
        let state: String = row.get(2);
        LetterRow {
            scope: row.get(0),
            letter: row.get(1),
            owner: row.get(3),
            deadline: row.get(4),
            cause: row.get(5),
            error: row.get(6),
            attempts: row.get(7),
            first_failed_at: row.get(8),
            last_failed_at: row.get(9),
            event_type: row.get(10),
            handler: row.get(11),
            source_topic: row.get(12),
            source_partition: row.get(13),
            source_offset: row.get(14),
            key: row.get::<_, Option<Vec<u8>>>(15).map(Key),
            id: row.get(16),
            replay: row.get(17),
            note: row.get(18),
            decided_at: row.get(19),
            decided_by: row.get(20),
            age_seconds: row.get(21),
            // Only what waits can be late.
            overdue: row.get::<_, bool>(22) && waits(&state),
            state,
        }
    }

    /// Where the source record stood.
    pub fn source(&self) -> String {
        let number = |number: Option<String>| number.unwrap_or_else(|| "?".into());
        format!(
            "{}/{}/{}",
            clean(&self.source_topic),
            number(self.source_partition.map(|partition| partition.to_string())),
            number(self.source_offset.map(|offset| offset.to_string()))
        )
    }

    /// Its key as text.
    pub fn key_text(&self) -> String {
        self.key.as_ref().map_or_else(|| "-".into(), Key::text)
    }
}

/// Whether a letter in this state waits for a decision.
pub fn waits(state: &str) -> bool {
    matches!(state, "open" | "restored")
}

/// The colour of a state.
pub fn colour(state: &str, overdue: bool) -> &'static str {
    match state {
        _ if overdue => "31;1",
        "open" | "restored" => "31",
        "replaying" => "36",
        "replayed" => "32",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_shown() {
        for (bytes, text) in [(&b"o-1"[..], "o-1"), (b"\xff\x00", "\\xff00"), (b"\\xff", "\\x5c786666")] {
            let key = Key(bytes.to_vec());
            assert_eq!(key.text(), text);
            assert_eq!(Key::read(text), Ok(key));
        }
        assert_eq!(Key::read("\\xf").unwrap().0, b"\\xf");
    }
}
