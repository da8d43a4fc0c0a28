//! What a start would make of slot and state record, as a finding.

use super::finding::{Area, Finding};
use super::rights::init_command;
use crate::commands::outlook::Outlook;
use crate::commands::words::bytes;
use crate::config::Settings;
use crate::session::compare::{Decision, HaltReason};
use crate::session::lane_name;
use crate::state::{RecordedPhase, StateRecord};

const SUBJECT: &str = "a start";

/// The decision in a finding.
pub fn judge(outlook: &Outlook, settings: &Settings, slot_is_there: bool) -> Finding {
    let ok = |seen: String| Finding::ok(Area::Slot, "start", SUBJECT, seen);
    match &outlook.decision {
        Decision::Begin { position } => {
            ok(format!("would begin at the slot, {position}; nothing was published yet"))
        }
        Decision::Continue { position, .. } => {
            let behind = outlook.wal_end.0.saturating_sub(position.0);
            ok(format!(
                "goes on from {position}, {} before the end of the log",
                bytes(i64::try_from(behind).unwrap_or(i64::MAX))
            ))
        }
        Decision::MakeSlot if settings.outbox.message_prefix.is_some() => Finding::note(
            Area::Slot,
            "start-makes-slot",
            SUBJECT,
            "makes the slot; what was emitted before is never published, as start.existing says",
        ),
        Decision::MakeSlot => Finding::note(
            Area::Slot,
            "start-makes-slot",
            SUBJECT,
            "makes the slot; what stands in the table is never published, as start.existing says",
        ),
        Decision::Fill { reason: Some(reason), .. } => Finding::warning(
            Area::Slot,
            "start-fills",
            SUBJECT,
            format!("makes a new slot and publishes from the table what may be missing, as `recovery` says: {reason}"),
        )
        .mend("see what it would do", "outbox-relay plan"),
        Decision::Fill { .. } => Finding::note(
            Area::Slot,
            "start-fills",
            SUBJECT,
            "publishes rows from the table first, then makes its way with a new slot",
        )
        .advised("see what it would do", "outbox-relay plan"),
        Decision::NewTimeline { switch_point, possibly_lost, .. } => {
            let lost = possibly_lost.map_or(String::new(), |(from, to)| {
                format!(
                    "; events between {from} and {to} may be on the topics although the server has lost them"
                )
            });
            Finding::warning(
                Area::Slot,
                "new-timeline",
                SUBJECT,
                format!("finds that the server went over to another timeline at {switch_point}, and goes on with a new epoch{lost}"),
            )
            .mend("see what it would do", "outbox-relay plan")
        }
        Decision::Halt(reason) => halt(reason, settings, slot_is_there),
    }
}

/// How this lane's memory is set aside; of a relay with several the others keep theirs.
fn forget_command(settings: &Settings) -> String {
    let lane = settings.lane.name.as_ref().map(|name| format!(" --lane {name}")).unwrap_or_default();
    format!("outbox-relay forget --yes{lane}")
}

fn halt(reason: &HaltReason, settings: &Settings, slot_is_there: bool) -> Finding {
    let name = settings.slot();
    let drop = if slot_is_there {
        format!("SELECT pg_drop_replication_slot('{name}');   -- in PostgreSQL, then:\n")
    } else {
        String::new()
    };
    let forget = forget_command(settings);
    let anew = format!("{drop}{forget} && outbox-relay run --existing=publish");
    let begin = "decide whether to begin anew: every row that the table still holds is published again under its own id";
    let url = format!(
        "source.url = \"postgres://{}@<the right server>/{}\"",
        settings.source.user, settings.source.database
    );
    let (code, advice, command): (_, &str, String) = match reason {
        HaltReason::NothingYet => ("slot-missing", "let init make it", init_command(settings)),
        HaltReason::NothingYetButRows => (
            "slot-missing",
            "say what is to become of the rows: publish them first, or skip them (--existing=skip)",
            "outbox-relay run --existing=publish".into(),
        ),
        HaltReason::AnothersLane { .. } => (
            "lane-another",
            "give each lane the number and the name that it had",
            "lanes in the configuration".to_owned(),
        ),
        HaltReason::SlotGone { .. } | HaltReason::SlotGoneAfterSwitch { .. } => ("slot-gone", begin, anew),
        HaltReason::TooManyFills { .. } => (
            "too-many-fills",
            "find out what loses the slot; then allow more fills, or begin anew",
            "recovery.max_fills = 16".into(),
        ),
        HaltReason::RowsMayBeGone { .. } => (
            "rows-may-be-gone",
            "say whether rows stay in the table until they are published",
            "outbox.rows_stay = true".into(),
        ),
        HaltReason::MessagesGone { .. } => (
            "messages-gone",
            "find out what was emitted then and let it be emitted again; then begin anew",
            format!("{drop}{forget} && outbox-relay run --existing=skip"),
        ),
        HaltReason::NoTable => {
            ("no-table", "finish with the table, or give this relay another name", "outbox.from = \"table\"".into())
        }
        HaltReason::SlotInvalidated { .. } => ("slot-invalidated", begin, anew),
        HaltReason::SlotUnfinished => (
            "slot-unfinished",
            "end the transactions that it waits for",
            "SELECT pid, usename, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL; SELECT * FROM pg_prepared_xacts;"
                .into(),
        ),
        HaltReason::SlotAhead { .. } | HaltReason::SlotAheadAfterSwitch { .. } => ("slot-ahead", begin, anew),
        HaltReason::OtherSystem { .. } => ("other-system", "point source.url at the former cluster, or begin anew", url),
        HaltReason::ServerBehind { .. } => ("server-behind", begin, anew),
        HaltReason::OtherHistory { .. } => ("other-history", begin, anew),
        HaltReason::WrongPlugin { .. } => (
            "slot-plugin",
            "drop it if nobody uses it, or give this relay another name",
            format!("SELECT pg_drop_replication_slot('{name}');"),
        ),
        HaltReason::WrongDatabase { .. } => (
            "slot-database",
            "correct source.url, or give this relay another name",
            "name = \"<another name>\"".into(),
        ),
        HaltReason::TemporarySlot => ("slot-temporary", begin, anew),
        HaltReason::TimelineWentBack { .. } => ("timeline-back", "point source.url at the present primary", url),
        HaltReason::HistoryMissing { found, .. } => (
            "history-missing",
            "restore the timeline's history from the archive",
            format!("cp <archive>/{found:08X}.history <data directory>/pg_wal/"),
        ),
        HaltReason::NotAnAncestor { .. } => ("timeline-foreign", "point source.url at the present primary", url),
    };
    Finding::error(Area::Slot, code, name, reason.to_string()).mend(advice, command)
}

