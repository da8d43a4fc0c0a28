//! Handlers without a transaction, which run in groups: in the order of their keys, beside each other, and no more of
//! them at once than allowed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use outbox_consumer::ladder::{in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, State, done, idempotent};
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::Orders;
use outbox_tests::wait::eventually_async;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::consumer::program;

const LIMIT: Duration = Duration::from_secs(90);
/// Handlers that may run at once.
const AT_ONCE: usize = 6;
/// Keys of the test, and events of each.
const KEYS: i64 = 50;
const ROUNDS: i64 = 60;

#[derive(Debug, Deserialize)]
struct Step {
    number: i64,
    does: String,
}

#[derive(Debug, thiserror::Error)]
#[error("not yet")]
struct NotYet;

/// What the handlers did.
#[derive(Default)]
struct Seen {
    /// Numbers by key, in the order in which their handlers ended well.
    done: Mutex<BTreeMap<String, Vec<i64>>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

/// Counts a handler that runs, however it ends.
struct Runs<'s>(&'s Seen);

impl<'s> Runs<'s> {
    fn begin(seen: &'s Seen) -> Runs<'s> {
        seen.most.fetch_max(seen.running.fetch_add(1, SeqCst) + 1, SeqCst);
        Runs(seen)
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

async fn step(step: Event<Step>, seen: State<Arc<Seen>>) -> Handled {
    let _runs = Runs::begin(&seen);
    let facts = step.facts();
    match step.does.as_str() {
        "wait" => tokio::time::sleep(Duration::from_millis(5)).await,
        // Longer than a turn of its task: others that were taken with it go back.
        "compute" => std::thread::sleep(Duration::from_millis(3)),
        "fail" if facts.attempt() < 3 => Err(NotYet)?,
        "panic" if facts.attempt() < 2 => panic!("as told"),
        _ => {}
    }
    let key = facts.key().unwrap_or_default().to_owned();
    seen.done.lock().entry(key).or_default().push(step.number);
    done()
}

fn does(key: i64, round: i64) -> &'static str {
    match (key, round % 10) {
        (0, 3) => "fail",
        (1, 4) => "panic",
        (2, _) | (_, 7) => "wait",
        (3, 5) => "compute",
        _ => "nothing",
    }
}

/// C21, C26, C28: order by key while handlers wait, compute, fail and panic, each beside others that only count.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_without_a_transaction_keep_the_order_of_keys_and_the_number_at_once() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("light", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let payload = format!("{{\"number\":{round},\"does\":\"{}\"}}", does(key, round));
            upstream.send("Stepped", Uuid::now_v7(), &format!("key-{key}"), &payload);
        }
    }
    upstream.flush();
    let seen = Arc::new(Seen::default());
    let (url, brokers) = (postgres.url("light"), kafka.brokers());
    let consumer = Consumer::from_lookup("light", |variable| match variable {
        "KAFKA_BROKERS" => Some(brokers.clone()),
        "DATABASE_URL" => Some(url.clone()),
        _ => None,
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let consumer = consumer
        .state(seen.clone())
        .owner("tests", seconds(60))
        .topic("light")
        .concurrency(AT_ONCE)
        .on("Stepped", idempotent(step))
        .retry(in_place(5));
    let running = tokio::spawn(consumer.run_until(async { _ = stopped.await }));
    let expected: Vec<i64> = (0..ROUNDS).collect();
    eventually_async(LIMIT, "every event of every key", async || {
        let done = seen.done.lock();
        let whole = done.values().filter(|numbers| numbers.len() >= expected.len()).count();
        (whole == KEYS as usize).then_some(())
    })
    .await;
    orders.committed_to_the_end("light", LIMIT).await;
    stop.send(()).expect("the consumer runs");
    running.await.expect("no panic").expect("a clean stop");
    for (key, numbers) in seen.done.lock().iter() {
        assert_eq!(numbers, &expected, "{key}: in order, each once");
    }
    let most = seen.most.load(SeqCst);
    println!("proof: {KEYS} keys in order, {most} of at most {AT_ONCE} handlers at once");
    assert!((2..=AT_ONCE).contains(&most), "{most} at once");
}
