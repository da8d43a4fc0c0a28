//! Parked keys of two owners and a claimant, stepped by hand.

use outbox_tests::inbox::{Inbox, SCOPE, Session, answered, code, outcome};

const TOPIC: &str = "outbox.event.order";

/// The arrays of records that `park` and `follow` take, one for each event.
fn records(numbers: &[u32], key: &str) -> String {
    let list = |one: &dyn Fn(u32) -> String| numbers.iter().map(|n| one(*n)).collect::<Vec<_>>().join(", ");
    format!(
        "ARRAY[{}], ARRAY[{}]::bigint[], ARRAY[{}], ARRAY[{}]::bytea[], ARRAY[{}]::bytea[], ARRAY[{}]::json[]",
        list(&|_| "3".to_owned()),
        list(&|n| n.to_string()),
        list(&|_| "now()".to_owned()),
        list(&|_| format!("'{key}'")),
        list(&|n| format!("'value {n}'")),
        list(&|n| format!("'[[\"n\", \"{n}\"]]'")),
    )
}

fn park(inbox: &Inbox, key: &str, numbers: &[u32]) -> String {
    let (ids, records) = (inbox.ids(numbers), records(numbers, key));
    format!(
        "SELECT inbox.park('{SCOPE}', '{TOPIC}', '{key}', clock_timestamp(), 'out of stock', {ids}, {records})"
    )
}

fn follow(inbox: &Inbox, key: &str, numbers: &[u32]) -> String {
    let (ids, records) = (inbox.ids(numbers), records(numbers, key));
    format!("SELECT inbox.follow('{SCOPE}', '{TOPIC}', '{key}', {ids}, {records})")
}

fn marked(keys: &[&str]) -> String {
    let topics = vec![TOPIC; keys.len()].join(",");
    format!("SELECT array_to_string(inbox.marked('{SCOPE}', '{{{topics}}}', '{{{}}}'), ' ')", keys.join(","))
}

/// A function that takes scope, topic and key first.
fn of_key(function: &str, key: &str, more: &str) -> String {
    format!("SELECT * FROM inbox.{function}('{SCOPE}', '{TOPIC}', '{key}'{more})")
}

fn resume(key: &str, most: u32) -> String {
    format!("SELECT verdict, record_offset FROM inbox.resume('{SCOPE}', '{TOPIC}', '{key}', {most})")
}

/// All that stands behind a key, taken off it if it is settled.
fn unpark(key: &str) -> String {
    format!(
        "SELECT inbox.unpark('{SCOPE}', '{TOPIC}', '{key}',
            (SELECT array_agg(seq) FROM inbox.parked_event WHERE topic = '{TOPIC}' AND key = '{key}'))"
    )
}

/// Parks a key with some events, as one committed transaction.
async fn parked(inbox: &Inbox, key: &str, numbers: &[u32]) {
    let session = inbox.consumer().await;
    session.run(&format!("BEGIN; {}", inbox.claim(numbers))).await;
    assert_eq!(session.one(&park(inbox, key, numbers)).await, "parked");
    session.run("COMMIT").await;
}

/// What stands behind a marker is what the marker says.
async fn assert_counted(inbox: &Inbox) {
    let wrong = "SELECT p.topic, p.waiting, p.bytes, e.events, e.bytes
                   FROM inbox.parked_key p, LATERAL (
                        SELECT count(*) AS events, coalesce(sum(o.bytes), 0) AS bytes FROM inbox.parked_event o
                         WHERE o.scope = p.scope AND o.topic = p.topic AND o.key = p.key) e
                  WHERE p.waiting <> e.events OR p.bytes <> e.bytes";
    assert_eq!(inbox.admin.rows(wrong).await, [""; 0]);
}

async fn keys(session: &Session) -> String {
    session.one("SELECT coalesce(string_agg(convert_from(key, 'UTF8') || ' ' || waiting, ', '), 'none') FROM inbox.parked_key").await
}

