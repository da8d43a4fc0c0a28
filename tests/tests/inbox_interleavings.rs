//! Two at one key, stepped by hand: every way in which workers, claimants, tools and operators can come between each
//! other's statements, and the test that shows what comes of it.
//!
//! | who is first | who comes between | what comes of it |
//! |---|---|---|
//! | an owner has claimed | another owner claims: the first commits, gives back, rejects, rolls back | `inbox_claim::a_claim_*`, `inbox_claim::every_other_settlement_*` |
//! | an owner's COMMIT is unanswered | it claims again: effects, or none | `inbox_claim::a_lost_answer_is_resolved_by_claiming_again_and_not_by_reading` |
//! | an owner's COMMIT of a park is unanswered | it claims again: parked, or to be run | [`a_lost_answer_of_a_park_is_resolved_by_claiming_again`] |
//! | a claimant's COMMIT is unanswered | another claimant asks for a key that is due | [`a_key_whose_claimant_is_not_known_to_have_ended_is_given_to_nobody`] |
//! | a group waits in its middle | a group with the same events in another order | `inbox_claim::groups_with_the_same_keys_in_another_order_do_not_deadlock` |
//! | a frozen owner has claimed | the server ends it; it thaws | `inbox_claim::a_frozen_owner_is_ended_and_the_next_one_runs`, `inbox_claim::a_stale_owner_cannot_decide_again` |
//! | an owner parks | the other's claim waits, and looks afterwards | `inbox_park::a_marker_committed_while_the_claim_waited_is_seen_by_the_second_statement_only` |
//! | an owner parks | another owner parks a later event of the key | [`two_owners_park_one_key_at_once`] |
//! | a claimant runs an event | a copy of it is claimed: the claimant commits, dies | [`a_copy_waits_for_the_claimant_and_sees_what_it_did`], `inbox_park::a_claimant_that_dies_leaves_everything_as_it_was` |
//! | a claimant runs an event | another claimant | `inbox_park::the_first_event_fails_and_the_later_ones_of_its_key_wait_behind_it_in_order` |
//! | a claimant runs an event | an operator holds the key; the event goes well, or fails | [`a_hold_outlives_an_attempt_that_goes_well`], [`a_hold_outlives_an_attempt_that_fails`] |
//! | a claimant lost its transaction | another is through with the key; the first says when the next attempt is due | [`a_claimant_that_is_late_makes_no_marker`] |
//! | a claimant takes an event off | a follower comes, and is first when the claimant has committed | [`a_follower_that_is_first_fails_from_its_own_time`] |
//! | a claimant removes the marker | a follower comes, late or first | `inbox_park::a_follower_*` |
//! | a claimant removes the marker | an owner parks a later event of the key; a tool replays one | [`a_park_waits_for_a_marker_that_goes_and_makes_another`], [`a_replay_waits_for_a_marker_that_goes_and_makes_another`] |
//! | a tool replays | a second tool replays the same | `inbox_letters::a_replay_waits_in_the_order_of_its_key_and_runs_once` |
//! | a tool replays | a live event of the key has looked before the commit, or looks after it | [`a_live_event_runs_before_a_replay_or_queues_behind_it`] |
//! | a replay's record was read | a copy of the same number | `inbox_claim::two_copies_of_a_replay_at_once_run_once` |

use outbox_tests::inbox::{Inbox, SCOPE, Session, answered};

const TOPIC: &str = "outbox.event.order";

/// Parks an event of key `k`, or queues it behind the marker.
fn queue(inbox: &Inbox, function: &str, number: u32) -> String {
    let reason = if function == "park" { ", clock_timestamp(), 'out of stock'" } else { "" };
    let ids = inbox.ids(&[number]);
    format!(
        "SELECT inbox.{function}('{SCOPE}', '{TOPIC}', 'k'{reason}, {ids}, ARRAY[3], ARRAY[{number}]::bigint[], ARRAY[now()],
            ARRAY['k']::bytea[], ARRAY['value']::bytea[], ARRAY['[]']::json[])"
    )
}

/// A function that takes scope, topic and key first.
fn of_key(function: &str, more: &str) -> String {
    format!("SELECT * FROM inbox.{function}('{SCOPE}', '{TOPIC}', 'k'{more})")
}

fn take() -> String {
    format!("SELECT waiting FROM inbox.take_parked_key('{SCOPE}')")
}

/// Runs the first event of the key.
fn resume() -> String {
    format!("SELECT verdict, record_offset FROM inbox.resume('{SCOPE}', '{TOPIC}', 'k')")
}

fn unpark() -> String {
    of_key("unpark", ", (SELECT array_agg(seq) FROM inbox.parked_event)")
}

