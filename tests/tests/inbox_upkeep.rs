//! How long settlements are kept: the arithmetic, the partitions that come and go, and who is at it.

use outbox_tests::inbox::{Inbox, SCOPE, answered};

/// The upkeep as it will be in that many days: made, dropped, pruned.
fn upkeep(days: u32) -> String {
    format!(
        "SELECT made, dropped, pruned FROM inbox.upkeep_at(clock_timestamp() + '{days} days', '2 days', 2)"
    )
}

/// Kept for 29 days: whole ones, so that the number of partitions does not depend on the time of day.
const DECLARE: &str = "SELECT inbox.declare_scope('inventory', '7 days', '0', '14 days')";

#[tokio::test]
async fn the_floor_is_said_with_its_arithmetic() {
    let inbox = Inbox::prepare("keep_floor").await;
    let session = inbox.consumer().await;
    assert_eq!(
        session.one("SELECT * FROM inbox.retention_floor('7 days', '01:11:00', '14 days')").await,
        "29 days 01:11:00 A copy can come for 29 days 01:11:00: 7 days that the topic keeps it, 01:11:00 on the ladder, \
         14 days among the dead letters, 8 days for which the relay may publish it again."
    );
    for wrong in ["NULL, '0', '0'", "'1 day', '-1 hour', '0'"] {
        assert_eq!(session.refused(&format!("SELECT inbox.retention_floor({wrong})")).await.0, "22023");
    }

    session.run(DECLARE).await;
    let shorter = "SELECT inbox.declare_scope('inventory', '7 days', '0', '14 days', kept => '10 days'";
    let (code, message) = session.refused(&format!("{shorter})")).await;
    assert_eq!(code, "22023");
    assert!(message.starts_with("inbox: settlements of scope inventory would be kept for 10 days, and have to be for 29 days. A copy can come"), "{message}");
    let (_, message) = session.refused("SELECT inbox.declare_scope('inventory', '1 day', '0', '0')").await;
    assert!(
        message.contains("would be kept for 9 days, and have to be for 29 days"),
        "an older instance may run: {message}"
    );
    session.run(&format!("{shorter}, signed_by => 'ada')")).await;
    assert_eq!(inbox.admin.one("SELECT kept, signed_by FROM inbox.scope").await, "10 days ada");
    let audited = inbox.admin.one("SELECT who, action, reason FROM inbox.audit").await;
    assert!(
        audited.starts_with("keep_floor floor kept for 10 days, signed by ada. A copy can come for"),
        "{audited}"
    );
}

#[tokio::test]
async fn a_partition_goes_when_its_bound_and_its_newest_settlement_are_old() {
    let inbox = Inbox::prepare("keep_drop").await;
    let session = inbox.consumer().await;
    assert_eq!(
        session.one("SELECT said FROM inbox.upkeep()").await,
        "nothing is dropped: no scope is declared"
    );
    session.run(DECLARE).await;
    let old = inbox.id_at(-40, 1);
    let claim = |id: &str| {
        format!("SELECT array_to_string(inbox.claim_group('{SCOPE}', ARRAY['{id}']::uuid[]), ' ')")
    };
    assert_eq!(session.one(&claim(&old)).await, "run", "a clock that is wrong, or a long backlog");

    // The bound is older than the floor in 32 days, the settlement is not if it was made on the tenth.
    inbox.admin.run("UPDATE inbox.settlement SET settled_at = clock_timestamp() + '10 days'").await;
    assert_eq!(inbox.admin.one(&upkeep(32)).await, "27 0 0");
    assert_eq!(session.one(&claim(&old)).await, "done");
    assert_eq!(inbox.admin.one(&upkeep(40)).await, "8 12 0");
    assert_eq!(session.one(&claim(&old)).await, "too_old");
    let begin = "SELECT to_regclass('inbox.settlement_begin') IS NULL, oldest = (SELECT min(lower) FROM inbox.settlement_partition) FROM inbox.store";
    assert_eq!(inbox.admin.one(begin).await, "t t");
}

#[tokio::test]
async fn what_waits_in_the_park_keeps_its_partition() {
    let inbox = Inbox::prepare("keep_parked").await;
    let session = inbox.consumer().await;
    session.run(DECLARE).await;
    let id = inbox.id_at(-40, 1);
    session
        .run(&format!(
            "BEGIN; SELECT inbox.claim_group('{SCOPE}', ARRAY['{id}']::uuid[]);
             SELECT inbox.park('{SCOPE}', 't', 'k', now(), 'x', ARRAY['{id}']::uuid[], '{{0}}', '{{0}}', '{{now}}', '{{k}}', '{{v}}', ARRAY['[]']::json[]);
             COMMIT"
        ))
        .await;
    assert_eq!(inbox.admin.one(&upkeep(60)).await, "55 0 0");
    session
        .run("BEGIN; SELECT inbox.resume('inventory', 't', 'k'); SELECT inbox.unpark('inventory', 't', 'k', '{1}'); COMMIT")
        .await;
    assert_eq!(inbox.admin.one(&upkeep(60)).await, "0 32 0");
}

