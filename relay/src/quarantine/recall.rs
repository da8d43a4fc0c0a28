//! What a session begins with: the holds that stand, and a list that agrees with the table.

use std::collections::HashSet;

use super::again::{self, NotMade};
use super::desk::EntryId;
use super::entry::{parse_position, position_text};
use super::holds::{Holds, Known};
use super::table::{self, Recalled, Whose};
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::router::RowPosition;
use crate::session::own::keep_alive;
use crate::session::{End, Sql};
use crate::state::{ListedEntry, StateRecord};

/// Whose entries a lane's are.
pub fn whose(settings: &Settings, lane: u32) -> Whose {
    Whose { relay: settings.name.clone(), lane: i32::try_from(lane).unwrap_or(i32::MAX) }
}

/// Reads the table and brings the record's list in line with it. The record has to be acknowledged before
/// a row is routed.
///
/// # Errors
/// The session's end: PostgreSQL does not answer, there is no table although rows may have to go there, or
/// an entry that the record lists was lost and cannot be made again from its row.
pub async fn recall(
    sql: &Sql,
    settings: &Settings,
    lane: u32,
    record: &mut StateRecord,
) -> Result<Holds, End> {
    let there = table::exists(sql).await.map_err(|error| error.end())?;
    if !there {
        // Those that the position has passed are of use only where a table is.
        let listed = record.quarantined.iter().any(|entry| entry.entry_lsn > record.position);
        if settings.quarantine.is_used() || listed || record.unlisted.is_some() {
            return Err(End::Halt(
                "there is no table outbox.quarantine, where rows go that cannot be published: run `outbox-relay init` \
                 again, or set quarantine.policy = \"halt\""
                    .into(),
            ));
        }
        return Ok(Holds::default());
    }
    let whose = whose(settings, lane);
    write_down(sql, &whose, record).await?;
    let ask = async |record: &StateRecord| {
        table::recall(sql, &whose, record.position, record.epoch).await.map_err(|error| error.end())
    };
    let mut found = ask(record).await?;
    let missing = missing(sql, &whose, record).await?;
    if !missing.is_empty() && settings.outbox.message_prefix.is_some() {
        let names: Vec<String> =
            missing.iter().map(|(_, entry)| format!("{} (event {})", entry.position, entry.id)).collect();
        return Err(End::Halt(format!(
            "the state record lists messages in quarantine that outbox.quarantine no longer holds: {}. PostgreSQL has \
             lost them (a failover, a restore) or somebody deleted them, and messages stand in no table: let their \
             services emit these events again, then `outbox-relay forget` makes the relay begin anew",
            names.join(", ")
        )));
    }
    if !missing.is_empty() {
        // It may read the whole table, on another connection: the lane's must not idle meanwhile.
        let slot = settings.slot();
        let made = tokio::select! {
            biased;
            end = keep_alive(sql, &slot, None) => Err(end),
            made = again::make(sql, settings, &whose, &missing, &found) => made,
        };
        if let Err((which, why)) = made? {
            return Err(End::Halt(cannot_be_made(&missing, which, &why)));
        }
        found = ask(record).await?;
    }
    for entry in &found {
        if let Some(decided) = entry.decided {
            let position = position_text(&position_of(entry));
            table::remind(sql, &whose, &position, decided).await.map_err(|error| error.end())?;
        }
    }
    // What is in the table now committed before this position.
    let entry_lsn = table::log_position(sql).await.map_err(|error| error.end())?;
    if let Some(sentence) = uncertain(record, entry_lsn) {
        return Err(End::Halt(sentence));
    }
    for entry in &mut record.quarantined {
        if missing.iter().any(|(_, made)| made.position == entry.position) {
            entry.entry_lsn = entry.entry_lsn.max(entry_lsn);
        }
    }
    list(record, &found, entry_lsn);
    Ok(holds(record, &found))
}

/// Decisions whose events were committed with the record and that a crash kept from being written down. What was
/// written down already stays as it is: somebody may have decided anew since.
async fn write_down(sql: &Sql, whose: &Whose, record: &mut StateRecord) -> Result<(), End> {
    for outcome in std::mem::take(&mut record.carried) {
        let stands = table::decision(sql, whose, outcome.head).await.map_err(|error| error.end())?;
        if stands.is_some() {
            table::settle(sql, whose, &outcome).await.map_err(|error| error.end())?;
            tracing::info!(
                commit_lsn = %outcome.head.1, ordinal = outcome.head.2,
                "wrote down what had become of a decision about the quarantine"
            );
        }
    }
    Ok(())
}

/// Entries that no record of the stream brings again: the position has passed their rows, and not yet them.
pub(crate) fn must_be_there(record: &StateRecord) -> Vec<(EntryId, &ListedEntry)> {
    record
        .quarantined
        .iter()
        .filter_map(|entry| Some((parse_position(&entry.position)?, entry)))
        .filter(|((_, lsn, _), entry)| *lsn < record.position && entry.entry_lsn > record.position)
        .collect()
}

