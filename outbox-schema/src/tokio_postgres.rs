//! Writing events with `tokio-postgres`.

use ::tokio_postgres::types::Type;
use ::tokio_postgres::{Error, GenericClient, Transaction};
use uuid::Uuid;

use crate::enqueue::ENQUEUE;
use crate::event::OutboxEvent;

/// Why an event was not written.
pub type EnqueueError = crate::EnqueueError<Error>;

/// Writes the event in the caller's transaction, in one round trip, and returns its id. It is published once
/// that transaction has committed, and never if it does not.
///
/// ```no_run
/// # use outbox_schema::OutboxEvent;
/// # async fn place(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let tx = client.transaction().await?;
/// tx.execute("INSERT INTO orders (id, total) VALUES ($1, $2)", &[&4711_i64, &1250_i64]).await?;
/// let event = OutboxEvent::new("order", 4711, "OrderPlaced").json(&serde_json::json!({"total": 1250}))?;
/// outbox_schema::tokio_postgres::enqueue(&tx, &event).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`EnqueueError::Event`] before anything was sent, [`EnqueueError::Database`] when the statement failed.
pub async fn enqueue(tx: &Transaction<'_>, event: &OutboxEvent) -> Result<Uuid, EnqueueError> {
    enqueue_on(tx, event).await
}

/// [`enqueue`] for a transaction that was opened by other means than [`Transaction`]. The caller sees to it
/// that one is open: without, the event is committed by itself, whatever becomes of what it tells.
///
/// # Errors
///
/// Those of [`enqueue`].
pub async fn enqueue_on<C: GenericClient>(client: &C, event: &OutboxEvent) -> Result<Uuid, EnqueueError> {
    event.check()?;
    let headers = event.headers_json();
    // Typed, so not prepared first: one round trip, and no statement left behind in a connection pooler.
    let row = client
        .query_typed_one(
            ENQUEUE,
            &[
                (&event.aggregatetype, Type::TEXT),
                (&event.aggregateid, Type::TEXT),
                (&event.event_type, Type::TEXT),
                (&event.payload_json(), Type::TEXT),
                (&event.id, Type::UUID),
                (&event.schema_version, Type::INT4),
                (&event.version, Type::INT8),
                (&event.partition_key, Type::TEXT),
                (&headers, Type::TEXT),
                (&event.traceparent, Type::TEXT),
            ],
        )
        .await
        .map_err(EnqueueError::Database)?;
    row.try_get(0).map_err(EnqueueError::Database)
}
