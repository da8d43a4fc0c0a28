//! Rights that are taken away while the relay works: it waits visibly, nothing overtakes, and with the right
//! given back everything arrives in order (R17).

use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, Kafka};
use outbox_tests::outbox::Outbox;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::workload::{self, Workload};
use serde_json::Value;

/// Everybody may do everything with a topic; a topic that no rule names would do, until there is a first one.
fn open_up(kafka: &Kafka, topic: &str) {
    kafka.acls(&["--add", "--allow-principal", "User:*", "--operation", "All", "--topic", topic]);
}

/// Takes the right to write to a topic away, or gives it back.
fn writing(kafka: &Kafka, topic: &str, denied: bool) {
    let change = if denied { "--add" } else { "--remove" };
    kafka.acls(&[change, "--deny-principal", "User:ANONYMOUS", "--operation", "Write", "--topic", topic]);
}

/// What the relay says that it waits for, if it names these.
fn waits_for(status: &Value, words: &[&str]) -> Option<String> {
    let text = status["waiting_for"].as_str()?;
    words.iter().all(|word| text.contains(word)).then(|| text.to_owned())
}

/// Watches the relay for longer than its longest pause; it may neither end nor hide what it waits for.
fn keeps_waiting(relay: &Relay, words: &[&str]) -> Value {
    let began = Instant::now();
    relay.wait_status(LIMIT, "some more seconds of waiting", |status| {
        (began.elapsed() > Duration::from_secs(6) && waits_for(status, words).is_some())
            .then(|| status.clone())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_waited_for_and_nothing_overtakes() {
    let kafka = Kafka::builder().authorizer().start();
    let outbox = Outbox::make("denied", &cluster::shared().postgres, &kafka).await;
    let denied = &outbox.topics()[0];
    open_up(&kafka, denied);
    let traffic = workload::Settings { rows_per_second: Some(500), largest: 20, ..outbox.traffic() };
    let mut log = outbox.log(&kafka);
    let workload = Workload::start(&outbox.url(), traffic).await;
    let relay = Relay::start(&outbox.config);
    relay.wait_status(LIMIT, "records", |status| (status["totals"]["records"].as_u64()? > 500).then_some(()));

    writing(&kafka, denied, true);
    let words = ["right", denied.as_str()];
    let waiting = relay.wait_status(LIMIT, "the missing right", |status| waits_for(status, &words));
    let status = keeps_waiting(&relay, &words);
    assert!(status["last_error"]["message"].as_str().is_some_and(|said| said.contains(denied)), "{status}");
    assert_eq!(status["quarantine"]["open"], 0, "a missing right is nobody's poison");
    // By a relay that is killed and starts into it, too.
    relay.kill();
    let relay = Relay::start(&outbox.config);
    relay.wait_status(LIMIT, "the missing right", |status| waits_for(status, &words));
    let totals = || relay.status()["totals"].clone();
    let before = totals();
    keeps_waiting(&relay, &words);
    let after = totals();
    assert_eq!(before["records"], after["records"], "nothing is published over and over while it waits");
    assert_eq!(before["reconnects"], after["reconnects"], "it waits in place");

    writing(&kafka, denied, false);
    workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT * 2).await;
    println!("proof: right taken away: {waiting}; {verdict}");
    verdict.assert_pass();
    relay.wait_ready(LIMIT);
    assert_eq!(relay.status()["waiting_for"], Value::Null);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_may_not_write_its_memory_says_so_and_publishes_nothing() {
    let kafka = Kafka::builder().authorizer().start();
    let scene = Scene::prepare(&cluster::shared().postgres, &kafka, "denied_state").await;
    let id = "outbox-relay.denied_state.0";
    let deny = ["--deny-principal", "User:ANONYMOUS", "--operation", "Write", "--transactional-id", id];
    kafka.acls(&[&["--add"][..], &deny].concat());
    scene.insert(7).await;
    let relay = Relay::start(&scene.config);
    let waiting = relay.wait_status(LIMIT, "the missing right", |status| waits_for(status, &["right", id]));
    keeps_waiting(&relay, &["right", id]);
    assert_eq!(relay.status()["totals"]["records"], 0);
    kafka.acls(&[&["--remove"][..], &deny].concat());
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    println!("proof: no right to the transactional id: {waiting}; {verdict}");

    // And while it works, with the topic.
    open_up(&kafka, "outbox.relay.state");
    writing(&kafka, "outbox.relay.state", true);
    scene.insert(7).await;
    let waiting = relay.wait_status(LIMIT, "the missing right", |status| {
        waits_for(status, &["right", "outbox.relay.state"])
    });
    keeps_waiting(&relay, &["right", "outbox.relay.state"]);
    writing(&kafka, "outbox.relay.state", false);
    scene.insert(7).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    relay.wait_ready(LIMIT);
    println!("proof: no right to the state topic: {waiting}; {verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
