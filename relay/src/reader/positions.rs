//! What feedback carries.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lsn::Lsn;

/// The positions of one replication session. Each is a value by itself and orders nothing else, so relaxed
/// atomics do.
#[derive(Debug, Default)]
pub struct Positions {
    recorded: AtomicU64,
    received: AtomicU64,
    lag_micros: AtomicI64,
}

impl Positions {
    /// Sets what the server may forget: the position of an **acknowledged** state record, and of nothing
    /// else. A position below an earlier one changes nothing.
    pub fn record(&self, position: Lsn) {
        self.recorded.fetch_max(position.0, Relaxed);
    }

    /// What the server is told as flushed and applied; `0/0`, which confirms nothing, until the state
    /// record has been read.
    pub fn recorded(&self) -> Lsn {
        Lsn(self.recorded.load(Relaxed))
    }

    /// Newest position seen on the stream.
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Relaxed))
    }

    /// How long the newest message was sent after the commit that it belongs to.
    pub fn lag(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.lag_micros.load(Relaxed)).unwrap_or(0))
    }

    pub(super) fn lags(&self, micros: i64) {
        self.lag_micros.store(micros, Relaxed);
    }

    pub(super) fn receive(&self, position: Lsn) {
        self.received.fetch_max(position.0, Relaxed);
    }
}
