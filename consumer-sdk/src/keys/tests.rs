//! The scheduler against a naive model, by random schedules.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Topic, bytes, and a number that sets records without key apart.
type Name = (u32, Option<u8>, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    name: Name,
    lane: Lane,
    id: u32,
    bytes: usize,
}

/// A run that is out, as the model sees it.
#[derive(Debug, Clone)]
struct Out {
    name: Name,
    lane: Lane,
    records: Vec<Waiting>,
}

/// Which records run together.
fn class(id: u32) -> Option<u32> {
    (!id.is_multiple_of(7)).then_some(id % 2)
}

/// The rules and nothing clever: one list of all that waits, looked through from the front each time.
#[derive(Default)]
struct Model {
    waiting: Vec<Waiting>,
    ready: Vec<Name>,
    out: Vec<Out>,
    held: Vec<(Name, u32)>,
    revoked: BTreeSet<Lane>,
    isolated: bool,
}

impl Model {
    fn first(&self, name: Name) -> Option<Waiting> {
        self.waiting.iter().copied().find(|w| w.name == name)
    }

    fn push(&mut self, record: Waiting) -> bool {
        let gone = |r: &Lane| r.place() == record.lane.place() && record.lane.epoch <= r.epoch;
        if self.revoked.iter().any(gone) {
            return false;
        }
        let name = record.name;
        self.waiting.push(record);
        let busy = self.out.iter().any(|o| o.name == name) || self.held.iter().any(|h| h.0 == name);
        if !busy && !self.ready.contains(&name) {
            self.ready.push(name);
        }
        true
    }

    fn take(&mut self) -> Option<Out> {
        if self.ready.is_empty() || self.isolated && !self.out.is_empty() {
            return None;
        }
        let name = self.ready.remove(0);
        let record = self.first(name).unwrap();
        self.waiting.retain(|w| w.id != record.id);
        let out = Out { name, lane: record.lane, records: vec![record] };
        self.out.push(out.clone());
        Some(out)
    }

    fn take_group(&mut self, keys: usize, max: usize) -> Vec<Out> {
        let first = self.ready.first().and_then(|name| class(self.first(*name)?.id));
        let Some(out) = self.take() else { return Vec::new() };
        let mut names = vec![out.name];
        let Some(first) = first.filter(|_| !self.isolated) else { return vec![out] };
        let belongs = |record: Waiting| class(record.id) == Some(first);
        let mut passed = 0;
        while names.len() < keys.min(max) && passed < LOOK * keys.min(max) {
            let Some(name) = self.ready.get(passed).copied() else { break };
            if belongs(self.first(name).unwrap()) {
                self.ready.remove(passed);
                self.ready.insert(0, name);
                names.push(self.take().unwrap().name);
            } else {
                passed += 1;
            }
        }
        let mut room = max - names.len();
        let mut group = Vec::new();
        for name in names {
            let at = self.out.iter().position(|o| o.name == name).unwrap();
            let lane = self.out[at].lane;
            while let Some(next) = self.first(name).filter(|n| room > 0 && n.lane == lane && belongs(*n)) {
                self.waiting.retain(|w| w.id != next.id);
                self.out[at].records.push(next);
                room -= 1;
            }
            group.push(self.out[at].clone());
        }
        group
    }

    /// Ends the run; its last `rest` records are not done. Returns whether the key is held by `hold`.
    fn end(&mut self, at: usize, rest: usize, hold: Option<u32>) -> bool {
        let out = self.out.swap_remove(at);
        let from = out.records.len() - rest;
        let mut put = false;
        if !self.revoked.contains(&out.lane) {
            put = rest > 0;
            self.waiting.splice(0..0, out.records[from..].iter().copied());
        }
        match hold.filter(|_| put) {
            Some(hold) => self.held.push((out.name, hold)),
            None => self.go_on(out.name),
        }
        hold.is_some() && put
    }

    fn go_on(&mut self, name: Name) {
        if self.first(name).is_some() {
            self.ready.push(name);
        }
    }

    fn resume(&mut self, hold: u32) -> bool {
        let Some(at) = self.held.iter().position(|h| h.1 == hold) else { return false };
        let (name, _) = self.held.remove(at);
        self.go_on(name);
        true
    }

    fn revoke(&mut self, lane: Lane) -> Held {
        self.revoked.insert(lane);
        let (gone, kept): (Vec<Waiting>, Vec<Waiting>) = self.waiting.iter().partition(|w| w.lane == lane);
        let freed: Vec<Name> =
            self.held.iter().map(|h| h.0).filter(|n| self.first(*n).unwrap().lane == lane).collect();
        self.waiting = kept;
        self.held.retain(|h| !freed.contains(&h.0));
        let waiting: BTreeSet<Name> = self.waiting.iter().map(|w| w.name).collect();
        self.ready.retain(|name| waiting.contains(name));
        freed.into_iter().for_each(|name| self.go_on(name));
        sum(&gone)
    }

