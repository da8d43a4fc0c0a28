//! Calls to the outside (C47), and handlers that never run twice.

use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Orders, PARTITIONS};
use outbox_tests::wait::eventually_async;

use super::{LIMIT, Outside, kept_place, payload, program, send, settled, stands};
use crate::consumer::end;

/// What a claim of the program's external handlers is good for: their time-out of 5 s, and ten more.
const LEASE: u64 = 15_000;

/// C47: the process is killed between the call and its settlement. The call is made again, when the claim's lease has
/// ended, and by the same idempotency key; meanwhile other keys go on, and behind it a copy makes none.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_process_was_killed_is_made_again_with_the_same_key() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("killed_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let id = send(&orders, "Called", "key", 0, "wait");
    orders.upstream().flush();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let first = outside.called(&orders, 0, 1).await.remove(0);
    process.kill();
    assert_eq!(
        stands(&orders, id).await,
        Some(("claimed".into(), Some(1))),
        "the call is made and not settled"
    );
    outside.open("gate");
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let other = send(&orders, "Called", "other", 1, "");
    send(&orders, "Called", "key", 2, "");
    settled(&orders, other, "done").await;
    assert_eq!(outside.calls(0), std::slice::from_ref(&first), "its lease has not ended");
    assert_eq!(outside.calls(2), [], "what is behind it waits");
    let second = outside.called(&orders, 0, 2).await.remove(1);
    settled(&orders, id, "done").await;
    assert_eq!(second.idempotency_key, first.idempotency_key);
    assert_eq!(first.idempotency_key, format!("killed_call/{id}"));
    assert_ne!(second.process, first.process);
    assert!(second.at >= first.at + LEASE - 1_000, "{} ms after the first", second.at - first.at);
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(2))));
    let behind = outside.called(&orders, 2, 1).await.remove(0);
    assert!(behind.at >= second.at, "in the order of their key");
    // Copies, also under another key, make no call.
    orders.upstream().send("Called", id, "key", &payload(0, ""));
    orders.upstream().send("Called", id, "another", &payload(0, ""));
    orders.upstream().flush();
    orders.committed_to_the_end("killed_call", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 2, "{}", orders.log(0));
    let result = orders.query("SELECT result FROM inbox.settlement WHERE id = $1", &[&id]).await;
    assert_eq!(result[0].get::<_, Option<Vec<u8>>>(0).as_deref(), Some(&b"answer 0"[..]));
    end(&process);
}

/// C47: a copy that comes while the call is made waits for it, and is settled with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_waits_for_the_call_that_is_made_and_makes_none() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("copies", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let process = orders.start_with(0, &outside.with(&[]));
    let id = send(&orders, "Called", "key", 0, "wait");
    outside.called(&orders, 0, 1).await;
    // Of another key, and so taken by another worker at once; what is behind it shows that it was.
    orders.upstream().send("Called", id, "another", &payload(0, ""));
    send(&orders, "Called", "another", 1, "");
    let beside = send(&orders, "Called", "beside", 2, "");
    settled(&orders, beside, "done").await;
    assert_eq!((outside.calls(0).len(), outside.calls(1).len()), (1, 0), "{}", orders.log(0));
    outside.open("gate");
    outside.called(&orders, 1, 1).await;
    orders.committed_to_the_end("copies", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 1, "{}", orders.log(0));
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(1))));
    end(&process);
}

/// C31, C47: an owner that is frozen in its call is taken over from when the lease has ended, and what it says when it
/// thaws decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owners_call_is_made_by_another_when_its_lease_has_ended() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("frozen_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let id = send(&orders, "Called", "key", 0, "wait");
    orders.upstream().flush();
    let frozen = orders.start_with(0, &outside.with(&[]));
    let first = outside.called(&orders, 0, 1).await.remove(0);
    frozen.pause();
    let next = orders.start_with(1, &outside.with(&[]));
    // The next owner finds the claim long before its end, and waits.
    eventually_async(LIMIT, "the partitions to go over", async || {
        (orders.said(1, " assigned ") >= PARTITIONS).then_some(())
    })
    .await;
    assert_eq!(stands(&orders, id).await, Some(("claimed".into(), Some(1))), "{}", orders.log(1));
    let second = outside.called(&orders, 0, 2).await.remove(1);
    assert!(second.at >= first.at + LEASE - 1_000, "{} ms after the first", second.at - first.at);
    assert_eq!((second.process, &second.idempotency_key), (next.pid(), &first.idempotency_key));
    // Both calls are under way now. The frozen one thaws, and its time is over.
    frozen.resume();
    outside.open("gate");
    settled(&orders, id, "done").await;
    orders.committed_to_the_end("frozen_call", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 2, "{}\n---\n{}", orders.log(0), orders.log(1));
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(2))));
    end(&frozen);
    end(&next);
}

