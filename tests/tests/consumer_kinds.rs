//! Handlers of every kind on real servers: calls to the outside, what never runs twice, business keys and scopes; and
//! what stops a consumer: a halted partition, settlements kept for too short, more than it may hold.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outbox_consumer::ladder::hours;
use outbox_consumer::{Consumer, Event, Raw, RunError, Tx, done, transactional};
use outbox_tests::cluster::ground::Port;
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::process::Process;
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Orders, PARTITIONS, With};
use outbox_tests::relay::http_get;
use outbox_tests::wait::eventually_async;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use uuid::Uuid;

use crate::consumer::end;

const LIMIT: Duration = Duration::from_secs(90);

/// What a claim of the program's external handlers is good for: their time-out of 5 s, and ten more.
const LEASE: u64 = 15_000;

/// The pause between attempts of a record that halts its partition.
const HALTED: u64 = 60_000;

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

fn payload(number: i64, does: &str) -> String {
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

/// C47: the process is killed between the call and its settlement. The call is made again, when the claim's lease has
/// ended, and by the same idempotency key; meanwhile other keys go on, and behind it a copy makes none.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_process_was_killed_is_made_again_with_the_same_key() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("killed_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let id = send(&orders, "Called", "key", 0, "wait");
    orders.upstream().flush();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let first = outside.called(&orders, 0, 1).await.remove(0);
    process.kill();
    assert_eq!(
        stands(&orders, id).await,
        Some(("claimed".into(), Some(1))),
        "the call is made and not settled"
    );
    outside.open("gate");
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let other = send(&orders, "Called", "other", 1, "");
    send(&orders, "Called", "key", 2, "");
    settled(&orders, other, "done").await;
    assert_eq!(outside.calls(0), std::slice::from_ref(&first), "its lease has not ended");
    assert_eq!(outside.calls(2), [], "what is behind it waits");
    let second = outside.called(&orders, 0, 2).await.remove(1);
    settled(&orders, id, "done").await;
    assert_eq!(second.idempotency_key, first.idempotency_key);
    assert_eq!(first.idempotency_key, format!("killed_call/{id}"));
    assert_ne!(second.process, first.process);
    assert!(second.at >= first.at + LEASE - 1_000, "{} ms after the first", second.at - first.at);
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(2))));
    let behind = outside.called(&orders, 2, 1).await.remove(0);
    assert!(behind.at >= second.at, "in the order of their key");
    // Copies, also under another key, make no call.
    orders.upstream().send("Called", id, "key", &payload(0, ""));
    orders.upstream().send("Called", id, "another", &payload(0, ""));
    orders.upstream().flush();
    orders.committed_to_the_end("killed_call", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 2, "{}", orders.log(0));
    let result = orders.query("SELECT result FROM inbox.settlement WHERE id = $1", &[&id]).await;
    assert_eq!(result[0].get::<_, Option<Vec<u8>>>(0).as_deref(), Some(&b"answer 0"[..]));
    end(&process);
}

/// C47: a copy that comes while the call is made waits for it, and is settled with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_waits_for_the_call_that_is_made_and_makes_none() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("copies", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let process = orders.start_with(0, &outside.with(&[]));
    let id = send(&orders, "Called", "key", 0, "wait");
    outside.called(&orders, 0, 1).await;
    // Of another key, and so taken by another worker at once; what is behind it shows that it was.
    orders.upstream().send("Called", id, "another", &payload(0, ""));
    send(&orders, "Called", "another", 1, "");
    let beside = send(&orders, "Called", "beside", 2, "");
    settled(&orders, beside, "done").await;
    assert_eq!((outside.calls(0).len(), outside.calls(1).len()), (1, 0), "{}", orders.log(0));
    outside.open("gate");
    outside.called(&orders, 1, 1).await;
    orders.committed_to_the_end("copies", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 1, "{}", orders.log(0));
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(1))));
    end(&process);
}

