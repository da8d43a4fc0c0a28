//! The keys that have records, found by topic and bytes.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::records::{NONE, Queue};

/// What a key is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No key is here.
    Vacant,
    /// It waits in the run queue.
    Ready,
    /// A run of it is out.
    Running,
    /// It waits to be resumed, by this number.
    Held(u64),
}

/// A key that has records waiting or running.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) queue: Queue,
    /// Records without key have a slot each that nothing finds.
    named: bool,
    topic: u32,
    hash: u64,
    /// The longest usual key, a UUID as text, needs no allocation.
    key: SmallVec<[u8; 36]>,
    next_free: u32,
}

/// The keys. One that has no records leaves: memory is for what is held, not for what was ever seen.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: u32,
    /// Numbers of the named slots. The key's bytes are only in the slot.
    table: HashTable<u32>,
    /// Keyed at random: whoever chooses keys must not choose collisions.
    hashing: RandomState,
    occupied: usize,
}

impl Slots {
    pub(super) fn new() -> Slots {
        let hashing = RandomState::new();
        Slots { slots: Vec::new(), free: NONE, table: HashTable::new(), hashing, occupied: 0 }
    }

    /// Keys that have records.
    pub(super) fn len(&self) -> usize {
        self.occupied
    }

    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    pub(super) fn get(&mut self, number: u32) -> &mut Slot {
        &mut self.slots[number as usize]
    }

    pub(super) fn queue(&self, number: u32) -> Queue {
        self.slots.get(number as usize).map_or(Queue::EMPTY, |slot| slot.queue)
    }

    pub(super) fn state(&self, number: u32) -> State {
        self.slots.get(number as usize).map_or(State::Vacant, |slot| slot.state)
    }

    /// The key's slot, or a new one that is vacant as yet.
    pub(super) fn find_or_make(&mut self, topic: u32, key: Option<&[u8]>) -> u32 {
        let Some(key) = key else { return self.occupy(topic, 0, &[], false) };
        let mut hasher = self.hashing.build_hasher();
        hasher.write_u32(topic);
        hasher.write(key);
        let hash = hasher.finish();
        let found = self.table.find(hash, |number| {
            let slot = &self.slots[*number as usize];
            slot.topic == topic && slot.key.as_slice() == key
        });
        if let Some(number) = found {
            return *number;
        }
        let number = self.occupy(topic, hash, key, true);
        self.table.insert_unique(hash, number, |number| self.slots[*number as usize].hash);
        number
    }

    /// Frees the slot of a key that has no records any more.
    pub(super) fn vacate(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if slot.named
            && let Ok(entry) = self.table.find_entry(slot.hash, |found| *found == number)
        {
            entry.remove();
        }
        slot.state = State::Vacant;
        slot.key = SmallVec::new();
        slot.next_free = self.free;
        self.free = number;
        self.occupied -= 1;
    }

    fn occupy(&mut self, topic: u32, hash: u64, key: &[u8], named: bool) -> u32 {
        self.occupied += 1;
        let key = SmallVec::from_slice(key);
        let slot =
            Slot { state: State::Vacant, queue: Queue::EMPTY, named, topic, hash, key, next_free: NONE };
        match self.slots.get_mut(self.free as usize) {
            Some(free) => {
                let number = self.free;
                self.free = free.next_free;
                *free = slot;
                number
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }
}
