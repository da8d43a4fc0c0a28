//! Claims of two owners, stepped by hand: who waits, what is seen after the wait, and what is left of a failure.

use outbox_tests::inbox::{Inbox, SCOPE, answered, code, outcome};

#[tokio::test]
async fn a_claim_waits_for_the_other_owners_and_then_sees_what_it_committed() {
    let inbox = Inbox::prepare("claim_waits").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    first.run("BEGIN").await;
    assert_eq!(first.one(&inbox.claim(&[1, 2])).await, "run run");
    second.run("BEGIN").await;
    let waiting = second.send(&inbox.claim(&[2, 3]));
    inbox.blocked(&second, &first).await;
    first.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["done run"]);
    second.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["1 done", "2 done", "3 done"]);
}

#[tokio::test]
async fn a_claim_that_waited_runs_when_the_other_rolls_back_or_gives_back() {
    let inbox = Inbox::prepare("claim_runs").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    for (number, ending) in
        [(1, "ROLLBACK".to_owned()), (2, format!("{}; COMMIT", inbox.settle(&[2], "retry")))]
    {
        first.run("BEGIN").await;
        assert_eq!(first.one(&inbox.claim(&[number])).await, "run");
        let waiting = second.send(&inbox.claim(&[number]));
        inbox.blocked(&second, &first).await;
        first.run(&ending).await;
        assert_eq!(answered(waiting).await, ["run"], "{ending}");
    }
    assert_eq!(inbox.settlements().await, ["1 done", "2 done"]);
}

#[tokio::test]
async fn every_other_settlement_is_seen_by_the_claim_that_waited() {
    let inbox = Inbox::prepare("claim_states").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    for (number, state) in [(1, "rejected"), (2, "dropped"), (3, "dead")] {
        first.run(&format!("BEGIN; {}", inbox.claim(&[number]))).await;
        let waiting = second.send(&inbox.claim(&[number]));
        inbox.blocked(&second, &first).await;
        first.run(&format!("{}; COMMIT", inbox.settle(&[number], state))).await;
        assert_eq!(answered(waiting).await, [state]);
    }
}

/// The answer to COMMIT is lost while the old backend is still at it. Reading shows nothing, and would let the event
/// run twice; the insert waits for the old backend and is told the truth either way.
#[tokio::test]
async fn a_lost_answer_is_resolved_by_claiming_again_and_not_by_reading() {
    let inbox = Inbox::prepare("claim_lost").await;
    for (number, commits, verdict) in [(1, true, "done"), (2, false, "run")] {
        let (old, new) = (inbox.consumer().await, inbox.consumer().await);
        old.run(&format!("BEGIN; {}", inbox.claim(&[number]))).await;
        let read = format!("SELECT count(*) FROM inbox.settlement WHERE id = '{}'", inbox.id(number));
        assert_eq!(new.one(&read).await, "0", "reading says nothing of what is being committed");
        let waiting = new.send(&inbox.claim(&[number]));
        inbox.blocked(&new, &old).await;
        if commits {
            old.run("COMMIT").await;
        } else {
            inbox.admin.run(&format!("SELECT pg_terminate_backend({})", old.pid)).await;
        }
        assert_eq!(answered(waiting).await, [verdict]);
    }
}

#[tokio::test]
async fn a_failed_attempt_leaves_no_row() {
    let inbox = Inbox::prepare("claim_failed").await;
    let session = inbox.consumer().await;
    session.run(&format!("BEGIN; {}; ROLLBACK", inbox.claim(&[1]))).await;
    assert_eq!(inbox.settlements().await, [""; 0], "gone with the transaction");

    // A savepoint comes after the claim of its group, so the rollback to it leaves the claim standing.
    session.run(&format!("BEGIN; {}", inbox.claim(&[1, 2, 3, 4, 5]))).await;
    for number in [1, 2, 3, 4] {
        session.run(&format!("SAVEPOINT event; INSERT INTO effects VALUES ('{}')", inbox.id(number))).await;
        assert_eq!(session.refused("SELECT 1 / 0").await.0, "22012");
        session.run("ROLLBACK TO SAVEPOINT event").await;
    }
    assert_eq!(session.one("SELECT count(*) FROM inbox.settlement WHERE state = 'done'").await, "5");
    session.run(&inbox.settle(&[1, 2], "retry")).await;
    session.run(&inbox.settle(&[3], "rejected")).await;
    session.run(&inbox.settle(&[4], "dead")).await;
    session.run("COMMIT").await;
    assert_eq!(inbox.settlements().await, ["3 rejected", "4 dead", "5 done"]);
    assert_eq!(session.one("SELECT count(*) FROM effects").await, "0");
    assert_eq!(session.one(&inbox.claim(&[1, 2, 3, 4, 5])).await, "run run rejected dead done");
}

