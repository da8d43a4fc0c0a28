//! The statements on the quarantine table, each one transaction.

use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

use super::desk::{Decided, EntryId, Outcome, Stored};
use super::entry::{Entry, RawRow};
use crate::lsn::Lsn;
use crate::router::ColumnInfo;
use crate::session::{Sql, SqlError};

/// Rows that come back in one page, and about how many bytes of them.
const PAGE_ROWS: i64 = 200;
const PAGE_BYTES: i64 = 4 << 20;

const COLUMNS: usize = 20;

/// What a row of the table is read as.
const STORED: &str = "epoch, commit_lsn, ordinal, (extract(epoch FROM committed_at) * 1000)::bigint, \
                      columns, types, row_values, formats";

/// Whose entries: a relay's name and its lane.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The relay's name.
    pub relay: String,
    /// The lane's number.
    pub lane: i32,
}

/// Whether there is a table.
///
/// # Errors
/// As for every question.
pub async fn exists(sql: &Sql) -> Result<bool, SqlError> {
    let found = "SELECT to_regclass('outbox.quarantine') IS NOT NULL";
    Ok(sql.one("looking for the quarantine table", found, &[]).await?.get(0))
}

/// What one entry's parameters are made of.
struct Parameters<'e> {
    epoch: i64,
    commit_lsn: PgLsn,
    ordinal: i64,
    seconds: f64,
    columns: Option<Vec<&'e str>>,
    types: Option<Vec<u32>>,
    values: Option<Vec<Option<&'e [u8]>>>,
    formats: Option<&'e str>,
    bytes: i64,
}

/// Puts entries in, all or none. One that is there already stays as it is.
///
/// # Errors
/// As for every question.
pub async fn insert(sql: &Sql, whose: &Whose, entries: &[&Entry]) -> Result<(), SqlError> {
    let made: Vec<Parameters<'_>> = entries.iter().map(|entry| parameters(entry)).collect();
    let words: Vec<[&str; 2]> =
        entries.iter().map(|entry| [entry.state.word(), entry.cause.code()]).collect();
    let mut values: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(entries.len() * COLUMNS);
    let mut rows = String::new();
    for ((entry, made), [state, cause]) in entries.iter().zip(&made).zip(&words) {
        if !values.is_empty() {
            rows.push_str(", ");
        }
        rows.push_str(&placeholders(values.len()));
        values.extend([&whose.relay as &(dyn ToSql + Sync), &whose.lane, &made.epoch, &made.commit_lsn]);
        values.extend([&made.ordinal as &(dyn ToSql + Sync), &made.seconds]);
        let place = &entry.place;
        values.extend([&place.event_id as &(dyn ToSql + Sync), &place.aggregatetype, &place.event_type]);
        values.extend([&place.topic as &(dyn ToSql + Sync), &place.key, &entry.held_by, state, cause]);
        values.extend([&entry.reason as &(dyn ToSql + Sync), &made.columns, &made.types, &made.values]);
        values.extend([&made.formats as &(dyn ToSql + Sync), &made.bytes]);
    }
    let statement = format!(
        "INSERT INTO outbox.quarantine (relay, lane, epoch, commit_lsn, ordinal, committed_at, event_id,
             aggregatetype, event_type, topic, key, held_by, state, cause, reason, columns, types, row_values,
             formats, bytes) VALUES {rows} ON CONFLICT (relay, lane, commit_lsn, ordinal, epoch) DO NOTHING"
    );
    sql.run("putting rows into the quarantine", &statement, &values).await.map(drop)
}

fn parameters(entry: &Entry) -> Parameters<'_> {
    let row = entry.row.as_ref();
    Parameters {
        epoch: signed(entry.at.epoch),
        commit_lsn: PgLsn::from(entry.at.commit_lsn.0),
        ordinal: signed(entry.at.ordinal),
        seconds: entry.at.commit_unix_millis as f64 / 1000.0,
        columns: row.map(|row| row.columns.iter().map(|column| column.name.as_str()).collect()),
        types: row.map(|row| row.columns.iter().map(|column| column.type_oid).collect()),
        values: row.map(|row| row.values.iter().map(|value| value.as_deref()).collect()),
        formats: row.map(|row| row.formats.as_str()),
        bytes: signed(entry.bytes),
    }
}