/// C31, C47: an owner that is frozen in its call is taken over from when the lease has ended, and what it says when it
/// thaws decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owners_call_is_made_by_another_when_its_lease_has_ended() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("frozen_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let id = send(&orders, "Called", "key", 0, "wait");
    orders.upstream().flush();
    let frozen = orders.start_with(0, &outside.with(&[]));
    let first = outside.called(&orders, 0, 1).await.remove(0);
    frozen.pause();
    let next = orders.start_with(1, &outside.with(&[]));
    // The next owner finds the claim long before its end, and waits.
    eventually_async(LIMIT, "the partitions to go over", async || {
        (orders.said(1, " assigned ") >= PARTITIONS).then_some(())
    })
    .await;
    assert_eq!(stands(&orders, id).await, Some(("claimed".into(), Some(1))), "{}", orders.log(1));
    let second = outside.called(&orders, 0, 2).await.remove(1);
    assert!(second.at >= first.at + LEASE - 1_000, "{} ms after the first", second.at - first.at);
    assert_eq!((second.process, &second.idempotency_key), (next.pid(), &first.idempotency_key));
    // Both calls are under way now. The frozen one thaws, and its time is over.
    frozen.resume();
    outside.open("gate");
    settled(&orders, id, "done").await;
    orders.committed_to_the_end("frozen_call", LIMIT).await;
    assert_eq!(outside.calls(0).len(), 2, "{}\n---\n{}", orders.log(0), orders.log(1));
    assert_eq!(stands(&orders, id).await, Some(("done".into(), Some(2))));
    end(&frozen);
    end(&next);
}

/// The calls of an event that fails and is parked are one call to the outside, also where a business key names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_tried_on_from_the_park_with_the_same_key() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("parked_call", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let called = send(&orders, "Called", "called", 0, "closed");
    let behind = send(&orders, "Called", "called", 1, "");
    let charged = send(&orders, "Charged", "order-1/a", 2, "closed");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    for number in [0, 2] {
        outside.called(&orders, number, 3).await;
    }
    assert_eq!(outside.calls(1), [], "{}", orders.log(0));
    outside.open("gate");
    settled(&orders, called, "done").await;
    settled(&orders, behind, "done").await;
    let by_key = "SELECT count(*) FROM inbox.settlement WHERE business_key = 'idem:order-1:Charged' AND state = 'done'";
    eventually_async(LIMIT, "the charge to be settled", async || {
        (orders.number(by_key).await == 1).then_some(())
    })
    .await;
    for (number, id) in [(0, called), (2, charged)] {
        let calls = outside.calls(number);
        let attempts: Vec<u32> = calls.iter().map(|call| call.attempt).collect();
        assert_eq!(attempts, (1..=calls.len() as u32).collect::<Vec<_>>());
        assert!(calls.iter().all(|call| call.id == id), "{id} is the event's own: {calls:?}");
        let key = &calls[0].idempotency_key;
        assert!(calls.iter().all(|call| call.idempotency_key == *key), "one call to the outside: {calls:?}");
    }
    end(&process);
}

/// An answer that is longer than what is kept: the call is made, so it is settled, and what is behind it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_let_go_of() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("talks", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let talked = send(&orders, "Talked", "key", 0, "");
    let behind = send(&orders, "Called", "key", 1, "");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    let done = async {
        while stands(&orders, behind).await != Some(("done".into(), Some(1))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT / 3, done).await.is_ok(), "{}", orders.log(0));
    assert_eq!(stands(&orders, talked).await, Some(("done".into(), Some(1))));
    assert_eq!(outside.calls(0).len(), 1);
    end(&process);
}

