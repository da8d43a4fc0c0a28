//! For the tests of services: "my service emitted exactly these".
//!
//! ```no_run
//! # use outbox_schema::{OutboxEvent, testing};
//! # async fn place_order(_: &tokio_postgres::Transaction<'_>) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
//! # async fn test(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let tx = client.transaction().await?;
//! place_order(&tx).await?;
//! testing::assert_emitted(
//!     &testing::tokio_postgres::emitted(&tx).await?,
//!     &[OutboxEvent::new("order", "o-1", "OrderPlaced").json(&serde_json::json!({"total": 1250}))?],
//! );
//! tx.rollback().await?;
//! # Ok(())
//! # }
//! ```
//!
//! For a service that commits by itself: `mark` before, `emitted_since` after. Reading the outbox takes a
//! right that producers do not have; connect as its owner or as a member of `outbox_relay`.

mod difference;
#[cfg(any(feature = "sqlx", feature = "tokio-postgres"))]
mod query;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(feature = "tokio-postgres")]
pub mod tokio_postgres;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::event::OutboxEvent;

pub use difference::difference;

/// An event as it stands in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The event's id.
    pub id: Uuid,
    /// Kind of the aggregate.
    pub aggregatetype: String,
    /// Which aggregate.
    pub aggregateid: String,
    /// What happened.
    pub event_type: String,
    /// Version of the payload's shape.
    pub schema_version: i32,
    /// The aggregate's own version.
    pub version: Option<i64>,
    /// The key in place of the aggregate's id.
    pub partition_key: Option<String>,
    /// Further headers, as PostgreSQL prints them.
    pub headers: Option<String>,
    /// Trace context.
    pub traceparent: Option<String>,
    /// The payload's text; `None` for a tombstone.
    pub payload: Option<String>,
}

impl Emitted {
    /// The payload, read as `T`; a tombstone reads as `null`.
    ///
    /// # Errors
    ///
    /// That of `serde_json` when the payload is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.payload.as_deref().unwrap_or("null"))
    }
}

/// A place in the outbox; what is written later is emitted since.
#[cfg(any(feature = "sqlx", feature = "tokio-postgres"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(i64);

/// Fails the test unless these events were emitted, in this order, and no others. See [`difference`] for what
/// is compared.
///
/// # Panics
///
/// When they differ; the message names each column that does.
#[track_caller]
pub fn assert_emitted(emitted: &[Emitted], expected: &[OutboxEvent]) {
    if let Some(difference) = difference(emitted, expected) {
        panic!("{difference}");
    }
}
