//! Records without a key: nothing keeps an order among them, and each is settled once.

use std::collections::BTreeSet;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::Orders;
use outbox_tests::wait::eventually_async;
use uuid::Uuid;

use crate::consumer::end;
use crate::consumer_kinds::{LIMIT, Outside, payload, program};

/// Sends so many events without a key, with numbers from `first`; answers ids and payloads.
fn send(orders: &Orders<'_>, first: i64, count: i64, does: &str) -> Vec<(Uuid, String)> {
    let events: Vec<(Uuid, String)> =
        (first..first + count).map(|number| (Uuid::now_v7(), payload(number, does))).collect();
    again(orders, &events);
    events
}

/// Sends copies.
fn again<'e>(orders: &Orders<'_>, events: impl IntoIterator<Item = &'e (Uuid, String)>) {
    let upstream = orders.upstream();
    events.into_iter().for_each(|(id, payload)| upstream.send_without_key("Applied", *id, payload));
    upstream.flush();
}

async fn comes_to(orders: &Orders<'_>, what: &str, query: &str, number: i64) {
    eventually_async(LIMIT, what, async || (orders.number(query).await == number).then_some(())).await;
}

/// Events that take their time, are parked or given up hold up no other; each is settled once, and copies change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_key_wait_for_no_other_and_are_settled_once() {
    const NAME: &str = "keyless";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    send(&orders, 0, 6, "wait");
    let process = orders.start_with(0, &outside.with(&[("KINDS_EXHAUSTED", "skip")]));
    // A worker each: whoever comes now shares no transaction with them.
    eventually_async(LIMIT, "six handlers to wait", async || {
        (orders.open_transactions(0).await == 6).then_some(())
    })
    .await;
    let closed = send(&orders, 10, 3, "closed later");
    let good = send(&orders, 100, 200, "");
    let unreadable: Vec<(Uuid, String)> = (0..3).map(|_| (Uuid::now_v7(), "no json".to_owned())).collect();
    again(&orders, &unreadable);
    // Copies of all kinds, some of them in other partitions.
    again(&orders, good.iter().step_by(10).chain(&closed).chain(&unreadable));
    comes_to(&orders, "those that go well", "SELECT count(*) FROM effects WHERE number >= 100", 200).await;
    let dead = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
    comes_to(&orders, "three dead letters", dead, 3).await;
    let parked = "SELECT count(*) FROM inbox.parked_key WHERE waiting = 1";
    comes_to(&orders, "three markers with one event each", parked, 3).await;
    assert_eq!(orders.number("SELECT count(*) FROM inbox.parked_event").await, 3);
    assert_eq!(orders.number("SELECT count(*) FROM effects").await, 200, "while six wait");
    assert_eq!((0..6).map(|number| outside.calls(number).len()).collect::<Vec<_>>(), [1; 6]);

    outside.open("gate");
    outside.open("gate.later");
    comes_to(&orders, "all effects", "SELECT count(*) FROM effects", 209).await;
    comes_to(&orders, "every marker to go", "SELECT count(*) FROM inbox.parked_key", 0).await;
    orders.committed_to_the_end(NAME, LIMIT).await;
    let once = "SELECT count(DISTINCT event) FROM effects WHERE key = ''";
    assert_eq!((orders.number(once).await, orders.number("SELECT count(*) FROM effects").await), (209, 209));
    let done = "SELECT count(*) FROM inbox.settlement WHERE state = 'done'";
    assert_eq!((orders.number(done).await, orders.number(dead).await), (209, 3));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement").await, 212);

    let mut letters = Log::open(&kafka.brokers(), &["keyless.keyless.dlq"], Isolation::ReadUncommitted);
    letters.catch_up();
    // Two copies without a key are at work at once, and each may write a letter before one of them is settled (C11).
    let found: BTreeSet<(&str, Option<&[u8]>)> = letters
        .records()
        .iter()
        .map(|letter| (letter.header("dlq.id").unwrap_or_default(), letter.key.as_deref()))
        .collect();
    let ids: BTreeSet<String> = unreadable.iter().map(|(id, _)| id.to_string()).collect();
    assert!(found.iter().copied().eq(ids.iter().map(|id| (id.as_str(), None))), "{found:?} of {ids:?}");
    end(&process);
}
