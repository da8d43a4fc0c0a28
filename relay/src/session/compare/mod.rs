//! What a start or a reconnect does, decided from what the state record, the slot and the server say.
//!
//! [`compare`] is a pure function over facts. Its rule: the stream is continued only where the three
//! agree that nothing between the record's position and the slot is missing; everything else is a
//! [`HaltReason`] that says what was seen, and, where the configuration says so and the table can bring what is
//! missing, a fill. It never decides for a new slot unless it was told to.
//!
//! Why the position is compared with *commit* LSNs when transactions are skipped: a transaction counts
//! as published if and only if its commit LSN is **below** the position. This is the server's own rule
//! (`SnapBuildXactNeedsSkip` compares the commit record's start with the slot's `confirmed_flush_lsn`,
//! which is where our position ends up), so both sides skip the same ones. A position is the end LSN of
//! a transaction or of a keepalive, hence the boundary of a record: the published transaction that ends
//! there begins below it, and the next one may begin exactly at it and is not published.

mod answer;
mod halt;
mod must_meet;

#[cfg(test)]
mod tests;

use crate::config::Existing;
use crate::lsn::Lsn;
use crate::state::{RecordedPhase, StateRecord};
pub use answer::{Wishes, base};
pub use halt::HaltReason;
pub use must_meet::{Meeting, MustMeet, Skipped};

/// The output plugin of our slots.
pub const PLUGIN: &str = "pgoutput";

/// The relay's slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// `confirmed_flush_lsn`; [`Lsn::ZERO`] where it is NULL.
    pub confirmed_flush: Lsn,
    /// `restart_lsn`; NULL once the WAL the slot needs is gone.
    pub restart_lsn: Option<Lsn>,
    /// `wal_status`.
    pub wal_status: Option<String>,
    /// `invalidation_reason` (PostgreSQL 17 and later).
    pub invalidation_reason: Option<String>,
    /// `plugin`; empty for a physical slot.
    pub plugin: String,
    /// `database`; empty for a physical slot.
    pub database: String,
    /// `temporary`.
    pub temporary: bool,
}

/// The server that answers on both connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// System identifier, from `IDENTIFY_SYSTEM`.
    pub system_id: String,
    /// Its present timeline.
    pub timeline: u32,
    /// The timeline's history file: each ancestor and the LSN at which the next one branched off.
    /// Needed, and so may be empty, only where the timeline is not the record's or is 1.
    pub history: Vec<(u32, Lsn)>,
    /// `pg_current_wal_flush_lsn()`, on the primary.
    pub wal_end: Lsn,
    /// The database of both connections.
    pub database: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No record, but a slot: somebody made it for us. Epoch 1, from where the slot stands.
    Begin {
        /// The slot's `confirmed_flush_lsn`.
        position: Lsn,
    },
    /// No record and no slot, and the configuration says to skip what the table holds: make the slot,
    /// then [`Decision::Begin`] where it stands.
    MakeSlot,
    /// The three agree. Transactions with a commit LSN below the position are skipped.
    Continue {
        /// The record's position.
        position: Lsn,
        /// Proof of the history while transactions are skipped; feedback stands still until
        /// [`MustMeet::is_met`]. `None`: nothing is skipped, or nothing is known to prove it by.
        must_meet: Option<MustMeet>,
    },
    /// The server is on a later timeline. The record has to be written before the stream is read.
    NewTimeline {
        /// The record with a new epoch, cut to what the two histories share.
        record: Box<StateRecord>,
        /// Where the histories part.
        switch_point: Lsn,
        /// Events between these may have been published although the server has lost them.
        possibly_lost: Option<(Lsn, Lsn)>,
        /// As in [`Decision::Continue`].
        must_meet: Option<MustMeet>,
    },
    /// Publish from the table, then stream.
    Fill {
        /// Epoch of the fill.
        epoch: u64,
        /// Rows of transactions visible in this snapshot are published already; `None` is the empty one.
        base: Option<String>,
        /// The last LSN that the server's history shares with what was published.
        shared_lsn: Lsn,
        /// A slot that brings nothing more, or of an attempt that was not finished, has to be dropped first.
        drop_slot: bool,
        /// What was lost; `None` where nothing was, or where a fill begins again.
        reason: Option<Box<HaltReason>>,
    },
    /// Nothing can be done without a person.
    Halt(HaltReason),
}