/// Entries whose row the position has passed do not come again by themselves. One that is gone went with
/// transactions that PostgreSQL lost (R39). In the order of their positions.
async fn missing(sql: &Sql, whose: &Whose, record: &StateRecord) -> Result<Vec<(EntryId, ListedEntry)>, End> {
    let passed = must_be_there(record);
    let ids: Vec<EntryId> = passed.iter().map(|(id, _)| *id).collect();
    let present = table::present(sql, whose, &ids).await.map_err(|error| error.end())?;
    let present: HashSet<EntryId> = present.into_iter().collect();
    let mut missing: Vec<(EntryId, ListedEntry)> = passed
        .into_iter()
        .filter(|(id, _)| !present.contains(id))
        .map(|(id, entry)| (id, entry.clone()))
        .collect();
    missing.sort_by_key(|(id, _)| *id);
    missing.dedup_by_key(|(id, _)| *id);
    Ok(missing)
}

fn cannot_be_made(missing: &[(EntryId, ListedEntry)], which: EntryId, why: &NotMade) -> String {
    let name = |entry: &ListedEntry| format!("{} (event {})", entry.position, entry.id);
    let all: Vec<String> = missing.iter().map(|(_, entry)| name(entry)).collect();
    let this = missing.iter().find(|(id, _)| *id == which).map(|(_, entry)| name(entry)).unwrap_or_default();
    format!(
        "the state record lists rows in quarantine that outbox.quarantine no longer holds: {}. PostgreSQL has lost them \
         (a failover, a restore) or somebody deleted them, and {this} cannot be made again from its row: {why}. Publish \
         these events again by hand if their rows still stand in the outbox, then `outbox-relay forget` makes the relay \
         begin anew",
        all.join(", ")
    )
}

/// Of entries beyond the list it is only known that the server wrote them. Where it has lost log since, or
/// came on another timeline before the position had passed them, any of them may be gone (R39).
pub(crate) fn uncertain(record: &StateRecord, log_end: Lsn) -> Option<String> {
    let unlisted = record.unlisted?;
    (unlisted.timeline != record.timeline || log_end < unlisted.up_to).then(|| {
        format!(
            "{} rows in quarantine were written up to {} on timeline {}, more than the state record lists by name, and \
             the server has lost log or changed its timeline since (now {}, log up to {log_end}): some of them may be \
             gone. Compare outbox.quarantine with the rows of the outbox, publish by hand what is in neither place, \
             then `outbox-relay forget` makes the relay begin anew",
            unlisted.entries, unlisted.up_to, unlisted.timeline, record.timeline
        )
    })
}

/// Lists what is in the table and may come again in the stream, so that meeting it settles its row. What
/// is listed and comes again is put in again.
pub(crate) fn list(record: &mut StateRecord, found: &[Recalled], entry_lsn: Lsn) {
    record.quarantined.retain(|entry| {
        let lsn = parse_position(&entry.position).map_or(Lsn::ZERO, |(_, lsn, _)| lsn);
        lsn < record.position
    });
    let again: Vec<&Recalled> = found.iter().filter(|entry| comes_again(record, entry)).collect();
    record.list(again.into_iter().map(|entry| {
        let position = position_text(&position_of(entry));
        ListedEntry::new(entry.event_id.as_deref(), position, entry_lsn)
    }));
}

fn position_of(entry: &Recalled) -> RowPosition {
    let (epoch, commit_lsn, ordinal) = entry.id;
    RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: 0 }
}

/// Whether the entry's row comes again from the record's position. In a fill all rows do that were read in
/// the same epoch; in a stream the epoch does not matter, for a new timeline shares the log before its switch.
fn comes_again(record: &StateRecord, entry: &Recalled) -> bool {
    let (epoch, lsn, _) = entry.id;
    match lsn.is_zero() {
        true => record.position.is_zero() && epoch == record.epoch,
        false => lsn >= record.position && !record.position.is_zero(),
    }
}

