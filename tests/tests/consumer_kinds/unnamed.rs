//! Events of which `dedup_by` knows no name.

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::Orders;
use outbox_tests::wait::eventually_async;
use uuid::Uuid;

use super::{LIMIT, Outside, payload, program, send};
use crate::consumer::end;

/// An event that `dedup_by` panics for, or gives no key that could be kept, is a dead letter that says so. It runs
/// nowhere, what is behind it in its key goes on, and so does whoever it was taken with: in a group, in a call, on a task.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_business_key_is_given_up_and_holds_up_no_other() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("unnamed", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let wrong = [
        "its dedup_by panicked: as told",
        "its dedup_by gives no text",
        "its dedup_by gives a text with a NUL",
    ];
    let (mut letters, mut good) = (Vec::new(), Vec::new());
    for (event_type, first) in [("Named", 0), ("NamedCall", 100), ("NamedLight", 200)] {
        for number in first..first + 60 {
            let key = format!("{event_type}-{}", number % 10);
            match number - first {
                by_hand @ 21..24 => {
                    let id = Uuid::from_u128(u128::try_from(number - 20).expect("small"));
                    orders.upstream().send(event_type, id, &key, &payload(number, ""));
                    letters.push((id.to_string(), wrong[usize::try_from(by_hand - 21).expect("small")]));
                }
                _ => {
                    send(&orders, event_type, &key, number, "");
                    good.push((key, number));
                }
            }
        }
    }
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[("KINDS_EXHAUSTED", "skip")]));
    orders.committed_to_the_end("unnamed", LIMIT / 2).await;
    for (key, number) in &good {
        assert_eq!(outside.calls(*number).len(), 1, "{number} of {key}");
    }
    let at = |number: i64| outside.calls(number)[0].at;
    for (key, number) in &good {
        if let Some((_, next)) = good.iter().find(|(other, next)| other == key && next > number) {
            assert!(at(*number) <= at(*next), "{number} and {next}, in the order of {key}");
        }
    }
    let mut log = Log::open(&kafka.brokers(), &["unnamed.unnamed.dlq"], Isolation::ReadUncommitted);
    log.catch_up();
    let found: Vec<(&str, &str)> = log
        .records()
        .iter()
        .filter_map(|letter| Some((letter.header("id")?, letter.header("dlq.error.message")?)))
        .collect();
    let told = || format!("letters at {:?}, and the consumer says\n{}", log.places(), orders.log(0));
    assert_eq!(found.len(), letters.len(), "{found:?}, {}", told());
    for (id, wrong) in &letters {
        assert!(
            found.iter().any(|(of, said)| of == id && said.starts_with(wrong)),
            "{id} {wrong}: {found:?}"
        );
    }
    let states =
        "SELECT count(*) FILTER (WHERE state = 'dead') * 1000 + count(*) FILTER (WHERE state = 'done')
                    FROM inbox.settlement";
    assert_eq!(orders.number(states).await, 6 * 1000 + 2 * 57, "of those with an inbox");
    assert_eq!(orders.number("SELECT count(*) FROM effects").await, 57);
    end(&process);
}

/// The same where its key is parked: it queues up, and is given up when its turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_business_key_does_not_run_from_the_park() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("unnamed_parked", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    send(&orders, "Named", "key", 0, "closed");
    orders.upstream().send("Named", Uuid::from_u128(1), "key", &payload(1, ""));
    send(&orders, "Named", "key", 2, "");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    let waiting = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(LIMIT, "three parked events", async || {
        (orders.number(waiting).await == 3).then_some(())
    })
    .await;
    outside.open("gate");
    let held = "SELECT count(*) FROM inbox.parked_key
                 WHERE held_by = 'hold' AND waiting = 2 AND last_error = 'its dedup_by panicked: as told'";
    for _ in 0..2 {
        eventually_async(LIMIT, "its key to be held", async || {
            (orders.number(held).await == 1).then_some(())
        })
        .await;
        assert_eq!((outside.calls(1).len(), outside.calls(2).len()), (0, 0), "{}", orders.log(0));
        let release = "SELECT inbox.release_parked_key(scope, topic, key, 'once more') FROM inbox.parked_key";
        orders.query(release, &[]).await;
    }
    end(&process);
}