/// Decides what a start or reconnect does. The lane and the slot are owned and others fenced before the
/// record is read, or it may be another's past.
pub fn compare(
    record: Option<&StateRecord>,
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
    wishes: &Wishes<'_>,
) -> Decision {
    let Some(record) = record else {
        return without_record(slot, server, wishes).unwrap_or_else(Decision::Halt);
    };
    let decision = match wishes.found {
        Some(found) => Err(found.clone()),
        None => with_record(record, slot, server),
    };
    decision.unwrap_or_else(|reason| answer::answer(reason, record, slot, server, wishes))
}

fn without_record(
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
    wishes: &Wishes<'_>,
) -> Result<Decision, HaltReason> {
    if let Some(slot) = slot {
        ours(slot, server)?;
        healthy(slot, slot.confirmed_flush)?;
        return Ok(Decision::Begin { position: slot.confirmed_flush });
    }
    match wishes.existing {
        Existing::Publish => {
            Ok(Decision::Fill { epoch: 1, base: None, shared_lsn: Lsn::ZERO, drop_slot: false, reason: None })
        }
        Existing::Skip => Ok(Decision::MakeSlot),
        Existing::Refuse if wishes.table_has_rows => Err(HaltReason::NothingYetButRows),
        Existing::Refuse => Err(HaltReason::NothingYet),
    }
}

fn with_record(
    record: &StateRecord,
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
) -> Result<Decision, HaltReason> {
    if record.system_id != server.system_id {
        return Err(HaltReason::OtherSystem {
            recorded: record.system_id.clone(),
            found: server.system_id.clone(),
            position: record.position,
        });
    }
    if let RecordedPhase::Filling { base, shared_lsn } = &record.phase {
        return fill_again(record, base.as_deref(), *shared_lsn, slot, server);
    }
    if let Some(slot) = slot {
        ours(slot, server)?;
    }
    let switch_point = switch_point(record.timeline, server)?;
    let shared = switch_point.map_or(record.position, |switch_point| record.position.min(switch_point));
    // Whatever became of the slot: a server that lost log knows nothing of it.
    reaches(server, shared)?;
    let Some(slot) = slot else { return Err(gone(record, server, switch_point)) };
    healthy(slot, record.position)?;
    match switch_point {
        None => same_timeline(record, slot),
        Some(switch_point) => new_timeline(record, slot, server, switch_point),
    }
}

fn gone(record: &StateRecord, server: &ServerFacts, switch_point: Option<Lsn>) -> HaltReason {
    let position = record.position;
    match switch_point {
        None => HaltReason::SlotGone { position, wal_end: server.wal_end },
        Some(switch_point) => HaltReason::SlotGoneAfterSwitch {
            position: position.min(switch_point),
            furthest: position.max(record.ceiling),
            switch_point,
            timeline: server.timeline,
        },
    }
}

fn same_timeline(record: &StateRecord, slot: &SlotFacts) -> Result<Decision, HaltReason> {
    let position = record.position;
    if slot.confirmed_flush > position {
        return Err(HaltReason::SlotAhead { position, slot: slot.confirmed_flush });
    }
    Ok(Decision::Continue { position, must_meet: must_meet(record, slot) })
}

/// The record as it has to be before anything of the new timeline is read. What stands beyond the switch
/// point was said by a history that is gone.
fn new_timeline(
    record: &StateRecord,
    slot: &SlotFacts,
    server: &ServerFacts,
    switch_point: Lsn,
) -> Result<Decision, HaltReason> {
    // The ceiling may be below the position (nothing was sent, keepalives moved on) and above it (sent
    // and not confirmed): either may be what reached furthest.
    let furthest = record.position.max(record.ceiling);
    let mut cut = record.clone();
    cut.timeline = server.timeline;
    cut.epoch = record.epoch.saturating_add(1);
    cut.position = record.position.min(switch_point);
    cut.ceiling = furthest.min(switch_point);
    cut.highest_handed = record.highest_handed.map(|lsn| lsn.min(switch_point));
    cut.last_published = record.last_published.filter(|last| last.end_lsn <= cut.position);
    cut.ring.cut_to(cut.position);
    if slot.confirmed_flush > cut.position {
        let (slot, position) = (slot.confirmed_flush, cut.position);
        return Err(HaltReason::SlotAheadAfterSwitch {
            position,
            slot,
            switch_point,
            timeline: server.timeline,
        });
    }
    Ok(Decision::NewTimeline {
        must_meet: must_meet(&cut, slot),
        possibly_lost: (furthest > switch_point).then_some((switch_point, furthest)),
        switch_point,
        record: Box::new(cut),
    })
}

