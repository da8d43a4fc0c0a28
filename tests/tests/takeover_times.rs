//! How long it takes until the next of several relays publishes, from the moment at which the active one is known to
//! be killed or frozen to the first record of an event that was committed after it. Under load, and judged.

use std::time::{Duration, Instant};

use outbox_tests::cluster;
use outbox_tests::history::Log;
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;
use outbox_tests::workload::{Settings, Workload};

/// A killed relay's connections are closed by its kernel, and the server lets go of lane and slot at once.
const AFTER_A_KILL: Duration = Duration::from_secs(5);
/// Of a frozen one the server has to lose patience first, which takes ten seconds.
const AFTER_A_FREEZE: Duration = Duration::from_secs(15);

async fn load(scene: &Scene<'_>) -> Workload {
    let settings = Settings {
        connections: 3,
        aggregate_types: vec![scene.name.clone()],
        largest: 100,
        rows_per_second: Some(800),
        ..Settings::default()
    };
    Workload::start(&scene.postgres.url(&scene.name), settings).await
}

fn phase(relay: &Relay) -> String {
    relay.try_status().and_then(|status| status["phase"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Waits until one of them streams and the others stand by; gives that one first.
fn in_line(relays: Vec<Relay>) -> (Relay, Vec<Relay>) {
    let active = eventually(LIMIT, "one active relay and the others in line", || {
        let phases: Vec<String> = relays.iter().map(phase).collect();
        let waiting = phases.iter().filter(|phase| *phase == "standby").count();
        let active = phases.iter().position(|phase| phase == "streaming")?;
        (waiting + 1 == phases.len()).then_some(active)
    });
    let mut others = relays;
    let active = others.remove(active);
    (active, others)
}

/// Commits one event of its own and reads the topic until it is there. Nobody can have published it before.
async fn until_a_new_event_is_published(scene: &Scene<'_>, log: &mut Log, since: Instant) -> Duration {
    scene.insert(1).await;
    let mine = "SELECT id::text FROM outbox.events WHERE aggregateid ~ '^k[0-9]$' ORDER BY seq DESC LIMIT 1";
    let id = scene.text(mine).await;
    let mut read = log.records().len();
    eventually(LIMIT, "the record of a new event", || {
        log.catch_up();
        let fresh = &log.records()[read..];
        read = log.records().len();
        fresh.iter().any(|record| record.id() == Some(&id)).then_some(())
    });
    since.elapsed()
}

/// Everything that is there by now has been read: what follows is measured, and not the reading of this.
fn caught_up(scene: &Scene<'_>) -> Log {
    let mut log = scene.log();
    log.catch_up();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_relays_the_next_publishes_within_five_seconds_of_a_kill() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_killed").await;
    let (mut active, mut others) = in_line((0..3).map(|_| Relay::start(&scene.config)).collect());
    let workload = load(&scene).await;
    let mut log = caught_up(&scene);
    let mut times = Vec::new();
    while !others.is_empty() {
        until_a_new_event_is_published(&scene, &mut log, Instant::now()).await;
        active.kill();
        let took = until_a_new_event_is_published(&scene, &mut log, Instant::now()).await;
        times.push(took);
        (active, others) = in_line(others);
    }
    workload.stop().await;
    let verdict = scene.verdict().await;
    println!("proof: first new event after SIGKILL of the active relay: {times:.1?}; {verdict}");
    verdict.assert_pass();
    assert!(times.iter().all(|took| *took <= AFTER_A_KILL), "{times:?}\n{}", active.log());
    assert_eq!(active.terminate().code(), Some(0), "{}", active.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_relays_the_next_publishes_within_fifteen_seconds_of_a_freeze() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "takeover_froze").await;
    let (frozen, others) = in_line((0..3).map(|_| Relay::start(&scene.config)).collect());
    let workload = load(&scene).await;
    let mut log = caught_up(&scene);
    until_a_new_event_is_published(&scene, &mut log, Instant::now()).await;
    frozen.pause();
    let took = until_a_new_event_is_published(&scene, &mut log, Instant::now()).await;
    let (active, others) = in_line(others);

    // Whatever it had in flight, its session is over, and it stands in line behind the third.
    let owner = scene.text(&streamed_by(&scene)).await;
    frozen.resume();
    eventually(LIMIT, "the thawed relay in line", || (phase(&frozen) == "standby").then_some(()));
    until_a_new_event_is_published(&scene, &mut log, Instant::now()).await;
    assert_eq!(scene.text(&streamed_by(&scene)).await, owner, "the thawed relay took the slot away");
    workload.stop().await;
    let verdict = scene.verdict().await;
    println!("proof: first new event after SIGSTOP of the active relay: {took:.1?}; {verdict}");
    verdict.assert_pass();
    assert!(took <= AFTER_A_FREEZE, "{took:?}\n{}", active.log());
    assert_eq!(phase(&others[0]), "standby");
    assert_eq!(active.terminate().code(), Some(0), "{}", active.log());
}

fn streamed_by(scene: &Scene<'_>) -> String {
    format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{}'", scene.slot())
}
