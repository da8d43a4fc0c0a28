//! One drain, by either reader.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ground::{Backlog, Ground, NAME, publication, slot};
use super::results::{BaselineDrain, RelayDrain};
use super::usage::{Watch, memory_kib};
use crate::cluster::postgres::{PASSWORD, SUPERUSER};
use crate::relay::Relay;

/// Longest drain.
const LIMIT: Duration = Duration::from_secs(300);

/// Time between two looks at the relay's `/status`, which costs it some of what is measured.
const STATUS: Duration = Duration::from_millis(50);

/// The same when the end is near; the relay's time is rounded up by it.
const NEAR_THE_END: Duration = Duration::from_millis(5);

/// Rows before the end that are near it: what takes longer than [`STATUS`] at any speed seen.
const NEAR: u64 = 60_000;

/// Time between two looks whether `pg_recvlogical` has ended.
const ENDED: Duration = Duration::from_millis(1);

/// Drains the backlog by `pg_recvlogical` to the null device.
///
/// # Panics
/// When it fails.
pub async fn baseline(ground: &Ground, backlog: &Backlog) -> BaselineDrain {
    ground.copy_slot().await;
    let log = ground.log();
    let mut child = recvlogical(ground, backlog);
    let (start, walsender) = log.replication_started();
    let watch = Watch::start(&[child.id(), walsender]);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // Its exit says nothing any more.
                let _ = child.kill();
                panic!("pg_recvlogical has not ended within {LIMIT:?}");
            }
            None => std::thread::sleep(ENDED),
        }
    };
    let seconds = unix_seconds() - start;
    assert!(status.success(), "pg_recvlogical failed: {status}");
    BaselineDrain { seconds, client_cpu: watch.used(child.id()), walsender_cpu: watch.used(walsender) }
}

/// The null device is opened here and handed over as standard output: a path to it is nothing that a program
/// which makes files should be given.
fn recvlogical(ground: &Ground, backlog: &Backlog) -> Child {
    let program = ground.postgres.programs().join("pg_recvlogical");
    let port = ground.postgres.port().to_string();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(&program);
    command.args(["--host=127.0.0.1", "--port", &port, "--username", SUPERUSER, "--dbname", NAME]);
    command.args(["--slot", &slot(), "--start", "--no-loop", "--file=-", "--endpos", &backlog.end]);
    command.args(["--option=proto_version=1", &format!("--option=publication_names={}", publication())]);
    command.env("PGPASSWORD", PASSWORD).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Drains the backlog by the relay into a topic of its own.
///
/// # Panics
/// When it fails, or when the slot is not confirmed behind the backlog afterwards.
pub async fn relay(ground: &mut Ground, backlog: &Backlog) -> RelayDrain {
    relay_with(ground, backlog, &[], "/totals/records").await
}

/// The same with exactly one delivery: a row counts when its Kafka transaction is committed.
///
/// # Panics
/// As [`relay`].
pub async fn exactly_once(ground: &mut Ground, backlog: &Backlog) -> RelayDrain {
    let keys = [("delivery.guarantee", "exactly_once")];
    relay_with(ground, backlog, &keys, "/delivery/committed_records").await
}

async fn relay_with(
    ground: &mut Ground,
    backlog: &Backlog,
    keys: &[(&str, &str)],
    counted: &str,
) -> RelayDrain {
    ground.copy_slot().await;
    let (config, _) = ground.next_run_with(keys).await;
    let log = ground.log();
    let relay = Relay::start(&config);
    let (start, walsender) = log.replication_started();
    let broker = ground.kafka.node(0).pid();
    let watch = Watch::start(&[relay.pid(), walsender, broker]);
    let rows = backlog.shape.rows;
    let mut first: Option<(f64, u64)> = None;
    let deadline = Instant::now() + LIMIT;
    let end = loop {
        let status = relay.try_status();
        let now = unix_seconds();
        let counted = status.as_ref().and_then(|status| status.pointer(counted)?.as_u64());
        let records = counted.unwrap_or(0);
        let sent = status.as_ref().and_then(|status| status["totals"]["records"].as_u64()).unwrap_or(0);
        if records > 0 {
            first.get_or_insert((now, records));
        }
        if records >= rows {
            break now;
        }
        assert!(
            Instant::now() < deadline,
            "the relay has not drained within {LIMIT:?}: {status:?}\n{}",
            relay.log()
        );
        assert!(relay.ended().is_none(), "the relay ended\n{}", relay.log());
        std::thread::sleep(if sent + NEAR >= rows { NEAR_THE_END } else { STATUS });
    };
    let (first_seen, first_records) = first.unwrap_or((end, rows));
    let mut drained = RelayDrain {
        seconds: end - start,
        steady_seconds: end - first_seen,
        steady_records: rows - first_records,
        relay_cpu: watch.used(relay.pid()),
        walsender_cpu: watch.used(walsender),
        broker_cpu: watch.used(broker),
        peak_rss_kib: memory_kib(relay.pid(), "VmHWM").expect("the relay runs"),
        segments: None,
    };
    // The relay asks the kernel five times a second.
    std::thread::sleep(Duration::from_millis(250));
    drained.segments = segments(&relay);
    // What was acknowledged counts only if the relay also ends well and the server may forget it.
    let status = relay.terminate();
    assert!(status.success(), "the relay did not drain: {status}\n{}", relay.log());
    assert!(ground.is_confirmed(&backlog.end).await, "the slot is not confirmed behind the backlog");
    drained
}

/// The counter of `/metrics`, once the relay has looked.
pub fn segments(relay: &Relay) -> Option<u64> {
    let (_, text) = relay.get("/metrics").ok()?;
    let line = text.lines().find(|line| line.starts_with("outbox_relay_replication_segments_total"))?;
    let value: f64 = line.rsplit_once(' ')?.1.parse().ok()?;
    Some(value as u64)
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
