//! What a person decides with a reason: letters discarded and restored, parked keys held and released.

use outbox_tests::inbox::SCOPE;
use serde_json::Value;

use super::{Stage, says};

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
