//! The comparison, and what of a fill only the database can say: whether its history is the one that was published
//! from, whether published rows stay in the table, and whether it still has what the quarantine took.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::error::SqlState;

use super::compare::{Decision, HaltReason, ServerFacts, SlotFacts, Wishes, base, compare};
use super::sql::{Sql, SqlError};
use crate::config::Settings;
use crate::fill;
use crate::ledger::LastPublished;
use crate::lsn::Lsn;
use crate::quarantine::entry::parse_position;
use crate::quarantine::recall::whose;
use crate::quarantine::table;
use crate::state::StateRecord;

/// Above the session's statement time-out, so that the server's answer comes first.
const LOOK: Duration = Duration::from_secs(8);

/// The first id that a transaction can have; what a fill published stands under none.
const FIRST_XID: u32 = 3;

/// What a start goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'f> {
    /// What the relay remembers; `None` also where it was told to forget.
    pub(crate) record: Option<&'f StateRecord>,
    /// The slot.
    pub(crate) slot: Option<&'f SlotFacts>,
    /// The server.
    pub(crate) server: &'f ServerFacts,
    /// Whether rows stand in the table; asked only where there is neither slot nor record.
    pub(crate) has_rows: bool,
    /// What the former session found in the stream.
    pub(crate) found: Option<&'f HaltReason>,
}

/// Compares, and looks more closely where that would come to a fill.
///
/// # Errors
/// The server does not answer, or does not let the table be read.
pub(crate) async fn weigh(
    sql: &Sql,
    settings: &Settings,
    lane: u32,
    facts: Facts<'_>,
) -> Result<Decision, SqlError> {
    let Facts { record, slot, server, has_rows, found } = facts;
    let wishes = Wishes {
        existing: settings.existing,
        table_has_rows: has_rows,
        recovery: &settings.recovery,
        now: Timestamp::now(),
        found,
    };
    if let Some(reason) = record.and_then(|record| anothers(record, settings)) {
        return Ok(Decision::Halt(reason));
    }
    let decision = compare(record, slot, server, &wishes);
    if settings.outbox.message_prefix.is_some() {
        return Ok(of_messages(decision, server.wal_end));
    }
    let (Decision::Fill { base: Some(known), shared_lsn, reason: Some(reason), .. }, Some(record)) =
        (&decision, record)
    else {
        return Ok(decision);
    };
    let last = record.last_published;
    if let Some(last) = last.filter(|last| last.xid >= FIRST_XID && last.end_lsn <= *shared_lsn)
        && !has_committed(sql, &last).await?
    {
        // The disk went back, and its log has grown beyond the position since: its snapshots lie.
        let found = HaltReason::OtherHistory { expected: Some(last), seen: server.wal_end };
        return Ok(compare(Some(record), slot, server, &Wishes { found: Some(&found), ..wishes }));
    }
    let stay = settings.recovery.rows_stay.unwrap_or(last.is_none());
    if !stay && !keeps_published_rows(sql, settings, known).await? {
        return Ok(Decision::Halt(HaltReason::RowsMayBeGone { reason: reason.clone() }));
    }
    let Some(lost) = lost_entry(sql, settings, lane, record).await? else { return Ok(decision) };
    let older = base(record, lost.min(*shared_lsn));
    Ok(with_base(decision, older))
}

/// Whether the record under this lane's number is another lane's: two numbers were changed for each other. Its position
/// says nothing of this lane's table, though both may have met the transaction that proves it.
fn anothers(record: &StateRecord, settings: &Settings) -> Option<HaltReason> {
    let (recorded, found) = (&record.lane_name, &settings.lane.name);
    (recorded != found).then(|| HaltReason::AnothersLane {
        number: settings.lane.number,
        recorded: recorded.clone(),
        found: found.clone(),
    })
}

/// Messages stand in no table, so that nothing can be filled: a loss halts with the range of the log that is gone.
fn of_messages(decision: Decision, wal_end: Lsn) -> Decision {
    match decision {
        Decision::Halt(reason) if reason.loss().is_some() => {
            let missing = reason.missing(wal_end);
            Decision::Halt(HaltReason::MessagesGone { reason: Box::new(reason), missing })
        }
        Decision::Fill { .. } => Decision::Halt(HaltReason::NoTable),
        other @ (Decision::Begin { .. }
        | Decision::Continue { .. }
        | Decision::NewTimeline { .. }
        | Decision::MakeSlot
        | Decision::Halt(_)) => other,
    }
}

fn with_base(decision: Decision, older: Option<String>) -> Decision {
    match decision {
        Decision::Fill { epoch, shared_lsn, drop_slot, reason, .. } => {
            Decision::Fill { epoch, base: older, shared_lsn, drop_slot, reason }
        }
        other => other,
    }
}