#[tokio::test]
async fn the_same_id_twice_in_a_group_runs_once() {
    let inbox = Inbox::prepare("claim_twice").await;
    let session = inbox.consumer().await;
    session.run("BEGIN").await;
    assert_eq!(session.one(&inbox.claim(&[2, 1, 2])).await, "run run repeated");
    assert_eq!(
        session.one(&inbox.claim(&[2, 3])).await,
        "repeated run",
        "in a further claim of the transaction"
    );
    session.run("COMMIT").await;
    assert_eq!(session.one(&inbox.claim(&[2, 2])).await, "done done");
    assert_eq!(session.one(&inbox.claim(&[])).await, "");
}

/// The third session makes both others wait in the middle of their groups. In the order of the arguments the first
/// would hold 1 and 2 and want 3, the second hold 3 and want 2.
#[tokio::test]
async fn groups_with_the_same_keys_in_another_order_do_not_deadlock() {
    let inbox = Inbox::prepare("claim_order").await;
    let (first, second, third) = (inbox.consumer().await, inbox.consumer().await, inbox.consumer().await);
    third.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
    first.run("BEGIN").await;
    second.run("BEGIN").await;
    let first_claim = first.send(&inbox.claim(&[1, 2, 3]));
    inbox.blocked(&first, &third).await;
    let second_claim = second.send(&inbox.claim(&[3, 2, 1]));
    inbox.blocked(&second, &first).await;
    third.run("ROLLBACK").await;
    assert_eq!(answered(first_claim).await, ["run run run"]);
    first.run("COMMIT").await;
    assert_eq!(answered(second_claim).await, ["done done done"]);
}

#[tokio::test]
async fn a_short_lock_timeout_lets_a_group_be_split() {
    let inbox = Inbox::prepare("claim_split").await;
    let (frozen, session) = (inbox.consumer().await, inbox.consumer().await);
    frozen.run(&format!("BEGIN; {}", inbox.claim(&[2]))).await;
    session.run("BEGIN; SET LOCAL lock_timeout = '50ms'").await;
    assert_eq!(session.refused(&inbox.claim(&[1, 2, 3])).await.0, "55P03");
    session.run("ROLLBACK").await;
    assert_eq!(inbox.settlements().await, [""; 0]);
    // One by one: only the key that the other has waits.
    for (number, claimed) in [(1, true), (2, false), (3, true)] {
        let statements =
            format!("BEGIN; SET LOCAL lock_timeout = '50ms'; {}; COMMIT", inbox.claim(&[number]));
        match session.attempt(&statements).await {
            Ok(verdicts) => assert!(claimed && verdicts == ["run"], "{number} {verdicts:?}"),
            Err(error) => {
                assert!(!claimed && code(&error).0 == "55P03", "{number} {error:?}");
                session.run("ROLLBACK").await;
            }
        }
    }
    frozen.run("ROLLBACK").await;
    assert_eq!(session.one(&inbox.claim(&[2])).await, "run");
}

#[tokio::test]
async fn a_frozen_owner_is_ended_and_the_next_one_runs() {
    let inbox = Inbox::prepare("claim_frozen").await;
    let (frozen, next) = (inbox.consumer().await, inbox.consumer().await);
    frozen
        .run(&format!("SET idle_in_transaction_session_timeout = '300ms'; BEGIN; {}", inbox.claim(&[1])))
        .await;
    assert_eq!(answered(next.send(&inbox.claim(&[1]))).await, ["run"]);
    let thawed = frozen.attempt("INSERT INTO effects VALUES (NULL, 'of the frozen one')").await;
    assert!(thawed.is_err(), "{thawed:?}");
    assert_eq!(next.one("SELECT count(*) FROM effects").await, "0");
}

