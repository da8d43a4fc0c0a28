//! Dead letters from the failure to the decision: written to Kafka, projected into PostgreSQL, listed, replayed and
//! discarded with `outbox-dlq` as an operator runs it. No consumer runs: what one would do to a parked event is done
//! here by hand.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use outbox_consumer::dead_letters::{Evidence, Header, Letter, Placed, Sink, SinkError, topic};
use outbox_schema::sql::inbox::{CONSUMER_ROLE, up};
use outbox_tests::authority::{Authority, write as write_file};
use outbox_tests::cluster::{self, Kafka, Postgres, usual_version};
use outbox_tests::inbox::{Inbox, SCOPE, Session, server};
use outbox_tests::wait::eventually_async;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A consumer with an inbox and a source topic, whose events fail.
struct Stage {
    inbox: Inbox,
    session: Session,
    kafka: &'static Kafka,
    name: &'static str,
    topic: String,
    sink: Sink,
}

/// How a run of the tool ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn client(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers()).set("log_level", "2");
    config
}

/// The tool beside this test, or where `OUTBOX_DLQ_BIN` says.
fn tool() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("a path of this test");
        test.parent().and_then(|deps| deps.parent()).expect("cargo's directories").join("outbox-dlq")
    };
    let path = std::env::var_os("OUTBOX_DLQ_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "no tool at {}: cargo build --release -p outbox-consumer", path.display());
    path
}

impl Stage {
    async fn prepare(name: &'static str) -> Stage {
        let kafka = &cluster::shared().kafka;
        let inbox = Inbox::prepare(name).await;
        let session = inbox.consumer().await;
        let topic = format!("letters.{name}");
        kafka.create_topic(&topic, 3, &[]).await;
        let sink = Sink::new(&client(kafka), name, topic::RETENTION).unwrap();
        assert_eq!(sink.prepare(&topic).await.unwrap(), []);
        Stage { inbox, session, kafka, name, topic, sink }
    }

    fn evidence(&self, number: u32, cause: &str, replay: u32) -> Evidence {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Evidence {
            topic: self.topic.clone(),
            partition: 1,
            offset: i64::from(number),
            timestamp: Some(1_700_000_000_000),
            group: self.name.to_owned(),
            scope: SCOPE.to_owned(),
            handler: Some("reserve_stock".into()),
            id: Some(self.inbox.id(number).parse().unwrap()),
            created: None,
            event_type: Some("OrderPlaced".into()),
            class: Some("StockError".into()),
            message: format!("no stock for order {number}"),
            stack: Some("line 1\nline 2".into()),
            cause: cause.to_owned(),
            attempts: 4,
            first_failed: at,
            last_failed: at,
            instance: "pod-1".into(),
            sdk: "outbox-consumer 0.1.0".into(),
            owner: "inventory-team".into(),
            deadline: "2026-01-02T00:00:00Z".parse().unwrap(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            replay,
            truncated: false,
        }
    }

    /// Writes an event's dead letter, as often as it is called.
    async fn send(&self, number: u32, key: &str, cause: &str, replay: u32) -> Placed {
        let id = Header::text("id", self.inbox.id(number));
        let empty = Header { name: "empty".into(), value: None };
        let value = format!("value \u{0} {number}");
        let letter = Letter {
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[id, empty],
            evidence: &self.evidence(number, cause, replay),
        };
        self.sink.send(letter).await.unwrap()
    }

    /// The event is settled as dead, and its letter written and projected.
    async fn dead(&self, numbers: &[u32], key: &str, cause: &str) {
        let (claim, settle) = (self.inbox.claim(numbers), self.inbox.settle(numbers, "dead"));
        self.inbox.admin.run(&format!("BEGIN; {claim}; {settle}; COMMIT")).await;
        for number in numbers {
            self.send(*number, key, cause, 0).await;
        }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(tool());
        let url = format!("postgres://{0}:secret@127.0.0.1:{1}/{0}", self.name, server().port());
        command.args(line).env("DATABASE_URL", url).env("KAFKA_BROKERS", self.kafka.brokers());
        command.env("LOGNAME", "alice").env_remove("SUDO_USER").stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Ended {
        ended(self.command(line))
    }

    /// What it prints, having done what it was asked for.
    #[track_caller]
    fn does(&self, line: &[&str]) -> String {
        let Ended { code, out, err } = self.run(line);
        assert_eq!(code, Some(0), "{line:?}\n{out}\n{err}");
        out
    }

    /// What it complains about.
    #[track_caller]
    fn fails(&self, line: &[&str]) -> String {
        let Ended { code, out, err } = self.run(line);
        assert_eq!(code, Some(1), "{line:?}\n{out}\n{err}");
        err
    }

    fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.does(&[line, &["--json"]].concat())).unwrap()
    }

