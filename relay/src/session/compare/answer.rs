//! What follows on a finding: a halt, or a fill where the configuration says so and it can be exact.

use std::time::Duration;

use jiff::Timestamp;

use super::halt::HaltReason;
use super::{Decision, ServerFacts, SlotFacts, ours, switch_point};
use crate::config::{Answer, Existing, Loss, RecoverySettings};
use crate::lsn::Lsn;
use crate::state::StateRecord;

/// What is asked of a start beside the facts.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'s> {
    /// What becomes of rows that stand in the table before there is a slot.
    pub existing: Existing,
    /// Whether rows stand in the table.
    pub table_has_rows: bool,
    /// What follows on losses.
    pub recovery: &'s RecoverySettings,
    /// When this is, for the bound on fills.
    pub now: Timestamp,
    /// What the former session found in the stream, which no comparison shows.
    pub found: Option<&'s HaltReason>,
}

impl HaltReason {
    /// What may be missing, where that is what the finding means.
    pub fn loss(&self) -> Option<Loss> {
        match self {
            HaltReason::SlotGone { .. } => Some(Loss::SlotGone),
            HaltReason::SlotInvalidated { .. } => Some(Loss::SlotInvalidated),
            HaltReason::SlotAhead { .. } => Some(Loss::SlotAhead),
            HaltReason::SlotGoneAfterSwitch { .. } | HaltReason::SlotAheadAfterSwitch { .. } => {
                Some(Loss::Failover)
            }
            HaltReason::OtherSystem { .. } => Some(Loss::OtherSystem),
            HaltReason::ServerBehind { .. }
            | HaltReason::OtherHistory { .. }
            | HaltReason::NotAnAncestor { .. } => Some(Loss::Restored),
            HaltReason::NothingYet
            | HaltReason::AnothersLane { .. }
            | HaltReason::NothingYetButRows
            | HaltReason::SlotUnfinished
            | HaltReason::WrongPlugin { .. }
            | HaltReason::WrongDatabase { .. }
            | HaltReason::TemporarySlot
            // A former primary is no place to publish from, whatever is configured.
            | HaltReason::TimelineWentBack { .. }
            | HaltReason::HistoryMissing { .. }
            | HaltReason::TooManyFills { .. }
            | HaltReason::RowsMayBeGone { .. }
            | HaltReason::MessagesGone { .. }
            | HaltReason::NoTable => None,
        }
    }

    /// The part of this server's log that nothing will bring, where the loss has one.
    pub fn missing(&self, wal_end: Lsn) -> Option<(Lsn, Lsn)> {
        match self {
            HaltReason::SlotGone { position, wal_end } => Some((*position, *wal_end)),
            HaltReason::SlotGoneAfterSwitch { position, .. }
            | HaltReason::SlotInvalidated { position, .. } => Some((*position, wal_end)),
            HaltReason::SlotAhead { position, slot }
            | HaltReason::SlotAheadAfterSwitch { position, slot, .. } => Some((*position, *slot)),
            // Another system's log, or another history's: its positions say nothing here.
            HaltReason::OtherSystem { .. }
            | HaltReason::ServerBehind { .. }
            | HaltReason::OtherHistory { .. }
            | HaltReason::NotAnAncestor { .. }
            | HaltReason::NothingYet
            | HaltReason::NothingYetButRows
            | HaltReason::SlotUnfinished
            | HaltReason::WrongPlugin { .. }
            | HaltReason::WrongDatabase { .. }
            | HaltReason::TemporarySlot
            | HaltReason::TimelineWentBack { .. }
            | HaltReason::HistoryMissing { .. }
            | HaltReason::TooManyFills { .. }
            | HaltReason::RowsMayBeGone { .. }
            | HaltReason::MessagesGone { .. }
            | HaltReason::AnothersLane { .. }
            | HaltReason::NoTable => None,
        }
    }
}

/// What follows on a finding that the record is part of.
pub(super) fn answer(
    reason: HaltReason,
    record: &StateRecord,
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
    wishes: &Wishes<'_>,
) -> Decision {
    let recovery = wishes.recovery;
    let Some(loss) = reason.loss().filter(|loss| recovery.answer(*loss) == Answer::Fill) else {
        return Decision::Halt(reason);
    };
    // Only a slot that this relay may have made is dropped.
    if let Some(Err(foreign)) = slot.map(|slot| ours(slot, server)) {
        return Decision::Halt(foreign);
    }
    let fills = filled_within(record, recovery.window, wishes.now);
    if fills >= recovery.max_fills {
        let window = recovery.window;
        return Decision::Halt(HaltReason::TooManyFills { reason: Box::new(reason), fills, window });
    }
    let shared_lsn = if loss.shares_history() { shared(record, server) } else { Lsn::ZERO };
    Decision::Fill {
        epoch: record.epoch.saturating_add(1),
        base: base(record, shared_lsn),
        shared_lsn,
        drop_slot: slot.is_some(),
        reason: Some(Box::new(reason)),
    }
}

/// The newest snapshot whose rows are all published, of a history that ends at `shared_lsn`.
pub fn base(record: &StateRecord, shared_lsn: Lsn) -> Option<String> {
    record.ring.newest_at_or_below(shared_lsn).map(|entry| entry.snapshot.clone())
}

/// How far what is published and what the server has are the same.
fn shared(record: &StateRecord, server: &ServerFacts) -> Lsn {
    match switch_point(record.timeline, server) {
        Ok(None) => record.position,
        Ok(Some(switch_point)) => record.position.min(switch_point),
        Err(_) => Lsn::ZERO,
    }
}

fn filled_within(record: &StateRecord, window: Duration, now: Timestamp) -> usize {
    let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
    let since = now.as_second().saturating_sub(seconds);
    record.fills.iter().filter(|at| at.as_second() > since).count()
}
