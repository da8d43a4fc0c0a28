//! What is measured, and how often.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Keys of the events, but where their number is what is compared.
pub const KEYS: u32 = 10_000;

/// Handlers at once, and connections, where a database is written to.
pub const CONNECTIONS: usize = 16;

/// Handlers at once that sleep.
pub const SLEEPERS: usize = 256;

/// Most events of one commit, where they are grouped.
pub const GROUP: usize = 50;

/// Events handled before time counts, where a database or a clock sets the pace.
pub const SLOW_WARM_UP: u64 = 1_000;

/// Groups of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Part {
    /// A handler that does nothing, beside the bare loop.
    Nothing,
    /// The same with a short backlog.
    Backlog,
    /// The same with few keys and with many.
    Keys,
    /// A handler that sleeps for a millisecond.
    Sleep,
    /// An update in PostgreSQL, beside `pgbench`.
    Postgres,
    /// Record to commit.
    Latency,
}

/// One measurement from its first to its last run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What of it; everything where it is empty.
    pub only: Vec<Part>,
    /// Runs of each case.
    pub pairs: usize,
    /// Seeds keys and payloads.
    pub seed: u64,
    /// PostgreSQL's major version.
    pub postgres: u32,
    /// Counts.
    pub counts: Counts,
    /// A file that is locked during every measured run, on a machine that others use in between.
    pub lock: Option<PathBuf>,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counts {
    /// Events of a full topic: the long backlog.
    pub backlog: u64,
    /// Events of the topics with few and with many keys.
    pub keyed: u64,
    /// Of these few keys.
    pub few_keys: u32,
    /// And these many.
    pub many_keys: u32,
    /// Events handled before time counts.
    pub warm_up: u64,
    /// Events of the short backlog.
    pub burst: u64,
    /// Short backlogs of one run.
    pub bursts: u64,
    /// Events for handlers that sleep, uniform keys.
    pub sleep: u64,
    /// The same by Zipf: the most frequent key sets the pace.
    pub sleep_zipf: u64,
    /// Events with a commit each.
    pub one_by_one: u64,
    /// Events with shared commits.
    pub grouped: u64,
    /// Seconds of `pgbench`.
    pub pgbench_seconds: u64,
    /// Events a second of the open loop.
    pub rate: u64,
    /// Its runs.
    pub latency_runs: usize,
    /// Seconds of one.
    pub latency_seconds: u64,
}

impl Counts {
    /// What a report is made of.
    pub const FULL: Counts = Counts {
        backlog: 2_000_000,
        keyed: 1_000_000,
        few_keys: 1_000,
        many_keys: 1_000_000,
        warm_up: 100_000,
        burst: 10_000,
        bursts: 20,
        sleep: 200_000,
        sleep_zipf: 30_000,
        one_by_one: 40_000,
        grouped: 120_000,
        pgbench_seconds: 8,
        rate: 1_000,
        latency_runs: 5,
        latency_seconds: 10,
    };

    /// Enough to see that it runs.
    pub const QUICK: Counts = Counts {
        backlog: 200_000,
        keyed: 200_000,
        few_keys: 1_000,
        many_keys: 1_000_000,
        warm_up: 50_000,
        burst: 10_000,
        bursts: 4,
        sleep: 20_000,
        sleep_zipf: 3_000,
        one_by_one: 4_000,
        grouped: 20_000,
        pgbench_seconds: 1,
        rate: 1_000,
        latency_runs: 1,
        latency_seconds: 2,
    };
}

impl Plan {
    /// Whether it is to be measured.
    pub fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
