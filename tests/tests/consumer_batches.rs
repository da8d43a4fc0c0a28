//! Batches of which an event is no good, and parked keys of which one is slow: the others go on as if nothing were.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, Ladder, in_place, seconds};
use outbox_consumer::{
    Consumer, Event, Handled, HandledBatch, Outcome, RunError, State, Tx, WithDatabase, all_done, batch,
    done, each, transactional,
};
use outbox_tests::cluster::ground::Port;
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Asked, Effects, Orders, Upstream, With};
use outbox_tests::wait::eventually_async;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::consumer::{GOOD, end, failing, good_from, program};

const LIMIT: Duration = Duration::from_secs(60);
/// Keys of a test, and orders of each.
const KEYS: usize = 40;
const ROUNDS: usize = 10;

#[derive(Debug, Deserialize)]
struct Order {
    number: i64,
    #[serde(default)]
    fails: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("as told")]
struct AsTold;

/// A gate that handlers wait at, and what they did.
pub(crate) struct Scene {
    pub(crate) open: watch::Sender<bool>,
    /// Sizes of the batches that came, or keys of the events.
    calls: Mutex<Vec<(usize, String)>>,
}

impl Scene {
    pub(crate) fn new() -> Arc<Scene> {
        Arc::new(Scene { open: watch::channel(false).0, calls: Mutex::default() })
    }

    pub(crate) async fn passed(&self) {
        self.open.subscribe().wait_for(|open| *open).await.expect("the scene outlives its handlers");
    }

    pub(crate) fn called_for(&self, key: &str) {
        self.calls.lock().push((1, key.to_owned()));
    }

    /// Keys of the events that handlers were called for, as often as they were.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.calls.lock().iter().map(|(_, key)| key.clone()).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.calls.lock().iter().map(|(size, _)| *size).collect()
    }

    async fn called(&self, key: &str) {
        eventually_async(LIMIT, &format!("a call for {key}"), async || {
            self.calls.lock().iter().any(|(_, called)| called == key).then_some(())
        })
        .await;
    }
}

async fn write(orders: &[Event<Order>], tx: &Tx) -> Result<(), outbox_consumer::TxError> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.facts().id()).collect();
    let keys: Vec<&str> = orders.iter().map(|order| order.facts().key().unwrap_or_default()).collect();
    let numbers: Vec<i64> = orders.iter().map(|order| order.number).collect();
    let insert = "INSERT INTO effects (event, key, number, attempt)
                  SELECT event, key, number, 1 FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS o (event, key, number)";
    let values: [&(dyn ToSql + Sync); 3] = [&ids, &keys, &numbers];
    tx.execute(insert, &values).await?;
    Ok(())
}

/// Says of all alike that they failed, where one does.
async fn alike(orders: Vec<Event<Order>>, tx: Tx, scene: State<Arc<Scene>>) -> HandledBatch {
    scene.calls.lock().push((orders.len(), String::new()));
    scene.passed().await;
    write(&orders, &tx).await?;
    if orders.iter().any(|order| order.fails.is_some()) { Err(AsTold)? } else { all_done() }
}

/// Says which of them failed.
async fn told_apart(orders: Vec<Event<Order>>, tx: Tx, scene: State<Arc<Scene>>) -> HandledBatch {
    scene.calls.lock().push((orders.len(), String::new()));
    scene.passed().await;
    write(&orders, &tx).await?;
    let retry = || Outcome::Retry { after: Duration::ZERO, reason: "as told".into() };
    each(orders.iter().map(|order| if order.fails.is_some() { retry() } else { Outcome::Done }))
}

/// Fails once before it is parked. From the park `slow` waits at the gate.
async fn parked_once(order: Event<Order>, tx: Tx, scene: State<Arc<Scene>>) -> Handled {
    if order.fails.is_some() && order.facts().attempt() == 1 {
        Err(AsTold)?;
    }
    let key = order.facts().key().unwrap_or_default().to_owned();
    scene.called_for(&key);
    if key == "slow" {
        scene.passed().await;
    }
    write(&[order], &tx).await?;
    done()
}

