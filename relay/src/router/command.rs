//! What a person tells a running relay: a transactional logical message in the stream, so that it takes
//! effect at one place in the order of commits, also after a crash.
//!
//! The message has the prefix [`PREFIX`] and a JSON content:
//!
//! ```json
//! {"relay":"orders","lane":0,"do":{"switch":{"topic":"outbox.event.order","partitions":24}}}
//! ```

use std::fmt::Write;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{ColumnInfo, RelationShape};

/// The prefix of the messages.
pub const PREFIX: &str = "outbox";

/// One command. Fields that are not known are passed over, so that a newer tool can add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Name of the relay that is told.
    pub relay: String,
    /// Its lane.
    pub lane: u32,
    /// What it is told.
    pub r#do: Do,
}

/// What a relay can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Do {
    /// Spread the keys of a topic over another number of partitions.
    Switch {
        /// The topic.
        topic: String,
        /// The partitions from now on.
        partitions: NonZeroU32,
    },
    /// Publish what is held behind a quarantined event.
    Release {
        /// Position of the event, `<epoch>/<commit LSN>/<ordinal>`.
        position: String,
    },
    /// Publish events again that stand in the table, under the ids they have.
    Republish(Republish),
    /// Give a quarantined event up and publish what is held behind it.
    Discard {
        /// Position of the event, `<epoch>/<commit LSN>/<ordinal>`.
        position: String,
    },
}

/// Rows of the outbox table, as text, to be published again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Republish {
    /// Name and type (OID) of each column.
    pub columns: Vec<(String, u32)>,
    /// A value for each column of each row; `None` is SQL NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Republish {
    /// The shape of the rows.
    pub fn shape(&self, schema: &str, table: &str) -> RelationShape {
        let column =
            |(name, type_oid): &(String, u32)| ColumnInfo { name: name.clone(), type_oid: *type_oid };
        RelationShape {
            schema: schema.to_owned(),
            table: table.to_owned(),
            columns: self.columns.iter().map(column).collect(),
        }
    }
}

