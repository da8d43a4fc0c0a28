//! The headers of a record: the relay's own, then the row's.

use std::fmt;
use std::ops::Range;

use outbox_schema::record::header;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::unpublishable::HeaderFault;

/// The headers of one record, in order.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(&'a HeaderBuffer);

impl<'a> Headers<'a> {
    /// Name and value of each header.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let buffer = self.0;
        buffer.spans.iter().map(move |span| {
            let name = match &span.name {
                Name::Own(name) => name,
                Name::Row(range) => &buffer.names[range.clone()],
            };
            (name, &buffer.values[span.value.clone()])
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.spans.is_empty()
    }
}

/// Where headers are put together; used again for every record, so that none allocates.
#[derive(Debug, Default)]
pub(super) struct HeaderBuffer {
    spans: Vec<Span>,
    /// Names of the headers by rule and of the row's own, one after the other.
    names: String,
    /// All values, one after the other.
    values: Vec<u8>,
}

#[derive(Debug)]
struct Span {
    name: Name,
    value: Range<usize>,
}

#[derive(Debug)]
enum Name {
    Own(&'static str),
    Row(Range<usize>),
}

impl HeaderBuffer {
    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.names.clear();
        self.values.clear();
    }

    pub(super) fn headers(&self) -> Headers<'_> {
        Headers(self)
    }

    /// Adds one of the relay's own headers.
    pub(super) fn push(&mut self, name: &'static str, value: &[u8]) {
        let start = self.values.len();
        self.values.extend_from_slice(value);
        self.spans.push(Span { name: Name::Own(name), value: start..self.values.len() });
    }

    /// Adds one of the relay's own headers whose value `write` appends; none if it has nothing to write.
    pub(super) fn push_with(
        &mut self,
        name: &'static str,
        write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Option<()> {
        let start = self.values.len();
        write(&mut self.values)?;
        self.spans.push(Span { name: Name::Own(name), value: start..self.values.len() });
        Some(())
    }

    /// Adds a header of any name whose value `write` appends; none if it has nothing to write.
    pub(super) fn push_named(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) {
        let (name_start, start) = (self.names.len(), self.values.len());
        if write(&mut self.values).is_none() {
            self.values.truncate(start);
            return;
        }
        self.names.push_str(name);
        let name = Name::Row(name_start..self.names.len());
        self.spans.push(Span { name, value: start..self.values.len() });
    }

    /// Adds the members of a JSON object in its order: strings as their characters, other scalars as their
    /// JSON text untouched (`1.50` stays `1.50`).
    pub(super) fn push_object(&mut self, json: &[u8]) -> Result<(), ObjectFault> {
        let json = str::from_utf8(json).map_err(|_| ObjectFault::NotAnObject)?;
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let members = Members { buffer: self, fault: &mut fault };
        let read = deserializer.deserialize_map(members).and_then(|()| deserializer.end());
        // The parser's own error is dropped on purpose: it may quote the row's values.
        read.map_err(|_| fault.unwrap_or(ObjectFault::NotAnObject))
    }

    fn push_member(&mut self, name: Range<usize>, value: &RawValue) -> Result<(), MemberFault> {
        let start = self.values.len();
        let text = value.get();
        match text.as_bytes() {
            [b'{' | b'[', ..] => return Err(MemberFault::Header(HeaderFault::Nested)),
            [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => self.values.extend_from_slice(plain),
            [b'"', ..] => {
                let unescaped: String = serde_json::from_str(text).map_err(|_| MemberFault::Unreadable)?;
                self.values.extend_from_slice(unescaped.as_bytes());
            }
            scalar => self.values.extend_from_slice(scalar),
        }
        self.spans.push(Span { name: Name::Row(name), value: start..self.values.len() });
        Ok(())
    }
}

/// Why a row's headers cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ObjectFault {
    /// The text is not a JSON object (or a string in it has no Unicode form).
    NotAnObject,
    /// One header cannot be sent.
    Header(String, HeaderFault),
}

enum MemberFault {
    Unreadable,
    Header(HeaderFault),
}

/// Reads the members of the object into the buffer; what is wrong with one is left in `fault`, since the
/// parser's error type has no place for it.
struct Members<'b> {
    buffer: &'b mut HeaderBuffer,
    fault: &'b mut Option<ObjectFault>,
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Members { buffer, fault } = self;
        loop {
            let start = buffer.names.len();
            if map.next_key_seed(AppendName(&mut buffer.names))?.is_none() {
                return Ok(());
            }
            let range = start..buffer.names.len();
            let value: &RawValue = map.next_value()?;
            let name = &buffer.names[range.clone()];
            let pushed = if name.is_empty() {
                Err(MemberFault::Header(HeaderFault::EmptyName))
            } else if header::is_reserved(name) {
                Err(MemberFault::Header(HeaderFault::Reserved))
            } else if name.contains('\0') {
                Err(MemberFault::Header(HeaderFault::ZeroInName))
            } else {
                buffer.push_member(range.clone(), value)
            };
            pushed.map_err(|member| {
                *fault = Some(match member {
                    MemberFault::Unreadable => ObjectFault::NotAnObject,
                    MemberFault::Header(fault) => ObjectFault::Header(buffer.names[range].to_owned(), fault),
                });
                A::Error::custom("a header that cannot be sent")
            })?;
        }
    }
}

