//! Handlers of every kind on real servers, and what stops a consumer.
//!
//! | module | what it tests |
//! |---|---|
//! | [`calls`] | calls to the outside, and what never runs twice |
//! | [`scopes`] | business keys, and scopes |
//! | [`halted`] | partitions that are halted, and what is held beyond a bound |
//! | [`kept`] | how long settlements are kept |
//! | [`unnamed`] | events of which `dedup_by` knows no name |

mod calls;
mod halted;
mod kept;
mod scopes;
mod unnamed;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outbox_tests::cluster::ground::Port;
use outbox_tests::fault::process::Process;
use outbox_tests::orders::{Orders, PARTITIONS, With};
use outbox_tests::relay::http_get;
use outbox_tests::wait::eventually_async;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use uuid::Uuid;

pub(crate) const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kinds-consumer"))
}

/// An attempt, as the outside saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) process: u32,
    number: i64,
    attempt: u32,
    /// Unix milliseconds.
    at: u64,
    id: Uuid,
    idempotency_key: String,
}

impl Call {
    fn read(line: &str) -> Option<Call> {
        let mut words = line.split(' ');
        Some(Call {
            process: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
            attempt: words.next()?.parse().ok()?,
            at: words.next()?.parse().ok()?,
            id: words.next()?.parse().ok()?,
            idempotency_key: words.next()?.to_owned(),
        })
    }
}

/// The outside of one test: its file of attempts, and the gate that handlers wait for.
pub(crate) struct Outside {
    directory: tempfile::TempDir,
}

impl Outside {
    pub(crate) fn prepare() -> Outside {
        Outside { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens a gate: `gate`, or `gate.later`.
    pub(crate) fn open(&self, gate: &str) {
        std::fs::write(self.file(gate), "").expect("a file");
    }

    /// What an instance is started with.
    pub(crate) fn with(&self, more: &[(&'static str, &str)]) -> With {
        let text = |name| self.file(name).display().to_string();
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let environment = [("KINDS_CALLS", text("calls")), ("KINDS_GATE", text("gate"))];
        let environment = environment.into_iter().chain(more).collect();
        With { rung: Some(1), environment, ..With::default() }
    }

    /// Every attempt for the events of a number.
    pub(crate) fn calls(&self, number: i64) -> Vec<Call> {
        let text = std::fs::read_to_string(self.file("calls")).unwrap_or_default();
        let calls = text.lines().map(|line| Call::read(line).unwrap_or_else(|| panic!("{line}")));
        calls.filter(|call| call.number == number).collect()
    }

    /// Waits for so many attempts.
    async fn called(&self, orders: &Orders<'_>, number: i64, count: usize) -> Vec<Call> {
        let started = Instant::now();
        loop {
            let calls = self.calls(number);
            if calls.len() >= count {
                return calls;
            }
            assert!(started.elapsed() < LIMIT, "{count} of {number}: {calls:?}\n{}", orders.log(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The same, in a place of the group that is kept over restarts.
pub(crate) fn kept_place(with: With) -> With {
    With { kafka: "group.instance.id=one".into(), ..with }
}

/// Sends an event and returns its id.
pub(crate) fn send(orders: &Orders<'_>, event_type: &str, key: &str, number: i64, does: &str) -> Uuid {
    let id = Uuid::now_v7();
    orders.upstream().send(event_type, id, key, &payload(number, does));
    id
}

pub(crate) fn payload(number: i64, does: &str) -> String {
    format!("{{\"number\":{number},\"does\":\"{does}\"}}")
}

/// The state in which an event is settled, or stands, and how often its handler was claimed for.
async fn stands(orders: &Orders<'_>, id: Uuid) -> Option<(String, Option<i32>)> {
    let rows = orders.query("SELECT state, attempts FROM inbox.settlement WHERE id = $1", &[&id]).await;
    assert!(rows.len() < 2, "one row for each event");
    rows.first().map(|row| (row.get(0), row.get(1)))
}

pub(crate) async fn settled(orders: &Orders<'_>, id: Uuid, state: &str) {
    eventually_async(LIMIT, &format!("{id} to be {state}"), async || {
        (stands(orders, id).await?.0 == state).then_some(())
    })
    .await;
}

/// Sets a group without members back to the beginning, as an operator would.
pub fn rewind(brokers: &str, topic: &str, group: &str) {
    let mut config = ClientConfig::new();
    let client: BaseConsumer =
        config.set("bootstrap.servers", brokers).set("group.id", group).create().expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).expect("an offset");
    }
    client.commit(&list, CommitMode::Sync).expect("a group without members");
}

/// A consumer with an admin port.
pub struct Watched {
    pub process: Process,
    port: Port,
}

impl Watched {
    pub fn start(orders: &Orders<'_>, instance: usize, with: With) -> Watched {
        let port = Port::claim();
        let mut with = with;
        with.environment.push(("OUTBOX_ADMIN", port.number().to_string()));
        Watched { process: orders.start_with(instance, &with), port }
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()));
        Some(http_get(address, path).ok()?.1)
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status")?).ok()
    }

    /// Partitions that are assigned, and whether each is paused.
    fn paused(&self) -> Vec<(i64, bool)> {
        let status = self.status().unwrap_or_default();
        let partitions = status["partitions"].as_array().cloned().unwrap_or_default();
        let mut paused: Vec<(i64, bool)> = partitions
            .iter()
            .filter_map(|partition| Some((partition["partition"].as_i64()?, partition["paused"].as_bool()?)))
            .collect();
        paused.sort_unstable();
        paused
    }
}
