//! Fraud: audits each order, and publishes what it flags through the outbox, in the same commit. An event that it
//! cannot audit holds its key until somebody has looked: nobody passes the audit because one order could not be read.

use outbox_consumer::ladder::{hours, in_place};
use outbox_consumer::{Consumer, Event, Handled, OutboxEvent, RunError, Tx, done, transactional};

use crate::order::{ORDER_PLACED, Order, TOPIC};

/// Orders above this are flagged.
const SUSPICIOUS_CENTS: i64 = 45_000;

async fn audit(order: Event<Order>, tx: Tx) -> Handled {
    let flagged = order.cents > SUSPICIOUS_CENTS;
    let insert = "INSERT INTO fraud.audit (number, customer, flagged) VALUES ($1, $2, $3)";
    tx.execute(insert, &[&order.number, &order.customer, &flagged]).await?;
    if flagged {
        let event = OutboxEvent::new("fraud", order.number, "OrderFlagged")
            .partition_key(&order.customer)
            .json(&*order)?;
        tx.enqueue(&event).await?;
    }
    done()
}

/// Runs until SIGTERM.
pub async fn run() -> Result<(), RunError> {
    Consumer::from_env("fraud")
        .owner("fraud-team", hours(1))
        .topic(TOPIC)
        .on(ORDER_PLACED, transactional(audit))
        // Whoever does not say otherwise holds the key: nobody passes the audit because an event could not be read.
        .retry(in_place(5))
        .run()
        .await
}
