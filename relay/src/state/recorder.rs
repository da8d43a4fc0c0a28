//! The thread that keeps the state record: what the ledger confirmed goes to Kafka first, and only what
//! Kafka has acknowledged goes into feedback (R33). With exactly one delivery it goes there in the Kafka transaction that
//! holds the events, which this thread cuts.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::draft::{Draft, Next};
use super::record::ListedEntry;
use super::store::{Store, StoreError};
use super::together::Together;
use super::{Candidates, PublishedSnapshot, StateRecord};
use crate::config::{DeliverySettings, StateSettings};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::publisher::{Confirmations, Held};
use crate::quarantine::desk::Outcome;
use crate::reader::Positions;
use crate::session::{End, Ending};

/// How often the thread looks for something to record when nobody wakes it.
const LOOK: Duration = Duration::from_millis(100);

/// The same where the end of a Kafka transaction may be due.
const GLANCE: Duration = Duration::from_millis(10);

/// How long what is in flight is waited for before it is looked at again.
const SETTLED: Duration = Duration::from_micros(300);

/// Lag above which a Kafka transaction stays open for longer.
const FAR_BEHIND: Duration = Duration::from_secs(1);

/// How many times as long, and how long at most.
const LONGER: u32 = 20;
const LONGEST: Duration = Duration::from_secs(2);

/// Where the record is written.
pub enum Place {
    /// By a small producer of its own.
    Apart(Box<Store>),
    /// In the Kafka transactions that hold the events.
    Together(Box<Together>, DeliverySettings),
}

/// Asks for records and waits for them. Shared by the router and the session.
pub struct Recorder {
    draft: Mutex<Draft>,
    /// Whether the record is committed together with the events that rely on it, so that nobody has to wait for it.
    together: bool,
    asked: Condvar,
    acknowledged: Condvar,
}

