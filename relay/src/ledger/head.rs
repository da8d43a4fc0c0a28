//! The side of the ledger that says what may be confirmed.

use std::sync::Arc;

use super::window::{Ended, Window};
use super::{Confirmed, LastPublished};
use crate::lsn::Lsn;

/// Moves over ended and settled transactions. Owned by one thread.
pub struct Head {
    window: Arc<Window>,
    /// Number of the oldest transaction that is not confirmed.
    number: u64,
    confirmed: Confirmed,
}

impl Head {
    pub(super) fn new(window: Arc<Window>, start: Lsn) -> Head {
        let confirmed = Confirmed { end_lsn: start, last_published: None, transactions: 0, outstanding: 0 };
        Head { window, number: 0, confirmed }
    }

    /// Moves over the longest prefix of ended and settled transactions and says where it ends. Costs one
    /// look per transaction moved over.
    pub fn advance(&mut self) -> Confirmed {
        let ended = self.window.ended_count();
        let before = self.number;
        while self.number < ended && self.pass() {
            self.number += 1;
        }
        if self.number != before {
            self.window.give_back(self.number);
        }
        self.confirmed.outstanding = ended - self.number;
        self.confirmed
    }

    /// Confirms the oldest ended transaction if each of its rows is settled.
    fn pass(&mut self) -> bool {
        let entry = self.window.ended(self.number);
        if self.window.settled_through(self.number) != entry.rows_through {
            return false;
        }
        self.confirmed.end_lsn = entry.end_lsn;
        if entry.has_rows {
            let Ended { end_lsn, xid, commit_time, .. } = entry;
            self.confirmed.last_published = Some(LastPublished { end_lsn, xid, commit_time });
            self.confirmed.transactions += 1;
        }
        true
    }
}