/// Whether the server knows the transaction as one that committed; with its time, where it keeps times. One so old
/// that its fate is forgotten counts as known.
async fn has_committed(sql: &Sql, last: &LastPublished) -> Result<bool, SqlError> {
    // The log has 32 bits of an id; the rest is that of the newest id at or below the next one.
    let statement = "
        WITH next AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS xid),
        full_id AS (SELECT n.xid AS next,
                   n.xid - mod(n.xid - $1::int8 + 4294967296, 4294967296) AS xid FROM next n)
        SELECT CASE WHEN f.xid >= f.next OR f.xid < 0 THEN false
               WHEN coalesce(pg_xact_status(f.xid::text::xid8), 'committed') <> 'committed' THEN false
               WHEN current_setting('track_commit_timestamp')::bool
               THEN coalesce((extract(epoch FROM pg_xact_commit_timestamp($1::int8::text::xid)
                              - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8 = $2, true)
               ELSE true END
          FROM full_id f";
    let question = "looking for the last published transaction";
    Ok(sql.one(question, statement, &[&i64::from(last.xid), &last.commit_time]).await?.get(0))
}

/// Whether any row stands in the table whose transaction is known to be published. Where that cannot be found out in
/// some seconds it counts as none.
async fn keeps_published_rows(sql: &Sql, settings: &Settings, base: &str) -> Result<bool, SqlError> {
    let Some(published) = fill::is_published(&settings.outbox, base) else { return Ok(false) };
    let question = "looking for a published row in the outbox table";
    let table = fill::table(&settings.outbox);
    let look = format!("SELECT EXISTS (SELECT FROM {table} WHERE {published})");
    let answer = tokio::time::timeout(LOOK, sql.client().query_one(&look, &[])).await;
    match answer.map_err(|_| SqlError::Silent { question: question.into() })? {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(false),
        Err(source) => Err(SqlError::Server { question: question.into(), source }),
    }
}

/// The lowest row that went into the quarantine and whose entry the server has lost: a snapshot that sees its
/// transaction does not say that it is kept anywhere (R39).
async fn lost_entry(
    sql: &Sql,
    settings: &Settings,
    lane: u32,
    record: &StateRecord,
) -> Result<Option<Lsn>, SqlError> {
    if record.unlisted.is_some() {
        return Ok(Some(Lsn::ZERO));
    }
    let listed: Vec<_> =
        record.quarantined.iter().filter_map(|entry| parse_position(&entry.position)).collect();
    if listed.is_empty() {
        return Ok(None);
    }
    let present = if table::exists(sql).await? {
        table::present(sql, &whose(settings, lane), &listed).await?
    } else {
        Vec::new()
    };
    Ok(listed.into_iter().filter(|id| !present.contains(id)).map(|(_, lsn, _)| lsn).min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LaneId, Overrides, load};

    #[test]
    fn a_loss_of_messages_halts_with_what_is_gone() {
        let gone = HaltReason::SlotGone { position: Lsn(0x100), wal_end: Lsn(0x900) };
        let Decision::Halt(halt) = of_messages(Decision::Halt(gone), Lsn(0x900)) else {
            panic!("has to halt")
        };
        let said = halt.to_string();
        assert!(said.contains("the replication slot is gone"), "{said}");
        assert!(said.contains("in the log from 0/100 to 0/900 is in no table"), "{said}");
        assert!(!said.contains("--existing=publish") && said.contains("--existing=skip"), "{said}");
        let lost = HaltReason::SlotInvalidated { reason: "wal_removed".into(), position: Lsn(0x200) };
        let Decision::Halt(halt) = of_messages(Decision::Halt(lost), Lsn(0xA00)) else {
            panic!("has to halt")
        };
        let said = halt.to_string();
        assert!(said.contains("from 0/200 to 0/A00") && !said.contains(". . "), "{said}");
        let ahead = HaltReason::SlotAhead { position: Lsn(0x200), slot: Lsn(0x300) };
        assert_eq!(ahead.missing(Lsn(0xA00)), Some((Lsn(0x200), Lsn(0x300))));
    }

    #[test]
    fn nothing_is_filled_where_there_is_no_table() {
        let fill =
            Decision::Fill { epoch: 2, base: None, shared_lsn: Lsn::ZERO, drop_slot: true, reason: None };
        assert!(matches!(of_messages(fill, Lsn(1)), Decision::Halt(HaltReason::NoTable)));
        let begin = Decision::Begin { position: Lsn(7) };
        assert!(matches!(of_messages(begin, Lsn(9)), Decision::Begin { .. }));
        let nothing = of_messages(Decision::Halt(HaltReason::NothingYet), Lsn(9));
        assert!(matches!(nothing, Decision::Halt(HaltReason::NothingYet)));
    }

    #[test]
    fn a_memory_under_another_name_is_another_lanes() {
        let env = || {
            [
                ("NAME", "shop"),
                ("SOURCE_URL", "postgres://relay@localhost/shop"),
                ("KAFKA_BROKERS", "k1:9092"),
            ]
            .map(|(name, text)| (format!("OUTBOX_RELAY_{name}"), text.to_owned()))
            .into()
        };
        let only = load(None, &env, Overrides::default()).unwrap().into_first();
        let billing = LaneId { number: 0, name: Some("billing".into()) };
        let billing = Settings { lane: billing, ..only.clone() };
        let record = |settings: &Settings| StateRecord {
            lane_name: settings.lane.name.clone(),
            ..StateRecord::first("shop", 0, "1", 1, Lsn(1))
        };
        assert_eq!(anothers(&record(&only), &only), None);
        assert_eq!(anothers(&record(&billing), &billing), None);
        let sentence = anothers(&record(&billing), &only).unwrap().to_string();
        assert!(sentence.starts_with("number 0 of the lanes is lane billing's, whose"), "{sentence}");
        assert!(sentence.contains("and this is the lane without a name"), "{sentence}");
        assert!(anothers(&record(&only), &billing).is_some());
        // A relay without lanes writes what it always wrote.
        let text = String::from_utf8(record(&only).encode().unwrap()).unwrap();
        assert!(!text.contains("lane_name"), "{text}");
    }
}
