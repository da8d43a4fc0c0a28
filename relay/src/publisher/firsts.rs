//! Where the broker knows a producer, and where it does not yet.
//!
//! A broker that has nothing of a producer at a partition takes any sequence number of it there (Kafka's
//! `ProducerAppendInfo.checkSequence`). Were the first request refused while a second is on its way, the second would be
//! taken: a later event of a key before an earlier one, by a producer that is idempotent and gapless. So a
//! producer's first record goes to a partition alone, and more when it is acknowledged (R17). The same again after a rest:
//! brokers forget producers that rest (`producer.id.expiration.ms`, a day by default).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Rest after which a partition's broker may have forgotten the producer. Far below what anybody configures; it costs
/// the second record behind the rest the acknowledgement of the first.
const REST: Duration = Duration::from_secs(60);

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Nothing of this producer is there.
    Unknown,
    /// One record left for there then, and nobody has asked yet what became of it.
    Asked(Instant),
    /// The broker has acknowledged something; the newest record left then.
    Known(Instant),
}

/// Which partitions have acknowledged something of one producer.
#[derive(Debug, Default)]
pub struct Firsts {
    topics: Vec<(String, Vec<Mark>)>,
    places: HashMap<String, usize>,
    /// The topic that was asked for last: most streams have one.
    last: usize,
    /// Some may be [asked](Mark::Asked).
    asked: bool,
}

impl Firsts {
    /// Whether a record may go to the partition now, which it then does. If not, it may when all that is in flight is
    /// [acknowledged](Firsts::all_taken).
    pub fn may_go(&mut self, topic: &str, partition: i32, now: Instant) -> bool {
        let mark = self.mark(topic, partition);
        *mark = match *mark {
            Mark::Asked(_) => return false,
            Mark::Known(last) if now.saturating_duration_since(last) < REST => Mark::Known(now),
            Mark::Known(_) | Mark::Unknown => Mark::Asked(now),
        };
        let asked = matches!(mark, Mark::Asked(_));
        self.asked |= asked;
        true
    }

    /// Everything that went out is acknowledged, and nothing was refused.
    pub fn all_taken(&mut self) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        for mark in self.topics.iter_mut().flat_map(|(_, marks)| marks) {
            // Known since it left, not since somebody asked: it may have rested since.
            if let Mark::Asked(left) = *mark {
                *mark = Mark::Known(left);
            }
        }
    }

    /// The record that was about to go to the partition did not.
    pub fn unsent(&mut self, topic: &str, partition: i32) {
        let mark = self.mark(topic, partition);
        if matches!(mark, Mark::Asked(_)) {
            *mark = Mark::Unknown;
        }
    }

    /// From now on another producer is used.
    pub fn forget(&mut self) {
        *self = Firsts::default();
    }

    fn mark(&mut self, topic: &str, partition: i32) -> &mut Mark {
        if self.topics.get(self.last).is_none_or(|(last, _)| last != topic) {
            self.last = self.places.get(topic).copied().unwrap_or(self.topics.len());
        }
        if self.last == self.topics.len() {
            self.places.insert(topic.to_owned(), self.last);
            self.topics.push((topic.to_owned(), Vec::new()));
        }
        let marks = &mut self.topics[self.last].1;
        let partition = usize::try_from(partition).unwrap_or_default();
        if partition >= marks.len() {
            marks.resize(partition + 1, Mark::Unknown);
        }
        &mut marks[partition]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_goes_to_each_partition_until_all_are_acknowledged() {
        let (mut firsts, now) = (Firsts::default(), Instant::now());
        assert!(firsts.may_go("a", 0, now) && firsts.may_go("a", 2, now) && firsts.may_go("b", 0, now));
        assert!(!firsts.may_go("a", 0, now) && !firsts.may_go("b", 0, now) && !firsts.may_go("a", 2, now));
        firsts.all_taken();
        for _ in 0..3 {
            assert!(firsts.may_go("a", 0, now) && firsts.may_go("b", 0, now) && firsts.may_go("a", 2, now));
        }
        assert!(firsts.may_go("a", 1, now) && !firsts.may_go("a", 1, now), "a partition of its own");
        assert!(firsts.may_go("a", 0, now), "and nobody else waits");
    }

    #[test]
    fn what_did_not_leave_is_no_first() {
        let (mut firsts, now) = (Firsts::default(), Instant::now());
        assert!(firsts.may_go("a", 0, now));
        firsts.unsent("a", 0);
        firsts.all_taken();
        assert!(firsts.may_go("a", 0, now) && !firsts.may_go("a", 0, now), "the next one is");
        firsts.all_taken();
        firsts.unsent("a", 0);
        assert!(firsts.may_go("a", 0, now) && firsts.may_go("a", 0, now), "what is known stays known");
    }

    #[test]
    fn another_producer_and_one_that_rested_begin_anew() {
        let (mut firsts, now) = (Firsts::default(), Instant::now());
        assert!(firsts.may_go("a", 0, now));
        firsts.all_taken();
        let busy = now + REST / 2;
        assert!(firsts.may_go("a", 0, busy) && firsts.may_go("a", 0, busy + REST / 2));
        let rested = busy + REST / 2 + REST;
        assert!(firsts.may_go("a", 0, rested) && !firsts.may_go("a", 0, rested));
        firsts.all_taken();
        assert!(firsts.may_go("a", 0, rested));
        let again = rested + REST;
        assert!(firsts.may_go("a", 0, again), "a single record");
        let later = again + REST;
        assert!(!firsts.may_go("a", 0, later), "of which nobody has asked since");
        firsts.all_taken();
        assert!(firsts.may_go("a", 0, later) && !firsts.may_go("a", 0, later), "is known, and has rested");
        firsts.forget();
        assert!(firsts.may_go("a", 0, rested) && !firsts.may_go("a", 0, rested));
    }
}
