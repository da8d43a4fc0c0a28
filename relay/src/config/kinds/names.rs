//! Names that PostgreSQL or Kafka have to accept.

use super::{Kind, expected};

/// PostgreSQL cuts longer names off without an error, and two names could become one.
const LONGEST_POSTGRES_NAME: usize = 63;
/// Kafka's limit for a topic.
const LONGEST_TOPIC: usize = 249;
/// Leaves room for the aggregate type behind the prefix.
const LONGEST_PREFIX: usize = 128;

/// A relay's name: `[a-z][a-z0-9_]{0,40}`, what PostgreSQL allows in a slot's name with room for `outbox_`.
#[derive(Debug)]
pub struct RelayName;

impl Kind for RelayName {
    type Value = String;

    fn expectation(&self) -> String {
        "a lower-case letter, then at most 40 lower-case letters, digits or underscores".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if first && rest && text.len() <= 41 { Ok(text.into()) } else { Err(expected(self)) }
    }
}

/// A lane's name: `[a-z][a-z0-9_]{0,20}`.
#[derive(Debug)]
pub struct LaneName;

impl Kind for LaneName {
    type Value = String;

    fn expectation(&self) -> String {
        "a lower-case letter, then at most 20 lower-case letters, digits or underscores".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        // A relay's name has the same letters, and more of them.
        RelayName.read(text).ok().filter(|name| name.len() <= 21).ok_or_else(|| expected(self))
    }
}

/// The prefix of logical messages.
#[derive(Debug)]
pub struct MessagePrefix;

impl Kind for MessagePrefix {
    type Value = String;

    fn expectation(&self) -> String {
        "1 to 63 letters, digits, `.`, `_`, `-`, `/` or `:`, and not `outbox`, which is the prefix of commands".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
        let legal = (1..=63).contains(&text.len()) && text.bytes().all(plain);
        if legal && text != crate::router::command::PREFIX { Ok(text.into()) } else { Err(expected(self)) }
    }
}

/// `schema.table`, each part plain lower case or in double quotes as SQL writes it.
#[derive(Debug)]
pub struct TableName;

impl Kind for TableName {
    type Value = (String, String);

    fn expectation(&self) -> String {
        "`schema.table`, where a part with capitals or other characters stands in double quotes, such as \
         `\"Sales\".outbox`"
            .into()
    }

    fn read(&self, text: &str) -> Result<(String, String), String> {
        let (schema, rest) = identifier(text).ok_or_else(|| expected(self))?;
        let rest = rest.strip_prefix('.').ok_or_else(|| expected(self))?;
        match identifier(rest) {
            Some((table, "")) => Ok((schema, table)),
            _ => Err(expected(self)),
        }
    }
}

/// Reads one SQL identifier off the front. Capitals without quotes are refused: SQL would fold them, and
/// whoever wrote them may have meant them.
fn identifier(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_identifier(quoted)?,
        None => {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$';
            let end = text.find(|c| !plain(c)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
            starts_well.then(|| (name.to_string(), rest))?
        }
    };
    (!name.is_empty() && name.len() <= LONGEST_POSTGRES_NAME && !name.contains('\0')).then_some((name, rest))
}

/// Reads up to the closing quote; a doubled quote is one of the name.
fn quoted_identifier(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// A column's name exactly as the catalog has it, without quotes.
#[derive(Debug)]
pub struct ColumnName;

impl Kind for ColumnName {
    type Value = String;

    fn expectation(&self) -> String {
        format!(
            "a column's name exactly as the catalog has it, without quotes, at most {LONGEST_POSTGRES_NAME} bytes"
        )
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let fits = !text.is_empty() && text.len() <= LONGEST_POSTGRES_NAME && !text.contains('\0');
        if fits { Ok(text.into()) } else { Err(expected(self)) }
    }
}

/// A Kafka topic.
#[derive(Debug)]
pub struct TopicName;

impl Kind for TopicName {
    type Value = String;

    fn expectation(&self) -> String {
        format!("a topic's name: 1 to {LONGEST_TOPIC} of A-Z a-z 0-9 . _ -, neither `.` nor `..`")
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let fits = (1..=LONGEST_TOPIC).contains(&text.len()) && legal_in_topic(text);
        if fits && text != "." && text != ".." { Ok(text.into()) } else { Err(expected(self)) }
    }
}

/// What every routed topic begins with.
#[derive(Debug)]
pub struct TopicPrefix;

impl Kind for TopicPrefix {
    type Value = String;

    fn expectation(&self) -> String {
        format!("at most {LONGEST_PREFIX} of A-Z a-z 0-9 . _ -")
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let fits = text.len() <= LONGEST_PREFIX && legal_in_topic(text);
        if fits { Ok(text.into()) } else { Err(expected(self)) }
    }
}

pub(super) fn legal_in_topic(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_names_are_legal_in_a_slot() {
        assert!(RelayName.read("orders_2").is_ok());
        assert!(RelayName.read(&"a".repeat(41)).is_ok());
        for text in ["", "2orders", "_a", "Orders", "or-ders", "größe", &"a".repeat(42)] {
            assert!(RelayName.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tables_are_quoted_as_in_sql() {
        for (text, schema, table) in [
            ("outbox.events", "outbox", "events"),
            ("\"Sales\".outbox", "Sales", "outbox"),
            ("\"a.b\".\"c \"\"d\"\"\"", "a.b", "c \"d\""),
            ("\"größe\".t$1", "größe", "t$1"),
        ] {
            assert_eq!(TableName.read(text), Ok((schema.into(), table.into())), "{text}");
        }
        let long = format!("public.{}", "x".repeat(64));
        for text in ["events", "a.b.c", "Public.outbox", "a.", ".b", "a.\"b", "\"\".b", "a.b;", "a. b", &long]
        {
            assert!(TableName.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn topics_are_what_kafka_allows() {
        assert!(TopicName.read("outbox.relay.state").is_ok());
        for text in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            assert!(TopicName.read(text).is_err(), "{text}");
        }
        assert!(TopicPrefix.read("").is_ok());
        assert!(TopicPrefix.read("a/").is_err());
    }
}
