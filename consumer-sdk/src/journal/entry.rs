//! What the journal of a partition says, as it stands beside the committed offset.

/// Most records that an entry names. A process runs one named record at a time; more names are there when
/// several records of a partition kill, and each keeps its own count. Four fit
/// [`JOURNAL_LIMIT`](crate::metadata::JOURNAL_LIMIT).
pub const NAMED_LIMIT: usize = 4;

/// The journal of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Starts at the committed offset that made no progress and were not ended cleanly, the present one
    /// included.
    pub starts: u16,
    /// Records whose handlers were about to start alone, and whether they came back.
    pub named: Vec<Named>,
}

/// A named record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Its offset.
    pub offset: i64,
    /// Hash of its event id: in a topic that was made anew the offset belongs to another event.
    pub id: u32,
    /// How often its handler was started, or was about to be, and nothing was heard of it since. While it
    /// runs the present start is counted: if the process dies nobody is left to do it.
    pub deaths: u16,
}

impl Entry {
    pub(super) fn deaths(&self, offset: i64, id: u32) -> u16 {
        self.named.iter().find(|n| n.offset == offset && n.id == id).map_or(0, |n| n.deaths)
    }

    /// Counts a start of the record. A full entry gives up what has the least evidence, of that the
    /// highest offset: the lowest are met first and so are decided first.
    pub(super) fn name(&mut self, offset: i64, id: u32) {
        if let Some(named) = self.named.iter_mut().find(|n| n.offset == offset && n.id == id) {
            named.deaths = named.deaths.saturating_add(1);
            return;
        }
        self.named.retain(|n| n.offset != offset);
        if self.named.len() >= NAMED_LIMIT {
            let least = (0..self.named.len()).min_by_key(|i| {
                let named = self.named[*i];
                (named.deaths, std::cmp::Reverse(named.offset))
            });
            self.named.swap_remove(least.unwrap_or(0));
        }
        self.named.push(Named { offset, id, deaths: 1 });
    }

    /// Takes a counted start back: the process lives.
    pub(super) fn take_back(&mut self, offset: i64, id: u32) {
        for named in self.named.iter_mut().filter(|n| n.offset == offset && n.id == id) {
            named.deaths = named.deaths.saturating_sub(1);
        }
        self.named.retain(|n| n.deaths > 0);
    }

    /// The record is settled: whatever was held against it is void.
    pub(super) fn acquit(&mut self, offset: i64) {
        self.named.retain(|n| n.offset != offset);
    }
}
