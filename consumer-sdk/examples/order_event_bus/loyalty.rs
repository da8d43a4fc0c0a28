//! Loyalty: adds points. When its table is away, the first customers whose orders fail are parked, each with its orders in
//! order; then the handler is paused, and one order at a time finds out whether the table is back.

use outbox_consumer::ladder::{Exhausted, Limits, hours, in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, RunError, Tx, done, transactional};

use crate::order::{ORDER_PLACED, Order, TOPIC};

async fn reward(order: Event<Order>, tx: Tx) -> Handled {
    let points = order.cents / 100;
    let add = "INSERT INTO loyalty.balance AS b (customer, points) VALUES ($1, $2)
               ON CONFLICT (customer) DO UPDATE SET points = b.points + excluded.points";
    tx.execute(add, &[&order.customer, &points]).await?;
    let book = "INSERT INTO loyalty.booking (number, customer, points) VALUES ($1, $2, $3)";
    tx.execute(book, &[&order.number, &order.customer, &points]).await?;
    done()
}

/// Runs until SIGTERM.
pub async fn run() -> Result<(), RunError> {
    Consumer::from_env("loyalty")
        .owner("loyalty-team", hours(24))
        .topic(TOPIC)
        .on(ORDER_PLACED, transactional(reward))
        // For an example that ends in a minute. In operation rather minutes(1), minutes(10), hours(1), and the usual
        // limits, by which the tries become rarer, up to one a minute.
        .retry(in_place(3).then([seconds(2); 20]).when_exhausted(Exhausted::Skip))
        .retry_budget(Limits { probe_most: seconds(2), ..Limits::default() })
        .run()
        .await
}