#[tokio::test]
async fn a_late_partition_takes_over_what_went_to_the_default_one() {
    let inbox = Inbox::prepare("keep_later").await;
    let session = inbox.consumer().await;
    session.run(DECLARE).await;
    let id = inbox.id_at(20, 1);
    let claim = format!("SELECT array_to_string(inbox.claim_group('{SCOPE}', ARRAY['{id}']::uuid[]), ' ')");
    assert_eq!(session.one(&claim).await, "run");
    let place = "SELECT tableoid::regclass::text ~ 'settlement_later' FROM inbox.settlement";
    assert_eq!(session.one(place).await, "t");
    inbox.admin.run(&upkeep(25)).await;
    assert_eq!(session.one(place).await, "f");
    assert_eq!(session.one(&claim).await, "done");
    assert_eq!(inbox.admin.one(&upkeep(25)).await, "0 0 0");
}

#[tokio::test]
async fn keys_without_a_time_are_deleted_in_batches() {
    let inbox = Inbox::prepare("keep_untimed").await;
    let session = inbox.consumer().await;
    session.run(DECLARE).await;
    let keys = "ARRAY[inbox.key_id('idem:1:Paid'), inbox.key_id('idem:2:Paid'), inbox.key_id('idem:3:Paid')]";
    let claim = format!("SELECT array_to_string(inbox.claim_group('{SCOPE}', {keys}), ' ')");
    assert_eq!(session.one(&claim).await, "run run run");
    assert_eq!(session.one(&claim).await, "done done done");
    assert_eq!(
        inbox
            .admin
            .one("SELECT pruned FROM inbox.upkeep_at(clock_timestamp() + '28 days', '1 day', 2)")
            .await,
        "0"
    );
    assert_eq!(
        inbox
            .admin
            .one("SELECT pruned FROM inbox.upkeep_at(clock_timestamp() + '30 days', '1 day', 2)")
            .await,
        "2"
    );
    assert_eq!(
        inbox
            .admin
            .one("SELECT pruned FROM inbox.upkeep_at(clock_timestamp() + '30 days', '1 day', 2)")
            .await,
        "1"
    );
    assert_eq!(session.one(&claim).await, "run run run");
}

#[tokio::test]
async fn one_instance_is_at_it_and_nobody_waits_for_long() {
    let inbox = Inbox::prepare("keep_two").await;
    let (first, second) = (inbox.consumer().await, inbox.consumer().await);
    first.run(DECLARE).await;
    first.run("BEGIN; SELECT inbox.upkeep('9 days')").await;
    assert_eq!(second.one("SELECT * FROM inbox.upkeep('9 days')").await, "0 0 0 another instance is at it");
    first.run("COMMIT").await;
    assert_eq!(second.one("SELECT made FROM inbox.upkeep('9 days')").await, "0");

    // A claim in the middle of its transaction holds what would be dropped, and is not waited for.
    second.run(&format!("BEGIN; {}", inbox.claim(&[1]))).await;
    let said = "SELECT made, dropped, said FROM inbox.upkeep_at(clock_timestamp() + '60 days', '2 days', 2)";
    assert_eq!(inbox.admin.one(said).await, "53 0 no partition was dropped: the table is in use");
    second.run("ROLLBACK").await;
    assert_eq!(inbox.admin.one(said).await, "0 32 settlements are kept for 29 days");
}

/// The claim read the bound before the partition went, if it read it without the table's lock.
#[tokio::test]
async fn a_claim_that_waits_for_the_upkeep_sees_the_new_bound() {
    let inbox = Inbox::prepare("keep_race").await;
    let session = inbox.consumer().await;
    session.run(DECLARE).await;
    let claim = format!(
        "SELECT array_to_string(inbox.claim_group('{SCOPE}', ARRAY['{}']::uuid[]), ' ')",
        inbox.id_at(-40, 1)
    );
    inbox.admin.run("BEGIN").await;
    assert_eq!(
        inbox
            .admin
            .one("SELECT dropped FROM inbox.upkeep_at(clock_timestamp() + '40 days', '2 days', 2)")
            .await,
        "12"
    );
    let waiting = session.send(&claim);
    let watch = inbox.consumer().await;
    let blocked = format!("SELECT {} = ANY (pg_blocking_pids({}))", inbox.admin.pid, session.pid);
    outbox_tests::wait::eventually_async(
        std::time::Duration::from_secs(30),
        "the claim to wait",
        async || (watch.rows(&blocked).await == ["t"]).then_some(()),
    )
    .await;
    inbox.admin.run("COMMIT").await;
    assert_eq!(answered(waiting).await, ["too_old"]);
    assert_eq!(inbox.settlements().await, [""; 0]);
}
