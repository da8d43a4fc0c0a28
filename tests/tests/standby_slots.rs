//! A primary that waits, before it sends a failover slot's events, for a standby that is gone: the setting that a
//! promoted server kept. The stream stands with every connection alive, so the relay has to say it, and `check` too.

use std::time::Duration;

use outbox_tests::cluster::{self, Postgres};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

/// Changes the setting and waits until it is in force. `ALTER SYSTEM` is a transaction of its own.
async fn wait_for_standbys(scene: &Scene<'_>, commands: &str, names: &str) {
    for command in commands.split_inclusive(';') {
        scene.database.batch_execute(command).await.unwrap_or_else(|error| panic!("{command}: {error:?}"));
    }
    eventually_async(LIMIT, "the setting to be in force", async || {
        let now = scene.text("SELECT current_setting('synchronized_standby_slots')").await;
        (now == names).then_some(())
    })
    .await;
}

fn finding(scene: &Scene<'_>, code: &str) -> Value {
    let (_, text) = scene.config.command(&["check", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let found = report["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == code);
    found.unwrap_or_else(|| panic!("no finding {code} in {report:#}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_held_back_for_a_standby_that_is_gone_is_named_with_the_command_that_frees_it() {
    let postgres = Postgres::start(17);
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "standby_gone").await;
    let relay = scene.start();
    scene.insert(5).await;
    scene.verdict().await.assert_pass();

    scene.text("SELECT slot_name::text FROM pg_create_physical_replication_slot('former')").await;
    let set = "ALTER SYSTEM SET synchronized_standby_slots = 'former'; SELECT pg_reload_conf();";
    wait_for_standbys(&scene, set, "former").await;
    let unread = finding(&scene, "standby-slot-unread");
    assert!(unread["seen"].as_str().unwrap().contains("`former`, which is read by no standby"), "{unread}");
    scene.text("SELECT pg_drop_replication_slot('former')::text").await;
    scene.insert(3).await;

    let said = relay.wait_status(LIMIT, "the relay to say what it waits for", |status| {
        let said = status["waiting_for"].as_str()?;
        said.contains("`former` does not exist").then(|| said.to_owned())
    });
    assert!(said.contains("ALTER SYSTEM SET synchronized_standby_slots = ''"), "{said}");
    assert_eq!(relay.status()["totals"]["records"], 5, "nothing is sent meanwhile");
    let missing = finding(&scene, "standby-slot-missing");
    assert_eq!(missing["severity"], "error", "{missing}");

    wait_for_standbys(&scene, missing["command"].as_str().unwrap(), "").await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    relay.wait_status(Duration::from_secs(20), "nothing to be waited for", |status| {
        status["waiting_for"].is_null().then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: held back for a standby that is gone: {verdict}");
}
