//! Writing events with `sqlx`.

use ::sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::enqueue::ENQUEUE;
use crate::event::OutboxEvent;

/// Why an event was not written.
pub type EnqueueError = crate::EnqueueError<::sqlx::Error>;

/// Writes the event in the caller's transaction and returns its id. It is published once that transaction has
/// committed, and never if it does not.
///
/// ```no_run
/// # use outbox_schema::OutboxEvent;
/// # async fn place(pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (id, total) VALUES ($1, $2)").bind(4711_i64).bind(1250_i64).execute(&mut *tx).await?;
/// let event = OutboxEvent::new("order", 4711, "OrderPlaced").json(&serde_json::json!({"total": 1250}))?;
/// outbox_schema::sqlx::enqueue(&mut tx, &event).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`EnqueueError::Event`] before anything was sent, [`EnqueueError::Database`] when the statement failed.
pub async fn enqueue(tx: &mut Transaction<'_, Postgres>, event: &OutboxEvent) -> Result<Uuid, EnqueueError> {
    event.check()?;
    ::sqlx::query_scalar::<_, Uuid>(ENQUEUE)
        .bind(&event.aggregatetype)
        .bind(&event.aggregateid)
        .bind(&event.event_type)
        .bind(event.payload_json())
        .bind(event.id)
        .bind(event.schema_version)
        .bind(event.version)
        .bind(&event.partition_key)
        .bind(event.headers_json())
        .bind(&event.traceparent)
        .fetch_one(&mut **tx)
        .await
        .map_err(EnqueueError::Database)
}
