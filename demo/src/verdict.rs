//! The judge: what was committed against what is on the log and what came of it. Pure, so that each fault it has
//! to find can be put before it.

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

/// One effect of the consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The id of the event it is of.
    pub event: Uuid,
    /// The order that the consumer took the event for.
    pub order: String,
    /// The version that it took from the event.
    pub number: i64,
    /// The newest version of the order that its transaction saw among the effects; 0 for none.
    pub seen: i64,
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
    /// Distinct events with an effect.
    pub effects: usize,
    /// Committed, and without effect.
    pub missing: usize,
    /// Effects beyond the first of their event.
    pub doubled: usize,
    /// First effects that stand behind one of a later event of their order, did not see the one before them, or
    /// are of another order or version than their event.
    pub effects_reordered: usize,
}

/// Compares the table with the log and with the effects. `published` has the records of each partition by offset;
/// how the partitions are interleaved does not matter. `effects` stand as they were written.
pub fn judge(committed: &[Committed], published: &[Published], effects: &[Effect]) -> Verdict {
    let events: Events<'_> = committed.iter().map(|event| (event.id, event)).collect();
    judge_effects(&events, effects, judge_log(&events, published))
}

type Events<'a> = HashMap<Uuid, &'a Committed>;

fn judge_log(events: &Events<'_>, published: &[Published]) -> Verdict {
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
        effects: 0,
        missing: 0,
        doubled: 0,
        effects_reordered: 0,
    }
}

fn judge_effects(events: &Events<'_>, effects: &[Effect], log: Verdict) -> Verdict {
    let mut seen = HashSet::with_capacity(events.len());
    let mut newest: HashMap<&str, i64> = HashMap::new();
    let mut effects_reordered = 0;
    for effect in effects.iter().filter(|effect| seen.insert(effect.event)) {
        // One of an event that was never committed makes more effects than events.
        let Some(event) = events.get(&effect.event) else { continue };
        let newest = newest.entry(event.order.as_str()).or_default();
        let is_its = effect.order == event.order && effect.number == event.version;
        // What a transaction could not see was not committed when it ran.
        let in_order = event.version > *newest && effect.seen == *newest;
        effects_reordered += usize::from(!(is_its && in_order));
        *newest = event.version.max(*newest);
    }
    Verdict {
        effects: seen.len(),
        missing: events.keys().filter(|id| !seen.contains(*id)).count(),
        doubled: effects.len() - seen.len(),
        effects_reordered,
        ..log
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
        let log = self.lost == 0 && self.reordered == 0 && self.phantoms == 0;
        let effects = self.missing == 0 && self.doubled == 0 && self.effects_reordered == 0;
        self.committed > 0 && log && effects && self.effects == self.committed
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { committed, published, repeated, lost, reordered, phantoms, .. } = self;
        let Verdict { effects, missing, doubled, effects_reordered, .. } = self;
        write!(
            f,
            "committed={committed} published={published} repeated={repeated} lost={lost} \
             reordered={reordered} phantoms={phantoms} effects={effects} missing={missing} \
             doubled={doubled} effects_reordered={effects_reordered}"
        )
    }
}

#[cfg(test)]
pub mod tests {
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

    fn effect(event: u128, order: &str, number: i64, seen: i64) -> Effect {
        Effect { event: Uuid::from_u128(event), order: order.into(), number, seen }
    }

    fn effects() -> Vec<Effect> {
        vec![
            effect(1, "a", 1, 0),
            effect(11, "b", 1, 0),
            effect(2, "a", 2, 1),
            effect(3, "a", 3, 2),
            effect(12, "b", 2, 1),
        ]
    }

    pub const CLEAN: Verdict = Verdict {
        committed: 5,
        published: 5,
        repeated: 0,
        lost: 0,
        reordered: 0,
        phantoms: 0,
        effects: 5,
        missing: 0,
        doubled: 0,
        effects_reordered: 0,
    };

    #[test]
    fn a_clean_run_holds() {
        assert_eq!(judge(&table(), &log(), &effects()), CLEAN);
        assert!(CLEAN.holds());
    }

    #[test]
    fn a_suffix_that_comes_again_is_repeated_and_still_holds() {
        let mut log = log();
        log.extend([record(2, "a", 0), record(3, "a", 0), record(12, "b", 1)]);
        let verdict = judge(&table(), &log, &effects());
        assert_eq!(verdict, Verdict { repeated: 3, ..CLEAN });
        assert!(verdict.holds());
    }

