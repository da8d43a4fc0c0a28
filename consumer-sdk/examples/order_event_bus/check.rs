//! What each consumer did, compared with the orders.

use std::process::ExitCode;

use tokio_postgres::Client;

use crate::database;

/// The consumers, where their effects are, and whether they have an inbox.
const CONSUMERS: [(&str, &str, bool); 5] = [
    ("inventory", "inventory.reservation", true),
    ("loyalty", "loyalty.booking", true),
    ("recommendation", "recommendation.bought", false),
    ("warehouse", "warehouse.parcel", true),
    ("fraud", "fraud.audit", true),
];

/// What is counted of one consumer.
struct Found {
    /// Orders with an effect.
    done: i64,
    /// Orders without one that are neither parked nor dead.
    missing: i64,
    /// Effects beyond the first of their order.
    twice: i64,
    /// Effects that came after that of a later order of the customer.
    reordered: i64,
    /// Events that wait in the inbox.
    parked: i64,
    /// Events that the inbox settled as dead.
    dead: i64,
}

/// Prints a line for each consumer and one for all.
pub async fn check() -> anyhow::Result<ExitCode> {
    let client = database::connect(&database::url()?).await?;
    let orders: i64 = client.query_one("SELECT count(*) FROM orders.placed", &[]).await?.get(0);
    let (mut missing, mut twice, mut reordered) = (0, 0, 0);
    println!("consumer        done  missing  twice  out of order  parked  dead");
    for (consumer, effects, inbox) in CONSUMERS {
        let found = find(&client, consumer, effects).await?;
        // Without an inbox nothing is parked, and dead letters are in Kafka only.
        let in_inbox = |count: i64| if inbox { count.to_string() } else { "-".to_owned() };
        println!(
            "{consumer:<14} {:>5}  {:>7}  {:>5}  {:>12}  {:>6}  {:>4}",
            found.done,
            found.missing,
            found.twice,
            found.reordered,
            in_inbox(found.parked),
            in_inbox(found.dead)
        );
        missing += found.missing;
        twice += found.twice;
        reordered += found.reordered;
    }
    println!("{orders} orders, 5 consumers: {missing} missing, {twice} twice, {reordered} out of order");
    Ok(if missing + twice + reordered == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn find(client: &Client, consumer: &str, effects: &str) -> anyhow::Result<Found> {
    let count = format!(
        "WITH effect AS (SELECT at, number, customer FROM {effects}),
              step AS (SELECT number, lag(number) OVER (PARTITION BY customer ORDER BY at) AS before FROM effect)
         SELECT count(DISTINCT number),
                (SELECT count(*) FROM orders.placed AS p
                  WHERE NOT EXISTS (SELECT FROM effect AS e WHERE e.number = p.number)
                    AND NOT EXISTS (SELECT FROM inbox.settlement AS s
                                     WHERE s.scope = $1 AND s.id = p.event AND s.state IN ('parked', 'dead'))),
                count(*) - count(DISTINCT number),
                (SELECT count(*) FROM step WHERE number < before),
                (SELECT count(*) FROM inbox.parked_event WHERE scope = $1),
                (SELECT count(*) FROM inbox.settlement WHERE scope = $1 AND state = 'dead')
           FROM effect"
    );
    let row = client.query_one(&count, &[&consumer]).await?;
    Ok(Found {
        done: row.get(0),
        missing: row.get(1),
        twice: row.get(2),
        reordered: row.get(3),
        parked: row.get(4),
        dead: row.get(5),
    })
}