#[tokio::test]
async fn a_stale_owner_cannot_decide_again() {
    let inbox = Inbox::prepare("claim_stale").await;
    let (stale, other) = (inbox.consumer().await, inbox.consumer().await);
    stale.run(&format!("BEGIN; {}; COMMIT", inbox.claim(&[1]))).await;
    for (session, number) in [(&stale, 1), (&other, 1), (&other, 2)] {
        for state in ["retry", "rejected", "dropped", "dead"] {
            let (code, message) = session.refused(&inbox.settle(&[number], state)).await;
            assert_eq!(code, "IB001", "{message}");
        }
    }
    // All or nothing: the claim of 3 is this transaction's, that of 1 is not.
    other.run(&format!("BEGIN; {}", inbox.claim(&[3]))).await;
    let (_, message) = other.refused(&inbox.settle(&[1, 3], "dead")).await;
    assert!(message.contains("of 2 events of scope inventory only 1"), "{message}");
    other.run("ROLLBACK").await;
    assert_eq!(inbox.settlements().await, ["1 done"]);
    for state in ["done", "claimed", "parked", "replayed", ""] {
        assert_eq!(other.refused(&inbox.settle(&[1], state)).await.0, "22023", "{state}");
    }
}

#[tokio::test]
async fn another_isolation_level_is_refused() {
    let inbox = Inbox::prepare("claim_isolation").await;
    let session = inbox.consumer().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let (code, message) =
            session.refused(&format!("BEGIN ISOLATION LEVEL {level}; {}", inbox.claim(&[1]))).await;
        assert_eq!(code, "25000");
        assert!(message.contains("has to be read committed"), "{message}");
        session.run("ROLLBACK").await;
    }
}

#[tokio::test]
async fn a_replay_passes_for_a_newer_number_only() {
    let inbox = Inbox::prepare("claim_replay").await;
    let session = inbox.consumer().await;
    session.run(&format!("BEGIN; {}", inbox.claim(&[1, 2, 3, 4]))).await;
    session.run(&inbox.settle(&[1], "dead")).await;
    session.run(&inbox.settle(&[2], "rejected")).await;
    session.run(&format!("{}; COMMIT", inbox.settle(&[3], "dropped"))).await;
    assert_eq!(session.one(&inbox.claim_replay(&[1, 2, 3, 4], 0)).await, "dead rejected dropped done");
    // The replay runs and fails for now: it may come again under its number.
    session.run(&format!("BEGIN; {}", inbox.claim_replay(&[1, 2], 1))).await;
    session.run(&format!("{}; COMMIT", inbox.settle(&[1, 2], "retry"))).await;
    assert_eq!(inbox.settlements().await, ["1 dead", "2 rejected", "3 dropped", "4 done"]);
    // It is dead once more: only a newer one passes now.
    session.run(&format!("BEGIN; {}", inbox.claim_replay(&[1], 1))).await;
    session.run(&format!("{}; COMMIT", inbox.settle(&[1], "dead"))).await;
    assert_eq!(session.one(&inbox.claim_replay(&[1], 1)).await, "dead");
    assert_eq!(session.one(&inbox.claim_replay(&[1, 2, 3, 4], 2)).await, "run run dropped done");
    assert_eq!(
        session.one(&inbox.claim_replay(&[1, 2], 2)).await,
        "replayed replayed",
        "twice the same number"
    );
    assert_eq!(session.one(&inbox.claim_replay(&[1, 2], 3)).await, "replayed replayed", "it went well");
}

#[tokio::test]
async fn two_copies_of_a_replay_at_once_run_once() {
    let inbox = Inbox::prepare("claim_replays").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    first.run(&format!("BEGIN; {}; {}; COMMIT", inbox.claim(&[1]), inbox.settle(&[1], "dead"))).await;
    first.run("BEGIN").await;
    assert_eq!(first.one(&inbox.claim_replay(&[1], 1)).await, "run");
    let waiting = second.send(&inbox.claim_replay(&[1], 1));
    inbox.blocked(&second, &first).await;
    first.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["replayed"]);
}

