//! What a topic takes: how large a record, and how old. A record that is older than the retention of its
//! topic is accepted and deleted at once, so the relay itself has to notice it (R41).

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;

/// How a topic is set up, as far as the relay looks; `None` is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// `max.message.bytes`: the largest batch, as it is compressed.
    pub max_message_bytes: Option<usize>,
    /// `retention.ms`; -1 is for ever.
    pub retention_ms: Option<i64>,
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
    /// `message.timestamp.type`.
    pub timestamp_type: Option<String>,
    /// How much older than now a record's time may be, if that is limited.
    pub before_max_ms: Option<i64>,
    /// How far ahead of now a record's time may be, if that is limited.
    pub after_max_ms: Option<i64>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<u32>,
}

/// Names of the limits, as the sentences say them.
const RETENTION: &str = "retention.ms";
const BEFORE: &str = "message.timestamp.before.max.ms";
const AFTER: &str = "message.timestamp.after.max.ms";
/// Both of them before Kafka 3.6.
const DIFFERENCE: &str = "message.timestamp.difference.max.ms";

impl Facts {
    /// Reads them from a topic's configuration.
    pub fn read(value: impl Fn(&str) -> Option<String>) -> Facts {
        let number = |name: &str| value(name)?.parse::<i64>().ok();
        // The largest number of Java means no limit.
        let span = |name: &str| number(name).filter(|span| (0..i64::MAX).contains(span));
        let least = |one: Option<i64>, other: Option<i64>| one.into_iter().chain(other).min();
        Facts {
            max_message_bytes: number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok()),
            retention_ms: number(RETENTION),
            cleanup_policy: value("cleanup.policy"),
            timestamp_type: value("message.timestamp.type"),
            before_max_ms: least(span(BEFORE), span(DIFFERENCE)),
            after_max_ms: least(span(AFTER), span(DIFFERENCE)),
            min_insync_replicas: number("min.insync.replicas").and_then(|count| u32::try_from(count).ok()),
        }
    }

    /// The age above which a record is deleted or refused, and the name of what says so.
    fn oldest(&self) -> Option<(i64, &'static str)> {
        if self.takes_its_own_time() {
            return None;
        }
        let deletes = self.cleanup_policy.as_deref().is_none_or(|policy| policy.contains("delete"));
        let retention = self.retention_ms.filter(|span| deletes && *span >= 0).map(|span| (span, RETENTION));
        retention.into_iter().chain(self.before_max_ms.map(|span| (span, BEFORE))).min()
    }

    fn newest(&self) -> Option<i64> {
        self.after_max_ms.filter(|_| !self.takes_its_own_time())
    }

    /// Whether the broker gives records the time at which it appends them.
    fn takes_its_own_time(&self) -> bool {
        self.timestamp_type.as_deref() == Some("LogAppendTime")
    }
}

/// Why a record's time is not the topic's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutOfTime {
    /// It is older than the topic keeps or takes; all in milliseconds.
    TooOld {
        /// Age of the record.
        age: i64,
        /// The limit.
        limit: i64,
        /// The limit's name.
        name: &'static str,
    },
    /// It is further ahead of this machine's clock than the topic takes; in milliseconds.
    TooNew {
        /// How far ahead the record is.
        ahead: i64,
        /// The limit.
        limit: i64,
    },
}

/// What a topic in use takes. Looked at for each record, so two loads and no clock; the bounds follow the
/// clock at each look at the cluster, and a record beyond them is judged by the clock itself.
#[derive(Debug)]
pub struct Limits {
    facts: Mutex<Facts>,
    /// Unix milliseconds; no record before is taken.
    oldest: AtomicI64,
    /// Unix milliseconds; no record after is taken without a look at the clock.
    newest: AtomicI64,
    /// 0 is not known.
    max_message_bytes: AtomicUsize,
}

impl Limits {
    /// The limits that these facts mean.
    pub fn new(facts: Facts, now: i64) -> Limits {
        let limits = Limits {
            facts: Mutex::default(),
            oldest: AtomicI64::new(i64::MIN),
            newest: AtomicI64::new(i64::MAX),
            max_message_bytes: AtomicUsize::new(0),
        };
        limits.learn(facts, now);
        limits
    }

    /// Takes newer facts.
    pub fn learn(&self, facts: Facts, now: i64) {
        self.max_message_bytes.store(facts.max_message_bytes.unwrap_or(0), Relaxed);
        *self.facts.lock() = facts;
        self.follow(now);
    }

    /// Moves the bounds to where they are now, in Unix milliseconds.
    pub fn follow(&self, now: i64) {
        let facts = self.facts.lock();
        let oldest = facts.oldest().map_or(i64::MIN, |(span, _)| now.saturating_sub(span));
        let newest = facts.newest().map_or(i64::MAX, |span| now.saturating_add(span));
        self.oldest.store(oldest, Relaxed);
        self.newest.store(newest, Relaxed);
    }

    /// Whether a record of this time, Unix milliseconds, is surely taken.
    pub fn takes(&self, time: i64) -> bool {
        self.oldest.load(Relaxed) <= time && time <= self.newest.load(Relaxed)
    }

