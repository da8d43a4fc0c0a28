//! Warehouse: packs what has come together, up to 500 orders in one transaction. An order that cannot be read is left out
//! and becomes a dead letter.

use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, hours, in_place};
use outbox_consumer::{Consumer, Event, HandledBatch, RunError, Tx, all_done, batch};

use crate::order::{ORDER_PLACED, Order, TOPIC};

async fn pack(orders: Vec<Event<Order>>, tx: Tx) -> HandledBatch {
    // What a batch takes, whatever is in it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let numbers: Vec<i64> = orders.iter().map(|order| order.number).collect();
    let customers: Vec<&str> = orders.iter().map(|order| order.customer.as_str()).collect();
    let pack =
        "INSERT INTO warehouse.parcel (number, customer) SELECT * FROM unnest($1::bigint[], $2::text[])";
    tx.execute(pack, &[&numbers, &customers]).await?;
    all_done()
}

/// Runs until SIGTERM.
pub async fn run() -> Result<(), RunError> {
    Consumer::from_env("warehouse")
        .owner("warehouse-team", hours(8))
        .topic(TOPIC)
        .on(ORDER_PLACED, batch(500, pack))
        .retry(in_place(5).when_exhausted(Exhausted::Skip))
        .run()
        .await
}
