//! Dead letters of a consumer that runs, and what an operator does about them with `outbox-dlq`: from the failure to the
//! effect.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Asked, Effects, Orders, With};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

use crate::consumer::{GOOD, end, program};
use crate::letters::{Operator, says};

const LIMIT: Duration = Duration::from_secs(60);

/// An order that fails until the warehouse is open, and takes its time.
const CLOSED: Asked<'static> = Asked { fails: Some("closed"), until: 0, millis: 700 };

/// An instance whose events are given up after three attempts and so many rungs of a second.
fn giving_up(exhausted: &str, rungs: usize) -> With {
    let environment = vec![("ORDER_EXHAUSTED", exhausted.to_owned()), ("ORDER_RUNGS", rungs.to_string())];
    With { rung: Some(1), environment, ..With::default() }
}

/// Waits until a query answers this number.
async fn comes_to(orders: &Orders<'_>, what: &str, query: &str, number: i64) {
    let reached = async {
        while orders.number(query).await != number {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "{what}: {} and not {number}\n{}", orders.number(query).await, orders.log(0));
}

/// The numbers of a key's effects, in the order in which they happened.
async fn happened(orders: &Orders<'_>, key: &str) -> Vec<i64> {
    let rows = orders.query("SELECT number FROM effects WHERE key = $1 ORDER BY at", &[&key]).await;
    rows.iter().map(|row| row.get(0)).collect()
}

/// What was decided, as the audit has it: action and reason, the first first.
fn decisions(operator: &Operator, scope: &str) -> Vec<String> {
    let audit = operator.json(&["audit", "--scope", scope]);
    let decisions = audit["decisions"].as_array().expect("decisions");
    let one = |entry: &Value| format!("{} {}", entry["action"], entry["reason"]).replace('"', "");
    decisions.iter().map(one).collect()
}

const DEAD: &str = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
const HELD: &str = "SELECT count(*) FROM inbox.parked_key WHERE state = 'held'";

/// C10, C36, C37, C46: what a running consumer gives up is projected, listed and replayed; the consumer that runs all
/// the while handles it then, once, and what comes for the key meanwhile waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_into_the_consumer_that_wrote_it() {
    const NAME: &str = "revived";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let (upstream, operator) = (orders.upstream(), Operator::beside(NAME, &postgres, &kafka));
    let dead = [upstream.order("sick", CLOSED), upstream.order("sick", CLOSED)];
    (0..20).for_each(|key| _ = upstream.order(&format!("beside-{key}"), GOOD));
    upstream.flush();
    let process = orders.start_with(0, &giving_up("skip", 0));
    comes_to(&orders, "two dead letters", DEAD, 2).await;
    // With `skip` the key goes on without them.
    let sound = upstream.order("sick", GOOD);
    upstream.flush();
    orders.happened(21, LIMIT, &[0]).await;
    assert_eq!(happened(&orders, "sick").await, [sound as i64]);

    let project = ["project", "--group", NAME];
    says(&operator.does(&project), &["revived.revived.dlq: read 2, 2 new"]);
    let ids = dead.map(|number| upstream.sent()[number].id.to_string());
    says(&operator.does(&["list"]), &[&ids[0], &ids[1], "Closed: the warehouse is closed", "2 dead letters"]);
    let letter = operator.json(&["show", &ids[0]]);
    assert_eq!(
        (&letter["letter"]["state"], &letter["letter"]["attempts"]),
        (&"open".into(), &3.into()),
        "{letter}"
    );
    assert_eq!(operator.does(&["show", &ids[0], "--raw"]), upstream.sent()[dead[0]].payload);

    // Too early: it fails again, and waits for somebody once more.
    operator.does(&["replay", &ids[0], "--reason", "too early"]);
    comes_to(&orders, "a failed replay", "SELECT count(*) FROM inbox.parked_event", 0).await;
    comes_to(&orders, "two dead letters", DEAD, 2).await;
    says(&operator.does(&project), &["read 1, 1 new"]);
    assert_eq!(happened(&orders, "sick").await, [sound as i64]);

    orders.warehouse(true).await;
    let replayed = operator.json(&["replay", "--cause", "Closed", "--reason", "it is open"]);
    let outcomes = replayed["outcomes"].as_array().expect("outcomes");
    let numbers: BTreeSet<_> = outcomes.iter().map(|outcome| outcome["number"].as_i64()).collect();
    assert_eq!(numbers, [Some(1), Some(2)].into(), "the one for the second time: {replayed}");
    let live = upstream.order("sick", GOOD);
    upstream.flush();
    let id = upstream.sent()[live].id;
    eventually_async(LIMIT, "the live event to wait behind the replayed ones", async || {
        let queued = "SELECT FROM inbox.parked_event WHERE id = $1";
        (!orders.query(queued, &[&id]).await.is_empty()).then_some(())
    })
    .await;
    let effects = orders.happened(24, LIMIT, &[0]).await;
    assert_eq!((effects.happened, effects.doubled, effects.unsent), (24, 0, 0));
    assert_eq!(happened(&orders, "sick").await, [sound, dead[0], dead[1], live].map(|number| number as i64));

    nothing_comes_twice(&orders, &operator, dead).await;
    comes_to(&orders, "every marker to go", "SELECT count(*) FROM inbox.parked_key", 0).await;
    let open = "replay it is open (by alice)";
    assert_eq!(decisions(&operator, NAME), ["replay too early (by alice)", open, open]);
    let mut source = Log::open(&kafka.brokers(), &[NAME], Isolation::ReadUncommitted);
    source.catch_up();
    assert_eq!(source.records().len(), upstream.count() + dead.len(), "no replay goes to the source (C36)");
    end(&process);
}

