//! The consumer on a real Kafka and PostgreSQL: what becomes of handlers that fail.

use std::path::Path;
use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::process::Process;
use outbox_tests::orders::{Asked, Effects, Orders, With};
use outbox_tests::wait::eventually_async;
use rustix::process::Signal;
use uuid::Uuid;

/// The program that is killed.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_order-consumer"))
}

/// An order that goes well, and takes no time.
pub const GOOD: Asked<'static> = Asked { fails: None, until: 0, millis: 0 };

/// An order whose handler fails as the word says.
pub fn failing(fails: &str) -> Asked<'_> {
    Asked { fails: Some(fails), ..GOOD }
}

/// An order whose handler fails before this attempt.
pub fn good_from(until: u32) -> Asked<'static> {
    Asked { fails: Some("until"), until, ..GOOD }
}

/// Lets an instance end in order.
pub fn end(process: &Process) {
    process.signal(Signal::TERM);
    assert!(process.wait(Duration::from_secs(60)).success(), "{}", process.log_tail());
}

/// C21, C22, C24, C26, C50: one key of each kind of failure, and good keys beside them that go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_waits_in_order_and_no_other_does() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("failures", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    for fails in ["closed", "permanent", "panic", "hidden", "commit", "slow", "rejected"] {
        upstream.order(fails, failing(fails));
        upstream.order(fails, GOOD);
    }
    upstream.order("twice", good_from(3));
    upstream.order("twice", GOOD);
    upstream.send("OrderPlaced", Uuid::now_v7(), "unreadable", "no json");
    upstream.order("unreadable", GOOD);
    upstream.send("OrderSeen", Uuid::now_v7(), "good", "{\"number\":0}");
    upstream.send("Unknown", Uuid::now_v7(), "good", "no json");
    for number in 0..200 {
        upstream.order(&format!("good-{}", number % 20), GOOD);
    }
    upstream.flush();
    let process = orders.start(0);
    // 200 good ones, two of `twice`, the second of `rejected`: nothing waits for the keys that fail for good.
    let effects = orders.happened(203, Duration::from_secs(60), &[0]).await;
    assert_eq!(effects, Effects::once(203));
    let parked = "SELECT count(*) FROM inbox.parked_key WHERE scope = 'failures'";
    eventually_async(Duration::from_secs(60), "seven parked keys", async || {
        (orders.number(parked).await == 7).then_some(())
    })
    .await;
    assert_eq!(orders.effects().await.happened, 203, "{}", orders.log(0));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'rejected'").await, 1);
    // What was mended goes on by itself, in order, and everything behind it.
    orders.warehouse(true).await;
    let effects = orders.happened(205, Duration::from_secs(60), &[0]).await;
    assert_eq!(orders.number("SELECT count(*) FROM effects WHERE key = 'closed'").await, 2);
    assert_eq!(effects, Effects::once(205));
    eventually_async(Duration::from_secs(30), "the closed key's marker to go", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_key WHERE key = 'closed'").await == 0).then_some(())
    })
    .await;
    end(&process);
}

/// C44: until somebody opens the warehouse the handler meets a deadlock, many times. That is nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_counts_no_attempt() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("deadlocks", &postgres, &kafka, program()).await;
    orders.upstream().order("key", failing("deadlock"));
    orders.upstream().flush();
    let process = orders.start(0);
    eventually_async(Duration::from_secs(60), "six deadlocks", async || {
        (orders.said(0, "an attempt failed: ") >= 6).then_some(())
    })
    .await;
    orders.warehouse(true).await;
    assert_eq!(orders.happened(1, Duration::from_secs(60), &[0]).await, Effects::once(1));
    assert_eq!(orders.number("SELECT attempt::bigint FROM effects").await, 1, "{}", orders.log(0));
    assert_eq!(orders.lines(0, " parked: "), [""; 0]);
    end(&process);
}

/// C44, in the park: an attempt is counted there before it begins, and taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_in_the_park_counts_no_attempt() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("parked_deadlocks", &postgres, &kafka, program()).await;
    orders.upstream().order("key", failing("deadlock parked"));
    orders.upstream().flush();
    let process = orders.start(0);
    eventually_async(Duration::from_secs(60), "six deadlocks in the park", async || {
        (orders.said(0, "a parked event failed again: ") >= 6).then_some(())
    })
    .await;
    orders.warehouse(true).await;
    assert_eq!(orders.happened(1, Duration::from_secs(60), &[0]).await, Effects::once(1));
    assert_eq!(orders.number("SELECT attempt::bigint FROM effects").await, 4, "{}", orders.log(0));
    end(&process);
}

/// C20: when everything fails the handler is paused: one event at a time is tried, and nobody else climbs the ladder.
/// When one goes well all go on.
#[tokio::test(flavor = "multi_thread")]
async fn when_everything_fails_the_flow_to_the_park_stops_until_one_goes_well() {
    const KEYS: usize = 400;
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("everything", &postgres, &kafka, program()).await;
    for number in 0..KEYS {
        orders.upstream().order(&format!("key-{number}"), failing("closed"));
    }
    orders.upstream().flush();
    let process = orders.start(0);
    eventually_async(Duration::from_secs(60), "the pause", async || {
        (orders.said(0, "the handler is paused") == 1).then_some(())
    })
    .await;
    // Time enough for all of them: an attempt takes no time, and three of them are 300 ms apart.
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(6) {
        let parked = orders.number("SELECT count(*) FROM inbox.parked_key").await;
        assert!(parked < 100, "{parked} of {KEYS} are parked after {:?}", paused.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(orders.said(0, "the handler goes on"), 0);
    orders.warehouse(true).await;
    assert_eq!(orders.happened(KEYS, Duration::from_secs(60), &[0]).await, Effects::once(KEYS));
    assert_eq!(orders.said(0, "the handler goes on"), 1, "{}", orders.log(0));
    end(&process);
}

/// C8: the inbox is the consumer's and not the group's, so a group that begins anew runs nothing again.
#[tokio::test(flavor = "multi_thread")]
async fn another_group_of_the_same_name_repeats_nothing() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("groups", &postgres, &kafka, program()).await;
    for number in 0..200 {
        let asked = if number == 100 { failing("rejected") } else { GOOD };
        orders.upstream().order(&format!("key-{}", number % 20), asked);
    }
    orders.upstream().flush();
    let process = orders.start(0);
    orders.happened(199, Duration::from_secs(60), &[0]).await;
    let group = Some("groups-again".to_owned());
    let again = orders.start_with(1, &With { group, ..With::default() });
    orders.committed_to_the_end("groups-again", Duration::from_secs(60)).await;
    assert_eq!(orders.effects().await, Effects::once(199));
    assert_eq!(orders.lines(1, "rejected"), [""; 0], "what was decided is not decided again");
    end(&process);
    end(&again);
}