/// The stale owner parks event 1 and its key while the new owner's claim waits for it.
#[tokio::test]
async fn a_marker_committed_while_the_claim_waited_is_seen_by_the_second_statement_only() {
    let inbox = Inbox::prepare("park_second").await;
    for (first_event, key) in [(1, "k-1"), (11, "k-2")] {
        let (stale, new) = (inbox.consumer().await, inbox.consumer().await);
        stale.run(&format!("BEGIN; {}", inbox.claim(&[first_event]))).await;
        new.run("BEGIN").await;
        let claim = inbox.claim(&[first_event, first_event + 1]);
        let one_statement = format!("{claim}, (SELECT count(*) FROM inbox.parked_key WHERE key = '{key}')");
        let waiting = new.send(if first_event == 1 { &claim } else { &one_statement });
        inbox.blocked(&new, &stale).await;
        assert_eq!(stale.one(&park(&inbox, key, &[first_event])).await, "parked");
        stale.run("COMMIT").await;
        if first_event == 1 {
            assert_eq!(answered(waiting).await, ["parked run"]);
            assert_eq!(new.one(&marked(&["other", key])).await, "2", "so the second event follows");
            assert_eq!(new.one(&follow(&inbox, key, &[2])).await, "parked");
        } else {
            assert_eq!(
                answered(waiting).await,
                ["parked run 0"],
                "one statement misses the marker, and would run event 12"
            );
            assert_eq!(new.one(&marked(&[key])).await, "1");
        }
        new.run("COMMIT").await;
    }
    assert_counted(&inbox).await;
}

#[tokio::test]
async fn the_first_event_fails_and_the_later_ones_of_its_key_wait_behind_it_in_order() {
    let inbox = Inbox::prepare("park_order").await;
    let (worker, claimant) = (inbox.consumer().await, inbox.consumer().await);
    worker.run(&format!("BEGIN; {}", inbox.claim(&[5, 3, 9, 7]))).await;
    assert_eq!(worker.one(&park(&inbox, "k-1", &[5, 3, 9])).await, "parked");
    worker.run("COMMIT").await;
    worker.run(&format!("BEGIN; {}", inbox.claim(&[1, 2]))).await;
    assert_eq!(worker.one(&marked(&["k-1", "k-2"])).await, "1");
    assert_eq!(worker.one(&follow(&inbox, "k-1", &[2, 1])).await, "parked");
    worker.run("COMMIT").await;
    assert_eq!(
        inbox.settlements().await,
        ["1 parked", "2 parked", "3 parked", "5 parked", "7 done", "9 parked"]
    );
    assert_eq!(worker.one(&inbox.claim(&[5, 2])).await, "parked parked", "a copy, or a stale owner");
    assert_counted(&inbox).await;

    claimant.run("BEGIN").await;
    let take =
        format!("SELECT convert_from(key, 'UTF8'), waiting, attempts FROM inbox.take_parked_key('{SCOPE}')");
    assert_eq!(claimant.one(&take).await, "k-1 5 1");
    assert_eq!(worker.rows(&take).await, [""; 0], "another has it");
    assert_eq!(worker.refused(&resume("k-1", 1)).await.0, "55P03");
    assert_eq!(claimant.rows(&resume("k-1", 3)).await, ["run 5", "run 3", "run 9"]);
    assert_eq!(claimant.one(&unpark("k-1")).await, "2", "those that were not resumed stay");
    claimant.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 parked", "2 parked", "3 done", "5 done", "7 done", "9 done"]);
    assert_counted(&inbox).await;

    claimant.run("BEGIN").await;
    assert_eq!(claimant.one(&of_key("lock_parked_key", "k-1", "")).await, "2");
    assert_eq!(claimant.rows(&resume("k-1", 10)).await, ["run 2", "run 1"]);
    assert_eq!(claimant.one(&unpark("k-1")).await, "0");
    assert_eq!(claimant.one(&of_key("remove_parked_key", "k-1", "")).await, "t");
    claimant.run("COMMIT").await;
    assert_eq!(keys(&inbox.admin).await, "none");
    assert_eq!(worker.one(&marked(&["k-1", "k-2"])).await, "");
}

#[tokio::test]
async fn a_record_comes_out_of_the_park_as_it_went_in() {
    let inbox = Inbox::prepare("park_bytes").await;
    let session = inbox.consumer().await;
    let long = "x".repeat(5_000);
    session.run(&format!("BEGIN; {}", inbox.claim(&[1, 2]))).await;
    let ids = inbox.ids(&[1, 2]);
    let park = format!(
        "SELECT inbox.park('{SCOPE}', '{TOPIC}', '{long}', clock_timestamp(), '', {ids}, '{{1,1}}', '{{7,8}}',
            ARRAY['2026-01-02 03:04:05.678+00', NULL]::timestamptz[], ARRAY['{long}', NULL]::bytea[],
            ARRAY['\\x00ff', NULL]::bytea[], ARRAY['[[\"a\", null], [\"a\", \"AP8=\"]]', NULL]::json[])"
    );
    assert_eq!(session.one(&park).await, "parked");
    let back = format!(
        "SET timezone = 'UTC'; SELECT verdict, partition, record_offset, record_time, length(record_key), record_value, headers
           FROM inbox.resume('{SCOPE}', '{TOPIC}', '{long}', 5)"
    );
    session.run("COMMIT").await;
    assert_eq!(
        session.rows(&back).await,
        [
            "run 1 7 2026-01-02 03:04:05.678+00 5000 \\x00ff [[\"a\", null], [\"a\", \"AP8=\"]]",
            "run 1 8 - - - []"
        ]
    );
    assert_eq!(
        session.one("SELECT length(key), last_error FROM inbox.parked_key").await,
        "39 no reason was given"
    );
    assert_eq!(session.one(&marked(&[&long, "k-2"])).await, "1");
}