/// Nothing is left that could be replayed, and a copy from the source repeats nothing.
async fn nothing_comes_twice(orders: &Orders<'_>, operator: &Operator, dead: [usize; 2]) {
    let upstream = orders.upstream();
    let effects = orders.number("SELECT count(*) FROM effects").await;
    for number in dead {
        let id = upstream.sent()[number].id.to_string();
        let refused = operator.fails(&["replay", &id, "--reason", "again"]);
        says(&refused, &["is replayed, and would have to be open"]);
        upstream.again(number);
    }
    operator.fails(&["replay", "--cause", "Closed", "--reason", "again"]);
    upstream.flush();
    orders.committed_to_the_end(orders.name(), LIMIT).await;
    assert_eq!(orders.number("SELECT count(*) FROM effects").await, effects);
    let states = "SELECT state || ' ' || count(*) FROM inbox.settlement GROUP BY state ORDER BY 1";
    let states: Vec<String> = orders.query(states, &[]).await.iter().map(|row| row.get(0)).collect();
    assert_eq!(states, [format!("done {}", effects - 2), "replayed 2".to_owned()]);
}

/// C22, C23: a key that is held waits for an operator with all that comes for it. Released too early it is held again,
/// and released in time it goes on from its first event, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_is_released_and_its_events_come_in_order() {
    const NAME: &str = "released";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let (upstream, operator) = (orders.upstream(), Operator::beside(NAME, &postgres, &kafka));
    let asked = [CLOSED, GOOD, Asked { millis: 0, ..CLOSED }, GOOD];
    let mut numbers: Vec<i64> = asked.iter().map(|asked| upstream.order("sick", *asked) as i64).collect();
    (0..20).for_each(|key| _ = upstream.order(&format!("beside-{key}"), GOOD));
    upstream.flush();
    let process = orders.start_with(0, &giving_up("hold", 1));
    comes_to(&orders, "the key to be held", HELD, 1).await;
    assert_eq!(orders.happened(20, LIMIT, &[0]).await, Effects::once(20), "all others go on");
    let id = upstream.sent()[usize::try_from(numbers[0]).unwrap()].id.to_string();
    let held = operator.json(&["parked", "--held"]);
    let key = &held["keys"][0];
    assert_eq!((&key["event"], &key["events"]), (&id.into(), &4.into()), "{held}");
    says(&operator.does(&["parked"]), &["sick", "the warehouse is closed", "1 parked key, 1 held"]);

    let release = |reason| operator.does(&["release", "--key", "sick", "--reason", reason]);
    release("too early");
    eventually_async(LIMIT, "it to be held again", async || {
        (orders.said(0, " held, with its key") == 2).then_some(())
    })
    .await;
    comes_to(&orders, "the key to be held again", HELD, 1).await;
    assert_eq!(
        orders.number("SELECT count(*) FROM inbox.parked_event").await,
        4,
        "nobody is lost or overtakes"
    );
    assert_eq!(happened(&orders, "sick").await, [0; 0]);

    orders.warehouse(true).await;
    release("it is open");
    // What comes now waits behind them, or comes after them.
    numbers.push(upstream.order("sick", GOOD) as i64);
    upstream.flush();
    assert_eq!(orders.happened(25, LIMIT, &[0]).await, Effects::once(25));
    assert_eq!(happened(&orders, "sick").await, numbers);
    comes_to(&orders, "every marker to go", "SELECT count(*) FROM inbox.parked_key", 0).await;
    assert_eq!(decisions(&operator, NAME), ["release too early (by alice)", "release it is open (by alice)"]);
    operator.fails(&["release", "--key", "sick", "--reason", "again"]);
    end(&process);
}
