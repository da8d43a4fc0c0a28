//! Reading what was emitted with `sqlx`. A transaction is handed over as `&mut *tx`.

use ::sqlx::postgres::PgRow;
use ::sqlx::{Error, PgExecutor, Row};

use super::query::{EMITTED, EMITTED_SINCE, MARK};
use super::{Emitted, Mark};

/// The events that the current transaction has written so far, in the order of their INSERTs.
///
/// # Errors
///
/// The driver's.
pub async fn emitted(tx: impl PgExecutor<'_>) -> Result<Vec<Emitted>, Error> {
    ::sqlx::query(EMITTED).fetch_all(tx).await?.iter().map(read).collect()
}

/// The place at which the outbox stands now.
///
/// # Errors
///
/// The driver's.
pub async fn mark(client: impl PgExecutor<'_>) -> Result<Mark, Error> {
    ::sqlx::query_scalar(MARK).fetch_one(client).await.map(Mark)
}

/// The events written after the mark by transactions that have committed, in the order of their INSERTs.
///
/// # Errors
///
/// The driver's.
pub async fn emitted_since(client: impl PgExecutor<'_>, mark: Mark) -> Result<Vec<Emitted>, Error> {
    ::sqlx::query(EMITTED_SINCE).bind(mark.0).fetch_all(client).await?.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<Emitted, Error> {
    Ok(Emitted {
        id: row.try_get(0)?,
        aggregatetype: row.try_get(1)?,
        aggregateid: row.try_get(2)?,
        event_type: row.try_get(3)?,
        schema_version: row.try_get(4)?,
        version: row.try_get(5)?,
        partition_key: row.try_get(6)?,
        headers: row.try_get(7)?,
        traceparent: row.try_get(8)?,
        payload: row.try_get(9)?,
    })
}
