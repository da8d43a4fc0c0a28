//! The thread that keeps the state record: what the ledger confirmed goes to Kafka first, and only what
//! Kafka has acknowledged goes into feedback (R33).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::record::ListedEntry;
use super::store::{Store, StoreError};
use super::{Candidates, StateRecord};
use crate::config::StateSettings;
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::publisher::Confirmations;
use crate::reader::Positions;
use crate::session::{End, Ending};

/// How far ahead of the newest position the ceiling is recorded, so that the router seldom waits for it.
const CEILING_AHEAD: u64 = 1 << 30;
/// How often the thread looks for something to record when nobody wakes it.
const LOOK: Duration = Duration::from_millis(100);

/// What others ask of the recorder, and what it has acknowledged.
#[derive(Default)]
struct Desk {
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
    list_asked: u64,
    listed: u64,
    acknowledged: Option<StateRecord>,
}

/// What a fill does to the record when it ends.
type Change = Box<dyn FnOnce(&mut StateRecord) + Send>;

/// Asks for records and waits for them. Shared by the router and the session.
pub struct Recorder {
    desk: Mutex<Desk>,
    asked: Condvar,
    acknowledged: Condvar,
}

/// What the thread works with.
pub struct RecorderParts {
    /// The fenced place of the record.
    pub store: Store,
    /// What the session begins with; its first write makes it this writer's.
    pub record: StateRecord,
    /// Whether `record` may enter feedback at once (false while the last published transaction has to be met).
    pub believed: bool,
    /// What the ledger has confirmed.
    pub confirmations: Arc<Confirmations>,
    /// What the reader sends as feedback.
    pub positions: Arc<Positions>,
    /// Intervals.
    pub settings: StateSettings,
    /// What is seen from outside.
    pub observed: Arc<Observed>,
    /// The session's end.
    pub ending: Arc<Ending>,
}