/// A program that writes the tables itself is held by the foreign key.
#[tokio::test]
async fn a_follower_whose_marker_goes_meets_23503() {
    let inbox = Inbox::prepare("park_23503").await;
    let (claimant, follower) = (inbox.consumer().await, Session::clone(&inbox.admin));
    parked(&inbox, "k-1", &[1]).await;
    claimant.run(&format!("{}; {}", resume("k-1", 1), unpark("k-1"))).await;
    claimant.run("BEGIN").await;
    assert_eq!(claimant.one(&of_key("remove_parked_key", "k-1", "")).await, "t");
    let insert = format!(
        "INSERT INTO inbox.parked_event (scope, topic, key, id, event_time, partition, record_offset, bytes)
         VALUES ('{SCOPE}', '{TOPIC}', 'k-1', '{}', '-infinity', 0, 2, 0)",
        inbox.id(2)
    );
    let waiting = follower.send(&insert);
    let watch = inbox.consumer().await;
    let blocked = format!("SELECT {} = ANY (pg_blocking_pids({}))", claimant.pid, follower.pid);
    outbox_tests::wait::eventually_async(
        std::time::Duration::from_secs(30),
        "the follower to wait",
        async || (watch.rows(&blocked).await == ["t"]).then_some(()),
    )
    .await;
    claimant.run("COMMIT").await;
    let error = outcome(waiting).await.expect_err("the marker is gone");
    assert_eq!(code(&error).0, "23503");
    // And a marker with something behind it does not go, whoever deletes it.
    parked(&inbox, "k-2", &[3]).await;
    assert_eq!(inbox.admin.refused("DELETE FROM inbox.parked_key").await.0, "23503");
}

#[tokio::test]
async fn a_follower_that_is_late_looks_again_and_runs() {
    let inbox = Inbox::prepare("park_late").await;
    let (claimant, worker) = (inbox.consumer().await, inbox.consumer().await);
    parked(&inbox, "k-1", &[1]).await;
    worker.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
    assert_eq!(worker.one(&marked(&["k-1"])).await, "1");
    claimant.run("BEGIN").await;
    assert_eq!(claimant.one(&of_key("lock_parked_key", "k-1", "")).await, "1");
    let waiting = worker.send(&follow(&inbox, "k-1", &[2]));
    inbox.blocked(&worker, &claimant).await;
    assert_eq!(claimant.rows(&resume("k-1", 10)).await, ["run 1"]);
    assert_eq!(claimant.one(&unpark("k-1")).await, "0");
    assert_eq!(claimant.one(&of_key("remove_parked_key", "k-1", "")).await, "t");
    claimant.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["unmarked"]);
    assert_eq!(worker.one(&marked(&["k-1"])).await, "", "looked again: its handler runs");
    worker.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 done", "2 done"]);
    assert_eq!(inbox.admin.one("SELECT count(*) FROM inbox.parked_event").await, "0");
}

