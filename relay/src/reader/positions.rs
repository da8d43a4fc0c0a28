//! What feedback carries.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::lsn::Lsn;

/// The positions of one replication session. Each is a value by itself and orders nothing else, so relaxed
/// atomics do.
#[derive(Debug, Default)]
pub struct Positions {
    recorded: AtomicU64,
    received: AtomicU64,
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

    pub(super) fn receive(&self, position: Lsn) {
        self.received.fetch_max(position.0, Relaxed);
    }
}
