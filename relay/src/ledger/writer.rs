//! The router's side of the ledger.

use std::sync::Arc;

use super::window::Window;
use super::{Full, Transaction};
use crate::lsn::Lsn;

/// Records transactions in commit order. Owned by the one thread that reads the stream.
pub struct Writer {
    window: Arc<Window>,
    /// Number of the open transaction, or of the next one.
    number: u64,
    open: Option<Open>,
    newest_end: Lsn,
    /// What `confirmed_count` was at the last look: it only grows, so a fresh look is needed only when
    /// this one says that the window is full.
    confirmed_seen: u64,
}

#[derive(Clone, Copy)]
struct Open {
    transaction: Transaction,
    rows: u64,
}

impl Writer {
    pub(super) fn new(window: Arc<Window>, start: Lsn) -> Writer {
        Writer { window, number: 0, open: None, newest_end: start, confirmed_seen: 0 }
    }

    /// Opens a transaction, at its Begin.
    ///
    /// # Errors
    /// [`Full`] when the window has no room; nothing is open then.
    ///
    /// # Panics
    /// When a transaction is open: the protocol has no Begin before the Commit.
    pub fn open(&mut self, transaction: Transaction) -> Result<(), Full> {
        assert!(self.open.is_none(), "a transaction was opened inside another");
        self.room()?;
        self.open = Some(Open { transaction, rows: 0 });
        Ok(())
    }

    /// Counts a row of the open transaction as sent and returns what its delivery report has to hand to
    /// [`Settler::settle`](super::Settler::settle). To be called before the row is handed over, since
    /// the report may come before the hand-over returns.
    ///
    /// # Panics
    /// When no transaction is open: a row outside of one could never be confirmed.
    pub fn row(&mut self) -> usize {
        let open = self.open.as_mut().expect("a row belongs to an open transaction");
        open.rows += 1;
        self.window.opaque(self.number)
    }

    /// Takes back a counted row of the open transaction whose hand-over failed (the producer's queue was
    /// full): no report will come for it.
    ///
    /// # Panics
    /// When `opaque` is not of the open transaction or has no row to take back.
    pub fn unsent(&mut self, opaque: usize) {
        assert_eq!(opaque, self.window.opaque(self.number), "the row is not of the open transaction");
        let open = self.open.as_mut().expect("a row belongs to an open transaction");
        open.rows = open.rows.checked_sub(1).expect("a row was taken back that was not sent");
    }

    /// Ends the open transaction. `end_lsn` is the Commit message's end LSN, at which the stream may be
    /// resumed once every row is settled.
    ///
    /// # Panics
    /// When no transaction is open.
    pub fn commit(&mut self, end_lsn: Lsn) {
        let open = self.open.take().expect("a Commit ends an open transaction");
        self.end(Some(open.transaction), end_lsn, open.rows);
    }

    /// Enters the WAL end of a keepalive behind everything that is outstanding. Returns whether it was
    /// entered: inside an open transaction it is not (the position must not lie inside one), nor when
    /// it is not beyond the newest end.
    ///
    /// # Errors
    /// [`Full`] when the window has no room. A keepalive may be dropped then: a later one says more.
    pub fn keepalive(&mut self, wal_end: Lsn) -> Result<bool, Full> {
        if self.is_open() || wal_end <= self.newest_end {
            return Ok(false);
        }
        self.room()?;
        self.end(None, wal_end, 0);
        Ok(true)
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// End of the newest entry, confirmed or not; the ledger's start before the first. No transaction
    /// with a commit LSN below it can follow on the same stream.
    pub fn newest_end(&self) -> Lsn {
        self.newest_end
    }

    /// Rows of the open transaction counted so far.
    pub fn open_rows(&self) -> u64 {
        self.open.map_or(0, |open| open.rows)
    }

    fn end(&mut self, from: Option<Transaction>, end_lsn: Lsn, rows: u64) {
        // Ends only grow on a sound stream. Should one not, the position still never goes backwards.
        self.newest_end = self.newest_end.max(end_lsn);
        self.window.end(self.number, from, self.newest_end, rows);
        self.number += 1;
    }

    fn room(&mut self) -> Result<(), Full> {
        let capacity = self.window.capacity();
        let full = |confirmed: u64| self.number - confirmed >= capacity as u64;
        if full(self.confirmed_seen) {
            self.confirmed_seen = self.window.confirmed_count();
            if full(self.confirmed_seen) {
                return Err(Full { capacity });
            }
        }
        Ok(())
    }
}