/// A process that dies in an at-most-once handler, and one whose handler fails: it never runs again. The first leaves
/// a claim for ever, the second a dead letter; what is behind goes on.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_runs_again() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("at_most", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let killed = send(&orders, "Once", "key", 0, "wait");
    orders.upstream().flush();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    outside.called(&orders, 0, 1).await;
    process.kill();
    let process = orders.start_with(0, &kept_place(outside.with(&[])));
    let behind = send(&orders, "Once", "key", 1, "");
    let failed = send(&orders, "Once", "failed", 2, "closed");
    orders.upstream().send("Once", failed, "failed", &payload(2, "closed"));
    orders.upstream().flush();
    settled(&orders, behind, "done").await;
    settled(&orders, failed, "dead").await;
    orders.committed_to_the_end("at_most", LIMIT).await;
    let calls = [0, 1, 2].map(|number| outside.calls(number).len());
    assert_eq!(calls, [1, 1, 1], "{}", orders.log(0));
    assert_eq!(orders.said(0, "somebody began it and did not settle it"), 1, "{}", orders.log(0));
    let claimed = "SELECT count(*) FROM inbox.settlement WHERE state = 'claimed' AND lease_until = 'infinity' AND id = $1";
    assert_eq!(orders.query(claimed, &[&killed]).await[0].get::<_, i64>(0), 1);
    let mut letters = Log::open(&kafka.brokers(), &["at_most.at_most.dlq"], Isolation::ReadUncommitted);
    letters.catch_up();
    let ids: Vec<Option<&str>> = letters.records().iter().map(|letter| letter.header("id")).collect();
    assert_eq!(ids, [Some(failed.to_string().as_str())]);
    end(&process);
}

/// An at-most-once event that waits behind a parked one of its key runs from the park, and there, too, only once:
/// neither a failure nor the end of its process lets it run again.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_runs_again_from_the_park() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("at_most_parked", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    for (key, first, number, does) in [("fails", "closed", 1, "fails"), ("dies", "closed later", 2, "hangs")]
    {
        send(&orders, "Applied", key, 0, first);
        send(&orders, "Once", key, number, does);
        send(&orders, "Applied", key, 3, "");
    }
    orders.upstream().flush();
    let with = kept_place(outside.with(&[]));
    let process = orders.start_with(0, &with);
    let waiting = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(LIMIT, "six parked events", async || (orders.number(waiting).await == 6).then_some(()))
        .await;
    let through = "SELECT count(*) FROM effects WHERE number = 3";
    outside.open("gate");
    eventually_async(LIMIT, "what is behind the failed one", async || {
        assert!(outside.calls(1).len() < 2, "{}", orders.log(0));
        (orders.number(through).await == 1).then_some(())
    })
    .await;
    outside.open("gate.later");
    let hangs = outside.called(&orders, 2, 1).await;
    process.kill();
    let process = orders.start_with(0, &with);
    eventually_async(LIMIT, "what is behind the one that died", async || {
        assert_eq!(outside.calls(2), hangs, "{}", orders.log(0));
        (orders.number(through).await == 2).then_some(())
    })
    .await;
    let dead = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
    assert_eq!(orders.number(dead).await, 2, "{}", orders.log(0));
    end(&process);
}

/// Two events of one order are one to a handler that is told so: on other partitions, at the same time, later, and as
/// copies. The handler is shown the event's own id all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_business_key_makes_two_events_one() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("business", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let mut sent = Vec::new();
    for order in 0..20 {
        for (part, number) in [("a", 0), ("b", 1), ("a", 2)] {
            sent.push((
                order,
                send(&orders, "Paid", &format!("order-{order}/{part}"), order * 10 + number, ""),
            ));
        }
        send(&orders, "Applied", &format!("order-{order}/a"), 1_000 + order, "");
    }
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    orders.committed_to_the_end("business", LIMIT).await;
    let later = send(&orders, "Paid", "order-0/c", 9, "");
    orders.upstream().send("Paid", sent[0].1, "order-0/a", &payload(0, ""));
    orders.upstream().flush();
    orders.committed_to_the_end("business", LIMIT).await;
    let rows =
        orders.query("SELECT event, number FROM effects WHERE number < 1000 ORDER BY number", &[]).await;
    let paid: Vec<i64> = rows.iter().map(|row| row.get::<_, i64>(1) / 10).collect();
    assert_eq!(paid, (0..20).collect::<Vec<_>>(), "{}", orders.log(0));
    for row in &rows {
        let (event, number): (Uuid, i64) = (row.get(0), row.get(1));
        assert!(
            sent.contains(&(number / 10, event)),
            "{event} is an event of order {}, not {later}",
            number / 10
        );
    }
    assert_eq!(orders.number("SELECT count(*) FROM effects WHERE number >= 1000").await, 20, "another type");
    let rows = "SELECT count(*) FROM inbox.settlement
                 WHERE business_key LIKE 'idem:order-%:Paid' AND event_time = '-infinity' AND id = inbox.key_id(business_key)";
    assert_eq!(orders.number(rows).await, 20);
    end(&process);
}

