//! The only thing that knows what may be confirmed. Nothing else computes a position.
//!
//! A ledger is a window of transactions in commit order. The router [opens](Writer::open) one when it
//! reads a Begin, counts its [rows](Writer::row) as they are handed to the producer and
//! [ends](Writer::commit) it with the Commit; delivery reports [settle](Settler::settle) rows in any
//! order; the head [advances](Head::advance) over the longest prefix of transactions that are ended and
//! wholly settled. The end of that prefix is what the state record, and after it feedback, may carry.
//!
//! The rules, each with the loss it prevents:
//!
//! - Only the head moves the position. A later transaction that is settled early waits for those before
//!   it; confirming the highest settled one would skip the others after a crash.
//! - A position is the end LSN of a transaction or of a keepalive, as the server sent it. It is never
//!   inside a transaction and never computed: concurrent transactions interleave in the log, so an LSN
//!   inside one says nothing about the rows before it.
//! - A keepalive's WAL end enters in band, as an empty transaction behind all that is outstanding. An
//!   idle stream therefore confirms it at once, and a busy one only after what came before it.
//! - A transaction of millions of rows costs two counters.
//!
//! There is no lock and no allocation after [`ledger`] returns. One ledger serves one run of the
//! stream; a delivery report that belongs to an earlier run is recognised and changes nothing.

mod head;
mod window;
mod writer;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
pub use head::Head;
pub use window::{OPAQUE_BITS, Settler};
pub use writer::Writer;

/// Default number of transactions that may be outstanding at once: enough for a full producer queue of
/// one-row transactions (20,000) with as much again of empty ones, in 2.5 MiB.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// Makes a ledger that starts at `start`, which counts as confirmed.
///
/// `capacity` is the number of transactions (keepalives included) that may be ended or open and not yet
/// confirmed; it is rounded up to a power of two and kept between 1 and 2^20.
pub fn ledger(capacity: usize, start: Lsn) -> (Writer, Settler, Head) {
    let window = window::Window::new(capacity);
    (Writer::new(window.clone(), start), Settler::new(window.clone()), Head::new(window, start))
}

/// What a Begin message says of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// LSN of the commit record ("final LSN" of the Begin message). It identifies the transaction; the
    /// stream is resumed at the end LSN, which only the Commit message carries.
    pub commit_lsn: Lsn,
    /// Transaction id.
    pub xid: u32,
    /// Commit time in microseconds since 2000-01-01 UTC, PostgreSQL's own form.
    pub commit_time: i64,
}

/// A transaction whose every row was acknowledged, in enough detail to be recognised when it is met
/// again: an LSN alone comes again on a server that was restored to an earlier state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPublished {
    /// End LSN of the Commit message.
    pub end_lsn: Lsn,
    /// Transaction id.
    pub xid: u32,
    /// Commit time in microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
}

/// What may be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// End of the longest prefix of ended and settled transactions; the start of the ledger before the
    /// first. Never goes backwards.
    pub end_lsn: Lsn,
    /// The newest confirmed transaction that had at least one row. `None` before the first of this
    /// ledger: what an earlier run published stands in the state record.
    pub last_published: Option<LastPublished>,
    /// Confirmed transactions with at least one row, since the ledger was made.
    pub transactions: u64,
    /// Transactions and keepalives that are ended and not yet confirmed. An open transaction is not
    /// among them.
    pub outstanding: u64,
}

/// The ledger holds as many transactions as it may: nothing was recorded; stop routing until the head
/// has advanced, then try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{capacity} transactions wait for acknowledgements; the next waits until the oldest is settled")]
pub struct Full {
    /// The ledger's capacity in transactions.
    pub capacity: usize,
}