/// The slot where a start cannot be judged: the state record or the server's history could not be read.
pub fn judge_without_record(settings: &Settings, slot_is_there: bool) -> Option<Finding> {
    (!slot_is_there).then(|| {
        Finding::error(
            Area::Slot,
            "slot-missing",
            settings.slot(),
            "does not exist; whether it did before, and what a start would do, cannot be told while something else is wrong",
        )
        .mend("mend the other errors first, then look again", "outbox-relay check")
    })
}

/// What the relay remembers.
pub fn judge_record(record: Option<&StateRecord>, settings: &Settings) -> Finding {
    let key = lane_name(settings, settings.lane.number);
    let Some(record) = record else {
        return Finding::ok(
            Area::Slot,
            "state-record",
            key,
            "no state record: this relay has published nothing yet",
        );
    };
    let phase = match record.phase {
        RecordedPhase::Filling { .. } => "filling",
        RecordedPhase::Streaming => "streaming",
        RecordedPhase::Forgotten => "forgotten",
    };
    Finding::ok(
        Area::Slot,
        "state-record",
        key,
        format!(
            "{phase}, epoch {}, published up to {} on timeline {}, {} topics, written {:.0}",
            record.epoch,
            record.position,
            record.timeline,
            record.partitions.len(),
            record.written_at
        ),
    )
}

/// The state record is there and cannot be read.
pub fn unreadable(settings: &Settings, why: &str) -> Finding {
    Finding::error(Area::Slot, "state-record-unreadable", &settings.state.topic, why).mend(
        "look at what stands there; a newer release's record needs that release",
        format!(
            "kafka-console-consumer.sh --bootstrap-server {} --topic {} --from-beginning --timeout-ms 5000 \
             --property print.key=true --isolation-level read_committed",
            settings.kafka.brokers, settings.state.topic
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::finding::Severity;
    use crate::commands::check::fixture::settings;
    use crate::lsn::Lsn;

    fn judged(decision: Decision, slot: bool) -> Finding {
        judge(&Outlook { decision, wal_end: Lsn(0x300) }, &settings(), slot)
    }

    #[test]
    fn every_reason_to_halt_has_a_command() {
        let position = Lsn(0x100);
        let gone = judged(Decision::Halt(HaltReason::SlotGone { position, wal_end: Lsn(0x300) }), false);
        assert_eq!((gone.code, gone.severity), ("slot-gone", Severity::Error));
        assert!(gone.seen.contains("0/100") && gone.seen.contains("0/300"), "{}", gone.seen);
        assert_eq!(
            gone.command.as_deref(),
            Some("outbox-relay forget --yes && outbox-relay run --existing=publish")
        );
        let ahead = judged(Decision::Halt(HaltReason::SlotAhead { position, slot: Lsn(0x200) }), true);
        assert_eq!(ahead.code, "slot-ahead");
        assert!(ahead.command.unwrap().starts_with("SELECT pg_drop_replication_slot('outbox_orders');"));
        let mut billing = settings();
        billing.lane.name = Some("billing".into());
        let decision = Decision::Halt(HaltReason::SlotGone { position, wal_end: Lsn(0x300) });
        let of_lane = judge(&Outlook { decision, wal_end: Lsn(0x300) }, &billing, false);
        assert!(of_lane.command.unwrap().starts_with("outbox-relay forget --yes --lane billing &&"));
        let nothing = judged(Decision::Halt(HaltReason::NothingYet), false);
        assert!(nothing.command.unwrap().starts_with("outbox-relay init --admin-url"));
    }

    #[test]
    fn what_goes_on_is_no_fault() {
        let ok = judged(Decision::Continue { position: Lsn(0x100), must_meet: None }, true);
        assert_eq!(
            (ok.severity, ok.seen.as_str()),
            (Severity::Ok, "goes on from 0/100, 512 B before the end of the log")
        );
        assert_eq!(judged(Decision::Begin { position: Lsn(1) }, true).severity, Severity::Ok);
        assert_eq!(judged(Decision::MakeSlot, false).severity, Severity::Note);
    }

    #[test]
    fn a_slot_cannot_be_judged_without_the_record_but_its_absence_can() {
        assert_eq!(judge_without_record(&settings(), true), None);
        assert_eq!(judge_without_record(&settings(), false).unwrap().code, "slot-missing");
    }
}
