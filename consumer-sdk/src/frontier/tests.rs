//! The frontier against a naive model, by random schedules.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// A frontier with the words of its rules and nothing clever: it keeps every record and looks at all.
struct Model {
    start: i64,
    next: i64,
    /// Offset to settled.
    records: BTreeMap<i64, bool>,
    inherited: Completed,
}

impl Model {
    fn committable(&self) -> i64 {
        let lowest = self.records.iter().find(|(_, settled)| !**settled);
        lowest.map_or_else(
            || (self.next..).find(|offset| !self.inherited.contains(*offset)).unwrap(),
            |(offset, _)| *offset,
        )
    }
    fn settle(&mut self, offset: i64) -> Result<(), NotOpen> {
        let committable = self.committable();
        match self.records.get_mut(&offset) {
            Some(settled) if !*settled => *settled = true,
            Some(_) => return Err(NotOpen::AlreadySettled(offset)),
            None if offset >= self.start && offset < committable => {
                return Err(NotOpen::AlreadySettled(offset));
            }
            None => return Err(NotOpen::NeverBegun(offset)),
        }
        Ok(())
    }
    /// Whether the next owner may skip the offset, if a record is there at all.
    fn skippable(&self, offset: i64) -> bool {
        let inherited = offset >= self.next && self.inherited.contains(offset);
        inherited || self.records.get(&offset) == Some(&true)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { gap: i64 },
    BeginBack { by: i64 },
    Settle { which: usize },
    SettleAnything { offset: i64 },
    Reader { beyond: i64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![4 => Just(0), 1 => 0..4i64, 1 => Just(1_000)].prop_map(|gap| Step::Begin { gap }),
        1 => (1..5i64).prop_map(|by| Step::BeginBack { by }),
        8 => any::<usize>().prop_map(|which| Step::Settle { which }),
        2 => (-5..60i64).prop_map(|offset| Step::SettleAnything { offset }),
        1 => (-3..9i64).prop_map(|beyond| Step::Reader { beyond }),
        1 => Just(Step::Restart),
    ]
}

struct Pair {
    frontier: Frontier,
    model: Model,
    /// Where records of the log are, as far as it was ever read.
    log: Vec<i64>,
    open: Vec<i64>,
}

impl Pair {
    fn new(start: i64) -> Pair {
        let model = Model { start, next: start, records: BTreeMap::new(), inherited: Completed::NONE };
        Pair { frontier: Frontier::new(start), model, log: Vec::new(), open: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Begin { gap } => self.begin(gap),
            Step::BeginBack { by } => {
                let next = self.model.next;
                assert_eq!(self.frontier.begin(next - by), Err(OutOfOrder { offset: next - by, next }));
            }
            Step::Settle { which } if !self.open.is_empty() => {
                let offset = self.open.swap_remove(which % self.open.len());
                assert_eq!(self.model.settle(offset), Ok(()));
                assert_eq!(self.frontier.settle(offset), Ok(()));
            }
            Step::Settle { .. } => {}
            Step::SettleAnything { offset } => {
                let offset = self.model.start + offset;
                let settled = self.model.settle(offset);
                assert_eq!(self.frontier.settle(offset), settled);
                if settled.is_ok() {
                    self.open.retain(|o| *o != offset);
                }
            }
            Step::Reader { beyond } => {
                // The reader passes no record that it has not delivered.
                let unread = self.log.iter().copied().find(|o| *o >= self.model.next);
                let position = (self.model.next + beyond).min(unread.unwrap_or(i64::MAX));
                self.frontier.end_of_gap(position);
                self.model.next = self.model.next.max(position);
            }
            Step::Restart => self.restart(),
        }
        self.compare();
    }

    fn begin(&mut self, gap: i64) {
        let unread = self.log.iter().copied().find(|o| *o >= self.model.next);
        let offset = unread.unwrap_or(self.model.next + gap);
        if unread.is_none() {
            self.log.push(offset);
        }
        let settled = self.model.skippable(offset);
        let begun = self.frontier.begin(offset).unwrap();
        assert_eq!(begun, if settled { Begun::AlreadySettled } else { Begun::New });
        self.model.records.insert(offset, settled);
        self.model.next = offset + 1;
        if !settled {
            self.open.push(offset);
        }
    }