    #[test]
    fn what_is_not_on_the_log_is_lost() {
        let mut log = log();
        log.retain(|record| record.id != Uuid::from_u128(2));
        let verdict = judge(&table(), &log, &effects());
        assert_eq!(verdict, Verdict { published: 4, lost: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn what_was_rolled_back_is_a_phantom() {
        let mut log = log();
        log.extend([record(99, "a", 0), record(99, "a", 0)]);
        let verdict = judge(&table(), &log, &effects());
        assert_eq!(verdict, Verdict { published: 6, repeated: 1, phantoms: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn a_first_occurrence_out_of_commit_order_is_reordered() {
        let mut log = log();
        log.swap(2, 4);
        let verdict = judge(&table(), &log, &effects());
        assert_eq!(verdict, Verdict { reordered: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn a_late_first_occurrence_is_found_among_repetitions() {
        let mut log = log();
        log.retain(|record| record.id != Uuid::from_u128(1));
        log.extend([record(1, "a", 0), record(2, "a", 0), record(3, "a", 0)]);
        assert_eq!(judge(&table(), &log, &effects()), Verdict { repeated: 2, reordered: 1, ..CLEAN });
    }

    #[test]
    fn a_key_in_two_partitions_has_no_order() {
        let mut log = log();
        log[2].partition = 5;
        assert_eq!(judge(&table(), &log, &effects()), Verdict { reordered: 1, ..CLEAN });
    }

    #[test]
    fn an_event_under_the_key_of_another_has_no_order() {
        let mut log = log();
        log[4].key = "b".into();
        assert_eq!(judge(&table(), &log, &effects()), Verdict { reordered: 1, ..CLEAN });
    }

    #[test]
    fn an_event_without_effect_is_missing() {
        let mut effects = effects();
        effects.remove(2);
        // The consumer wrote what it saw.
        effects[2].seen = 1;
        let verdict = judge(&table(), &log(), &effects);
        assert_eq!(verdict, Verdict { effects: 4, missing: 1, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn a_second_effect_of_an_event_is_doubled_wherever_it_stands() {
        for place in [1, 5] {
            let mut effects = effects();
            effects.insert(place, effect(1, "a", 1, if place == 1 { 1 } else { 3 }));
            let verdict = judge(&table(), &log(), &effects);
            assert_eq!(verdict, Verdict { doubled: 1, ..CLEAN });
            assert!(!verdict.holds());
        }
    }

    #[test]
    fn a_consumer_that_drops_every_fiftieth_and_doubles_one_fails() {
        let table: Vec<_> = (1..=200).map(|n| event(n, "a", n as i64)).collect();
        let log: Vec<_> = (1..=200).map(|n| record(n, "a", 0)).collect();
        let mut effects = Vec::new();
        for n in (1..=200).filter(|n| n % 50 != 0) {
            let seen = effects.last().map_or(0, |before: &Effect| before.number);
            effects.push(effect(n, "a", n as i64, seen));
        }
        effects.push(effect(7, "a", 7, 199));
        let verdict = judge(&table, &log, &effects);
        assert_eq!((verdict.effects, verdict.missing, verdict.doubled), (196, 4, 1));
        assert_eq!((verdict.effects_reordered, verdict.holds()), (0, false));
    }

    #[test]
    fn effects_out_of_commit_order_are_reordered() {
        let mut swapped = effects();
        swapped.swap(2, 3);
        let verdict = judge(&table(), &log(), &swapped);
        // The one that came too early did not see the other, and the other came behind it.
        assert_eq!(verdict, Verdict { effects_reordered: 2, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn an_effect_that_did_not_see_the_one_before_it_ran_beside_it() {
        let mut effects = effects();
        effects[3].seen = 1;
        assert_eq!(judge(&table(), &log(), &effects), Verdict { effects_reordered: 1, ..CLEAN });
    }

    #[test]
    fn an_effect_of_another_order_or_version_is_not_the_events() {
        for (order, number) in [("b", 3), ("a", 4)] {
            let mut effects = effects();
            effects[3] = effect(3, order, number, 2);
            assert_eq!(judge(&table(), &log(), &effects), Verdict { effects_reordered: 1, ..CLEAN });
        }
    }

    #[test]
    fn an_effect_of_what_was_rolled_back_is_one_too_many() {
        let mut effects = effects();
        effects.push(effect(99, "a", 4, 3));
        let verdict = judge(&table(), &log(), &effects);
        assert_eq!(verdict, Verdict { effects: 6, ..CLEAN });
        assert!(!verdict.holds());
    }

    #[test]
    fn nothing_committed_shows_nothing() {
        assert!(!judge(&[], &[], &[]).holds());
    }

    #[test]
    fn the_line_has_the_fields_in_order() {
        let line = "committed=5 published=5 repeated=0 lost=0 reordered=0 phantoms=0 \
                    effects=5 missing=0 doubled=0 effects_reordered=0";
        assert_eq!(CLEAN.to_string(), line);
    }
}
