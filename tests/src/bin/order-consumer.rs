//! A consumer for the tests to kill: its effect is a row per event, which nothing but the consumer keeps from being
//! written twice or out of order.

use std::hint::black_box;
use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, Permanent, Tx, done, idempotent, reject, transactional};
use serde::Deserialize;

/// What the tests send.
#[derive(Debug, Deserialize)]
struct Order {
    number: i64,
    /// How long the handler takes.
    #[serde(default)]
    millis: u64,
    /// How the handler shall fail.
    #[serde(default)]
    fails: Option<String>,
    /// With `until`: the first attempt that goes well.
    #[serde(default)]
    until: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the warehouse is closed")]
struct Closed;

async fn apply(order: Event<Order>, tx: Tx) -> Handled {
    let facts = order.facts();
    let (key, attempt) = (facts.key().unwrap_or_default(), facts.attempt());
    let insert = "INSERT INTO effects (event, key, number, attempt) VALUES ($1, $2, $3, $4)";
    tx.execute(insert, &[&facts.id(), &key, &order.number, &i32::try_from(attempt)?]).await?;
    if order.millis > 0 {
        tokio::time::sleep(Duration::from_millis(order.millis)).await;
    }
    match order.fails.as_deref() {
        Some("until") if attempt < order.until => Err(Closed)?,
        // Until somebody opens it.
        Some("closed") => {
            let open = tx.query_one("SELECT open FROM warehouse", &[]).await?.get::<_, bool>(0);
            if open { done() } else { Err(Closed)? }
        }
        // First a failed attempt like any other: the deadlocks come when the event runs from the park.
        Some("deadlock parked") if attempt <= 3 => Err(Closed)?,
        Some("deadlock" | "deadlock parked") => {
            let raise = "SELECT pg_temp.deadlock() FROM warehouse WHERE NOT open";
            let deadlock = "CREATE FUNCTION pg_temp.deadlock() RETURNS void LANGUAGE plpgsql AS
                            $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = 'deadlock_detected'; END $$";
            tx.execute(deadlock, &[]).await?;
            tx.execute(raise, &[]).await?;
            done()
        }
        // First a failed attempt like any other: it is given up when the event runs from the park.
        Some("permanent parked") if attempt <= 3 => Err(Closed)?,
        Some("permanent" | "permanent parked") => Err(Closed).permanent()?,
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
        // First a failed attempt like any other: the process ends when the event runs from the park.
        Some("abort parked") if attempt > 3 => std::process::abort(),
        Some("abort parked") => Err(Closed)?,
        Some("memory") => take_all_memory(),
        Some("stack") => {
            black_box(deeper(0));
            done()
        }
        Some(_) | None => done(),
    }
}

/// The allocator's answer to a limit is the end of the process.
fn take_all_memory() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; 16 << 20]));
    }
}

fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    if depth == u64::MAX { 0 } else { deeper(depth + 1) + frame[0] }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let topic = std::env::var("ORDER_TOPIC")?;
    let rung = seconds(std::env::var("ORDER_RUNG")?.parse()?);
    // Short rungs, enough of them, unless told otherwise, that a key waits for minutes before it is held.
    let rungs = setting("ORDER_RUNGS").map_or(Ok(20), |rungs| rungs.parse())?;
    let exhausted = match setting("ORDER_EXHAUSTED").as_deref() {
        Some("skip") => Exhausted::Skip,
        _ => Exhausted::Hold,
    };
    let mut consumer = Consumer::from_env(&std::env::var("ORDER_CONSUMER")?)
        .owner("tests", seconds(60))
        .topic(&topic)
        .on("OrderPlaced", transactional(apply).timeout(seconds(2)))
        .on("OrderSeen", idempotent(async |_: Event<Order>| done()))
        .kafka_option("session.timeout.ms", "6000")
        .kafka_option("heartbeat.interval.ms", "1000")
        .retry(in_place(3).then(vec![rung; rungs]).when_exhausted(exhausted));
    for option in std::env::var("ORDER_KAFKA")?.split(';').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        consumer = consumer.kafka_option(name, value);
    }
    consumer.run().await?;
    Ok(())
}