    fn restart(&mut self) {
        let (start, completed) = (self.frontier.committable(), self.frontier.completed_beyond());
        // Nothing that the former owner settled may come as new, nothing else may be skipped.
        for offset in self.log.iter().copied().filter(|o| *o >= start) {
            assert_eq!(completed.contains(offset), self.model.skippable(offset), "offset {offset}");
        }
        self.frontier = Frontier::restore(start, &completed);
        self.model = Model { start, next: start, records: BTreeMap::new(), inherited: completed };
        self.open.clear();
    }

    fn compare(&self) {
        assert_eq!(self.frontier.committable(), self.model.committable());
        assert_eq!(self.frontier.open(), self.open.len());
        assert_eq!(self.frontier.oldest_open(), self.open.iter().copied().min());
        assert!(self.frontier.span() == 0 || self.frontier.open() > 0, "what is settled is given back");
        let completed = self.frontier.completed_beyond();
        assert!(completed.ranges().iter().all(|r| r.start > self.frontier.committable() && !r.is_empty()));
        assert!(completed.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn agrees_with_the_model(start in 0..50i64, steps in prop::collection::vec(step(), 0..200)) {
        let mut pair = Pair::new(start);
        for step in steps {
            pair.take(step);
        }
        for _ in 0..pair.open.len() {
            pair.take(Step::Settle { which: 0 });
        }
        prop_assert_eq!(pair.frontier.open(), 0);
    }

    #[test]
    fn any_ranges_and_offsets_are_survived(
        start in any::<i64>(),
        ranges in prop::collection::vec((any::<i64>(), any::<i64>()), 0..8),
        offsets in prop::collection::vec(any::<i64>(), 0..20),
    ) {
        let mut completed = Completed::NONE;
        for (from, to) in ranges {
            completed.push(from..to);
        }
        let mut frontier = Frontier::restore(start, &completed);
        let mut committable = frontier.committable();
        for offset in offsets {
            let _ = frontier.begin(offset);
            let _ = frontier.settle(offset.wrapping_add(1));
            let _ = frontier.settle(offset);
            frontier.end_of_gap(offset / 2);
            prop_assert!(frontier.committable() >= committable);
            committable = frontier.committable();
            let _ = frontier.completed_beyond();
        }
    }
}

#[test]
fn a_settled_later_record_waits_for_the_earlier_one() {
    let mut frontier = Frontier::new(10);
    for offset in [10, 12, 15] {
        assert_eq!(frontier.begin(offset), Ok(Begun::New));
    }
    frontier.settle(15).unwrap();
    assert_eq!(frontier.committable(), 10);
    assert_eq!(frontier.completed_beyond().ranges().first(), Some(&(15..16)));
    frontier.settle(10).unwrap();
    assert_eq!(frontier.committable(), 12, "a gap is passed with the record before it");
    assert_eq!(frontier.settle(10), Err(NotOpen::AlreadySettled(10)));
    assert_eq!(frontier.settle(13), Err(NotOpen::NeverBegun(13)));
    assert_eq!(frontier.settle(9), Err(NotOpen::NeverBegun(9)));
    frontier.settle(12).unwrap();
    assert_eq!(frontier.committable(), 16);
    frontier.end_of_gap(20);
    assert_eq!(frontier.committable(), 20, "an idle partition is committed past its markers");
}

#[test]
#[ignore = "prints a measure"]
fn nanoseconds_of_a_record() {
    const RECORDS: i64 = 5_000_000;
    for (name, every, window) in
        [("dense", i64::MAX, 1_000), ("marker each 10", 10, 1_000), ("sparse", 2, 100_000)]
    {
        let mut frontier = Frontier::new(0);
        let offsets: Vec<i64> = (0..RECORDS).map(|n| n + n / every).collect();
        let start = Instant::now();
        for (n, offset) in offsets.iter().enumerate() {
            let _ = frontier.begin(*offset);
            // Settled out of order, in blocks that come from the back.
            if n % window == window - 1 {
                for offset in offsets[n + 1 - window..=n].iter().rev() {
                    frontier.settle(*offset).unwrap();
                }
            }
        }
        let each = start.elapsed().as_nanos() as f64 / RECORDS as f64;
        println!("frontier, {name}: {each:.1} ns for begin and settle");
    }
}
