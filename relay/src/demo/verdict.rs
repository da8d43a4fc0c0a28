//! The judge: what was committed against what is on the log. Pure, so that each fault it has to find can
//! be put before it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// One event in PostgreSQL's outbox table, which holds what was committed and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The event's id.
    pub id: Uuid,
    /// The order it is about; the record's key.
    pub order: String,
    /// Counted by the order itself under its row lock, so commit order within the order.
    pub version: i64,
}

/// One record on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's id from the header; nil where no id can be read.
    pub id: Uuid,
    /// The record's key.
    pub key: String,
    /// Partition of the topic; between two of them there is no order.
    pub partition: i32,
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Distinct ids in the table.
    pub committed: usize,
    /// Distinct ids on the log.
    pub published: usize,
    /// Records beyond the first of their id.
    pub repeated: usize,
    /// Committed, and not on the log.
    pub lost: usize,
    /// First occurrences that stand behind a later event of their order, or where they have no order
    /// with the earlier ones: under another key or in another partition.
    pub reordered: usize,
    /// On the log, though never committed.
    pub phantoms: usize,
}

/// Compares the table with the log. `published` has the records of each partition by offset; how the
/// partitions are interleaved does not matter.
pub fn judge(committed: &[Committed], published: &[Published]) -> Verdict {
    let events: HashMap<Uuid, &Committed> = committed.iter().map(|event| (event.id, event)).collect();
    let mut seen = HashSet::with_capacity(events.len());
    let mut newest: HashMap<&str, Newest> = HashMap::new();
    let mut phantoms = 0;
    let mut reordered = 0;
    for record in published.iter().filter(|record| seen.insert(record.id)) {
        match events.get(&record.id) {
            None => phantoms += 1,
            Some(event) => reordered += usize::from(!in_order(event, record, &mut newest)),
        }
    }
    Verdict {
        committed: events.len(),
        published: seen.len(),
        repeated: published.len() - seen.len(),
        lost: events.keys().filter(|id| !seen.contains(*id)).count(),
        reordered,
        phantoms,
    }
}

/// The newest event of an order so far, and where its events are.
struct Newest {
    partition: i32,
    version: i64,
}

/// Whether the record is behind all earlier events of its order, where a consumer would see it so.
fn in_order<'a>(event: &'a Committed, record: &Published, newest: &mut HashMap<&'a str, Newest>) -> bool {
    if record.key != event.order {
        return false;
    }
    let Some(before) = newest.get_mut(event.order.as_str()) else {
        let first = Newest { partition: record.partition, version: event.version };
        newest.insert(&event.order, first);
        return true;
    };
    let behind = record.partition == before.partition && event.version > before.version;
    before.version = before.version.max(event.version);
    behind
}

impl Verdict {
    /// Whether the promise was kept. Where nothing was committed nothing was shown.
    pub fn holds(&self) -> bool {
        self.committed > 0 && self.lost == 0 && self.reordered == 0 && self.phantoms == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { committed, published, repeated, lost, reordered, phantoms } = self;
        write!(
            f,
            "committed={committed} published={published} repeated={repeated} lost={lost} \
             reordered={reordered} phantoms={phantoms}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u128, order: &str, version: i64) -> Committed {
        Committed { id: Uuid::from_u128(id), order: order.into(), version }
    }

    fn record(id: u128, key: &str, partition: i32) -> Published {
        Published { id: Uuid::from_u128(id), key: key.into(), partition }
    }

    /// Two orders: `a` with the events 1, 2, 3 on partition 0, `b` with 11, 12 on partition 1.
    fn table() -> Vec<Committed> {
        vec![event(1, "a", 1), event(2, "a", 2), event(3, "a", 3), event(11, "b", 1), event(12, "b", 2)]
    }

    fn log() -> Vec<Published> {
        vec![record(1, "a", 0), record(11, "b", 1), record(2, "a", 0), record(12, "b", 1), record(3, "a", 0)]
    }

    const CLEAN: Verdict =
        Verdict { committed: 5, published: 5, repeated: 0, lost: 0, reordered: 0, phantoms: 0 };

    #[test]
    fn a_clean_run_holds() {
        assert_eq!(judge(&table(), &log()), CLEAN);
        assert!(CLEAN.holds());
    }

    #[test]
    fn a_suffix_that_comes_again_is_repeated_and_still_holds() {
        let mut log = log();
        log.extend([record(2, "a", 0), record(3, "a", 0), record(12, "b", 1)]);
        let verdict = judge(&table(), &log);
        assert_eq!(verdict, Verdict { repeated: 3, ..CLEAN });
        assert!(verdict.holds());
    }

    #[test]
    fn what_is_not_on_the_log_is_lost() {
        let mut log = log();
        log.retain(|record| record.id != Uuid::from_u128(2));
        let verdict = judge(&table(), &log);
        assert_eq!(verdict, Verdict { published: 4, lost: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn what_was_rolled_back_is_a_phantom() {
        let mut log = log();
        log.extend([record(99, "a", 0), record(99, "a", 0)]);
        let verdict = judge(&table(), &log);
        assert_eq!(verdict, Verdict { published: 6, repeated: 1, phantoms: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn a_first_occurrence_out_of_commit_order_is_reordered() {
        let mut log = log();
        log.swap(2, 4);
        let verdict = judge(&table(), &log);
        assert_eq!(verdict, Verdict { reordered: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn a_late_first_occurrence_is_found_among_repetitions() {
        let mut log = log();
        log.retain(|record| record.id != Uuid::from_u128(1));
        log.extend([record(1, "a", 0), record(2, "a", 0), record(3, "a", 0)]);
        assert_eq!(judge(&table(), &log), Verdict { repeated: 2, reordered: 1, ..CLEAN });
    }

    #[test]
    fn a_key_in_two_partitions_has_no_order() {
        let mut log = log();
        log[2].partition = 5;
        assert_eq!(judge(&table(), &log), Verdict { reordered: 1, ..CLEAN });
    }

    #[test]
    fn an_event_under_the_key_of_another_has_no_order() {
        let mut log = log();
        log[4].key = "b".into();
        assert_eq!(judge(&table(), &log), Verdict { reordered: 1, ..CLEAN });
    }

    #[test]
    fn nothing_committed_shows_nothing() {
        assert!(!judge(&[], &[]).holds());
    }

    #[test]
    fn the_line_has_the_fields_in_order() {
        let line = "committed=5 published=5 repeated=0 lost=0 reordered=0 phantoms=0";
        assert_eq!(CLEAN.to_string(), line);
    }
}