/// A consumer in this process, with an admin port.
pub(crate) struct Running {
    admin: Port,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) fn start(
        name: &str,
        (postgres, kafka): (&Postgres, &Kafka),
        scene: &Arc<Scene>,
        retry: Ladder,
        register: impl FnOnce(Consumer<WithDatabase, Arc<Scene>>) -> Consumer<WithDatabase, Arc<Scene>>,
    ) -> Running {
        let (url, brokers) = (postgres.url(name), kafka.brokers());
        let admin = Port::claim();
        let consumer = Consumer::from_lookup(name, |variable| match variable {
            "KAFKA_BROKERS" => Some(brokers.clone()),
            "DATABASE_URL" => Some(url.clone()),
            _ => None,
        });
        let consumer = register(consumer.state(scene.clone()))
            .owner("tests", seconds(60))
            .topic(name)
            .retry(retry)
            .admin(&admin.number().to_string());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(consumer.run_until(async { _ = stopped.await }));
        Running { admin, stop, task }
    }

    /// Waits until so many records are in the consumer's hands, of which some run.
    pub(crate) async fn holds(&self, records: u64) {
        eventually_async(LIMIT, &format!("{records} records to be in hand"), async || {
            let status = get(self.admin.number(), "/status")?;
            let status: Value = serde_json::from_str(status.split_once("\r\n\r\n")?.1).ok()?;
            let number = |name: &str| status["in_hand"][name].as_u64();
            (number("records")? >= records && number("running")? > 0).then_some(())
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.stop.send(()).expect("a consumer that runs");
        self.task.await.expect("no panic").expect("an end in order");
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Sends the orders of all keys, and in the middle one that is no good, made by `bad`.
fn send(upstream: &Upstream, bad: impl FnOnce(&Upstream, &str)) {
    let mut bad = Some(bad);
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let name = format!("key-{key}");
            if round == ROUNDS / 2 && key == KEYS / 2 {
                bad.take().expect("once")(upstream, &name);
            }
            upstream.order(&name, GOOD);
        }
    }
    upstream.flush();
}

/// As `consumer_groups` does: upkeep that makes partitions would split a batch that waits for it.
async fn prepare<'s>(name: &str, postgres: &'s Postgres, kafka: &Kafka) -> Orders<'s> {
    let orders = Orders::prepare(name, postgres, kafka, program()).await;
    orders.query("SELECT inbox.upkeep()", &[]).await;
    orders
}

/// Lets the first batch wait until everything is in hand, so that the next one is large.
async fn fill(running: &Running, orders: &Orders<'_>, bad: impl FnOnce(&Upstream, &str)) {
    orders.upstream().order("first", GOOD);
    orders.upstream().flush();
    running.holds(1).await;
    send(orders.upstream(), bad);
    running.holds((ROUNDS * KEYS + 2) as u64).await;
}

/// C24, C53: what cannot be read leaves the batch with what follows in its key, and the others are one batch still.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_only_the_payload_that_cannot_be_read_is_left_out() {
    const NAME: &str = "unreadable";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = prepare(NAME, &postgres, &kafka).await;
    let scene = Scene::new();
    let retry = in_place(3).when_exhausted(Exhausted::Skip);
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer.concurrency(1).on("OrderPlaced", batch(500, alike))
    });
    let unreadable =
        |upstream: &Upstream, key: &str| upstream.send("OrderPlaced", Uuid::now_v7(), key, "no json");
    fill(&running, &orders, unreadable).await;
    scene.open.send_replace(true);
    let effects = orders.happened(KEYS * ROUNDS + 1, LIMIT, &[]).await;
    assert_eq!(effects, Effects::once(KEYS * ROUNDS + 1));
    let dead = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
    assert_eq!(orders.number(dead).await, 1);
    let mut letters =
        Log::open(&kafka.brokers(), &[&format!("{NAME}.{NAME}.dlq")], Isolation::ReadUncommitted);
    letters.catch_up();
    let values: Vec<_> = letters.records().iter().map(|letter| letter.value.clone()).collect();
    assert_eq!(values, [Some(b"no json".to_vec())]);
    // The first, the batch, and behind the dead letter what was left of its key.
    let transactions = "SELECT count(DISTINCT xmin::text) FROM effects";
    assert_eq!(orders.number(transactions).await, 3, "{:?}", scene.sizes());
    let left = ROUNDS - ROUNDS / 2;
    assert_eq!(scene.sizes(), [1, KEYS * ROUNDS - left, left]);
    running.end().await;
}

/// A batch with one event that fails is repeated in parts until that is known, and nobody loses company by it for good.
#[tokio::test(flavor = "multi_thread")]
async fn the_event_that_spoils_a_batch_is_found_and_the_others_stay_together() {
    const NAME: &str = "spoiled";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = prepare(NAME, &postgres, &kafka).await;
    let scene = Scene::new();
    let retry = in_place(2).when_exhausted(Exhausted::Skip);
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer.concurrency(1).on("OrderPlaced", batch(500, alike))
    });
    fill(&running, &orders, |upstream, key| _ = upstream.order(key, failing("always"))).await;
    scene.open.send_replace(true);
    let effects = orders.happened(KEYS * ROUNDS + 1, LIMIT, &[]).await;
    assert_eq!(effects, Effects::once(KEYS * ROUNDS + 1));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'dead'").await, 1);
    let sizes = scene.sizes();
    let alone = sizes.iter().filter(|size| **size == 1).count();
    assert!(
        sizes.len() <= 40 && alone <= 12,
        "{} calls, {alone} of them for one event: {sizes:?}",
        sizes.len()
    );
    running.end().await;
}

