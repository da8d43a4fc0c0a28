//! Dead letters: copies collapse, decisions are audited, a replay passes once and in the order of its key.

use outbox_tests::inbox::{Inbox, SCOPE, Session};

const TOPIC: &str = "outbox.event.order";

/// One record of the dead-letter topic, for event `number`; `replay` is the replay that failed with it.
fn copy(inbox: &Inbox, number: u32, offset: u32, replay: u32) -> String {
    let id = inbox.id(number);
    format!(
        "SELECT inbox.project_dead_letter('{SCOPE}', '{id}', '{TOPIC}.{SCOPE}.dlq', 0, {offset}, '2026-01-02T00:00:00Z',
            '{TOPIC}', 'out_of_stock', 'error {offset}', 'inventory-team', '2026-01-03T00:00:00Z', {offset},
            '2026-01-01T00:00:00Z', '2026-01-01T00:00:0{offset}Z', '{id}', key => 'k-1', replay => {replay})"
    )
}

fn decide(letter: &str, decision: &str, reason: &str) -> String {
    format!("SELECT inbox.decide_letter('{SCOPE}', '{letter}', '{decision}', '{reason}')")
}

fn replay(letter: &str) -> String {
    format!(
        "SELECT inbox.replay_parked('{SCOPE}', '{letter}', 'stock was filled', 3, 1, now(), 'k-1', 'value 1', '[]')"
    )
}

async fn state(session: &Session) -> String {
    session.one("SELECT state, replay FROM inbox.dead_letters").await
}

async fn dead(inbox: &Inbox, numbers: &[u32]) {
    inbox
        .admin
        .run(&format!("BEGIN; {}; {}; COMMIT", inbox.claim(numbers), inbox.settle(numbers, "dead")))
        .await;
}

#[tokio::test]
async fn copies_are_one_letter() {
    let inbox = Inbox::prepare("letter_copies").await;
    let session = inbox.consumer().await;
    dead(&inbox, &[1]).await;
    for (offset, new) in [(5, "t"), (3, "t"), (5, "f"), (3, "f")] {
        assert_eq!(session.one(&copy(&inbox, 1, offset, 0)).await, new, "{offset}");
    }
    let letter = "SET timezone = 'UTC'; SELECT state, attempts, error, first_failed_at, last_failed_at FROM inbox.dead_letters";
    assert_eq!(session.one(letter).await, "open 5 error 5 2026-01-01 00:00:00+00 2026-01-01 00:00:05+00");
    assert_eq!(session.one("SELECT count(*) FROM inbox.dead_letter_copy").await, "2");
    // Of an event that could not be read, by its place.
    session
        .run(&format!(
            "SELECT inbox.project_dead_letter('{SCOPE}', '{TOPIC}/0/17', 'x.dlq', 0, 1, now(), '{TOPIC}', 'undecodable', '', 'a', now())"
        ))
        .await;
    assert_eq!(
        session.one("SELECT state, error FROM inbox.dead_letters WHERE id IS NULL").await,
        "open no reason was given"
    );
}

#[tokio::test]
async fn a_letter_counts_while_the_inbox_says_dead() {
    let inbox = Inbox::prepare("letter_late").await;
    let session = inbox.consumer().await;
    session.run(&copy(&inbox, 1, 1, 0)).await;
    assert_eq!(state(&session).await, "open 0", "written before its settlement");
    session.run(&inbox.claim(&[1])).await;
    assert_eq!(state(&session).await, "superseded 0", "a frozen owner sent it late");
    let letter = inbox.id(1);
    let (code, message) =
        session.refused(&format!("SELECT inbox.begin_replay('{SCOPE}', '{letter}', 'try')")).await;
    assert_eq!(code, "IB003");
    assert!(message.contains("is superseded, and would have to be open or restored"), "{message}");
}

