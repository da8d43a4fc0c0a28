//! The admin port from outside: real requests over TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use outbox_admin_port::trial::ask;
use serde_json::Value;
use tokio::sync::oneshot;

use super::*;
use crate::observe::{Kept, Phase, SlotLog, WalStatus};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

struct Trial {
    address: SocketAddr,
    observed: Arc<Observed>,
    /// The port serves as long as it is held.
    _stop: oneshot::Sender<()>,
}

impl Trial {
    async fn open() -> Trial {
        let (trial, _) = Trial::with_lanes(&[None]).await;
        trial
    }

    /// A port of these lanes, with what is seen of each; the trial's own is the first.
    async fn with_lanes(lanes: &[Option<&str>]) -> (Trial, Vec<Arc<Observed>>) {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let port = bind(listen).await.unwrap();
        let address = port.address();
        let watched = |lane: &Option<&str>| Watched {
            identity: Identity {
                relay: "orders".to_owned(),
                lane: lane.map(str::to_owned),
                slot: "outbox_orders".to_owned(),
                publication: "outbox_orders".to_owned(),
                version: "1.2.3".to_owned(),
                guarantee: "at_least_once",
                started_at: Instant::now(),
            },
            observed: Arc::new(Observed::new()),
        };
        let lanes: Vec<Watched> = lanes.iter().map(watched).collect();
        let observed: Vec<Arc<Observed>> = lanes.iter().map(|lane| lane.observed.clone()).collect();
        let settings = AdminSettings { listen, stalled_after: Duration::from_secs(30) };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        tokio::spawn(serve(port, lanes, settings, shutdown));
        (Trial { address, observed: observed[0].clone(), _stop: stop }, observed)
    }

    /// Status code and body.
    async fn get(&self, path: &str) -> (u16, String) {
        ask(self.address, "GET", path).await
    }

