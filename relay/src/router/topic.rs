//! Kafka's rules for a topic's name, from `org.apache.kafka.common.internals.Topic`: 1 to 249 of ASCII
//! letters, digits, `.`, `_` and `-`, but neither `.` nor `..`.

use outbox_schema::record::MAX_TOPIC_BYTES;

/// Why a name is not a topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// Above 249 characters.
    #[error("it has {0} characters, Kafka allows 249")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("Kafka refuses `.` and `..`")]
    Dots,
    /// A byte that no topic may contain.
    #[error("byte 0x{byte:02X} at {at} (prefix included) is none of ASCII letters, digits, `.`, `_` and `-`")]
    Illegal {
        /// The byte.
        byte: u8,
        /// Its place, from 0.
        at: usize,
    },
}

/// Puts the topic `<prefix><suffix>` in place of what `topic` holds.
///
/// # Errors
///
/// The name breaks one of Kafka's rules; `topic` then holds no name to be used.
pub fn route(prefix: &str, suffix: &[u8], topic: &mut String) -> Result<(), TopicFault> {
    topic.clear();
    let length = prefix.len() + suffix.len();
    if length == 0 {
        return Err(TopicFault::Empty);
    }
    if length > MAX_TOPIC_BYTES {
        return Err(TopicFault::TooLong(length));
    }
    for (at, &byte) in prefix.as_bytes().iter().chain(suffix).enumerate() {
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            return Err(TopicFault::Illegal { byte, at });
        }
        topic.push(char::from(byte));
    }
    if topic == "." || topic == ".." {
        return Err(TopicFault::Dots);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legal_name_is_prefix_and_suffix() {
        let mut topic = "left over".to_owned();
        for (prefix, suffix) in [("outbox.event.", "Order_1-x"), ("", "..."), ("a", ""), (".", "a")] {
            route(prefix, suffix.as_bytes(), &mut topic).unwrap();
            assert_eq!(topic, format!("{prefix}{suffix}"));
        }
        route("", &[b'x'; 249], &mut topic).unwrap();
        assert_eq!(topic.len(), 249);
    }

    #[test]
    fn what_kafka_refuses_is_refused() {
        let mut topic = String::new();
        let fault = |suffix: &[u8]| route("", suffix, &mut topic).unwrap_err();
        let faults: Vec<_> =
            [b"".as_slice(), b".", b"..", &[b'x'; 250], b"a b", b"a/b", "é".as_bytes(), b"\xFF", b"a\0"]
                .into_iter()
                .map(fault)
                .collect();
        assert_eq!(
            faults,
            [
                TopicFault::Empty,
                TopicFault::Dots,
                TopicFault::Dots,
                TopicFault::TooLong(250),
                TopicFault::Illegal { byte: b' ', at: 1 },
                TopicFault::Illegal { byte: b'/', at: 1 },
                TopicFault::Illegal { byte: 0xC3, at: 0 },
                TopicFault::Illegal { byte: 0xFF, at: 0 },
                TopicFault::Illegal { byte: 0, at: 1 },
            ]
        );
    }
}
