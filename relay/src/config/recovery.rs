//! What follows where slot, server and state record do not agree.

use std::time::Duration;

use super::OutboxSettings;

/// What follows where slot, server and state record do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// The slot is gone.
    pub slot_gone: Answer,
    /// The server has invalidated the slot.
    pub slot_invalidated: Answer,
    /// The slot was advanced, or made anew, by somebody else.
    pub slot_ahead: Answer,
    /// The server is on another timeline, and no slot brings what follows on what the two share.
    pub failover: Answer,
    /// Another database system (default `halt`).
    pub other_system: Answer,
    /// An earlier state of the server's disk (default `halt`).
    pub restored: Answer,
    /// Fills that may follow on such findings within `window` (default 3).
    pub max_fills: usize,
    /// See `max_fills` (default 24 h).
    pub window: Duration,
    /// Whether rows stay in the table until they are published; `None`: judged by what stands in it.
    pub rows_stay: Option<bool>,
}

/// What follows on a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// Publish from the table what may be missing, with a new slot.
    Fill,
    /// Stop and say what is missing.
    Halt,
}

impl Answer {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Fill => "fill",
            Answer::Halt => "halt",
        }
    }
}

/// What may be missing after a loss, by what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// No slot.
    SlotGone,
    /// A slot whose log is gone.
    SlotInvalidated,
    /// A slot that somebody else moved or made.
    SlotAhead,
    /// Another timeline, and no slot for it.
    Failover,
    /// Another database system.
    OtherSystem,
    /// Time went back.
    Restored,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 6] = [
        Loss::SlotGone,
        Loss::SlotInvalidated,
        Loss::SlotAhead,
        Loss::Failover,
        Loss::OtherSystem,
        Loss::Restored,
    ];

    /// Its key under `recovery`, which is its label in metrics, too.
    pub fn name(self) -> &'static str {
        match self {
            Loss::SlotGone => "slot_gone",
            Loss::SlotInvalidated => "slot_invalidated",
            Loss::SlotAhead => "slot_ahead",
            Loss::Failover => "failover",
            Loss::OtherSystem => "other_system",
            Loss::Restored => "restored",
        }
    }

    /// Whether the server still has the log up to what was published, so that a published snapshot says which rows
    /// are. Otherwise every row of the table is published again.
    pub fn shares_history(self) -> bool {
        !matches!(self, Loss::OtherSystem | Loss::Restored)
    }
}

impl RecoverySettings {
    /// The configured answer.
    pub fn answer(&self, loss: Loss) -> Answer {
        match loss {
            Loss::SlotGone => self.slot_gone,
            Loss::SlotInvalidated => self.slot_invalidated,
            Loss::SlotAhead => self.slot_ahead,
            Loss::Failover => self.failover,
            Loss::OtherSystem => self.other_system,
            Loss::Restored => self.restored,
        }
    }

    /// Every loss halts.
    pub fn halting() -> RecoverySettings {
        RecoverySettings {
            slot_gone: Answer::Halt,
            slot_invalidated: Answer::Halt,
            slot_ahead: Answer::Halt,
            failover: Answer::Halt,
            other_system: Answer::Halt,
            restored: Answer::Halt,
            max_fills: 3,
            window: Duration::from_secs(86_400),
            rows_stay: None,
        }
    }
}

/// Why nothing can be filled after a loss, if so.
pub fn hindrance(loss: Loss, outbox: &OutboxSettings, rows_stay: Option<bool>) -> Option<&'static str> {
    if outbox.message_prefix.is_some() {
        return Some("with outbox.from = \"messages\" what is missing stands in no table");
    }
    let columns = &outbox.columns;
    if rows_stay == Some(false) {
        return Some("outbox.rows_stay is false: what is missing stands in no table");
    }
    if columns.seq.is_none() {
        return Some("the table has no outbox.columns.seq: the order of its rows is not known");
    }
    (loss.shares_history() && columns.writer.is_none())
        .then_some("the table has no outbox.columns.writer: which of its rows are published is not known")
}
