//! The order service: an order and its event are one transaction. It knows neither Kafka nor its consumers.

use outbox_consumer::OutboxEvent;
use outbox_schema::tokio_postgres::enqueue;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::database;
use crate::order::{ORDER_PLACED, Order};

/// Customers, and with them keys.
const CUSTOMERS: u32 = 97;

/// Places so many orders; with `poison` two bad events in their middle.
pub async fn place(count: u32, poison: bool) -> anyhow::Result<()> {
    let mut client = database::connect(&database::url()?).await?;
    for turn in 0..count {
        if poison && turn == count / 2 {
            // Nothing of this kind is in stock, nor will be: inventory can never reserve it.
            place_one(&mut client, Order { sku: "discontinued".to_owned(), ..draw(turn) }).await?;
            publish_nonsense(&mut client).await?;
        }
        place_one(&mut client, draw(turn)).await?;
    }
    println!("{count} orders placed{}", if poison { ", and two bad events" } else { "" });
    Ok(())
}

async fn place_one(client: &mut Client, mut order: Order) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let tx = client.transaction().await?;
    let insert = "INSERT INTO orders.placed (event, customer, sku, quantity, cents)
                  VALUES ($1, $2, $3, $4, $5) RETURNING number";
    let inserted =
        tx.query_one(insert, &[&id, &order.customer, &order.sku, &order.quantity, &order.cents]).await?;
    order.number = inserted.get(0);
    let event = OutboxEvent::new("order", order.number, ORDER_PLACED)
        .id(id)
        .partition_key(&order.customer)
        .json(&order)?;
    enqueue(&tx, &event).await?;
    tx.commit().await?;
    Ok(())
}

/// What a service with a mistake might publish: no consumer can read it.
async fn publish_nonsense(client: &mut Client) -> anyhow::Result<()> {
    let tx = client.transaction().await?;
    let event = OutboxEvent::new("order", "nobody", ORDER_PLACED).raw_json("\"no order\"");
    enqueue(&tx, &event).await?;
    tx.commit().await?;
    Ok(())
}

/// An order that depends on its turn alone.
fn draw(turn: u32) -> Order {
    Order {
        number: 0,
        customer: format!("customer-{}", turn % CUSTOMERS),
        sku: format!("sku-{}", turn % 12),
        quantity: 1 + i32::from(turn.is_multiple_of(3)),
        cents: i64::from(turn) * 37 % 50_000,
    }
}
