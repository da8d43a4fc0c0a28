//! A backlog of messages beside one of rows, drained in turn by the same relay: what emitting events without a table
//! makes of its speed. Reported only; nothing is required of it.

use std::fmt;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::alone::{alone, say};
use super::drain;
use super::figures::Spread;
use super::ground::{Backlog, Ground, NAME, PARTITIONS};
use super::machine::Machine;
use super::plan::{Plan, Shape};
use super::table::{machine_row, row};
use crate::relay::{Relay, RelayConfig};

/// The relay of messages, and its aggregate type.
const RELAY: &str = "bench_messages";
/// The slot that every run's slot is a copy of.
const BASE: &str = "bench_messages_base";
/// The password of the role that both relays use.
const PASSWORD: &str = "relay password";
/// Longest drain.
const LIMIT: Duration = Duration::from_secs(300);
/// Time between two looks at the relay's `/status`.
const STATUS: Duration = Duration::from_millis(20);

/// Drains before those that count.
const WARM_UPS: usize = 2;

/// As the loader of rows, by `outbox.emit()`.
const LOADER: &str = r#"
    CREATE PROCEDURE load_messages(first bigint, transactions bigint, per bigint) LANGUAGE plpgsql AS $$
    BEGIN
      FOR t IN 0 .. transactions - 1 LOOP
        PERFORM outbox.emit('bench_messages', 'customer-' || (i * 7919 % 10000), 'OrderPlaced',
               ('{"order":' || i || ',"customer":"customer-' || (i * 7919 % 10000)
                || '","currency":"EUR","status":"placed","lines":[{"sku":"' || left(f, 12)
                || '","quantity":2,"price":"19.90"}],"address":"' || right(f, 20)
                || '","trace":"' || f || '"}')::json)
          FROM (SELECT i, filler(i) f FROM generate_series(first + t * per, first + t * per + per - 1) i) messages;
        COMMIT;
      END LOOP;
    END $$"#;

/// The pairs of drains of one backlog: seconds of the rows and of the messages.
pub struct Compared {
    shape: Shape,
    pairs: Vec<(f64, f64)>,
}

/// Measures every shape of the plan.
///
/// # Panics
/// With a sentence, when a measurement cannot be made.
pub async fn compare(plan: &Plan) -> Vec<Compared> {
    let mut compared = Vec::new();
    let mut ground = Ground::prepare(plan).await;
    let (status, said) = config(&ground, "first").init(&ground.postgres.url(NAME), &[]);
    assert!(status.success(), "init failed ({status})\n{said}");
    ground.client.batch_execute(LOADER).await.expect("the loader of messages");
    let mut runs = 0;
    for &shape in &plan.shapes {
        let rows = ground.load(shape).await;
        load(&ground, shape).await;
        let mut pairs = Vec::new();
        for pair in 0..WARM_UPS + plan.pairs {
            let _alone = alone(plan.lock.as_deref());
            let (by_rows, by_messages) = if pair % 2 == 0 {
                let by_rows = drain_rows(&mut ground, &rows).await;
                (by_rows, drain_messages(&ground, shape, &mut runs).await)
            } else {
                let by_messages = drain_messages(&ground, shape, &mut runs).await;
                (drain_rows(&mut ground, &rows).await, by_messages)
            };
            let counts = if pair < WARM_UPS { " (warm-up)" } else { "" };
            say(&format!("{}: rows {by_rows:.2} s, messages {by_messages:.2} s{counts}", shape.name()));
            if pair >= WARM_UPS {
                pairs.push((by_rows, by_messages));
            }
        }
        compared.push(Compared { shape, pairs });
    }
    compared
}

