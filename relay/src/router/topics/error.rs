//! Why a topic cannot be published to. Each ends the session with its sentence.

use std::num::NonZeroU32;

use super::limits::{OutOfTime, in_words};
use crate::router::PinError;

/// Why a topic cannot be published to.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The topic was made anew with fewer partitions than its keys are spread over.
    #[error(
        "topic {topic} has {found} partitions, but its keys are spread over {pinned}: it was made anew; give it \
         {pinned} partitions or more, since with fewer every key would move"
    )]
    Shrunk {
        /// The topic.
        topic: String,
        /// The pinned partition count.
        pinned: NonZeroU32,
        /// What the cluster shows.
        found: NonZeroU32,
    },
    /// The cluster takes no topic of this name.
    #[error(
        "topic {topic} can never be: Kafka takes no topic of this name, or it differs from an existing one in \
         `.` and `_` only; route the event elsewhere"
    )]
    Illegal {
        /// The topic.
        topic: String,
    },
    /// The record is older than its topic keeps records.
    #[error(
        "a record for topic {topic} is {} old by its commit time, and the topic keeps nothing older than {} \
         ({name}={limit}): it would be gone before anybody reads it. Raise {name} of the topic, or set its \
         message.timestamp.type to LogAppendTime, then start again", in_words(*age), in_words(*limit)
    )]
    TooOld {
        /// The topic.
        topic: String,
        /// Age of the record in milliseconds.
        age: i64,
        /// The limit in milliseconds.
        limit: i64,
        /// Name of the limit.
        name: &'static str,
    },
    /// The record is further ahead of time than its topic takes.
    #[error(
        "a record for topic {topic} is {} ahead of this machine's clock by its commit time, and the topic takes \
         nothing beyond {} (message.timestamp.after.max.ms={limit}). Look at the clocks of this machine and of \
         PostgreSQL, or raise that limit, then start again", in_words(*ahead), in_words(*limit)
    )]
    TooNew {
        /// The topic.
        topic: String,
        /// How far ahead, in milliseconds.
        ahead: i64,
        /// The limit in milliseconds.
        limit: i64,
    },
    /// A Kafka transaction that holds events must not stay open for as long as this takes.
    #[error("{0}")]
    HoldsBack(
        /// What is waited for.
        String,
    ),
    /// More topics than the state record can hold.
    #[error("the topic cannot be pinned")]
    Pins(#[from] PinError),
}

impl TopicError {
    pub(super) fn out_of_time(topic: &str, found: OutOfTime) -> TopicError {
        let topic = topic.to_owned();
        match found {
            OutOfTime::TooOld { age, limit, name } => TopicError::TooOld { topic, age, limit, name },
            OutOfTime::TooNew { ahead, limit } => TopicError::TooNew { topic, ahead, limit },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_was_seen_and_what_to_do() {
        let old = OutOfTime::TooOld { age: 900_000_000, limit: 604_800_000, name: "retention.ms" };
        let old = TopicError::out_of_time("t", old).to_string();
        for part in
            ["topic t", "10 d 10 h old", "7 d (retention.ms=604800000)", "LogAppendTime", "start again"]
        {
            assert!(old.contains(part), "{part}: {old}");
        }
        let new = TopicError::out_of_time("t", OutOfTime::TooNew { ahead: 7_200_000, limit: 3_600_000 });
        assert!(new.to_string().contains("2 h ahead"), "{new}");
    }
}
