//! The answer of `/status`. Field names are an interface: they are described in `docs/metrics.md`,
//! fields may be added, none changes its meaning.
//!
//! The metrics read the same struct, so the two can never disagree.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::lsn::Lsn;
use crate::observe::{Grown, Kept};

/// The answer: a lane's status, or of a relay with a list of lanes all of them.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Page {
    /// The one lane of a relay without a list.
    One(Box<Status>),
    /// The lanes of a list.
    Lanes(Lanes),
}

/// All lanes of a relay.
#[derive(Debug, Clone, Serialize)]
pub struct Lanes {
    /// Who answers.
    pub relay: Program,
    /// Whether `/ready` answers 200: every lane is ready.
    pub ready: bool,
    /// If not, which lanes are not, and why.
    pub reason: Option<String>,
    /// Each of them, by number.
    pub lanes: Vec<Status>,
}

/// The program that runs the lanes.
#[derive(Debug, Clone, Serialize)]
pub struct Program {
    /// The relay's name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Whole seconds since the process began.
    pub uptime_seconds: u64,
}

/// The answer for these lanes.
pub(super) fn page(mut lanes: Vec<Status>) -> Page {
    let reason = reason(&lanes);
    match lanes.first() {
        Some(Status { lane: Some(_), relay, .. }) => {
            let Relay { name, version, uptime_seconds, .. } = relay.clone();
            let relay = Program { name, version, uptime_seconds };
            Page::Lanes(Lanes { relay, ready: reason.is_none(), reason, lanes })
        }
        Some(_) | None => Page::One(Box::new(lanes.swap_remove(0))),
    }
}

/// Why the relay is not ready: the reasons of its lanes, by their names where they have some.
pub(super) fn reason(lanes: &[Status]) -> Option<String> {
    let reasons = lanes.iter().filter_map(|status| {
        let reason = status.reason.as_ref()?;
        Some(status.lane.as_ref().map_or_else(|| reason.clone(), |lane| format!("lane {lane}: {reason}")))
    });
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Everything that is seen of a lane at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The lane, where lanes are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Who answers.
    pub relay: Relay,
    /// Where the lane stands in its life, a [`crate::observe::Phase::name`].
    pub phase: &'static str,
    /// Whole seconds since it entered that phase.
    pub phase_seconds: u64,
    /// What is waited for, in words.
    pub waiting_for: Option<String>,
    /// Whether `/ready` answers 200.
    pub ready: bool,
    /// If not, why.
    pub reason: Option<String>,
    /// Epoch of the stream.
    pub epoch: u64,
    /// Positions in the server's log; `0/0` is not known yet.
    pub positions: Positions,
    /// How far behind the relay is.
    pub lag: Lag,
    /// What the server keeps for the slot.
    pub slot: Slot,
    /// Topics of events.
    pub topics: Topics,
    /// Handed over to the broker and not yet acknowledged.
    pub in_flight: Volume,
    /// Averages over the last ten seconds.
    pub rates: Rates,
    /// How often an event comes, and the Kafka transactions that see to it.
    pub delivery: Delivery,
    /// Rows that cannot be published, and what waits behind them.
    pub quarantine: Quarantine,
    /// The outbox table, and what is removed from it.
    pub cleanup: Cleanup,
    /// Counted since the process began.
    pub totals: Totals,
    /// The newest error, if there was one; it may be long over.
    pub last_error: Option<LastError>,
    /// The process.
    pub process: Process,
}

/// Who answers.
#[derive(Debug, Clone, Serialize)]
pub struct Relay {
    /// The relay's name.
    pub name: String,
    /// Its replication slot.
    pub slot: String,
    /// Its publication.
    pub publication: String,
    /// Version of the program.
    pub version: String,
    /// Whole seconds since the process began.
    pub uptime_seconds: u64,
}

/// Positions in the server's log, as PostgreSQL writes them.
#[derive(Debug, Clone, Serialize)]
pub struct Positions {
    /// Newest position seen on the replication connection.
    pub received: Lsn,
    /// End of the longest prefix of published transactions.
    pub confirmed: Lsn,
    /// Position in the acknowledged state record.
    pub recorded: Lsn,
    /// `confirmed_flush_lsn` of the slot at the last look.
    pub slot_confirmed_flush: Lsn,
    /// The server's flush position at the last look.
    pub server_wal: Lsn,
}

/// How far behind the relay is. `null` is not known.
#[derive(Debug, Clone, Serialize)]
pub struct Lag {
    /// Bytes of log between the recorded position and the server's: a distance for people, never used
    /// as a position.
    pub bytes: Option<u64>,
    /// The same distance for the slot: log the server keeps for it.
    pub slot_bytes: Option<u64>,
    /// Seconds since the server's log passed the recorded position; 0 when everything is recorded. Where
    /// that was before the relay looked, the age of the newest wholly published commit.
    pub seconds: Option<f64>,
}

