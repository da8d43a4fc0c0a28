//! Inventory: reserves stock. An order that cannot be reserved after five attempts is a dead letter; the customer's
//! later orders wait for that, and go on.

use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, hours, in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, RunError, Tx, done, transactional};

use crate::order::{ORDER_PLACED, Order, TOPIC};

#[derive(Debug, thiserror::Error)]
#[error("{0} is not in stock")]
struct NotInStock(String);

async fn reserve(order: Event<Order>, tx: Tx) -> Handled {
    // What finding the shelf takes.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let take = "UPDATE inventory.stock SET free = free - $2 WHERE sku = $1";
    if tx.execute(take, &[&order.sku, &i64::from(order.quantity)]).await? == 0 {
        return Err(NotInStock(order.sku.clone()).into());
    }
    let reserve =
        "INSERT INTO inventory.reservation (number, customer, sku, quantity) VALUES ($1, $2, $3, $4)";
    tx.execute(reserve, &[&order.number, &order.customer, &order.sku, &order.quantity]).await?;
    done()
}

/// Runs until SIGTERM.
pub async fn run() -> Result<(), RunError> {
    Consumer::from_env("inventory")
        .owner("inventory-team", hours(4))
        .topic(TOPIC)
        .on(ORDER_PLACED, transactional(reserve))
        // Orders of different customers change the same rows of stock. In one transaction each they cannot deadlock.
        .group_commit(1)
        // What cannot be reserved has no bearing on the customer's next order.
        .retry(in_place(3).then([seconds(1), seconds(2)]).when_exhausted(Exhausted::Skip))
        .run()
        .await
}