fn placeholders(before: usize) -> String {
    const TYPES: [&str; COLUMNS] = [
        "text", "int4", "int8", "pg_lsn", "int8", "float8", "text", "text", "text", "text", "bytea", "text",
        "text", "text", "text", "text[]", "oid[]", "bytea[]", "text", "int8",
    ];
    const COMMITTED_AT: usize = 5;
    let one = |(at, kind): (usize, &&str)| match at {
        COMMITTED_AT => format!("to_timestamp(${}::{kind})", before + at + 1),
        _ => format!("${}::{kind}", before + at + 1),
    };
    let all: Vec<String> = TYPES.iter().enumerate().map(one).collect();
    format!("({})", all.join(", "))
}

/// A log position at or above the commit of everything that was done on this connection, and on disk.
///
/// # Errors
/// As for every question.
pub async fn log_position(sql: &Sql) -> Result<Lsn, SqlError> {
    let row = sql.one("the position of an entry", "SELECT pg_current_wal_flush_lsn()", &[]).await?;
    let lsn: PgLsn = row.get(0);
    Ok(Lsn(lsn.into()))
}

/// Whether what a transaction did can be seen by this connection. The stream brings a transaction as soon as its
/// commit is on disk; others see it only a little later, and where standbys are waited for only after they answered.
///
/// # Errors
/// As for every question.
pub async fn can_be_seen(sql: &Sql, xid: u32) -> Result<bool, SqlError> {
    let statement =
        "SELECT pg_snapshot_xmax(s)::text::int8, ARRAY(SELECT x::text::int8 FROM pg_snapshot_xip(s) x)
                       FROM pg_current_snapshot() s";
    let row = sql.one("whether a decision can be seen", statement, &[]).await?;
    let (next, running): (i64, Vec<i64>) = (row.get(0), row.get(1));
    Ok(is_seen(xid, next, &running))
}

/// `next` is above every transaction that has ended, `running` those below it that have not; both with the epoch
/// that `xid` lacks, which is the one nearer to `next`.
fn is_seen(xid: u32, next: i64, running: &[i64]) -> bool {
    // The difference of two numbers on a circle, which is how PostgreSQL compares them.
    const HALF: i64 = 1 << 31;
    let ahead = (i64::from(xid) - next).rem_euclid(2 * HALF);
    let full = next + if ahead < HALF { ahead } else { ahead - 2 * HALF };
    full < next && !running.contains(&full)
}

/// What was decided of an entry; `None` where there is nothing to carry out.
///
/// # Errors
/// As for every question.
pub async fn decision(sql: &Sql, whose: &Whose, id: EntryId) -> Result<Option<Decided>, SqlError> {
    let statement = format!(
        "SELECT {STORED}, state, held_by, key FROM outbox.quarantine
          WHERE relay = $1 AND lane = $2 AND epoch = $3 AND commit_lsn = $4 AND ordinal = $5
            AND state IN ('releasing', 'discarding')"
    );
    let (epoch, lsn, ordinal) = keys(id);
    let values: [&(dyn ToSql + Sync); 5] = [&whose.relay, &whose.lane, &epoch, &lsn, &ordinal];
    let Some(row) = sql.optional("what was decided of an entry", &statement, &values).await? else {
        return Ok(None);
    };
    let (state, held_by, key): (&str, Option<String>, Option<Vec<u8>>) =
        (row.get(8), row.get(9), row.get(10));
    Ok(Some(Decided { entry: stored(&row), discard: state == "discarding", queue: held_by.zip(key) }))
}

/// The next page of a queue.
///
/// # Errors
/// As for every question.
pub async fn behind(
    sql: &Sql,
    whose: &Whose,
    queue: &(String, Vec<u8>),
    after: Option<EntryId>,
) -> Result<Vec<Stored>, SqlError> {
    let statement = format!(
        "SELECT {STORED} FROM (
             SELECT *, sum(bytes) OVER (ORDER BY epoch, commit_lsn, ordinal) - bytes AS before
               FROM (SELECT * FROM outbox.quarantine
                      WHERE relay = $1 AND lane = $2 AND settled_at IS NULL AND held_by = $3 AND key = $4
                        AND state = 'queued' AND (epoch, commit_lsn, ordinal) > ($5, $6, $7)
                      ORDER BY epoch, commit_lsn, ordinal LIMIT $8) rows) page
          WHERE before < $9::int8 ORDER BY epoch, commit_lsn, ordinal"
    );
    let (epoch, lsn, ordinal) = after.map_or((-1, PgLsn::from(0), -1), keys);
    let values: [&(dyn ToSql + Sync); 9] =
        [&whose.relay, &whose.lane, &queue.0, &queue.1, &epoch, &lsn, &ordinal, &PAGE_ROWS, &PAGE_BYTES];
    Ok(sql.many("the events behind an entry", &statement, &values).await?.iter().map(stored).collect())
}

