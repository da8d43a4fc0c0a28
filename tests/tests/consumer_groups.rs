//! Group commit: events of different keys share a transaction, and what fails in it harms no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox_consumer::ladder::in_place;
use outbox_consumer::{Event, Handled, State, Tx, done, transactional};
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Effects, Orders};
use serde::Deserialize;
use uuid::Uuid;

use crate::consumer::{GOOD, program};
use crate::consumer_batches::{Running, Scene};

const LIMIT: Duration = Duration::from_secs(60);
/// Keys of a test, one order each: fewer than a group takes.
const KEYS: usize = 40;

#[derive(Debug, Deserialize)]
struct Order {
    number: i64,
    /// How the first attempt fails.
    #[serde(default)]
    first: Option<String>,
}

/// Writes its effect, and which transaction it is in: an effect's own `xmin` is that of its savepoint.
async fn apply(order: Event<Order>, tx: Tx, scene: State<Arc<Scene>>) -> Handled {
    let facts = order.facts();
    let key = facts.key().unwrap_or_default().to_owned();
    scene.called_for(&key);
    scene.passed().await;
    let effect = "INSERT INTO effects (event, key, number, attempt) VALUES ($1, $2, $3, $4)";
    let attempt = i32::try_from(facts.attempt())?;
    tx.execute(effect, &[&facts.id(), &key, &order.number, &attempt]).await?;
    tx.execute("INSERT INTO transactions VALUES ($1, pg_current_xact_id())", &[&facts.id()]).await?;
    match order.first.as_deref().filter(|_| attempt == 1) {
        Some("statement") => _ = tx.execute("SELECT pg_sleep(60)", &[]).await?,
        Some("waits") => std::future::pending().await,
        Some("fails") => _ = tx.execute("SELECT 1 / 0", &[]).await?,
        Some(_) | None => {}
    }
    done()
}

#[derive(Debug, thiserror::Error)]
#[error("as told")]
struct AsTold;

/// The same without waiting for answers.
async fn pipe(order: Event<Order>, tx: Tx, scene: State<Arc<Scene>>) -> Handled {
    let facts = order.facts();
    let key = facts.key().unwrap_or_default().to_owned();
    scene.called_for(&key);
    scene.passed().await;
    let effect = "INSERT INTO effects (event, key, number, attempt) VALUES ($1, $2, $3, $4)";
    let attempt = i32::try_from(facts.attempt())?;
    tx.execute_pipelined(effect, &[&facts.id(), &key, &order.number, &attempt]).await?;
    tx.execute_pipelined("INSERT INTO transactions VALUES ($1, pg_current_xact_id())", &[&facts.id()])
        .await?;
    match order.first.as_deref().filter(|_| attempt == 1) {
        Some("breaks") => {
            let answer = tx.execute_pipelined("SELECT 1 / 0", &[]).await;
            answer.inspect_err(|_| scene.called_for("heard"))?;
        }
        Some("unknown") => tx.execute_pipelined("SELECT * FROM nothing_of_that_name", &[]).await?,
        Some("refuses") => Err(AsTold)?,
        Some("swallows") => _ = tx.query_one("SELECT 1 / 0", &[]).await,
        Some("panics") => panic!("as told"),
        Some("hears") => _ = tx.query_one("SELECT 1", &[]).await?,
        Some("sleeps") => tx.execute_pipelined("SELECT pg_sleep(4)", &[]).await?,
        Some(_) | None => {}
    }
    done()
}

/// A consumer with one worker that has everything in hand before the first handler goes on.
struct Ground<'s> {
    orders: &'s Orders<'s>,
    scene: Arc<Scene>,
    running: Running,
}

impl<'s> Ground<'s> {
    async fn prepare(
        orders: &'s Orders<'s>,
        servers: (&Postgres, &Kafka),
        group_commit: usize,
    ) -> Ground<'s> {
        let table = "CREATE TABLE transactions (event uuid NOT NULL, xact xid8 NOT NULL)";
        orders.query(table, &[]).await;
        // Making partitions locks claims out for a moment, and a group that waits longer than a fifth of a second is
        // split: the consumer's own upkeep, which begins when it starts, has nothing to make then.
        orders.query("SELECT inbox.upkeep()", &[]).await;
        let scene = Scene::new();
        let running = Running::start(orders.name(), servers, &scene, in_place(3), |consumer| {
            consumer
                .concurrency(1)
                .group_commit(group_commit)
                .on("OrderPlaced", transactional(apply))
                .on("OrderPiped", transactional(pipe))
                .on("OrderDelayed", transactional(apply).timeout(Duration::from_secs(3)))
        });
        orders.upstream().order("first", GOOD);
        orders.upstream().flush();
        running.holds(1).await;
        Ground { orders, scene, running }
    }

    /// Lets the first one go on when so many records are in hand.
    async fn open(&self, records: usize) {
        self.orders.upstream().flush();
        self.running.holds(records as u64).await;
        self.scene.open.send_replace(true);
    }

    /// The keys of each transaction's events. What the inbox says of an event was written by the same one; the row's own
    /// `xmin` would be upkeep's where that has moved it to a partition.
    async fn transactions(&self) -> Vec<BTreeSet<String>> {
        let rows = "SELECT t.xact::text, e.key, s.writer = t.xact
                      FROM transactions t JOIN effects e USING (event) JOIN inbox.settlement s ON s.id = e.event";
        let mut transactions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in self.orders.query(rows, &[]).await {
            let (xact, key, settled_with): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            assert!(settled_with, "{key} is settled in the transaction of its effect");
            transactions.entry(xact).or_default().insert(key);
        }
        transactions.into_values().collect()
    }

    fn attempts(&self) -> BTreeMap<String, usize> {
        let mut attempts = BTreeMap::new();
        self.scene.keys().into_iter().for_each(|key| *attempts.entry(key).or_default() += 1);
        attempts
    }
}

