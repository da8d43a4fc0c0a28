//! The partition count that each topic's keys are spread over.
//!
//! A topic that grows would move keys to other partitions, where their later events overtake the earlier
//! ones. So the count of the first look is pinned, kept in the state record before the topic's first
//! record is sent, and changed only by an explicit drain-then-switch.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Most topics that can be pinned: what the state record can hold.
pub const MAX_TOPICS: usize = 10_000;

/// Topics and their pinned partition counts. As JSON: an object, `{"outbox.event.order": 12}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, NonZeroU32>", into = "BTreeMap<String, NonZeroU32>")]
pub struct Pins(BTreeMap<String, NonZeroU32>);

impl Pins {
    /// The pinned count of a topic; `None` if it has none yet.
    pub fn get(&self, topic: &str) -> Option<NonZeroU32> {
        self.0.get(topic).copied()
    }

    /// Pins a topic to the count that the broker shows. Says whether that is new, in which case no record
    /// may go to the topic before a state record with the pin is acknowledged.
    ///
    /// # Errors
    ///
    /// The topic is pinned to another count, the count is zero, or there are too many topics. Nothing is
    /// changed then.
    pub fn pin(&mut self, topic: &str, partitions: u32) -> Result<bool, PinError> {
        let count =
            NonZeroU32::new(partitions).ok_or_else(|| PinError::NoPartitions { topic: topic.to_owned() })?;
        match self.get(topic) {
            Some(pinned) if pinned == count => Ok(false),
            Some(pinned) => Err(PinError::Differs { topic: topic.to_owned(), pinned, found: count }),
            None if self.0.len() >= MAX_TOPICS => Err(PinError::TooMany { topics: self.0.len() + 1 }),
            None => {
                self.0.insert(topic.to_owned(), count);
                Ok(true)
            }
        }
    }

    /// Pins a topic that is pinned to another count.
    pub fn switch(&mut self, topic: &str, count: NonZeroU32) {
        if let Some(pinned) = self.0.get_mut(topic) {
            *pinned = count;
        }
    }

    /// All pins in the order of the topics' names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, NonZeroU32)> {
        self.0.iter().map(|(topic, count)| (topic.as_str(), *count))
    }
}

impl TryFrom<BTreeMap<String, NonZeroU32>> for Pins {
    type Error = PinError;

    fn try_from(pins: BTreeMap<String, NonZeroU32>) -> Result<Self, PinError> {
        if pins.len() > MAX_TOPICS {
            return Err(PinError::TooMany { topics: pins.len() });
        }
        Ok(Pins(pins))
    }
}

impl From<Pins> for BTreeMap<String, NonZeroU32> {
    fn from(pins: Pins) -> Self {
        pins.0
    }
}

/// Why a topic was not pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The topic is pinned to another count.
    #[error("topic `{topic}` is pinned to {pinned} partitions and has {found}")]
    Differs {
        /// The topic.
        topic: String,
        /// The count that its keys are spread over.
        pinned: NonZeroU32,
        /// The count that was found.
        found: NonZeroU32,
    },
    /// A topic cannot have no partitions.
    #[error("topic `{topic}` was said to have no partitions")]
    NoPartitions {
        /// The topic.
        topic: String,
    },
    /// Above [`MAX_TOPICS`].
    #[error(
        "{topics} topics, the relay keeps at most 10000: is the column that routes (aggregatetype) one that \
         names kinds, not single entities?"
    )]
    TooMany {
        /// How many there would be.
        topics: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_count_stays() {
        let mut pins = Pins::default();
        assert_eq!(pins.get("t"), None);
        assert_eq!(pins.pin("t", 12), Ok(true));
        assert_eq!(pins.pin("t", 12), Ok(false));
        assert!(matches!(pins.pin("t", 24), Err(PinError::Differs { .. })));
        assert!(matches!(pins.pin("u", 0), Err(PinError::NoPartitions { .. })));
        assert_eq!(pins.iter().collect::<Vec<_>>(), [("t", NonZeroU32::new(12).unwrap())]);
    }

    #[test]
    fn only_a_pinned_topic_is_switched() {
        let mut pins = Pins::default();
        let count = NonZeroU32::new(24).unwrap();
        pins.switch("t", count);
        assert_eq!(pins.get("t"), None);
        pins.pin("t", 12).unwrap();
        pins.switch("t", count);
        assert_eq!(pins.get("t"), Some(count));
    }

    #[test]
    fn json_is_an_object_and_round_trips() {
        let mut pins = Pins::default();
        pins.pin("b", 3).unwrap();
        pins.pin("a", 12).unwrap();
        let json = serde_json::to_string(&pins).unwrap();
        assert_eq!(json, r#"{"a":12,"b":3}"#);
        assert_eq!(serde_json::from_str::<Pins>(&json).unwrap(), pins);
        assert!(serde_json::from_str::<Pins>(r#"{"a":0}"#).is_err());
    }

    #[test]
    fn topics_are_bounded() {
        let mut pins = Pins::default();
        for n in 0..MAX_TOPICS {
            pins.pin(&n.to_string(), 1).unwrap();
        }
        assert_eq!(pins.pin("one more", 1), Err(PinError::TooMany { topics: MAX_TOPICS + 1 }));
        assert_eq!(pins.pin("0", 1), Ok(false));
        let one = NonZeroU32::new(1).unwrap();
        let many: BTreeMap<String, NonZeroU32> = (0..=MAX_TOPICS).map(|n| (n.to_string(), one)).collect();
        assert!(serde_json::from_str::<Pins>(&serde_json::to_string(&many).unwrap()).is_err());
    }
}
