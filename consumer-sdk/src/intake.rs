//! When to stop reading and when to go on, and of which partitions.
//!
//! Reading stops by pausing partitions; the client keeps polling, so the group notices nothing (C14, C33).
//! What is wanted is kept here and not in the client, which forgets it with each assignment (C32): the
//! difference between what is wanted and what the client was told is worked out anew each time.

use std::collections::{BTreeMap, BTreeSet};

use crate::lane::Lane;

/// Topic and partition.
type Place = (u32, i32);

/// Bounds of what is held. Reading stops when either upper mark is reached and goes on when both are
/// below their lower marks: with one mark it would stop and go for each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    high: Held,
    low: Held,
}

/// Records and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Number of records.
    pub count: usize,
    /// Their bytes, as the reader counted them.
    pub bytes: usize,
}

impl Held {
    /// Both together.
    pub fn plus(self, other: Held) -> Held {
        Held { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }

    /// Without `other`, which was counted in it.
    pub fn minus(self, other: Held) -> Held {
        Held { count: self.count - other.count, bytes: self.bytes - other.bytes }
    }
}

impl Watermarks {
    /// Marks that stop at `high` and go on at half of it. A bound of 0 counts as 1: nothing could ever be
    /// read otherwise.
    pub fn below(high: Held) -> Watermarks {
        let high = Held { count: high.count.max(1), bytes: high.bytes.max(1) };
        Watermarks { high, low: Held { count: high.count / 2, bytes: high.bytes / 2 } }
    }

    /// Whether reading has to stop.
    pub fn should_pause(&self, held: Held) -> bool {
        held.count >= self.high.count || held.bytes >= self.high.bytes
    }

    /// Whether reading may go on.
    pub fn may_resume(&self, held: Held) -> bool {
        held.count <= self.low.count && held.bytes <= self.low.bytes
    }
}

/// What the client has to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Partitions to pause.
    pub pause: Vec<Lane>,
    /// Partitions to resume.
    pub resume: Vec<Lane>,
}

/// Which partitions are read.
#[derive(Debug)]
pub struct Intake {
    marks: Watermarks,
    full: bool,
    /// Assigned partitions and whether the client was told to pause them.
    assigned: BTreeMap<Lane, bool>,
    /// Partitions that somebody wants paused, assigned or not. Survives assignments.
    unwanted: BTreeSet<Place>,
    /// In isolation: the partitions that are read nevertheless.
    only: Option<BTreeSet<Lane>>,
}

impl Intake {
    /// An intake without partitions.
    pub fn new(marks: Watermarks) -> Intake {
        let (assigned, unwanted) = (BTreeMap::new(), BTreeSet::new());
        Intake { marks, full: false, assigned, unwanted, only: None }
    }

    /// A partition was assigned: the client reads it until told otherwise.
    pub fn assigned(&mut self, lane: Lane) {
        self.assigned.insert(lane, false);
    }

    /// A partition was revoked or lost.
    pub fn unassigned(&mut self, lane: Lane) {
        self.assigned.remove(&lane);
    }

    /// What is held has changed.
    pub fn holds(&mut self, held: Held) {
        self.full = if self.full { !self.marks.may_resume(held) } else { self.marks.should_pause(held) };
    }

    /// Whether reading stands still because too much is held.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the client was told not to read the partition.
    pub fn is_paused(&self, lane: Lane) -> bool {
        self.assigned.get(&lane).copied().unwrap_or(false)
    }

    /// Somebody wants a partition paused, or no longer. Holds for later assignments too.
    pub fn want(&mut self, topic: u32, partition: i32, paused: bool) {
        if paused {
            self.unwanted.insert((topic, partition));
        } else {
            self.unwanted.remove(&(topic, partition));
        }
    }

    /// Only these partitions are read, or again all.
    pub fn isolate(&mut self, only: Option<BTreeSet<Lane>>) {
        self.only = only;
    }

    /// A record of the partition has come. The client was told to pause it, and has not: it is told again. Of two orders
    /// that cross on their way between its threads it may throw one away.
    pub fn came(&mut self, lane: Lane) {
        if let Some(told) = self.assigned.get_mut(&lane) {
            *told = false;
        }
    }