fn key(number: usize) -> String {
    format!("key-{number:02}")
}

/// C48: the events of forty keys have one transaction, effects and inbox rows alike.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_different_keys_share_a_transaction() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("shared", &postgres, &kafka, program()).await;
    let ground = Ground::prepare(&orders, (&postgres, &kafka), 50).await;
    (0..KEYS).for_each(|number| _ = orders.upstream().order(&key(number), GOOD));
    ground.open(KEYS + 1).await;
    assert_eq!(orders.happened(KEYS + 1, LIMIT, &[]).await, Effects::once(KEYS + 1));
    let mut sizes: Vec<usize> = ground.transactions().await.iter().map(BTreeSet::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, KEYS]);
    ground.running.end().await;
}

/// Where it is not wanted each event has a transaction of its own.
#[tokio::test(flavor = "multi_thread")]
async fn without_group_commit_no_event_shares_a_transaction() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("unshared", &postgres, &kafka, program()).await;
    let ground = Ground::prepare(&orders, (&postgres, &kafka), 1).await;
    (0..KEYS).for_each(|number| _ = orders.upstream().order(&key(number), GOOD));
    ground.open(KEYS + 1).await;
    assert_eq!(orders.happened(KEYS + 1, LIMIT, &[]).await, Effects::once(KEYS + 1));
    let sizes: Vec<usize> = ground.transactions().await.iter().map(BTreeSet::len).collect();
    assert_eq!(sizes, [1; KEYS + 1]);
    ground.running.end().await;
}

/// C9, C48, C51, C53: of a group one handler's statement takes too long, one waits too long without a statement, and of
/// one a statement fails. They alone run again, with what follows in their keys; the others run once, and have one
/// transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_too_long_in_a_group_harms_no_other() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("harmless", &postgres, &kafka, program()).await;
    let (ground, upstream) = (Ground::prepare(&orders, (&postgres, &kafka), 50).await, orders.upstream());
    let failing = ["statement", "waits", "fails"];
    for number in 0..KEYS {
        if let Some(first) = number.checked_sub(KEYS / 2).and_then(|at| failing.get(at)) {
            let payload = format!("{{\"number\":-1,\"first\":\"{first}\"}}");
            upstream.send("OrderDelayed", Uuid::now_v7(), first, &payload);
            upstream.send("OrderDelayed", Uuid::now_v7(), first, "{\"number\":-2}");
        }
        upstream.order(&key(number), GOOD);
    }
    ground.open(KEYS + 1 + failing.len() * 2).await;
    let effects = orders.happened(KEYS + 1 + failing.len() * 2, LIMIT, &[]).await;
    assert_eq!((effects.happened, effects.doubled), (KEYS + 1 + failing.len() * 2, 0));
    for first in failing {
        let rows = "SELECT number, attempt FROM effects WHERE key = $1 ORDER BY at";
        let rows: Vec<(i64, i32)> =
            orders.query(rows, &[&first]).await.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(rows, [(-1, 2), (-2, 1)], "{first}: in order, the first of them at its second attempt");
    }
    let attempts = ground.attempts();
    assert!((0..KEYS).all(|number| attempts[&key(number)] == 1), "no innocent runs again: {attempts:?}");
    assert!(
        failing.iter().all(|first| attempts[*first] == 3),
        "two of the one and one of the other: {attempts:?}"
    );
    let transactions = ground.transactions().await;
    let innocent: BTreeSet<String> = (0..KEYS).map(key).collect();
    assert!(transactions.contains(&innocent), "{transactions:?}");
    ground.running.end().await;
}

/// Forty keys whose handlers wait for no answer: one transaction, each effect once.
#[tokio::test(flavor = "multi_thread")]
async fn pipelined_effects_of_a_group_stand_once_in_one_transaction() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("piped", &postgres, &kafka, program()).await;
    let (ground, upstream) = (Ground::prepare(&orders, (&postgres, &kafka), 50).await, orders.upstream());
    (0..KEYS).for_each(|number| upstream.send("OrderPiped", Uuid::now_v7(), &key(number), "{\"number\":1}"));
    ground.open(KEYS + 1).await;
    let effects = orders.happened(KEYS + 1, LIMIT, &[]).await;
    assert_eq!((effects.happened, effects.doubled), (KEYS + 1, 0));
    let mut sizes: Vec<usize> = ground.transactions().await.iter().map(BTreeSet::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, KEYS]);
    assert!(ground.attempts().values().all(|calls| *calls == 1), "{:?}", ground.attempts());
    ground.running.end().await;
}