/// An event that `dedup_by` panics for, or gives no key that could be kept, is a dead letter that says so. It runs
/// nowhere, what is behind it in its key goes on, and so does whoever it was taken with: in a group, in a call, on a task.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_business_key_is_given_up_and_holds_up_no_other() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("unnamed", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let wrong = [
        "its dedup_by panicked: as told",
        "its dedup_by gives no text",
        "its dedup_by gives a text with a NUL",
    ];
    let (mut letters, mut good) = (Vec::new(), Vec::new());
    for (event_type, first) in [("Named", 0), ("NamedCall", 100), ("NamedLight", 200)] {
        for number in first..first + 60 {
            let key = format!("{event_type}-{}", number % 10);
            match number - first {
                by_hand @ 21..24 => {
                    let id = Uuid::from_u128(u128::try_from(number - 20).expect("small"));
                    orders.upstream().send(event_type, id, &key, &payload(number, ""));
                    letters.push((id.to_string(), wrong[usize::try_from(by_hand - 21).expect("small")]));
                }
                _ => {
                    send(&orders, event_type, &key, number, "");
                    good.push((key, number));
                }
            }
        }
    }
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[("KINDS_EXHAUSTED", "skip")]));
    orders.committed_to_the_end("unnamed", LIMIT / 2).await;
    for (key, number) in &good {
        assert_eq!(outside.calls(*number).len(), 1, "{number} of {key}");
    }
    let at = |number: i64| outside.calls(number)[0].at;
    for (key, number) in &good {
        if let Some((_, next)) = good.iter().find(|(other, next)| other == key && next > number) {
            assert!(at(*number) <= at(*next), "{number} and {next}, in the order of {key}");
        }
    }
    let mut log = Log::open(&kafka.brokers(), &["unnamed.unnamed.dlq"], Isolation::ReadUncommitted);
    log.catch_up();
    let found: Vec<(&str, &str)> = log
        .records()
        .iter()
        .filter_map(|letter| Some((letter.header("id")?, letter.header("dlq.error.message")?)))
        .collect();
    assert_eq!(found.len(), letters.len(), "{found:?}");
    for (id, wrong) in &letters {
        assert!(
            found.iter().any(|(of, said)| of == id && said.starts_with(wrong)),
            "{id} {wrong}: {found:?}"
        );
    }
    let states =
        "SELECT count(*) FILTER (WHERE state = 'dead') * 1000 + count(*) FILTER (WHERE state = 'done')
                    FROM inbox.settlement";
    assert_eq!(orders.number(states).await, 6 * 1000 + 2 * 57, "of those with an inbox");
    assert_eq!(orders.number("SELECT count(*) FROM effects").await, 57);
    end(&process);
}

