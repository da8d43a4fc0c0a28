//! What is known of topics: pins, the partition counts that the cluster shows, and what topics in use
//! take. Shared by the router, which uses it, and the watch, which looks at the cluster beside it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;

use super::limits::{Facts, Limits};
use crate::observe::{Grown, Observed};
use crate::router::{PinError, Pins};

/// The table of one session.
pub struct Table {
    known: Mutex<Known>,
    observed: Arc<Observed>,
}

struct Known {
    pins: Pins,
    /// Partition counts as the cluster showed them last.
    found: BTreeMap<String, NonZeroU32>,
    /// Topics that this session publishes to.
    used: BTreeMap<String, Arc<Limits>>,
}

impl Table {
    /// Begins with the pins of the state record.
    pub fn new(pins: Pins, observed: Arc<Observed>) -> Table {
        observed.topics_grown(Vec::new());
        let known = Known { pins, found: BTreeMap::new(), used: BTreeMap::new() };
        Table { known: Mutex::new(known), observed }
    }

    /// The pinned count of a topic.
    pub fn pinned(&self, topic: &str) -> Option<NonZeroU32> {
        self.known.lock().pins.get(topic)
    }

    /// Pins a topic that was not pinned.
    ///
    /// # Errors
    /// There are too many.
    pub fn pin(&self, topic: &str, count: NonZeroU32) -> Result<(), PinError> {
        self.known.lock().pins.pin(topic, count.get()).map(drop)
    }

    /// Pins a topic to another count, as told by a person.
    pub fn switch(&self, topic: &str, count: NonZeroU32) {
        let mut known = self.known.lock();
        known.pins.switch(topic, count);
        self.show(&known);
    }

    /// Takes note of the partitions that the cluster shows, and says once that they differ.
    pub fn saw(&self, topic: &str, found: NonZeroU32) {
        let mut known = self.known.lock();
        let before = known.found.insert(topic.to_owned(), found);
        let Some(pinned) = known.pins.get(topic) else { return };
        self.show(&known);
        if before == Some(found) {
            return;
        }
        if found > pinned {
            // Said, not followed: a key that moved could be overtaken by itself (R19).
            tracing::warn!(
                topic, %pinned, %found,
                "the topic has grown; its keys stay where they are until `outbox-relay topics switch {topic}`"
            );
        } else if found < pinned {
            tracing::error!(topic, %pinned, %found, "the topic was made anew with fewer partitions");
        }
    }

    /// A topic that is published to from now on.
    pub fn uses(&self, topic: &str, limits: Arc<Limits>) {
        self.known.lock().used.insert(topic.to_owned(), limits);
    }

    /// All topics with a pin.
    pub fn topics(&self) -> Vec<String> {
        self.known.lock().pins.iter().map(|(topic, _)| topic.to_owned()).collect()
    }

    /// Topics that are published to.
    pub fn used(&self) -> Vec<String> {
        self.known.lock().used.keys().cloned().collect()
    }

    /// Takes newer facts of a topic in use.
    pub fn learn(&self, topic: &str, facts: Facts, now: i64) {
        if let Some(limits) = self.known.lock().used.get(topic) {
            limits.learn(facts, now);
        }
    }

    /// Moves the bounds of all topics in use to where they are now, in Unix milliseconds.
    pub fn follow(&self, now: i64) {
        self.known.lock().used.values().for_each(|limits| limits.follow(now));
    }

    /// The smallest batch limit of the topics in use.
    pub fn smallest_limit(&self) -> Option<usize> {
        self.known.lock().used.values().filter_map(|limits| limits.max_message_bytes()).min()
    }

    fn show(&self, known: &Known) {
        let grown = known.found.iter().filter_map(|(topic, found)| {
            let pinned = known.pins.get(topic).filter(|pinned| found > pinned)?;
            Some(Grown { topic: topic.clone(), pinned: pinned.get(), found: found.get() })
        });
        self.observed.topics_grown(grown.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    #[test]
    fn growth_is_shown_until_it_is_followed() {
        let observed = Arc::new(Observed::new());
        let table = Table::new(Pins::default(), observed.clone());
        table.saw("t", count(3));
        table.pin("t", count(3)).unwrap();
        table.saw("t", count(3));
        assert_eq!(observed.grown_topics(), []);
        table.saw("t", count(8));
        assert_eq!(observed.grown_topics(), [Grown { topic: "t".into(), pinned: 3, found: 8 }]);
        assert_eq!(table.pinned("t"), Some(count(3)));
        table.switch("t", count(8));
        assert_eq!((table.pinned("t"), observed.grown_topics()), (Some(count(8)), Vec::new()));
    }

    #[test]
    fn the_smallest_limit_is_of_topics_in_use() {
        let table = Table::new(Pins::default(), Arc::new(Observed::new()));
        assert_eq!(table.smallest_limit(), None);
        let facts = |bytes| Facts { max_message_bytes: bytes, ..Facts::default() };
        for (topic, bytes) in [("a", Some(5000)), ("b", Some(2000)), ("c", None)] {
            table.uses(topic, Arc::new(Limits::new(facts(bytes), 0)));
        }
        assert_eq!(table.smallest_limit(), Some(2000));
        table.learn("b", facts(Some(9000)), 0);
        assert_eq!(table.smallest_limit(), Some(5000));
    }
}