/// C9, C48: statements fail whose answers nobody has waited for, and in the same group handlers of other keys refuse their
/// events, hear answers, pass over errors, panic, and say what cannot be prepared. Behind the first failure no savepoint was
/// ever made. Nothing is lost, each failure is its event's own, and what follows in its key comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_statement_that_fails_is_its_own_events_failure_alone() {
    /// Keys of each kind: which of a group comes first is for the partitions to say.
    const OF_EACH: usize = 2;
    const INNOCENT: usize = 20;
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("broken", &postgres, &kafka, program()).await;
    let (ground, upstream) = (Ground::prepare(&orders, (&postgres, &kafka), 50).await, orders.upstream());
    let kinds = ["breaks", "refuses", "unknown", "swallows", "panics", "hears"];
    let named = |kind: &str, number: usize| format!("{kind}-{number}");
    for number in 0..INNOCENT {
        for kind in kinds.iter().filter(|_| number < OF_EACH) {
            let (key, first) = (named(kind, number), format!("{{\"number\":-1,\"first\":\"{kind}\"}}"));
            upstream.send("OrderPiped", Uuid::now_v7(), &key, &first);
            upstream.send("OrderPiped", Uuid::now_v7(), &key, "{\"number\":-2}");
        }
        upstream.send("OrderPiped", Uuid::now_v7(), &key(number), "{\"number\":1}");
    }
    let all = 1 + INNOCENT + 2 * OF_EACH * kinds.len();
    ground.open(all).await;
    let effects = orders.happened(all, LIMIT, &[]).await;
    assert_eq!((effects.happened, effects.doubled), (all, 0));
    let rows = async |key: &str| -> Vec<(i64, i32)> {
        let rows = "SELECT number, attempt FROM effects WHERE key = $1 ORDER BY at";
        orders.query(rows, &[&key]).await.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    for kind in kinds {
        let second = if kind == "hears" { 1 } else { 2 };
        for key in (0..OF_EACH).map(|number| named(kind, number)) {
            assert_eq!(
                rows(&key).await,
                [(-1, second), (-2, 1)],
                "{key}: in order, its own failure counted once"
            );
        }
    }
    for number in 0..INNOCENT {
        assert_eq!(rows(&key(number)).await, [(1, 1)], "{}: nobody's failure", key(number));
    }
    let calls = ground.attempts();
    assert_eq!(calls.get("heard"), Some(&OF_EACH), "by itself an event hears what its statement came to");
    assert!(
        (0..INNOCENT).any(|number| calls[&key(number)] > 1),
        "nobody had waited for the answers: {calls:?}"
    );
    ground.running.end().await;
}

/// C48, C51: a handler waits behind a slow statement of another event, until its own time is over. That is not its failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_waits_for_anothers_pipelined_statement_is_not_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("blameless", &postgres, &kafka, program()).await;
    let (ground, upstream) = (Ground::prepare(&orders, (&postgres, &kafka), 50).await, orders.upstream());
    upstream.send("OrderPiped", Uuid::now_v7(), "sleeps", "{\"number\":1,\"first\":\"sleeps\"}");
    let waiting = 12;
    for number in 0..waiting {
        upstream.send("OrderDelayed", Uuid::now_v7(), &key(number), "{\"number\":1}");
    }
    ground.open(2 + waiting).await;
    let effects = orders.happened(2 + waiting, LIMIT, &[]).await;
    assert_eq!((effects.happened, effects.doubled), (2 + waiting, 0));
    let counted = orders.query("SELECT key FROM effects WHERE attempt > 1", &[]).await;
    assert!(counted.is_empty(), "attempts were counted: {counted:?}");
    let calls = ground.attempts();
    assert!((0..waiting).any(|number| calls[&key(number)] > 1), "nobody waited in vain: {calls:?}");
    ground.running.end().await;
}

/// Where no transaction is shared the answer is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn without_group_commit_a_pipelined_statement_says_that_it_failed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("heard", &postgres, &kafka, program()).await;
    let (ground, upstream) = (Ground::prepare(&orders, (&postgres, &kafka), 1).await, orders.upstream());
    upstream.send("OrderPiped", Uuid::now_v7(), "broken", "{\"number\":1,\"first\":\"breaks\"}");
    ground.open(2).await;
    let effects = orders.happened(2, LIMIT, &[]).await;
    assert_eq!((effects.happened, effects.doubled), (2, 0));
    let attempts = ground.attempts();
    assert_eq!((attempts["heard"], attempts["broken"]), (1, 2), "{attempts:?}");
    ground.running.end().await;
}
