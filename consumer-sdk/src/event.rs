//! An event as a handler gets it: the payload, and the facts of the event beside it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use outbox_schema::record::{Position, header};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::record::{Body, Record};
use crate::trace::{TRACESTATE, TraceContext};

/// An event with its payload. Dereferences to the payload: `order.sku`.
#[derive(Debug, Clone)]
pub struct Event<T> {
    payload: T,
    facts: Facts,
}

/// What is known of an event beside its payload.
#[derive(Debug, Clone)]
pub struct Facts {
    id: Uuid,
    /// What the inbox knows the event by: its id, or that of its business key.
    named: Uuid,
    attempt: u32,
    body: Arc<Body>,
}

impl Facts {
    /// `id` is what the inbox knows the event by. Of a record from the park that is the record's own, and `id` may be
    /// the event's.
    pub(crate) fn new(record: &Record, id: Uuid) -> Facts {
        let attempt = record.tries.counted + 1;
        if record.id == Some(id) {
            return Facts { id, named: id, attempt, body: record.body().clone() };
        }
        let own = record.header(header::ID).and_then(|text| Uuid::parse_str(text).ok()).unwrap_or(id);
        let named = if id == own { record.id.unwrap_or(id) } else { id };
        Facts { id: own, named, attempt, body: record.body().clone() }
    }

    /// The event's id: the same in every copy of it.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What the handler is registered for.
    pub fn event_type(&self) -> &str {
        self.body.event_type().unwrap_or_default()
    }

    /// Topic, partition and offset of this copy.
    pub fn place(&self) -> (&str, i32, i64) {
        (&self.body.topic, self.body.partition, self.body.offset)
    }

    /// The record's key as text; `None` where there is none or it is no text.
    pub fn key(&self) -> Option<&str> {
        self.body.key().and_then(|key| std::str::from_utf8(key).ok())
    }

    /// Time of the record in Unix milliseconds: with our relay that of the commit.
    pub fn timestamp_millis(&self) -> i64 {
        self.body.timestamp
    }

    /// How old the event is by this machine's clock; zero for one from the future.
    pub fn age(&self) -> std::time::Duration {
        let now = jiff::Timestamp::now().as_millisecond();
        std::time::Duration::from_millis(u64::try_from(now - self.body.timestamp).unwrap_or(0))
    }

    /// Which attempt this is, from 1: in this process, or where the event was parked among all.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What a service outside may know this event's call by: the same for every copy, attempt and instance of this
    /// consumer, another for every other consumer. Events that [`dedup_by`](crate::Handler::dedup_by) makes one have
    /// one.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.body.scope, self.named)
    }

    /// Where the event stood in its source's log.
    pub fn position(&self) -> Option<Position> {
        self.header(header::POSITION).and_then(|text| text.parse().ok())
    }

    /// The aggregate's own version, where the producer counts them.
    pub fn version(&self) -> Option<i64> {
        self.header(header::VERSION).and_then(|text| text.parse().ok())
    }

    /// When the producer made the event, where its header says so.
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.body.created_at()
    }

    /// The W3C trace context of the producing transaction.
    pub fn traceparent(&self) -> Option<&str> {
        self.header(header::TRACEPARENT)
    }

    /// The same, taken apart; `None` where it is missing or is none.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(self.traceparent()?, self.header(TRACESTATE))
    }

    /// A header's text; `None` where it is missing or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.body.header(name)
    }
}

impl<T> Event<T> {
    /// What is known beside the payload.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The payload alone.
    pub fn into_payload(self) -> T {
        self.payload
    }
}

impl<T> Deref for Event<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.payload
    }
}

/// A record's value, to be read.
#[derive(Clone, Copy)]
pub struct Value<'r>(&'r Arc<Body>);

impl<'r> Value<'r> {
    /// Its bytes; `None` for a tombstone.
    pub fn bytes(self) -> Option<&'r [u8]> {
        self.0.value()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        length("Value", self.bytes(), f)
    }
}

/// The payload's bytes as they are. They are the record's own and not copied: whoever keeps a `Raw` keeps the record.
#[derive(Clone)]
pub struct Raw(Arc<Body>);

