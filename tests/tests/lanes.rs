//! Several tables in one relay, each on a lane of its own: whatever becomes of one, the other goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use outbox_tests::cluster;
use outbox_tests::history::log::Isolation;
use outbox_tests::history::{Log, Verdict, settled_verdict_of};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene, insert_statement};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

/// The second table: another schema, the same columns, none of the contract's checks.
const TABLE: &str =
    "CREATE SCHEMA billing; CREATE TABLE billing.outbox (LIKE outbox.events INCLUDING DEFAULTS)";

/// What the lane of the second table says of it.
const BILLING: &str = "outbox.table = 'billing.outbox', outbox.columns.seq = 'seq', \
    outbox.columns.writer = 'writer', outbox.columns.created_at = 'created_at'";

/// A row of the second table that no topic takes.
const BAD: &str = "INSERT INTO billing.outbox (aggregatetype, aggregateid, type, payload)
    VALUES ('no topic at all', 'k', 'Made', '{}')";

/// A database with two outboxes. The first lane has no name and is called `0`, the second is `billing`.
struct Two {
    scene: Scene<'static>,
    inserted: AtomicU64,
}

impl Two {
    /// Makes both tables and what `init` makes for both lanes. `more` is said of lane billing besides.
    async fn prepare(name: &str, more: &str) -> Two {
        let two = Two::without_lanes(name).await;
        two.scene.kafka.create_topic(&two.billing_topic(), PARTITIONS, &[]).await;
        two.with_lanes(&[&lane_0(), &billing(more)])
    }

    /// Both tables, and a relay that knows of the first.
    async fn without_lanes(name: &str) -> Two {
        let servers = cluster::shared();
        let scene = Scene::bare(&servers.postgres, &servers.kafka, name)
            .await
            // Of its own, since it grows.
            .configured(|config| config.text("state.topic", &format!("{name}.state")));
        scene.kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
        scene.init(&[]);
        scene.database.batch_execute(TABLE).await.unwrap();
        Two { scene, inserted: AtomicU64::new(0) }
    }

    fn with_lanes(self, lanes: &[&str]) -> Two {
        let Two { scene, inserted } = self;
        let scene = scene.configured(|config| with_lanes(config, lanes));
        scene.init(&[]);
        Two { scene, inserted }
    }

    fn billing_kind(&self) -> String {
        format!("{}_billing", self.scene.name)
    }

    fn billing_topic(&self) -> String {
        format!("outbox.event.{}", self.billing_kind())
    }

    /// Starts a relay and waits until both lanes stream.
    #[track_caller]
    fn start(&self) -> Relay {
        let relay = Relay::start(&self.scene.config);
        wait(&relay, "both lanes to stream", |lane| lane["phase"] == "streaming");
        relay
    }

    /// Inserts rows into the first table.
    async fn orders(&self, rows: u64) {
        self.scene.insert(rows).await;
    }

    /// Inserts rows into the second.
    async fn bills(&self, rows: u64) {
        let first = self.inserted.fetch_add(rows, Ordering::SeqCst);
        let statement =
            insert_statement(&self.billing_kind(), first, rows).replace("outbox.events", "billing.outbox");
        self.scene.database.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{error:?}"));
    }

    async fn verdict_of_orders(&self) -> Verdict {
        self.scene.verdict().await
    }

    async fn verdict_of_bills(&self) -> Verdict {
        let brokers = self.scene.kafka.brokers();
        let mut log = Log::open(&brokers, &[&self.billing_topic()], Isolation::ReadUncommitted);
        settled_verdict_of("billing.outbox", &self.scene.database, &mut log, LIMIT).await
    }

    async fn assert_pass(&self) {
        for verdict in [self.verdict_of_orders().await, self.verdict_of_bills().await] {
            println!("{verdict}");
            verdict.assert_pass();
        }
    }
}

fn lane_0() -> String {
    "number = 0".to_owned()
}

fn billing(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!("name = 'billing', number = 2, {BILLING}{comma}{more}")
}

fn with_lanes(config: RelayConfig, lanes: &[&str]) -> RelayConfig {
    let lanes: Vec<String> = lanes.iter().map(|lane| format!("{{ {lane} }}")).collect();
    config.raw("lanes", &format!("[{}]", lanes.join(", ")))
}

/// The status of one lane.
fn lane<'s>(status: &'s Value, name: &str) -> &'s Value {
    let lanes = status["lanes"].as_array().unwrap_or_else(|| panic!("no lanes in {status}"));
    lanes.iter().find(|lane| lane["lane"] == name).unwrap_or_else(|| panic!("no lane {name} in {status}"))
}