/// A fill that was not finished begins again with what it had written down before its slot was made, so
/// that a second attempt cannot choose a base that lies. On another timeline, though, the shared history
/// may end earlier, and the base with it.
fn fill_again(
    record: &StateRecord,
    base: Option<&str>,
    shared_lsn: Lsn,
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
) -> Result<Decision, HaltReason> {
    if let Some(slot) = slot {
        // Only a slot that this relay may have made is dropped.
        ours(slot, server)?;
    }
    let switch_point = switch_point(record.timeline, server)?;
    let still_shared = switch_point.map_or(shared_lsn, |switch_point| shared_lsn.min(switch_point));
    reaches(server, still_shared)?;
    let base =
        if still_shared == shared_lsn { base.map(str::to_owned) } else { answer::base(record, still_shared) };
    let epoch = if switch_point.is_some() { record.epoch.saturating_add(1) } else { record.epoch };
    Ok(Decision::Fill { epoch, base, shared_lsn: still_shared, drop_slot: slot.is_some(), reason: None })
}

/// Transactions are skipped between the slot and the record's position. Where the newest published
/// transaction is known, that is believed only if the stream agrees.
fn must_meet(record: &StateRecord, slot: &SlotFacts) -> Option<MustMeet> {
    let skips = slot.confirmed_flush < record.position;
    // A record that was cut at a failover may have lost its last transaction, and the skipped rows be those
    // that it stood for: then there is nothing to prove them by.
    let provable = record.last_published.is_some() || record.epoch == 1;
    (skips && provable).then(|| MustMeet::new(record.last_published, slot.confirmed_flush, record.position))
}

fn ours(slot: &SlotFacts, server: &ServerFacts) -> Result<(), HaltReason> {
    if slot.plugin != PLUGIN {
        return Err(HaltReason::WrongPlugin { found: slot.plugin.clone() });
    }
    if slot.database != server.database {
        return Err(HaltReason::WrongDatabase {
            slot: slot.database.clone(),
            connected: server.database.clone(),
        });
    }
    if slot.temporary {
        return Err(HaltReason::TemporarySlot);
    }
    Ok(())
}

fn healthy(slot: &SlotFacts, position: Lsn) -> Result<(), HaltReason> {
    let invalidated = |reason: &str| Err(HaltReason::SlotInvalidated { reason: reason.to_owned(), position });
    if let Some(reason) = &slot.invalidation_reason {
        return invalidated(reason);
    }
    if slot.wal_status.as_deref() == Some("lost") {
        return invalidated("wal_status is lost");
    }
    if slot.restart_lsn.is_none() {
        return invalidated("restart_lsn is NULL");
    }
    if slot.confirmed_flush.is_zero() {
        return Err(HaltReason::SlotUnfinished);
    }
    Ok(())
}

/// A position was sent by the server from log that it had flushed. A server whose log ends below it has
/// lost what it had flushed.
fn reaches(server: &ServerFacts, position: Lsn) -> Result<(), HaltReason> {
    if server.wal_end < position {
        return Err(HaltReason::ServerBehind {
            wal_end: server.wal_end,
            position,
            timeline: server.timeline,
        });
    }
    Ok(())
}

/// Where the server's history left the recorded timeline; `None` while it has not.
fn switch_point(recorded: u32, server: &ServerFacts) -> Result<Option<Lsn>, HaltReason> {
    let found = server.timeline;
    if recorded == found {
        return Ok(None);
    }
    if recorded > found {
        return Err(HaltReason::TimelineWentBack { recorded, found });
    }
    if server.history.is_empty() {
        return Err(HaltReason::HistoryMissing { recorded, found });
    }
    if server.history.iter().all(|(timeline, _)| *timeline != recorded) {
        return Err(HaltReason::NotAnAncestor { recorded, found });
    }
    // The lowest of all switches since: what is shared cannot reach beyond any of them.
    Ok(server.history.iter().filter(|(timeline, _)| *timeline >= recorded).map(|(_, lsn)| *lsn).min())
}