/// What the thread works with.
pub struct RecorderParts {
    /// The fenced place of the record.
    pub place: Place,
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
            together: matches!(parts.place, Place::Together(..)),
            asked: Condvar::new(),
            acknowledged: Condvar::new(),
        });
        let mine = recorder.clone();
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || mine.run(parts))?;
        Ok((recorder, thread))
    }

    /// Whether the record is committed together with the events that rely on it: what is asked of it holds for all that is
    /// sent from then on, without waiting.
    pub fn is_one_with_events(&self) -> bool {
        self.together
    }

    /// Carries out decisions about the quarantine: they are in the record until they are written down there.
    pub fn carry(&self, carried: Vec<Outcome>) {
        self.draft.lock().carry(carried);
    }

    /// Looks now whether anything is due.
    pub fn wake(&self) {
        self.asked.notify_one();
    }

    /// Records the partition count of a topic before its first record is sent (R40).
    pub fn pin(&self, topic: &str, partitions: u32, ending: &Ending) {
        let mut draft = self.draft.lock();
        draft.pin(topic, partitions);
        if self.together {
            return;
        }
        self.wait(draft, ending, |record| record.partitions.get(topic) == Some(&partitions));
    }

    /// Records a ceiling at or above `lsn` before anything beyond the old one is sent (R43).
    pub fn raise_ceiling(&self, lsn: Lsn, ending: &Ending) -> Lsn {
        let mut draft = self.draft.lock();
        draft.raise_ceiling(lsn);
        if self.together {
            return draft.acknowledged().map_or(lsn, |record| record.ceiling.max(lsn));
        }
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

    fn run(&self, parts: RecorderParts) {
        let RecorderParts { place, .. } = parts;
        let parts = Rest {
            confirmations: parts.confirmations,
            positions: parts.positions,
            settings: parts.settings,
            observed: parts.observed,
            ending: parts.ending,
        };
        match place {
            Place::Apart(store) => self.run_apart(*store, &parts),
            Place::Together(together, delivery) => {
                let mut together = *together;
                self.run_together(&mut together, &delivery, &parts);
                if together.leave() {
                    parts.observed.kafka_aborts.add(1);
                }
            }
        }
    }

    fn run_apart(&self, mut store: Store, parts: &Rest) {
        let mut last = None;
        while !parts.ending.is_over() {
            let Some(next) = self.due(parts, last) else { continue };
            match store.write(&next.record, &parts.ending) {
                Ok(()) => {
                    last = Some(Instant::now());
                    self.acknowledge(parts, next);
                    store.read_no_more();
                }
                Err(StoreError::Over) => return,
                Err(error @ StoreError::Fenced { .. }) => parts.ending.end(End::Fenced(error.to_string())),
                Err(error) => parts.ending.end(End::halt(&error)),
            }
        }
    }

    fn run_together(&self, together: &mut Together, delivery: &DeliverySettings, parts: &Rest) {
        let mut last = None;
        while !parts.ending.is_over() {
            if !self.is_cut_due(together, delivery, parts, last) {
                continue;
            }
            match self.cut(together, parts) {
                Ok(Some(())) => {
                    last = Some(Instant::now());
                    together.read_no_more();
                }
                Ok(None) => return,
                Err(end) => parts.ending.end(end),
            }
        }
    }

    /// Waits a moment; answers whether the Kafka transaction has to end.
    fn is_cut_due(
        &self,
        together: &mut Together,
        delivery: &DeliverySettings,
        parts: &Rest,
        last: Option<Instant>,
    ) -> bool {
        let mut draft = self.draft.lock();
        if last.is_some() {
            self.asked.wait_for(&mut draft, GLANCE);
        }
        let confirmed = parts.confirmations.newest();
        let waited = last.map_or(Duration::ZERO, |last| last.elapsed());
        let held = together.gate.held();
        // A stream that stands still is not behind, however old what came last: nobody waits for more of it.
        let flows = together.window.records() > 0 || together.grows(held.records);
        let lag = if flows { parts.positions.lag() } else { Duration::ZERO };
        let due = ends(&held, delivery, lag) || draft.is_due(&confirmed, waited, &parts.settings);
        if !due {
            let_feedback_follow(&draft, parts);
        }
        due
    }

    /// Ends the Kafka transaction between two PostgreSQL transactions, when the broker has all that was handed over and
    /// the ledger has confirmed it. `None` when the session is over.
    fn cut(&self, together: &mut Together, parts: &Rest) -> Result<Option<()>, End> {
        let Some(end) = together.gate.close(&parts.ending) else { return Ok(None) };
        let confirmed = loop {
            if parts.ending.is_over() {
                return Ok(None);
            }
            let confirmed = parts.confirmations.newest();
            if together.window.records() == 0 && !together.has_failed() && confirmed.end_lsn >= end {
                break confirmed;
            }
            parts.ending.pause(SETTLED);
        };
        let began = Instant::now();
        let held = together.gate.held();
        let next = self.draft.lock().next(&confirmed, jiff::Timestamp::now());
        if together.commit(&next.record, &parts.ending)?.is_none() {
            return Ok(None);
        }
        let observed = &parts.observed;
        observed.kafka_commits.add(1);
        observed.kafka_committed_records.add(held.records);
        observed.kafka_commit_micros.add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.acknowledge(parts, next);
        together.gate.open();
        Ok(Some(()))
    }

    /// Waits a moment; answers the record that has to be written now, if any.
    fn due(&self, parts: &Rest, last: Option<Instant>) -> Option<Next> {
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

    fn acknowledge(&self, parts: &Rest, next: Next) {
        let mut draft = self.draft.lock();
        parts.observed.state_records.add(1);
        parts.observed.epoch.set(next.record.epoch);
        draft.acknowledge(next);
        let_feedback_follow(&draft, parts);
        self.acknowledged.notify_all();
    }
}

/// What the thread works with beside the place.
struct Rest {
    confirmations: Arc<Confirmations>,
    positions: Arc<Positions>,
    settings: StateSettings,
    observed: Arc<Observed>,
    ending: Arc<Ending>,
}

/// Whether a Kafka transaction that holds so much has to end, for a stream that is so far behind.
fn ends(held: &Held, delivery: &DeliverySettings, lag: Duration) -> bool {
    let usual = delivery.commit_interval;
    let interval = if lag > FAR_BEHIND { usual.max((usual * LONGER).min(LONGEST)) } else { usual };
    let full = held.records >= delivery.max_records || held.bytes >= delivery.max_bytes;
    held.wanted || held.records > 0 && (full || held.age >= interval)
}

fn let_feedback_follow(draft: &Draft, parts: &Rest) {
    if let Some(position) = draft.feedback() {
        parts.positions.record(position);
        parts.observed.recorded.set(position.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Guarantee, Larger};

    #[test]
    fn a_kafka_transaction_ends_by_time_count_or_bytes_and_later_far_behind() {
        let delivery = DeliverySettings {
            guarantee: Guarantee::ExactlyOnce,
            commit_interval: Duration::from_millis(100),
            max_records: 1_000,
            max_bytes: 10_000,
            max_transaction_records: 1_000_000,
            larger: Larger::Halt,
            transaction_timeout: Duration::from_secs(60),
        };
        let held = |records, bytes, millis| Held {
            records,
            bytes,
            age: Duration::from_millis(millis),
            wanted: false,
        };
        let (near, far) = (Duration::from_millis(900), Duration::from_millis(1_100));
        assert!(!ends(&held(0, 0, 0), &delivery, near), "it holds nothing");
        assert!(!ends(&held(1, 1, 99), &delivery, near) && ends(&held(1, 1, 100), &delivery, near));
        assert!(!ends(&held(1, 1, 1_999), &delivery, far) && ends(&held(1, 1, 2_000), &delivery, far));
        assert!(ends(&held(1_000, 1, 0), &delivery, far) && ends(&held(1, 10_000, 0), &delivery, far));
        assert!(ends(&Held { wanted: true, ..Held::default() }, &delivery, near));
        let slow = DeliverySettings { commit_interval: Duration::from_secs(5), ..delivery };
        assert!(!ends(&held(1, 1, 4_999), &slow, far) && ends(&held(1, 1, 5_000), &slow, far));
    }
}
