//! What the client's thread sees of each partition: what was read, and where the log ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{EngineLook, PartitionLook};
use super::marks::{Mark, Marks};
use super::status;

/// The partitions that were assigned at some time. Bounded by the partitions of the consumer's topics.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    seen: BTreeMap<(Arc<str>, i32), Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    assigned: bool,
    /// Counted since the process began, whoever had the partition between.
    records: u64,
    bytes: u64,
    restarts: u64,
    /// Unclean starts at the committed offset when it was assigned.
    starts: u16,
    marks: Marks,
    /// One past the last record that was read, in this assignment.
    read_up_to: i64,
    /// Where the log ended at the last look.
    end: Option<i64>,
    /// Since when it is known that the log has more than was read.
    unread_since: Option<Duration>,
}

/// How far behind a partition is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Behind {
    /// Records and gaps between the frontier and the log's end; `None` before the first look at it.
    records: Option<i64>,
    /// How old the record at the frontier is.
    seconds: Option<f64>,
    /// For how long the record at the frontier has been in hand; zero where none is.
    unsettled_for: Duration,
    /// Where the log ended.
    end: Option<i64>,
}

impl Partitions {
    /// The partition is read from `offset`, at which so many starts were unclean.
    pub(super) fn assigned(&mut self, topic: &Arc<str>, partition: i32, offset: i64, starts: u16) {
        let seen = self.seen.entry((topic.clone(), partition)).or_default();
        let (records, bytes, restarts) = (seen.records, seen.bytes, seen.restarts + u64::from(starts > 0));
        let read_up_to = offset;
        *seen = Partition {
            assigned: true,
            records,
            bytes,
            restarts,
            starts,
            read_up_to,
            ..Partition::default()
        };
    }

    /// It has left.
    pub(super) fn unassigned(&mut self, topic: &str, partition: i32) {
        // Looking one up by a borrowed name costs a walk; partitions leave rarely.
        let found = self.seen.iter_mut().find(|((name, number), _)| &**name == topic && *number == partition);
        if let Some((_, seen)) = found {
            (seen.assigned, seen.marks, seen.end, seen.unread_since) = (false, Marks::default(), None, None);
        }
    }

    /// Records of a partition were read, each with its bytes.
    pub(super) fn read(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        records: impl IntoIterator<Item = (Mark, usize)>,
    ) {
        let seen = self.seen.entry((topic.clone(), partition)).or_default();
        for (mark, bytes) in records {
            seen.records += 1;
            seen.bytes += bytes as u64;
            seen.marks.read(mark);
            seen.read_up_to = seen.read_up_to.max(mark.offset + 1);
        }
        if seen.end.is_some_and(|end| seen.read_up_to >= end) {
            seen.unread_since = None;
        }
    }

    /// The log ends at `end`.
    pub(super) fn ends(&mut self, topic: &str, partition: i32, end: i64, now: Duration) {
        let found = self.seen.iter_mut().find(|((name, number), _)| &**name == topic && *number == partition);
        if let Some((_, seen)) = found.filter(|(_, seen)| seen.assigned) {
            seen.end = Some(end);
            if end > seen.read_up_to {
                seen.unread_since.get_or_insert(now);
            } else {
                seen.unread_since = None;
            }
        }
    }

    /// What was counted, by partition.
    pub(super) fn counted(&self) -> Vec<status::Read> {
        let one = |((topic, partition), seen): (&(Arc<str>, i32), &Partition)| status::Read {
            topic: topic.to_string(),
            partition: *partition,
            records: seen.records,
            bytes: seen.bytes,
            restarts: seen.restarts,
        };
        self.seen.iter().map(one).collect()
    }

    /// The partitions that the engine has, in their order. `today` is the wall's clock in Unix milliseconds.
    pub(super) fn status(
        &mut self,
        engine: &EngineLook,
        now: Duration,
        today: i64,
    ) -> Vec<status::Partition> {
        let mut looks: Vec<&PartitionLook> = engine.partitions.iter().collect();
        looks.sort_by_key(|look| (&look.topic, look.partition));
        let one = |look: &PartitionLook| {
            let behind = self.behind(look, now, today);
            let seen = self.seen.get(&(look.topic.clone(), look.partition));
            status::Partition {
                topic: look.topic.to_string(),
                partition: look.partition,
                epoch: look.epoch,
                committed: look.committed,
                frontier: look.committable,
                end: behind.end,
                lag_records: behind.records,
                lag_seconds: behind.seconds,
                unsettled: look.unsettled,
                oldest_unsettled_seconds: behind.unsettled_for.as_secs_f64(),
                running: look.running,
                paused: look.paused,
                unclean_starts: seen.map_or(0, |seen| seen.starts),
            }
        };
        looks.into_iter().map(one).collect()
    }

