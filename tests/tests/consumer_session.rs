//! What a handler says of its session, whose fault an error is that came from another database, and a park that is full.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, Ladder, in_place, seconds};
use outbox_consumer::{
    Consumer, Event, Handled, RunError, State, Tx, WithDatabase, done, external, idempotent, transactional,
};
use outbox_tests::cluster::ground::Port;
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Effects, Orders, With};
use outbox_tests::relay::http_get;
use outbox_tests::wait::eventually_async;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::consumer::{GOOD, end, failing, program};
use crate::consumer_kinds::Watched;

const LIMIT: Duration = Duration::from_secs(60);

/// What the tests send.
#[derive(Debug, Deserialize)]
struct Told {
    number: i64,
    /// What the handler says to the database.
    #[serde(default)]
    says: Vec<String>,
    /// From which attempt on.
    #[serde(default)]
    from: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("as told")]
struct AsTold;

/// What the handlers share.
struct Scene {
    open: watch::Sender<bool>,
    refused: Mutex<Vec<String>>,
    attempts: [AtomicU32; 4],
}

impl Scene {
    fn new() -> Arc<Scene> {
        let (refused, attempts) = (Mutex::default(), Default::default());
        Arc::new(Scene { open: watch::channel(false).0, refused, attempts })
    }

    fn attempts(&self) -> [u32; 4] {
        [0, 1, 2, 3].map(|kind: usize| self.attempts[kind].load(SeqCst))
    }
}

/// Writes down what is found in the session, and then says what it is told to.
async fn look(told: Event<Told>, tx: Tx, scene: State<Arc<Scene>>) -> Handled {
    scene.open.subscribe().wait_for(|open| *open).await?;
    if told.facts().attempt() < told.from {
        Err(AsTold)?;
    }
    let insert = "INSERT INTO seen (number, tenant, locks, temporary, backend, transaction)
                  SELECT $1, coalesce(current_setting('app.tenant', true), ''),
                         (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND objid = 4711),
                         to_regclass('pg_temp.left_behind') IS NOT NULL, pg_backend_pid(), txid_current()";
    tx.execute(insert, &[&told.number]).await?;
    for statement in &told.says {
        match tx.query(statement, &[]).await {
            Err(error @ outbox_consumer::TxError::Session { .. }) => {
                scene.refused.lock().push(error.to_string());
            }
            answer => _ = answer?,
        }
    }
    done()
}