    fn all(&self) -> Vec<Waiting> {
        self.waiting.iter().chain(self.out.iter().flat_map(|o| &o.records)).copied().collect()
    }
}

fn sum(records: &[Waiting]) -> Held {
    Held { count: records.len(), bytes: records.iter().map(|w| w.bytes).sum() }
}

#[derive(Debug, Clone)]
enum Step {
    Push { topic: u32, partition: i32, key: Option<u8>, bytes: usize },
    PushRevoked,
    Take,
    Group(usize, usize),
    Finish(usize),
    PutBack(usize, usize),
    Hold(usize, usize),
    Resume(usize),
    Revoke(i32),
    Isolate(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::option::weighted(0.9, 0..5_u8);
    prop_oneof![
        12 => (0..2_u32, 0..3_i32, key(), 0..100_usize)
            .prop_map(|(topic, partition, key, bytes)| Step::Push { topic, partition, key, bytes }),
        1 => Just(Step::PushRevoked),
        4 => Just(Step::Take),
        2 => (0..8_usize, 1..8_usize).prop_map(|(keys, max)| Step::Group(keys, max)),
        4 => any::<usize>().prop_map(Step::Finish),
        2 => any::<(usize, usize)>().prop_map(|(which, rest)| Step::PutBack(which, rest)),
        2 => any::<(usize, usize)>().prop_map(|(which, rest)| Step::Hold(which, rest)),
        2 => any::<usize>().prop_map(Step::Resume),
        1 => (0..3_i32).prop_map(Step::Revoke),
        1 => prop::bool::weighted(0.3).prop_map(Step::Isolate),
    ]
}

#[derive(Default)]
struct Pair {
    keys: Keys<u32>,
    model: Model,
    runs: Vec<(Run<u32>, Name)>,
    holds: Vec<(HoldId, u32)>,
    /// Epochs of the partitions; both topics are assigned together.
    epochs: [u32; 3],
    ids: u32,
}

impl Pair {
    fn take(&mut self, step: Step) {
        match step {
            Step::Push { topic, partition, key, bytes } => {
                let epoch = self.epochs[partition as usize] + 1;
                assert!(self.push(Lane { topic, partition, epoch }, key, bytes));
            }
            Step::PushRevoked => {
                if let Some(lane) = self.model.revoked.first().copied() {
                    assert!(!self.push(lane, Some(0), 1));
                }
            }
            Step::Take => {
                let expected = self.model.take();
                let run = self.keys.take();
                assert_eq!(run.is_some(), expected.is_some());
                self.out(run, expected);
            }
            Step::Group(keys, max) => {
                let expected = self.model.take_group(keys, max);
                let group = self.keys.take_group(keys, |id| class(*id).map(|class| (class, max)));
                assert_eq!(group.len(), expected.len());
                self.out(group, expected);
            }
            Step::Finish(which) => self.end(which, 0, false),
            Step::PutBack(which, rest) => self.end(which, rest, false),
            Step::Hold(which, rest) => self.end(which, rest, true),
            Step::Resume(which) if !self.holds.is_empty() => {
                // Old ones are tried again now and then: they must not wake a later hold.
                let (hold, number) = self.holds[which % self.holds.len()];
                assert_eq!(self.keys.resume(hold), self.model.resume(number));
            }
            Step::Resume(_) => {}
            Step::Revoke(partition) => {
                self.epochs[partition as usize] += 1;
                for topic in 0..2 {
                    let lane = Lane { topic, partition, epoch: self.epochs[partition as usize] };
                    assert_eq!(self.keys.revoke(lane), self.model.revoke(lane));
                }
            }
            Step::Isolate(isolated) => {
                self.keys.isolate(isolated);
                self.model.isolated = isolated;
            }
        }
        self.compare();
    }

    fn push(&mut self, lane: Lane, key: Option<u8>, bytes: usize) -> bool {
        self.ids += 1;
        let name = (lane.topic, key, if key.is_some() { 0 } else { self.ids });
        let expected = self.model.push(Waiting { name, lane, id: self.ids, bytes });
        // Keys on both sides of what fits a slot without allocation.
        let long = key.map(|key| vec![key; 1 + usize::from(key) * 20]);
        let pushed = self.keys.push(lane, long.as_deref(), self.ids, bytes);
        assert_eq!(pushed, expected);
        pushed
    }

