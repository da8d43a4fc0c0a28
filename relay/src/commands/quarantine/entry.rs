//! An entry of the quarantine, and how its texts are shown.

use std::convert::Infallible;
use std::str::FromStr;

use jiff::Timestamp;
use outbox_schema::record::Position;
use serde::{Serialize, Serializer};

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for a decision, and its order behind it.
    Held,
    /// Waits behind a held one.
    Queued,
    /// Waits for a decision; nothing waits behind it.
    Passed,
    /// Somebody released it; the relay has not come to that.
    Releasing,
    /// Somebody discarded it; the relay has not come to that.
    Discarding,
    /// Published after all.
    Published,
    /// Never to be published.
    Discarded,
}

impl State {
    const ALL: [State; 7] = [
        State::Held,
        State::Queued,
        State::Passed,
        State::Releasing,
        State::Discarding,
        State::Published,
        State::Discarded,
    ];

    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Queued => "queued",
            State::Passed => "passed",
            State::Releasing => "releasing",
            State::Discarding => "discarding",
            State::Published => "published",
            State::Discarded => "discarded",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more happens to it.
    pub fn is_settled(self) -> bool {
        matches!(self, State::Published | State::Discarded)
    }

    /// Whether it waits for a person.
    pub fn waits_for_a_decision(self) -> bool {
        matches!(self, State::Held | State::Passed)
    }
}

/// A record's key, shown and read as text where it is one, otherwise as `\x` and hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// Its text; what [`FromStr`] reads back.
    pub fn text(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with("\\x") && !text.chars().any(char::is_control) => text.to_owned(),
            Ok(_) | Err(_) => hex(&self.0),
        }
    }
}

impl FromStr for Key {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Key, Infallible> {
        Ok(Key(unhex(text).unwrap_or_else(|| text.as_bytes().to_vec())))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// One entry, without its row.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The event's position.
    #[serde(serialize_with = "as_text")]
    pub position: Position,
    /// The lane.
    pub lane: i32,
    /// The event's id.
    pub event_id: Option<String>,
    /// Its aggregate type.
    pub aggregatetype: Option<String>,
    /// What happened.
    pub event_type: Option<String>,
    /// Where it would go.
    pub topic: Option<String>,
    /// The record's key.
    pub key: Option<Key>,
    /// The order it stands in.
    pub held_by: Option<String>,
    /// Where it stands.
    pub state: State,
    /// Why it is here, as a code.
    pub cause: String,
    /// Why it is here, as a sentence.
    pub reason: String,
    /// Size of its row.
    pub bytes: i64,
    /// How many queue behind it.
    pub behind: i64,
    /// When its transaction committed.
    pub committed_at: Timestamp,
    /// When it came here.
    pub entered_at: Timestamp,
    /// How long ago that was, by the server's clock.
    pub age_seconds: f64,
    /// When it was decided on.
    pub decided_at: Option<Timestamp>,
    /// By whom.
    pub decided_by: Option<String>,
    /// What was noted with it.
    pub note: Option<String>,
    /// When it was published or discarded.
    pub settled_at: Option<Timestamp>,
}

impl Entry {
    /// Where it would go, or the order it stands in where no topic could be made.
    pub fn destination(&self) -> String {
        clean(self.topic.as_deref().or(self.held_by.as_deref()).unwrap_or("-"))
    }
}

fn as_text<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

/// Text of a row, fit for a terminal: control characters, which could move its cursor or worse, are spelled.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { cleaned.extend(c.escape_default()) } else { cleaned.push(c) }
    }
    cleaned
}

/// At most `most` characters; the last of them tells where there were more.
pub fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// `\x` and two digits a byte, as PostgreSQL writes it.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("\\x{}", digits.collect::<String>())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let whole = digits.len() % 2 == 0 && digits.iter().all(u8::is_ascii_hexdigit);
    whole.then(|| digits.chunks_exact(2).map(byte).collect()).flatten()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A held event behind which three queue.
    pub fn entry() -> Entry {
        Entry {
            position: "3/00000016B374D848/7".parse().unwrap(),
            lane: 0,
            event_id: Some("01900000-0000-7000-8000-000000000001".into()),
            aggregatetype: Some("order".into()),
            event_type: Some("OrderPlaced".into()),
            topic: Some("outbox.event.order".into()),
            key: Some(Key(b"o-1".to_vec())),
            held_by: Some("outbox.event.order".into()),
            state: State::Held,
            cause: "too_large".into(),
            reason: "the record has 2000000 bytes; `kafka.max_record_bytes` allows 1000000".into(),
            bytes: 2_000_512,
            behind: 3,
            committed_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            entered_at: "2026-01-02T03:04:06Z".parse().unwrap(),
            age_seconds: 3725.4,
            decided_at: None,
            decided_by: None,
            note: None,
            settled_at: None,
        }
    }

    #[test]
    fn the_table_knows_the_same_states() {
        let names: Vec<String> = State::ALL.iter().map(|state| format!("'{}'", state.name())).collect();
        assert!(outbox_schema::sql::QUARANTINE.up.contains(&names.join(", ")), "{names:?}");
        assert!(State::ALL.iter().all(|state| State::named(state.name()) == Some(*state)));
        assert_eq!(State::named("lost"), None);
    }

    #[test]
    fn a_key_is_read_back_from_what_is_shown() {
        for (bytes, text) in [
            (&b"o-1"[..], "o-1"),
            ("größe".as_bytes(), "größe"),
            (b"", ""),
            (b"a\x1b[2J", "\\x611b5b324a"),
            (b"\xff\x00", "\\xff00"),
            (b"\\x41", "\\x5c783431"),
        ] {
            let key = Key(bytes.to_vec());
            assert_eq!(key.text(), text);
            assert_eq!(text.parse(), Ok(key));
        }
        for text in ["\\x4", "\\xzz", "\\x+1"] {
            assert_eq!(text.parse(), Ok(Key(text.as_bytes().to_vec())), "no hex");
        }
    }

    #[test]
    fn a_row_cannot_write_to_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\n\u{9b}c ü"), "a\\u{1b}[31mb\\n\\u{9b}c ü");
        assert_eq!(short("größer", 4), "grö…");
        assert_eq!(short("größer", 6), "größer");
    }
}
