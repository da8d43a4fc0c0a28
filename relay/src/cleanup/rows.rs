//! Rows of a table of another shape, removed in small batches.
//!
//! There is no function of the owner here to look for itself, so each batch looks before: at every relay that publishes
//! the table, and at the quarantine. The statement that deletes holds no more than the locks of its rows.

use outbox_schema::sql::{quote_identifier, quote_qualified};
use tokio_postgres::types::PgLsn;

use super::link::{CleanupError, Link};
use crate::config::{CleanupSettings, OutboxSettings};
use crate::lsn::Lsn;
use crate::state::PublishedSnapshot;

/// Why a relay of the table may still need rows that were committed up to `lsn`; the rule of
/// `outbox.relay_behind()`.
pub(super) async fn relay_behind(
    link: &Link,
    outbox: &OutboxSettings,
    lsn: Lsn,
) -> Result<Option<String>, CleanupError> {
    let sql = "
        SELECT CASE count(*) WHEN 0 THEN 'no publication outbox_<relay> holds the table' ELSE min(CASE
                   WHEN s.slot_name IS NULL THEN format('publication %s has no slot', t.pubname)
                   WHEN s.wal_status IS NULL OR s.wal_status NOT IN ('reserved', 'extended')
                       THEN format('slot %s is %s', s.slot_name, coalesce(s.wal_status, 'without log'))
                   WHEN NOT s.active THEN format('nobody streams from slot %s', s.slot_name)
                   WHEN s.confirmed_flush_lsn IS NULL OR s.confirmed_flush_lsn < $3::pg_lsn
                       THEN format('slot %s is confirmed up to %s and not to %s', s.slot_name,
                                   coalesce(s.confirmed_flush_lsn, '0/0'), $3::pg_lsn)
               END) END
          FROM pg_publication_tables AS t
          LEFT JOIN pg_replication_slots AS s ON s.slot_name = t.pubname AND s.database = current_database()
         WHERE t.schemaname = $1::text AND t.tablename = $2::text AND starts_with(t.pubname::text, 'outbox_')";
    let lsn = PgLsn::from(lsn.0);
    let row =
        link.one("looking at the relays of the table", sql, &[&outbox.schema, &outbox.table, &lsn]).await?;
    Ok(row.get(0))
}

/// Ids of the events that entries of the quarantine are no more than references to. `None` where one has no id, so that
/// any row may be the one.
pub(super) async fn referenced(link: &Link) -> Result<Option<Vec<String>>, CleanupError> {
    let exists = "SELECT to_regclass('outbox.quarantine') IS NOT NULL";
    if !link.one("looking for the quarantine", exists, &[]).await?.get::<_, bool>(0) {
        return Ok(Some(Vec::new()));
    }
    let sql = "SELECT coalesce(array_agg(lower(event_id)) FILTER (WHERE event_id IS NOT NULL), '{}'),
                      count(*) FILTER (WHERE event_id IS NULL)
                 FROM outbox.quarantine WHERE settled_at IS NULL AND row_values IS NULL";
    let row = link.one("looking at the quarantine", sql, &[]).await?;
    let (ids, nameless): (Vec<String>, i64) = (row.get(0), row.get(1));
    Ok((nameless == 0).then_some(ids))
}

/// Removes one batch; answers how many rows went. The outer conditions repeat the inner ones, since a place in the table
/// (ctid) means another row in each partition, and another version of the row after an update.
pub(super) async fn delete(
    link: &Link,
    outbox: &OutboxSettings,
    cleanup: &CleanupSettings,
    published: &PublishedSnapshot,
    referenced: &[String],
) -> Result<u64, CleanupError> {
    let (table, old) = (quote_qualified(&outbox.schema, &outbox.table), old(outbox, 1, 2));
    let Some(writer) = outbox.columns.writer.as_deref().map(quote_identifier) else { return Ok(0) };
    let condition = format!("{old} AND pg_visible_in_snapshot(e.{writer}, $3::text::pg_snapshot)");
    let sql = format!(
        "DELETE FROM {table} AS e
          WHERE e.ctid = ANY (ARRAY(SELECT e.ctid FROM {table} AS e WHERE {condition} LIMIT $4::int8)) AND {condition}"
    );
    let (seconds, batch) = (cleanup.keep.as_secs_f64(), cleanup.batch_rows as i64);
    link.run("deleting published rows", &sql, &[&seconds, &referenced, &published.snapshot, &batch]).await
}

/// Whether rows stay that are old enough, after all were removed that may be.
pub(super) async fn old_rows_are_left(
    link: &Link,
    outbox: &OutboxSettings,
    cleanup: &CleanupSettings,
    referenced: &[String],
) -> Result<bool, CleanupError> {
    let table = quote_qualified(&outbox.schema, &outbox.table);
    let sql = format!("SELECT EXISTS (SELECT FROM {table} AS e WHERE {})", old(outbox, 1, 2));
    let seconds = cleanup.keep.as_secs_f64();
    Ok(link.one("looking for old rows", &sql, &[&seconds, &referenced]).await?.get(0))
}

/// The condition that a row is older than so many seconds and that no entry of the quarantine refers to it.
fn old(outbox: &OutboxSettings, seconds: usize, referenced: usize) -> String {
    // Without the column the configuration is refused.
    let created_at = outbox.columns.created_at.as_deref().map_or("NULL".into(), quote_column);
    let id = quote_column(&outbox.columns.id);
    format!(
        "{created_at} < now() - make_interval(secs => ${seconds}::float8) AND NOT lower({id}::text) = ANY (${referenced}::text[])"
    )
}

fn quote_column(name: &str) -> String {
    format!("e.{}", quote_identifier(name))
}