    fn out(&mut self, runs: impl IntoIterator<Item = Run<u32>>, expected: impl IntoIterator<Item = Out>) {
        for (run, out) in runs.into_iter().zip(expected) {
            let ids = |records: &[Waiting]| records.iter().map(|w| w.id).collect::<Vec<_>>();
            assert_eq!(run.records.iter().map(|i| i.record).collect::<Vec<_>>(), ids(&out.records));
            assert_eq!(run.ticket.lane(), out.lane);
            assert!(self.runs.iter().all(|(_, name)| *name != out.name), "two runs of a key");
            self.runs.push((run, out.name));
        }
    }

    fn end(&mut self, which: usize, rest: usize, hold: bool) {
        if self.runs.is_empty() {
            return;
        }
        let (run, name) = self.runs.swap_remove(which % self.runs.len());
        let Run { ticket, mut records } = run;
        let rest = rest % (records.len() + 1);
        let from = records.len() - rest;
        let undone: Vec<Item<u32>> = records.drain(from..).collect();
        let at = self.model.out.iter().position(|o| o.name == name).unwrap();
        if hold {
            let number = self.ids * 1_000 + self.holds.len() as u32;
            let held = self.keys.hold(ticket, undone);
            assert_eq!(held.is_some(), self.model.end(at, rest, Some(number)));
            self.holds.extend(held.map(|held| (held, number)));
        } else {
            self.model.end(at, rest, None);
            if rest == 0 { self.keys.finish(ticket) } else { self.keys.put_back(ticket, undone) }
        }
    }

    fn compare(&self) {
        let all = self.model.all();
        assert_eq!(self.keys.held(), sum(&all));
        assert_eq!(self.keys.running(), self.model.out.len());
        assert_eq!(self.keys.ready(), self.model.ready.len());
        let out = self.model.out.iter().map(|o| o.name);
        let names: BTreeSet<Name> = self.model.waiting.iter().map(|w| w.name).chain(out).collect();
        assert_eq!(self.keys.keys(), names.len(), "a key without records leaves");
        for lane in all.iter().map(|w| w.lane) {
            let of: Vec<Waiting> = all.iter().copied().filter(|w| w.lane == lane).collect();
            assert_eq!(self.keys.held_of(lane), sum(&of));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec(step(), 0..200)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.take(step);
        }
        // Whatever was left runs to its end, in order, and nothing stays.
        pair.take(Step::Isolate(false));
        for hold in 0..pair.holds.len() {
            pair.take(Step::Resume(hold));
        }
        while pair.keys.held().count > 0 {
            pair.take(Step::Take);
            pair.take(Step::Finish(0));
        }
        prop_assert_eq!((pair.keys.keys(), pair.keys.held()), (0, Held::default()));
    }
}

const LANE: Lane = Lane { topic: 1, partition: 0, epoch: 1 };

#[test]
fn a_new_delivery_of_a_key_waits_for_the_run_of_the_old_assignment() {
    let mut keys = Keys::new();
    assert!(keys.push(LANE, Some(b"order-1"), "first", 10));
    assert!(keys.push(LANE, Some(b"order-1"), "second", 10));
    let run = keys.take().unwrap();
    assert_eq!(keys.revoke(LANE), Held { count: 1, bytes: 10 });
    let again = Lane { epoch: 2, ..LANE };
    assert!(keys.push(again, Some(b"order-1"), "first again", 10));
    assert_eq!(keys.take(), None, "the old run is out still");
    let Run { ticket, records } = run;
    keys.put_back(ticket, records);
    let run = keys.take().unwrap();
    assert_eq!((run.records[0].record, run.ticket.lane()), ("first again", again));
    keys.finish(run.ticket);
    assert_eq!((keys.held(), keys.keys()), (Held::default(), 0));
}

#[test]
fn a_held_key_lets_nothing_of_it_pass() {
    let mut keys = Keys::new();
    for record in [1, 2] {
        assert!(keys.push(LANE, Some(b"a"), record, 1));
    }
    assert!(keys.push(LANE, Some(b"b"), 3, 1));
    let Run { ticket, records } = keys.take().unwrap();
    let hold = keys.hold(ticket, records).unwrap();
    let other = keys.take().unwrap();
    assert_eq!((other.records[0].record, keys.take()), (3, None));
    keys.finish(other.ticket);
    assert!(keys.resume(hold) && !keys.resume(hold));
    let run = keys.take().unwrap();
    assert_eq!(run.records[0].record, 1, "the failed record first");
    keys.finish(run.ticket);
}
