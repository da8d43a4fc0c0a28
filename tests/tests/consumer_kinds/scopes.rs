//! What makes two events one, or one event two: business keys (C8) and scopes.

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::Orders;
use uuid::Uuid;

use super::{LIMIT, Outside, payload, program, rewind, send};
use crate::consumer::end;

/// Two events of one order are one to a handler that is told so: on other partitions, at the same time, later, and as
/// copies. The handler is shown the event's own id all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_business_key_makes_two_events_one() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("business", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let mut sent = Vec::new();
    for order in 0..20 {
        for (part, number) in [("a", 0), ("b", 1), ("a", 2)] {
            sent.push((
                order,
                send(&orders, "Paid", &format!("order-{order}/{part}"), order * 10 + number, ""),
            ));
        }
        send(&orders, "Applied", &format!("order-{order}/a"), 1_000 + order, "");
    }
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    orders.committed_to_the_end("business", LIMIT).await;
    let later = send(&orders, "Paid", "order-0/c", 9, "");
    orders.upstream().send("Paid", sent[0].1, "order-0/a", &payload(0, ""));
    orders.upstream().flush();
    orders.committed_to_the_end("business", LIMIT).await;
    let rows =
        orders.query("SELECT event, number FROM effects WHERE number < 1000 ORDER BY number", &[]).await;
    let paid: Vec<i64> = rows.iter().map(|row| row.get::<_, i64>(1) / 10).collect();
    assert_eq!(paid, (0..20).collect::<Vec<_>>(), "{}", orders.log(0));
    for row in &rows {
        let (event, number): (Uuid, i64) = (row.get(0), row.get(1));
        assert!(
            sent.contains(&(number / 10, event)),
            "{event} is an event of order {}, not {later}",
            number / 10
        );
    }
    assert_eq!(orders.number("SELECT count(*) FROM effects WHERE number >= 1000").await, 20, "another type");
    let rows = "SELECT count(*) FROM inbox.settlement
                 WHERE business_key LIKE 'idem:order-%:Paid' AND event_time = '-infinity' AND id = inbox.key_id(business_key)";
    assert_eq!(orders.number(rows).await, 20);
    end(&process);
}

/// Two scopes of one group each have the effect of every event once, whatever is read again.
#[tokio::test(flavor = "multi_thread")]
async fn two_scopes_of_one_group_each_have_the_effect_once() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("scopes", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let ids: Vec<Uuid> = (0..100)
        .map(|number| send(&orders, "Applied", &format!("key-{}", number % 20), number, ""))
        .collect();
    let call = send(&orders, "Called", "key-0", 100, "");
    orders.upstream().flush();
    // The consumer's name is a scope of its own, and its group is the same for all.
    for (instance, (scope, effects)) in
        [("", 1), ("again", 2), ("", 2), ("again", 2), ("third", 3)].into_iter().enumerate()
    {
        let process = orders.start_with(instance, &outside.with(&[("KINDS_SCOPE", scope)]));
        orders.committed_to_the_end("scopes", LIMIT).await;
        end(&process);
        let of_each = "SELECT count(*) FROM effects WHERE event = ANY ($1) GROUP BY event";
        let counts: Vec<i64> = orders.query(of_each, &[&ids]).await.iter().map(|row| row.get(0)).collect();
        assert_eq!(counts, [effects; 100], "as {scope:?}\n{}", orders.log(instance));
        let keys: Vec<String> = outside.calls(100).into_iter().map(|call| call.idempotency_key).collect();
        let expected = ["scopes", "again", "third"].map(|scope| format!("{scope}/{call}"));
        assert_eq!(keys, expected[..usize::try_from(effects).expect("few")]);
        rewind(&kafka.brokers(), "scopes", "scopes");
    }
}
