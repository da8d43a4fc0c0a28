//! What is measured, and how often.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::bench::plan::Shape;

/// Groups of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Part {
    /// A backlog in the outbox, drained.
    Capture,
    /// Commit to consumer at a steady rate.
    Latency,
    /// A topic, consumed.
    Consume,
}

/// One measurement from its first to its last run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What of it; everything where it is empty.
    pub only: Vec<Part>,
    /// Only systems whose names hold this, and our own.
    pub systems: Option<String>,
    /// Rounds.
    pub pairs: usize,
    /// Seeds the payloads.
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
    /// Rows at a hundred per transaction.
    pub hundreds: u64,
    /// Rows at one per transaction.
    pub singles: u64,
    /// Events for a handler that does nothing.
    pub nothing: u64,
    /// The same for those that take more than ten times as long.
    pub nothing_slow: u64,
    /// Events for a handler that sleeps.
    pub sleep: u64,
    /// The same for hundreds of handlers.
    pub sleep_fast: u64,
    /// The same for one thread.
    pub sleep_slow: u64,
    /// Events with a commit each.
    pub one: u64,
    /// The same for one thread.
    pub one_slow: u64,
    /// Events with shared commits.
    pub shared: u64,
    /// The same for lists of thousands: enough for many of them.
    pub shared_lists: u64,
    /// Transactions a second of the open loop.
    pub rate: u64,
    /// Its runs.
    pub latency_runs: usize,
    /// Seconds of one.
    pub latency_seconds: u64,
    /// Seconds before the first of them: virtual machines compile.
    pub settle: u64,
}

impl Counts {
    /// What a report is made of. At the rates that were seen no run takes longer than half a minute.
    pub const FULL: Counts = Counts {
        hundreds: 1_000_000,
        singles: 500_000,
        nothing: 2_000_000,
        nothing_slow: 600_000,
        sleep: 60_000,
        sleep_fast: 200_000,
        sleep_slow: 8_000,
        one: 40_000,
        one_slow: 10_000,
        shared: 200_000,
        shared_lists: 800_000,
        rate: 1_000,
        latency_runs: 3,
        latency_seconds: 15,
        settle: 20,
    };

    /// Enough to see that it runs.
    pub const QUICK: Counts = Counts {
        hundreds: 100_000,
        singles: 40_000,
        nothing: 200_000,
        nothing_slow: 40_000,
        sleep: 10_000,
        sleep_fast: 20_000,
        sleep_slow: 1_000,
        one: 5_000,
        one_slow: 1_000,
        shared: 20_000,
        shared_lists: 200_000,
        rate: 1_000,
        latency_runs: 1,
        latency_seconds: 3,
        settle: 3,
    };
}

/// Of so many events, how many are handled before anything counts.
pub fn warm_up(events: u64) -> u64 {
    events / 5 * 2
}

impl Plan {
    /// Whether it is to be measured.
    pub fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether a system is to be measured.
    pub fn wants(&self, system: &str) -> bool {
        self.systems.as_ref().is_none_or(|part| system.contains(part.as_str()))
    }

    /// The backlogs of an outbox.
    pub fn shapes(&self) -> [Shape; 2] {
        [
            Shape { per_transaction: 100, rows: self.counts.hundreds },
            Shape { per_transaction: 1, rows: self.counts.singles },
        ]
    }
}
