//! Letters that are replayed: foreseen, parked once each, and gone on with after an end half way.

use std::process::{Child, Stdio};

use outbox_tests::inbox::SCOPE;
use outbox_tests::wait::eventually_async;
use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, Stage, says};

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

/// As the consumer parks them: each by its id, so that none waits for another.
#[tokio::test(flavor = "multi_thread")]
async fn letters_without_a_key_are_replayed_each_by_itself() {
    let stage = Stage::prepare("dlq_keyless").await;
    stage.dead(&[1, 2], "", "timeout").await;
    stage.project();
    says(&stage.does(&["replay", "--all", "--reason", "it is back"]), &["replayed 2 dead letters"]);
    let parked = "SELECT count(DISTINCT key), bool_and(record_key IS NULL), bool_and(key = inbox.order_key(uuid_send(id)))
                    FROM inbox.parked_event";
    assert_eq!(stage.session.one(parked).await, "2 t t");
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