/// Writes down what became of a decided entry and those behind it, in one statement: were it two, a crash
/// between them would leave a queue without a head, or a head before which others pass. Answers the positions of
/// those that are settled.
///
/// # Errors
/// As for every question.
pub async fn settle(sql: &Sql, whose: &Whose, outcome: &Outcome) -> Result<Vec<String>, SqlError> {
    let statement = "
        WITH settled AS (
            UPDATE outbox.quarantine q
               SET state = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14)
                                     THEN CASE WHEN held_by IS NULL THEN 'passed' ELSE 'held' END
                                WHEN (epoch, commit_lsn, ordinal) = ($3, $4, $5) AND $6 THEN 'discarded'
                                ELSE 'published' END,
                   cause = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14) THEN $15 ELSE cause END,
                   reason = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14) THEN $16 ELSE reason END,
                   decided_at = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14) THEN NULL ELSE decided_at END,
                   decided_by = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14) THEN NULL ELSE decided_by END,
                   settled_at = CASE WHEN (epoch, commit_lsn, ordinal) = ($12, $13, $14) THEN NULL
                                     ELSE clock_timestamp() END
             WHERE relay = $1 AND lane = $2
               AND ((epoch, commit_lsn, ordinal) = ($3, $4, $5)
                    OR (epoch, commit_lsn, ordinal) = ($12, $13, $14)
                    OR settled_at IS NULL AND held_by = $7 AND key = $8 AND state = 'queued'
                       AND (epoch, commit_lsn, ordinal) <= ($9, $10, $11))
            RETURNING state, position)
        SELECT coalesce(array_agg(position) FILTER (WHERE state IN ('published', 'discarded')), '{}') FROM settled";
    let (epoch, lsn, ordinal) = keys(outcome.head);
    let (held_by, key) = outcome.queue.clone().unzip();
    let (last_epoch, last_lsn, last_ordinal) = outcome.last.map_or((-1, PgLsn::from(0), -1), keys);
    let stuck = outcome.stuck.as_ref();
    let (stuck_epoch, stuck_lsn, stuck_ordinal) =
        stuck.map_or((-1, PgLsn::from(0), -1), |stuck| keys(stuck.id));
    let (cause, reason) = (stuck.map(|s| s.cause.code()), stuck.map(|s| s.reason.as_str()));
    let values: [&(dyn ToSql + Sync); 16] = [
        &whose.relay,
        &whose.lane,
        &epoch,
        &lsn,
        &ordinal,
        &outcome.discard,
        &held_by,
        &key,
        &last_epoch,
        &last_lsn,
        &last_ordinal,
        &stuck_epoch,
        &stuck_lsn,
        &stuck_ordinal,
        &cause,
        &reason,
    ];
    Ok(sql.one("what became of an entry", statement, &values).await?.get(0))
}

/// An entry as a session begins with it.
#[derive(Debug, Clone)]
pub struct Recalled {
    /// Which one.
    pub id: EntryId,
    /// The event's id.
    pub event_id: Option<String>,
    /// Queue and key of an entry that is not settled.
    pub queue: Option<(String, Vec<u8>)>,
    /// Whether it is not settled.
    pub open: bool,
    /// Whether it only waits behind the one that its queue is held by.
    pub behind: bool,
    /// What was decided of it and not carried out, in the word of the message.
    pub decided: Option<&'static str>,
}

/// All entries that are not settled, and all whose rows may come again in the stream.
///
/// # Errors
/// As for every question.
pub async fn recall(sql: &Sql, whose: &Whose, position: Lsn, epoch: u64) -> Result<Vec<Recalled>, SqlError> {
    let statement = "SELECT epoch, commit_lsn, ordinal, event_id, held_by, key,
                            settled_at IS NULL, state
                       FROM outbox.quarantine
                      WHERE relay = $1 AND lane = $2
                        AND (settled_at IS NULL
                             OR CASE WHEN $3::pg_lsn = '0/0' THEN commit_lsn = '0/0' AND epoch = $4::int8
                                     ELSE commit_lsn >= $3 END)
                      ORDER BY epoch, commit_lsn, ordinal";
    let (lsn, epoch) = (PgLsn::from(position.0), signed(epoch));
    let values: [&(dyn ToSql + Sync); 4] = [&whose.relay, &whose.lane, &lsn, &epoch];
    let rows = sql.many("what the quarantine holds", statement, &values).await?;
    let recalled = |row: &Row| {
        let (held_by, key, open): (Option<String>, Option<Vec<u8>>, bool) =
            (row.get(4), row.get(5), row.get(6));
        let queue = held_by.zip(key).filter(|_| open);
        let state: &str = row.get(7);
        let decided = match state {
            "releasing" => Some("release"),
            "discarding" => Some("discard"),
            _ => None,
        };
        Recalled { id: id(row), event_id: row.get(3), queue, open, behind: state == "queued", decided }
    };
    Ok(rows.iter().map(recalled).collect())
}