/// A consumer in this process, with an admin port.
struct Running {
    admin: Port,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    fn start(
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

    /// The sum of a family's series.
    fn sum(&self, family: &str) -> Option<f64> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.admin.number()));
        let metrics = http_get(address, "/metrics").ok()?.1;
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{family}{{")));
        Some(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    async fn shows(&self, family: &str, sum: f64) {
        eventually_async(LIMIT, &format!("{sum} of {family}"), async || {
            (self.sum(family)? >= sum).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.send(()).expect("a consumer that runs");
        self.task.await.expect("no panic").expect("an end in order");
    }
}

fn tell(orders: &Orders<'_>, event_type: &str, number: i64, says: &[&str], from: u32) {
    let payload = json!({ "number": number, "says": says, "from": from }).to_string();
    orders.upstream().send(event_type, Uuid::now_v7(), &format!("key-{number}"), &payload);
}

/// Events that say all kinds of things of their session, between others that look: in the group that they came in, on the
/// connection that they had, and in the park.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_says_of_its_session_meets_no_other_event() {
    const NAME: &str = "sessions";
    const EVENTS: i64 = 30;
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let table =
        "CREATE TABLE seen (number bigint, tenant text, locks bigint, temporary boolean, backend integer,
                                    transaction bigint)";
    orders.query(table, &[]).await;
    orders.query("CREATE ROLE stranger", &[]).await;
    let scene = Scene::new();
    let retry = in_place(1).then([seconds(1), seconds(600)]);
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer.concurrency(1).on("Looked", transactional(look))
    });
    // The first waits until the others are there, which are one group then.
    tell(&orders, "Looked", 0, &[], 0);
    orders.upstream().flush();
    running.shows("outbox_consumer_read_records_total", 1.0).await;
    for number in 1..EVENTS {
        let says: &[&str] = match number {
            10 => &["SET LOCAL app.tenant = 'ten'"],
            12 => &["SELECT set_config('app.tenant', 'twelve', true)"],
            14 => &["SELECT set_config('app.tenant', 'fourteen', false)"],
            16 => &["SELECT pg_advisory_lock(4711)"],
            18 => &["CREATE TEMP TABLE left_behind (a integer)", "INSERT INTO left_behind VALUES (1)"],
            20 => &["SET app.tenant = 'twenty'", "LISTEN orders", "DEALLOCATE ALL"],
            22 => &["SELECT set_config('app.tenant', 'late', false)", "SET LOCAL ROLE stranger"],
            _ => &[],
        };
        if number == 10 {
            // Those that say nothing are in hand before: the group begins with them, wherever their keys are.
            orders.upstream().flush();
            running.shows("outbox_consumer_read_records_total", 10.0).await;
        }
        tell(&orders, "Looked", number, says, if number == 22 { 2 } else { 0 });
    }
    orders.upstream().flush();
    running.shows("outbox_consumer_read_records_total", EVENTS as f64).await;
    scene.open.send_replace(true);
    eventually_async(LIMIT, "every event to be done", async || {
        (orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'done'").await == EVENTS)
            .then_some(())
    })
    .await;
    // Whoever comes later looks at the same connections.
    for number in EVENTS..EVENTS + 5 {
        tell(&orders, "Looked", number, &[], 0);
    }
    orders.upstream().flush();
    eventually_async(LIMIT, "the later ones", async || {
        (orders.number("SELECT count(*) FROM seen").await == EVENTS + 5).then_some(())
    })
    .await;
    let met = "SELECT array_agg(number) FROM seen WHERE tenant <> '' OR locks > 0 OR temporary";
    assert_eq!(orders.query(met, &[]).await[0].get::<_, Option<Vec<i64>>>(0), None);
    assert_eq!(orders.number("SELECT count(DISTINCT number) FROM seen").await, EVENTS + 5, "each once");
    // Each row's xmin is that of its savepoint.
    let groups = "SELECT max(count) FROM (SELECT count(*) FROM seen GROUP BY transaction) AS g";
    let groups = orders.number(groups).await;
    let connections = orders.number("SELECT count(DISTINCT backend) FROM seen").await;
    println!("proof: {groups} events in the largest transaction, {connections} connections");
    assert!(groups > 1 && connections < 5, "{groups} events, {connections} connections");
    let refused = scene.refused.lock().join("\n");
    for said in ["say SET LOCAL", "listen on a connection of your own", "prepared once and kept"] {
        assert_eq!(refused.matches(said).count(), 1, "{refused}");
    }
    running.end().await;
}

/// A statement on a connection of the handler's own, which ends as if it were nobody's fault.
async fn elsewhere(url: &str, attempt: u32) -> Result<(), tokio_postgres::Error> {
    if attempt == 1 {
        // Nobody is there.
        drop(tokio_postgres::connect("postgresql://nobody@127.0.0.1:1/nothing", NoTls).await?);
    }
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let deadlock = "DO $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = 'deadlock_detected'; END $$";
    client.batch_execute(deadlock).await
}

/// C44 holds for the handler's own transaction, and for no other database: what is wrong there is the handler's failure, and
/// comes to its end.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_another_database_count_and_those_of_the_transaction_do_not() {
    const NAME: &str = "elsewhere";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let scene = Scene::new();
    let url: Arc<str> = Arc::from(postgres.url(NAME));
    let retry = in_place(2).when_exhausted(Exhausted::Skip);
    let alone = |kind: usize| {
        let url = url.clone();
        move |told: Event<Told>, scene: State<Arc<Scene>>| {
            let url = url.clone();
            async move {
                scene.attempts[kind].fetch_add(1, SeqCst);
                elsewhere(&url, told.facts().attempt()).await?;
                done()
            }
        }
    };
    let inside = {
        let url = url.clone();
        move |told: Event<Told>, tx: Tx, scene: State<Arc<Scene>>| {
            let url = url.clone();
            async move {
                scene.attempts[0].fetch_add(1, SeqCst);
                tx.execute("INSERT INTO warehouse VALUES (true)", &[]).await?;
                elsewhere(&url, told.facts().attempt()).await?;
                done()
            }
        }
    };
    let own = async |told: Event<Told>, tx: Tx, scene: State<Arc<Scene>>| {
        if scene.attempts[3].fetch_add(1, SeqCst) < 6 {
            let deadlock =
                "DO $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = 'deadlock_detected'; END $$";
            // It says nothing of what it met.
            tx.execute(deadlock, &[]).await.map_err(|_| AsTold)?;
        }
        let insert = "INSERT INTO effects (event, key, number, attempt) VALUES ($1, '', $2, $3)";
        let attempt = i32::try_from(told.facts().attempt())?;
        tx.execute(insert, &[&told.facts().id(), &told.number, &attempt]).await?;
        done()
    };
    let running = Running::start(NAME, (&postgres, &kafka), &scene, retry, |consumer| {
        consumer
            .on("Inside", transactional(inside))
            .on("Called", external(alone(1)))
            .on("Light", idempotent(alone(2)))
            .on("Own", transactional(own))
    });
    for (number, event_type) in (0..).zip(["Inside", "Called", "Light", "Own"]) {
        tell(&orders, event_type, number, &[], 0);
    }
    orders.upstream().flush();
    running.shows("outbox_consumer_dead_letters_total", 3.0).await;
    eventually_async(LIMIT, "the effect behind six deadlocks", async || {
        (orders.number("SELECT count(*) FROM effects").await == 1).then_some(())
    })
    .await;
    let [inside, called, light, own] = scene.attempts();
    assert_eq!([inside, called, light], [2, 2, 2], "attempts of those whose other database is broken");
    assert!(own >= 7, "{own} attempts");
    assert_eq!(
        orders.number("SELECT attempt::bigint FROM effects").await,
        1,
        "deadlocks of its own count none"
    );
    assert_eq!(running.sum("outbox_consumer_dead_letters_total"), Some(3.0));
    assert_eq!(orders.number("SELECT count(*) FROM warehouse").await, 1, "nothing of a failed attempt");
    running.end().await;
}

