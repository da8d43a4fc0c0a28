//! An event that `outbox.emit()` wrote into the log, as a row of the columns that `outbox.events` publishes. Pure.
//!
//! Its bytes are any producer's, since everybody may write messages: what cannot be read is an [`EmittedFault`], never
//! a panic, and names members, not values.

use std::borrow::Cow;
use std::fmt;

use outbox_schema::sql::{MESSAGE_PREFIX, PUBLISHED_COLUMNS, SCHEMA};
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::row::{ColumnInfo, RelationShape, Value};

/// The member that is taken byte for byte.
const PAYLOAD: &str = "payload";
/// The member that is an object.
const HEADERS: &str = "headers";
/// In the quarantine: the column of a content that could not be read.
const RAW: &str = "message";
/// OID of `bytea`.
const BYTEA: u32 = 17;

/// A row of an event, as long as its message lives.
pub type Row<'r> = SmallVec<[Value<'r>; 16]>;

/// Why a message is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmittedFault {
    /// Bytes that are no text.
    #[error("its content is not UTF-8")]
    NotText,
    /// Text that is no JSON.
    #[error("its content is not JSON: line {line}, column {column}")]
    NotJson {
        /// Where it ceases to be, from 1.
        line: usize,
        /// In bytes of that line.
        column: usize,
    },
    /// JSON of another kind.
    #[error("its content is not a JSON object")]
    NotAnObject,
    /// Which of the two would be meant?
    #[error("its content has the member {0:?} twice")]
    Twice(&'static str),
    /// A list or an object.
    #[error("its member {0:?} is a list or an object, and has to be text, a number or null")]
    Nested(&'static str),
    /// An escape that stands for no character.
    #[error("its member {0:?} is not text that can be kept")]
    Broken(&'static str),
}

/// The shape that plans of messages are compiled from.
pub fn shape() -> RelationShape {
    let column = |name: &&str| ColumnInfo { name: (*name).to_owned(), type_oid: type_of(name) };
    RelationShape {
        schema: SCHEMA.to_owned(),
        table: MESSAGE_PREFIX.to_owned(),
        columns: PUBLISHED_COLUMNS.iter().map(column).collect(),
    }
}

/// As in `outbox.events`.
fn type_of(column: &str) -> u32 {
    match column {
        "id" => 2950,
        "schema_version" => 23,
        "version" => 20,
        HEADERS => 3802,
        PAYLOAD => 114,
        "created_at" => 1184,
        _text => 25,
    }
}

/// The columns under which a content is kept that could not be read.
pub fn raw_columns() -> Vec<ColumnInfo> {
    vec![ColumnInfo { name: RAW.to_owned(), type_oid: BYTEA }]
}

/// The content of an entry of the quarantine that could not be read when it came.
pub fn raw_content<'r>(columns: &[ColumnInfo], row: &[Value<'r>]) -> Option<&'r [u8]> {
    match (columns, row) {
        ([column], [Value::Binary(content)]) if column.name == RAW && column.type_oid == BYTEA => {
            Some(content)
        }
        _ => None,
    }
}

/// The members of a message, in the order of [`PUBLISHED_COLUMNS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted<'a>(SmallVec<[Member<'a>; 16]>);

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member<'a> {
    /// Not there, or behind the end of what was kept.
    Absent,
    Null,
    Text(Cow<'a, str>),
}

impl<'a> Emitted<'a> {
    /// Reads a whole content.
    ///
    /// # Errors
    /// It is no event. What an event lacks is said by its plan, as of a row.
    pub fn read(content: &'a [u8]) -> Result<Emitted<'a>, EmittedFault> {
        let text = std::str::from_utf8(content).map_err(|_| EmittedFault::NotText)?;
        let (found, read) = members(text);
        if let Err(error) = read {
            let is_object = text.trim_start_matches(WHITE).starts_with('{');
            return Err(match is_object {
                true => EmittedFault::NotJson { line: error.line(), column: error.column() },
                false => EmittedFault::NotAnObject,
            });
        }
        let mut values = SmallVec::new();
        for (name, raw) in PUBLISHED_COLUMNS.iter().zip(found) {
            values.push(match raw {
                Raw::Absent => Member::Absent,
                Raw::Twice => return Err(EmittedFault::Twice(name)),
                Raw::Once(raw) => member(name, raw, text)?,
            });
        }
        Ok(Emitted(values))
    }

    /// Reads what can be read of the beginning of a content.
    pub fn read_beginning(kept: &'a [u8]) -> Emitted<'a> {
        let valid = match std::str::from_utf8(kept) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&kept[..error.valid_up_to()]).unwrap_or_default(),
        };
        let (found, _cut) = members(valid);
        let known = |(name, raw): (&&'static str, Raw<'a>)| match raw {
            Raw::Absent | Raw::Twice => Member::Absent,
            Raw::Once(raw) => member(name, raw, valid).unwrap_or(Member::Absent),
        };
        Emitted(PUBLISHED_COLUMNS.iter().zip(found).map(known).collect())
    }

