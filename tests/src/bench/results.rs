//! What a worker hands to the report.

use serde::{Deserialize, Serialize};

use super::figures::{Spread, quantile};
use super::plan::Shape;

/// Everything measured under one congestion control.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Congestion control of the connections over loopback, where it was measured.
    pub congestion_control: String,
    /// Whether that namespace was made for the measurement.
    pub own_namespace: bool,
    /// PostgreSQL's version as it says it.
    pub postgres: String,
    /// Its settings that are not its defaults.
    pub postgres_settings: Vec<String>,
    /// SQL type of the payload column.
    pub payload_type: String,
    /// Average length of a payload in bytes.
    pub payload_bytes: f64,
    /// The drains by shape.
    pub drains: Vec<Drains>,
    /// The open loop.
    pub latency: Option<Latency>,
}

/// Drains of one backlog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drains {
    /// The backlog.
    pub shape: Shape,
    /// Bytes of log that it takes.
    pub wal_bytes: u64,
    /// The relay's first drain into this broker: its code is not compiled yet.
    pub cold: Option<RelayDrain>,
    /// The measured pairs; the broker is warm.
    pub pairs: Vec<Pair>,
    /// Drains with at-least-once and with exactly-once delivery.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guarantees: Vec<GuaranteePair>,
}

/// The relay with either guarantee, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuaranteePair {
    /// Whether exactly once went first.
    pub exactly_first: bool,
    /// At least once; until the last acknowledgement.
    pub at_least_once: RelayDrain,
    /// Exactly once; until the last commit.
    pub exactly_once: RelayDrain,
}

impl GuaranteePair {
    /// How much of the throughput of at-least-once delivery is left.
    pub fn ratio(&self) -> f64 {
        self.at_least_once.seconds / self.exactly_once.seconds
    }
}

/// The two readers, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    /// Whether the relay went first.
    pub relay_first: bool,
    /// The baseline.
    pub baseline: BaselineDrain,
    /// The relay.
    pub relay: RelayDrain,
}

impl Pair {
    /// How many times as fast the relay was.
    pub fn ratio(&self) -> f64 {
        self.baseline.seconds / self.relay.seconds
    }
}

/// One drain by `pg_recvlogical` to the null device. Times are seconds, of processors too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaselineDrain {
    /// From `START_REPLICATION` to the end of the program.
    pub seconds: f64,
    /// Of the program.
    pub client_cpu: f64,
    /// Of the server's process that decodes.
    pub walsender_cpu: f64,
}

/// One drain by the relay to the broker. Times are seconds, of processors too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayDrain {
    /// From `START_REPLICATION` to the last acknowledgement.
    pub seconds: f64,
    /// From the first look that saw an acknowledged record to the last acknowledgement.
    pub steady_seconds: f64,
    /// Records acknowledged in that time.
    pub steady_records: u64,
    /// Of the relay since `START_REPLICATION`.
    pub relay_cpu: f64,
    /// Of the server's process that decodes.
    pub walsender_cpu: f64,
    /// Of the broker.
    pub broker_cpu: f64,
    /// The most memory that the relay has held, in KiB.
    pub peak_rss_kib: u64,
    /// TCP segments with data received on the replication connection, where the kernel says.
    pub segments: Option<u64>,
}

/// The open loop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Transactions a second, each of one row.
    pub rate: u64,
    /// Seconds of one run.
    pub seconds: u64,
    /// The runs.
    pub runs: Vec<LatencyRun>,
    /// The most memory that the relay held while it streamed, in KiB.
    pub rss_kib: u64,
    /// Processor time of the relay over all runs, in seconds per second.
    pub relay_load: f64,
}

/// One run of the open loop; milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LatencyRun {
    /// Rows sent and received.
    pub rows: u64,
    /// From the return of COMMIT to the consumer.
    pub from_commit: Percentiles,
    /// From the time at which the transaction should have begun to the consumer.
    pub from_intended: Percentiles,
    /// From that time to the return of COMMIT.
    pub commit: Percentiles,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Percentiles {
    /// 50 %.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Percentiles {
    /// Of these values; no numbers of none.
    pub fn of(mut values: Vec<f64>) -> Percentiles {
        values.sort_by(f64::total_cmp);
        let at = |share| quantile(&values, share).unwrap_or(f64::NAN);
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }

    /// Each the median of these runs.
    pub fn median_of(runs: impl Iterator<Item = Percentiles> + Clone) -> Percentiles {
        let median = |part: fn(Percentiles) -> f64| {
            Spread::of(runs.clone().map(part)).map_or(f64::NAN, |spread| spread.median)
        };
        Percentiles {
            p50: median(|p| p.p50),
            p90: median(|p| p.p90),
            p99: median(|p| p.p99),
            max: median(|p| p.max),
        }
    }

    /// From the lowest to the highest.
    pub fn all(self) -> [f64; 4] {
        [self.p50, self.p90, self.p99, self.max]
    }
}
