//! A record as bytes, with its headers in their order.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers, OwnedHeaders};
use serde::Serialize;

/// What stands for a header whose name is no UTF-8.
const UNREADABLE: &str = "unreadable.name";

/// One header. Values are bytes, or null; names repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, byte for byte.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// A header with a text.
    pub fn text(name: &str, value: impl Into<String>) -> Header {
        Header { name: name.to_owned(), value: Some(value.into().into_bytes()) }
    }

    /// What it counts for where headers are bounded: name and value.
    pub fn size(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// The last value of that name, as Kafka's own clients look for one. Null counts as none.
pub fn last<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers.iter().rev().find(|header| header.name == name)?.value.as_deref()
}

/// The first value of that name.
pub fn first<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name == name)?.value.as_deref()
}

/// Headers for the client. A name ends at its first NUL there, so that is where it is cut.
pub fn for_client(headers: &[Header]) -> OwnedHeaders {
    let begun = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(begun, |list, header| {
        let key = header.name.split('\0').next().unwrap_or_default();
        list.insert(rdkafka::message::Header { key, value: header.value.as_ref() })
    })
}

/// Headers as `inbox.parked_event` keeps them: `[["name", "base64 of the bytes"], ["other", null]]`.
pub fn for_park(headers: &[Header]) -> String {
    #[derive(Serialize)]
    struct Pair<'a>(&'a str, Option<String>);
    let pairs: Vec<Pair<'_>> =
        headers.iter().map(|header| Pair(&header.name, header.value.as_deref().map(base64))).collect();
    serde_json::to_string(&pairs).expect("texts become JSON")
}

/// Base64 as in RFC 4648, with padding, which is what PostgreSQL's `decode` reads.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic it was read from.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970; `None` where the record has no time.
    pub timestamp: Option<i64>,
    /// Key, byte for byte.
    pub key: Option<Vec<u8>>,
    /// Value, byte for byte; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

impl Record {
    /// Copies a message. The client panics on a header whose name is no UTF-8, and a dead-letter topic is where such
    /// a record ends up: that header is named `unreadable.name` and the rest is read.
    pub fn read(message: &BorrowedMessage<'_>) -> Record {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let one = |at| {
                let read = || {
                    let header = headers.get(at);
                    Header { name: header.key.to_owned(), value: header.value.map(<[u8]>::to_vec) }
                };
                catch_unwind(AssertUnwindSafe(read))
                    .unwrap_or_else(|_| Header { name: UNREADABLE.into(), value: None })
            };
            (0..headers.count()).map(one).collect()
        });
        Record {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_the_standard_one() {
        let known = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (bytes, text) in known {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xFF, 0xFE, 0xFB]), "//77");
    }

    #[test]
    fn the_park_keeps_order_repetitions_and_nulls() {
        let headers = [
            Header::text("a", "1"),
            Header { name: "b\"".into(), value: None },
            Header { name: "a".into(), value: Some(vec![0xFF]) },
        ];
        assert_eq!(for_park(&headers), r#"[["a","MQ=="],["b\"",null],["a","/w=="]]"#);
    }

    #[test]
    fn repeated_names_are_found_from_both_ends() {
        let headers = [Header::text("a", "1"), Header::text("b", "2"), Header::text("a", "3")];
        assert_eq!(first(&headers, "a"), Some(&b"1"[..]));
        assert_eq!(last(&headers, "a"), Some(&b"3"[..]));
        assert_eq!(last(&headers, "c"), None);
    }

    #[test]
    fn a_name_with_a_nul_is_cut_and_kills_nobody() {
        let list = for_client(&[Header::text("a\0b", "1")]);
        assert_eq!(list.get(0).key, "a");
    }
}
