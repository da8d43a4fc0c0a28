//! `outbox-relay quarantine` as an operator runs it, with the relay's own role, on entries as a relay writes them. No
//! relay runs: what it would do to an entry is done here.

use std::process::ExitStatus;

use outbox_tests::cluster;
use outbox_tests::quarantine::Entry;
use outbox_tests::relay::RelayConfig;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually_async;
use serde_json::Value;
use tokio_postgres::Client;

/// A database with the contract and nothing in its quarantine, and a connection as the relay's role.
async fn prepare(name: &str) -> (Scene<'static>, Client) {
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, name).await;
    scene.init(&[]);
    let role = format!("relay_{name}");
    let relay = servers.postgres.connect_as(&role, "secret of the relay", name).await.unwrap();
    (scene, relay)
}

fn quarantine(config: &RelayConfig, line: &str) -> (ExitStatus, String) {
    let mut command = vec!["quarantine"];
    command.extend(line.split(' '));
    config.command(&command)
}

/// Runs it and expects an exit code.
#[track_caller]
fn ends(scene: &Scene<'_>, line: &str, code: i32) -> String {
    let (status, text) = quarantine(&scene.config, line);
    assert_eq!(status.code(), Some(code), "{line}\n{text}");
    text
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// States in the order of the stream.
async fn states(client: &Client) -> String {
    let all = "SELECT string_agg(state, ' ' ORDER BY epoch, commit_lsn, ordinal) FROM outbox.quarantine";
    client.query_one(all, &[]).await.unwrap().get(0)
}

/// Messages that the relay would read in its stream since the last look.
async fn messages(scene: &Scene<'_>) -> Vec<String> {
    let slot = scene.slot();
    let changes = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1',
                   'publication_names', $2, 'messages', 'true')";
    let rows = scene.database.query(changes, &[&slot, &slot]).await.unwrap();
    let data = rows.iter().map(|row| row.get::<_, Vec<u8>>(0)).filter(|data| data[0] == b'M');
    // What stands before the command are numbers, in which any byte may come.
    let text = |data: Vec<u8>| {
        let text = String::from_utf8_lossy(&data).into_owned();
        text[text.find("{\"relay\"").unwrap() + 1..].to_owned()
    };
    data.map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_listed_by_queue_and_shown_only_when_asked_for() {
    let (scene, relay) = prepare("quarantine_list").await;
    says(&ends(&scene, "list", 0), &["nothing is in the quarantine of relay quarantine_list"]);
    let head = Entry::held("quarantine_list", 0x16_B374_D848, 7);
    let binary =
        Entry::passed("quarantine_list", 0x16_B374_D900, 0).topic("outbox.event.cart").key(b"\xff\x00");
    for entry in [
        &head,
        &binary,
        &Entry::queued("quarantine_list", 0x16_B374_DA00, 0),
        &Entry::queued("quarantine_list", 0x16_B374_DB00, 1).row(None),
        &Entry::held("another_relay", 1, 0).id("elsewhere"),
    ] {
        entry.insert(&relay).await;
    }

    let list = ends(&scene, "list", 0);
    says(
        &list,
        &["3/00000016B374D848/7", "outbox.event.order", "k-1", "too_large", "outbox.event.cart", "\\xff00"],
    );
    says(&list, &["1 held, 2 queued behind, 1 passed over; 1 queue stands still"]);
    assert!(!list.contains("3/00000016B374DA00/0") && !list.contains("elsewhere"), "{list}");
    assert!(
        !list.contains("4711") && !list.contains('\x1b'),
        "neither payload nor colours in a file: {list}"
    );
    says(&ends(&scene, "list --all", 0), &["3/00000016B374DA00/0", "3/00000016B374DB00/1", "behind"]);
    says(&ends(&scene, "list --limit 1", 0), &["there are more; --limit shows more than 1"]);
    let narrow = ends(&scene, "list --topic outbox.event.cart --key \\xff00", 0);
    assert!(narrow.contains("3/00000016B374D900/0") && !narrow.contains("D848"), "{narrow}");
    let json: Value = serde_json::from_str(&ends(&scene, "list --json", 0)).unwrap();
    assert_eq!(json["entries"][0]["position"], "3/00000016B374D848/7");
    assert_eq!((&json["entries"][0]["behind"], &json["totals"]["queued"]), (&2.into(), &2.into()));
    assert_eq!(json["entries"].as_array().unwrap().len(), 2);

    let page = ends(&scene, "show 3/00000016B374D848/7", 0);
    says(
        &page,
        &[
            "the record has 2000000 bytes",
            "behind it      2 events",
            "payload      text: {\"secret\": \"4711\"}",
        ],
    );
    says(&page, &["traceparent  text: NULL"]);
    let page = ends(&scene, &format!("show {} --no-values", binary.event_id()), 0);
    assert!(page.contains("payload      text: (18 bytes)") && !page.contains("4711"), "{page}");
    assert_eq!(ends(&scene, "show 3/00000016B374D848/7 --raw", 0), "{\"secret\": \"4711\"}");
    let json: Value = serde_json::from_str(&ends(&scene, "show 3/00000016B374DB00/1 --json", 0)).unwrap();
    assert_eq!((&json["stands_behind"], &json["row"]), (&"3/00000016B374D848/7".into(), &Value::Null));
    says(&ends(&scene, "show 3/00000016B374DB00/1 --raw", 1), &["too large to be held"]);
    says(&ends(&scene, "show 3/00000016B374D848/8", 1), &["there is no entry at 3/00000016B374D848/8"]);
    says(&ends(&scene, "show elsewhere", 1), &["there is no entry with id elsewhere"]);
    Entry::passed("quarantine_list", 0x17_0000_0000, 0).id(head.event_id()).insert(&relay).await;
    let text = ends(&scene, &format!("show {}", head.event_id()), 1);
    says(&text, &["2 entries stand with id", "3/00000016B374D848/7 (held", "3/0000001700000000/0 (passed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_marks_the_entry_and_comes_through_the_stream() {
    let (scene, relay) = prepare("quarantine_decide").await;
    let at = |lsn| Entry::held("quarantine_decide", lsn, 0);
    for entry in [
        &at(0x100),
        &Entry::queued("quarantine_decide", 0x200, 0),
        &at(0x300).key(b"k-2"),
        &Entry::passed("quarantine_decide", 0x400, 0).topic("outbox.event.cart"),
        &at(0x500).key(b"k-3").id("the-id"),
    ] {
        entry.insert(&relay).await;
    }
    let text = ends(&scene, "release 3/0000000000000200/0", 1);
    says(&text, &["3/0000000000000200/0 only waits behind 3/0000000000000100/0; decide on that one"]);
    says(&ends(&scene, "release --topic outbox.event.none", 1), &["no event of these waits for a decision"]);
    let text = ends(&scene, "discard --all --dry-run", 0);
    says(
        &text,
        &["would be discarded  3/0000000000000100/0", "1 event queues behind it", "3/0000000000000500/0"],
    );
    ends(&scene, "discard the-id --note no-yes", 2);
    ends(&scene, "discard the-id --yes", 2);
    ends(&scene, "release", 2);
    assert_eq!(states(&relay).await, "held queued held passed held");
    assert_eq!(messages(&scene).await, [""; 0], "nothing was decided yet");

    let text = ends(&scene, "release 3/0000000000000100/0 --note mended", 0);
    says(&text, &["released  3/0000000000000100/0  outbox.event.order key k-1; 1 event queues behind it"]);
    says(&text, &["takes effect when the relay reads the decision in its stream"]);
    let text = ends(&scene, "release 3/0000000000000100/0 --wait", 1);
    says(&text, &["is releasing already, decided by relay_quarantine_decide at "]);
    // One that cannot be decided does not keep the other from it.
    let text = ends(&scene, "discard nothing the-id --note a-test --yes", 1);
    says(&text, &["there is no entry with id nothing", "discarded  3/0000000000000500/0"]);
    ends(&scene, "release --topic outbox.event.order --key k-2", 0);
    ends(&scene, "discard --all --note the-rest --yes", 0);
    assert_eq!(states(&relay).await, "releasing queued releasing discarding discarding");
    let told = |what: &str, lsn: u32| {
        format!(r#""relay":"quarantine_decide","lane":0,"do":{{"{what}":{{"position":"3/{lsn:016X}/0"}}}}}}"#)
    };
    let expected =
        [told("release", 0x100), told("discard", 0x500), told("release", 0x300), told("discard", 0x400)];
    assert_eq!(messages(&scene).await, expected);
    let marked = "SELECT concat_ws(' ', decided_by, note) FROM outbox.quarantine WHERE event_id = 'the-id'";
    assert_eq!(scene.text(marked).await, "relay_quarantine_decide a-test");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_can_wait_for_what_becomes_of_a_decision() {
    let (scene, relay) = prepare("quarantine_wait").await;
    for lsn in [0x100, 0x200, 0x300] {
        Entry::held("quarantine_wait", lsn, 0).insert(&relay).await;
    }
    // The relay's part: what becomes of the entry once the decision is in the table.
    let settle = async |set: &str, lsn: u32| {
        let statement = format!(
            "UPDATE outbox.quarantine SET {set} WHERE commit_lsn = '0/{lsn:X}' AND state IN ('releasing', 'discarding')"
        );
        eventually_async(LIMIT, "the decision", async || {
            (relay.execute(&statement, &[]).await.unwrap() == 1).then_some(())
        })
        .await;
    };
    let run = |line: &'static str| {
        let config = scene.config.clone();
        tokio::task::spawn_blocking(move || quarantine(&config, line))
    };

    let command = run("release 3/0000000000000100/0 --wait");
    settle("state = 'published', settled_at = now()", 0x100).await;
    let (status, text) = command.await.unwrap();
    assert_eq!(status.code(), Some(0), "{text}");
    says(&text, &["waiting for that, up to 1 min", "published  3/0000000000000100/0"]);

    let command = run("release 3/0000000000000200/0 --wait=50s");
    let again = "state = 'held', cause = 'refused', reason = 'the broker refused it', decided_at = NULL, decided_by = NULL";
    settle(again, 0x200).await;
    let (status, text) = command.await.unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    says(&text, &["3/0000000000000200/0 is held again: the broker refused it"]);

    let text = ends(&scene, "discard 3/0000000000000300/0 --note n --yes --wait=1s", 1);
    says(
        &text,
        &[
            "after 1 s the relay has not come to 3/0000000000000300/0. The decision stands",
            "outbox-relay status",
        ],
    );
    assert_eq!(states(&relay).await, "published held discarding");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_with_what_to_do() {
    let (scene, _) = prepare("quarantine_absent").await;
    scene.database.batch_execute("REVOKE outbox_relay FROM relay_quarantine_absent").await.unwrap();
    let text = ends(&scene, "list", 1);
    says(&text, &["role relay_quarantine_absent may not count the entries", "outbox-relay init"]);
    scene.database.batch_execute("GRANT outbox_relay TO relay_quarantine_absent").await.unwrap();
    let down = outbox_schema::sql::QUARANTINE.down;
    scene.database.batch_execute(down).await.unwrap();
    for line in ["list", "show x", "release x", "release --all"] {
        says(
            &ends(&scene, line, 1),
            &["no quarantine in database \"quarantine_absent\"", "`outbox-relay init` makes it"],
        );
    }
    let wrong = scene.config.clone().text("nonsense", "1");
    assert_eq!(quarantine(&wrong, "list").0.code(), Some(64));
}