/// The report, in Markdown.
///
/// # Errors
/// What it is written to does not take it.
pub fn page(
    command: &str,
    date: &str,
    machine: &Machine,
    compared: &[Compared],
) -> Result<String, fmt::Error> {
    let mut page = "# Messages beside rows\n".to_owned();
    writeln!(
        page,
        "\nWritten by `{command}`; every number is of that run. The same events, emitted with `outbox.emit()` and inserted \
         into `outbox.events`, are drained in turn by the same relay into a real Kafka, {WARM_UPS} drains of each before those \
         that count. Timings are of this machine alone: compare within the report. Nothing is required of it.\n"
    )?;
    writeln!(page, "| | |\n|---|---|\n| date | {date} |")?;
    machine_row(&mut page, machine)?;
    writeln!(page, "| congestion control of the machine | {} |", machine.congestion_control)?;
    writeln!(page, "| Kafka | {}, `acks=all`, lz4 |", machine.broker_in_words())?;
    for Compared { shape, pairs } in compared {
        let thousands = |seconds: f64| shape.rows as f64 / seconds / 1e3;
        writeln!(page, "\n## {}\n\n{} events, {} pairs.\n", shape.name(), shape.rows, pairs.len())?;
        writeln!(page, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        row(
            &mut page,
            "**messages ÷ rows**",
            Spread::of(pairs.iter().map(|(rows, messages)| rows / messages)),
            2,
        )?;
        row(&mut page, "messages, thousand/s", Spread::of(pairs.iter().map(|pair| thousands(pair.1))), 0)?;
        row(&mut page, "rows, thousand/s", Spread::of(pairs.iter().map(|pair| thousands(pair.0))), 0)?;
    }
    Ok(page)
}

async fn drain_rows(ground: &mut Ground, backlog: &Backlog) -> f64 {
    drain::relay(ground, backlog).await.seconds
}

fn config(ground: &Ground, run: &str) -> RelayConfig {
    let url = ground.postgres.url_for("relay_bench", NAME);
    RelayConfig::new(RELAY, &url, PASSWORD, &ground.kafka.brokers())
        .text("outbox.from", "messages")
        .text("kafka.topic_prefix", &format!("{run}."))
        .text("state.topic", &format!("state.{run}"))
}

async fn drop_slot(ground: &Ground, name: &str) {
    let free = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active";
    crate::wait::eventually_async(LIMIT, "the slot to be free", async || {
        ground.client.query_opt(free, &[&name]).await.ok()?.is_none().then_some(())
    })
    .await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    ground.client.execute(drop, &[&name]).await.expect("a slot is dropped");
}

async fn load(ground: &Ground, shape: Shape) {
    drop_slot(ground, BASE).await;
    let create = format!("SELECT pg_create_logical_replication_slot('{BASE}', 'pgoutput')");
    ground.client.batch_execute(&create).await.expect("the base slot");
    let call = format!("CALL load_messages(0, {}, {})", shape.transactions(), shape.per_transaction);
    let client = ground.postgres.connect(NAME).await;
    for statement in ["SET synchronous_commit = off", &call, "SET synchronous_commit = on"] {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let flush = "CREATE TABLE IF NOT EXISTS flushed (); DROP TABLE flushed; CHECKPOINT";
    client.batch_execute(flush).await.expect("a flush");
}

async fn drain_messages(ground: &Ground, shape: Shape, runs: &mut u32) -> f64 {
    let slot = format!("outbox_{RELAY}");
    drop_slot(ground, &slot).await;
    let copy = format!("SELECT pg_copy_logical_replication_slot('{BASE}', '{slot}')");
    ground.client.batch_execute(&copy).await.expect("a copy of the base slot");
    *runs += 1;
    let run = format!("messages{runs}");
    ground.kafka.create_topic(&format!("{run}.{RELAY}"), PARTITIONS, &[]).await;
    ground.kafka.create_topic(&format!("state.{run}"), 1, &[("cleanup.policy", "compact")]).await;
    let log = ground.log();
    let relay = Relay::start(&config(ground, &run));
    let (start, _walsender) = log.replication_started();
    let deadline = Instant::now() + LIMIT;
    let end = loop {
        let status = relay.try_status();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        if status.as_ref().and_then(|status| status["totals"]["records"].as_u64()) >= Some(shape.rows) {
            break now;
        }
        assert!(
            Instant::now() < deadline && relay.ended().is_none(),
            "not drained: {status:?}\n{}",
            relay.log()
        );
        std::thread::sleep(STATUS);
    };
    let status = relay.terminate();
    assert!(status.success(), "the relay did not drain: {status}\n{}", relay.log());
    end - start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_compares_by_pairs() {
        let shape = Shape { per_transaction: 1, rows: 100_000 };
        let compared = [Compared { shape, pairs: vec![(1.0, 2.0), (4.0, 2.0), (2.0, 2.0)] }];
        let page = page("bench-relay --messages", "today", &Machine::here(), &compared).unwrap();
        for line in [
            "## 1 row per transaction\n\n100000 events, 3 pairs.",
            "| **messages ÷ rows** | 1.00 | 0.75 – 1.50 | 0.50 – 2.00 |",
            "| messages, thousand/s | 50 | 50 – 50 | 50 – 50 |",
            "| rows, thousand/s | 50 | 38 – 75 | 25 – 100 |",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