#[tokio::test]
async fn a_follower_that_is_first_is_not_left_behind() {
    let inbox = Inbox::prepare("park_first").await;
    for (key, first, locks) in [("k-1", 1, true), ("k-2", 11, false)] {
        let (claimant, worker) = (inbox.consumer().await, inbox.consumer().await);
        parked(&inbox, key, &[first]).await;
        claimant.run(&format!("{}; {}", resume(key, 1), unpark(key))).await;
        worker.run(&format!("BEGIN; {}", inbox.claim(&[first + 1]))).await;
        assert_eq!(worker.one(&follow(&inbox, key, &[first + 1])).await, "parked");
        claimant.run("BEGIN").await;
        // With the row locked first, or by a delete that nothing precedes.
        let function = if locks { "lock_parked_key" } else { "remove_parked_key" };
        let waiting = claimant.send(&of_key(function, key, ""));
        inbox.blocked(&claimant, &worker).await;
        worker.run("COMMIT").await;
        assert_eq!(answered(waiting).await, [if locks { "1" } else { "f" }]);
        assert_eq!(claimant.one(&of_key("remove_parked_key", key, "")).await, "f");
        assert_eq!(claimant.rows(&resume(key, 10)).await, [format!("run {}", first + 1)]);
        assert_eq!(claimant.one(&unpark(key)).await, "0");
        assert_eq!(claimant.one(&of_key("remove_parked_key", key, "")).await, "t");
        claimant.run("COMMIT").await;
    }
    assert_counted(&inbox).await;
}

#[tokio::test]
async fn an_attempt_that_fails_waits_again_and_an_exhausted_key_is_held() {
    let inbox = Inbox::prepare("park_again").await;
    let claimant = inbox.consumer().await;
    parked(&inbox, "k-1", &[1, 2]).await;
    let take = format!("SELECT attempts, rung FROM inbox.take_parked_key('{SCOPE}')");
    claimant.run("BEGIN").await;
    assert_eq!(claimant.one(&take).await, "1 0");
    assert_eq!(claimant.rows(&resume("k-1", 2)).await, ["run 1", "run 2"]);
    // 1 goes well, 2 fails.
    claimant
        .run("SAVEPOINT event; INSERT INTO effects VALUES (NULL, 'x'); ROLLBACK TO SAVEPOINT event")
        .await;
    claimant.run(&inbox.settle(&[2], "retry")).await;
    assert_eq!(claimant.one(&unpark("k-1")).await, "1");
    let later = ", clock_timestamp() + '1 hour', 'still out of stock', 1";
    assert_eq!(claimant.one(&of_key("delay", "k-1", later)).await, "t");
    claimant.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 done", "2 parked"]);
    assert_eq!(claimant.rows(&take).await, [""; 0], "not due");
    assert_eq!(
        inbox.admin.one("SELECT attempts, rung, last_error FROM inbox.parked_key").await,
        "1 1 still out of stock"
    );

    claimant.run(&of_key("delay", "k-1", ", clock_timestamp(), 'given up', NULL, 'hold'")).await;
    assert_eq!(claimant.rows(&take).await, [""; 0], "held");
    assert_eq!(claimant.one(&marked(&["k-1"])).await, "1", "and what comes queues behind it");
    claimant.run(&of_key("release_parked_key", "k-1", ", 'the shelf was filled'")).await;
    assert_eq!(claimant.one(&take).await, "0 0");
    assert_eq!(claimant.refused(&of_key("release_parked_key", "k-1", ", 'again'")).await.0, "IB002");
    claimant.run(&of_key("hold_parked_key", "k-1", ", 'wait for the team'")).await;
    assert_eq!(claimant.rows(&take).await, [""; 0]);
    claimant.run(&of_key("release_parked_key", "k-1", ", 'the team is there'")).await;
    assert_eq!(
        inbox
            .admin
            .rows("SELECT who, action, convert_from(key, 'UTF8'), reason FROM inbox.audit ORDER BY number")
            .await,
        [
            "park_again release k-1 the shelf was filled",
            "park_again hold k-1 wait for the team",
            "park_again release k-1 the team is there"
        ]
    );

    // The policy skip: dead, and the key goes on. One that was settled and not taken off does not run again.
    claimant.run(&format!("BEGIN; {}; {}; COMMIT", resume("k-1", 1), inbox.settle(&[2], "dead"))).await;
    claimant.run("BEGIN").await;
    assert_eq!(claimant.rows(&resume("k-1", 1)).await, ["dead 2"]);
    assert_eq!(claimant.one(&unpark("k-1")).await, "0");
    assert_eq!(claimant.one(&of_key("remove_parked_key", "k-1", "")).await, "t");
    claimant.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 done", "2 dead"]);
}

#[tokio::test]
async fn a_claimant_that_dies_leaves_everything_as_it_was() {
    let inbox = Inbox::prepare("park_dies").await;
    parked(&inbox, "k-1", &[1]).await;
    let (dying, next) = (inbox.consumer().await, inbox.consumer().await);
    dying.run(&format!("BEGIN; {}; {}", resume("k-1", 1), unpark("k-1"))).await;
    let copy = next.send(&inbox.claim(&[1]));
    inbox.blocked(&next, &dying).await;
    inbox.admin.run(&format!("SELECT pg_terminate_backend({})", dying.pid)).await;
    assert_eq!(answered(copy).await, ["parked"], "a copy does not run beside it, nor in its place");
    assert_counted(&inbox).await;
    assert_eq!(next.rows(&resume("k-1", 1)).await, ["run 1"]);
    assert_eq!(inbox.settlements().await, ["1 done"]);
}

