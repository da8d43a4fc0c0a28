//! The topic: partitions with gaps, records without key, copies that a relay wrote again, and what the handler of each
//! event does.

use uuid::Uuid;

use crate::schedule::How;

/// Number of an event.
pub type EventId = usize;

/// Number of a key; a record without one has a key of its own.
pub type KeyId = usize;

/// The time between two names of the same record can be told: keys up to here are named.
pub const NAMED: KeyId = 1_000;

/// What the handler comes to once it has failed often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its effect.
    Done,
    /// It rejects the event.
    Reject,
    /// It fails for good.
    Permanent,
    /// It ends the process.
    Kill,
    /// There is none for its type.
    Skip,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// What order is kept by.
    pub key: KeyId,
    /// Its place among the events of its key.
    pub nth: usize,
    /// How often its handler fails before.
    pub fails: u8,
    /// What it comes to then.
    pub end: End,
    /// Calls of its handler, by scope.
    pub calls: Vec<u32>,
}

/// One partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// Offset and event, by offset.
    pub records: Vec<(i64, EventId)>,
    /// The offset of the next record.
    pub end: i64,
    /// Events whose handlers kill.
    pub killers: usize,
}

/// All of it.
#[derive(Debug)]
pub struct Log {
    /// By number.
    pub partitions: Vec<Partition>,
    /// By number.
    pub events: Vec<Event>,
    /// Events of each key, in their order.
    keys: Vec<Vec<EventId>>,
    unnamed: Vec<EventId>,
    scopes: usize,
    named: usize,
}

/// Events that a run has at most.
const MOST: usize = 120;

impl Log {
    /// A log without records, for so many keys.
    pub fn new(partitions: usize, named: usize, scopes: usize) -> Log {
        Log {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            events: Vec::new(),
            keys: vec![Vec::new(); named],
            unnamed: Vec::new(),
            scopes,
            named,
        }
    }

    /// Appends a record, or a copy of one; says what. Of each partition so many events kill at most.
    pub fn append(&mut self, how: &mut How, kills: usize) -> Option<String> {
        if self.events.len() >= MOST {
            return None;
        }
        let key = how.pick(self.named + 1);
        let gap = how.pick(4).saturating_sub(1) as i64;
        let end = match how.pick(12) {
            0..7 => End::Done,
            7 => End::Skip,
            8 => End::Reject,
            9 => End::Permanent,
            _ => End::Kill,
        };
        let fails = [0, 0, 0, 0, 1, 2, 3, 6][how.pick(8)];
        let copy = how.once_in(6);
        let event = match self
            .keys
            .get(key)
            .and_then(|events| events.get(events.len().checked_sub(1 + how.pick(2))?))
        {
            Some(event) if copy => *event,
            _ => self.event(key, fails, end, kills),
        };
        let key = self.events[event].key;
        let number = key % self.partitions.len();
        let partition = &mut self.partitions[number];
        let offset = partition.end + gap;
        partition.records.push((offset, event));
        partition.end = offset + 1;
        let Event { fails, end, .. } = &self.events[event];
        Some(format!("log {number}@{offset}: event {event} of key {key}, fails {fails} times, then {end:?}"))
    }

    /// A marker at the end, which no reader gets.
    pub fn mark(&mut self, partition: usize) {
        self.partitions[partition].end += 1;
    }

    fn event(&mut self, key: usize, fails: u8, end: End, kills: usize) -> EventId {
        let event = self.events.len();
        let (key, nth) = if key < self.named {
            self.keys[key].push(event);
            (key, self.keys[key].len() - 1)
        } else {
            self.unnamed.push(event);
            (NAMED + self.unnamed.len() - 1, 0)
        };
        let partition = key % self.partitions.len();
        let killers = &mut self.partitions[partition].killers;
        let end = match end {
            End::Kill if *killers < kills => {
                *killers += 1;
                End::Kill
            }
            End::Kill => End::Done,
            end => end,
        };
        let fails = if end == End::Skip { 0 } else { fails };
        self.events.push(Event { key, nth, fails, end, calls: vec![0; self.scopes] });
        event
    }

    /// Events of a key, in their order.
    pub fn of_key(&self, key: KeyId) -> &[EventId] {
        match key.checked_sub(NAMED) {
            None => &self.keys[key],
            Some(at) => std::slice::from_ref(&self.unnamed[at]),
        }
    }

    /// The event at an offset.
    pub fn at(&self, partition: i32, offset: i64) -> Option<EventId> {
        let records = &self.partitions.get(usize::try_from(partition).ok()?)?.records;
        let at = records.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        Some(records[at].1)
    }

    /// Events of an event's partition whose handlers kill.
    pub fn killers_beside(&self, event: EventId) -> usize {
        self.partitions[self.events[event].key % self.partitions.len()].killers
    }

    /// Records from an offset on.
    pub fn from(&self, partition: i32, offset: i64) -> &[(i64, EventId)] {
        let records = &self.partitions[partition as usize].records;
        &records[records.partition_point(|(at, _)| *at < offset)..]
    }
}

/// The id that an event has in every copy.
pub fn id(event: EventId) -> Uuid {
    Uuid::from_u128(event as u128 + 1)
}
