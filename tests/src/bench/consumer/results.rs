//! What was measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Part;
use crate::bench::results::Percentiles;

/// Everything measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// PostgreSQL's version as it says it.
    pub postgres: String,
    /// Each holds one run of every case.
    pub pairs: Vec<Pair>,
    /// Runs of the open loop.
    pub latency: Vec<LatencyRun>,
}

/// One run of each case, one after the other: forwards, or backwards in every other pair.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pair {
    /// By case.
    pub runs: BTreeMap<Case, Run>,
}

/// What is run. In the order of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// The bare loop, uniform keys.
    BareUniform,
    /// A handler that does nothing, uniform keys.
    NothingUniform,
    /// The same by Zipf.
    NothingZipf,
    /// The bare loop on the topic by Zipf.
    BareZipf,
    /// A handler that does nothing, and short backlogs.
    Bursts,
    /// The same, few keys.
    FewKeys,
    /// The same, many keys.
    ManyKeys,
    /// A handler that sleeps, uniform keys.
    SleepUniform,
    /// The same by Zipf.
    SleepZipf,
    /// The transaction without a consumer.
    Pgbench,
    /// A group's transaction without a consumer.
    PgbenchGroups,
    /// A commit per event, uniform keys.
    OneUniform,
    /// Shared commits, uniform keys.
    GroupUniform,
    /// Shared commits whose handlers wait for no answer, uniform keys.
    PipelinedUniform,
    /// Shared commits by Zipf.
    GroupZipf,
    /// A commit per event by Zipf.
    OneZipf,
}

impl Case {
    /// All, in the order of a pair: what is compared runs one behind the other, as far as that can be.
    pub const ALL: [Case; 16] = [
        Case::BareUniform,
        Case::NothingUniform,
        Case::NothingZipf,
        Case::BareZipf,
        Case::Bursts,
        Case::FewKeys,
        Case::ManyKeys,
        Case::SleepUniform,
        Case::SleepZipf,
        Case::Pgbench,
        Case::OneUniform,
        Case::GroupUniform,
        Case::PgbenchGroups,
        Case::PipelinedUniform,
        Case::GroupZipf,
        Case::OneZipf,
    ];

    /// Whether a part needs it.
    pub fn serves(self, part: Part) -> bool {
        match self {
            Case::BareUniform | Case::NothingZipf | Case::BareZipf => part == Part::Nothing,
            // The long backlog is drained for both.
            Case::NothingUniform => matches!(part, Part::Nothing | Part::Backlog),
            Case::Bursts => part == Part::Backlog,
            Case::FewKeys | Case::ManyKeys => part == Part::Keys,
            Case::SleepUniform | Case::SleepZipf => part == Part::Sleep,
            Case::Pgbench
            | Case::PgbenchGroups
            | Case::OneUniform
            | Case::GroupUniform
            | Case::PipelinedUniform
            | Case::GroupZipf
            | Case::OneZipf => part == Part::Postgres,
        }
    }

    /// Whether it is none of ours, and what it costs nobody asks.
    pub fn is_pgbench(self) -> bool {
        matches!(self, Case::Pgbench | Case::PgbenchGroups)
    }

    /// How it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Case::BareUniform => "bare loop, uniform",
            Case::NothingUniform => "no-op, uniform",
            Case::NothingZipf => "no-op, Zipf",
            Case::BareZipf => "bare loop, Zipf",
            Case::Bursts => "no-op, short backlogs",
            Case::FewKeys => "no-op, few keys",
            Case::ManyKeys => "no-op, many keys",
            Case::SleepUniform => "1 ms handler, uniform",
            Case::SleepZipf => "1 ms handler, Zipf",
            Case::Pgbench => "`pgbench`",
            Case::PgbenchGroups => "`pgbench`, groups",
            Case::OneUniform => "one by one, uniform",
            Case::GroupUniform => "grouped, uniform",
            Case::PipelinedUniform => "grouped and pipelined, uniform",
            Case::GroupZipf => "grouped, Zipf",
            Case::OneZipf => "one by one, Zipf",
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Events handled in that time.
    pub events: u64,
    /// From the end of the warm-up, where there is one, to the last.
    pub seconds: f64,
    /// Processor time of the process per event, in microseconds.
    pub cpu_micros: Option<f64>,
    /// The most memory that it has held, in KiB.
    pub peak_rss_kib: Option<u64>,
    /// The same up to the end of the first quarter of a backlog.
    #[serde(default)]
    pub quarter_rss_kib: Option<u64>,
    /// Whether there was an effect for each settlement and no other, where there are any.
    pub once: Option<bool>,
}

impl Run {
    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

/// One run of the open loop; milliseconds from the time at which the event should have been sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LatencyRun {
    /// Events.
    pub events: u64,
    /// To the broker's acknowledgement.
    pub acknowledged: Percentiles,
    /// To the commit, by the server's own clock: before it is flushed.
    pub committed: Percentiles,
    /// Until another session has seen the effect.
    pub seen: Percentiles,
    /// Most memory of the consumer so far, in KiB.
    pub peak_rss_kib: u64,
    /// Processor time of the consumer, in seconds per second.
    pub load: f64,
}
