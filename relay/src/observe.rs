//! What the running relay lets be seen: plain atomics and a few short texts, written on the data path
//! without a lock and read by the admin port.

mod cleanup;
mod slot_log;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

pub use cleanup::{CleanupLook, Kept};
pub use slot_log::{SlotLog, WalStatus};

use crate::config::Loss;
use crate::lsn::Lsn;

/// Where a lane stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Connecting to PostgreSQL or between two attempts.
    Connecting,
    /// Another relay owns the lane or the slot; this one waits.
    Standby,
    /// Owns lane and slot; fences others and reads the state record.
    Recovering,
    /// Publishes from the table, before it streams.
    Filling,
    /// Publishes from the slot.
    Streaming,
    /// Was told to stop; finishes what it has in flight.
    Draining,
    /// Stopped for good; the reason is the last error.
    Halted,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Phase; 7] = [
        Phase::Connecting,
        Phase::Standby,
        Phase::Recovering,
        Phase::Filling,
        Phase::Streaming,
        Phase::Draining,
        Phase::Halted,
    ];

    /// The phase's name in `/status`, in metric labels and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Standby => "standby",
            Phase::Recovering => "recovering",
            Phase::Filling => "filling",
            Phase::Streaming => "streaming",
            Phase::Draining => "draining",
            Phase::Halted => "halted",
        }
    }
}

/// One value that only ever is set or added to; never read to decide anything on the data path.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
    /// Adds to the value.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Relaxed);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is seen of one lane. Shared by everything that runs for it.
#[derive(Debug)]
pub struct Observed {
    /// Newest position seen on the replication connection.
    pub received: Gauge,
    /// End of the longest prefix of published transactions.
    pub confirmed: Gauge,
    /// Position in the acknowledged state record; what feedback carries.
    pub recorded: Gauge,
    /// The server's flush position at the last look.
    pub server_wal: Gauge,
    /// `confirmed_flush_lsn` of the slot at the last look.
    pub slot_confirmed: Gauge,
    /// Records acknowledged by the broker.
    pub published_records: Gauge,
    /// Value and key bytes of those.
    pub published_bytes: Gauge,
    /// Transactions whose every record was acknowledged.
    pub published_transactions: Gauge,
    /// Rows passed over because the state record says they are published.
    pub skipped_rows: Gauge,
    /// Changes that are not an insert into the outbox.
    pub foreign_changes: Gauge,
    /// Messages of the outbox's prefix that were passed over, since they are not transactional.
    pub refused_messages: Gauge,
    /// Records handed over and not yet acknowledged.
    pub in_flight_records: Gauge,
    /// Bytes handed over and not yet acknowledged.
    pub in_flight_bytes: Gauge,
    /// Rows put into the quarantine.
    pub quarantined_rows: Gauge,
    /// Entries of the quarantine that were published or discarded.
    pub quarantine_settled: Gauge,
    /// Entries of the quarantine that are neither.
    pub quarantine_open: Gauge,
    /// Keys whose events queue up behind one that cannot be published.
    pub held_keys: Gauge,
    /// Sessions begun after the first.
    pub reconnects: Gauge,
    /// State records acknowledged.
    pub state_records: Gauge,
    /// Kafka transactions committed, with exactly one delivery.
    pub kafka_commits: Gauge,
    /// Kafka transactions with events that were aborted.
    pub kafka_aborts: Gauge,
    /// Events in the committed ones.
    pub kafka_committed_records: Gauge,
    /// Microseconds from the last acknowledgement in them to their commit.
    pub kafka_commit_micros: Gauge,
    /// PostgreSQL transactions that were published in several Kafka transactions.
    pub split_transactions: Gauge,
    /// Commit time of the newest wholly published transaction, Unix milliseconds; 0 before the first.
    pub published_commit_millis: Gauge,
    /// Rows that were published from the table and not from the stream.
    pub filled_rows: Gauge,
    /// Epoch of the stream.
    pub epoch: Gauge,
    /// TCP segments with data received on the replication connections; 0 where the kernel does not say.
    pub replication_segments: Gauge,
    fills: [Gauge; Loss::ALL.len()],
    /// Rows removed by the clean-up.
    pub cleaned_rows: Gauge,
    /// Buckets emptied by it.
    pub cleaned_buckets: Gauge,
    kept: [Gauge; Kept::ALL.len()],
    text: Mutex<Texts>,
}

#[derive(Debug)]
struct Texts {
    phase: Phase,
    phase_since: Instant,
    detail: Option<String>,
    last_error: Option<(SystemTime, String)>,
    grown: Vec<Grown>,
    slot_log: SlotLog,
    cleanup: CleanupLook,
}