    /// Series with labels, and their values.
    async fn scrape(&self) -> BTreeMap<String, f64> {
        let (code, text) = self.get("/metrics").await;
        assert_eq!(code, 200, "{text}");
        let series = text.lines().filter(|line| !line.starts_with('#'));
        series
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (series.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    /// A look at the table and at the slot.
    fn look(&self) {
        self.observed.slot_log_is(SlotLog {
            status: Some(WalStatus::Extended),
            safe_bytes: Some(-5),
            limit_bytes: Some(1 << 30),
        });
        self.observed.kept(Kept::Relay);
        self.observed.cleanup_shows(|look| {
            let now = SystemTime::now();
            look.mode = Some("buckets");
            (look.looked_at, look.cleaned_at, look.oldest_row) = (Some(now), Some(now), Some(now));
            (look.held_up, look.table_bytes) = (2, Some(4096));
        });
    }

    fn stream(&self) {
        self.observed.enter(Phase::Streaming, None);
        self.observed.server_wal.set(0x1_0000_0400);
        self.observed.recorded.set(0x1_0000_0400);
    }
}

#[tokio::test]
async fn ready_follows_the_relay() {
    let port = Trial::open().await;
    assert_eq!(port.get("/live").await, (200, "live\n".to_owned()));
    assert_eq!(port.get("/ready").await, (503, "connecting: to PostgreSQL\n".to_owned()));
    port.stream();
    assert_eq!(port.get("/ready").await, (200, "ready\n".to_owned()));
    port.observed.enter(Phase::Draining, None);
    assert_eq!(port.get("/ready").await, (503, "draining\n".to_owned()));
    port.observed.error("the slot is gone".to_owned());
    port.observed.enter(Phase::Halted, None);
    assert_eq!(port.get("/ready").await, (503, "halted: the slot is gone\n".to_owned()));
    assert_eq!(port.get("/live").await.0, 200);
}

#[tokio::test]
async fn each_lane_is_shown_and_one_that_has_halted_makes_the_relay_unready() {
    let (port, lanes) = Trial::with_lanes(&[Some("0"), Some("billing")]).await;
    port.stream();
    lanes[1].enter(Phase::Halted, None);
    lanes[1].error("the slot is gone".to_owned());
    lanes[1].published_records.set(5);
    let reason = "lane billing: halted: the slot is gone";
    assert_eq!(port.get("/ready").await, (503, format!("{reason}\n")));
    let status: Value = serde_json::from_str(&port.get("/status").await.1).unwrap();
    assert_eq!((&status["ready"], &status["reason"]), (&Value::from(false), &Value::from(reason)));
    assert_eq!(status["relay"]["name"], "orders");
    let of = |at: usize| {
        (&status["lanes"][at]["lane"], &status["lanes"][at]["phase"], &status["lanes"][at]["ready"])
    };
    assert_eq!(of(0), (&"0".into(), &"streaming".into(), &true.into()));
    assert_eq!(of(1), (&"billing".into(), &"halted".into(), &false.into()));
    let mut fields = Vec::new();
    leaves(&status, "", &mut fields);
    leaves(&status["lanes"][1], "", &mut fields);
    for field in fields {
        assert!(DOCUMENT.contains(&format!("| `{field}` |")), "docs/metrics.md lacks `{field}`");
    }

    let series = port.scrape().await;
    let of = |name: &str, lane: &str| series[&format!("{name}{{lane=\"{lane}\",relay=\"orders\"}}")];
    assert_eq!((of("outbox_relay_ready", "0"), of("outbox_relay_ready", "billing")), (1.0, 0.0));
    assert_eq!(of("outbox_relay_published_records_total", "billing"), 5.0);
    let phase = "outbox_relay_phase{lane=\"billing\",phase=\"halted\",relay=\"orders\"}";
    assert_eq!(series[phase], 1.0);
    assert!(series.contains_key("outbox_relay_uptime_seconds{relay=\"orders\"}"), "the process's own");

    lanes[1].enter(Phase::Streaming, None);
    lanes[1].server_wal.set(1);
    lanes[1].recorded.set(1);
    assert_eq!(port.get("/ready").await, (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let port = Trial::open().await;
    let error = bind(port.address).await.unwrap_err();
    assert!(matches!(error, AdminError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&port.address.to_string()), "{error}");
}

#[tokio::test]
async fn status_is_documented_and_complete() {
    let port = Trial::open().await;
    port.stream();
    port.observed.error("broken pipe".to_owned());
    port.observed.in_flight_records.set(7);
    port.look();
    let (code, body) = port.get("/status").await;
    assert_eq!(code, 200);
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["relay"]["name"], "orders");
    assert_eq!(status["phase"], "streaming");
    assert_eq!(status["ready"], true);
    assert_eq!(status["reason"], Value::Null);
    assert_eq!(status["positions"]["recorded"], "1/400");
    assert_eq!(status["lag"]["bytes"], 0);
    assert_eq!(status["lag"]["seconds"], 0.0);
    assert_eq!(status["in_flight"]["records"], 7);
    assert_eq!(status["last_error"]["message"], "broken pipe");
    assert_eq!(status["slot"]["wal_status"], "extended");
    assert_eq!(status["cleanup"]["kept"][0]["reason"], "relay");

    let mut fields = Vec::new();
    leaves(&status, "", &mut fields);
    assert!(fields.len() > 30, "{fields:?}");
    for field in fields {
        assert!(DOCUMENT.contains(&format!("| `{field}` |")), "docs/metrics.md lacks `{field}`");
    }
}

fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value.as_object() {
        None => found.push(path.to_owned()),
        Some(object) => object.iter().for_each(|(key, value)| {
            let dot = if path.is_empty() { "" } else { "." };
            leaves(value, &format!("{path}{dot}{key}"), found);
        }),
    }
}

#[tokio::test]
async fn metrics_follow_the_observed() {
    let port = Trial::open().await;
    let before = port.scrape().await;
    let one = |name: &str| format!("{name}{{relay=\"orders\"}}");
    assert_eq!(before[&one("outbox_relay_ready")], 0.0);
    assert!(!before.contains_key(&one("outbox_relay_recorded_lag_bytes")), "not known yet");

    port.stream();
    let observed = &port.observed;
    observed.slot_confirmed.set(0x1_0000_0000);
    let written = [
        ("outbox_relay_published_records_total", &observed.published_records),
        ("outbox_relay_published_bytes_total", &observed.published_bytes),
        ("outbox_relay_published_transactions_total", &observed.published_transactions),
        ("outbox_relay_skipped_rows_total", &observed.skipped_rows),
        ("outbox_relay_foreign_changes_total", &observed.foreign_changes),
        ("outbox_relay_refused_messages_total", &observed.refused_messages),
        ("outbox_relay_state_records_total", &observed.state_records),
        ("outbox_relay_cleaned_rows_total", &observed.cleaned_rows),
        ("outbox_relay_cleaned_buckets_total", &observed.cleaned_buckets),
        ("outbox_relay_reconnects_total", &observed.reconnects),
        ("outbox_relay_replication_segments_total", &observed.replication_segments),
        ("outbox_relay_epoch", &observed.epoch),
        ("outbox_relay_received_position_bytes", &observed.received),
        ("outbox_relay_confirmed_position_bytes", &observed.confirmed),
        ("outbox_relay_in_flight_records", &observed.in_flight_records),
        ("outbox_relay_in_flight_bytes", &observed.in_flight_bytes),
    ];
    for (value, (_, gauge)) in (1001..).zip(&written) {
        gauge.set(value);
    }
    let after = port.scrape().await;
    for (value, (name, _)) in (1001..).zip(&written) {
        assert_eq!(after[&one(name)], f64::from(value), "{name}");
    }
    assert_eq!(after[&one("outbox_relay_slot_lag_bytes")], 1024.0);
    assert_eq!(after[&one("outbox_relay_recorded_lag_bytes")], 0.0);
    assert_eq!(after[&one("outbox_relay_recorded_lag_seconds")], 0.0);
    assert_eq!(after[&one("outbox_relay_recorded_position_bytes")], f64::from(0x400) + 4_294_967_296.0);
    assert_eq!(after[&one("outbox_relay_ready")], 1.0);
    for phase in Phase::ALL {
        let series = format!("outbox_relay_phase{{phase=\"{}\",relay=\"orders\"}}", phase.name());
        assert_eq!(after[&series], f64::from(u8::from(phase == Phase::Streaming)), "{series}");
    }

    assert!(!after.contains_key(&one("outbox_relay_slot_safe_wal_bytes")), "not known yet");
    port.look();
    let looked = port.scrape().await;
    assert_eq!(looked[&one("outbox_relay_slot_safe_wal_bytes")], -5.0);
    assert_eq!(looked[&one("outbox_relay_cleanup_held_up")], 2.0);
    assert_eq!(looked[&one("outbox_relay_table_bytes")], 4096.0);
    let status = |word| format!("outbox_relay_slot_wal_status{{relay=\"orders\",status=\"{word}\"}}");
    assert_eq!((looked[&status("extended")], looked[&status("lost")]), (1.0, 0.0));
    let kept = |word| format!("outbox_relay_cleanup_kept_total{{reason=\"{word}\",relay=\"orders\"}}");
    assert_eq!((looked[&kept("relay")], looked[&kept("locked")]), (1.0, 0.0));

    // What is unknown again is not repeated.
    observed.recorded.set(0);
    assert!(!port.scrape().await.contains_key(&one("outbox_relay_recorded_lag_bytes")));
}

#[tokio::test]
async fn every_family_is_exported_and_documented() {
    let port = Trial::open().await;
    port.stream();
    port.observed.slot_confirmed.set(1);
    port.look();
    // An average needs two looks that are half a second apart, and something between them.
    let average = "# TYPE outbox_relay_replication_segments_per_transaction";
    assert!(!port.get("/metrics").await.1.contains(average));
    port.observed.published_transactions.set(10);
    port.observed.replication_segments.set(3);
    let looking = async {
        loop {
            let (_, text) = port.get("/metrics").await;
            if text.contains(average) {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(30), looking).await.expect("an average");
    let single = metrics::FAMILIES.iter().map(|family| (family.name, family.kind, family.help));
    let labelled = metrics::LABELLED.iter().map(|family| (family.name, family.kind, family.help));
    for (name, kind, help) in single.chain(labelled) {
        let kind = match kind {
            metrics::Kind::Counter => "counter",
            metrics::Kind::Gauge => "gauge",
        };
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(DOCUMENT.contains(&format!("| `{name}` | {kind} |")), "{name}");
    }
    let exported = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(exported, metrics::FAMILIES.len() + metrics::LABELLED.len(), "{text}");
}

const ALERTS: &str = include_str!("../../../deploy/alerts.yaml");

/// What the metrics of a text are called.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("outbox_relay_") || word.starts_with("process_")).collect()
}

#[test]
fn every_alert_is_on_a_metric_that_is_there_and_has_its_runbook() {
    let known: BTreeSet<&str> = metrics::FAMILIES
        .iter()
        .map(|family| family.name)
        .chain(metrics::LABELLED.iter().map(|family| family.name))
        .collect();
    let runbooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/runbooks");
    let mut used = BTreeSet::new();
    let alerts: Vec<&str> = ALERTS.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 8, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default().trim();
        let named = metrics_in(alert);
        assert!(!named.is_empty() && named.is_subset(&known), "{name}: {named:?}");
        let runbook = alert.split_once("runbook: deploy/runbooks/").map_or("", |(_, rest)| rest);
        let file = runbook.lines().next().unwrap_or_default().trim();
        let text = fs::read_to_string(runbooks.join(file)).unwrap_or_else(|_| panic!("{name}: no {file}"));
        assert!(text.contains(&format!("`{name}`")), "{file} does not say `{name}`");
        for part in ["## What you see", "## What it means", "## What to do", "## How to know that it is over"]
        {
            assert!(text.contains(part), "{file}: {part}");
        }
        assert!(metrics_in(&text).is_subset(&known), "{file}");
        used.insert(file.to_owned());
    }
    let there = fs::read_dir(&runbooks).unwrap().map(|entry| entry.unwrap().file_name());
    let there: BTreeSet<String> = there.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(there, used, "a runbook without an alert");
}