/// The same where its key is parked: it queues up, and is given up when its turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_business_key_does_not_run_from_the_park() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("unnamed_parked", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    send(&orders, "Named", "key", 0, "closed");
    orders.upstream().send("Named", Uuid::from_u128(1), "key", &payload(1, ""));
    send(&orders, "Named", "key", 2, "");
    orders.upstream().flush();
    let process = orders.start_with(0, &outside.with(&[]));
    let waiting = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(LIMIT, "three parked events", async || {
        (orders.number(waiting).await == 3).then_some(())
    })
    .await;
    outside.open("gate");
    let held = "SELECT count(*) FROM inbox.parked_key
                 WHERE held_by = 'hold' AND waiting = 2 AND last_error = 'its dedup_by panicked: as told'";
    for _ in 0..2 {
        eventually_async(LIMIT, "its key to be held", async || {
            (orders.number(held).await == 1).then_some(())
        })
        .await;
        assert_eq!((outside.calls(1).len(), outside.calls(2).len()), (0, 0), "{}", orders.log(0));
        let release = "SELECT inbox.release_parked_key(scope, topic, key, 'once more') FROM inbox.parked_key";
        orders.query(release, &[]).await;
    }
    end(&process);
}

/// Sets a group without members back to the beginning, as an operator would.
fn rewind(brokers: &str, topic: &str, group: &str) {
    let mut config = ClientConfig::new();
    let client: BaseConsumer =
        config.set("bootstrap.servers", brokers).set("group.id", group).create().expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).expect("an offset");
    }
    client.commit(&list, CommitMode::Sync).expect("a group without members");
}

/// Two scopes of one group each have the effect of every event once, whatever is read again.
#[tokio::test(flavor = "multi_thread")]
async fn two_scopes_of_one_group_each_have_the_effect_once() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("scopes", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let ids: Vec<Uuid> = (0..100)
        .map(|number| send(&orders, "Applied", &format!("key-{}", number % 20), number, ""))
        .collect();
    let call = send(&orders, "Called", "key-0", 100, "");
    orders.upstream().flush();
    // The consumer's name is a scope of its own, and its group is the same for all.
    for (instance, (scope, effects)) in
        [("", 1), ("again", 2), ("", 2), ("again", 2), ("third", 3)].into_iter().enumerate()
    {
        let process = orders.start_with(instance, &outside.with(&[("KINDS_SCOPE", scope)]));
        orders.committed_to_the_end("scopes", LIMIT).await;
        end(&process);
        let of_each = "SELECT count(*) FROM effects WHERE event = ANY ($1) GROUP BY event";
        let counts: Vec<i64> = orders.query(of_each, &[&ids]).await.iter().map(|row| row.get(0)).collect();
        assert_eq!(counts, [effects; 100], "as {scope:?}\n{}", orders.log(instance));
        let keys: Vec<String> = outside.calls(100).into_iter().map(|call| call.idempotency_key).collect();
        let expected = ["scopes", "again", "third"].map(|scope| format!("{scope}/{call}"));
        assert_eq!(keys, expected[..usize::try_from(effects).expect("few")]);
        rewind(&kafka.brokers(), "scopes", "scopes");
    }
}

/// A consumer with an admin port.
struct Watched {
    process: Process,
    port: Port,
}

impl Watched {
    fn start(orders: &Orders<'_>, instance: usize, with: With) -> Watched {
        let port = Port::claim();
        let mut with = with;
        with.environment.push(("OUTBOX_ADMIN", port.number().to_string()));
        Watched { process: orders.start_with(instance, &with), port }
    }

