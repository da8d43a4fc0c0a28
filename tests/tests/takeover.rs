//! Two relays of one name, and the end of one: standby, takeover, thawing, draining.

use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::history::Verdict;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;
use outbox_tests::workload::{Settings, Workload};
use rustix::process::{Pid, Signal, kill_process};

/// A frozen owner loses slot and lane after ten seconds; the other looks once a second, and its pauses
/// between attempts on the slot are up to five seconds long.
const FROZEN: Duration = Duration::from_secs(17);

async fn load(scene: &Scene<'_>) -> Workload {
    let settings = Settings {
        connections: 3,
        aggregate_types: vec![scene.name.clone()],
        largest: 200,
        rows_per_second: Some(1_500),
        ..Settings::default()
    };
    Workload::start(&scene.postgres.url(&scene.name), settings).await
}

fn wait_streaming(relay: &Relay) -> Duration {
    let started = Instant::now();
    relay.wait_status(LIMIT, "the stream to be taken over", |status| {
        (status["phase"] == "streaming").then_some(())
    });
    started.elapsed()
}

fn wait_standby(relay: &Relay) {
    relay.wait_status(LIMIT, "standby", |status| (status["phase"] == "standby").then_some(()));
}

fn wait_published(relay: &Relay, more: u64) {
    let records = |status: &serde_json::Value| status["totals"]["records"].as_u64();
    let before = records(&relay.status()).unwrap_or(0);
    relay.wait_status(LIMIT, "more records", |status| (records(status)? >= before + more).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_says_so_and_takes_over_within_seconds_of_a_drain_and_of_a_kill() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_standby").await;
    let first = scene.start();
    let workload = load(&scene).await;
    wait_published(&first, 500);

    let second = Relay::start(&scene.config);
    wait_standby(&second);
    let (code, body) = second.get("/ready").unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("standby") && body.contains("takeover_standby/0"), "{body}");
    let unwilling = Relay::start(&scene.config.clone().argument("--no-wait"));
    assert_eq!(unwilling.wait_exit(LIMIT).code(), Some(5), "{}", unwilling.log());

    first.send_term();
    assert_eq!(first.wait_exit(LIMIT).code(), Some(0), "{}", first.log());
    let drained = wait_streaming(&second);
    wait_published(&second, 500);

    let third = Relay::start(&scene.config);
    wait_standby(&third);
    second.kill();
    let killed = wait_streaming(&third);
    wait_published(&third, 500);
    workload.stop().await;
    let verdict = scene.verdict().await;
    println!("{verdict} ragged={}", verdict.ragged);
    verdict.assert_pass();
    assert_eq!(third.terminate().code(), Some(0), "{}", third.log());
    println!("proof: takeover after SIGTERM {drained:.1?}, after SIGKILL {killed:.1?}");
    assert!(drained < Duration::from_secs(8), "{drained:?}");
    assert!(killed < Duration::from_secs(8), "{killed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_loses_lane_and_slot_and_harms_nothing_when_it_thaws() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_frozen").await;
    let first = scene.start();
    let workload = load(&scene).await;
    wait_published(&first, 1_000);
    let second = Relay::start(&scene.config);
    wait_standby(&second);

    first.pause();
    let taken = wait_streaming(&second);
    assert!(taken <= FROZEN, "taken over after {taken:?}");
    wait_published(&second, 500);
    let owner = scene.text(&active_pid(&scene)).await;

    first.resume();
    wait_standby(&first);
    // Whatever the thawed one did before it noticed, the owner goes on: same backend, more records.
    wait_published(&second, 2_000);
    assert_eq!(scene.text(&active_pid(&scene)).await, owner, "the owner lost the slot to a thawed relay");
    assert_eq!(second.status()["phase"], "streaming");
    let standing_by = first.status();
    assert_eq!(standing_by["phase"], "standby", "{standing_by}");

    // The state record is the owner's: whoever comes next goes on from it, and the thawed one may.
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
    wait_streaming(&first);
    wait_published(&first, 500);
    workload.stop().await;
    let verdict = scene.verdict().await;
    println!("{verdict} ragged={}", verdict.ragged);
    verdict.assert_pass();
    assert_eq!(first.terminate().code(), Some(0), "{}", first.log());
    println!("proof: takeover from a frozen relay after {taken:.1?}");
}

/// Lets it catch up, and go on with the producer that suits one that has, past the first record to each partition, which
/// goes alone.
async fn in_full_flow(scene: &Scene<'_>) -> Verdict {
    scene.insert(100).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    verdict
}

/// What a frozen relay had in flight is confirmed by its successor: it has nothing to answer for when it is told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lost_its_session_ends_in_order_once_its_successor_has_confirmed_all() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_left").await;
    let first = scene.start();
    let workload = load(&scene).await;
    wait_published(&first, 500);
    let second = Relay::start(&scene.config);
    wait_standby(&second);
    first.pause();
    wait_streaming(&second);
    wait_published(&second, 500);
    first.resume();
    wait_standby(&first);
    eventually(LIMIT, "the first to hear of it", || {
        first.log().contains("is confirmed by the lane's owner").then_some(())
    });
    assert_eq!(first.terminate().code(), Some(0), "{}", first.log());
    workload.stop().await;
    scene.verdict().await.assert_pass();
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
}

