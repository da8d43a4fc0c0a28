//! What the relay is told by transactional logical messages in its own stream: decisions that take effect
//! at a place in the order of events.

use serde::{Deserialize, Serialize};

/// Prefix of the messages (`pg_logical_emit_message`).
pub const PREFIX: &str = "outbox";

/// A message's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which relay is meant.
    pub relay: String,
    /// Its lane.
    pub lane: u32,
    /// What it is to do.
    pub r#do: Do,
}

/// What a relay can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Do {
    /// Publish an entry of the quarantine, and what queued up behind it.
    Release {
        /// The entry's position.
        position: String,
    },
    /// Give an entry of the quarantine up, and publish what queued up behind it.
    Discard {
        /// The entry's position.
        position: String,
    },
    /// Spread a topic's keys over another number of partitions from here on.
    Switch {
        /// The topic.
        topic: String,
        /// The partitions.
        partitions: u32,
    },
}

impl Command {
    /// Reads a message; `None` for what is meant for somebody else or is no command.
    pub fn read(prefix: &str, content: &[u8]) -> Option<Command> {
        if prefix != PREFIX {
            return None;
        }
        serde_json::from_slice(content).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_this_text() {
        let text = r#"{"relay":"orders","lane":0,"do":{"release":{"position":"3/0000000000000016/7"}}}"#;
        let command = Command::read("outbox", text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), text);
        let text = r#"{"relay":"orders","lane":0,"do":{"switch":{"topic":"t","partitions":24}}}"#;
        let command = Command::read("outbox", text.as_bytes()).unwrap();
        assert_eq!(command.r#do, Do::Switch { topic: "t".to_owned(), partitions: 24 });
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        assert_eq!(Command::read("other", b"{}"), None);
        for content in [&b""[..], b"{}", b"\xff", br#"{"relay":"orders","lane":0,"do":{"dance":{}}}"#] {
            assert_eq!(Command::read("outbox", content), None);
        }
    }
}