fn marked() -> String {
    format!("SELECT array_to_string(inbox.marked('{SCOPE}', '{{{TOPIC}}}', '{{k}}'), ' ')")
}

/// Parks an event, in a transaction of its own.
async fn parked(inbox: &Inbox, number: u32) {
    let session = inbox.consumer().await;
    session.run(&format!("BEGIN; {}", inbox.claim(&[number]))).await;
    assert_eq!(session.one(&queue(inbox, "park", number)).await, "parked");
    session.run("COMMIT").await;
}

/// A dead letter of event `number`.
async fn dead(inbox: &Inbox, number: u32) {
    let (claim, settle, id) = (inbox.claim(&[number]), inbox.settle(&[number], "dead"), inbox.id(number));
    inbox.admin.run(&format!("BEGIN; {claim}; {settle}; COMMIT")).await;
    let letter = format!(
        "SELECT inbox.project_dead_letter('{SCOPE}', '{id}', '{TOPIC}.{SCOPE}.dlq', 0, {number}, now(), '{TOPIC}',
            'out_of_stock', 'error', 'inventory-team', now(), 1, now(), now(), '{id}', key => 'k')"
    );
    inbox.admin.run(&letter).await;
}

fn replay(inbox: &Inbox, number: u32) -> String {
    let letter = inbox.id(number);
    format!(
        "SELECT inbox.replay_parked('{SCOPE}', '{letter}', 'try', 3, {number}, now(), 'k', 'value', '[]')"
    )
}

/// What stands behind the marker, in its order; and what the marker says of it.
async fn behind(inbox: &Inbox) -> String {
    let list = "SELECT coalesce((SELECT waiting FROM inbox.parked_key), 0) || ':'
                    || coalesce(string_agg(' ' || record_offset, '' ORDER BY seq), '') FROM inbox.parked_event";
    inbox.admin.one(list).await
}

/// Ends a session's transaction: well, or by the end of its backend.
async fn ends(inbox: &Inbox, session: &Session, well: bool) {
    match well {
        true => session.run("COMMIT").await,
        false => inbox.admin.run(&format!("SELECT pg_terminate_backend({})", session.pid)).await,
    }
}

#[tokio::test]
async fn a_lost_answer_of_a_park_is_resolved_by_claiming_again() {
    let inbox = Inbox::prepare("between_lost_park").await;
    for (number, commits, verdict, seen) in [(1, false, "run", ""), (2, true, "parked", "1")] {
        let (old, new) = (inbox.consumer().await, inbox.consumer().await);
        old.run(&format!("BEGIN; {}", inbox.claim(&[number]))).await;
        old.run(&queue(&inbox, "park", number)).await;
        new.run("BEGIN").await;
        let waiting = new.send(&inbox.claim(&[number]));
        inbox.blocked(&new, &old).await;
        ends(&inbox, &old, commits).await;
        assert_eq!(answered(waiting).await, [verdict]);
        assert_eq!(new.one(&marked()).await, seen);
        new.run("ROLLBACK").await;
    }
    assert_eq!(behind(&inbox).await, "1: 2");
}

#[tokio::test]
async fn a_key_whose_claimant_is_not_known_to_have_ended_is_given_to_nobody() {
    for (name, commits, left) in
        [("between_claimant_c", true, "run 2"), ("between_claimant_r", false, "run 1")]
    {
        let inbox = Inbox::prepare(name).await;
        let (old, next) = (inbox.consumer().await, inbox.consumer().await);
        parked(&inbox, 1).await;
        next.run(&format!("BEGIN; {}; {}; COMMIT", inbox.claim(&[2]), queue(&inbox, "follow", 2))).await;
        old.run("BEGIN").await;
        assert_eq!(old.one(&take()).await, "2");
        assert_eq!(old.one(&resume()).await, "run 1");
        assert_eq!(old.one(&unpark()).await, "1");
        assert_eq!(next.rows(&take()).await, [""; 0], "while the other may still be committing");
        ends(&inbox, &old, commits).await;
        next.run("BEGIN").await;
        outbox_tests::wait::eventually_async(
            std::time::Duration::from_secs(30),
            "the lock to go",
            async || (next.rows(&take()).await.len() == 1).then_some(()),
        )
        .await;
        assert_eq!(next.one(&resume()).await, left);
        next.run("COMMIT").await;
    }
}