/// What the server keeps for the slot, at the last look. `null` is not known.
#[derive(Debug, Clone, Serialize)]
pub struct Slot {
    /// `wal_status`, a [`crate::observe::WalStatus::name`].
    pub wal_status: Option<&'static str>,
    /// `safe_wal_size`; `null` where the server keeps log without limit, too.
    pub safe_wal_bytes: Option<i64>,
    /// `max_slot_wal_keep_size`; `null` where it is without limit, too.
    pub keep_limit_bytes: Option<i64>,
}

/// Topics of events.
#[derive(Debug, Clone, Serialize)]
pub struct Topics {
    /// Those with more partitions than their keys are spread over.
    pub grown: Vec<Grown>,
}

/// An amount of records.
#[derive(Debug, Clone, Serialize)]
pub struct Volume {
    /// How many.
    pub records: u64,
    /// Their value and key bytes.
    pub bytes: u64,
}

/// Averages over the last ten seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Rates {
    /// Records acknowledged by the broker.
    pub records_per_second: f64,
    /// Value and key bytes of those.
    pub bytes_per_second: f64,
    /// TCP segments with data received on the replication connection per published transaction; `null` while
    /// none is published, or where the kernel does not say.
    pub segments_per_transaction: Option<f64>,
}

/// How often an event comes, and the Kafka transactions that see to it; those are zero with at-least-once delivery.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    /// `delivery.guarantee` in force.
    pub guarantee: &'static str,
    /// Kafka transactions committed.
    pub transactions_committed: u64,
    /// Kafka transactions with events that were aborted.
    pub transactions_aborted: u64,
    /// Events in the committed ones.
    pub committed_records: u64,
    /// The average of a committed one, those with the state record alone included; `null` before the first.
    pub records_per_transaction: Option<f64>,
    /// Time spent in ending them: from the last acknowledgement to the commit.
    pub commit_seconds: f64,
    /// PostgreSQL transactions that were published in several Kafka transactions (`delivery.larger`).
    pub split_transactions: u64,
}

/// Rows that cannot be published, and what waits behind them.
#[derive(Debug, Clone, Serialize)]
pub struct Quarantine {
    /// Entries that are neither published nor discarded, as the relay knows them.
    pub open: u64,
    /// Keys whose events queue up behind one that cannot be published.
    pub held_keys: u64,
}

/// The outbox table, and what is removed from it. `null` is not known.
#[derive(Debug, Clone, Serialize)]
pub struct Cleanup {
    /// `cleanup.mode` in force.
    pub mode: Option<&'static str>,
    /// When the newest look was.
    pub looked_at: Option<jiff::Timestamp>,
    /// What came of it, in words.
    pub result: Option<String>,
    /// Buckets that are due and were left at that look; with `delete` 1 where rows were.
    pub held_up: u64,
    /// When rows were removed last.
    pub cleaned_at: Option<jiff::Timestamp>,
    /// How often rows were left, by reason; only those that came up.
    pub kept: Vec<KeptCount>,
    /// The table with its indexes.
    pub table_bytes: Option<u64>,
    /// Age of about the oldest row.
    pub oldest_row_seconds: Option<u64>,
}

impl Cleanup {
    /// How often rows were left for this reason.
    pub fn kept_for(&self, why: Kept) -> u64 {
        self.kept.iter().find(|kept| kept.reason == why.name()).map_or(0, |kept| kept.count)
    }
}

/// How often rows were left for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct KeptCount {
    /// A [`Kept::name`].
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Counted since the process began.
#[derive(Debug, Clone, Serialize)]
pub struct Totals {
    /// Records acknowledged by the broker, repetitions after a restart included.
    pub records: u64,
    /// Value and key bytes of those.
    pub bytes: u64,
    /// Transactions whose every record was acknowledged.
    pub transactions: u64,
    /// Rows passed over because the state record says they are published.
    pub skipped_rows: u64,
    /// Rows published from the table and not from the stream.
    pub filled_rows: u64,
    /// Gaps that were filled from the table, by what had been lost: the keys of `recovery`.
    pub fills: BTreeMap<&'static str, u64>,
    /// Changes in the stream that are not an insert into the outbox.
    pub foreign_changes: u64,
    /// Messages of the outbox's prefix that were passed over, since they are not transactional.
    pub refused_messages: u64,
    /// Rows put into the quarantine.
    pub quarantined_rows: u64,
    /// Entries of the quarantine that were published or discarded.
    pub quarantine_settled: u64,
    /// Rows removed by the clean-up.
    pub cleaned_rows: u64,
    /// Buckets emptied by it.
    pub cleaned_buckets: u64,
    /// State records acknowledged.
    pub state_records: u64,
    /// Sessions begun after the first.
    pub reconnects: u64,
    /// TCP segments with data received on the replication connections.
    pub replication_segments: u64,
}

/// An error and when it happened.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// RFC 3339, UTC.
    pub at: jiff::Timestamp,
    /// What happened; never a payload, never a secret.
    pub message: String,
}

/// The process.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Memory in RAM; `null` where the system does not say.
    pub resident_memory_bytes: Option<u64>,
}