/// The calls of an event that fails and is parked are one call to the outside, also where a business key names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_tried_on_from_the_park_with_the_same_key() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("parked_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let called = send(&orders, "Called", "called", 0, "closed");
    let behind = send(&orders, "Called", "called", 1, "");
    let charged = send(&orders, "Charged", "order-1/a", 2, "closed");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    for number in [0, 2] {
        outside.called(&orders, number, 3).await;
    }
    assert_eq!(outside.calls(1), [], "{}", orders.log(0));
    outside.open("gate");
    settled(&orders, called, "done").await;
    settled(&orders, behind, "done").await;
    let by_key = "SELECT count(*) FROM inbox.settlement WHERE business_key = 'idem:order-1:Charged' AND state = 'done'";
    eventually_async(LIMIT, "the charge to be settled", async || {
        (orders.number(by_key).await == 1).then_some(())
    })
    .await;
    for (number, id) in [(0, called), (2, charged)] {
        let calls = outside.calls(number);
        let attempts: Vec<u32> = calls.iter().map(|call| call.attempt).collect();
        assert_eq!(attempts, (1..=calls.len() as u32).collect::<Vec<_>>());
        assert!(calls.iter().all(|call| call.id == id), "{id} is the event's own: {calls:?}");
        let key = &calls[0].idempotency_key;
        assert!(calls.iter().all(|call| call.idempotency_key == *key), "one call to the outside: {calls:?}");
    }
    end(&process);
}

/// An answer that is longer than what is kept: the call is made, so it is settled, and what is behind it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_let_go_of() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("talks", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let talked = send(&orders, "Talked", "key", 0, "");
    let behind = send(&orders, "Called", "key", 1, "");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    let done = async {
        while stands(&orders, behind).await != Some(("done".into(), Some(1))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT / 3, done).await.is_ok(), "{}", orders.log(0));
    assert_eq!(stands(&orders, talked).await, Some(("done".into(), Some(1))));
    assert_eq!(outside.calls(0).len(), 1);
    end(&process);
}

/// A process that dies in an at-most-once handler, and one whose handler fails: it never runs again. The first leaves
/// a claim for ever, the second a dead letter; what is behind goes on.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_runs_again() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("at_most", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let killed = send(&orders, "Once", "key", 0, "wait");
    orders.upstream().flush();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    outside.called(&orders, 0, 1).await;
    process.kill();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let behind = send(&orders, "Once", "key", 1, "");
    let failed = send(&orders, "Once", "failed", 2, "closed");
    orders.upstream().send("Once", failed, "failed", &payload(2, "closed"));
    orders.upstream().flush();
    settled(&orders, behind, "done").await;
    settled(&orders, failed, "dead").await;
    orders.committed_to_the_end("at_most", LIMIT).await;
    let calls = [0, 1, 2].map(|number| outside.calls(number).len());
    assert_eq!(calls, [1, 1, 1], "{}", orders.log(0));
    assert_eq!(orders.said(0, "somebody began it and did not settle it"), 1, "{}", orders.log(0));
    let claimed = "SELECT count(*) FROM inbox.settlement WHERE state = 'claimed' AND lease_until = 'infinity' AND id = $1";
    assert_eq!(orders.query(claimed, &[&killed]).await[0].get::<_, i64>(0), 1);
    let mut letters = Log::open(&kafka.brokers(), &["at_most.at_most.dlq"], Isolation::ReadUncommitted);
    letters.catch_up();
    let ids: Vec<Option<&str>> = letters.records().iter().map(|letter| letter.header("id")).collect();
    assert_eq!(ids, [Some(failed.to_string().as_str())]);
    end(&process);
}

/// An at-most-once event that waits behind a parked one of its key runs from the park, and there, too, only once:
/// neither a failure nor the end of its process lets it run again.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_runs_again_from_the_park() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("at_most_parked", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    for (key, first, number, does) in [("fails", "closed", 1, "fails"), ("dies", "closed later", 2, "hangs")]
    {
        send(&orders, "Applied", key, 0, first);
        send(&orders, "Once", key, number, does);
        send(&orders, "Applied", key, 3, "");
    }
    orders.upstream().flush();
    let with = kept_place(outside.with(&[]));
    let process = orders.start_with(0, &with);
    let waiting = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(LIMIT, "six parked events", async || (orders.number(waiting).await == 6).then_some(()))
        .await;
    let through = "SELECT count(*) FROM effects WHERE number = 3";
    outside.open("gate");
    eventually_async(LIMIT, "what is behind the failed one", async || {
        assert!(outside.calls(1).len() < 2, "{}", orders.log(0));
        (orders.number(through).await == 1).then_some(())
    })
    .await;
    outside.open("gate.later");
    let hangs = outside.called(&orders, 2, 1).await;
    process.kill();
    let process = orders.start_with(0, &with);
    eventually_async(LIMIT, "what is behind the one that died", async || {
        assert_eq!(outside.calls(2), hangs, "{}", orders.log(0));
        (orders.number(through).await == 2).then_some(())
    })
    .await;
    let dead = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
    assert_eq!(orders.number(dead).await, 2, "{}", orders.log(0));
    end(&process);
}
