//! What the state record says next, and what of it may enter feedback. Pure: the recorder's thread writes what is due and
//! says what was acknowledged.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use jiff::Timestamp;

use super::record::ListedEntry;
use super::{Candidates, PublishedSnapshot, StateRecord};
use crate::config::StateSettings;
use crate::ledger::Confirmed;
use crate::lsn::Lsn;

/// How far ahead of the newest position the ceiling is recorded, so that the router seldom waits for it.
const CEILING_AHEAD: u64 = 1 << 30;

/// What a fill does to the record when it ends.
pub(super) type Change = Box<dyn FnOnce(&mut StateRecord) + Send>;

/// The record as it stands, and what is asked of the next one.
pub(crate) struct Draft {
    /// What the session began with, then what was acknowledged last.
    record: StateRecord,
    /// Whether any record of this session was acknowledged: the first makes the record this writer's.
    begun: bool,
    /// Transactions that the ledger had confirmed by then.
    transactions: u64,
    pins: BTreeMap<String, u32>,
    ceiling: Lsn,
    flush: bool,
    change: Option<Change>,
    changed: u64,
    believed: bool,
    candidates: Candidates,
    /// Quarantine entries for the next record, how many were ever asked for, and how many of those an
    /// acknowledged record lists.
    to_list: Vec<ListedEntry>,
    /// Positions of entries that are settled, to be taken off the list by whatever record comes next.
    to_unlist: Vec<String>,
    list_asked: u64,
    listed: u64,
}

/// A record that is to be written now.
#[derive(Debug)]
pub(crate) struct Next {
    /// The record.
    pub(crate) record: StateRecord,
    transactions: u64,
    changes: bool,
    listed: u64,
}

impl Draft {
    /// A session begins with `record`; its first write makes it this writer's. `believed`: it may enter feedback at
    /// once (false while the last published transaction has to be met).
    pub(crate) fn new(record: StateRecord, believed: bool) -> Draft {
        Draft {
            record,
            begun: false,
            transactions: 0,
            pins: BTreeMap::new(),
            ceiling: Lsn::ZERO,
            flush: false,
            change: None,
            changed: 0,
            believed,
            candidates: Candidates::default(),
            to_list: Vec::new(),
            to_unlist: Vec::new(),
            list_asked: 0,
            listed: 0,
        }
    }

    /// The newest record that is acknowledged.
    pub(crate) fn acknowledged(&self) -> Option<&StateRecord> {
        self.begun.then_some(&self.record)
    }

    /// What feedback may carry: the position of an acknowledged record, once it is believed (R33, R42).
    pub(crate) fn feedback(&self) -> Option<Lsn> {
        self.acknowledged().filter(|_| self.believed).map(|record| record.position)
    }

    /// What is published for ever: the newest snapshot of a record that is acknowledged, and believed (R42).
    pub(super) fn published(&self) -> Option<&PublishedSnapshot> {
        self.acknowledged().filter(|_| self.believed).and_then(|record| record.ring.newest())
    }

    /// Asks that a topic's partition count be recorded (R40).
    pub(crate) fn pin(&mut self, topic: &str, partitions: u32) {
        self.pins.insert(topic.to_owned(), partitions);
    }

    /// Asks for a ceiling at or above `lsn` (R43).
    pub(crate) fn raise_ceiling(&mut self, lsn: Lsn) {
        self.ceiling = self.ceiling.max(lsn);
    }

    /// The position may be confirmed from now on (R42).
    pub(crate) fn believe(&mut self) {
        self.believed = true;
    }

    /// Asks that whatever is confirmed be recorded now.
    pub(crate) fn flush(&mut self) {
        self.flush = true;
    }

    /// Asks for a change. It is done when [`Draft::changed`] has grown.
    pub(super) fn change(&mut self, change: Change) {
        self.change = Some(change);
    }

    /// Changes that are acknowledged.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// Asks that quarantine entries be listed. The answer is a ticket for [`Draft::listed`].
    pub(crate) fn list(&mut self, entries: Vec<ListedEntry>) -> u64 {
        self.list_asked += entries.len() as u64;
        self.to_list.extend(entries);
        self.list_asked
    }

    /// Takes settled entries off the list. Nobody waits for it: one that is listed yet and still there does no harm.
    pub(super) fn unlist(&mut self, positions: Vec<String>) {
        self.to_unlist.extend(positions);
    }

    /// Entries that an acknowledged record lists, or listed until the position had passed them.
    pub(crate) fn listed(&self) -> u64 {
        self.listed
    }

    /// The snapshots that wait for the position.
    pub(super) fn candidates(&mut self) -> &mut Candidates {
        &mut self.candidates
    }

    /// Whether somebody waits for a record.
    pub(crate) fn is_urgent(&self) -> bool {
        self.change.is_some()
            || !self.to_list.is_empty()
            || self.ceiling > self.record.ceiling
            || self.pins.iter().any(|(topic, count)| self.record.partitions.get(topic) != Some(count))
    }

    /// The record that has to be written now, if any. `waited`: since the last one.
    pub(crate) fn due(
        &mut self,
        confirmed: &Confirmed,
        waited: Duration,
        settings: &StateSettings,
        now: Timestamp,
    ) -> Option<Next> {
        let moved = confirmed.end_lsn > self.record.position;
        let busy = confirmed.transactions != self.transactions;
        let interval = if busy { settings.interval } else { settings.idle_interval };
        let flush = mem::take(&mut self.flush) && moved;
        let is_due = !self.begun || flush || self.is_urgent() || (moved && waited >= interval);
        is_due.then(|| self.next(confirmed, now))
    }

    fn next(&mut self, confirmed: &Confirmed, now: Timestamp) -> Next {
        let mut record = self.record.clone();
        record.position = record.position.max(confirmed.end_lsn);
        if let Some(published) = confirmed.last_published {
            record.last_published = Some(published);
        }
        record.partitions.extend(self.pins.iter().map(|(topic, count)| (topic.clone(), *count)));
        let ahead = Lsn(record.position.0.saturating_add(CEILING_AHEAD));
        if self.ceiling > record.ceiling
            || record.position.0.saturating_add(CEILING_AHEAD / 2) > record.ceiling.0
        {
            let wanted = Lsn(self.ceiling.0.saturating_add(CEILING_AHEAD));
            record.ceiling =
                record.ceiling.max(ahead).max(if self.ceiling.is_zero() { ahead } else { wanted });
        }
        if let Some(snapshot) = self.candidates.confirmed(record.position) {
            record.ring.push(snapshot);
        }
        record.let_go();
        record.list(self.to_list.drain(..));
        record.unlist(&mem::take(&mut self.to_unlist));
        record.highest_handed = record.highest_handed.filter(|handed| *handed >= record.position);
        let change = self.change.take();
        let changes = change.is_some();
        if let Some(change) = change {
            change(&mut record);
        }
        record.sequence += 1;
        record.written_at = now;
        Next { record, transactions: confirmed.transactions, changes, listed: self.list_asked }
    }

    /// Kafka has it.
    pub(crate) fn acknowledge(&mut self, next: Next) {
        let Next { record, transactions, changes, listed } = next;
        (self.record, self.transactions, self.listed) = (record, transactions, listed);
        self.changed += u64::from(changes);
        self.begun = true;
    }
}