    /// The row. What is not there is NULL.
    pub fn row(&self) -> Row<'_> {
        self.values(Value::Null)
    }

    /// The row of a beginning. What is not there is unknown.
    pub fn cut_row(&self) -> Row<'_> {
        self.values(Value::Unchanged)
    }

    fn values<'r>(&'r self, absent: Value<'r>) -> Row<'r> {
        let value = |member: &'r Member<'a>| match member {
            Member::Absent => absent,
            Member::Null => Value::Null,
            Member::Text(text) => Value::Text(text.as_bytes()),
        };
        self.0.iter().map(value).collect()
    }
}

/// White space of JSON.
const WHITE: [char; 4] = [' ', '\t', '\n', '\r'];

#[derive(Debug, Clone, Copy)]
enum Raw<'a> {
    Absent,
    Once(&'a RawValue),
    Twice,
}

/// The members as they stand, and whether all was read.
fn members(text: &str) -> ([Raw<'_>; PUBLISHED_COLUMNS.len()], serde_json::Result<()>) {
    let mut found = [Raw::Absent; PUBLISHED_COLUMNS.len()];
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Members(&mut found));
    let read = read.and_then(|()| reader.end());
    (found, read)
}

struct Members<'f, 'a>(&'f mut [Raw<'a>; PUBLISHED_COLUMNS.len()]);

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(known) = map.next_key_seed(Name)? {
            // A later version of the contract may have more.
            let Some(at) = known else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let raw = map.next_value::<&'a RawValue>()?;
            self.0[at] = match self.0[at] {
                Raw::Absent => Raw::Once(raw),
                Raw::Once(_) | Raw::Twice => Raw::Twice,
            };
        }
        Ok(())
    }
}

/// A member's name, by its place among [`PUBLISHED_COLUMNS`]; `None` for another. Nothing is copied.
struct Name;

impl<'a> DeserializeSeed<'a> for Name {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Option<usize>, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(PUBLISHED_COLUMNS.iter().position(|column| *column == name))
    }
}

fn member<'a>(name: &'static str, raw: &'a RawValue, text: &'a str) -> Result<Member<'a>, EmittedFault> {
    let json = raw.get();
    if name == PAYLOAD {
        // The JSON null is a value; a tombstone has no such member.
        return Ok(Member::Text(Cow::Borrowed(with_white_space(json, text))));
    }
    let first = json.as_bytes().first().copied();
    match first {
        Some(b'n') => Ok(Member::Null),
        Some(b'"') if !json.contains('\\') => Ok(Member::Text(Cow::Borrowed(&json[1..json.len() - 1]))),
        Some(b'"') => match serde_json::from_str::<String>(json) {
            // PostgreSQL's text knows no NUL, and neither does the quarantine.
            Ok(text) if !text.contains('\0') => Ok(Member::Text(Cow::Owned(text))),
            Ok(_) | Err(_) => Err(EmittedFault::Broken(name)),
        },
        Some(b'{' | b'[') if name != HEADERS => Err(EmittedFault::Nested(name)),
        Some(_) | None => Ok(Member::Text(Cow::Borrowed(json))),
    }
}

