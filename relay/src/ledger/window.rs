//! The memory that the three parties of a ledger share.
//!
//! Transactions are numbered from 0 in commit order; number `n` lives in slot `n mod capacity`. Each
//! word has one writer at a time:
//!
//! | word | written by | read by |
//! |---|---|---|
//! | `ended_count` | writer, after the entry it covers | head |
//! | `Entry` | writer, at the end of a transaction | head |
//! | `settled` of a slot | settlers, by `fetch_add` only | head |
//! | `confirmed_count` | head, after it has read the entries it covers | writer |
//!
//! Why the reuse of slots is free of races:
//!
//! - *The head reads whole entries.* It reads entry `n` only after it saw `ended_count > n` (acquire),
//!   which the writer stored (release) after the entry's words. The writer does not touch that slot again
//!   before it saw `confirmed_count > n` (acquire), which the head stored (release) after it had read the
//!   entry. So an entry is never read while it is written, although its words are relaxed.
//! - *Rows are counted for the right transaction.* `settled` is never reset: it counts all rows that ever
//!   settled in this slot, and the entry's `rows_through` is the sum of all rows ever sent in it. The
//!   transaction is settled when both are equal. No reset means that no late increment can be wiped out
//!   and no early one (rows settle before their Commit is seen) can be lost. An increment belongs to the
//!   slot's present transaction, because the former one was confirmed, and so had every row settled,
//!   before the slot was opened again.
//! - *What a settler did is visible to whoever sees the position.* `settled` is released by the settler
//!   and acquired by the head.
//!
//! Every report must be counted once. Were one counted twice, the sums would differ for ever after and
//! the position would stand still, unless a second row of the same transaction were missing at the same
//! time; librdkafka reports each message exactly once.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use super::Transaction;
use crate::lsn::Lsn;

/// An opaque is the ledger's number above and the slot below.
const SLOT_BITS: u32 = 20;

/// Bits of a ledger's number: enough that a former ledger of the same number is long gone.
const NUMBER_BITS: u32 = 16;

/// Bits of an opaque; the rest of a word is the publisher's.
pub const OPAQUE_BITS: u32 = NUMBER_BITS + SLOT_BITS;

/// Distinguishes the ledgers of a process, so that the reports of a former one are recognised.
static LEDGERS: AtomicU32 = AtomicU32::new(0);

/// Begins at 1: no opaque is 0, which librdkafka hands back for "none".
fn next_number() -> u32 {
    LEDGERS.fetch_add(1, Relaxed) % ((1 << NUMBER_BITS) - 1) + 1
}

/// One word on a cache line of its own: the writer's and the head's counters are written all the time.
#[derive(Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

/// What the writer leaves for the head when a transaction ends.
#[derive(Default)]
struct Entry {
    end_lsn: AtomicU64,
    rows_through: AtomicU64,
    commit_time: AtomicI64,
    xid: AtomicU32,
    has_rows: AtomicU32,
}

/// An ended transaction as the head reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) end_lsn: Lsn,
    pub(super) xid: u32,
    pub(super) commit_time: i64,
    pub(super) has_rows: bool,
    /// Rows sent in this slot by this transaction and all before it.
    pub(super) rows_through: u64,
}

pub(super) struct Window {
    number: u32,
    mask: u64,
    ended_count: Alone,
    confirmed_count: Alone,
    entries: Box<[Entry]>,
    /// Apart from the entries, so that the settlers' increments and the writer's stores do not fight
    /// over cache lines.
    settled: Box<[AtomicU64]>,
}

impl Window {
    pub(super) fn new(capacity: usize) -> Arc<Window> {
        let capacity = capacity.clamp(1, 1 << SLOT_BITS).next_power_of_two();
        Arc::new(Window {
            number: next_number(),
            mask: capacity as u64 - 1,
            ended_count: Alone::default(),
            confirmed_count: Alone::default(),
            entries: (0..capacity).map(|_| Entry::default()).collect(),
            settled: (0..capacity).map(|_| AtomicU64::default()).collect(),
        })
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    fn slot(&self, number: u64) -> usize {
        (number & self.mask) as usize
    }

    /// What a row of transaction `number` carries through the producer.
    pub(super) fn opaque(&self, number: u64) -> usize {
        (self.number as usize) << SLOT_BITS | self.slot(number)
    }

    /// Transactions confirmed so far. The writer may reuse what they occupied.
    pub(super) fn confirmed_count(&self) -> u64 {
        self.confirmed_count.0.load(Acquire)
    }

    /// Gives back all slots below `count`. Only the head calls this, and reads none of them afterwards.
    pub(super) fn give_back(&self, count: u64) {
        self.confirmed_count.0.store(count, Release);
    }

    /// Transactions ended so far.
    pub(super) fn ended_count(&self) -> u64 {
        self.ended_count.0.load(Acquire)
    }

    /// Ends transaction `number` with `rows` rows. Only the writer calls this, in order of number, for a
    /// slot that was given back. `from` is `None` for a keepalive.
    pub(super) fn end(&self, number: u64, from: Option<Transaction>, end_lsn: Lsn, rows: u64) {
        let entry = &self.entries[self.slot(number)];
        entry.end_lsn.store(end_lsn.0, Relaxed);
        entry.xid.store(from.map_or(0, |t| t.xid), Relaxed);
        entry.commit_time.store(from.map_or(0, |t| t.commit_time), Relaxed);
        entry.has_rows.store(u32::from(rows > 0), Relaxed);
        let before = entry.rows_through.load(Relaxed);
        entry.rows_through.store(before + rows, Relaxed);
        self.ended_count.0.store(number + 1, Release);
    }

    /// Entry `number`, which has ended and is not given back.
    pub(super) fn ended(&self, number: u64) -> Ended {
        let entry = &self.entries[self.slot(number)];
        Ended {
            end_lsn: Lsn(entry.end_lsn.load(Relaxed)),
            xid: entry.xid.load(Relaxed),
            commit_time: entry.commit_time.load(Relaxed),
            has_rows: entry.has_rows.load(Relaxed) != 0,
            rows_through: entry.rows_through.load(Relaxed),
        }
    }

    /// Rows ever settled in the slot of `number`.
    pub(super) fn settled_through(&self, number: u64) -> u64 {
        self.settled[self.slot(number)].load(Acquire)
    }
}

/// Counts rows as settled. Cheap to clone; used by whatever thread learns that a row is durable.
#[derive(Clone)]
pub struct Settler {
    window: Arc<Window>,
}

impl Settler {
    pub(super) fn new(window: Arc<Window>) -> Settler {
        Settler { window }
    }

    /// One row is durable: its delivery report said so with `acks=all` (or, where rows may be put into
    /// quarantine, its entry is). To be called once for each row, and never for a report of failure.
    ///
    /// `opaque` is what [`Writer::row`](super::Writer::row) returned. That of an earlier ledger is
    /// passed over: its row will come again and counts then.
    pub fn settle(&self, opaque: usize) {
        if opaque >> SLOT_BITS != self.window.number as usize {
            return;
        }
        self.window.settled[self.window.slot(opaque as u64)].fetch_add(1, Release);
    }
}