/// A topic with more partitions than its keys are spread over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grown {
    /// The topic.
    pub topic: String,
    /// Partitions that its keys are spread over.
    pub pinned: u32,
    /// Partitions that the cluster shows.
    pub found: u32,
}

impl Default for Observed {
    fn default() -> Self {
        Self::new()
    }
}

impl Observed {
    /// Nothing seen yet.
    pub fn new() -> Self {
        let g = Gauge::default;
        Observed {
            received: g(),
            confirmed: g(),
            recorded: g(),
            server_wal: g(),
            slot_confirmed: g(),
            published_records: g(),
            published_bytes: g(),
            published_transactions: g(),
            skipped_rows: g(),
            foreign_changes: g(),
            refused_messages: g(),
            in_flight_records: g(),
            in_flight_bytes: g(),
            quarantined_rows: g(),
            quarantine_settled: g(),
            quarantine_open: g(),
            held_keys: g(),
            reconnects: g(),
            state_records: g(),
            kafka_commits: g(),
            kafka_aborts: g(),
            kafka_committed_records: g(),
            kafka_commit_micros: g(),
            split_transactions: g(),
            published_commit_millis: g(),
            filled_rows: g(),
            epoch: g(),
            replication_segments: g(),
            fills: Default::default(),
            cleaned_rows: g(),
            cleaned_buckets: g(),
            kept: Default::default(),
            text: Mutex::new(Texts {
                phase: Phase::Connecting,
                phase_since: Instant::now(),
                detail: None,
                last_error: None,
                grown: Vec::new(),
                slot_log: SlotLog::default(),
                cleanup: CleanupLook::default(),
            }),
        }
    }

    /// Enters a phase; `detail` says in words what is waited for, if anything is.
    pub fn enter(&self, phase: Phase, detail: Option<String>) {
        let mut text = self.text.lock();
        if text.phase != phase {
            text.phase = phase;
            text.phase_since = Instant::now();
        }
        text.detail = detail;
    }

    /// The phase, since when, and what is waited for.
    pub fn phase(&self) -> (Phase, Instant, Option<String>) {
        let text = self.text.lock();
        (text.phase, text.phase_since, text.detail.clone())
    }

    /// Says what is waited for without leaving the phase; `None` when nothing is.
    pub fn waiting_for(&self, detail: Option<String>) {
        self.text.lock().detail = detail;
    }

    /// Keeps the newest error for `/status`. Never holds payloads or secrets.
    pub fn error(&self, message: String) {
        self.text.lock().last_error = Some((SystemTime::now(), message));
    }

    /// The newest error and when it happened.
    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        self.text.lock().last_error.clone()
    }

    /// A loss was answered with a fill.
    pub fn filled(&self, loss: Loss) {
        self.fills[loss as usize].add(1);
    }

    /// Fills by the loss that they answered.
    pub fn fills(&self) -> impl Iterator<Item = (Loss, u64)> {
        Loss::ALL.into_iter().zip(&self.fills).map(|(loss, count)| (loss, count.get()))
    }

    /// Keeps which topics have grown.
    pub fn topics_grown(&self, grown: Vec<Grown>) {
        self.text.lock().grown = grown;
    }

    /// The topics that have grown, by name.
    pub fn grown_topics(&self) -> Vec<Grown> {
        self.text.lock().grown.clone()
    }

    /// Keeps what the server says of the slot's log; answers what it said before.
    pub fn slot_log_is(&self, now: SlotLog) -> SlotLog {
        std::mem::replace(&mut self.text.lock().slot_log, now)
    }

    /// What the server said last of the slot's log.
    pub fn slot_log(&self) -> SlotLog {
        self.text.lock().slot_log
    }

    /// Counts that rows were left, and why.
    pub fn kept(&self, why: Kept) {
        self.counted(why).add(1);
    }

    /// How often rows were left for this reason.
    pub fn kept_so_often(&self, why: Kept) -> u64 {
        self.counted(why).get()
    }

    fn counted(&self, why: Kept) -> &Gauge {
        // In the order of their declaration, which is that of `ALL`.
        &self.kept[why as usize]
    }

    /// Changes what is shown of the clean-up; answers what was shown before.
    pub fn cleanup_shows(&self, change: impl FnOnce(&mut CleanupLook)) -> CleanupLook {
        let mut text = self.text.lock();
        let before = text.cleanup.clone();
        change(&mut text.cleanup);
        before
    }

    /// What the newest look of the clean-up found.
    pub fn cleanup(&self) -> CleanupLook {
        self.text.lock().cleanup.clone()
    }

    /// Position helper: the gauge as an LSN.
    pub fn lsn(gauge: &Gauge) -> Lsn {
        Lsn(gauge.get())
    }
}