#[tokio::test]
async fn an_event_older_than_the_store_is_never_run_and_a_later_one_has_a_place() {
    let inbox = Inbox::prepare("claim_old").await;
    let session = inbox.consumer().await;
    inbox.admin.run("SELECT inbox.drop_partitions(clock_timestamp())").await;
    let claim = |id: &str| {
        format!("SELECT array_to_string(inbox.claim_group('{SCOPE}', ARRAY['{id}']::uuid[]), ' ')")
    };
    assert_eq!(session.one(&claim(&inbox.id_at(-2, 1))).await, "too_old");
    assert_eq!(
        session.one(&format!("SELECT verdict FROM inbox.claim('{SCOPE}', '{}')", inbox.id_at(-2, 1))).await,
        "too_old"
    );
    assert_eq!(session.one(&claim(&inbox.id_at(400, 2))).await, "run", "a clock that is ahead");
    assert_eq!(session.one(&claim(&inbox.id_at(400, 2))).await, "done");
    let created = |id: &str, created: &str| {
        format!(
            "SELECT array_to_string(inbox.claim_group('{SCOPE}', ARRAY['{id}']::uuid[],
                ARRAY[{created}]::timestamptz[]), ' ')"
        )
    };
    let plain = "6f1f5d7e-9a34-4c1e-8a51-000000000001";
    assert_eq!(session.one(&created(plain, "'2001-01-01'")).await, "too_old");
    assert_eq!(session.one(&created(plain, "'1961-01-01'")).await, "too_old");
    assert_eq!(session.one(&created(plain, "NULL")).await, "run", "no time: the unpartitioned part");
    assert_eq!(session.one(&created(plain, "NULL")).await, "done");
    // What is said beside a version-7 id does not matter: a copy that says otherwise meets the same row.
    assert_eq!(session.one(&created(&inbox.id(3), "'2001-01-01'")).await, "run");
    assert_eq!(session.one(&claim(&inbox.id(3))).await, "done");
    let places = "SELECT tableoid::regclass FROM inbox.settlement ORDER BY event_time";
    let places = session.rows(places).await;
    assert_eq!(
        (places[0].as_str(), places[2].as_str()),
        ("inbox.settlement_untimed", "inbox.settlement_later")
    );
}

/// The claim of an external handler: verdict, whether there is a token, attempt, result.
fn external(inbox: &Inbox, number: u32, lease: &str) -> String {
    format!(
        "SELECT verdict, token IS NOT NULL, attempts, convert_from(result, 'UTF8')
           FROM inbox.claim('{SCOPE}', '{}', lease => {lease})",
        inbox.id(number)
    )
}

#[tokio::test]
async fn an_external_handler_has_a_lease_and_its_result_is_kept() {
    let inbox = Inbox::prepare("external").await;
    let (owner, other) = (inbox.consumer().await, inbox.consumer().await);
    assert_eq!(owner.one(&external(&inbox, 1, "'1 hour'")).await, "run t 1 -");
    assert_eq!(other.one(&external(&inbox, 1, "'1 hour'")).await, "claimed f 1 -");
    assert_eq!(other.one(&inbox.claim(&[1])).await, "claimed", "also for a transactional handler");

    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    let complete = |token: &str, result: &str| {
        format!(
            "SELECT settled, standing, convert_from(standing_result, 'UTF8')
               FROM inbox.complete('{SCOPE}', '{}', '{token}', '{result}')",
            inbox.id(1)
        )
    };
    let wrong = "6f1f5d7e-9a34-4c1e-8a51-000000000001";
    assert_eq!(other.one(&complete(wrong, "theirs")).await, "f claimed -");
    assert_eq!(owner.one(&complete(&token, "ours")).await, "t done ours");
    assert_eq!(
        owner.one(&complete(&token, "again")).await,
        "f done ours",
        "the answer was lost, and is asked for again"
    );
    assert_eq!(other.one(&external(&inbox, 1, "'1 hour'")).await, "done f 1 ours");
    let large = format!(
        "SELECT inbox.complete('{SCOPE}', '{}', '{wrong}', convert_to(repeat('x', 65537), 'UTF8'))",
        inbox.id(1)
    );
    assert_eq!(owner.refused(&large).await.0, "22023");
}