/// Writes the message of a decision once more. The first one may have been passed by a stream whose end was
/// lost in a failover; what is carried out already is not carried out again.
///
/// # Errors
/// As for every question.
pub async fn remind(sql: &Sql, whose: &Whose, position: &str, decided: &str) -> Result<(), SqlError> {
    let statement = "SELECT pg_logical_emit_message(true, 'outbox', json_build_object(
        'relay', $1::text, 'lane', $2::int4, 'do', json_build_object($3::text, json_build_object('position', $4::text)))::text)::text";
    let values: [&(dyn ToSql + Sync); 4] = [&whose.relay, &whose.lane, &decided, &position];
    sql.one("repeating a decision", statement, &values).await.map(drop)
}

/// Which of these entries are in the table.
///
/// # Errors
/// As for every question.
pub async fn present(sql: &Sql, whose: &Whose, ids: &[EntryId]) -> Result<Vec<EntryId>, SqlError> {
    let keyed: Vec<(i64, PgLsn, i64)> = ids.iter().map(|id| keys(*id)).collect();
    let epochs: Vec<i64> = keyed.iter().map(|key| key.0).collect();
    let lsns: Vec<PgLsn> = keyed.iter().map(|key| key.1).collect();
    let ordinals: Vec<i64> = keyed.iter().map(|key| key.2).collect();
    let statement = "SELECT q.epoch, q.commit_lsn, q.ordinal
                       FROM unnest($3::int8[], $4::pg_lsn[], $5::int8[]) l(epoch, commit_lsn, ordinal)
                       JOIN outbox.quarantine q USING (epoch, commit_lsn, ordinal)
                      WHERE q.relay = $1 AND q.lane = $2";
    let values: [&(dyn ToSql + Sync); 5] = [&whose.relay, &whose.lane, &epochs, &lsns, &ordinals];
    Ok(sql.many("the listed entries", statement, &values).await?.iter().map(id).collect())
}

/// A row's values in the table.
type Values = Vec<Option<Vec<u8>>>;

fn stored(row: &Row) -> Stored {
    let (columns, types): (Option<Vec<String>>, Option<Vec<u32>>) = (row.get(4), row.get(5));
    let (values, formats): (Option<Values>, Option<String>) = (row.get(6), row.get(7));
    let named = columns.zip(types).map(|(names, types)| {
        let column = |(name, type_oid)| ColumnInfo { name, type_oid };
        names.into_iter().zip(types).map(column).collect()
    });
    let row_of = |columns, (values, formats)| RawRow { columns, values, formats };
    let raw = named.zip(values.zip(formats)).map(|(columns, rest)| row_of(columns, rest));
    Stored { id: id(row), commit_unix_millis: row.get(3), row: raw }
}

fn id(row: &Row) -> EntryId {
    let (epoch, lsn, ordinal): (i64, PgLsn, i64) = (row.get(0), row.get(1), row.get(2));
    (epoch.unsigned_abs(), Lsn(lsn.into()), ordinal.unsigned_abs())
}

fn keys((epoch, lsn, ordinal): EntryId) -> (i64, PgLsn, i64) {
    (signed(epoch), PgLsn::from(lsn.0), signed(ordinal))
}

/// PostgreSQL has no unsigned numbers; neither epochs nor ordinals come near its largest.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_seen_once_it_has_ended() {
        assert!(is_seen(7, 10, &[8]) && !is_seen(8, 10, &[8]));
        assert!(!is_seen(10, 10, &[]) && !is_seen(12, 10, &[]), "begun after every one that has ended");
        // Around the end of the circle.
        let epoch = 1_i64 << 32;
        assert!(is_seen(u32::MAX, epoch + 3, &[]) && !is_seen(u32::MAX, epoch + 3, &[epoch - 1]));
        assert!(!is_seen(1, epoch - 1, &[]));
    }
}
