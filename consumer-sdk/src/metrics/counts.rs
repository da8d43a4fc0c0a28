//! What is counted: by topic, by event type, and how it ended. Plain atomics; nothing here waits or allocates once it
//! is made.
//!
//! The number of series is fixed when the consumer starts: its topics and the types it has handlers for, and `other`
//! for whatever else comes. A name that a record brings never becomes a label.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::AHashMap;
use opentelemetry::KeyValue;

use crate::record::Record;

/// The label of topics and event types that the consumer was not set up with.
pub(crate) const OTHER: &str = "other";

/// A closed set whose members are label values.
pub(crate) trait Named: Copy + 'static {
    /// Every member, in the order of their numbers.
    const ALL: &'static [Self];
    /// Its label value.
    fn name(self) -> &'static str;
    /// Its place in [`Named::ALL`].
    fn number(self) -> usize;
}

macro_rules! named {
    ($(#[$about:meta])* $set:ident { $($(#[$one:meta])* $member:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $set { $($(#[$one])* $member,)+ }

        impl Named for $set {
            const ALL: &'static [$set] = &[$($set::$member,)+];
            fn name(self) -> &'static str {
                match self { $($set::$member => $name,)+ }
            }
            fn number(self) -> usize {
                self as usize
            }
        }
    };
}

named! {
    /// How one attempt of a handler ended.
    Ended {
        /// The handler's work is done, and committed.
        Done = "done",
        /// The handler said that it never will be.
        Rejected = "rejected",
        /// The handler asked for another attempt.
        Retry = "retry",
        /// An error that may be over next time.
        Failed = "failed",
        /// An error that is sure to come again; a payload that cannot be read too.
        Permanent = "permanent",
        /// It took too long.
        TimedOut = "timed_out",
        /// It panicked.
        Panicked = "panicked",
        /// A serialization failure, a deadlock or a lost connection of the handler's own transaction: nobody's fault, and no
        /// failed attempt (C44).
        Conflict = "conflict",
        /// The handler was done, and the database refused to commit.
        NotCommitted = "not_committed",
    }
}

impl Ended {
    /// Whether the attempt failed, so that it counts in the error rate.
    pub(crate) fn is_failure(self) -> bool {
        match self {
            Ended::Done | Ended::Rejected | Ended::Conflict => false,
            Ended::Retry
            | Ended::Failed
            | Ended::Permanent
            | Ended::TimedOut
            | Ended::Panicked
            | Ended::NotCommitted => true,
        }
    }
}

named! {
    /// What became of a record, durably.
    Settled {
        /// Its handler's effects are committed.
        Done = "done",
        /// Its handler rejected it.
        Rejected = "rejected",
        /// It was settled before: a dedup hit.
        Duplicate = "duplicate",
        /// No handler is registered for its type, and it is passed over.
        Unregistered = "unregistered",
        /// It is parked, with its key, until the next rung.
        Parked = "parked",
        /// It is queued behind an earlier event of its key that is parked.
        Queued = "queued",
        /// It is held, with its key, until somebody releases it.
        Held = "held",
        /// It is a dead letter.
        Dead = "dead",
        /// A lossy policy dropped it.
        Dropped = "dropped",
    }
}

named! {
    /// Why an event became a dead letter.
    Cause {
        /// Its attempts are used up, or its time.
        Exhausted = "exhausted",
        /// An error that is sure to come again.
        Permanent = "permanent",
        /// It cannot be read: no id, no type, or a payload that its handler does not take.
        Unreadable = "unreadable",
        /// No handler is registered for its type, and that is a mistake.
        Unregistered = "unregistered",
        /// It killed the process as often as is needed to know (C25).
        Killed = "killed",
        /// It is older than what the inbox remembers (C56).
        TooOld = "too_old",
    }
}

/// Where a failed event waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Here, holding its key.
    InPlace,
    /// On a rung of the ladder, from 0.
    Rung(usize),
}

/// Rungs that a ladder may have; a higher one counts as the last.
pub(crate) const RUNGS: usize = 20;

/// What was counted of one event type of one topic.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) topic: String,
    pub(crate) event_type: String,
    /// The labels of its histograms, made once.
    pub(super) labels: [KeyValue; 3],
    pub(super) attempts: [AtomicU64; Ended::ALL.len()],
    pub(super) settled: [AtomicU64; Settled::ALL.len()],
    pub(super) retries: [AtomicU64; RUNGS + 1],
    pub(super) dead: [AtomicU64; Cause::ALL.len()],
    pub(super) again: AtomicU64,
}