impl Command {
    /// What a message tells this lane of this relay; `None` where it is another's, or no command at all.
    /// One that is broken is said: somebody meant something by it.
    pub fn read(prefix: &str, content: &[u8], relay: &str, lane: u32) -> Option<Do> {
        if prefix != PREFIX {
            return None;
        }
        match serde_json::from_slice::<Command>(content) {
            Ok(command) if command.relay == relay && command.lane == lane => Some(command.r#do),
            Ok(_) => None,
            Err(error) => {
                // Of the content only what serde says: it may be a producer's own message.
                tracing::warn!(%error, bytes = content.len(), "a message with the prefix `{PREFIX}` is no command");
                None
            }
        }
    }

    /// The content of the message: ASCII, since a slot brings it in the encoding of the database.
    ///
    /// # Errors
    /// Never for these types.
    pub fn content(&self) -> serde_json::Result<String> {
        let json = serde_json::to_string(self)?;
        if json.is_ascii() {
            return Ok(json);
        }
        let mut ascii = String::with_capacity(json.len() + json.len() / 2);
        for char in json.chars() {
            if char.is_ascii() {
                ascii.push(char);
                continue;
            }
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
        Ok(ascii)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::damage::all_damages;
    use crate::quarantine::entry::parse_position;

    fn read(content: &str) -> Option<Do> {
        Command::read("outbox", content.as_bytes(), "orders", 0)
    }

    fn switch() -> Do {
        Do::Switch { topic: "outbox.event.order".into(), partitions: NonZeroU32::new(24).unwrap() }
    }

    const SWITCH: &str =
        r#"{"relay":"orders","lane":0,"do":{"switch":{"topic":"outbox.event.order","partitions":24}}}"#;

    #[test]
    fn a_command_is_read_as_it_was_written() {
        let command = Command { relay: "orders".into(), lane: 0, r#do: switch() };
        assert_eq!(command.content().unwrap(), SWITCH);
        assert_eq!(read(SWITCH), Some(switch()));
        let release = r#"{"relay":"orders","lane":0,"do":{"release":{"position":"1/0/0"}},"by":"somebody"}"#;
        assert_eq!(read(release), Some(Do::Release { position: "1/0/0".into() }));
        let discard = r#"{"do":{"discard":{"position":"1/0/0","why":"x"}},"lane":0,"relay":"orders"}"#;
        assert_eq!(read(discard), Some(Do::Discard { position: "1/0/0".into() }));
    }

    #[test]
    fn rows_come_back_as_they_were_whatever_the_databases_encoding() {
        let value = "{\"a\": \"größe \u{1F600} \\u0000\"}\n".to_owned();
        let told = Do::Republish(Republish {
            columns: vec![("id".into(), 2950), ("payload".into(), 114)],
            rows: vec![vec![Some(value), None]],
        });
        let command = Command { relay: "orders".into(), lane: 0, r#do: told.clone() };
        let content = command.content().unwrap();
        assert!(content.is_ascii(), "{content}");
        assert_eq!(read(&content), Some(told));
    }

    #[test]
    fn what_is_meant_for_another_is_nothing() {
        assert_eq!(Command::read("outbox", SWITCH.as_bytes(), "billing", 0), None);
        assert_eq!(Command::read("outbox", SWITCH.as_bytes(), "orders", 1), None);
        assert_eq!(Command::read("outbox2", SWITCH.as_bytes(), "orders", 0), None);
        assert_eq!(Command::read("", SWITCH.as_bytes(), "orders", 0), None);
    }

    #[test]
    fn what_is_broken_is_nothing() {
        for content in [
            "",
            "null",
            "hello",
            "{}",
            r#"{"relay":"orders","lane":0}"#,
            r#"{"relay":"orders","lane":0,"do":{}}"#,
            r#"{"relay":"orders","lane":0,"do":{"explode":{}}}"#,
            r#"{"relay":"orders","lane":0,"do":{"switch":{"topic":"t","partitions":0}}}"#,
            r#"{"relay":"orders","lane":0,"do":{"switch":{"topic":"t","partitions":-1}}}"#,
            r#"{"relay":"orders","lane":-1,"do":{"release":{"position":"1/0/0"}}}"#,
        ] {
            assert_eq!(read(content), None, "{content}");
        }
        assert_eq!(Command::read("outbox", b"\xff\xfe", "orders", 0), None);
    }
    const RELEASE: &str = r#"{"relay":"orders","lane":0,"do":{"release":{"position":"3/0000000016B374D8/2"}},"by":{"x":[1,-2e9]}}"#;
    const DISCARD: &str = r#"{"do":{"discard":{"position":"\u0031/0000000016B374D8/18446744073709551615"}},"lane":0,"relay":"orders"}"#;

    /// What is read of such a content says the same when it is written again, and its position is read or not.
    fn read_or_nothing(content: &[u8]) -> bool {
        let Some(told) = Command::read("outbox", content, "orders", 0) else { return false };
        if let Do::Release { position } | Do::Discard { position } = &told {
            let _ = parse_position(position);
        }
        let again = Command { relay: "orders".into(), lane: 0, r#do: told.clone() };
        assert_eq!(read(&again.content().unwrap()), Some(told));
        true
    }

    #[test]
    fn a_damaged_command_is_read_or_is_nothing() {
        let contents = [SWITCH, RELEASE, DISCARD].map(str::as_bytes);
        for (content, seed) in contents.iter().zip(0..) {
            let (mut seen, mut read) = (0, 0);
            all_damages(content, &contents, seed, |bytes| {
                seen += 1;
                read += usize::from(read_or_nothing(bytes));
            });
            assert!(read > 0 && read < seen, "{read} of {seen} were read");
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(200_000), close.repeat(200_000));
        let unknown = SWITCH.replacen('{', &format!(r#"{{"more":{},"#, deep("[", "]")), 1);
        assert!(read_or_nothing(unknown.as_bytes()));
        for content in [deep("[", "]"), deep(r#"{"do":"#, "}"), deep(r#"{"do":{"release":"#, "}}")] {
            assert!(!read_or_nothing(content.as_bytes()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_are_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
            prop_assert!(!read_or_nothing(&bytes) && !read_or_nothing(text.as_bytes()));
            let told = serde_json::json!({"relay": "orders", "lane": 0, "do": {"release": {"position": text}}});
            prop_assert!(read_or_nothing(told.to_string().as_bytes()));
        }
    }
}