    /// How far behind a partition is.
    fn behind(&mut self, look: &PartitionLook, now: Duration, today: i64) -> Behind {
        let nothing = Behind { records: None, seconds: None, unsettled_for: Duration::ZERO, end: None };
        let Some(seen) = self.seen.get_mut(&(look.topic.clone(), look.partition)) else { return nothing };
        seen.marks.passed(look.committable);
        // The end is some seconds old, and the frontier may have passed it.
        let records = seen.end.map(|end| (end - look.committable).max(0));
        let behind = Behind { records, end: seen.end, ..nothing };
        if look.unsettled > 0 {
            let Some(mark) = seen.marks.at(look.committable) else { return behind };
            let age = today.saturating_sub(mark.timestamp).max(0) as f64 / 1000.0;
            // A record without a time has no age but that of its reading.
            let unsettled_for = now.saturating_sub(mark.read);
            let seconds = if mark.timestamp > 0 { age } else { unsettled_for.as_secs_f64() };
            return Behind { seconds: Some(seconds), unsettled_for, ..behind };
        }
        // Nothing of it is in hand: what there is has not been read.
        let waits = |since: Duration| now.saturating_sub(since).as_secs_f64();
        let unread = seen.unread_since.filter(|_| records.is_some_and(|records| records > 0));
        Behind { seconds: records.map(|_| unread.map_or(0.0, waits)), ..behind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(topic: &Arc<str>, committable: i64, unsettled: usize) -> PartitionLook {
        let topic = topic.clone();
        PartitionLook { topic, partition: 0, committable, unsettled, ..PartitionLook::default() }
    }

    #[test]
    fn a_record_at_the_frontier_ages_although_others_settle_beyond_it() {
        let (topic, mut partitions) = (Arc::<str>::from("t"), Partitions::default());
        partitions.assigned(&topic, 0, 10, 0);
        let second = Duration::from_secs(1);
        for offset in 10..20 {
            let mark = Mark { offset, read: second * (offset as u32 - 10), timestamp: 1_000 * offset };
            partitions.read(&topic, 0, [(mark, 100)]);
        }
        assert_eq!(partitions.behind(&look(&topic, 10, 1), second * 60, 100_000).records, None);
        partitions.ends("t", 0, 25, second * 60);
        let behind = partitions.behind(&look(&topic, 10, 1), second * 60, 100_000);
        let expected =
            Behind { records: Some(15), seconds: Some(90.0), unsettled_for: second * 60, end: Some(25) };
        assert_eq!(behind, expected);
        let behind = partitions.behind(&look(&topic, 15, 5), second * 60, 100_000);
        assert_eq!((behind.records, behind.seconds), (Some(10), Some(85.0)));
        assert_eq!(behind.unsettled_for, second * 55);
        // All that was read is settled; five records wait to be read, and have been seen to wait since 60 s.
        let behind = partitions.behind(&look(&topic, 20, 0), second * 67, 100_000);
        assert_eq!(
            (behind.records, behind.seconds, behind.unsettled_for),
            (Some(5), Some(7.0), Duration::ZERO)
        );
        let behind = partitions.behind(&look(&topic, 25, 0), second * 67, 100_000);
        assert_eq!((behind.records, behind.seconds), (Some(0), Some(0.0)));
    }

    #[test]
    fn an_assignment_begins_anew_and_what_was_counted_stays() {
        let (topic, mut partitions) = (Arc::<str>::from("t"), Partitions::default());
        partitions.assigned(&topic, 0, 0, 2);
        partitions.read(&topic, 0, [(Mark { offset: 0, read: Duration::ZERO, timestamp: 5 }, 100)]);
        partitions.unassigned("t", 0);
        partitions.ends("t", 0, 9, Duration::ZERO);
        partitions.assigned(&topic, 0, 1, 0);
        let behind = partitions.behind(&look(&topic, 1, 1), Duration::from_secs(9), 9_000);
        assert_eq!((behind.records, behind.seconds), (None, None), "nothing of this assignment was seen");
        let [counted] = &partitions.counted()[..] else { panic!("one partition") };
        assert_eq!((counted.records, counted.bytes, counted.restarts), (1, 100, 1));
    }
}
