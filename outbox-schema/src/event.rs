//! An event as a service writes it.

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::record::header;

/// Longest `aggregatetype`: a topic's name has 249 bytes, of which 13 are the prefix `outbox.event.`.
pub const MAX_AGGREGATETYPE_BYTES: usize = 236;
/// Longest `aggregateid` and `partition_key`.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest `type`.
pub const MAX_TYPE_BYTES: usize = 255;
/// Largest `payload`.
pub const MAX_PAYLOAD_BYTES: usize = 900_000;
/// Largest `headers`, as PostgreSQL prints them (a space after each colon and comma).
pub const MAX_HEADERS_BYTES: usize = 16_384;

/// An event, to be written by `enqueue` of the driver in use.
///
/// ```
/// use outbox_schema::OutboxEvent;
///
/// #[derive(serde::Serialize)]
/// struct OrderPlaced { total: u32 }
///
/// # fn main() -> Result<(), outbox_schema::EventError> {
/// let event = OutboxEvent::new("order", 4711, "OrderPlaced")
///     .version(1)
///     .header("tenant", "eu")
///     .json(&OrderPlaced { total: 1250 })?;
/// event.check()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an event is written by `enqueue`"]
pub struct OutboxEvent {
    pub(crate) id: Option<Uuid>,
    pub(crate) aggregatetype: String,
    pub(crate) aggregateid: String,
    pub(crate) event_type: String,
    pub(crate) schema_version: i32,
    pub(crate) version: Option<i64>,
    pub(crate) partition_key: Option<String>,
    pub(crate) headers: Map<String, Value>,
    pub(crate) traceparent: Option<String>,
    payload: Payload,
}

/// Unset is a mistake, not a tombstone: on a compacted topic a forgotten payload would delete.
#[derive(Debug, Clone, PartialEq)]
enum Payload {
    Unset,
    Tombstone,
    Json(String),
}

impl OutboxEvent {
    /// An event of `event_type` about the aggregate `aggregateid` of kind `aggregatetype`. It still needs
    /// [`json`](Self::json), [`raw_json`](Self::raw_json) or [`tombstone`](Self::tombstone).
    pub fn new(
        aggregatetype: impl Into<String>,
        aggregateid: impl ToString,
        event_type: impl Into<String>,
    ) -> Self {
        OutboxEvent {
            id: None,
            aggregatetype: aggregatetype.into(),
            aggregateid: aggregateid.to_string(),
            event_type: event_type.into(),
            schema_version: 1,
            version: None,
            partition_key: None,
            headers: Map::new(),
            traceparent: None,
            payload: Payload::Unset,
        }
    }

    /// The payload, written as JSON.
    ///
    /// # Errors
    ///
    /// [`EventError::Unwritable`] when it cannot be: its `Serialize` fails, or a map has keys that are not text.
    pub fn json<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self, EventError> {
        self.payload = Payload::Json(serde_json::to_string(payload).map_err(EventError::Unwritable)?);
        Ok(self)
    }

    /// The payload as JSON text, which reaches the record byte for byte.
    pub fn raw_json(mut self, payload: impl Into<String>) -> Self {
        self.payload = Payload::Json(payload.into());
        self
    }

    /// No payload: a record without a value, which on a compacted topic deletes what the key had.
    pub fn tombstone(mut self) -> Self {
        self.payload = Payload::Tombstone;
        self
    }

    /// The event's id. Unless given, the database makes a version-7 UUID.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// The aggregate's own version, counted without gaps.
    pub fn version(mut self, version: i64) -> Self {
        self.version = Some(version);
        self
    }

    /// Version of the payload's shape (default 1).
    pub fn schema_version(mut self, schema_version: i32) -> Self {
        self.schema_version = schema_version;
        self
    }

    /// The record's key in place of `aggregateid`.
    pub fn partition_key(mut self, partition_key: impl ToString) -> Self {
        self.partition_key = Some(partition_key.to_string());
        self
    }