fn active_pid(scene: &Scene<'_>) -> String {
    format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{}'", scene.slot())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_relay_repeats_nothing() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_drain").await;
    for _ in 0..40 {
        scene.insert(2_000).await;
    }
    let relay = scene.start();
    relay.wait_status(LIMIT, "records in full flow", |status| {
        (status["totals"]["records"].as_u64()? > 1_000).then_some(())
    });
    let started = Instant::now();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    let drained = started.elapsed();
    let log = relay.log();
    let left =
        log.lines().find_map(|line| line.split_once("draining in_flight=")).map(|(_, left)| left.to_owned());
    assert!(left.as_ref().is_some_and(|left| left != "0"), "nothing was in flight\n{log}");

    let again = scene.start();
    scene.insert(10).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (80_010, 0), "{verdict}");
    assert_eq!(again.terminate().code(), Some(0), "{}", again.log());
    println!("proof: drain with {left:?} in flight took {drained:.1?}; {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_cannot_finish_says_what_is_left_and_a_second_signal_ends_it_at_once() {
    let postgres = Postgres::start(usual_version());
    let kafka = Kafka::start();
    let scene = Scene::prepare(&postgres, &kafka, "takeover_undrained")
        .await
        // Longer than an SQL connection lives that nobody pings: the drain has to keep its lane.
        .configured(|config| config.text("drain_timeout", "13s"));
    let relay = scene.start();
    scene.insert(100).await;
    scene.verdict().await.assert_pass();

    let in_flight = |relay: &Relay| {
        relay.wait_status(LIMIT, "records in flight", |status| {
            status["in_flight"]["records"].as_u64().filter(|count| *count >= 50)
        })
    };
    kafka.pause();
    scene.insert(50).await;
    let left = in_flight(&relay);
    let started = Instant::now();
    relay.send_term();
    let status = relay.wait_exit(LIMIT);
    let took = started.elapsed();
    let log = relay.log();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains(&format!("not drained: {left} records in flight")), "{log}");
    assert!((Duration::from_secs(13)..Duration::from_secs(18)).contains(&took), "{took:?}");
    assert!(!log.contains("reconnecting"), "{log}");

    kafka.resume();
    let scene = scene.configured(|config| config.text("drain_timeout", "10m"));
    let relay = scene.start();
    scene.verdict().await.assert_pass();
    in_full_flow(&scene).await;
    kafka.pause();
    scene.insert(50).await;
    in_flight(&relay);
    relay.send_term();
    relay.wait_status(LIMIT, "the drain", |status| (status["phase"] == "draining").then_some(()));
    let started = Instant::now();
    relay.send_term();
    let status = eventually(LIMIT, "the relay's end", || relay.ended());
    let second = started.elapsed();
    assert_eq!(status.code(), Some(4), "{}", relay.log());
    assert!(second < Duration::from_secs(2), "{second:?}");

    kafka.resume();
    let relay = scene.start();
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, 300);

    // A broker that comes back in time: the drain has waited for it, and nothing comes twice.
    let verdict = in_full_flow(&scene).await;
    kafka.pause();
    scene.insert(50).await;
    in_flight(&relay);
    relay.send_term();
    relay.wait_status(LIMIT, "the drain", |status| (status["phase"] == "draining").then_some(()));
    kafka.resume();
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(0), "{}", relay.log());
    let repeated = verdict.repeated;
    let relay = scene.start();
    scene.insert(50).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (500, repeated), "{verdict}");
    relay.terminate();
    println!("proof: undrained exit after {took:.1?} of 13 s with {left} left; second signal {second:.1?}");
}

/// Where the server does not take part, whoever reads the log knows which position was asked for and where the slot stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_the_server_does_not_confirm_says_where_the_slot_stands() {
    // Its own: whatever else would need this walsender's answer stands while it does.
    let postgres = Postgres::start(usual_version());
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "takeover_unconfirmed").await.configured(
        |config| {
            // What is published before the end is recorded, and so confirmed, by the drain only.
            config.text("state.interval", "1m").text("state.idle_interval", "1m").text("drain_timeout", "4s")
        },
    );
    let relay = scene.start();
    scene.insert(100).await;
    scene.verdict().await.assert_pass();
    let walsender = scene.text(&active_pid(&scene)).await.parse().ok().and_then(Pid::from_raw).unwrap();
    let stands = scene.confirmed().await;

    kill_process(walsender, Signal::STOP).unwrap();
    let started = Instant::now();
    let status = relay.terminate();
    let took = started.elapsed();
    kill_process(walsender, Signal::CONT).unwrap();
    let log = relay.log();
    assert_eq!(status.code(), Some(4), "{log}");
    let said = log.lines().find(|line| line.contains("not drained: 0 records in flight")).unwrap_or("");
    let slot = scene.slot();
    for part in [
        "the deadline of 4s passed while waiting for the server to confirm",
        &format!(": slot {slot} stands at {stands}"),
    ] {
        assert!(said.contains(part), "{part}\n{log}");
    }
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");

    // What it could not confirm is recorded: nothing comes twice.
    let relay = scene.start();
    scene.insert(50).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!((verdict.committed, verdict.repeated), (150, 0), "{verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
