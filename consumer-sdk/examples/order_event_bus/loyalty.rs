//! Loyalty: adds points. While its table is away, customers are parked in order and the topic is read on; when it
//! comes back they go on by themselves.

use outbox_consumer::ladder::{hours, in_place, seconds};
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
        // For an example that ends in a minute; in operation rather minutes(1), minutes(10), hours(1).
        .retry(in_place(3).then([seconds(2); 20]))
        .run()
        .await
}
