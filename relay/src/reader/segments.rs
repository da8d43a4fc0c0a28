//! In how many TCP segments the data came: the state of the server's sender, seen from here.

use std::time::{Duration, Instant};

use crate::observe::Observed;
use crate::wire::ReplicationStream;
use crate::wire::kernel::Kernel;

/// Time between two looks; one costs two system calls.
const EVERY: Duration = Duration::from_millis(200);

/// Adds what the kernel counts on one connection to what is seen of the lane.
#[derive(Debug)]
pub(super) struct Segments {
    /// `None` where the kernel does not say.
    kernel: Option<Kernel>,
    counted: u32,
    looked: Option<Instant>,
}

impl Segments {
    /// Of this connection, from its beginning.
    pub(super) fn of(stream: &ReplicationStream) -> Self {
        Segments { kernel: stream.kernel(), counted: 0, looked: None }
    }

    /// Looks now and then. A connection that the kernel no longer knows is left alone from then on: its reader
    /// will hear of it.
    pub(super) fn look(&mut self, observed: &Observed) {
        let Some(kernel) = &self.kernel else { return };
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        match kernel.facts() {
            Ok(facts) => {
                // The kernel counts modulo 2³².
                let new = facts.data_segments_in.wrapping_sub(self.counted);
                self.counted = facts.data_segments_in;
                observed.replication_segments.add(new.into());
            }
            Err(_) => self.kernel = None,
        }
    }
}