impl Raw {
    /// The bytes; `None` for a tombstone.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.value()
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Raw) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Raw {}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        length("Raw", self.bytes(), f)
    }
}

/// Payloads are no matter for logs: how long it is, and no more.
fn length(what: &str, bytes: Option<&[u8]>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match bytes {
        Some(bytes) => write!(f, "{what}({} bytes)", bytes.len()),
        None => write!(f, "{what}(tombstone)"),
    }
}

/// What a payload can be read as: JSON through serde, [`Raw`], or a type of your own in a format that is not serde's:
///
/// ```
/// use outbox_consumer::{Payload, Value};
///
/// struct Cents(u64);
///
/// impl Payload for Cents {
///     fn read(value: Value<'_>) -> Result<Cents, String> {
///         let bytes = value.bytes().ok_or("a tombstone has no amount")?;
///         let bytes = bytes.try_into().map_err(|_| format!("{} bytes are no amount", bytes.len()))?;
///         Ok(Cents(u64::from_be_bytes(bytes)))
///     }
/// }
/// ```
pub trait Payload: Sized + Send + 'static {
    /// Reads the record's value.
    ///
    /// # Errors
    /// A sentence without the payload's content.
    fn read(value: Value<'_>) -> Result<Self, String>;
}

impl<T: DeserializeOwned + Send + 'static> Payload for T {
    fn read(value: Value<'_>) -> Result<T, String> {
        // A tombstone is JSON's null: `Event<Option<T>>` takes both.
        serde_json::from_slice(value.bytes().unwrap_or(b"null")).map_err(|error| {
            // serde's own words may quote the payload.
            let (line, column) = (error.line(), error.column());
            let what = if error.is_data() { "is not of the handler's type" } else { "is no JSON" };
            format!("the payload {what} (line {line}, column {column})")
        })
    }
}

impl Payload for Raw {
    fn read(Value(body): Value<'_>) -> Result<Raw, String> {
        Ok(Raw(body.clone()))
    }
}

impl<T: Payload> Event<T> {
    /// The event of a record.
    ///
    /// # Errors
    /// The payload is not what the handler takes; in a sentence without its content.
    pub(crate) fn of(facts: Facts) -> Result<Event<T>, String> {
        let payload = T::read(Value(&facts.body))?;
        Ok(Event { payload, facts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::Packed;

    fn body(value: Option<&[u8]>) -> Arc<Body> {
        let (topic, packed) = ("orders".into(), Packed::new(None, value, &[]));
        Arc::new(Body { topic, scope: "".into(), partition: 0, offset: 0, timestamp: 0, id: None, packed })
    }

    fn read<T: Payload>(value: Option<&[u8]>) -> Result<T, String> {
        T::read(Value(&body(value)))
    }

    #[test]
    fn a_payload_is_json_or_raw_and_a_mistake_does_not_quote_it() {
        assert_eq!(read(Some(b"17")), Ok(17_u32));
        assert_eq!(read(None), Ok(None::<u32>));
        assert_eq!(read::<Raw>(None).unwrap().bytes(), None);
        assert_eq!(read::<Raw>(Some(b"\xff")).unwrap().bytes(), Some(&b"\xff"[..]));
        for value in [&b"\"secret\""[..], b"secret", b""] {
            let said = read::<u32>(Some(value)).unwrap_err();
            assert!(said.starts_with("the payload is") && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_raw_payload_is_the_records_own_and_is_not_printed() {
        let body = body(Some(b"secret"));
        let raw = Raw::read(Value(&body)).unwrap();
        assert!(std::ptr::eq(raw.bytes().unwrap(), body.value().unwrap()), "it was copied");
        assert_eq!(format!("{raw:?} {:?}", Value(&body)), "Raw(6 bytes) Value(6 bytes)");
        assert_eq!(format!("{:?}", read::<Raw>(None).unwrap()), "Raw(tombstone)");
        assert!(!format!("{body:?}").contains("115, 101"), "the payload's bytes are printed: {body:?}");
    }
}