#[tokio::test]
async fn bounds_refuse_as_a_whole() {
    let inbox = Inbox::prepare("park_bounds").await;
    let session = inbox.consumer().await;
    session.run(&format!("BEGIN; {}", inbox.claim(&[1, 2, 3, 4, 5]))).await;
    let bounded = |call: String, bounds: &str| format!("{}, {bounds})", call.trim_end_matches(')'));
    for bounds in ["max_of_key => 1", "max_in_all => 1", "max_bytes => 10"] {
        assert_eq!(session.one(&bounded(park(&inbox, "k-1", &[1, 2]), bounds)).await, "full", "{bounds}");
        assert_eq!(keys(&session).await, "none", "{bounds}");
    }
    assert_eq!(session.one(&park(&inbox, "k-1", &[1, 2])).await, "parked");
    for bounds in ["max_of_key => 2", "max_in_all => 2", "max_bytes => 40"] {
        assert_eq!(session.one(&bounded(follow(&inbox, "k-1", &[3]), bounds)).await, "full", "{bounds}");
    }
    assert_eq!(session.one(&bounded(park(&inbox, "k-2", &[4]), "max_in_all => 2")).await, "full");
    assert_eq!(session.one(&bounded(follow(&inbox, "k-1", &[3]), "max_of_key => 3")).await, "parked");
    assert_eq!(session.one(&follow(&inbox, "k-2", &[4])).await, "unmarked");
    // A marker that is there is joined.
    assert_eq!(session.one(&park(&inbox, "k-1", &[4])).await, "parked");
    assert_eq!(keys(&session).await, "k-1 4");
    session.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 parked", "2 parked", "3 parked", "4 parked", "5 done"]);
    assert_counted(&inbox).await;
}

#[tokio::test]
async fn only_what_is_claimed_can_be_parked() {
    let inbox = Inbox::prepare("park_claimed").await;
    let (stale, owner) = (inbox.consumer().await, inbox.consumer().await);
    owner.run(&inbox.claim(&[1])).await;
    for call in [park(&inbox, "k-1", &[1]), park(&inbox, "k-1", &[2])] {
        assert_eq!(stale.refused(&call).await.0, "IB001");
    }
    assert_eq!(keys(&inbox.admin).await, "none", "undone as a whole");
}

/// An external handler fails, is parked by its token, and runs from the park under a lease.
#[tokio::test]
async fn an_external_handler_is_parked_and_resumed_by_token() {
    let inbox = Inbox::prepare("park_external").await;
    let (worker, claimant) = (inbox.consumer().await, inbox.consumer().await);
    worker.run(&format!("SELECT inbox.claim('{SCOPE}', '{}')", inbox.id(1))).await;
    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    let with =
        |token: &str| format!("{}, token => '{token}')", park(&inbox, "k-1", &[1]).trim_end_matches(')'));
    assert_eq!(worker.refused(&with("6f1f5d7e-9a34-4c1e-8a51-000000000001")).await.0, "IB001");
    assert_eq!(worker.one(&with(&token)).await, "parked");

    let leased = format!(
        "SELECT verdict, token IS NOT NULL FROM inbox.resume('{SCOPE}', '{TOPIC}', 'k-1', 1, '1 hour')"
    );
    assert_eq!(claimant.one(&leased).await, "run t");
    let take = format!("SELECT waiting FROM inbox.take_parked_key('{SCOPE}')");
    assert_eq!(worker.rows(&take).await, [""; 0], "not before the lease ends");
    assert_eq!(worker.rows(&leased).await, [""; 0], "nor does anything behind it run");
    assert_eq!(claimant.one(&unpark("k-1")).await, "1", "what is not settled stays");
    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    claimant.run(&format!("SELECT inbox.complete('{SCOPE}', '{}', '{token}')", inbox.id(1))).await;
    assert_eq!(claimant.one(&unpark("k-1")).await, "0");
    assert_eq!(claimant.one(&of_key("remove_parked_key", "k-1", "")).await, "t");
    assert_eq!(inbox.settlements().await, ["1 done"]);
}