impl Series {
    fn new(consumer: &str, topic: &str, event_type: &str) -> Series {
        let labels = [("consumer", consumer), ("topic", topic), ("event_type", event_type)];
        Series {
            topic: topic.to_owned(),
            event_type: event_type.to_owned(),
            labels: labels.map(|(name, value)| KeyValue::new(name, value.to_owned())),
            attempts: Default::default(),
            settled: Default::default(),
            retries: std::array::from_fn(|_| AtomicU64::new(0)),
            dead: Default::default(),
            again: AtomicU64::new(0),
        }
    }

    pub(super) fn retried(&self, retry: Retry) {
        let at = match retry {
            Retry::InPlace => 0,
            Retry::Rung(rung) => rung.min(RUNGS - 1) + 1,
        };
        self.retries[at].fetch_add(1, Relaxed);
    }

    /// Whether anything of it was ever seen: a combination that never comes is no series.
    pub(crate) fn is_used(&self) -> bool {
        let mut all = self.attempts.iter().chain(&self.settled).chain(&self.retries).chain(&self.dead);
        all.any(|count| count.load(Relaxed) > 0)
    }
}

/// All series, by topic and event type.
#[derive(Debug)]
pub(crate) struct Counts {
    series: Vec<Series>,
    topics: AHashMap<String, usize>,
    types: AHashMap<String, usize>,
}

impl Counts {
    pub(super) fn new(consumer: &str, topics: &[String], types: &[String]) -> Counts {
        let numbered = |names: &[String]| -> AHashMap<String, usize> {
            let mut names: Vec<&String> = names.iter().collect();
            names.sort();
            names.dedup();
            names.into_iter().cloned().zip(1..).collect()
        };
        let (topics, types) = (numbered(topics), numbered(types));
        let ordered = |names: &AHashMap<String, usize>| {
            let mut ordered = vec![OTHER.to_owned(); names.len() + 1];
            names.iter().for_each(|(name, at)| ordered[*at].clone_from(name));
            ordered
        };
        let (topic_names, type_names) = (ordered(&topics), ordered(&types));
        let pairs = topic_names.iter().flat_map(|topic| type_names.iter().map(move |name| (topic, name)));
        let series = pairs.map(|(topic, name)| Series::new(consumer, topic, name)).collect();
        Counts { series, topics, types }
    }

    /// The number of a topic's and a type's series.
    pub(super) fn number(&self, topic: &str, event_type: Option<&str>) -> usize {
        let topic = self.topics.get(topic).copied().unwrap_or(0);
        let event_type = event_type.and_then(|name| self.types.get(name)).copied().unwrap_or(0);
        topic * (self.types.len() + 1) + event_type
    }

    pub(super) fn of(&self, topic: &str, event_type: Option<&str>) -> &Series {
        &self.series[self.number(topic, event_type)]
    }

    /// The series of a record.
    pub(super) fn of_record(&self, record: &Record) -> &Series {
        let known = self.series.get(record.known.series as usize);
        known.unwrap_or_else(|| self.of(&record.topic, record.event_type()))
    }

    /// Those of which something was seen.
    pub(super) fn used(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| series.is_used())
    }

    /// Records settled by every handler and without one.
    pub(super) fn settled(&self) -> u64 {
        let all = self.series.iter().flat_map(|series| &series.settled);
        all.map(|count| count.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_are_those_of_the_set_up_and_no_name_from_outside_makes_one() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let counts = Counts::new("c", &names(&["b", "a", "b"]), &names(&["B", "A"]));
        assert_eq!(counts.series.len(), 3 * 3);
        for (topic, event_type, expected) in [
            ("a", Some("A"), ("a", "A")),
            ("b", Some("A"), ("b", "A")),
            ("b", Some("x"), ("b", OTHER)),
            ("b", None, ("b", OTHER)),
            ("x", Some("B"), (OTHER, "B")),
        ] {
            let series = counts.of(topic, event_type);
            assert_eq!((series.topic.as_str(), series.event_type.as_str()), expected);
        }
        assert_eq!(counts.used().count(), 0);
        counts.of("a", Some("A")).retried(Retry::Rung(usize::MAX));
        assert_eq!(counts.used().count(), 1);
    }

    #[test]
    fn members_stand_where_their_numbers_say() {
        fn check<N: Named + PartialEq + std::fmt::Debug>() {
            for (at, member) in N::ALL.iter().enumerate() {
                assert_eq!(member.number(), at, "{member:?}");
            }
        }
        check::<Ended>();
        check::<Settled>();
        check::<Cause>();
    }
}