#[tokio::test]
async fn two_owners_park_one_key_at_once() {
    for (name, commits, left) in [("between_parks_c", true, "2: 1 2"), ("between_parks_r", false, "1: 2")] {
        let inbox = Inbox::prepare(name).await;
        let (first, second) = (inbox.consumer().await, inbox.consumer().await);
        first.run(&format!("BEGIN; {}", inbox.claim(&[1]))).await;
        second.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
        assert_eq!(first.one(&queue(&inbox, "park", 1)).await, "parked");
        let waiting = second.send(&queue(&inbox, "park", 2));
        inbox.blocked(&second, &first).await;
        ends(&inbox, &first, commits).await;
        assert_eq!(answered(waiting).await, ["parked"]);
        second.run("COMMIT").await;
        assert_eq!(behind(&inbox).await, left, "one marker, and the order of the claims");
    }
}

#[tokio::test]
async fn a_copy_waits_for_the_claimant_and_sees_what_it_did() {
    let inbox = Inbox::prepare("between_copy").await;
    let (claimant, worker) = (inbox.consumer().await, inbox.consumer().await);
    parked(&inbox, 1).await;
    claimant.run(&format!("BEGIN; {}", resume())).await;
    worker.run("BEGIN").await;
    let waiting = worker.send(&inbox.claim(&[1]));
    inbox.blocked(&worker, &claimant).await;
    claimant.run(&format!("{}; {}; COMMIT", unpark(), of_key("remove_parked_key", ""))).await;
    assert_eq!(answered(waiting).await, ["done"]);
}

#[tokio::test]
async fn a_hold_outlives_an_attempt_that_goes_well() {
    let inbox = Inbox::prepare("between_hold").await;
    let (claimant, operator) = (inbox.consumer().await, inbox.consumer().await);
    parked(&inbox, 1).await;
    operator.run(&format!("BEGIN; {}; {}; COMMIT", inbox.claim(&[2]), queue(&inbox, "follow", 2))).await;
    claimant.run(&format!("BEGIN; {}; {}", take(), resume())).await;
    operator.run(&of_key("hold_parked_key", ", 'wait for the team'")).await;
    assert_eq!(claimant.one(&unpark()).await, "1");
    claimant.run("COMMIT").await;
    assert_eq!(operator.rows(&take()).await, [""; 0], "what follows waits");
    assert_eq!(behind(&inbox).await, "1: 2");
    operator.run(&of_key("release_parked_key", ", 'the team is there'")).await;
    assert_eq!(operator.one(&take()).await, "1");
}

#[tokio::test]
async fn a_hold_outlives_an_attempt_that_fails() {
    let inbox = Inbox::prepare("between_hold_f").await;
    let (claimant, operator) = (inbox.consumer().await, inbox.consumer().await);
    parked(&inbox, 1).await;
    claimant.run(&format!("BEGIN; {}; {}; SAVEPOINT handler", take(), resume())).await;
    operator.run(&of_key("hold_parked_key", ", 'wait for the team'")).await;
    let later = ", clock_timestamp(), 'still out of stock', 1";
    claimant
        .run(&format!("ROLLBACK TO handler; {}; {}", inbox.settle(&[1], "retry"), of_key("delay", later)))
        .await;
    claimant.run("COMMIT").await;
    let state = "SELECT state, held_by, last_error FROM inbox.parked_key";
    assert_eq!(inbox.admin.one(state).await, "held operator still out of stock");
    assert_eq!(claimant.rows(&take()).await, [""; 0]);
}

#[tokio::test]
async fn a_claimant_that_is_late_makes_no_marker() {
    let inbox = Inbox::prepare("between_late").await;
    let (late, next) = (inbox.consumer().await, inbox.consumer().await);
    parked(&inbox, 1).await;
    // Its handler ran out of time, and its transaction is gone.
    late.run(&format!("BEGIN; {}; {}; ROLLBACK", take(), resume())).await;
    next.run(&format!("BEGIN; {}; {}; {}", take(), resume(), unpark())).await;
    next.run(&of_key("remove_parked_key", "")).await;
    let waiting = late.send(&of_key("delay", ", clock_timestamp(), 'too slow', 1"));
    inbox.blocked(&late, &next).await;
    next.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["f"]);
    assert_eq!(behind(&inbox).await, "0:");
    assert_eq!(inbox.settlements().await, ["1 done"]);
}

#[tokio::test]
async fn a_park_waits_for_a_marker_that_goes_and_makes_another() {
    for (name, goes, left) in [("between_goes_c", true, "1: 2"), ("between_goes_r", false, "2: 1 2")] {
        let inbox = Inbox::prepare(name).await;
        let (claimant, worker) = (inbox.consumer().await, inbox.consumer().await);
        parked(&inbox, 1).await;
        claimant.run(&format!("BEGIN; {}; {}", resume(), unpark())).await;
        claimant.run(&of_key("remove_parked_key", "")).await;
        worker.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
        let waiting = worker.send(&queue(&inbox, "park", 2));
        inbox.blocked(&worker, &claimant).await;
        ends(&inbox, &claimant, goes).await;
        assert_eq!(answered(waiting).await, ["parked"]);
        worker.run("COMMIT").await;
        assert_eq!(behind(&inbox).await, left);
    }
}