/// Where the handler says itself which one it was, nobody else is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_named_runs_alone_and_the_others_again_without_it() {
    const NAME: &str = "named";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = prepare(NAME, &postgres, &kafka).await;
    let scene = Scene::new();
    let retry = in_place(2).when_exhausted(Exhausted::Skip);
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer.concurrency(1).on("OrderPlaced", batch(500, told_apart))
    });
    fill(&running, &orders, |upstream, key| _ = upstream.order(key, failing("always"))).await;
    scene.open.send_replace(true);
    let effects = orders.happened(KEYS * ROUNDS + 1, LIMIT, &[]).await;
    assert_eq!(effects, Effects::once(KEYS * ROUNDS + 1));
    // The first, the batch, the batch without the one and what is behind it, that one twice, and what was behind it.
    let sizes = scene.sizes();
    let left = ROUNDS - ROUNDS / 2;
    assert_eq!(sizes, [1, KEYS * ROUNDS + 1, KEYS * ROUNDS - left, 1, 1, left]);
    running.end().await;
}

/// C22: a parked handler that takes its time holds up its own key, and no other that is due.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_parked_key_holds_up_no_other() {
    const NAME: &str = "slow_parked";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let (upstream, scene) = (orders.upstream(), Scene::new());
    let retry = in_place(1).then([seconds(1)]);
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer
            .concurrency(8)
            .on("OrderPlaced", transactional(parked_once).timeout(Duration::from_secs(120)))
    });
    for order in [failing("once"), GOOD, GOOD] {
        upstream.order("slow", order);
    }
    upstream.flush();
    scene.called("slow").await;
    for order in [failing("once"), GOOD, GOOD] {
        upstream.order("other", order);
    }
    upstream.flush();
    assert_eq!(orders.happened(3, LIMIT, &[]).await, Effects::once(3), "while the slow one waits");
    assert_eq!(orders.number("SELECT count(*) FROM effects WHERE key = 'slow'").await, 0);
    scene.open.send_replace(true);
    assert_eq!(orders.happened(6, LIMIT, &[]).await, Effects::once(6));
    eventually_async(LIMIT, "every marker to go", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_key").await == 0).then_some(())
    })
    .await;
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state <> 'done'").await, 0);
    running.end().await;
}

/// C25: parked keys that run side by side when one of them ends the process are not convicted with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_neighbours_of_a_parked_record_that_kills_the_process_are_not_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("neighbours", &postgres, &kafka, program()).await;
    // They take as long as they may, so that the process ends in the middle of them.
    for number in 0..3 {
        orders.upstream().order(&format!("key-{number}"), Asked { millis: 1_500, ..good_from(10) });
    }
    orders.upstream().flush();
    let with = With { rung: Some(1), kafka: "group.instance.id=one".into(), ..With::default() };
    let (mut process, mut deaths) = (orders.start_with(0, &with), 0);
    let parked = "SELECT count(*) FROM inbox.parked_key";
    eventually_async(LIMIT, "the neighbours to be parked", async || {
        (orders.number(parked).await == 3).then_some(())
    })
    .await;
    orders.upstream().order("poisoned", Asked { millis: 1_000, ..failing("abort parked") });
    orders.upstream().flush();
    let held = "SELECT count(*) FROM inbox.parked_key WHERE held_by = 'hold' AND key = 'poisoned'";
    let reached = async {
        while orders.number(held).await + orders.number("SELECT count(*) FROM effects").await < 4 {
            if process.ended().is_some() {
                deaths += 1;
                process = orders.start_with(0, &with);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT * 2, reached).await;
    let blamed = orders.lines(0, " held, with");
    assert!(reached.is_ok() && blamed.len() == 1, "{deaths} deaths, held {blamed:?}\n{}", orders.log(0));
    // All that ran were suspects once, and nobody but the one twice.
    let twice = orders.lines(0, "deaths: 2");
    assert_eq!(twice.len(), 1, "{twice:?}");
    assert_eq!(orders.effects().await, Effects::once(3));
    assert_eq!(orders.number(parked).await, 1);
    assert_eq!(deaths, 3);
    end(&process);
}
