//! Where a Kafka transaction may be cut: between two PostgreSQL transactions, never inside one.
//!
//! The router is inside from the Begin of a transaction that is published to its Commit. Who wants to cut closes the
//! gate, waits until the router is outside, and opens it again when the next Kafka transaction has begun. A reader of
//! committed records then sees a PostgreSQL transaction as a whole or not at all.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::lsn::Lsn;
use crate::session::Ending;

/// How long a wait lasts before the session's end is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Between the router and who cuts.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    records: AtomicU64,
    bytes: AtomicU64,
    /// Records of PostgreSQL transactions that had ended when the router went in.
    before: AtomicU64,
}

#[derive(Debug)]
struct State {
    inside: bool,
    closed: bool,
    wanted: bool,
    since: Option<Instant>,
    end: Lsn,
    cuts: u64,
}

/// What the Kafka transaction at hand holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Records handed over.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time since the first of them.
    pub age: Duration,
    /// Whether somebody waits for its end.
    pub wanted: bool,
}

impl Gate {
    /// An open gate; `start` counts as the end of the newest transaction.
    pub fn new(start: Lsn) -> Gate {
        let state = State { inside: false, closed: false, wanted: false, since: None, end: start, cuts: 0 };
        Gate {
            state: Mutex::new(state),
            changed: Condvar::new(),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            before: AtomicU64::new(0),
        }
    }

    /// The router begins a transaction; waits while the gate is closed. False when the session is over.
    pub fn enter(&self, ending: &Ending) -> bool {
        let mut state = self.state.lock();
        while state.closed {
            if ending.is_over() {
                return false;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
        state.inside = true;
        self.before.store(self.records.load(SeqCst), SeqCst);
        true
    }

    /// The router has handed a record over.
    pub fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, SeqCst);
        if self.records.fetch_add(1, SeqCst) == 0 {
            self.state.lock().since = Some(Instant::now());
        }
    }

    /// The router has ended its transaction there.
    pub fn leave(&self, end: Lsn) {
        let mut state = self.state.lock();
        state.inside = false;
        state.end = state.end.max(end);
        if state.closed {
            self.changed.notify_all();
        }
    }

    /// Closes the gate and waits until the router is outside; answers where its newest transaction ended. `None` when
    /// the session is over.
    pub fn close(&self, ending: &Ending) -> Option<Lsn> {
        let mut state = self.state.lock();
        state.closed = true;
        while state.inside {
            if ending.is_over() {
                return None;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
        Some(state.end)
    }

    /// The next Kafka transaction has begun: it holds nothing.
    pub fn open(&self) {
        let mut state = self.state.lock();
        self.records.store(0, SeqCst);
        self.bytes.store(0, SeqCst);
        self.before.store(0, SeqCst);
        (state.closed, state.wanted, state.since) = (false, false, None);
        state.cuts += 1;
        self.changed.notify_all();
    }

    /// Asks for a cut; the answer is a ticket for [`Gate::has_cut`].
    pub fn want(&self) -> u64 {
        let mut state = self.state.lock();
        state.wanted = true;
        state.cuts
    }

    /// Whether the gate was opened again since the ticket was drawn.
    pub fn has_cut(&self, ticket: u64) -> bool {
        self.state.lock().cuts > ticket
    }

    /// The router waits here, inside its transaction, until what it has sent of it is committed. False when the session
    /// is over.
    pub fn cut_within(&self, ending: &Ending) -> bool {
        let ticket = self.want();
        self.leave(Lsn::ZERO);
        let mut state = self.state.lock();
        while state.cuts == ticket {
            if ending.is_over() {
                return false;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
        drop(state);
        self.enter(ending)
    }

    /// What the Kafka transaction at hand holds.
    pub fn held(&self) -> Held {
        let state = self.state.lock();
        Held {
            records: self.records.load(SeqCst),
            bytes: self.bytes.load(SeqCst),
            age: state.since.map_or(Duration::ZERO, |since| since.elapsed()),
            wanted: state.wanted,
        }
    }

    /// Whether the router is inside a transaction.
    pub fn is_inside(&self) -> bool {
        self.state.lock().inside
    }

    /// Records of the PostgreSQL transaction that the router is inside of.
    pub fn records_inside(&self) -> u64 {
        self.records.load(SeqCst).saturating_sub(self.before.load(SeqCst))
    }

    /// Whether the Kafka transaction holds records of PostgreSQL transactions that have ended: as long as it is open
    /// nobody sees them.
    pub fn holds_others_back(&self) -> bool {
        self.before.load(SeqCst) > 0
    }

    /// Whether it holds any record.
    pub fn holds_any(&self) -> bool {
        self.records.load(SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::session::End;

    #[test]
    fn a_cut_waits_for_the_end_of_the_transaction_and_the_next_one_for_the_cut() {
        let (gate, ending) = (Arc::new(Gate::new(Lsn(5))), Arc::new(Ending::default()));
        assert!(gate.enter(&ending));
        gate.sent(10);
        gate.sent(20);
        assert_eq!((gate.records_inside(), gate.holds_others_back()), (2, false));
        let cutting = thread::spawn({
            let (gate, ending) = (gate.clone(), ending.clone());
            move || gate.close(&ending)
        });
        while !gate.state.lock().closed {
            thread::yield_now();
        }
        assert!(!cutting.is_finished(), "the router is inside");
        gate.leave(Lsn(9));
        assert_eq!(cutting.join().unwrap(), Some(Lsn(9)));
        let entering = thread::spawn({
            let (gate, ending) = (gate.clone(), ending.clone());
            move || gate.enter(&ending)
        });
        let held = gate.held();
        assert_eq!((held.records, held.bytes, held.wanted), (2, 30, false));
        assert!(!entering.is_finished() && !gate.is_inside(), "the gate is closed");
        gate.open();
        assert!(entering.join().unwrap());
        assert_eq!((gate.held().records, gate.holds_any()), (0, false));
    }

    #[test]
    fn what_has_ended_is_told_from_what_the_router_is_inside_of() {
        let (gate, ending) = (Gate::new(Lsn(5)), Ending::default());
        assert!(gate.enter(&ending));
        gate.sent(1);
        gate.leave(Lsn(7));
        assert!(gate.enter(&ending));
        gate.sent(1);
        assert!(gate.holds_others_back() && gate.records_inside() == 1);
    }

    #[test]
    fn a_transaction_is_cut_within_and_ends_where_it_would() {
        let (gate, ending) = (Arc::new(Gate::new(Lsn(5))), Arc::new(Ending::default()));
        assert!(gate.enter(&ending));
        gate.sent(1);
        let cutting = thread::spawn({
            let (gate, ending) = (gate.clone(), ending.clone());
            move || {
                while !gate.held().wanted {
                    thread::yield_now();
                }
                let end = gate.close(&ending);
                gate.open();
                end
            }
        });
        assert!(gate.cut_within(&ending) && gate.is_inside());
        assert_eq!(cutting.join().unwrap(), Some(Lsn(5)), "the transaction has not ended");
        assert_eq!(gate.records_inside(), 0);
    }

    #[test]
    fn whoever_waits_hears_the_end() {
        let (gate, ending) = (Gate::new(Lsn(5)), Ending::default());
        assert!(gate.enter(&ending));
        ending.end(End::Drained);
        assert_eq!(gate.close(&ending), None);
        gate.leave(Lsn(6));
        assert!(!gate.enter(&ending) && !gate.cut_within(&ending));
    }
}
