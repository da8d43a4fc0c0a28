//! Order while some keys fail: theirs is kept, and the others do not wait for them.

use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Effects, Orders, With};
use outbox_tests::outbox::proving;
use outbox_tests::wait::eventually_async;

use crate::consumer::{GOOD, end, failing, good_from, program};

const LIMIT: Duration = Duration::from_secs(180);
/// Keys of a window: ten of them fail for a while, one until somebody helps.
const KEYS: usize = 1_000;
const TRANSIENT: std::ops::RangeInclusive<usize> = 1..=10;
/// Orders of each key.
const ROUNDS: usize = 4;
/// Windows with failing keys, and as many without, where the throughput is measured.
const WINDOWS: usize = 9;
/// Share of their throughput that the other keys keep at least.
const KEPT: f64 = 0.95;

/// Sends one window's orders, waits until they have settled, and answers the good keys' effects per second.
async fn window(orders: &Orders<'_>, number: usize, fail: bool) -> f64 {
    let upstream = orders.upstream();
    for _ in 0..ROUNDS {
        for key in 0..KEYS {
            let asked = match key {
                0 if fail => failing("closed"),
                key if fail && TRANSIENT.contains(&key) => good_from(2 + u32::try_from(key).unwrap_or(0) % 5),
                _ => GOOD,
            };
            upstream.order(&format!("{number}-{key}"), asked);
        }
    }
    upstream.flush();
    let sent = upstream.count();
    let effects = orders.happened(if fail { sent - ROUNDS } else { sent }, LIMIT, &[0]).await;
    assert_eq!((effects.doubled, effects.reordered, effects.unsent), (0, 0, 0));
    if fail {
        let of_closed = format!("SELECT count(*) FROM effects WHERE key = '{number}-0'");
        assert_eq!(orders.number(&of_closed).await, 0, "the warehouse is closed");
        orders.warehouse(true).await;
        orders.happened(sent, LIMIT, &[0]).await;
        eventually_async(LIMIT, "every marker to go", async || {
            (orders.number("SELECT count(*) FROM inbox.parked_key").await == 0).then_some(())
        })
        .await;
        orders.warehouse(false).await;
    }
    let good = format!(
        "SELECT (count(*) / extract(epoch FROM max(made) - min(made)))::float8 FROM effects
          WHERE key LIKE '{number}-%' AND split_part(key, '-', 2)::int > {}",
        TRANSIENT.end()
    );
    orders.query(&good, &[]).await[0].get(0)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// C21, C22: one key of a hundred fails for a while and one of a thousand until somebody helps. No order is broken,
/// and, where it is proved, the others keep their throughput.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_while_one_percent_of_keys_fail() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("percent", &postgres, &kafka, program()).await;
    let process = orders.start_with(0, &With { rung: Some(1), ..With::default() });
    let (mut with, mut without) = (Vec::new(), Vec::new());
    if proving() {
        // The first of a consumer's records find it cold.
        window(&orders, 0, false).await;
        for number in 0..WINDOWS {
            let first = number % 2 == 0;
            for fail in [first, !first] {
                let rate = window(&orders, 1 + number * 2 + usize::from(fail), fail).await;
                if fail { &mut with } else { &mut without }.push(rate);
            }
        }
        let kept = median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let (with, without) = (median(with), median(without));
        println!(
            "proof: other keys keep {:.1} % of their throughput while 1.1 % of keys fail (medians of {WINDOWS} pairs \
             of windows: {with:.0}/s and {without:.0}/s)",
            kept * 100.0
        );
        assert!(kept >= KEPT, "{kept}");
    } else {
        window(&orders, 0, true).await;
    }
    let sent = orders.upstream().count();
    assert_eq!(orders.effects().await, Effects::once(sent));
    end(&process);
}

/// C14: a rung that is several times longer than the client may go without a poll.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_rung_causes_no_rebalance() {
    let (rung, poll) = if proving() { (40, 10_000) } else { (14, 6_000) };
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("rung", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    let kafka = format!("max.poll.interval.ms={poll}");
    let process = orders.start_with(0, &With { rung: Some(rung), kafka, ..With::default() });
    let waits = upstream.order("waits", good_from(4));
    (0..3).for_each(|_| _ = upstream.order("waits", GOOD));
    eventually_async(LIMIT, "the key and what follows it to be parked", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_event").await == 4).then_some(())
    })
    .await;
    let (parked, assigned) = (Instant::now(), orders.said(0, " assigned "));
    assert_eq!(assigned, outbox_tests::orders::PARTITIONS, "{}", orders.log(0));
    let happened = format!("SELECT count(*) FROM effects WHERE number = {waits}");
    let mut beside = 0;
    while orders.number(&happened).await == 0 {
        assert!(parked.elapsed() < LIMIT, "{}", orders.log(0));
        // The others go on, all the while.
        upstream.order(&format!("beside-{}", beside % 20), GOOD);
        beside += 1;
        orders.happened(beside, Duration::from_secs(5), &[0]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(parked.elapsed() > Duration::from_secs(rung - 1), "it came after {:?}", parked.elapsed());
    let effects = orders.happened(upstream.count(), LIMIT, &[0]).await;
    assert_eq!(effects, Effects::once(upstream.count()));
    assert_eq!(orders.said(0, " assigned "), assigned, "{}", orders.log(0));
    assert_eq!(orders.said(0, "were lost"), 0, "{}", orders.log(0));
    println!(
        "proof: a rung of {rung} s against a limit of {poll} ms between polls: no rebalance, {beside} others beside it"
    );
    end(&process);
}
