//! The thread that keeps the state record: what the ledger confirmed goes to Kafka first, and only what
//! Kafka has acknowledged goes into feedback (R33).

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::draft::{Draft, Next};
use super::record::ListedEntry;
use super::store::{Store, StoreError};
use super::{Candidates, PublishedSnapshot, StateRecord};
use crate::config::StateSettings;
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::publisher::Confirmations;
use crate::reader::Positions;
use crate::session::{End, Ending};

/// How often the thread looks for something to record when nobody wakes it.
const LOOK: Duration = Duration::from_millis(100);

/// Asks for records and waits for them. Shared by the router and the session.
pub struct Recorder {
    draft: Mutex<Draft>,
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
        let draft = Draft::new(parts.record.clone(), parts.believed);
        let recorder = Arc::new(Recorder {
            draft: Mutex::new(draft),
            asked: Condvar::new(),
            acknowledged: Condvar::new(),
        });
        let mine = recorder.clone();
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || mine.run(parts))?;
        Ok((recorder, thread))
    }

    /// Records the partition count of a topic before its first record is sent (R40).
    pub fn pin(&self, topic: &str, partitions: u32, ending: &Ending) {
        let mut draft = self.draft.lock();
        draft.pin(topic, partitions);
        self.wait(draft, ending, |record| record.partitions.get(topic) == Some(&partitions));
    }

    /// Records a ceiling at or above `lsn` before anything beyond the old one is sent (R43).
    pub fn raise_ceiling(&self, lsn: Lsn, ending: &Ending) -> Lsn {
        let mut draft = self.draft.lock();
        draft.raise_ceiling(lsn);
        self.wait(draft, ending, |record| record.ceiling >= lsn)
    }

    /// Waits for the session's first record; answers its ceiling.
    pub fn begun(&self, ending: &Ending) -> Lsn {
        self.wait(self.draft.lock(), ending, |_| true)
    }

    /// Whether a record with this position or a later one is acknowledged.
    pub fn recorded_up_to(&self, position: Lsn) -> bool {
        self.draft.lock().acknowledged().is_some_and(|record| record.position >= position)
    }

    /// The transaction that the record names was met in the stream: its position may be confirmed (R42).
    pub fn believe(&self) {
        self.draft.lock().believe();
        self.asked.notify_one();
    }

    /// Asks that whatever is confirmed be recorded now.
    pub fn flush(&self) {
        self.draft.lock().flush();
        self.asked.notify_one();
    }

    /// Changes the record and waits until the changed one is acknowledged or the session is over.
    pub fn change(&self, ending: &Ending, change: impl FnOnce(&mut StateRecord) + Send + 'static) {
        let mut draft = self.draft.lock();
        let before = draft.changed();
        draft.change(Box::new(change));
        self.asked.notify_one();
        while draft.changed() == before && !ending.is_over() {
            self.acknowledged.wait_for(&mut draft, LOOK);
        }
    }

    /// Lists quarantine entries in the next record, which is written at once. The answer is a ticket for
    /// [`Recorder::listed`].
    pub fn list(&self, entries: Vec<ListedEntry>) -> u64 {
        let ticket = self.draft.lock().list(entries);
        self.asked.notify_one();
        ticket
    }

    /// Takes settled entries off the list, with whatever record is written next.
    pub fn unlist(&self, positions: Vec<String>) {
        self.draft.lock().unlist(positions);
    }

    /// Entries that an acknowledged record lists, or listed until the position had passed them.
    pub fn listed(&self) -> u64 {
        self.draft.lock().listed()
    }

    /// What is published for ever, by the newest acknowledged record.
    pub fn published(&self) -> Option<PublishedSnapshot> {
        self.draft.lock().published().cloned()
    }

    /// Lets the caller tell the snapshots of what happened on the SQL connection.
    pub fn candidates(&self, tell: impl FnOnce(&mut Candidates)) {
        tell(self.draft.lock().candidates());
    }

    /// Wakes the thread and waits until a record that fulfils `holds` is acknowledged or the session is
    /// over; answers that record's ceiling.
    fn wait(
        &self,
        mut draft: parking_lot::MutexGuard<'_, Draft>,
        ending: &Ending,
        holds: impl Fn(&StateRecord) -> bool,
    ) -> Lsn {
        self.asked.notify_one();
        loop {
            match draft.acknowledged() {
                Some(record) if holds(record) => return record.ceiling,
                _ if ending.is_over() => return Lsn::ZERO,
                _ => self.acknowledged.wait_for(&mut draft, LOOK),
            };
        }
    }

    fn run(&self, mut parts: RecorderParts) {
        let mut last = None;
        while !parts.ending.is_over() {
            let Some(next) = self.due(&parts, last) else { continue };
            match parts.store.write(&next.record, &parts.ending) {
                Ok(()) => {
                    last = Some(Instant::now());
                    self.acknowledge(&parts, next);
                    parts.store.read_no_more();
                }
                Err(StoreError::Over) => return,
                Err(error @ StoreError::Fenced { .. }) => parts.ending.end(End::Fenced(error.to_string())),
                Err(error) => parts.ending.end(End::halt(&error)),
            }
        }
    }

    /// Waits a moment; answers the record that has to be written now, if any.
    fn due(&self, parts: &RecorderParts, last: Option<Instant>) -> Option<Next> {
        let mut draft = self.draft.lock();
        if !draft.is_urgent() && last.is_some() {
            self.asked.wait_for(&mut draft, LOOK);
        }
        let confirmed = parts.confirmations.newest();
        let waited = last.map_or(Duration::ZERO, |last| last.elapsed());
        let next = draft.due(&confirmed, waited, &parts.settings, jiff::Timestamp::now());
        if next.is_none() {
            // Belief may come between two records; feedback then carries what is recorded already.
            let_feedback_follow(&draft, parts);
        }
        next
    }

    fn acknowledge(&self, parts: &RecorderParts, next: Next) {
        let mut draft = self.draft.lock();
        parts.observed.state_records.add(1);
        parts.observed.epoch.set(next.record.epoch);
        draft.acknowledge(next);
        let_feedback_follow(&draft, parts);
        self.acknowledged.notify_all();
    }
}

fn let_feedback_follow(draft: &Draft, parts: &RecorderParts) {
    if let Some(position) = draft.feedback() {
        parts.positions.record(position);
        parts.observed.recorded.set(position.0);
    }
}