#[tokio::test]
async fn a_replay_waits_for_a_marker_that_goes_and_makes_another() {
    for (name, goes, left) in [("between_replay_c", true, "1: 1"), ("between_replay_r", false, "2: 2 1")] {
        let inbox = Inbox::prepare(name).await;
        let (claimant, tool) = (inbox.consumer().await, inbox.consumer().await);
        dead(&inbox, 1).await;
        parked(&inbox, 2).await;
        claimant.run(&format!("BEGIN; {}; {}", resume(), unpark())).await;
        claimant.run(&of_key("remove_parked_key", "")).await;
        let waiting = tool.send(&replay(&inbox, 1));
        inbox.blocked(&tool, &claimant).await;
        ends(&inbox, &claimant, goes).await;
        assert_eq!(answered(waiting).await, ["parked"]);
        assert_eq!(behind(&inbox).await, left);
    }
}

#[tokio::test]
async fn a_live_event_runs_before_a_replay_or_queues_behind_it() {
    let inbox = Inbox::prepare("between_live").await;
    let (before, after, tool) = (inbox.consumer().await, inbox.consumer().await, inbox.consumer().await);
    dead(&inbox, 1).await;
    before.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
    assert_eq!(before.one(&marked()).await, "");
    after.run(&format!("BEGIN; {}", inbox.claim(&[3]))).await;
    assert_eq!(tool.one(&replay(&inbox, 1)).await, "parked");
    before.run("COMMIT").await;
    assert_eq!(after.one(&marked()).await, "1");
    assert_eq!(after.one(&queue(&inbox, "follow", 3)).await, "parked");
    after.run("COMMIT").await;
    assert_eq!(behind(&inbox).await, "2: 1 3");
    assert_eq!(inbox.settlements().await, ["1 parked", "2 done", "3 parked"]);
}

/// The deadline of an event runs from its own first failure: not from that of the event it waited behind, nor from
/// before somebody released its key or replayed it.
#[tokio::test]
async fn a_follower_that_is_first_fails_from_its_own_time() {
    let inbox = Inbox::prepare("between_deadline").await;
    let (claimant, worker) = (inbox.consumer().await, inbox.consumer().await);
    let (long_ago, later) =
        ("UPDATE inbox.parked_key SET first_failed_at = now() - interval '9 hours'", 3600.0);
    let age = async || -> f64 {
        let age =
            "SELECT extract(epoch FROM clock_timestamp() - first_failed_at)::float8 FROM inbox.parked_key";
        inbox.admin.one(age).await.parse().expect("a number")
    };
    let failed = of_key("delay", ", clock_timestamp(), 'out of stock'");
    parked(&inbox, 1).await;
    inbox.admin.run(long_ago).await;
    claimant.run(&failed).await;
    assert!(age().await > later, "its second failure is not its first");
    claimant.run(&format!("BEGIN; {}; {}", resume(), unpark())).await;
    worker.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
    assert_eq!(worker.one(&marked()).await, "1");
    let waiting = worker.send(&queue(&inbox, "follow", 2));
    inbox.blocked(&worker, &claimant).await;
    claimant.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["parked"]);
    worker.run("COMMIT").await;
    assert_eq!(behind(&inbox).await, "1: 2");
    assert!(age().await < later, "it has not failed yet");

    // However long it takes until somebody runs it.
    inbox.admin.run(long_ago).await;
    claimant.run(&failed).await;
    assert!(age().await < later, "it fails for the first time");
    inbox.admin.run(long_ago).await;
    claimant.run(&failed).await;
    assert!(age().await > later, "and for the second");

    claimant.run(&of_key("hold_parked_key", ", 'wait for the team'")).await;
    claimant.run(&of_key("release_parked_key", ", 'the team is there'")).await;
    claimant.run(&failed).await;
    assert!(age().await < later, "its ladder is from the beginning");

    claimant.run(&format!("BEGIN; {}; {}", resume(), unpark())).await;
    claimant
        .run(&format!("{}; {}; COMMIT", of_key("lock_parked_key", ""), of_key("remove_parked_key", "")))
        .await;
    dead(&inbox, 3).await;
    inbox.admin.run("UPDATE inbox.dead_letter SET first_failed_at = now() - interval '9 hours'").await;
    assert_eq!(worker.one(&replay(&inbox, 3)).await, "parked");
    claimant.run(&failed).await;
    assert!(age().await < later, "so is that of a replay");
}
