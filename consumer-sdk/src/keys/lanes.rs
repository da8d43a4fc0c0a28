//! What is held of each assigned partition.

use std::collections::HashMap;

use crate::intake::Held;
use crate::lane::Lane;

/// What one lane has waiting and running.
#[derive(Debug, Clone, Copy)]
struct Tally {
    lane: Lane,
    waiting: Held,
    running: Held,
    revoked: bool,
}

/// The lanes that records were pushed for and that are not revoked, or revoked and still running.
#[derive(Debug)]
pub(super) struct Lanes {
    tallies: Vec<Tally>,
    numbers: HashMap<Lane, u32>,
    vacant: Vec<u32>,
    /// Records come in batches of one partition: the last one is mostly the next one.
    last: Option<(Lane, u32)>,
    /// Highest revoked epoch of each partition.
    revoked: HashMap<(u32, i32), u32>,
}

impl Lanes {
    pub(super) fn new() -> Lanes {
        Lanes {
            tallies: Vec::new(),
            numbers: HashMap::new(),
            vacant: Vec::new(),
            last: None,
            revoked: HashMap::new(),
        }
    }

    /// The lane's number. `None` when it was revoked.
    pub(super) fn number(&mut self, lane: Lane) -> Option<u32> {
        if let Some((last, number)) = self.last
            && last == lane
        {
            return Some(number);
        }
        if self.revoked.get(&lane.place()).is_some_and(|epoch| lane.epoch <= *epoch) {
            return None;
        }
        let number = *self.numbers.entry(lane).or_insert_with(|| {
            let tally = Tally { lane, waiting: Held::default(), running: Held::default(), revoked: false };
            match self.vacant.pop() {
                Some(number) => {
                    self.tallies[number as usize] = tally;
                    number
                }
                None => {
                    self.tallies.push(tally);
                    (self.tallies.len() - 1) as u32
                }
            }
        });
        self.last = Some((lane, number));
        Some(number)
    }

    /// The lane of a number that is in use.
    pub(super) fn lane(&self, number: u32) -> Lane {
        self.tallies[number as usize].lane
    }

    pub(super) fn is_revoked(&self, number: u32) -> bool {
        self.tallies[number as usize].revoked
    }

    /// What waits and runs of a lane.
    pub(super) fn held(&self, lane: Lane) -> Held {
        self.numbers.get(&lane).map_or(Held::default(), |number| {
            let tally = &self.tallies[*number as usize];
            tally.waiting.plus(tally.running)
        })
    }

    pub(super) fn wait(&mut self, number: u32, held: Held) {
        let tally = &mut self.tallies[number as usize];
        tally.waiting = tally.waiting.plus(held);
    }

    pub(super) fn run(&mut self, number: u32, held: Held) {
        let tally = &mut self.tallies[number as usize];
        tally.waiting = tally.waiting.minus(held);
        tally.running = tally.running.plus(held);
    }

    /// A run ended. A revoked lane goes with its last.
    pub(super) fn end(&mut self, number: u32, held: Held) {
        let tally = &mut self.tallies[number as usize];
        tally.running = tally.running.minus(held);
        self.tidy(number);
    }

    /// Revokes a lane: what waits is no longer counted. Returns its number, if it has one, and what waited.
    pub(super) fn revoke(&mut self, lane: Lane) -> Option<(u32, Held)> {
        let epoch = self.revoked.entry(lane.place()).or_insert(lane.epoch);
        *epoch = lane.epoch.max(*epoch);
        self.last = None;
        let number = *self.numbers.get(&lane)?;
        let tally = &mut self.tallies[number as usize];
        tally.revoked = true;
        let waiting = std::mem::take(&mut tally.waiting);
        Some((number, waiting))
    }

    /// Frees the number of a revoked lane of which nothing runs and, the caller says, nothing waits.
    pub(super) fn tidy(&mut self, number: u32) {
        let tally = &self.tallies[number as usize];
        if tally.revoked && tally.running.count == 0 && self.numbers.remove(&tally.lane).is_some() {
            self.vacant.push(number);
        }
    }
}