    /// Judges a record's time by the clock.
    ///
    /// # Errors
    /// The topic would delete the record at once, or refuse it.
    pub fn judge(&self, time: i64, now: i64) -> Result<(), OutOfTime> {
        self.follow(now);
        let facts = self.facts.lock();
        let age = now.saturating_sub(time);
        if let Some((limit, name)) = facts.oldest().filter(|(limit, _)| age > *limit) {
            return Err(OutOfTime::TooOld { age, limit, name });
        }
        let ahead = time.saturating_sub(now);
        match facts.newest().filter(|limit| ahead > *limit) {
            Some(limit) => Err(OutOfTime::TooNew { ahead, limit }),
            None => Ok(()),
        }
    }

    /// The largest batch that the topic takes, where it is known.
    pub fn max_message_bytes(&self) -> Option<usize> {
        Some(self.max_message_bytes.load(Relaxed)).filter(|bytes| *bytes > 0)
    }
}

/// Milliseconds for people: `7d 3h`, `250ms`.
pub fn in_words(millis: i64) -> String {
    let (unit, size) = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)].into_iter().fold(
        ("ms", 1),
        |found, (unit, size)| if found.1 == 1 && millis >= size { (unit, size) } else { found },
    );
    let smaller = match unit {
        "d" => Some(("h", 3_600_000)),
        "h" => Some(("min", 60_000)),
        "min" => Some(("s", 1000)),
        _ => None,
    };
    let rest = smaller.map(|(unit, smaller)| (millis % size / smaller, unit)).filter(|(count, _)| *count > 0);
    match rest {
        Some((count, small)) => format!("{} {unit} {count} {small}", millis / size),
        None => format!("{} {unit}", millis / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn facts(options: &[(&str, &str)]) -> Facts {
        let options: Vec<_> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Facts::read(|name| options.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn a_topic_that_deletes_by_time_takes_nothing_older() {
        let week = [
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "1000"),
            ("message.timestamp.type", "CreateTime"),
        ];
        let limits = Limits::new(facts(&week), NOW);
        assert!(limits.takes(NOW) && limits.takes(NOW - 1000) && !limits.takes(NOW - 1001));
        assert_eq!(limits.judge(NOW - 1000, NOW), Ok(()));
        let old = OutOfTime::TooOld { age: 1001, limit: 1000, name: RETENTION };
        assert_eq!(limits.judge(NOW - 1001, NOW), Err(old));
        // The bounds go with the clock.
        assert!(limits.takes(NOW - 500));
        limits.follow(NOW + 600);
        assert!(!limits.takes(NOW - 500));
    }

    #[test]
    fn what_deletes_nothing_by_record_time_takes_every_age() {
        for options in [
            vec![("retention.ms", "-1"), ("cleanup.policy", "delete")],
            vec![("retention.ms", "5"), ("cleanup.policy", "compact")],
            vec![
                ("retention.ms", "5"),
                ("cleanup.policy", "delete"),
                ("message.timestamp.type", "LogAppendTime"),
                (BEFORE, "5"),
                (AFTER, "5"),
            ],
            vec![(BEFORE, "9223372036854775807"), (AFTER, "9223372036854775807")],
            vec![],
        ] {
            let limits = Limits::new(facts(&options), NOW);
            assert!(limits.takes(0) && limits.takes(NOW * 2), "{options:?}");
            assert_eq!(limits.judge(0, NOW), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn what_the_broker_would_refuse_by_time_is_said() {
        let limits = Limits::new(facts(&[(BEFORE, "100"), (AFTER, "50"), ("retention.ms", "1000")]), NOW);
        let old = OutOfTime::TooOld { age: 101, limit: 100, name: BEFORE };
        assert_eq!(limits.judge(NOW - 101, NOW), Err(old));
        assert_eq!(limits.judge(NOW + 51, NOW), Err(OutOfTime::TooNew { ahead: 51, limit: 50 }));
        // Bounds of an hour ago must not refuse what is taken now.
        assert!(!limits.takes(NOW + 3_600_000));
        assert_eq!(limits.judge(NOW + 3_600_000, NOW + 3_600_000), Ok(()));
        assert!(limits.takes(NOW + 3_600_000));
    }

    #[test]
    fn older_brokers_have_one_name_for_both() {
        let both = facts(&[(DIFFERENCE, "7"), ("max.message.bytes", "2000"), ("min.insync.replicas", "2")]);
        assert_eq!((both.before_max_ms, both.after_max_ms), (Some(7), Some(7)));
        assert_eq!((both.max_message_bytes, both.min_insync_replicas), (Some(2000), Some(2)));
        let stricter = facts(&[(DIFFERENCE, "9223372036854775807"), (AFTER, "3600000")]);
        assert_eq!((stricter.before_max_ms, stricter.after_max_ms), (None, Some(3_600_000)));
    }

    #[test]
    fn sizes_are_known_or_not() {
        assert_eq!(Limits::new(Facts::default(), NOW).max_message_bytes(), None);
        let limits = Limits::new(facts(&[("max.message.bytes", "2000")]), NOW);
        assert_eq!(limits.max_message_bytes(), Some(2000));
        limits.learn(facts(&[("max.message.bytes", "3000")]), NOW);
        assert_eq!(limits.max_message_bytes(), Some(3000));
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (millis, words) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h"),
            (604_800_000 + 7_200_000, "7 d 2 h"),
        ] {
            assert_eq!(in_words(millis), words);
        }
    }
}
