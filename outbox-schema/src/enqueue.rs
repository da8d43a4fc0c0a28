//! What writing an event needs with any driver.

use crate::event::EventError;

/// Payload and headers travel as text, so that no driver takes them apart and writes them anew.
#[cfg(any(feature = "sqlx", feature = "tokio-postgres"))]
pub(crate) const ENQUEUE: &str = "SELECT outbox.enqueue(\
    aggregatetype => $1, aggregateid => $2, type => $3, payload => $4::text::json, id => $5, \
    schema_version => $6, version => $7, partition_key => $8, headers => $9::text::jsonb, traceparent => $10)";

/// Why an event was not written. `E` is the driver's error.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError<E: std::error::Error + 'static> {
    /// The event was not sent; the transaction is as it was and can go on.
    #[error("the outbox does not take this event")]
    Event(#[from] EventError),
    /// The statement failed; the transaction has failed with it and can only be rolled back.
    #[error("the event could not be written")]
    Database(#[source] E),
}
