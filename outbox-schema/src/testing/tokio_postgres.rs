//! Reading what was emitted with `tokio-postgres`.

use ::tokio_postgres::{Error, GenericClient, Row};

use super::query::{EMITTED, EMITTED_SINCE, MARK};
use super::{Emitted, Mark};

/// The events that the current transaction has written so far, in the order of their INSERTs.
///
/// # Errors
///
/// The driver's.
pub async fn emitted<C: GenericClient>(tx: &C) -> Result<Vec<Emitted>, Error> {
    tx.query(EMITTED, &[]).await?.iter().map(read).collect()
}

/// The place at which the outbox stands now.
///
/// # Errors
///
/// The driver's.
pub async fn mark<C: GenericClient>(client: &C) -> Result<Mark, Error> {
    client.query_one(MARK, &[]).await?.try_get(0).map(Mark)
}

/// The events written after the mark by transactions that have committed, in the order of their INSERTs.
///
/// # Errors
///
/// The driver's.
pub async fn emitted_since<C: GenericClient>(client: &C, mark: Mark) -> Result<Vec<Emitted>, Error> {
    client.query(EMITTED_SINCE, &[&mark.0]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Emitted, Error> {
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