    /// One more header of the record: text, number, boolean or null. The same name again replaces it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// W3C trace context. Unless given, the session setting `outbox.traceparent` is taken.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// What the database would refuse, found without asking it. `enqueue` does this first.
    ///
    /// # Errors
    ///
    /// The first column that is wrong, and what is expected of it.
    pub fn check(&self) -> Result<(), EventError> {
        let topic_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        require(
            self.aggregatetype.bytes().all(topic_part)
                && within(&self.aggregatetype, MAX_AGGREGATETYPE_BYTES),
            "aggregatetype",
            "1 to 236 characters of A-Z a-z 0-9 . _ - (it becomes part of a topic's name)",
        )?;
        require(text(&self.aggregateid, MAX_KEY_BYTES), "aggregateid", "1 to 512 bytes without NUL")?;
        require(text(&self.event_type, MAX_TYPE_BYTES), "type", "1 to 255 bytes without NUL")?;
        require(self.schema_version >= 1, "schema_version", "1 or more")?;
        require(self.version.is_none_or(|version| version >= 0), "version", "0 or more")?;
        require(
            self.partition_key.as_deref().is_none_or(|key| text(key, MAX_KEY_BYTES)),
            "partition_key",
            "1 to 512 bytes without NUL",
        )?;
        self.check_headers()?;
        require(
            self.traceparent.as_deref().is_none_or(is_traceparent),
            "traceparent",
            "a W3C trace context such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )?;
        self.check_payload()
    }

    fn check_headers(&self) -> Result<(), EventError> {
        require(
            !self.headers.keys().any(|name| header::is_reserved(name)),
            "headers",
            "without an empty name and the names that the relay writes itself",
        )?;
        require(
            self.headers.values().all(|value| !value.is_object() && !value.is_array()),
            "headers",
            "strings, numbers, booleans and nulls, without objects or arrays",
        )?;
        let nul = |text: &str| text.contains('\0');
        require(
            !self.headers.iter().any(|(name, value)| nul(name) || value.as_str().is_some_and(nul)),
            "headers",
            "without NUL",
        )?;
        let spaces = 2 * self.headers.len();
        let bytes = self.headers_json().map_or(0, |json| json.len() + spaces);
        require(bytes <= MAX_HEADERS_BYTES, "headers", "at most 16384 bytes as text")
    }

    fn check_payload(&self) -> Result<(), EventError> {
        match &self.payload {
            Payload::Unset => require(false, "payload", "given: json, raw_json or tombstone"),
            Payload::Tombstone => Ok(()),
            Payload::Json(json) => {
                require(json.len() <= MAX_PAYLOAD_BYTES, "payload", "at most 900000 bytes")?;
                serde_json::from_str::<IgnoredAny>(json).map(drop).map_err(EventError::NotJson)
            }
        }
    }

    /// The payload's text; `None` for a tombstone, and when none was given.
    pub(crate) fn payload_json(&self) -> Option<&str> {
        match &self.payload {
            Payload::Json(json) => Some(json),
            Payload::Tombstone | Payload::Unset => None,
        }
    }

    /// The headers' text; `None` when there are none.
    pub(crate) fn headers_json(&self) -> Option<String> {
        (!self.headers.is_empty()).then(|| Value::Object(self.headers.clone()).to_string())
    }
}

/// An event that the outbox does not take.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A value is outside of what its column takes.
    #[error("{column} must be {expected}")]
    Column {
        /// Name of the column.
        column: &'static str,
        /// What is expected of it. The value is not repeated: it may be personal data.
        expected: &'static str,
    },
    /// The payload given to [`OutboxEvent::json`] cannot be written as JSON.
    #[error("payload cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    /// The payload given to [`OutboxEvent::raw_json`] is not JSON.
    #[error("payload must be JSON")]
    NotJson(#[source] serde_json::Error),
}

impl EventError {
    /// Name of the column that is wrong.
    pub fn column(&self) -> &'static str {
        match self {
            EventError::Column { column, .. } => column,
            EventError::Unwritable(_) | EventError::NotJson(_) => "payload",
        }
    }
}