/// Appends a member's name, unescaped, without a string of its own.
struct AppendName<'b>(&'b mut String);

impl<'de> DeserializeSeed<'de> for AppendName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for AppendName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.push_str(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    fn read(json: &str) -> Result<Vec<(String, Vec<u8>)>, ObjectFault> {
        let mut buffer = HeaderBuffer::default();
        buffer.push_object(json.as_bytes())?;
        Ok(buffer.headers().iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect())
    }

    #[test]
    fn scalars_keep_their_text_and_strings_lose_their_quotes() {
        let json = r#" { "b" : "x y", "a":1.50, "n":1e400 ,"t":true,"z":null,"q":"", "e":"\"\u00e9\n\ud83d\ude00\u0000",
                       "\u0061b":"", "long":123456789012345678901234567890.10, "b":"twice" } "#;
        let expected = [
            ("b", "x y"),
            ("a", "1.50"),
            ("n", "1e400"),
            ("t", "true"),
            ("z", "null"),
            ("q", ""),
            ("e", "\"é\n😀\0"),
            ("ab", ""),
            ("long", "123456789012345678901234567890.10"),
            ("b", "twice"),
        ];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec())).into();
        assert_eq!(read(json).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        use HeaderFault::{EmptyName, Nested, Reserved, ZeroInName};
        for (json, name, fault) in [
            (r#"{"a":1,"b":{"secret":1}}"#, "b", Nested),
            (r#"{"a":[]}"#, "a", Nested),
            (r#"{"position":"1"}"#, "position", Reserved),
            (r#"{"i\u0064":"1"}"#, "id", Reserved),
            (r#"{"a":1,"":"1"}"#, "", EmptyName),
            (r#"{"a\u0000b":"1"}"#, "a\0b", ZeroInName),
        ] {
            assert_eq!(read(json), Err(ObjectFault::Header(name.to_owned(), fault)), "{json}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "null", "1", "[]", "\"a\"", "{", "{} {}", "{\"a\":1,}", "{a:1}", r#"{"a":"\ud83d"}"#]
        {
            assert_eq!(read(json), Err(ObjectFault::NotAnObject), "{json}");
        }
        assert_eq!(HeaderBuffer::default().push_object(b"{\"a\":\"\xFF\"}"), Err(ObjectFault::NotAnObject));
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    /// The naive reading: parse it all into a tree, then look at each member.
    fn naive(object: &Map<String, Value>) -> Vec<(String, Vec<u8>)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        object.iter().map(|(name, value)| (name.clone(), text(value).into_bytes())).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_reading(
            members in prop::collection::btree_map("[^\0]{1,12}", scalar(), 0..8),
            pretty in any::<bool>(),
        ) {
            prop_assume!(!members.keys().any(|name| header::is_reserved(name)));
            let object: Map<String, Value> = members.into_iter().collect();
            let json = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            prop_assert_eq!(read(&json.unwrap()).unwrap(), naive(&object));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                r#"\{("[a-c\\u0"]{0,4}":? ?["0-9tf\[{\\}]{0,4},?){0,3}\}"#.prop_map(String::into_bytes),
            ],
        ) {
            let mut buffer = HeaderBuffer::default();
            let agreed = buffer.push_object(&bytes);
            if agreed.is_ok() {
                prop_assert!(serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok());
            }
            prop_assert_eq!(buffer.headers().iter().count(), buffer.headers().len());
        }
    }
}
