//! What the kernel says of the connection: in how many TCP segments the data came, which is the state of the server's
//! sender, and whether the server's acknowledgements get through.

use std::time::{Duration, Instant};

use crate::observe::Observed;
use crate::wire::ReplicationStream;
use crate::wire::kernel::Kernel;

/// Time between two looks; one costs two system calls.
const EVERY: Duration = Duration::from_millis(200);

/// How long feedback may stay unacknowledged while nothing is read. Each comes by itself, so what is longer is no
/// round trip.
const UNHEARD: Duration = Duration::from_millis(1500);

/// Most reads for the sake of acknowledgements until reading goes on: they take memory that nobody has allowed.
const MOST: u32 = 32;

/// Whether the server's acknowledgements get through. Where nothing is read any more the receive buffer runs full, and
/// Linux (seen with 6.18) may then take back a window that it gave before: whatever comes from beyond that window is passed
/// over, acknowledgements included, so that feedback is repeated until the connection is given up. One read makes room.
#[derive(Debug, Default)]
struct Hearing {
    /// Since when every look found something unacknowledged.
    since: Option<Instant>,
    reads: u32,
}

impl Hearing {
    fn looked(&mut self, now: Instant, unacknowledged: bool) {
        self.since = unacknowledged.then(|| self.since.unwrap_or(now));
    }

    /// Whether to read now although there is no room; if so, it counts as done.
    fn needs_a_read(&mut self, now: Instant) -> bool {
        let due = self.since.is_some_and(|since| now.duration_since(since) >= UNHEARD) && self.reads < MOST;
        if due {
            // What is repeated by then is heard.
            self.since = Some(now);
            self.reads += 1;
        }
        due
    }
}

/// Adds what the kernel counts on one connection to what is seen of the lane.
#[derive(Debug)]
pub(super) struct Segments {
    /// `None` where the kernel does not say.
    kernel: Option<Kernel>,
    counted: u32,
    looked: Option<Instant>,
    hearing: Hearing,
}

impl Segments {
    /// Of this connection, from its beginning.
    pub(super) fn of(stream: &ReplicationStream) -> Self {
        Segments { kernel: stream.kernel(), counted: 0, looked: None, hearing: Hearing::default() }
    }

    /// Looks now and then. A connection that the kernel no longer knows is left alone from then on: its reader
    /// will hear of it.
    pub(super) fn look(&mut self, observed: &Observed) {
        let Some(kernel) = &self.kernel else { return };
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return;
        }
        let now = Instant::now();
        self.looked = Some(now);
        match kernel.facts() {
            Ok(facts) => {
                // The kernel counts modulo 2³².
                let new = facts.data_segments_in.wrapping_sub(self.counted);
                self.counted = facts.data_segments_in;
                self.hearing.looked(now, facts.unacknowledged > 0);
                observed.replication_segments.add(new.into());
            }
            Err(_) => self.kernel = None,
        }
    }

    /// Asked while nothing is read for want of room: whether to read once nevertheless, so that the server is heard.
    pub(super) fn needs_a_read(&mut self) -> bool {
        self.hearing.needs_a_read(Instant::now())
    }

    /// There is room: what comes is read.
    pub(super) fn reads_on(&mut self) {
        self.hearing.reads = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_what_stays_unacknowledged_asks_for_a_read_and_not_without_end() {
        let (mut hearing, start) = (Hearing::default(), Instant::now());
        // A round trip now and then is no silence.
        for step in 0..100 {
            hearing.looked(start + step * 200 * MS, step % 5 != 0);
            assert!(!hearing.needs_a_read(start + step * 200 * MS), "{step}");
        }
        hearing.looked(start + 19_900 * MS, false);
        let mut reads = 0;
        for step in 0..1000 {
            let now = start + (20_000 + step * 200) * MS;
            hearing.looked(now, true);
            reads += u32::from(hearing.needs_a_read(now));
            assert!(step != 7 || reads == 0, "before its time");
            assert!(step != 8 || reads == 1, "not in time");
        }
        assert_eq!(reads, MOST);
    }
}