fn require(holds: bool, column: &'static str, expected: &'static str) -> Result<(), EventError> {
    if holds { Ok(()) } else { Err(EventError::Column { column, expected }) }
}

fn within(text: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&text.len())
}

/// PostgreSQL's `text` cannot hold NUL.
fn text(text: &str, max_bytes: usize) -> bool {
    within(text, max_bytes) && !text.contains('\0')
}

fn is_traceparent(text: &str) -> bool {
    text.len() == 55
        && text.bytes().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> OutboxEvent {
        OutboxEvent::new("order", "o-1", "OrderPlaced").raw_json("{}")
    }

    fn wrong_column(event: OutboxEvent) -> Option<&'static str> {
        event.check().err().map(|error| error.column())
    }

    #[test]
    fn the_widest_event_is_taken() {
        let key = "ü".repeat(MAX_KEY_BYTES / 2);
        let widest = OutboxEvent::new("a".repeat(MAX_AGGREGATETYPE_BYTES), &key, "t".repeat(MAX_TYPE_BYTES))
            .partition_key(key)
            .version(0)
            .schema_version(2)
            .header("n", 1.5)
            .header("b", true)
            .header("none", Value::Null)
            .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .raw_json(format!("\"{}\"", "x".repeat(MAX_PAYLOAD_BYTES - 2)));
        assert!(widest.check().is_ok());
    }

    #[test]
    fn each_column_is_named_when_it_is_wrong() {
        let with_type = |aggregatetype: &str| OutboxEvent::new(aggregatetype, "o", "T").tombstone();
        for aggregatetype in ["", "or der", "größe", "a\n", &"a".repeat(MAX_AGGREGATETYPE_BYTES + 1)] {
            assert_eq!(wrong_column(with_type(aggregatetype)), Some("aggregatetype"), "{aggregatetype:?}");
        }
        for key in ["", "a\0b", &"k".repeat(MAX_KEY_BYTES + 1)] {
            assert_eq!(wrong_column(OutboxEvent::new("a", key, "T").tombstone()), Some("aggregateid"));
            assert_eq!(wrong_column(event().partition_key(key)), Some("partition_key"));
        }
        assert_eq!(wrong_column(OutboxEvent::new("a", "o", "").tombstone()), Some("type"));
        assert_eq!(wrong_column(event().schema_version(0)), Some("schema_version"));
        assert_eq!(wrong_column(event().version(-1)), Some("version"));
        for (name, value) in [("id", Value::from("x")), ("", Value::from("x")), ("a", Value::Array(vec![]))] {
            assert_eq!(wrong_column(event().header(name, value)), Some("headers"));
        }
        assert_eq!(wrong_column(event().header("a", "x\0")), Some("headers"));
        assert_eq!(wrong_column(event().header("a", "x".repeat(MAX_HEADERS_BYTES))), Some("headers"));
    }

    #[test]
    fn a_traceparent_has_digits_and_dashes_in_their_places() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7--1",
            "0004bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong_column(event().traceparent(wrong)), Some("traceparent"), "{wrong:?}");
        }
    }

    #[test]
    fn a_payload_is_chosen_and_is_json() {
        assert_eq!(wrong_column(OutboxEvent::new("a", "o", "T")), Some("payload"));
        for wrong in ["", "{", "{} {}", "NaN"] {
            assert_eq!(wrong_column(event().raw_json(wrong)), Some("payload"), "{wrong:?}");
        }
        assert_eq!(wrong_column(event().raw_json("x".repeat(MAX_PAYLOAD_BYTES + 1))), Some("payload"));
        for right in ["null", " [1e999, 123456789012345678901234567890] ", r#""\ud800""#] {
            assert_eq!(wrong_column(event().raw_json(right)), None, "{right}");
        }
    }

    #[test]
    fn raw_json_is_kept_byte_for_byte() {
        let text = "{ \"a\" : 1.50 }\n";
        assert_eq!(event().raw_json(text).payload_json(), Some(text));
    }
}
