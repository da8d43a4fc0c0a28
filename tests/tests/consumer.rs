//! The consumer on a real Kafka and PostgreSQL: effects happen once and in order, whatever happens to it.

use std::path::Path;
use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::process::Process;
use outbox_tests::orders::{Effects, Orders};
use outbox_tests::outbox::proving;
use outbox_tests::wait::eventually_async;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// The program that is killed.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_order-consumer"))
}

fn seed() -> u64 {
    let given = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("OUTBOX_TEST_SEED={seed}");
    seed
}

async fn all_happened(orders: &Orders<'_>, count: usize, limit: Duration, instances: &[usize]) -> Effects {
    let found = async {
        loop {
            let effects = orders.effects().await;
            if effects.happened >= count {
                return effects;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(limit, found).await {
        Ok(effects) => effects,
        Err(_) => {
            let logs: Vec<String> = instances.iter().map(|instance| orders.log(*instance)).collect();
            panic!("{:?} of {count} effects\n{}", orders.effects().await, logs.join("\n---\n"));
        }
    }
}

/// C1, C9, C27, C28, C31, C43: kills and freezes beyond the session's time-out, and a tenth of all records twice.
#[tokio::test(flavor = "multi_thread")]
async fn effects_happen_once_and_in_order_through_kills_and_freezes() {
    let mut random = StdRng::seed_from_u64(seed());
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("kills", &postgres, &kafka, program()).await;
    let faults = if proving() { 60 } else { 8 };
    let mut instances: Vec<(usize, Process)> = (0..2).map(|number| (number, orders.start(number))).collect();
    let mut started = instances.len();
    let mut sent = 0_usize;
    for fault in 0..faults {
        // Work for some seconds, so that a fault falls into it.
        for _ in 0..600 {
            let (id, key) = (Uuid::now_v7(), format!("customer-{}", random.random_range(0..40)));
            let payload = format!("{{\"number\":{sent}}}");
            orders.send(id, &key, &payload);
            if random.random_range(0..10) == 0 {
                orders.send(id, &key, &payload);
            }
            sent += 1;
        }
        orders.flush();
        // A fault counts where it meets work: some of it has happened, and some has not.
        let before = sent - 550;
        let numbers: Vec<usize> = (0..started).collect();
        all_happened(&orders, before, Duration::from_secs(90), &numbers).await;
        let victim = random.random_range(0..instances.len());
        if fault % 4 == 3 {
            let (number, process) = &instances[victim];
            process.pause();
            // Until the group has gone on without it: the rest happens meanwhile.
            all_happened(&orders, sent, Duration::from_secs(90), &[*number]).await;
            process.resume();
        } else {
            let (_, process) = instances.swap_remove(victim);
            process.kill();
            instances.push((started, orders.start(started)));
            started += 1;
        }
    }
    let numbers: Vec<usize> = (0..started).collect();
    let effects = all_happened(&orders, sent, Duration::from_secs(120), &numbers).await;
    assert_eq!(effects, Effects { happened: sent, doubled: 0, reordered: 0 });
    for (_, process) in &instances {
        process.signal(rustix::process::Signal::TERM);
        assert!(process.wait(Duration::from_secs(40)).success(), "{}", process.log_tail());
    }
    // What came twice was known by its inbox row, not by luck.
    assert!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'done'").await == sent as i64);
}

/// C21, C22, C24, C26, C50: one key of each kind of failure, and good keys beside them that go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_waits_in_order_and_no_other_does() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("failures", &postgres, &kafka, program()).await;
    let send = |key: &str, number: i64, fails: Option<&str>| {
        let fails = fails.map_or(String::new(), |fails| format!(",\"fails\":\"{fails}\""));
        orders.send(Uuid::now_v7(), key, &format!("{{\"number\":{number}{fails}}}"));
    };
    for (key, fails) in [
        ("twice", "twice"),
        ("closed", "closed"),
        ("permanent", "permanent"),
        ("panic", "panic"),
        ("hidden", "hidden"),
        ("commit", "commit"),
        ("slow", "slow"),
        ("rejected", "rejected"),
    ] {
        send(key, 1, Some(fails));
        send(key, 2, None);
    }
    orders.send(Uuid::now_v7(), "unreadable", "no json");
    send("unreadable", 2, None);
    orders.send_as("OrderSeen", Uuid::now_v7(), "good", "{\"number\":0}");
    orders.send_as("Unknown", Uuid::now_v7(), "good", "no json");
    for number in 0..200 {
        send(&format!("good-{}", number % 20), number, None);
    }
    orders.flush();
    let process = orders.start(0);
    // 200 good ones, two of `twice`, the second of `rejected`: nothing waits for the keys that fail for good.
    let effects = all_happened(&orders, 203, Duration::from_secs(60), &[0]).await;
    assert_eq!((effects.doubled, effects.reordered), (0, 0));
    let parked = "SELECT count(*) FROM inbox.parked_key WHERE scope = 'failures'";
    eventually_async(Duration::from_secs(60), "seven parked keys", async || {
        (orders.number(parked).await == 7).then_some(())
    })
    .await;
    assert_eq!(orders.effects().await.happened, 203, "{}", orders.log(0));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'rejected'").await, 1);
    // What was mended goes on by itself, in order, and everything behind it.
    orders.client.execute("UPDATE warehouse SET open = true", &[]).await.unwrap();
    all_happened(&orders, 205, Duration::from_secs(60), &[0]).await;
    assert_eq!(orders.number("SELECT count(*) FROM effects WHERE key = 'closed'").await, 2);
    assert_eq!(orders.effects().await.reordered, 0);
    eventually_async(Duration::from_secs(30), "the closed key's marker to go", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_key WHERE key = 'closed'").await == 0).then_some(())
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert!(process.wait(Duration::from_secs(40)).success(), "{}", process.log_tail());
}

/// C25: a record that ends the process is found across restarts, held with its evidence, and everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_process_is_found_and_no_other_is_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("poison", &postgres, &kafka, program()).await;
    for number in 0..60 {
        let fails = if number == 30 { ",\"fails\":\"abort\"" } else { "" };
        orders.send(
            Uuid::now_v7(),
            &format!("key-{}", number % 10),
            &format!("{{\"number\":{number}{fails}}}"),
        );
    }
    orders.flush();
    let mut deaths = 0;
    let mut process = orders.start(0);
    // Two of key-0 come after it, and wait behind it.
    eventually_async(Duration::from_secs(240), "every other effect", async || {
        if process.ended().is_some() {
            deaths += 1;
            process = orders.start(0);
        }
        let parked = orders.number("SELECT count(*) FROM inbox.parked_event").await;
        (orders.effects().await.happened == 57 && parked == 3).then_some(())
    })
    .await;
    assert!((3..12).contains(&deaths), "{deaths} deaths\n{}", orders.log(0));
    let held =
        "SELECT count(*) FROM inbox.parked_key WHERE key = 'key-0' AND last_error LIKE '%the process died%'";
    assert_eq!(orders.number(held).await, 1);
    let effects = orders.effects().await;
    assert_eq!((effects.doubled, effects.reordered), (0, 0));
}
