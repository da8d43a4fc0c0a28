//! Figures over time, about one a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cluster::Cluster;
use super::load::Load;
use super::record::Sample;
use super::stage::{SCOPES, Stage};

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(1);
/// What is not known.
const UNKNOWN: u64 = u64::MAX;

/// What is seen from outside while the run goes on.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    /// Asked by a thread of its own: a broker that is frozen answers late.
    published: AtomicU64,
    lag: AtomicU64,
    effects: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    stopping: AtomicBool,
    enough: AtomicBool,
}

impl Watch {
    /// Begins now.
    pub fn begin() -> Watch {
        Watch {
            began: Instant::now(),
            published: AtomicU64::new(0),
            lag: AtomicU64::new(UNKNOWN),
            effects: AtomicU64::new(0),
            samples: Mutex::default(),
            stopping: AtomicBool::new(false),
            enough: AtomicBool::new(false),
        }
    }

    /// No further fault is to be begun.
    pub fn enough(&self) {
        self.enough.store(true, SeqCst);
    }

    /// Whether no further fault is to be begun.
    pub fn has_enough(&self) -> bool {
        self.enough.load(SeqCst)
    }

    /// Seconds since the beginning.
    pub fn at(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Ends both loops.
    pub fn stop(&self) {
        self.stopping.store(true, SeqCst);
    }

    /// Whether it was told to end.
    pub fn is_stopped(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// The newest sample.
    pub fn newest(&self) -> Sample {
        self.samples.lock().last().cloned().unwrap_or_default()
    }

    /// All samples.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().clone()
    }

    /// Asks Kafka until it is stopped.
    pub fn brokers(&self, stage: &Stage) {
        let mut cluster = Cluster::of(&stage.kafka);
        while !self.stopping.load(SeqCst) {
            self.published.store(cluster.published(), SeqCst);
            self.lag.store(cluster.lag().unwrap_or(UNKNOWN), SeqCst);
            std::thread::sleep(EVERY / 2);
        }
    }

    /// Takes samples, and starts again whoever has ended, until it is stopped. `committed` is what the services know.
    pub fn figures(&self, stage: &Stage, load: &Load) {
        let mut next = Instant::now();
        while !self.stopping.load(SeqCst) {
            stage.tend();
            let sample = self.sample(stage, load);
            self.samples.lock().push(sample);
            next = (next + EVERY).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn sample(&self, stage: &Stage, load: &Load) -> Sample {
        let unconfirmed = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
                             FROM pg_replication_slots WHERE slot_name LIKE 'outbox_%'";
        if let Some(count) = stage.inbox.number("SELECT count(*) FROM effects") {
            let calls = SCOPES.iter().map(|(scope, _)| lines(&stage.calls(scope))).sum::<u64>();
            self.effects.store(count.unsigned_abs() + calls, SeqCst);
        }
        let lag = self.lag.load(SeqCst);
        Sample {
            at_s: self.at(),
            committed: load.committed(),
            published: self.published.load(SeqCst),
            effects: self.effects.load(SeqCst),
            unconfirmed_bytes: stage.outbox.number(unconfirmed).map(|bytes| bytes.max(0).unsigned_abs()),
            parked_keys: stage.inbox.number("SELECT count(*) FROM inbox.parked_key").map(i64::unsigned_abs),
            lag: (lag != UNKNOWN).then_some(lag),
        }
    }
}

fn lines(file: &std::path::Path) -> u64 {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
