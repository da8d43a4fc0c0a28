//! What the engine lets be seen, taken under its lock at one moment. Costs a look at each partition, not at each record.

use std::sync::Arc;

use crate::intake::Held;

/// What is in hand.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineLook {
    /// Records and bytes that are held.
    pub(crate) held: Held,
    /// Keys that have a record and no run.
    pub(crate) ready_keys: usize,
    /// Runs that are out.
    pub(crate) running: usize,
    /// Reading stands still because too much is held.
    pub(crate) full: bool,
    /// One record at a time is in flight, because one is suspected of killing the process (C25).
    pub(crate) isolated: bool,
    /// Records that the crash journal names, in all partitions.
    pub(crate) suspects: usize,
    /// Each partition that is assigned.
    pub(crate) partitions: Vec<PartitionLook>,
}

/// A partition that is assigned.
#[derive(Debug, Clone)]
pub(crate) struct PartitionLook {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// The assignment.
    pub(crate) epoch: u32,
    /// What the broker has acknowledged.
    pub(crate) committed: i64,
    /// The frontier: everything below it is settled.
    pub(crate) committable: i64,
    /// Records read and not settled.
    pub(crate) unsettled: usize,
    /// Runs of it that are out.
    pub(crate) running: usize,
    /// The client was told not to read it.
    pub(crate) paused: bool,
}

impl Default for PartitionLook {
    fn default() -> PartitionLook {
        PartitionLook {
            topic: Arc::from(""),
            partition: 0,
            epoch: 0,
            committed: 0,
            committable: 0,
            unsettled: 0,
            running: 0,
            paused: false,
        }
    }
}
