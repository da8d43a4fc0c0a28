//! The port from outside: real requests over TCP.

use outbox_admin_port::trial::ask;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::tests::{everything, metrics};

const DOCUMENT: &str = include_str!("../../../../docs/consumer-metrics.md");

struct Trial {
    address: SocketAddr,
    metrics: Metrics,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Trial {
    async fn open() -> Trial {
        let metrics = metrics("inventory");
        let address = address("0", false).unwrap();
        let admin = Admin::open(address, metrics.clone(), Duration::from_secs(30)).await.unwrap();
        let address = admin.port.address();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(admin.serve(async {
            let _ = stopped.await;
        }));
        Trial { address, metrics, stop, served }
    }

    /// Status code and body, of what is so now.
    async fn get(&self, path: &str) -> (u16, String) {
        self.metrics.forget();
        ask(self.address, "GET", path).await
    }
}

#[tokio::test]
async fn ready_follows_the_consumer() {
    let port = Trial::open().await;
    assert_eq!(port.get("/live").await, (200, "live\n".to_owned()));
    assert_eq!(port.get("/ready").await, (503, "connecting: Kafka has not answered yet\n".to_owned()));
    port.metrics.kafka_answered();
    assert_eq!(port.get("/ready").await, (503, "starting: no partition is assigned yet\n".to_owned()));
    everything(&port.metrics);
    assert_eq!(port.get("/ready").await, (200, "ready\n".to_owned()));
    port.metrics.draining();
    assert_eq!(port.get("/ready").await, (503, "draining\n".to_owned()));
    port.metrics.halted("the inbox\nis gone");
    assert_eq!(port.get("/ready").await, (503, "halted: the inbox is gone\n".to_owned()));
    assert_eq!(port.get("/live").await.0, 200);
}

#[tokio::test]
async fn the_port_is_one_consumers_and_ends_with_it() {
    let port = Trial::open().await;
    let taken = Admin::open(port.address, port.metrics.clone(), Duration::from_secs(30)).await;
    assert!(matches!(taken.err(), Some(AdminError::Bind { address, .. }) if address == port.address));
    port.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), port.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test]
async fn metrics_and_status_agree_and_are_documented() {
    let port = Trial::open().await;
    everything(&port.metrics);
    let (code, text) = port.get("/metrics").await;
    assert_eq!(code, 200);
    let lag = "outbox_consumer_lag_records{consumer=\"inventory\",partition=\"0\",topic=\"orders\"} 8";
    assert!(text.lines().any(|line| line == lag), "{text}");

    let (code, body) = port.get("/status").await;
    assert_eq!(code, 200);
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["ready"], true);
    assert_eq!(status["consumer"]["group"], "group");
    assert_eq!(status["partitions"][0]["lag_records"], 8);
    assert_eq!(status["partitions"][0]["frontier"], 12);
    assert_eq!(status["totals"]["events"][1]["attempts"]["done"], 1);
    assert_eq!(status["parked"]["waiting_by_rung"], serde_json::json!([4, 0, 1]));
    assert!(!body.contains("secret"), "{body}");
    let mut fields = Vec::new();
    leaves(&status, "", &mut fields);
    assert!(fields.len() > 40, "{fields:?}");
    for field in fields {
        assert!(DOCUMENT.contains(&format!("| `{field}` |")), "docs/consumer-metrics.md lacks `{field}`");
    }
}

/// Fields by path; of a list its first element, and of what is counted by name only the list's own.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    let counted = ["attempts", "settled", "retries", "dead_letters", "offset_jumps"]
        .iter()
        .any(|end| path.ends_with(end));
    match value {
        Value::Object(object) if !counted => object.iter().for_each(|(key, value)| {
            let dot = if path.is_empty() { "" } else { "." };
            leaves(value, &format!("{path}{dot}{key}"), found);
        }),
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            leaves(&list[0], &format!("{path}[]"), found);
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn an_address_is_on_loopback_unless_somebody_says_otherwise() {
    assert_eq!(address(" 9465 ", false).unwrap().to_string(), "127.0.0.1:9465");
    assert_eq!(address("127.0.0.1:1", false).unwrap().to_string(), "127.0.0.1:1");
    assert_eq!(address("[::1]:1", false).unwrap().to_string(), "[::1]:1");
    for remote in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
        assert!(address(remote, false).unwrap_err().contains("not on loopback"), "{remote}");
        address(remote, true).unwrap();
    }
    for wrong in ["", "localhost", "99999", "127.0.0.1", "x:1"] {
        assert!(address(wrong, true).unwrap_err().contains("no address"), "{wrong}");
    }
}

#[test]
fn what_has_something_to_do_and_settles_nothing_is_stalled() {
    let metrics = metrics("inventory");
    everything(&metrics);
    let status = (*metrics.status()).clone();
    let second = Duration::from_secs(1);
    let mut progress = Progress::new(second * 30);
    progress.observe(Duration::ZERO, &status, 1);
    progress.observe(second * 30, &status, 1);
    assert_eq!(progress.reason(second * 30, &status), None);
    let reason = progress.reason(second * 31, &status).unwrap();
    assert!(reason.starts_with("stalled: nothing was settled for 31 s"), "{reason}");
    assert!(reason.ends_with("orders[0]@12 stands first"), "{reason}");
    progress.observe(second * 32, &status, 2);
    assert_eq!(progress.reason(second * 32, &status), None, "something was settled");
    let mut idle = status.clone();
    idle.partitions.clear();
    progress.observe(second * 99, &idle, 2);
    assert_eq!(progress.reason(second * 99, &idle), None, "an instance without partitions stands by");
    idle.kafka.answered_seconds_ago = Some(31.0);
    let silent = "connecting: Kafka has not answered for 31 s";
    assert_eq!(progress.reason(second * 99, &idle).as_deref(), Some(silent));
    idle.kafka.trouble = Some("Kafka: the broker refused the login".to_owned());
    let why = format!("{silent}; Kafka: the broker refused the login");
    assert_eq!(progress.reason(second * 99, &idle), Some(why));
}
