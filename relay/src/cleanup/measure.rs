//! How large the table is and how old: what an operator watches whether or not anything is removed.

use std::time::Duration;

use outbox_schema::sql::quote_qualified;

use super::link::{CleanupError, Link};
use crate::config::OutboxSettings;

/// The table at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Its size with its indexes.
    pub(super) bytes: u64,
    /// Age of about the oldest row, by the order of the INSERTs; `None` where there is none, or for a table of another
    /// shape, where finding it may read all of it.
    pub(super) oldest_age: Option<Duration>,
}

pub(super) async fn measure(link: &Link, outbox: &OutboxSettings) -> Result<Measured, CleanupError> {
    let sql = "SELECT coalesce((SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree($1::text::regclass) AS p),
                               pg_total_relation_size($1::text::regclass))::int8";
    let table = quote_qualified(&outbox.schema, &outbox.table);
    let bytes: i64 = link.one("the size of the table", sql, &[&table]).await?.get(0);
    let oldest_age = if outbox.is_contract() { oldest(link).await? } else { None };
    Ok(Measured { bytes: bytes.unsigned_abs(), oldest_age })
}

/// The first row of each bucket is found by its key.
async fn oldest(link: &Link) -> Result<Option<Duration>, CleanupError> {
    let firsts: Vec<String> = (0..8)
        .map(|n| {
            format!("(SELECT created_at FROM outbox.events_{n} WHERE bucket = {n} ORDER BY seq LIMIT 1)")
        })
        .collect();
    let sql = format!(
        "SELECT date_part('epoch', clock_timestamp() - min(created_at)) FROM ({}) AS firsts",
        firsts.join(" UNION ALL ")
    );
    let age: Option<f64> = link.one("the oldest row of the table", &sql, &[]).await?.get(0);
    // A row from the future has no age.
    Ok(age.map(|age| Duration::try_from_secs_f64(age).unwrap_or_default()))
}