/// A park that has no room says so by its own name, in the log and outside; what it has no room for waits where it is, in
/// its order, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_park_says_so_and_what_it_has_no_room_for_waits_in_its_order() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("full_park", &postgres, &kafka, program()).await;
    // The consumer's own upkeep, which begins when it starts, has nothing to make then: a claim could meet it.
    orders.query("SELECT inbox.upkeep()", &[]).await;
    for (key, asked) in
        [("bad", failing("closed")), ("bad", GOOD), ("bad", GOOD), ("bad", GOOD), ("good", GOOD)]
    {
        orders.upstream().order(key, asked);
    }
    orders.upstream().flush();
    let limits = [("OUTBOX_PARK_EVENTS_OF_KEY", "2"), ("OUTBOX_PARK_EVENTS", "50")];
    let environment = limits.map(|(name, value)| (name, value.to_owned())).into();
    let consumer = Watched::start(&orders, 0, With { environment, ..With::default() });
    let park = |status: &Value| status["park"].clone();
    let full = json!({ "full": true, "most_events_of_key": 2, "most_events": 50, "most_bytes": 1 << 30 });
    eventually_async(LIMIT, "the park to be full", async || {
        (park(&consumer.status()?) == full && orders.number("SELECT count(*) FROM effects").await == 1)
            .then_some(())
    })
    .await;
    let parked = orders.number("SELECT count(*) FROM inbox.parked_event").await;
    assert!((1..=2).contains(&parked), "{parked} parked");
    let metrics = consumer.get("/metrics").expect("metrics");
    let shown = metrics.lines().any(|line| line == "outbox_consumer_park_full{consumer=\"full_park\"} 1");
    assert!(shown, "{metrics}");
    let said =
        orders.lines(0, "the park is full: it may hold 2 events of a key, and 50 events or 1073741824 bytes");
    assert!(!said.is_empty(), "{}", orders.log(0));
    assert_eq!(orders.lines(0, "waiting for the database"), [""; 0]);
    // The start says what exhausted events come to.
    assert_eq!(orders.said(0, "an event that is exhausted is held"), 1, "{}", orders.log(0));
    orders.warehouse(true).await;
    assert_eq!(orders.happened(5, LIMIT, &[0]).await, Effects::once(5));
    eventually_async(LIMIT, "the park to have room", async || {
        (park(&consumer.status()?)["full"] == false).then_some(())
    })
    .await;
    end(&consumer.process);
}