    fn get(&self, path: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()));
        Some(http_get(address, path).ok()?.1)
    }

    fn status(&self) -> Option<Value> {
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

/// The partition of each of the keys `key-0` to `key-59`, as their first events show it.
async fn partitions(orders: &Orders<'_>) -> Vec<i32> {
    for key in 0..60 {
        send(orders, "Applied", &format!("key-{key}"), key, "");
    }
    orders.upstream().flush();
    let found =
        "SELECT s.partition FROM effects e JOIN inbox.settlement s ON s.id = e.event ORDER BY e.number";
    eventually_async(LIMIT, "sixty effects", async || {
        let rows = orders.query(found, &[]).await;
        (rows.len() == 60).then(|| rows.iter().map(|row| row.get(0)).collect())
    })
    .await
}

/// C23: events that are exhausted halt their partition. They are tried again each minute, nothing more of the partition
/// is read, the others go on; that is seen from outside, and ends by itself when the last of them goes well.
#[tokio::test(flavor = "multi_thread")]
async fn exhausted_events_halt_their_partition_and_no_other() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("halts", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let with = With { rung: Some(0), ..outside.with(&[("KINDS_EXHAUSTED", "halt")]) };
    let consumer = Watched::start(&orders, 0, with);
    let partitions = partitions(&orders).await;
    let halted = partitions[0];
    let of_it: Vec<usize> = (0..60).filter(|key| partitions[*key] == halted).collect();
    send(&orders, "Applied", &format!("key-{}", of_it[0]), 100, "closed");
    send(&orders, "Applied", &format!("key-{}", of_it[1]), 101, "closed later");
    let expected: Vec<(i64, bool)> = (0..).take(PARTITIONS).map(|p| (p, p == i64::from(halted))).collect();
    eventually_async(LIMIT, "one paused partition", async || {
        let halts = orders.lines(0, "its partition is halted").len();
        (consumer.paused() == expected && halts == 2).then_some(())
    })
    .await;
    for key in 0..60 {
        send(&orders, "Applied", &format!("key-{key}"), 200 + key, "");
    }
    orders.upstream().flush();
    let elsewhere = i64::try_from(60 - of_it.len()).expect("few");
    let behind = "SELECT count(*) FROM effects WHERE number >= 100";
    eventually_async(LIMIT, "the other partitions to go on", async || {
        (orders.number(behind).await == elsewhere).then_some(())
    })
    .await;
    let metrics = consumer.get("/metrics").expect("metrics");
    let paused: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("outbox_consumer_partition_paused{")).collect();
    let label = format!("partition=\"{halted}\"");
    let as_expected = |line: &&str| line.ends_with(if line.contains(&label) { " 1" } else { " 0" });
    assert!(paused.len() == PARTITIONS && paused.iter().all(as_expected), "{paused:#?}");
    // A minute later one of the two goes well, and the other halts on.
    outside.open("gate");
    for number in [100, 101] {
        let calls = outside.called(&orders, number, 2).await;
        let pause = calls[1].at - calls[0].at;
        assert!((HALTED..HALTED + 5_000).contains(&pause), "{pause} ms between the attempts of {number}");
    }
    outside.open("gate.later");
    let gone_on = async {
        while orders.number(behind).await < 62 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone_on = tokio::time::timeout(LIMIT, gone_on).await;
    assert!(gone_on.is_ok(), "paused: {:?}\n{}", consumer.paused(), orders.log(0));
    let keys: Vec<String> = of_it.iter().map(|key| format!("key-{key}")).collect();
    let sooner = "SELECT count(*) FROM effects WHERE number >= 200 AND key = ANY ($1)
                   AND at < (SELECT max(at) FROM effects WHERE number IN (100, 101))";
    assert_eq!(orders.query(sooner, &[&keys]).await[0].get::<_, i64>(0), 0, "{}", orders.log(0));
    eventually_async(LIMIT, "no paused partition", async || {
        consumer.paused().iter().all(|(_, paused)| !paused).then_some(())
    })
    .await;
    assert_eq!(orders.said(0, "what halted its partition is settled"), 1, "{}", orders.log(0));
    end(&consumer.process);
}

/// A halted partition that goes to another instance and comes back is not forgotten: its event is read again, and when
/// it goes well, so does the partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_halted_partition_that_went_and_came_back_goes_on() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("halts_twice", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let with = With { rung: Some(0), ..outside.with(&[("KINDS_EXHAUSTED", "halt")]) };
    let consumer = Watched::start(&orders, 0, with.clone());
    let partitions = partitions(&orders).await;
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        let key = partitions.iter().position(|found| *found == partition).expect("a key of each partition");
        send(&orders, "Applied", &format!("key-{key}"), 100 + i64::from(partition), "closed");
    }
    orders.upstream().flush();
    eventually_async(LIMIT, "all to be paused", async || {
        let paused = consumer.paused();
        (paused.len() == PARTITIONS && paused.iter().all(|(_, paused)| *paused)).then_some(())
    })
    .await;
    let other = orders.start_with(1, &with);
    eventually_async(LIMIT, "the other instance to halt its share", async || {
        (orders.lines(1, "its partition is halted").len() == PARTITIONS / 2).then_some(())
    })
    .await;
    end(&other);
    eventually_async(LIMIT, "the partitions to come back", async || {
        (consumer.paused().len() == PARTITIONS).then_some(())
    })
    .await;
    outside.open("gate");
    let limit = Instant::now() + LIMIT;
    let effects = "SELECT count(*) FROM effects WHERE number >= 100";
    while orders.number(effects).await < 6 {
        assert!(Instant::now() < limit, "paused {:?}\n{}", consumer.paused(), orders.log(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    orders.committed_to_the_end("halts_twice", LIMIT).await;
    end(&consumer.process);
}

/// Runs a consumer of settlements that are kept as given until it ends, or until its scope is declared.
async fn declared(
    postgres: &Postgres,
    kafka: &Kafka,
    kept: Option<(Duration, &str)>,
) -> Result<(), RunError> {
    let (url, brokers) = (postgres.url("kept"), kafka.brokers());
    let lookup = |name: &str| match name {
        "DATABASE_URL" => Some(url.clone()),
        "KAFKA_BROKERS" => Some(brokers.clone()),
        _ => None,
    };
    let mut consumer = Consumer::from_lookup("kept", lookup)
        .owner("tests", hours(3))
        .topic("kept")
        .on("Applied", transactional(async |_: Event<Raw>, _: Tx| done()));
    if let Some((kept, signed_by)) = kept {
        consumer = consumer.keep_settlements(kept, signed_by);
    }
    let client = postgres.connect("kept").await;
    let shutdown = async move {
        eventually_async(LIMIT, "the scope to be declared", async || {
            let rows = client.query("SELECT FROM inbox.scope", &[]).await.ok()?;
            (!rows.is_empty()).then_some(())
        })
        .await;
    };
    consumer.run_until(shutdown).await
}

/// C3: settlements that would be kept for less time than a copy can still come are refused at the start, with the
/// arithmetic: what the topic keeps, the ladder, the dead letters' window, the relay's table. Somebody may sign for it.
#[tokio::test(flavor = "multi_thread")]
async fn settlements_kept_for_too_short_are_refused_with_the_arithmetic() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("kept_as_usual", &postgres, &kafka, program()).await;
    drop(orders);
    postgres.create_database("kept").await;
    let client = postgres.connect("kept").await;
    client.batch_execute(&outbox_schema::sql::inbox::up()).await.expect("the inbox");
    let retention = (50 * 3_600_000_u64).to_string();
    kafka.create_topic("kept", 1, &[("retention.ms", &retention)]).await;
    // Three hours for their owner, 71 minutes of the usual ladder, which jitter may lengthen.
    let floor = "SELECT extract(epoch FROM floor)::bigint / 3600 FROM inbox.scope";
    let refused = declared(&postgres, &kafka, Some((hours(24), ""))).await.expect_err("a refusal");
    let mut said = refused.to_string();
    let mut cause = std::error::Error::source(&refused);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    let rows = client.query("SELECT FROM inbox.scope", &[]).await.expect("an answer");
    assert_eq!(rows.len(), 0, "nothing is declared: {said}");
    for part in [
        "24:00:00",
        "50:00:00 that the topic keeps it",
        "on the ladder",
        "3:00:00 among the dead letters",
        "8 days for which",
        "signed_by",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let signed = declared(&postgres, &kafka, Some((hours(24), "the order team"))).await;
    assert!(signed.is_ok(), "{signed:?}");
    let row =
        client.query_one("SELECT kept = '24 hours', signed_by FROM inbox.scope", &[]).await.expect("a row");
    assert_eq!((row.get(0), row.get(1)), (true, "the order team"));
    let audited = "SELECT count(*) FROM inbox.audit WHERE action = 'floor' AND reason LIKE '%signed by the order team%'";
    assert_eq!(client.query_one(audited, &[]).await.expect("a row").get::<_, i64>(0), 1);
    // Without a wish they are kept for the floor: the sum, and nothing of it left out.
    let usual = declared(&postgres, &kafka, None).await;
    assert!(usual.is_ok(), "{usual:?}");
    let hours: i64 = client.query_one(floor, &[]).await.expect("a row").get(0);
    assert!((8 * 24 + 50 + 3 + 1..8 * 24 + 50 + 3 + 3).contains(&hours), "{hours} hours");
}

/// C33: handlers stand still for several times as long as the client may go without a poll, and far more is waiting
/// than may be held. Reading stops, memory stays where it is, nobody leaves the group; then all of it happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_holds_as_much_as_it_may_stops_reading_and_stays_in_its_group() {
    const RECORDS: usize = 4_000;
    const POLL: Duration = Duration::from_secs(6);
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("pressure", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    // 64 MiB may be held, and four times as much is sent.
    let pad = "x".repeat(64 << 10);
    for number in 0..RECORDS {
        let payload = format!("{{\"number\":{number},\"does\":\"wait\",\"pad\":\"{pad}\"}}");
        orders.upstream().send("Applied", Uuid::now_v7(), &format!("key-{number}"), &payload);
        if number % 100 == 99 {
            orders.upstream().flush();
        }
    }
    orders.upstream().flush();
    let options = format!("max.poll.interval.ms={}", POLL.as_millis());
    let with = With { kafka: options, ..outside.with(&[]) };
    let consumer = Watched::start(&orders, 0, with);
    eventually_async(LIMIT, "everything to be paused", async || {
        let status = consumer.status()?;
        let paused = consumer.paused();
        let all = paused.len() == PARTITIONS && paused.iter().all(|(_, paused)| *paused);
        (all && status["in_hand"]["full"] == true).then_some(())
    })
    .await;
    let full = Instant::now();
    let held = |status: &Value| status["in_hand"]["bytes"].as_u64().unwrap_or(u64::MAX);
    let read = consumer.status().map(|status| held(&status)).expect("a status");
    assert!(read >= 64 << 20, "{read} bytes are in hand");
    while full.elapsed() < POLL * 3 {
        assert!(consumer.process.ended().is_none(), "{}", orders.log(0));
        assert_eq!(consumer.status().map(|status| held(&status)), Some(read), "nothing more is taken in");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let peak = consumer.process.memory_kib("VmHWM").expect("a figure") >> 10;
    println!(
        "proof: {} MiB in hand of {} MiB, {peak} MiB resident at most",
        read >> 20,
        (RECORDS * pad.len()) >> 20
    );
    assert!(peak < 160, "{peak} MiB");
    outside.open("gate");
    let effects = "SELECT count(*) FROM effects";
    eventually_async(LIMIT, "every effect", async || {
        (usize::try_from(orders.number(effects).await).ok()? >= RECORDS).then_some(())
    })
    .await;
    orders.committed_to_the_end("pressure", LIMIT).await;
    let distinct = orders.number("SELECT count(DISTINCT event) FROM effects").await;
    assert_eq!((distinct, orders.number(effects).await), (RECORDS as i64, RECORDS as i64));
    assert_eq!(orders.said(0, " assigned "), PARTITIONS, "{}", orders.log(0));
    let status = consumer.status().expect("a status");
    let totals = &status["totals"];
    let moved =
        ["partitions_assigned", "partitions_revoked", "partitions_lost"].map(|name| totals[name].as_u64());
    assert_eq!(moved, [Some(PARTITIONS as u64), Some(0), Some(0)]);
    end(&consumer.process);
}
