//! The consumer SDK's example `order_event_bus`, run as its README says: an order service, the relay, and five
//! consumers of which one is sick.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres, usual_version};
use outbox_tests::fault::process::{Launch, Process};
use outbox_tests::history::Log;
use outbox_tests::history::judge::Published;
use outbox_tests::history::log::Isolation;
use outbox_tests::scene::Scene;
use outbox_tests::wait::eventually_async;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::Signal;
use tokio_postgres::Client;

const TOPIC: &str = "outbox.event.order";
const PARTITIONS: usize = 6;
const CONSUMERS: [&str; 5] = ["inventory", "loyalty", "recommendation", "warehouse", "fraud"];

/// How long the healthy consumers may take beside a sick one, and the sick one when it is well again.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a second start may take: a group that was not left in order waits for the session's time-out of 45 s.
const RESTART: Duration = Duration::from_secs(60);

/// What no consumer can read, as the order service writes it.
const NONSENSE: &[u8] = b"\"no order\"";

struct Bus {
    program: PathBuf,
    database: String,
    brokers: String,
    logs: tempfile::TempDir,
}

impl Bus {
    /// Runs a command of the example to its end; returns what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let (succeeded, text) = self.try_run(arguments);
        assert!(succeeded, "{arguments:?}\n{text}");
        text
    }

    fn try_run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("DATABASE_URL", &self.database).env("KAFKA_BROKERS", &self.brokers);
        let output = command.output().expect("the example runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    fn start(&self, service: &str) -> Process {
        Process::start(Launch {
            name: service.to_owned(),
            command: vec![self.program.display().to_string(), service.to_owned()],
            environment: vec![
                ("DATABASE_URL".into(), self.database.clone()),
                ("KAFKA_BROKERS".into(), self.brokers.clone()),
            ],
            user: None,
            on_test_death: "KILL",
            log: self.logs.path().join(format!("{service}.log")),
        })
    }

    /// Waits until `check` prints these lines among others.
    async fn checks(&self, what: &str, limit: Duration, processes: &[Process], lines: &[&str]) {
        let mut printed = String::new();
        let seen = async {
            loop {
                printed = self.try_run(&["check"]).1;
                if lines.iter().all(|line| printed.lines().any(|found| found == *line)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(limit, seen).await.is_err() {
            let logs: Vec<String> = processes.iter().map(Process::log_tail).collect();
            panic!("waited {limit:?} in vain for {what}\n{printed}\n{}", logs.join("\n"));
        }
    }

    /// Records of the topic that a group has not committed.
    fn lag(&self, group: &str) -> i64 {
        const PATIENCE: Duration = Duration::from_secs(10);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", group);
        let client: BaseConsumer = config.create().expect("a Kafka client");
        let mut list = TopicPartitionList::new();
        (0..PARTITIONS as i32).for_each(|partition| {
            list.add_partition(TOPIC, partition);
        });
        let committed = client.committed_offsets(list, PATIENCE).expect("Kafka answers");
        let of_one = |partition: i32, committed: Offset| {
            let (low, end) = client.fetch_watermarks(TOPIC, partition, PATIENCE).expect("Kafka answers");
            match committed {
                Offset::Offset(offset) => end - offset,
                _ => end - low,
            }
        };
        committed.elements().iter().map(|element| of_one(element.partition(), element.offset())).sum()
    }

    async fn caught_up(&self, group: &str) {
        eventually_async(DEADLINE, &format!("lag 0 of {group}"), async || {
            (self.lag(group) == 0).then_some(())
        })
        .await;
    }

    fn records(&self, topics: &[&str]) -> Vec<Published> {
        let mut log = Log::open(&self.brokers, topics, Isolation::ReadUncommitted);
        log.catch_up();
        log.records().to_vec()
    }
}

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("cargo's directories");
    let path = profile.join("examples/order_event_bus");
    let build = "cargo build --release -p outbox-consumer --examples";
    assert!(path.is_file(), "no example at {}: {build}", path.display());
    path
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// What was done once was done to the sums, too.
async fn sums_agree(client: &Client) {
    let stock = "SELECT (12 * 1000000 - (SELECT sum(free) FROM inventory.stock))::bigint";
    let reserved = "SELECT sum(quantity) FROM orders.placed WHERE sku <> 'discontinued'";
    assert_eq!(number(client, stock).await, number(client, reserved).await);
    let points = "SELECT sum(points)::bigint FROM loyalty.balance";
    let earned = "SELECT sum(cents / 100)::bigint FROM orders.placed";
    assert_eq!(number(client, points).await, number(client, earned).await);
    let flagged = "SELECT count(*) FROM outbox.events WHERE aggregatetype = 'fraud'";
    let suspicious = "SELECT count(*) FROM orders.placed WHERE cents > 45000";
    assert_eq!(number(client, flagged).await, number(client, suspicious).await);
}

/// C10, C20, C21, C24: every consumer has the nonsense as a dead letter or holds it, inventory the order that it
/// can never reserve; loyalty, whose table is away, parks customers in order, pauses, and makes up for it; nobody else
/// notices, and every other effect happens once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_sick_consumer_and_poison_are_nobody_elses_concern_and_nothing_is_lost() {
    let (postgres, kafka) = (Postgres::start(usual_version()), Kafka::start());
    let scene = Scene::bare(&postgres, &kafka, "bus").await;
    kafka.create_topic(TOPIC, PARTITIONS, &[]).await;
    kafka.create_topic("outbox.event.fraud", PARTITIONS, &[]).await;
    scene.init(&[]);
    let relay = scene.start();
    let logs = tempfile::tempdir().unwrap();
    let bus = Bus { program: program(), database: postgres.url("bus"), brokers: kafka.brokers(), logs };
    assert_eq!(bus.run(&["prepare"]), "prepared\n");
    let services = CONSUMERS.map(|consumer| bus.start(consumer));

    assert_eq!(bus.run(&["orders", "--count", "1000"]), "1000 orders placed\n");
    eventually_async(DEADLINE, "the first points", async || {
        (number(&scene.database, "SELECT count(*) FROM loyalty.booking").await > 0).then_some(())
    })
    .await;
    scene.database.batch_execute("ALTER TABLE loyalty.balance RENAME TO away").await.unwrap();
    let said = bus.run(&["orders", "--count", "2000", "--poison"]);
    assert_eq!(said, "2000 orders placed, and two bad events\n");

    // Loyalty is sick, and the others are through.
    let healthy = [
        "inventory       3000        0      0             0       0     2",
        "recommendation  3001        0      0             0       -     -",
        "warehouse       3001        0      0             0       0     1",
        "fraud           3001        0      0             0       1     0",
    ];
    bus.checks("the healthy consumers", DEADLINE, &services, &healthy).await;
    for group in CONSUMERS.into_iter().filter(|group| *group != "loyalty") {
        bus.caught_up(group).await;
    }
    // Its policy: customers whose orders were tried often enough wait in the inbox, in order and not held; how many come
    // that far before the retry budget pauses the handler is chance. The rest waits on the topic.
    let waiting = "SELECT count(*) FROM inbox.parked_key WHERE scope = 'loyalty' AND state = 'waiting'";
    let held = "SELECT count(*) FROM inbox.parked_key WHERE scope = 'loyalty' AND state = 'held'";
    let keys = number(&scene.database, waiting).await;
    assert!(keys <= 97, "{keys} parked customers\n{}", services[1].log_tail());
    assert_eq!(number(&scene.database, held).await, 0);
    let booked = number(&scene.database, "SELECT count(*) FROM loyalty.booking").await;
    assert!(booked <= 1000, "loyalty has booked {booked} orders without its table");
    println!("while loyalty was sick: {booked} booked, {keys} customers parked, lag {}", bus.lag("loyalty"));

    // It is healed, and nothing is missing.
    scene.database.batch_execute("ALTER TABLE loyalty.away RENAME TO balance").await.unwrap();
    let healed = "loyalty         3001        0      0             0       0     1";
    let all = "3001 orders, 5 consumers: 0 missing, 0 twice, 0 out of order";
    bus.checks("loyalty to make up for it", DEADLINE, &services, &[healed, all]).await;
    bus.checks("the others to be as they were", DEADLINE, &services, &healthy).await;
    sums_agree(&scene.database).await;
    for service in &services {
        service.signal(Signal::TERM);
        assert!(service.wait(DEADLINE).success(), "{}", service.log_tail());
    }

    // The dead letters have the original bytes, and whoever holds has them in the inbox.
    let dead_letters = ["inventory", "loyalty", "recommendation", "warehouse"];
    for group in dead_letters {
        let letters = bus.records(&[&format!("{TOPIC}.{group}.dlq")]);
        let (nonsense, others): (Vec<_>, Vec<_>) =
            letters.iter().partition(|letter| letter.key.as_deref() == Some(b"nobody"));
        assert_eq!(nonsense.len(), 1, "{group}: {letters:?}");
        assert_eq!(nonsense[0].value.as_deref(), Some(NONSENSE), "{group}");
        assert_eq!(nonsense[0].header("type"), Some("OrderPlaced"), "{group}");
        assert_eq!(others.len(), usize::from(group == "inventory"), "{group}: {others:?}");
        assert!(others.iter().all(|letter| letter.header("dlq.attempts") == Some("5")), "{others:?}");
    }
    let held = "SELECT e.record_value FROM inbox.parked_event AS e JOIN inbox.parked_key AS k USING (scope, topic, key)
                 WHERE scope = 'fraud' AND k.state = 'held'";
    let held: Vec<u8> = scene.database.query_one(held, &[]).await.unwrap().get(0);
    assert_eq!(held, NONSENSE);

    // All five in one process go on where the five left off.
    let all = [bus.start("all")];
    bus.run(&["orders", "--count", "100"]);
    let summary = "3101 orders, 5 consumers: 0 missing, 0 twice, 0 out of order";
    bus.checks("all in one process", RESTART, &all, &[summary]).await;
    assert!(bus.run(&["check"]).ends_with(&format!("{summary}\n")));
    all[0].signal(Signal::TERM);
    assert!(all[0].wait(DEADLINE).success(), "{}", all[0].log_tail());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