#[tokio::test]
async fn decisions_have_reasons_and_are_audited() {
    let inbox = Inbox::prepare("letter_decide").await;
    let session = inbox.consumer().await;
    dead(&inbox, &[1]).await;
    session.run(&copy(&inbox, 1, 1, 0)).await;
    let letter = inbox.id(1);
    assert_eq!(session.refused(&decide(&letter, "discard", "")).await.0, "22023");
    assert_eq!(session.refused(&decide(&letter, "publish", "x")).await.0, "22023");
    assert_eq!(session.refused(&decide("nothing", "discard", "x")).await.0, "IB002");
    assert_eq!(session.refused(&decide(&letter, "restore", "x")).await.0, "IB003");
    session.run(&decide(&letter, "discard", "a test order")).await;
    assert_eq!(state(&session).await, "discarded 0");
    assert_eq!(session.refused(&replay(&letter)).await.0, "IB003");
    session.run(&copy(&inbox, 1, 2, 0)).await;
    assert_eq!(state(&session).await, "discarded 0", "a late copy changes no decision");
    session.run(&decide(&letter, "restore", "it was none")).await;
    assert_eq!(state(&session).await, "restored 0");
    assert_eq!(
        session.rows("SELECT who, action, reason FROM inbox.audit ORDER BY number").await,
        ["letter_decide discard a test order", "letter_decide restore it was none"]
    );
    for change in [
        "DELETE FROM inbox.audit",
        "UPDATE inbox.audit SET who = 'x'",
        "UPDATE inbox.dead_letter SET note = ''",
    ] {
        assert_eq!(session.refused(change).await.0, "42501", "{change}");
    }
}

/// The replay is in the park from its commit on, so a live event of the key queues behind it.
#[tokio::test]
async fn a_replay_waits_in_the_order_of_its_key_and_runs_once() {
    let inbox = Inbox::prepare("letter_replay").await;
    let (tool, second_tool, worker) =
        (inbox.consumer().await, inbox.consumer().await, inbox.consumer().await);
    dead(&inbox, &[1]).await;
    worker.run(&copy(&inbox, 1, 1, 0)).await;
    let letter = inbox.id(1);
    tool.run("BEGIN").await;
    assert_eq!(tool.one(&replay(&letter)).await, "parked");
    let waiting = second_tool.send(&replay(&letter));
    inbox.blocked(&second_tool, &tool).await;
    tool.run("COMMIT").await;
    let error = outbox_tests::inbox::outcome(waiting).await.expect_err("it is being replayed");
    assert_eq!(outbox_tests::inbox::code(&error).0, "IB003");
    assert_eq!(state(&worker).await, "replaying 1");
    assert_eq!(inbox.settlements().await, ["1 parked"]);
    let marked = format!("SELECT inbox.marked('{SCOPE}', '{{{TOPIC}}}', '{{k-1}}')");
    assert_eq!(worker.one(&marked).await, "{1}");
    assert_eq!(worker.one(&inbox.claim_replay(&[1], 1)).await, "parked", "not through a topic as well");

    let run = |ending: &str| {
        format!(
            "BEGIN; SELECT inbox.resume('{SCOPE}', '{TOPIC}', 'k-1'); {ending};
             SELECT inbox.unpark('{SCOPE}', '{TOPIC}', 'k-1', (SELECT array_agg(seq) FROM inbox.parked_event));
             SELECT inbox.remove_parked_key('{SCOPE}', '{TOPIC}', 'k-1'); COMMIT"
        )
    };
    worker.run(&run(&inbox.settle(&[1], "retry"))).await;
    assert_eq!(inbox.settlements().await, ["1 parked"], "its first attempt failed");
    worker.run(&run(&inbox.settle(&[1], "dead"))).await;
    assert_eq!(state(&worker).await, "open 1", "the replay failed");
    worker.run(&copy(&inbox, 1, 2, 1)).await;
    assert_eq!(state(&worker).await, "open 1");

    assert_eq!(tool.one(&replay(&letter)).await, "parked");
    assert_eq!(state(&worker).await, "replaying 2");
    worker.run(&copy(&inbox, 1, 3, 1)).await;
    assert_eq!(state(&worker).await, "replaying 2", "a late copy of the first replay");
    worker.run(&run("SELECT 1")).await;
    assert_eq!(state(&worker).await, "replayed 2");
    assert_eq!(inbox.settlements().await, ["1 replayed"]);
    assert_eq!(tool.refused(&replay(&letter)).await.0, "IB003");
    assert_eq!(worker.one("SELECT count(*) FROM inbox.parked_key").await, "0");
}

/// Through a topic: the record carries the number, and comes twice.
#[tokio::test]
async fn a_replay_through_a_topic_carries_its_number() {
    let inbox = Inbox::prepare("letter_topic").await;
    let session = inbox.consumer().await;
    dead(&inbox, &[1]).await;
    session.run(&copy(&inbox, 1, 1, 0)).await;
    assert_eq!(
        session.one(&format!("SELECT inbox.begin_replay('{SCOPE}', '{}', 'try')", inbox.id(1))).await,
        "1"
    );
    assert_eq!(session.one(&inbox.claim_replay(&[1], 1)).await, "run");
    assert_eq!(session.one(&inbox.claim_replay(&[1], 1)).await, "replayed");
    assert_eq!(state(&session).await, "replayed 1");
}
