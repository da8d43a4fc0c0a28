//! The contract between the order service and its consumers.

use serde::{Deserialize, Serialize};

/// The topic of the events: where the relay publishes the aggregate type `order`.
pub const TOPIC: &str = "outbox.event.order";

/// The type of the events.
pub const ORDER_PLACED: &str = "OrderPlaced";

/// Payload of `OrderPlaced`. The record's key is the customer, so a customer's orders stay in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub number: i64,
    pub customer: String,
    pub sku: String,
    pub quantity: i32,
    pub cents: i64,
}
