//! Everything that is seen of a consumer at one moment: the answer of `/status`, and what the metrics read, so that the
//! two can never disagree. Field names are an interface: `docs/consumer-metrics.md` describes them, fields may be
//! added, none changes its meaning.

use std::collections::BTreeMap;

use serde::Serialize;

/// Everything that is seen.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) consumer: Who,
    /// `running`, `draining` or `halted`.
    pub(crate) phase: &'static str,
    pub(crate) halted: Option<String>,
    pub(crate) kafka: Kafka,
    pub(crate) in_hand: InHand,
    pub(crate) isolation: Isolation,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) pool: Option<Pool>,
    pub(crate) parked: Option<Parked>,
    pub(crate) park: Option<Park>,
    pub(crate) totals: Totals,
}

/// Who answers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: &'static str,
    pub(crate) uptime_seconds: u64,
}

/// What is known of the cluster.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kafka {
    pub(crate) answered_seconds_ago: Option<f64>,
    /// What was said of a connection that could not be made, since the last answer.
    pub(crate) trouble: Option<String>,
}

/// What was read and is not settled.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct InHand {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) ready_keys: usize,
    pub(crate) running: usize,
    pub(crate) full: bool,
}

/// Whether a record is suspected of killing the process.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Isolation {
    pub(crate) on: bool,
    pub(crate) suspects: usize,
}

/// A partition that is assigned.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) epoch: u32,
    pub(crate) committed: i64,
    pub(crate) frontier: i64,
    pub(crate) end: Option<i64>,
    pub(crate) lag_records: Option<i64>,
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) unsettled: usize,
    pub(crate) oldest_unsettled_seconds: f64,
    pub(crate) running: usize,
    pub(crate) paused: bool,
    pub(crate) unclean_starts: u16,
}

/// Connections to the database.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pool {
    pub(crate) size: usize,
    pub(crate) in_use: usize,
    pub(crate) idle: usize,
    pub(crate) waiting: usize,
    pub(crate) waits: u64,
    pub(crate) opened: u64,
    pub(crate) lost: u64,
}

/// The park table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Parked {
    pub(crate) waiting_keys: u64,
    pub(crate) waiting_by_rung: Vec<u64>,
    pub(crate) held_keys: u64,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest_seconds: f64,
    pub(crate) asked_seconds_ago: f64,
}

/// How much the park table may hold.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Park {
    /// This instance found no room in it within the last half minute.
    pub(crate) full: bool,
    pub(crate) most_events_of_key: u32,
    pub(crate) most_events: u32,
    pub(crate) most_bytes: u64,
}

/// Counted since the process began.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Totals {
    pub(crate) commits: u64,
    pub(crate) commits_failed: u64,
    pub(crate) partitions_assigned: u64,
    pub(crate) partitions_revoked: u64,
    pub(crate) partitions_lost: u64,
    /// Partitions that the client did not read although it was to, and that were taken on again.
    pub(crate) standstills: u64,
    /// Partitions that did not begin where they were left, by why.
    pub(crate) offset_jumps: BTreeMap<&'static str, u64>,
    pub(crate) read: Vec<Read>,
    pub(crate) events: Vec<Events>,
}

/// What was read of a partition.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Read {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) restarts: u64,
}

/// What became of the events of a type.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Events {
    pub(crate) topic: String,
    pub(crate) event_type: String,
    pub(crate) attempts: BTreeMap<&'static str, u64>,
    pub(crate) settled: BTreeMap<&'static str, u64>,
    /// By rung: `in_place`, `0`, `1` and so on; those that there were.
    pub(crate) retries: BTreeMap<String, u64>,
    pub(crate) dead_letters: BTreeMap<&'static str, u64>,
    pub(crate) same_record_failures: u64,
}
