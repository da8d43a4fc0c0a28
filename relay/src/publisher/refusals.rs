//! After a refusal: how far records had been handed over, and so how far they are sent one at a time.
//!
//! A broker refuses whole batches, and what it says of the batch it says of every record in it. So the
//! session that met a refusal ends, and the next one sends each record alone until it has passed
//! everything that the refused producer had been given: then the record that is refused is the one that
//! is meant (R17).

use std::collections::BTreeMap;

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
    /// What a refused Kafka transaction held below this was taken: nothing of it has to go alone.
    taken: Mutex<Lsn>,
    /// Rows that were refused alone, by their place, and why: in a transaction that is known only when it is lost.
    alone: Mutex<BTreeMap<(u64, Lsn, u64), String>>,
    /// A Kafka transaction has to end before this PostgreSQL transaction, which would hold back what came before it.
    cut_before: Mutex<Option<Lsn>>,
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

    /// A Kafka transaction was refused of which everything below this had been taken.
    pub fn taken(&self, end_lsn: Lsn) {
        *self.taken.lock() = end_lsn;
    }

    /// Whether a transaction that commits here may hold what was refused.
    pub fn is_doubted(&self, commit_lsn: Lsn) -> bool {
        self.until().is_some_and(|until| commit_lsn >= *self.taken.lock() && commit_lsn <= until.commit_lsn)
    }

    /// The row at this place was refused when it was sent alone: the next session puts it aside without sending it.
    pub fn refused_alone(&self, place: (u64, Lsn, u64), why: String) {
        self.alone.lock().insert(place, why);
    }

    /// Why the row at this place was refused, if it was.
    pub fn why_alone(&self, place: (u64, Lsn, u64)) -> Option<String> {
        let alone = self.alone.lock();
        if alone.is_empty() { None } else { alone.get(&place).cloned() }
    }

    /// The next session ends a Kafka transaction before the transaction that commits here.
    pub fn cut_before(&self, commit_lsn: Lsn) {
        *self.cut_before.lock() = Some(commit_lsn);
    }

    /// Whether a Kafka transaction has to end before a transaction that commits here; asked once.
    pub fn takes_cut(&self, commit_lsn: Lsn) -> bool {
        self.cut_before.lock().take_if(|before| *before <= commit_lsn).is_some()
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
        *self.taken.lock() = Lsn::ZERO;
        self.alone.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_transaction_that_was_refused_only_what_was_not_taken_is_doubted() {
        let refusals = Refusals::default();
        assert!(!refusals.is_doubted(Lsn(5)));
        refusals.hand(Reach::whole(Lsn(9)));
        refusals.taken(Lsn(4));
        refusals.refused();
        assert_eq!([3, 4, 9, 10].map(|lsn| refusals.is_doubted(Lsn(lsn))), [false, true, true, false]);
        refusals.refused_alone((1, Lsn(5), 2), "too large".into());
        assert_eq!(refusals.why_alone((1, Lsn(5), 2)).as_deref(), Some("too large"));
        assert_eq!(refusals.why_alone((1, Lsn(5), 3)), None);
        refusals.passed();
        assert!(!refusals.is_doubted(Lsn(5)) && refusals.why_alone((1, Lsn(5), 2)).is_none());
    }

    #[test]
    fn a_cut_is_asked_for_once_and_where_it_is_due() {
        let refusals = Refusals::default();
        refusals.cut_before(Lsn(7));
        assert_eq!([6, 7, 8].map(|lsn| refusals.takes_cut(Lsn(lsn))), [false, true, false]);
    }

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