    /// What the client has to be told now, of partitions that `may` be told. Each order is given once;
    /// [`Intake::failed`] gives it again, and one that may not be given yet waits.
    pub fn orders(&mut self, may: impl Fn(Lane) -> bool) -> Orders {
        let mut orders = Orders::default();
        for (lane, told) in self.assigned.iter_mut().filter(|(lane, _)| may(**lane)) {
            let elsewhere = self.only.as_ref().is_some_and(|only| !only.contains(lane));
            let pause = self.full || elsewhere || self.unwanted.contains(&lane.place());
            if pause != *told {
                *told = pause;
                if pause { &mut orders.pause } else { &mut orders.resume }.push(*lane);
            }
        }
        orders
    }

    /// The client could not carry out the last order for the partition.
    pub fn failed(&mut self, lane: Lane) {
        if let Some(told) = self.assigned.get_mut(&lane) {
            *told = !*told;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Assign(u32),
        Unassign(u32),
        Holds(usize, usize),
        Want(u32, bool),
        Isolate(Option<u32>),
        /// The client threw an order to pause away, and a record comes.
        Loses(u32),
        /// Orders for the partition wait.
        Young(Option<u32>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u32).prop_map(Step::Assign),
            (0..4_u32).prop_map(Step::Unassign),
            (0..20_usize, 0..200_usize).prop_map(|(count, bytes)| Step::Holds(count, bytes)),
            (0..4_u32, any::<bool>()).prop_map(|(p, paused)| Step::Want(p, paused)),
            prop::option::of(0..4_u32).prop_map(Step::Isolate),
            (0..4_u32).prop_map(Step::Loses),
            prop::option::of(0..4_u32).prop_map(Step::Young),
        ]
    }

    proptest! {
        #[test]
        fn the_client_does_what_is_wanted(steps in prop::collection::vec(step(), 0..100)) {
            let mut intake = Intake::new(Watermarks::below(Held { count: 10, bytes: 100 }));
            let mut epochs = 0;
            // The client: what it reads. It forgets a pause with each assignment.
            let mut client: BTreeMap<u32, (Lane, bool)> = BTreeMap::new();
            let (mut unwanted, mut only, mut full) = (BTreeSet::new(), None, false);
            let mut young = None;
            for step in steps {
                match step {
                    Step::Assign(p) => {
                        epochs += 1;
                        let lane = Lane { topic: 1, partition: p as i32, epoch: epochs };
                        if let Some((former, _)) = client.insert(p, (lane, true)) {
                            intake.unassigned(former);
                        }
                        intake.assigned(lane);
                    }
                    Step::Unassign(p) => {
                        if let Some((lane, _)) = client.remove(&p) {
                            intake.unassigned(lane);
                        }
                    }
                    Step::Holds(count, bytes) => {
                        let held = Held { count, bytes };
                        full = count >= 10 || bytes >= 100 || full && (count > 5 || bytes > 50);
                        intake.holds(held);
                    }
                    Step::Want(p, paused) => {
                        intake.want(1, p as i32, paused);
                        if paused { unwanted.insert(p) } else { unwanted.remove(&p) };
                    }
                    Step::Isolate(p) => {
                        only = p.and_then(|p| client.get(&p)).map(|(lane, _)| *lane);
                        intake.isolate(only.map(|lane| BTreeSet::from([lane])));
                    }
                    Step::Loses(p) => {
                        if let Some((lane, reads)) = client.get_mut(&p) {
                            *reads = true;
                            intake.came(*lane);
                        }
                    }
                    Step::Young(p) => young = p,
                }
                let orders = intake.orders(|lane| Some(lane.partition as u32) != young);
                for (lane, reads) in client.values_mut() {
                    prop_assert!(!orders.pause.contains(lane) || *reads, "told twice");
                    prop_assert!(!orders.resume.contains(lane) || !*reads, "told twice");
                    *reads = (*reads || orders.resume.contains(lane)) && !orders.pause.contains(lane);
                }
                for (p, (lane, reads)) in client.iter().filter(|(p, _)| Some(**p) != young) {
                    let wanted = !full && !unwanted.contains(p) && only.is_none_or(|only| only == *lane);
                    prop_assert_eq!(*reads, wanted);
                }
                prop_assert_eq!(intake.is_full(), full);
            }
        }
    }
}