impl Recorder {
    /// Starts the thread. It ends with the session, and ends the session when it is fenced.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(parts: RecorderParts) -> std::io::Result<(Arc<Recorder>, JoinHandle<()>)> {
        let desk = Desk { believed: parts.believed, ..Desk::default() };
        let recorder = Arc::new(Recorder {
            desk: Mutex::new(desk),
            asked: Condvar::new(),
            acknowledged: Condvar::new(),
        });
        let mine = recorder.clone();
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || mine.run(parts))?;
        Ok((recorder, thread))
    }

    /// Records the partition count of a topic before its first record is sent (R40).
    pub fn pin(&self, topic: &str, partitions: u32, ending: &Ending) {
        let mut desk = self.desk.lock();
        desk.pins.insert(topic.to_owned(), partitions);
        self.wait(desk, ending, |record| record.partitions.get(topic) == Some(&partitions));
    }

    /// Records a ceiling at or above `lsn` before anything beyond the old one is sent (R43).
    pub fn raise_ceiling(&self, lsn: Lsn, ending: &Ending) -> Lsn {
        let mut desk = self.desk.lock();
        desk.ceiling = desk.ceiling.max(lsn);
        self.wait(desk, ending, |record| record.ceiling >= lsn)
    }

    /// Waits for the session's first record; answers its ceiling.
    pub fn begun(&self, ending: &Ending) -> Lsn {
        self.wait(self.desk.lock(), ending, |_| true)
    }

    /// Whether a record with this position or a later one is acknowledged.
    pub fn recorded_up_to(&self, position: Lsn) -> bool {
        self.desk.lock().acknowledged.as_ref().is_some_and(|record| record.position >= position)
    }

    /// The transaction that the record names was met in the stream: its position may be confirmed (R42).
    pub fn believe(&self) {
        self.desk.lock().believed = true;
        self.asked.notify_one();
    }

    /// Asks that whatever is confirmed be recorded now.
    pub fn flush(&self) {
        self.desk.lock().flush = true;
        self.asked.notify_one();
    }

    /// Changes the record and waits until the changed one is acknowledged or the session is over.
    pub fn change(&self, ending: &Ending, change: impl FnOnce(&mut StateRecord) + Send + 'static) {
        let mut desk = self.desk.lock();
        let before = desk.changed;
        desk.change = Some(Box::new(change));
        self.asked.notify_one();
        while desk.changed == before && !ending.is_over() {
            self.acknowledged.wait_for(&mut desk, LOOK);
        }
    }

    /// Lists quarantine entries in the next record, which is written at once. The answer is a ticket for
    /// [`Recorder::listed`].
    pub fn list(&self, entries: Vec<ListedEntry>) -> u64 {
        let mut desk = self.desk.lock();
        desk.list_asked += entries.len() as u64;
        desk.to_list.extend(entries);
        self.asked.notify_one();
        desk.list_asked
    }

    /// Entries that an acknowledged record lists, or listed until the position had passed them.
    pub fn listed(&self) -> u64 {
        self.desk.lock().listed
    }

    /// Lets the caller tell the snapshots of what happened on the SQL connection.
    pub fn candidates(&self, tell: impl FnOnce(&mut Candidates)) {
        tell(&mut self.desk.lock().candidates);
    }

    /// Wakes the thread and waits until a record that fulfils `holds` is acknowledged or the session is
    /// over; answers that record's ceiling.
    fn wait(
        &self,
        mut desk: parking_lot::MutexGuard<'_, Desk>,
        ending: &Ending,
        holds: impl Fn(&StateRecord) -> bool,
    ) -> Lsn {
        self.asked.notify_one();
        loop {
            match &desk.acknowledged {
                Some(record) if holds(record) => return record.ceiling,
                _ if ending.is_over() => return Lsn::ZERO,
                _ => self.acknowledged.wait_for(&mut desk, LOOK),
            };
        }
    }

    fn run(&self, mut parts: RecorderParts) {
        let mut last = Written::default();
        while !parts.ending.is_over() {
            let Some(next) = self.due(&parts, &last) else { continue };
            match parts.store.write(&next.record, &parts.ending) {
                Ok(()) => {
                    self.acknowledge(&mut parts, &mut last, next);
                    parts.store.read_no_more();
                }
                Err(StoreError::Over) => return,
                Err(error @ StoreError::Fenced { .. }) => parts.ending.end(End::Fenced(error.to_string())),
                Err(error) => parts.ending.end(End::halt(&error)),
            }
        }
    }

    /// Waits a moment; answers the record that has to be written now, if any.
    fn due(&self, parts: &RecorderParts, last: &Written) -> Option<Next> {
        let mut desk = self.desk.lock();
        if !desk.urgent(&parts.record) && last.at.is_some() {
            self.asked.wait_for(&mut desk, LOOK);
        }
        let confirmed = parts.confirmations.newest();
        let moved = confirmed.end_lsn > parts.record.position;
        let busy = confirmed.transactions != last.transactions;
        let interval = if busy { parts.settings.interval } else { parts.settings.idle_interval };
        let waited = last.at.is_none_or(|at| at.elapsed() >= interval);
        let first = last.at.is_none();
        let flush = std::mem::take(&mut desk.flush) && moved;
        if !(first || flush || desk.urgent(&parts.record) || (moved && waited)) {
            self.let_feedback_follow(&desk, parts, first);
            return None;
        }
        let mut record = parts.record.clone();
        record.position = record.position.max(confirmed.end_lsn);
        if let Some(published) = confirmed.last_published {
            record.last_published = Some(published);
        }
        record.partitions.extend(desk.pins.iter().map(|(topic, count)| (topic.clone(), *count)));
        let ahead = Lsn(record.position.0.saturating_add(CEILING_AHEAD));
        if desk.ceiling > record.ceiling
            || record.position.0.saturating_add(CEILING_AHEAD / 2) > record.ceiling.0
        {
            let wanted = Lsn(desk.ceiling.0.saturating_add(CEILING_AHEAD));
            record.ceiling =
                record.ceiling.max(ahead).max(if desk.ceiling.is_zero() { ahead } else { wanted });
        }
        if let Some(snapshot) = desk.candidates.confirmed(record.position) {
            record.ring.push(snapshot);
        }
        record.let_go();
        record.list(desk.to_list.drain(..));
        record.highest_handed = record.highest_handed.filter(|handed| *handed >= record.position);
        let listed = desk.list_asked;
        let change = desk.change.take();
        let changes = change.is_some();
        if let Some(change) = change {
            change(&mut record);
        }
        record.sequence += 1;
        record.written_at = jiff::Timestamp::now();
        Some(Next { record, transactions: confirmed.transactions, changes, listed })
    }

    /// Belief may come between two records; feedback then carries what is recorded already.
    fn let_feedback_follow(&self, desk: &Desk, parts: &RecorderParts, first: bool) {
        if desk.believed && !first {
            parts.positions.record(parts.record.position);
            parts.observed.recorded.set(parts.record.position.0);
        }
    }

    fn acknowledge(&self, parts: &mut RecorderParts, last: &mut Written, next: Next) {
        let mut desk = self.desk.lock();
        if desk.believed {
            parts.positions.record(next.record.position);
            parts.observed.recorded.set(next.record.position.0);
        }
        parts.observed.state_records.add(1);
        parts.observed.epoch.set(next.record.epoch);
        *last = Written { at: Some(Instant::now()), transactions: next.transactions };
        parts.record = next.record;
        desk.changed += u64::from(next.changes);
        desk.listed = next.listed;
        desk.acknowledged = Some(parts.record.clone());
        self.acknowledged.notify_all();
    }
}

impl Desk {
    /// Whether somebody waits for a record.
    fn urgent(&self, record: &StateRecord) -> bool {
        self.change.is_some()
            || !self.to_list.is_empty()
            || self.ceiling > record.ceiling
            || self.pins.iter().any(|(topic, count)| record.partitions.get(topic) != Some(count))
    }
}

struct Next {
    record: StateRecord,
    transactions: u64,
    changes: bool,
    listed: u64,
}

#[derive(Default)]
struct Written {
    at: Option<Instant>,
    transactions: u64,
}
