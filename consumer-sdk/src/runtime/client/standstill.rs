//! Partitions that the client says it reads, and does not.
//!
//! The client numbers the orders that it is given for a partition and throws away one that is overtaken by a newer one
//! on its way between two threads. What is lost so may be the order to begin to read: no error is told, the position
//! stands still, and resuming does not help (librdkafka 2.12, its issues 2190 and 5591). A partition whose log goes on
//! while its position does not is therefore given back and taken on again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::lane::Lane;

/// How long a position may stand still before its log's known end. Doubled with each time it did not help.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most doublings: 16 minutes.
const DOUBLED: u32 = 6;
/// Answers that are further apart than this are of a cluster that was away: everything begins anew.
const GAP: Duration = Duration::from_secs(12);

/// A partition that is to be read, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) lane: Lane,
    /// Where the reader is.
    pub(super) position: i64,
    /// Where the log ended, just now.
    pub(super) end: i64,
}

/// What was seen of each partition.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// The position, and since when it is behind the end and the same.
    seen: BTreeMap<Lane, (i64, Instant)>,
    /// How often a partition was found so without having moved between.
    found: BTreeMap<(u32, i32), u32>,
    looked_at: Option<Instant>,
    /// Positions beyond the end of the log.
    beyond: BTreeMap<Lane, i64>,
}

impl Standstill {
    /// Whether a position stands still beyond the end of its log: one that moves may just be newer than the end that is known.
    pub(super) fn is_beyond(&mut self, looks: &[Look]) -> bool {
        let beyond =
            looks.iter().filter(|look| look.position > look.end).map(|look| (look.lane, look.position));
        let before = std::mem::replace(&mut self.beyond, beyond.collect());
        self.beyond.iter().any(|(lane, position)| before.get(lane) == Some(position))
    }

    /// Takes in what is to be read at this moment; what is paused or leaves is not to be among it. Returns what has
    /// stood still for too long.
    pub(super) fn look(&mut self, now: Instant, looks: &[Look]) -> Vec<Lane> {
        if self.looked_at.replace(now).is_none_or(|before| now.duration_since(before) > GAP) {
            self.seen.clear();
        }
        let mut seen = BTreeMap::new();
        let mut still = Vec::new();
        for Look { lane, position, end } in looks.iter().copied() {
            let before = self.seen.get(&lane).copied();
            let moved = before.is_some_and(|(before, _)| before != position);
            if moved || position >= end {
                self.found.remove(&lane.place());
            }
            if position >= end {
                continue;
            }
            let since = before.filter(|_| !moved).map_or(now, |(_, since)| since);
            let found = self.found.get(&lane.place()).copied().unwrap_or(0);
            let too_long = now.duration_since(since) >= PATIENCE * 2_u32.pow(found.min(DOUBLED));
            if too_long {
                self.found.insert(lane.place(), found + 1);
                still.push(lane);
            }
            seen.insert(lane, (position, if too_long { now } else { since }));
        }
        self.seen = seen;
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [usize; 0] = [];
    const LANE: Lane = Lane { topic: 0, partition: 3, epoch: 7 };

    /// Looks every five seconds at one partition; `positions` is where its reader is. Returns the looks that found it.
    fn found(standstill: &mut Standstill, begin: Instant, end: i64, positions: &[Option<i64>]) -> Vec<usize> {
        let looks = positions.iter().enumerate().filter(|(number, position)| {
            let looks: Vec<Look> =
                position.iter().map(|position| Look { lane: LANE, position: *position, end }).collect();
            !standstill.look(begin + Duration::from_secs(5) * *number as u32, &looks).is_empty()
        });
        looks.map(|(number, _)| number).collect()
    }

    #[test]
    fn a_position_that_stays_behind_the_end_is_found_and_then_more_rarely() {
        let found = found(&mut Standstill::default(), Instant::now(), 10, &[Some(5); 40]);
        assert_eq!(found, [3, 9, 21], "after 15 seconds, then 30, then 60");
    }

    #[test]
    fn one_that_moves_or_has_read_all_is_not() {
        let moving: Vec<Option<i64>> = (0..20).map(|number| Some(number / 2)).collect();
        assert_eq!(found(&mut Standstill::default(), Instant::now(), 100, &moving), NOTHING);
        assert_eq!(found(&mut Standstill::default(), Instant::now(), 5, &[Some(5); 20]), NOTHING);
    }

    #[test]
    fn a_position_that_stands_still_beyond_the_end_is_seen_at_the_second_look() {
        let mut standstill = Standstill::default();
        let mut is_beyond = |position, end| standstill.is_beyond(&[Look { lane: LANE, position, end }]);
        assert!(!is_beyond(10, 10) && !is_beyond(12, 11) && !is_beyond(14, 13), "it reads on");
        assert!(is_beyond(14, 13) && is_beyond(14, 13));
        assert!(!is_beyond(14, 14));
    }

    #[test]
    fn a_pause_begins_anew() {
        let looks = [Some(5), Some(5), Some(5), None, Some(5), Some(5), Some(5)];
        assert_eq!(found(&mut Standstill::default(), Instant::now(), 10, &looks), NOTHING);
    }

    #[test]
    fn a_cluster_that_was_away_begins_anew() {
        let (mut standstill, begin) = (Standstill::default(), Instant::now());
        assert_eq!(found(&mut standstill, begin, 10, &[Some(5); 3]), NOTHING);
        assert_eq!(found(&mut standstill, begin + Duration::from_secs(60), 10, &[Some(5); 3]), NOTHING);
    }

    #[test]
    fn after_progress_patience_is_short_again() {
        let (mut standstill, begin) = (Standstill::default(), Instant::now());
        let looks = [[Some(5); 4], [Some(6); 4], [Some(7); 4]].concat();
        assert_eq!(found(&mut standstill, begin, 10, &looks), [3, 7, 11]);
    }
}