/// Waits until it holds of every lane.
#[track_caller]
fn wait(relay: &Relay, what: &str, holds: impl Fn(&Value) -> bool) {
    relay.wait_status(LIMIT, what, |status| status["lanes"].as_array()?.iter().all(&holds).then_some(()));
}

fn records(lane: &Value) -> u64 {
    lane["totals"]["records"].as_u64().unwrap_or(0)
}

fn not_ready(relay: &Relay) -> String {
    match relay.get("/ready") {
        Ok((503, reason)) => reason,
        other => panic!("not ready was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_tables_are_published_in_order_whenever_the_relay_is_killed() {
    let two = Two::prepare("lanes_killed", "").await;
    let mut relay = two.start();
    for kill in 0..4 {
        for _ in 0..10 {
            two.orders(100).await;
            two.bills(100).await;
        }
        wait(&relay, "records of both lanes", |lane| records(lane) > 100 * kill);
        relay.kill();
        relay = Relay::start(&two.scene.config);
    }
    two.orders(10).await;
    two.bills(10).await;
    two.assert_pass().await;
    wait(&relay, "both lanes to stream", |lane| lane["phase"] == "streaming");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    assert!(
        relay.log().contains("lane{lane=\"billing\"}"),
        "a line does not say whose it is\n{}",
        relay.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_one_lane_waits_for_stalls_no_other() {
    let two = Two::without_lanes("lanes_waiting").await.with_lanes(&[&lane_0(), &billing("")]);
    let config = two.scene.config.clone().text("admin.stalled_after", "3s");
    let relay = Relay::start(&config.text("state.idle_interval", "1s"));
    wait(&relay, "both lanes to stream", |lane| lane["phase"] == "streaming");
    let waits_for = |status: &Value, topic: &str| {
        lane(status, "billing")["waiting_for"].as_str().is_some_and(|words| words.contains(topic))
    };
    two.bills(50).await;
    let topic = two.billing_topic();
    relay.wait_status(LIMIT, "the topic to be waited for", |status| waits_for(status, &topic).then_some(()));

    two.orders(2_000).await;
    two.verdict_of_orders().await.assert_pass();
    let status = relay.status();
    assert_eq!((records(lane(&status, "0")), records(lane(&status, "billing"))), (2_000, 0), "{status}");
    assert!(waits_for(&status, &topic), "{status}");
    relay.wait_status(LIMIT, "the lane to be stalled", |status| {
        let of = |name| lane(status, name)["ready"] == true;
        (of("0") && !of("billing")).then_some(())
    });
    let reason = not_ready(&relay);
    assert!(reason.starts_with("lane billing: ") && !reason.contains("lane 0"), "{reason}");

    two.scene.kafka.create_topic(&topic, PARTITIONS, &[]).await;
    two.assert_pass().await;
    relay.wait_ready(LIMIT);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_is_filled_while_the_other_streams() {
    // One record after the other makes the fill long enough to look at.
    let two = Two::prepare("lanes_filled", "kafka.max_in_flight_records = 1, outbox.rows_stay = true").await;
    let relay = two.start();
    two.orders(100).await;
    two.bills(100).await;
    two.assert_pass().await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    two.scene.text("SELECT pg_drop_replication_slot('outbox_lanes_filled_billing')::text").await;
    two.bills(3_000).await;

    let relay = Relay::start(&two.scene.config);
    let filling = |status: &Value| lane(status, "billing")["phase"] == "filling";
    relay.wait_status(LIMIT, "the fill", |status| {
        (filling(status) && lane(status, "0")["phase"] == "streaming").then_some(())
    });
    two.orders(500).await;
    two.verdict_of_orders().await.assert_pass();
    let status = relay.status();
    assert!(filling(&status), "the fill was over before the other lane had streamed anything: {status}");
    assert_eq!(records(lane(&status, "0")), 500, "{status}");
    two.bills(10).await;
    two.assert_pass().await;
    wait(&relay, "both lanes to stream", |lane| lane["phase"] == "streaming");
    let status = relay.status();
    assert_eq!((&lane(&status, "0")["epoch"], &lane(&status, "billing")["epoch"]), (&1.into(), &2.into()));
    assert_eq!(lane(&status, "billing")["totals"]["fills"]["slot_gone"], 1, "{status}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_halts_is_shown_and_the_other_goes_on() {
    let two = Two::prepare("lanes_halted", "quarantine.policy = 'halt'").await;
    let relay = two.start();
    two.bills(10).await;
    relay.wait_status(LIMIT, "the first rows", |status| {
        (records(lane(status, "billing")) == 10).then_some(())
    });
    two.scene.database.batch_execute(BAD).await.unwrap();
    two.bills(10).await;
    relay.wait_status(LIMIT, "the halt", |status| {
        (lane(status, "billing")["phase"] == "halted").then_some(())
    });
    relay.wait_status(LIMIT, "the other lane to be ready", |status| {
        (lane(status, "0")["ready"] == true).then_some(())
    });
    let reason = not_ready(&relay);
    assert!(reason.starts_with("lane billing: halted: "), "{reason}");
    assert!(!reason.contains("lane 0"), "{reason}");

    two.orders(500).await;
    two.verdict_of_orders().await.assert_pass();
    let status = relay.wait_status(LIMIT, "the other lane to be ready", |status| {
        (lane(status, "0")["ready"] == true).then(|| status.clone())
    });
    assert_eq!((&status["ready"], records(lane(&status, "billing"))), (&false.into(), 10), "{status}");
    let (_, metrics) = relay.get("/metrics").unwrap();
    let phase = |lane: &str, phase: &str| {
        let series =
            format!("outbox_relay_phase{{lane=\"{lane}\",phase=\"{phase}\",relay=\"lanes_halted\"}} 1");
        assert!(metrics.contains(&series), "{series}\n{metrics}");
    };
    phase("billing", "halted");
    phase("0", "streaming");
    assert_eq!(relay.terminate().code(), Some(3), "{}", relay.log());

    // The other has drained: it repeats nothing.
    let relay = Relay::start(&two.scene.config);
    two.orders(10).await;
    let verdict = two.verdict_of_orders().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (510, 0), "{verdict}");
    relay.wait_status(LIMIT, "the halt", |status| {
        (lane(status, "billing")["phase"] == "halted").then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(3), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relay_takes_both_lanes_over() {
    let two = Two::prepare("lanes_taken", "").await;
    let first = two.start();
    two.orders(100).await;
    two.bills(100).await;
    let second = Relay::start(&two.scene.config);
    wait(&second, "standby of both lanes", |lane| lane["phase"] == "standby");
    let reason = not_ready(&second);
    for words in ["lane 0: standby: ", "lanes_taken/0", "lane billing: standby: ", "lanes_taken/2"] {
        assert!(reason.contains(words), "{words} is missing in {reason}");
    }
    let unwilling = Relay::start(&two.scene.config.clone().argument("--no-wait"));
    assert_eq!(unwilling.wait_exit(LIMIT).code(), Some(5), "{}", unwilling.log());

    two.assert_pass().await;
    first.kill();
    wait(&second, "both lanes to be taken over", |lane| lane["phase"] == "streaming");
    two.orders(100).await;
    two.bills(100).await;
    two.assert_pass().await;
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_grows_by_a_lane_and_their_order_means_nothing() {
    let two = Two::without_lanes("lanes_swapped").await;
    two.scene.kafka.create_topic(&two.billing_topic(), PARTITIONS, &[]).await;
    let relay = two.scene.start();
    two.orders(100).await;
    two.verdict_of_orders().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    // The state topic has one partition; the lane without a name goes on with slot and memory of before.
    let two = two.with_lanes(&[&lane_0(), &billing("")]);
    let relay = two.start();
    assert!(relay.log().contains("the state topic has grown"), "{}", relay.log());
    two.orders(100).await;
    two.bills(100).await;
    two.assert_pass().await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    let two = two.with_lanes(&[&billing(""), &lane_0()]);
    let relay = two.start();
    two.orders(100).await;
    two.bills(100).await;
    let (orders, bills) = (two.verdict_of_orders().await, two.verdict_of_bills().await);
    orders.assert_pass();
    bills.assert_pass();
    assert_eq!((orders.committed, orders.repeated, bills.committed, bills.repeated), (300, 0, 200, 0));
    wait(&relay, "epoch 1", |lane| lane["epoch"] == 1);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_change_their_numbers_halt_before_they_publish_from_anothers_memory() {
    let two = Two::without_lanes("lanes_numbers").await;
    two.scene.kafka.create_topic(&two.billing_topic(), PARTITIONS, &[]).await;
    let orders = |number| format!("name = 'orders', number = {number}");
    let bills = |number| billing("").replace("number = 2", &format!("number = {number}"));
    let two = two.with_lanes(&[&orders(0), &bills(1)]);
    let relay = two.start();
    // In one transaction, which proves the stream to both.
    let both = [
        insert_statement(&two.scene.name, 0, 7),
        insert_statement(&two.billing_kind(), 0, 7).replace("outbox.events", "billing.outbox"),
    ];
    two.scene.database.batch_execute(&format!("BEGIN; {}; COMMIT", both.join("; "))).await.unwrap();
    two.scene.rewind(7);
    two.inserted.store(7, Ordering::SeqCst);
    two.assert_pass().await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    two.orders(50).await;
    two.bills(50).await;

    let swapped = with_lanes(two.scene.config.clone(), &[&orders(1), &bills(0)]);
    let relay = Relay::start(&swapped);
    // With its last lane it ends by itself.
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "{}", relay.log());
    for words in ["number 0 of the lanes is lane orders's", "number 1 of the lanes is lane billing's"] {
        assert!(relay.log().contains(words), "{words}\n{}", relay.log());
    }
    let (status, text) = swapped.command(&["plan"]);
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("lane billing: ") && text.contains("lane orders: "), "{text}");

    let relay = two.start();
    two.assert_pass().await;
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_through_all_lanes_or_ask_for_one() {
    let two = Two::prepare("lanes_commands", "").await;
    let config = &two.scene.config;
    let ends = |line: &str, code: i32| {
        let (status, text) = config.command(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(status.code(), Some(code), "{line}\n{text}");
        text
    };
    let says = |text: &str, words: &[&str]| {
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in\n{text}"));
    };
    says(
        &ends("config check", 0),
        &[
            "lane 0, number 0: outbox.events by slot outbox_lanes_commands\n",
            "lane billing, number 2: billing.outbox",
        ],
    );
    says(
        &ends("config show", 0),
        &["lanes.billing.outbox.table = \"billing.outbox\"", "lanes.billing.number = \"2\""],
    );
    let again = two.scene.init(&[]);
    says(&again, &["lane 0\n", "lane billing\n", "is there  slot outbox_lanes_commands_billing"]);

    let relay = two.start();
    two.orders(10).await;
    two.bills(10).await;
    two.assert_pass().await;
    for line in ["quarantine list", "topics list", "forget"] {
        says(&ends(line, 2), &["this relay has 2 lanes: name one of them with --lane (0, billing)"]);
        says(
            &ends(&format!("{line} --lane orders"), 2),
            &["this relay has no lane orders; it has 0, billing"],
        );
    }
    let topics = |lane: &str| ends(&format!("topics list --lane {lane}"), 0);
    eventually_async(LIMIT, "the pins", async || {
        (topics("0").contains(&two.scene.topic()) && topics("billing").contains(&two.billing_topic()))
            .then_some(())
    })
    .await;
    assert!(!topics("billing").contains(&format!("{} ", two.scene.topic())), "{}", topics("billing"));
    says(&ends("forget --lane billing", 5), &["lane lanes_commands/2 is owned by"]);
    says(&ends("plan", 5), &["lane 0: A start would wait", "lane billing: A start would wait"]);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    says(&ends("plan", 0), &["lane 0: A start would go on", "lane billing: A start would go on"]);
    let plans: Value = serde_json::from_str(&ends("plan --json", 0)).unwrap();
    assert_eq!(plans["lanes"][1]["lane"], "billing", "{plans}");
    says(&ends("forget --lane billing", 0), &["lanes_commands/2: streaming", "nothing was changed"]);
    two.scene.database.batch_execute(BAD).await.unwrap();
    let relay = two.start();
    relay.wait_status(LIMIT, "the entry", |status| {
        (lane(status, "billing")["quarantine"]["open"] == 1).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    says(&ends("quarantine list --lane billing", 0), &["illegal_topic"]);
    says(&ends("quarantine list --lane 2", 0), &["illegal_topic"]);
    says(&ends("quarantine list --lane 0", 0), &["nothing of this kind is in the quarantine"]);

    // What is wrong with one lane's slot is said under its name, and what is the relay's once.
    two.scene.text("SELECT pg_drop_replication_slot('outbox_lanes_commands_billing')::text").await;
    let (_, text) = config.command(&["check", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = document["findings"].as_array().unwrap();
    let of = |subject: &str| {
        let found: Vec<&Value> = findings.iter().filter(|finding| finding["subject"] == subject).collect();
        assert!(!found.is_empty(), "no finding on {subject}: {text}");
        found
    };
    assert!(of("outbox_lanes_commands_billing").iter().all(|finding| finding["lane"] == "billing"), "{text}");
    assert!(of("outbox_lanes_commands").iter().all(|finding| finding["lane"] == "0"), "{text}");
    assert!(of("lanes_commands.state").iter().all(|finding| finding.get("lane").is_none()), "{text}");
}