#[tokio::test]
async fn a_lease_that_ended_is_taken_by_one_with_a_new_token() {
    let inbox = Inbox::prepare("external_lease").await;
    let (frozen, first, second) = (inbox.consumer().await, inbox.consumer().await, inbox.consumer().await);
    frozen.run(&external(&inbox, 1, "'-1 second'")).await;
    let stale = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    first.run("BEGIN").await;
    assert_eq!(first.one(&external(&inbox, 1, "'1 hour'")).await, "run t 2 -");
    let waiting = second.send(&external(&inbox, 1, "'1 hour'"));
    inbox.blocked(&second, &first).await;
    first.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["claimed f 2 -"]);
    for settle in ["done", "dead", "rejected", "dropped"] {
        let settle = format!(
            "SELECT settled, standing FROM inbox.settle('{SCOPE}', '{}', '{stale}', '{settle}')",
            inbox.id(1)
        );
        assert_eq!(frozen.one(&settle).await, "f claimed", "the frozen one thaws");
    }
    let renew = |token: &str, lease: &str| {
        format!("SELECT inbox.renew('{SCOPE}', '{}', '{token}', '{lease}')", inbox.id(1))
    };
    assert_eq!(frozen.one(&renew(&stale, "1 hour")).await, "f");
    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    assert_eq!(first.one(&renew(&token, "2 hours")).await, "t");
    assert_eq!(second.one(&external(&inbox, 1, "'1 hour'")).await, "claimed f 2 -");
    // Given back, for an attempt later: a transactional handler may be the one that takes it.
    assert_eq!(first.one(&renew(&token, "-1 second")).await, "t");
    assert_eq!(second.one(&inbox.claim(&[1])).await, "run");
    assert_eq!(inbox.settlements().await, ["1 done"]);
}

#[tokio::test]
async fn at_most_once_is_taken_by_nobody_and_replays_pass_externally_too() {
    let inbox = Inbox::prepare("external_once").await;
    let session = inbox.consumer().await;
    assert_eq!(session.one(&external(&inbox, 1, "NULL")).await, "run t 1 -");
    assert_eq!(session.one(&external(&inbox, 1, "NULL")).await, "claimed f 1 -");
    assert_eq!(inbox.admin.one("SELECT lease_until FROM inbox.settlement").await, "infinity");

    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    let settle = |token: &str, state: &str| {
        format!(
            "SELECT settled, standing FROM inbox.settle('{SCOPE}', '{}', '{token}', '{state}', error => 'broken')",
            inbox.id(1)
        )
    };
    assert_eq!(session.one(&settle(&token, "dead")).await, "t dead");
    let replay = |number: u32| {
        format!("SELECT verdict FROM inbox.claim('{SCOPE}', '{}', replay => {number})", inbox.id(1))
    };
    assert_eq!(session.one(&replay(0)).await, "dead");
    assert_eq!(session.one(&replay(1)).await, "run");
    let token = inbox.admin.one("SELECT token FROM inbox.settlement").await;
    assert_eq!(session.one(&settle(&token, "done")).await, "t replayed");
    assert_eq!(session.one(&replay(1)).await, "replayed");
    assert_eq!(session.refused(&settle(&token, "parked")).await.0, "22023");
}

#[tokio::test]
async fn two_external_claims_at_once_are_one() {
    let inbox = Inbox::prepare("external_two").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    first.run(&format!("BEGIN; {}", external(&inbox, 1, "'1 hour'"))).await;
    let waiting = second.send(&external(&inbox, 1, "'1 hour'"));
    inbox.blocked(&second, &first).await;
    first.run("COMMIT").await;
    assert_eq!(outcome(waiting).await.unwrap(), ["claimed f 1 -"]);
}
