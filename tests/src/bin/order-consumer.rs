//! A consumer for the tests to kill: its effect is a row per event, which nothing but the consumer keeps from being
//! written twice or out of order.

use std::time::Duration;

use outbox_consumer::ladder::{in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, Permanent, Tx, done, idempotent, reject, transactional};
use serde::Deserialize;

/// What the tests send.
#[derive(Debug, Deserialize)]
struct Order {
    number: i64,
    /// How the handler shall fail.
    #[serde(default)]
    fails: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the warehouse is closed")]
struct Closed;

async fn apply(order: Event<Order>, tx: Tx) -> Handled {
    let key = order.facts().key().unwrap_or_default().to_owned();
    let insert = "INSERT INTO effects (event, key, number) VALUES ($1, $2, $3)";
    tx.execute(insert, &[&order.facts().id(), &key, &order.number]).await?;
    match order.fails.as_deref() {
        // Only in the process: a retry in place goes well.
        Some("twice") if order.facts().attempt() < 3 => Err(Closed)?,
        // Until somebody opens it.
        Some("closed") => {
            let open = tx.query_one("SELECT open FROM warehouse", &[]).await?.get::<_, bool>(0);
            if open { done() } else { Err(Closed)? }
        }
        Some("permanent") => Err(Closed).permanent()?,
        Some("panic") => panic!("as told"),
        Some("rejected") => reject("as told"),
        Some("hidden") => {
            // The statement's error is passed over, as careless handlers do.
            let _passed_over = tx.execute("SELECT 1 / 0", &[]).await;
            done()
        }
        Some("commit") => {
            tx.execute("COMMIT", &[]).await?;
            done()
        }
        Some("slow") => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            done()
        }
        Some("abort") => std::process::abort(),
        Some(_) | None => done(),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let topic = std::env::var("ORDER_TOPIC")?;
    let consumer = Consumer::from_env(&std::env::var("ORDER_CONSUMER")?)
        .owner("tests", seconds(60))
        .topic(&topic)
        .on("OrderPlaced", transactional(apply).timeout(seconds(2)))
        .on("OrderSeen", idempotent(async |_: Event<Order>| done()))
        .kafka_option("session.timeout.ms", "6000")
        .kafka_option("heartbeat.interval.ms", "1000")
        // Short rungs, enough of them that a key waits for minutes before it is held.
        .retry(in_place(3).then([seconds(2); 20]));
    consumer.run().await?;
    Ok(())
}