/// The value with the white space around it, which `outbox.emit()` adds none of: it is the producer's own.
fn with_white_space<'a>(json: &'a str, text: &'a str) -> &'a str {
    let start = (json.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    let end = start.wrapping_add(json.len());
    match (text.get(..start), text.get(start..end), text.get(end..)) {
        (Some(before), Some(_), Some(after)) => {
            let start = before.trim_end_matches(WHITE).len();
            let end = end + after.len() - after.trim_start_matches(WHITE).len();
            &text[start..end]
        }
        // No part of the text: taken as it is.
        (_, _, _) => json,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::damage::all_damages;
    use crate::router::{Plan, RowPosition, Scratch, fixture};

    /// As `outbox.emit()` writes it.
    const WHOLE: &str = concat!(
        r#"{"id" : "019aa3d1-2c5b-7000-8000-000000000001", "aggregatetype" : "order", "aggregateid" : "o-\"1\"", "#,
        r#""type" : "OrderPlaced", "schema_version" : 1, "version" : null, "partition_key" : null, "#,
        r#""headers" : {"tenant": "eu"}, "traceparent" : null, "created_at" : "2026-11-21 02:35:50.123456+00", "#,
        r#""payload": {"a" : 1.50,  "a":[null, "\u0000\ud800"]}  }"#
    );

    fn texts(row: &[Value<'_>]) -> Vec<Option<String>> {
        let text = |value: &Value<'_>| match value {
            Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        };
        row.iter().map(text).collect()
    }

    #[test]
    fn an_event_is_a_row_of_the_contract() {
        let emitted = Emitted::read(WHOLE.as_bytes()).unwrap();
        let row = emitted.row();
        let plan = Plan::compile(&shape(), &fixture::native_outbox(), &fixture::kafka()).unwrap();
        let at = RowPosition { epoch: 1, commit_lsn: crate::lsn::Lsn(7), ordinal: 0, commit_unix_millis: 0 };
        let mut scratch = Scratch::default();
        let record = plan.record(&row, &at, &mut scratch).unwrap();
        assert_eq!(record.topic, "outbox.event.order");
        assert_eq!(record.key, Some(b"o-\"1\"".as_slice()));
        let payload = r#" {"a" : 1.50,  "a":[null, "\u0000\ud800"]}  "#;
        assert_eq!(record.value, Some(payload.as_bytes()), "byte for byte, with the white space around it");
        assert!(record.headers.iter().any(|(name, value)| name == "tenant" && value == b"eu"));
    }

    #[test]
    fn no_payload_is_a_tombstone_and_null_is_a_value() {
        for (content, value) in [(r#"{"id":"x"}"#, None), (r#"{"id":"x","payload":null}"#, Some("null"))] {
            let emitted = Emitted::read(content.as_bytes()).unwrap();
            assert_eq!(texts(&emitted.row())[9].as_deref(), value, "{content}");
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        for (content, fault) in [
            (b"\xFF".as_slice(), EmittedFault::NotText),
            (b"hello", EmittedFault::NotAnObject),
            (b"[1]", EmittedFault::NotAnObject),
            (b"", EmittedFault::NotAnObject),
            (b"{\"id\":1,\"id\":2}", EmittedFault::Twice("id")),
            (b"{\"aggregateid\":{\"a\":1}}", EmittedFault::Nested("aggregateid")),
            (b"{\"type\":\"\\ud800\"}", EmittedFault::Broken("type")),
            (b"{\"type\":\"\\u0000\"}", EmittedFault::Broken("type")),
        ] {
            assert_eq!(Emitted::read(content), Err(fault), "{}", String::from_utf8_lossy(content));
        }
        for content in [b"{\"id\":1,}".as_slice(), b"{\"id\":1} x", b"{\"id\":01}", b"{\"id\":"] {
            let read = Emitted::read(content);
            assert!(matches!(read, Err(EmittedFault::NotJson { line: 1, .. })), "{read:?}");
        }
    }

    #[test]
    fn of_a_beginning_what_is_there_is_known() {
        let cut = WHOLE.find("\"payload\"").unwrap() + 20;
        let emitted = Emitted::read_beginning(&WHOLE.as_bytes()[..cut]);
        let plan = Plan::compile(&shape(), &fixture::native_outbox(), &fixture::kafka()).unwrap();
        let place = plan.place(&emitted.cut_row());
        assert!(place.whole && place.event_id.is_some());
        assert_eq!(
            (place.topic.as_deref(), place.key.as_deref()),
            (Some("outbox.event.order"), Some(b"o-\"1\"".as_slice()))
        );
        let early = WHOLE.find("\"partition_key\"").unwrap() + 5;
        let emitted = Emitted::read_beginning(&WHOLE.as_bytes()[..early]);
        assert!(!plan.place(&emitted.cut_row()).whole, "a partition key may have come");
    }

    #[test]
    fn a_content_that_was_kept_is_found_again() {
        let row = [Value::Binary(b"x")];
        assert_eq!(raw_content(&raw_columns(), &row), Some(b"x".as_slice()));
        assert_eq!(raw_content(&shape().columns, &row), None);
        assert_eq!(raw_content(&raw_columns(), &[Value::Text(b"x")]), None);
    }

    #[test]
    fn depth_and_damage_are_no_danger() {
        let deep = format!(r#"{{"payload":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert!(Emitted::read(deep.as_bytes()).is_ok());
        let contents = [WHOLE.as_bytes()];
        let plan = Plan::compile(&shape(), &fixture::native_outbox(), &fixture::kafka()).unwrap();
        all_damages(WHOLE.as_bytes(), &contents, 7, |bytes| {
            if let Ok(emitted) = Emitted::read(bytes) {
                assert_eq!(emitted.row().len(), PUBLISHED_COLUMNS.len());
                let _place = plan.place(&emitted.row());
            }
            let _place = plan.place(&Emitted::read_beginning(bytes).cut_row());
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
            let _read = Emitted::read(&bytes);
            let content = serde_json::json!({"aggregateid": text, "type": 3}).to_string();
            let read = Emitted::read(content.as_bytes());
            if !text.contains('\0') {
                prop_assert_eq!(texts(&read.unwrap().row())[2].clone(), Some(text));
            }
        }
    }
}