/// The holds that stand where the record's position is, and what comes again from there.
pub(crate) fn holds(record: &StateRecord, found: &[Recalled]) -> Holds {
    let open = found.iter().filter(|entry| entry.open);
    let decided: HashSet<_> =
        found.iter().filter(|entry| entry.decided.is_some()).map(|entry| &entry.queue).collect();
    let leaving = |entry: &&Recalled| {
        entry.decided.is_some() || entry.queue.is_some() && decided.contains(&entry.queue)
    };
    let mut holds = Holds::new(open.clone().count() as u64, open.filter(leaving).count() as u64);
    for entry in found {
        // Only the first of a queue holds its key. A decision that comes again may find one that was made later,
        // and take events along that are still to be met: they must not hold a key that nothing heads.
        let queue = entry.queue.as_ref().filter(|_| !entry.behind);
        if comes_again(record, entry) {
            let (_, lsn, ordinal) = entry.id;
            holds.know(lsn, ordinal, Known { event_id: entry.event_id.clone(), holds: queue.cloned() });
        } else if let Some((held_by, key)) = queue {
            holds.hold(held_by, key);
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MAX_LISTED;

    fn record(position: u64, epoch: u64) -> StateRecord {
        let mut record = StateRecord::first("orders", 0, "7", 1, Lsn(position));
        record.epoch = epoch;
        record
    }

    fn found(lsn: u64, ordinal: u64, open: bool) -> Recalled {
        Recalled {
            id: (1, Lsn(lsn), ordinal),
            event_id: Some(format!("e{lsn}.{ordinal}")),
            queue: open.then(|| ("t".to_owned(), b"k".to_vec())),
            open,
            behind: false,
            decided: None,
        }
    }

    fn at(lsn: u64, ordinal: u64) -> RowPosition {
        RowPosition { epoch: 1, commit_lsn: Lsn(lsn), ordinal, commit_unix_millis: 0 }
    }

    #[test]
    fn rows_that_come_again_are_known_and_listed_and_holds_stand() {
        let mut record = record(100, 2);
        let table = [found(90, 0, true), found(100, 0, false), found(120, 1, true)];
        list(&mut record, &table, Lsn(500));
        let positions: Vec<&str> = record.quarantined.iter().map(|entry| entry.position.as_str()).collect();
        assert_eq!(positions, ["1/0000000000000064/0", "1/0000000000000078/1"]);
        let mut holds = holds(&record, &table);
        assert!(holds.holds("t", b"k"), "the position has passed the head");
        assert_eq!(holds.open(), 2);
        assert!(!holds.meet(&at(90, 0), || None), "does not come again");
        assert!(
            holds.meet(&at(100, 0), || Some("e100.0".to_owned()))
                && holds.meet(&at(120, 1), || Some("e120.1".to_owned()))
        );
    }

    #[test]
    fn a_hold_whose_row_comes_again_waits_for_it() {
        let mut record = record(100, 2);
        let table = [found(120, 1, true)];
        list(&mut record, &table, Lsn(500));
        let mut holds = holds(&record, &table);
        assert!(!holds.holds("t", b"k"), "what was in flight before it comes again, and passes");
        assert!(holds.meet(&at(120, 1), || Some("e120.1".to_owned())) && holds.holds("t", b"k"));
    }

    #[test]
    fn what_waits_behind_another_holds_nothing_itself() {
        let behind = |lsn| Recalled { behind: true, ..found(lsn, 0, true) };
        let mut holds = holds(&record(100, 2), &[behind(90), behind(120)]);
        assert!(holds.meet(&at(120, 0), || None), "it is settled by its entry");
        assert_eq!((holds.held_keys(), holds.open()), (0, 2));
    }

    #[test]
    fn what_comes_again_is_listed_anew_and_what_is_passed_stays_a_while() {
        let mut record = record(100, 1);
        let entry = |position: &str, entry_lsn| ListedEntry {
            id: "e".to_owned(),
            position: position.to_owned(),
            entry_lsn: Lsn(entry_lsn),
        };
        record.quarantined = vec![
            entry("1/0000000000000050/0", 100),
            entry("1/0000000000000051/0", 101),
            entry("1/0000000000000064/0", 300),
        ];
        list(&mut record, &[], Lsn(500));
        record.let_go();
        assert_eq!(
            record.quarantined,
            [entry("1/0000000000000050/0", 100), entry("1/0000000000000051/0", 101)],
            "what the position has passed stays for a failover to be looked for; what comes again is put in again"
        );
    }

    #[test]
    fn a_fill_knows_the_rows_of_its_own_epoch() {
        let entry = |epoch| Recalled { id: (epoch, Lsn::ZERO, 7), ..found(0, 7, true) };
        let (mine, old) = (entry(3), entry(2));
        assert!(comes_again(&record(0, 3), &mine) && !comes_again(&record(0, 3), &old));
        assert!(!comes_again(&record(50, 3), &mine), "the fill is over");
        assert!(!comes_again(&record(0, 3), &found(9, 0, true)), "a row of the stream in a fill");
    }

    #[test]
    fn more_entries_than_the_list_holds_are_known_by_the_log_that_has_them() {
        let table: Vec<Recalled> = (0..=MAX_LISTED as u64).map(|n| found(200, n, true)).collect();
        let mut record = record(100, 1);
        list(&mut record, &table, Lsn(500));
        assert_eq!(record.quarantined.len(), MAX_LISTED);
        assert_eq!(record.unlisted.map(|unlisted| (unlisted.entries, unlisted.up_to)), Some((1, Lsn(500))));
        let mut holds = holds(&record, &table);
        assert!(holds.meet(&at(200, MAX_LISTED as u64), || None), "known, though not by name in the record");

        assert_eq!(uncertain(&record, Lsn(500)), None);
        assert!(uncertain(&record, Lsn(499)).is_some_and(|said| said.contains("log up to 0/1F3")));
        record.timeline += 1;
        assert!(uncertain(&record, Lsn(900)).is_some_and(|said| said.contains("timeline 1")));
    }
}
