//! The record on Kafka that a row of the outbox becomes.
//!
//! | part | what it is |
//! |---|---|
//! | topic | [`topic`]: prefix and `aggregatetype` |
//! | key | `partition_key` where it is set, otherwise `aggregateid`; the text's UTF-8 bytes |
//! | value | the bytes of `payload` as PostgreSQL prints them; SQL NULL is no value |
//! | timestamp | commit time of the row's transaction, in whole milliseconds, rounded down |
//! | headers | the relay's own in the order of [`header::ORDER`], then the row's |
//!
//! The row's own headers come in the row's order (that of `jsonb`: shorter names first, then by bytes): a
//! string as its characters, any other scalar as its JSON text, so `1.50` stays `1.50` and a null is `null`.

pub mod header;
mod position;

pub use position::{Position, PositionError};

/// What a topic's name begins with unless the relay is told otherwise.
pub const DEFAULT_TOPIC_PREFIX: &str = "outbox.event.";

/// The longest name that Kafka allows a topic.
pub const MAX_TOPIC_BYTES: usize = 249;

/// The topic of the events of one aggregate type.
///
/// ```
/// use outbox_schema::record::{DEFAULT_TOPIC_PREFIX, topic};
/// assert_eq!(topic(DEFAULT_TOPIC_PREFIX, "order"), "outbox.event.order");
/// ```
pub fn topic(prefix: &str, aggregatetype: &str) -> String {
    format!("{prefix}{aggregatetype}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MAX_AGGREGATETYPE_BYTES;

    #[test]
    fn the_longest_aggregate_type_makes_the_longest_topic() {
        let longest = "a".repeat(MAX_AGGREGATETYPE_BYTES);
        assert_eq!(topic(DEFAULT_TOPIC_PREFIX, &longest).len(), MAX_TOPIC_BYTES);
    }
}
