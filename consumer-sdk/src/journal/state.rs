//! The journal of one assigned partition.

use super::{Claim, Entry};

/// An assigned partition.
#[derive(Debug)]
pub(super) struct State {
    /// What the broker has to hold.
    pub(super) entry: Entry,
    /// Where it was read from; progress is measured against it.
    start: i64,
    /// A handler of this assignment was about to start, and the start is counted.
    begun: bool,
    /// The count is reset: there was progress since.
    progressed: bool,
    /// An earlier start made no progress and nobody is named for it.
    pub(super) unnamed_doubt: bool,
    /// Counts changes of the entry that have to be acknowledged; which of them was sent and which was.
    pub(super) version: u64,
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
}

impl State {
    pub(super) fn new(start: i64, entry: Entry) -> State {
        State {
            entry,
            start,
            begun: false,
            progressed: false,
            unnamed_doubt: false,
            version: 0,
            sent: 0,
            acknowledged: 0,
        }
    }

    /// Changes the entry; a change has to be acknowledged.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Entry)) {
        let before = self.entry.clone();
        change(&mut self.entry);
        if self.entry != before {
            self.version += 1;
        }
    }

    /// Counts this assignment as a start, once. Returns whether it did.
    pub(super) fn count_start(&mut self) -> bool {
        if self.begun {
            return false;
        }
        self.begun = true;
        self.entry.starts = self.entry.starts.saturating_add(1);
        // Counted even where the number cannot grow any more: the commit is what has to be acknowledged.
        self.version += 1;
        self.unnamed_doubt = self.entry.starts >= 2 && self.entry.named.is_empty();
        true
    }

    /// Forgets what lies below the offset to commit. Returns whether anything was forgotten.
    pub(super) fn progress(&mut self, committable: i64) -> bool {
        if committable <= self.start {
            return false;
        }
        // The new offset is committed soon, and the reset goes with it: nobody waits for it.
        self.progressed = true;
        self.entry.starts = 0;
        if self.entry.named.iter().all(|named| named.offset >= committable) {
            return false;
        }
        self.change(|entry| entry.named.retain(|named| named.offset >= committable));
        true
    }

    /// Whether the process has to be isolated because of this partition. It begins with the first handler:
    /// before, nothing of the partition can have done harm.
    pub(super) fn is_doubtful(&self, claim: Option<&Claim>) -> bool {
        let only_claimed = |offset: i64, deaths: u16| {
            deaths == 1 && claim.is_some_and(|claim| claim.record.offset == offset)
        };
        self.begun
            && (self.unnamed_doubt || self.entry.named.iter().any(|n| !only_claimed(n.offset, n.deaths)))
    }

    /// Takes back what this life added to the entry and returns what it was.
    pub(super) fn take_back(&mut self, claim: Option<&Claim>) -> Option<Alive> {
        let added = self.begun && !self.progressed;
        let written = self.entry.clone();
        if let Some(claim) = claim {
            self.entry.take_back(claim.record.offset, claim.record.id);
        }
        if added {
            self.entry.starts = self.entry.starts.saturating_sub(1);
        }
        let named = claim.map(|claim| (claim.record.offset, claim.record.id));
        (added || named.is_some()).then_some(Alive { offset: self.start, added, written, named })
    }
}

/// What a process wrote to a partition that it lost while it lived.
#[derive(Debug)]
pub(super) struct Alive {
    offset: i64,
    /// The start was counted in it.
    added: bool,
    written: Entry,
    /// The record that was named, by offset and id.
    named: Option<(i64, u32)>,
}

impl Alive {
    /// Takes it back from the entry that came with the partition, as far as it stands there unchanged:
    /// whatever another process added since is its own.
    pub(super) fn take_back(&self, offset: i64, entry: &mut Entry) {
        if self.added && offset == self.offset && entry.starts == self.written.starts {
            entry.starts = entry.starts.saturating_sub(1);
        }
        if let Some((offset, id)) = self.named
            && entry.deaths(offset, id) == self.written.deaths(offset, id)
        {
            entry.take_back(offset, id);
        }
    }
}