    fn project(&self) -> String {
        self.does(&["project", "--group", self.name])
    }

    /// Records in the source topic.
    fn published(&self) -> i64 {
        let consumer: BaseConsumer = client(self.kafka).create().unwrap();
        (0..3).map(|partition| consumer.fetch_watermarks(&self.topic, partition, PATIENCE).unwrap().1).sum()
    }

    async fn states(&self) -> Vec<String> {
        self.session.rows("SELECT state, replay FROM inbox.dead_letters ORDER BY letter").await
    }

    /// What a claimant does with the first event of a key.
    async fn run_parked(&self, key: &str, ending: &str) {
        let topic = &self.topic;
        self.session
            .run(&format!(
                "BEGIN; SELECT inbox.resume('{SCOPE}', '{topic}', '{key}'); {ending};
                 SELECT inbox.unpark('{SCOPE}', '{topic}', '{key}', (SELECT array_agg(seq) FROM inbox.parked_event));
                 SELECT inbox.remove_parked_key('{SCOPE}', '{topic}', '{key}'); COMMIT"
            ))
            .await;
    }
}

fn ended(mut command: Command) -> Ended {
    let output = command.output().expect("the tool runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// The group begins anew, as after its offsets have expired.
async fn forget_offsets(kafka: &Kafka, group: &str) {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let deleted = admin.delete_groups(&[group], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_collapse_and_are_listed_grouped_and_shown() {
    let stage = Stage::prepare("dlq_list").await;
    stage.dead(&[1, 2], "k-1", "out_of_stock").await;
    stage.dead(&[3], "k-2", "timeout").await;
    let copy = stage.send(1, "k-1", "out_of_stock", 0).await;
    assert_eq!((copy.topic.as_str(), copy.partition), ("letters.dlq_list.dlq_list.dlq", 1));
    says(&stage.project(), &["letters.dlq_list.dlq_list.dlq: read 4, 4 new"]);
    let again = stage.json(&["project", "--group", stage.name]);
    assert_eq!((&again["read"], &again["new"]), (&0.into(), &0.into()), "{again}");
    // From the beginning once more: nothing is new, nothing changes.
    let before = stage.session.rows("SELECT d::text FROM inbox.dead_letter AS d ORDER BY 1").await;
    forget_offsets(stage.kafka, "dlq_list.dlq-projection").await;
    says(&stage.project(), &["read 4, 0 new"]);
    assert_eq!(stage.session.rows("SELECT d::text FROM inbox.dead_letter AS d ORDER BY 1").await, before);
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.dead_letter").await, "3");
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.dead_letter_copy").await, "4");

    let id = stage.inbox.id(1);
    let list = stage.does(&["list"]);
    says(
        &list,
        &[&id, "inventory-team", "StockError: no stock for order 1", "3 dead letters, 3 past their deadline"],
    );
    assert!(
        !list.contains("value") && !list.contains('\x1b'),
        "neither payload nor colours in a file: {list}"
    );
    for (filter, expected) in [
        (&["--cause", "timeout"][..], 1),
        (&["--error", "NO STOCK FOR ORDER 2"], 1),
        (&["--key", "k-1"], 2),
        (&["--key", "\\x6b2d32"], 1),
        (&["--since", "2026-01-01T00:00:01Z"], 0),
        (&["--until", "2026-01-01T00:00:01Z", "--topic", &stage.topic, "--scope", SCOPE], 3),
        (&["--scope", "another"], 0),
        (&["--state", "discarded"], 0),
        (&["--all", "--limit", "2"], 2),
    ] {
        let document = stage.json(&[&["list"], filter].concat());
        assert_eq!(document["letters"].as_array().unwrap().len(), expected, "{filter:?}\n{document}");
    }
    let causes = stage.json(&["causes"]);
    assert_eq!(
        (&causes["causes"][0]["cause"], &causes["causes"][0]["letters"]),
        (&"out_of_stock".into(), &2.into())
    );
    assert_eq!((&causes["causes"][0]["keys"], &causes["causes"][0]["overdue"]), (&1.into(), &2.into()));
    says(&stage.does(&["causes"]), &["out_of_stock", "inventory-team", "3 dead letters of 2 causes"]);

    let page = stage.does(&["show", &id]);
    says(
        &page,
        &["reserve_stock", "letters.dlq_list/1/1", "k-1", "which has passed", "2026-01-01T00:00:00Z"],
    );
    assert_eq!(page.matches("letters.dlq_list.dlq_list.dlq/1/").count(), 2, "{page}");
    assert!(!page.contains("value "), "{page}");
    let page = stage.does(&["show", &id, "--payload"]);
    says(
        &page,
        &[
            "dlq.instance: pod-1",
            "dlq.error.stack: \\x6c696e6520310a",
            "empty: (null)",
            "value    \\x76616c7565",
        ],
    );
    assert_eq!(stage.does(&["show", &id, "--raw"]), "value \u{0} 1");
    assert_eq!(stage.json(&["show", &id])["copies"].as_array().unwrap().len(), 2);
    says(&stage.fails(&["show", "nothing"]), &["there is no dead letter nothing here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_foreseen_and_parked_once_and_its_number_grows() {
    let stage = Stage::prepare("dlq_replay").await;
    stage.dead(&[1, 2], "k-1", "out_of_stock").await;
    stage.dead(&[3], "k-2", "timeout").await;
    stage.project();
    let everything =
        "SELECT d::text FROM inbox.dead_letter AS d UNION ALL SELECT a::text FROM inbox.audit AS a
                      UNION ALL SELECT s::text FROM inbox.settlement AS s ORDER BY 1";
    let before = stage.inbox.admin.rows(everything).await;
    let foreseen = stage.does(&["replay", "--cause", "out_of_stock", "--dry-run"]);
    says(
        &foreseen,
        &["would be (number 1) replayed", "would replay 2 of 2 dead letters in 1 key; nothing was changed"],
    );
    assert_eq!(stage.inbox.admin.rows(everything).await, before);
    assert_eq!(stage.run(&["replay", "--cause", "out_of_stock"]).code, Some(2), "a reason is asked for");
    says(&stage.fails(&["replay", "--reason", "x"]), &["no letter is named", "--all for all that wait"]);

    let done = stage.does(&["replay", "--cause", "out_of_stock", "--reason", "stock was filled"]);
    says(&done, &["replayed as number 1", "replayed 2 dead letters as dlq_replay"]);
    assert_eq!(stage.states().await, ["replaying 1", "replaying 1", "open 0"]);
    assert_eq!(stage.published(), 0, "no other group meets the event again (C36)");
    // In the order of the source, with the original record and the trace of the failed run, and nothing else of ours.
    let parked = "SELECT right(id::text, 1), replay, partition, record_offset, extract(epoch FROM record_time)::bigint,
                         convert_from(record_key, 'UTF8'), encode(record_value, 'hex'),
                         (SELECT string_agg(h->>0, ',') FROM json_array_elements(headers) AS h)
                    FROM inbox.parked_event ORDER BY seq";
    assert_eq!(
        stage.session.rows(parked).await,
        [
            "1 1 1 1 1700000000 k-1 76616c756520002031 id,empty,dlq.traceparent",
            "2 1 1 2 1700000000 k-1 76616c756520002032 id,empty,dlq.traceparent"
        ]
    );
    let marked = format!("SELECT inbox.marked('{SCOPE}', '{{{}}}', '{{k-1}}')", stage.topic);
    assert_eq!(stage.session.one(&marked).await, "{1}", "live events of the key queue behind it");
    let id = stage.inbox.id(1);
    says(
        &stage.fails(&["replay", &id, "--reason", "again"]),
        &["is replaying, and would have to be open or restored"],
    );
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.parked_event").await, "2");

    // Both run; the first is dead again, with a new copy. Its next replay has the next number, and then it is enough.
    stage.run_parked("k-1", &stage.inbox.settle(&[1], "dead")).await;
    stage.send(1, "k-1", "out_of_stock", 1).await;
    stage.project();
    assert_eq!(stage.states().await[0], "open 1");
    says(
        &stage.fails(&["replay", &id, "--reason", "again", "--max-replays", "1"]),
        &["was replayed 1 times", "--max-replays"],
    );
    let foreseen = stage.json(&["replay", &id, "--dry-run", "--max-replays", "1"]);
    assert_eq!(foreseen["outcomes"][0]["outcome"], "would_refuse", "{foreseen}");
    says(&stage.does(&["replay", &id, "--reason", "again"]), &["replayed as number 2"]);
    assert_eq!(stage.session.one("SELECT count(*) FROM inbox.audit WHERE action = 'replay'").await, "3");
    let audit = stage.does(&["audit", &id]);
    says(&audit, &["stock was filled (by alice)", "again (by alice)", "dlq_replay", "2 decisions"]);
}

/// A run that is killed leaves each letter either replayed or open, and the same command goes on (C38).
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_goes_on_and_replays_each_once() {
    const MANY: u32 = 30;
    let stage = Stage::prepare("dlq_killed").await;
    let numbers: Vec<u32> = (1..=MANY).collect();
    for (key, numbers) in ["k-1", "k-2", "k-3"].iter().zip(numbers.chunks(10)) {
        stage.dead(numbers, key, "out_of_stock").await;
    }
    stage.project();
    let line = ["replay", "--cause", "out_of_stock", "--reason", "stock was filled"];
    let mut slow = stage.command(&[&line[..], &["--rate", "20"]].concat());
    let mut first: Child = slow.stdout(Stdio::null()).spawn().unwrap();
    let count = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(PATIENCE, "some replays", async || {
        (stage.session.one(count).await.parse::<u32>().unwrap() >= 3).then_some(())
    })
    .await;
    first.kill().unwrap();
    first.wait().unwrap();
    // What the killed tool sent last may still be running.
    let idle =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'dlq_killed' AND pid <> pg_backend_pid()";
    eventually_async(PATIENCE, "the end of its session", async || {
        (stage.inbox.admin.one(idle).await == "1").then_some(())
    })
    .await;
    let half: u32 = stage.session.one(count).await.parse().unwrap();
    assert!((3..MANY).contains(&half), "killed half way, after {half}");

    let rest = MANY - half;
    says(&stage.does(&line), &[&format!("replayed {rest} dead letter")]);
    assert_eq!(stage.session.one(count).await, MANY.to_string());
    assert_eq!(
        stage.session.one("SELECT count(DISTINCT id) FROM inbox.parked_event WHERE replay = 1").await,
        "30"
    );
    assert_eq!(stage.session.one("SELECT count(*), count(DISTINCT letter) FROM inbox.audit").await, "30 30");
    let order = "SELECT bool_and(ok) FROM (SELECT record_offset > lag(record_offset, 1, 0) OVER (PARTITION BY key ORDER BY seq) AS ok
                   FROM inbox.parked_event) AS o";
    assert_eq!(stage.session.one(order).await, "t", "each key in the order of its source");
    says(&stage.fails(&line), &["no dead letter of these waits for a decision"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_and_restored_with_a_reason() {
    let stage = Stage::prepare("dlq_decide").await;
    stage.dead(&[1, 2], "k-1", "out_of_stock").await;
    stage.project();
    let id = stage.inbox.id(1);
    assert_eq!(stage.run(&["discard", &id]).code, Some(2));
    says(
        &stage.does(&["discard", "--all", "--dry-run"]),
        &["would discard 2 dead letters; nothing was changed"],
    );
    let foreseen = stage.json(&["discard", "--all", "--dry-run"]);
    assert_eq!(
        (&foreseen["changed"], &foreseen["outcomes"][1]["outcome"]),
        (&false.into(), &"would_discard".into())
    );
    assert_eq!(stage.states().await, ["open 0", "open 0"]);
    says(
        &stage.does(&["discard", &id, "--reason", "a test order"]),
        &["discarded 1 dead letter as dlq_decide"],
    );
    assert_eq!(stage.states().await, ["discarded 0", "open 0"]);
    says(&stage.fails(&["replay", &id, "--reason", "x"]), &["is discarded, and would have to be"]);
    says(&stage.does(&["list"]), &["1 dead letter,"]);
    says(&stage.does(&["list", "--state", "discarded"]), &[&id]);
    says(&stage.fails(&["discard", &id, "--reason", "x"]), &["is discarded, and would have to be"]);
    says(
        &stage.does(&["restore", "--cause", "out_of_stock", "--reason", "it was none"]),
        &["restored 1 dead letter"],
    );
    assert_eq!(stage.states().await, ["restored 0", "open 0"]);
    says(
        &stage.fails(&["discard", &id, "nothing", "--reason", "x"]),
        &["there is no dead letter nothing here"],
    );
    assert_eq!(
        stage.states().await,
        ["restored 0", "open 0"],
        "half of what was named is not what was meant"
    );
    let audit = stage.json(&["audit", "--scope", SCOPE, "--since", "1h"]);
    let decisions = audit["decisions"].as_array().unwrap();
    let said: Vec<String> = decisions
        .iter()
        .map(|entry| format!("{} {} {}", entry["who"], entry["action"], entry["reason"]).replace('"', ""))
        .collect();
    assert_eq!(
        said,
        ["dlq_decide discard a test order (by alice)", "dlq_decide restore it was none (by alice)"]
    );
    says(&stage.does(&["show", &id]), &["it was none (by alice)", "decisions", "restore"]);
}

/// Ctrl-C ends after the present letter, with a sentence of what was done and what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cancelled_says_what_was_done_and_goes_on() {
    const MANY: u32 = 12;
    let stage = Stage::prepare("dlq_cancelled").await;
    stage.dead(&(1..=MANY).collect::<Vec<_>>(), "k-1", "out_of_stock").await;
    stage.project();
    let line = ["replay", "--cause", "out_of_stock", "--reason", "stock was filled"];
    let mut slow = stage.command(&[&line[..], &["--rate", "5"]].concat());
    let running = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let count = "SELECT count(*) FROM inbox.parked_event";
    eventually_async(PATIENCE, "a replay", async || (stage.session.one(count).await != "0").then_some(()))
        .await;
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let output = running.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    let done: u32 = stage.session.one(count).await.parse().unwrap();
    assert!((1..MANY).contains(&done), "cancelled half way, after {done}");
    says(&err, &["ending after the present letter"]);
    let left = MANY - done;
    says(&out, &[&format!("cancelled with {left} left: the same command goes on with them")]);
    assert_eq!(out.matches("replayed as number 1").count(), done as usize, "{out}");

    let rest = stage.json(&line);
    let outcomes = rest["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), left as usize, "{rest}");
    assert!(outcomes.iter().all(|one| one["outcome"] == "replayed" && one["number"] == 1), "{rest}");
    assert_eq!(stage.session.one(count).await, MANY.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_keys_are_listed_held_and_released_with_a_reason() {
    let stage = Stage::prepare("dlq_parked").await;
    stage.dead(&[1, 2], "k-1", "out_of_stock").await;
    stage.dead(&[3], "k-2", "timeout").await;
    stage.project();
    stage.does(&["replay", "--all", "--reason", "stock was filled"]);
    let list = stage.does(&["parked"]);
    says(&list, &["k-1", "letters.dlq_parked", SCOPE, "waiting", "no stock for order 1", "2 parked keys\n"]);
    let states = "SELECT convert_from(key, 'UTF8'), state, held_by, waiting FROM inbox.parked_key ORDER BY 1";
    let hold = ["hold", "--topic", &stage.topic, "--key", "k-1", "--reason", "a wrong price"];
    says(&stage.fails(&["hold", "--reason", "x"]), &["no key is named", "--all for all that are waiting"]);
    assert_eq!(stage.run(&hold[..5]).code, Some(2), "a reason is asked for");
    let foreseen = [&hold[..5], &["--dry-run"]].concat();
    says(&stage.does(&foreseen), &["would hold  k-1", "would hold 1 parked key; nothing was changed"]);
    assert_eq!(stage.json(&foreseen)["outcomes"][0]["outcome"], "would_hold");
    assert_eq!(stage.session.rows(states).await, ["k-1 waiting - 2", "k-2 waiting - 1"]);

    says(&stage.does(&hold), &["held  k-1", "held 1 parked key as dlq_parked"]);
    assert_eq!(stage.session.rows(states).await, ["k-1 held operator 2", "k-2 waiting - 1"]);
    says(&stage.fails(&hold), &["no parked key of these is waiting"]);
    says(&stage.does(&["parked", "--held"]), &["held by operator", "1 parked key, 1 held"]);
    let held = stage.json(&["parked", "--held", "--scope", SCOPE]);
    let event = Value::from(stage.inbox.id(1));
    assert_eq!((&held["keys"][0]["events"], &held["keys"][0]["event"]), (&2.into(), &event), "{held}");
    for (filter, expected) in
        [(&["--error", "ORDER 3"][..], 1), (&["--key", "\\x6b2d32"], 1), (&["--scope", "x"], 0)]
    {
        let document = stage.json(&[&["parked"], filter].concat());
        assert_eq!(document["keys"].as_array().unwrap().len(), expected, "{filter:?}\n{document}");
    }
    // Nobody takes it, and what is replayed meanwhile waits behind it.
    let due = format!("SELECT convert_from(key, 'UTF8') FROM inbox.take_parked_key('{SCOPE}')");
    assert_eq!(stage.session.rows(&due).await, ["k-2"]);
    stage.dead(&[4], "k-1", "out_of_stock").await;
    stage.project();
    stage.does(&["replay", &stage.inbox.id(4), "--reason", "stock was filled"]);
    assert_eq!(stage.session.rows(states).await[0], "k-1 held operator 3");

    let released = stage.json(&["release", "--key", "k-1", "--reason", "the price is right"]);
    assert_eq!(
        (&released["changed"], &released["outcomes"][0]["outcome"]),
        (&true.into(), &"released".into())
    );
    assert_eq!(stage.session.rows(states).await[0], "k-1 waiting - 3");
    let next = format!("SELECT right(id::text, 1) FROM inbox.resume('{SCOPE}', '{}', 'k-1')", stage.topic);
    assert_eq!(stage.session.rows(&format!("BEGIN; {next}; ROLLBACK")).await, ["1"], "from its first event");
    says(&stage.fails(&["release", "--all", "--reason", "x"]), &["no parked key of these is held"]);
    let audit = stage.does(&["audit", "--scope", SCOPE]);
    says(&audit, &["hold", "a wrong price (by alice)", "release", "the price is right (by alice)"]);
    says(&audit, &["key k-1 of letters.dlq_parked"]);
}

/// Writes a record with any headers.
async fn write(kafka: &Kafka, topic: &str, headers: &[(&str, &[u8])]) {
    let producer: FutureProducer = client(kafka).create().unwrap();
    let list = headers.iter().fold(OwnedHeaders::new(), |list, (key, value)| {
        list.insert(rdkafka::message::Header { key, value: Some(*value) })
    });
    let record = FutureRecord::<[u8], [u8]>::to(topic).key(b"k").payload(b"v").headers(list);
    producer.send(record, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_other_frameworks_damaged_ones_and_those_of_another_group() {
    let stage = Stage::prepare("dlq_foreign").await;
    let dlt = "dlq_foreign-dlt";
    stage.kafka.create_topic(dlt, 1, &[]).await;
    let spring: [(&str, &[u8]); 5] = [
        ("kafka_dlt-original-topic", b"orders"),
        ("kafka_dlt-original-partition", &7_i32.to_be_bytes()),
        ("kafka_dlt-original-offset", &4711_i64.to_be_bytes()),
        ("kafka_dlt-exception-cause-fqcn", b"com.example.StockException"),
        ("kafka_dlt-exception-message", b"no stock\0"),
    ];
    write(stage.kafka, dlt, &spring).await;
    let connect: [(&str, &[u8]); 4] = [
        ("__connect.errors.topic", b"orders"),
        ("__connect.errors.partition", b"2"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ];
    write(stage.kafka, dlt, &connect).await;
    write(stage.kafka, dlt, &[("dlq.topic", b"orders"), ("dlq.partition", b"\xff")]).await;
    write(stage.kafka, dlt, &[]).await;
    let theirs = Evidence { group: "another".into(), ..stage.evidence(1, "out_of_stock", 0) }.headers(&[], 0);
    let theirs: Vec<(&str, &[u8])> =
        theirs.iter().map(|header| (header.name.as_str(), header.value.as_deref().unwrap())).collect();
    write(stage.kafka, dlt, &theirs).await;

    let line =
        ["project", "--group", "dlq_foreign", "--topic", dlt, "--scope", "warehouse", "--owner", "sink-team"];
    let Ended { code, out, err } = stage.run(&line);
    assert_eq!(code, Some(1), "what is refused is reported: {out}{err}");
    says(&out, &["dlq_foreign-dlt: read 5, 4 new"]);
    says(&err, &["1 not taken up", "of group another, not of dlq_foreign", "dlq_foreign-dlt/0/4"]);
    let rows = "SELECT letter, cause, owner, state FROM inbox.dead_letters ORDER BY letter";
    assert_eq!(
        stage.session.rows(rows).await,
        [
            "dlq_foreign-dlt/0/2 damaged_evidence sink-team open",
            "dlq_foreign-dlt/0/3 no_evidence sink-team open",
            "orders/2/17 DataException sink-team open",
            "orders/7/4711 StockException sink-team open",
        ]
    );
    let page = stage.does(&["show", "orders/7/4711", "--payload"]);
    says(&page, &["warehouse", "no stock", "kafka_dlt-original-partition: \\x00000007"]);
    // It has no settlement here, so the park is not its place; the sentence says so.
    says(&stage.fails(&["replay", "orders/7/4711", "--reason", "x"]), &["has no settlement or no key"]);
    stage.does(&["discard", "orders/2/17", "--reason", "replayed by its team"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_copies_are_gone_is_told_from_another_at_its_place() {
    let stage = Stage::prepare("dlq_gone").await;
    stage.dead(&[1], "k-1", "out_of_stock").await;
    stage.project();
    // The copy's row points to where another letter stands: as after a topic that was made again.
    stage.dead(&[2], "k-1", "out_of_stock").await;
    stage.inbox.admin.run("UPDATE inbox.dead_letter_copy SET record_offset = 1").await;
    let id = stage.inbox.id(1);
    says(
        &stage.fails(&["replay", &id, "--reason", "x"]),
        &["no copy of dead letter", "discard it with a reason"],
    );
    stage.inbox.admin.run("UPDATE inbox.dead_letter_copy SET record_offset = 100").await;
    says(&stage.fails(&["replay", &id, "--reason", "x"]), &["looked at letters.dlq_gone.dlq_gone.dlq/1/100"]);
    assert_eq!(stage.states().await, ["open 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_is_made_like_its_source_and_one_that_is_there_is_looked_at() {
    let kafka = &cluster::shared().kafka;
    kafka.create_topic("dlq_topic", 3, &[("max.message.bytes", "2000000")]).await;
    kafka
        .create_topic(
            "dlq_topic.weak.dlq",
            1,
            &[("retention.ms", "3600000"), ("max.message.bytes", "2000000")],
        )
        .await;
    let made = topic::prepare(&client(kafka), "dlq_topic", "strong", topic::RETENTION).await.unwrap();
    assert_eq!((made.name.as_str(), made.partitions), ("dlq_topic.strong.dlq", 3));
    let again = topic::prepare(&client(kafka), "dlq_topic", "strong", topic::RETENTION).await.unwrap();
    assert_eq!(again.concerns, [], "made with partitions, retention and record size that suffice");
    let weak = topic::prepare(&client(kafka), "dlq_topic", "weak", topic::RETENTION).await.unwrap();
    let said: Vec<String> = weak.concerns.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    says(
        &said.concat(),
        &["has 1 partitions and its source has 3", "keeps records for 1 h", "takes records of 2000000"],
    );
    let error = topic::prepare(&client(kafka), "dlq_nothing", "strong", topic::RETENTION).await.unwrap_err();
    says(&error.to_string(), &["topic dlq_nothing does not exist"]);
    assert!(!kafka.topics().iter().any(|name| name.starts_with("dlq_nothing")), "looking makes no topic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_takes_only_letters_of_its_group_and_of_prepared_sources() {
    let stage = Stage::prepare("dlq_sink").await;
    let attempt = async |evidence: Evidence, value: &[u8]| {
        let letter = Letter { key: None, value: Some(value), headers: &[], evidence: &evidence };
        stage.sink.send(letter).await.unwrap_err()
    };
    let evidence = stage.evidence(1, "x", 0);
    let other = attempt(Evidence { group: "another".into(), ..evidence.clone() }, b"").await;
    assert!(matches!(other, SinkError::OtherGroup { .. }) && !other.is_waited_for(), "{other:?}");
    let unknown = attempt(Evidence { topic: "another".into(), ..evidence.clone() }, b"").await;
    assert!(matches!(unknown, SinkError::NotPrepared { .. }) && !unknown.is_waited_for(), "{unknown:?}");
    let large = attempt(evidence, &vec![0; 2_000_000]).await;
    assert!(matches!(large, SinkError::TooLarge { .. }) && large.is_waited_for(), "{large:?}");
    says(&large.to_string(), &["raise its max.message.bytes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_sentences() {
    let stage = Stage::prepare("dlq_mistakes").await;
    let mut none = stage.command(&["list"]);
    none.env_remove("DATABASE_URL");
    let mut no_url = stage.command(&["list"]);
    no_url.env("DATABASE_URL", "postgres://a@127.0.0.1:x/d");
    // All at once, those of PostgreSQL and of Kafka.
    let mut several = stage.command(&["project", "--group", "g"]);
    several.env("DATABASE_URL", "postgres://a:hush@db.example/d?sslmode=allow&options=x");
    several.env("PGPASSWORD", "hush").env("PGPASSWORD_FILE", "/nowhere/password").env_remove("KAFKA_BROKERS");
    for (command, sentences) in [
        (none, &["set DATABASE_URL or give --database-url"][..]),
        (no_url, &["DATABASE_URL: host, port or percent-encoding cannot be read"]),
        (
            several,
            &[
                "sslmode=allow",
                "parameter options is not known",
                "PGPASSWORD, PGPASSWORD_FILE; keep one",
                "/nowhere/password cannot be",
                "set KAFKA_BROKERS or give --brokers",
            ],
        ),
    ] {
        let Ended { code, err, .. } = ended(command);
        assert_eq!(code, Some(64), "{err}");
        says(&err, sentences);
        assert!(!err.contains("hush"), "{err}");
    }
    stage.inbox.admin.run("REVOKE outbox_consumer FROM dlq_mistakes").await;
    says(
        &stage.fails(&["list"]),
        &["role dlq_mistakes may not do that", "GRANT outbox_consumer TO dlq_mistakes"],
    );
    let mut elsewhere = stage.command(&["list"]);
    elsewhere.env("DATABASE_URL", server().url("postgres"));
    says(&ended(elsewhere).err, &["there is no inbox in database \"postgres\""]);
    let topics = "group dlq_nobody has no dead-letter topic";
    stage.inbox.admin.run("GRANT outbox_consumer TO dlq_mistakes").await;
    says(&stage.fails(&["project", "--group", "dlq_nobody"]), &[topics]);
}

/// The rules are the relay's, tested in `link`; here it is seen that the tool goes by them.
#[tokio::test(flavor = "multi_thread")]
async fn the_tool_connects_over_tls_and_takes_its_password_from_one_place() {
    let authority = Authority::new("the authority");
    let directory = tempfile::tempdir().unwrap();
    let ca = write_file(directory.path(), "ca.pem", authority.certificate());
    let password = write_file(directory.path(), "password", "a word\n");
    let postgres =
        Postgres::builder(usual_version()).tls(&authority.server(&["localhost"]), &authority).start();
    let admin = postgres.connect("postgres").await;
    let role = format!("CREATE ROLE oncall LOGIN PASSWORD 'a word'; GRANT {CONSUMER_ROLE} TO oncall");
    admin.batch_execute(&format!("BEGIN; {}; {role}; COMMIT", up())).await.unwrap();
    let list = |parameters: &str, variables: &[(&str, &str)]| {
        let url = format!("postgres://oncall@localhost:{}/postgres?{parameters}", postgres.port());
        let mut command = Command::new(tool());
        command.args(["list", "--json"]).env("DATABASE_URL", url).envs(variables.iter().copied());
        ended(command)
    };
    // The server lets this role in over TLS only.
    let trusted = format!("sslrootcert={ca}&channel_binding=require");
    for variable in [("PGPASSWORD", "a word"), ("PGPASSWORD_FILE", password.as_str())] {
        let Ended { code, out, err } = list(&trusted, &[variable]);
        assert_eq!((code, out.as_str()), (Some(0), "{\"letters\":[],\"more\":false}\n"), "{err}");
    }
    let both = list(&trusted, &[("PGPASSWORD", "a word"), ("PGPASSWORD_FILE", &password)]);
    assert_eq!(both.code, Some(64));
    says(&both.err, &["the password is given more than once"]);
    let clear = list("sslmode=disable", &[("PGPASSWORD", "a word")]);
    assert_eq!(clear.code, Some(1));
    says(&clear.err, &["no login to PostgreSQL at localhost", "no encryption"]);
    let stranger = list("sslmode=verify-full", &[("PGPASSWORD", "a word")]);
    says(&stranger.err, &["is signed by nobody the consumer trusts"]);
    assert!(![both.err, clear.err, stranger.err].concat().contains("a word"));
}
