//! A record of a transaction and what became of it, as `transaction::Place` and `transaction::Turn` have it.

use outbox_consumer::ladder::Failure;
use outbox_consumer::simulation::Running;

use crate::consumer::log::EventId;

/// `attempt::TRANSIENT`.
pub const TRANSIENT: Failure = Failure::Transient { after: std::time::Duration::ZERO };

/// What became of a record in a transaction; `transaction::Turn`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Turn {
    /// Settled, and whether its handler ran.
    Settled(bool),
    /// The attempt failed.
    Failed(Failure),
    /// The handler rejected it.
    Rejected,
    /// It kills processes.
    Convicted(u16),
    /// It comes again.
    Later,
    /// It runs again, by itself.
    Alone,
    /// Another has it.
    Wait,
    /// The database is in trouble.
    Trouble,
    /// Its partition has left.
    Left,
}

/// A record of the transaction.
#[derive(Debug)]
pub struct Place {
    /// Where it stands.
    pub offset: i64,
    /// What it is of.
    pub event: EventId,
    /// Its claim is this transaction's.
    pub claimed: bool,
    /// A further copy of an event of the group.
    pub repeats: bool,
    /// What became of it, once that is known.
    pub turn: Option<Turn>,
    /// Its handler runs, as the journal knows.
    pub running: Option<Running>,
    /// It was started in isolation, and named.
    pub named: bool,
}

impl Place {
    /// Claimed by this transaction, and nothing is known of it yet.
    pub fn is_open(&self) -> bool {
        self.claimed && self.turn.is_none()
    }

    /// Settled by this transaction, or before.
    pub fn is_settled(&self) -> bool {
        matches!(self.turn, Some(Turn::Settled(_)))
    }
}
