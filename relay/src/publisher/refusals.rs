//! After a refusal: how far records had been handed over, and so how far they are sent one at a time.
//!
//! A broker refuses whole batches, and what it says of the batch it says of every record in it. So the
//! session that met a refusal ends, and the next one sends each record alone until it has passed
//! everything that the refused producer had been given: then the record that is refused is the one that
//! is meant (R17).

use parking_lot::Mutex;

use super::Flow;
use crate::lsn::Lsn;
use crate::state::StateRecord;

/// A batch this small holds a record or two, however they are set up.
const SMALLEST_BATCH: usize = 256;

/// A place in the order of one stream or fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// Commit LSN; `0/0` in a fill.
    pub commit_lsn: Lsn,
    /// The last row; all of a transaction's in a stream, whose rows are not told apart.
    pub ordinal: u64,
}

impl Reach {
    /// All rows of a transaction.
    pub fn whole(commit_lsn: Lsn) -> Reach {
        Reach { commit_lsn, ordinal: u64::MAX }
    }
}

/// Outlives the sessions of a lane.
#[derive(Debug, Default)]
pub struct Refusals {
    handed: Mutex<Reach>,
    until: Mutex<Option<Reach>>,
    /// What a batch may hold since one was refused for its size.
    batch: Mutex<Option<usize>>,
    /// What it might hold before the newest refusal, as long as it is not known whether the batch was too large or a
    /// record in it.
    doubted: Mutex<Option<Option<usize>>>,
}

impl Refusals {
    /// A session begins: nothing is handed over yet.
    pub fn begin(&self) {
        *self.handed.lock() = Reach::default();
    }

    /// Records up to here may be handed over from now on.
    pub fn hand(&self, reach: Reach) {
        *self.handed.lock() = reach;
    }

    /// How far records were handed over by the newest session.
    pub fn handed(&self) -> Reach {
        *self.handed.lock()
    }

    /// The broker has refused something: up to what was handed over, records go one at a time.
    pub fn refused(&self) -> Reach {
        let handed = *self.handed.lock();
        let mut until = self.until.lock();
        let reach = until.map_or(handed, |before| before.max(handed));
        *until = Some(reach);
        reach
    }

    /// A batch was refused for its size, although batches held so many bytes at most: from now on they hold
    /// half of it, or the same batch would be built again for ever.
    pub fn halve_batches(&self, from: usize) {
        self.doubted.lock().get_or_insert(self.batch_limit());
        self.limit_batches(from / 2);
    }

    /// It was a record that was too large, as is known since it was refused alone: batches hold again what they held
    /// before. If they are too large as well, they are refused again.
    pub fn was_a_record(&self) {
        if let Some(before) = self.doubted.lock().take() {
            *self.batch.lock() = before;
        }
    }

    /// Batches hold so many bytes at most from now on.
    pub fn limit_batches(&self, bytes: usize) {
        let bytes = bytes.max(SMALLEST_BATCH);
        let mut batch = self.batch.lock();
        *batch = Some(batch.map_or(bytes, |before| before.min(bytes)));
    }

    /// What a batch may hold at most; `None` where none was refused for its size.
    pub fn batch_limit(&self) -> Option<usize> {
        *self.batch.lock()
    }

    /// How far records go one at a time.
    pub fn until(&self) -> Option<Reach> {
        *self.until.lock()
    }

    /// Whether what is handed over next lies behind all that a refused producer had been given.
    pub fn has_passed(&self, reach: Reach) -> bool {
        self.until().is_none_or(|until| reach > until)
    }

    /// A session begins with this record: how its first producer is used. Where a refusal is not passed yet, records go
    /// one at a time, and the record remembers how far, so that a crash does not make the next session find out anew.
    pub fn flow(&self, record: &mut StateRecord) -> Flow {
        self.begin();
        if let Some(handed) = record.highest_handed.filter(|handed| *handed >= record.position) {
            self.resume(Reach::whole(handed));
        }
        let Some(until) = self.until() else { return Flow::Full };
        record.highest_handed = Some(until.commit_lsn);
        Flow::OneAtATime
    }

    /// A session before this one, or another process, was refused when it had handed over so much.
    pub fn resume(&self, reach: Reach) {
        let mut until = self.until.lock();
        *until = Some(until.map_or(reach, |before| before.max(reach)));
    }

    /// That far everything is sent.
    pub fn passed(&self) {
        *self.doubted.lock() = None;
        *self.until.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_up_to_the_furthest_handed_over() {
        let refusals = Refusals::default();
        assert_eq!(refusals.until(), None);
        refusals.begin();
        refusals.hand(Reach::whole(Lsn(7)));
        assert_eq!(refusals.refused(), Reach::whole(Lsn(7)));
        // The next session is refused before it comes as far: nothing is forgotten.
        refusals.begin();
        refusals.hand(Reach::whole(Lsn(3)));
        assert_eq!(refusals.refused(), Reach::whole(Lsn(7)));
        refusals.passed();
        assert_eq!(refusals.until(), None);
        assert_eq!(refusals.batch_limit(), None);
        refusals.halve_batches(1_000_000);
        refusals.halve_batches(2_000_000);
        assert_eq!(refusals.batch_limit(), Some(500_000));
        refusals.halve_batches(1);
        assert_eq!(refusals.batch_limit(), Some(SMALLEST_BATCH));
        // It was one record, after all.
        refusals.was_a_record();
        assert_eq!(refusals.batch_limit(), None);
        refusals.halve_batches(1_000_000);
        refusals.passed();
        refusals.was_a_record();
        assert_eq!(refusals.batch_limit(), Some(500_000), "no record was refused alone");
        assert!(Reach { commit_lsn: Lsn(7), ordinal: 9 } <= Reach::whole(Lsn(7)));
        assert!(Reach { commit_lsn: Lsn(8), ordinal: 0 } > Reach::whole(Lsn(7)));
    }
}
