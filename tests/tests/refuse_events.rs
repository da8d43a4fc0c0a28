//! `deploy/sql/refuse-events.up.sql`: new events are refused while a slot keeps more log than was said, and taken again once
//! the relay has caught up (R28).

use outbox_tests::cluster::{self, POSTGRES_VERSIONS, Postgres};
use outbox_tests::scene::{LIMIT, Scene, insert_statement};
use outbox_tests::wait::eventually_async;

const UP: &str = include_str!("../../deploy/sql/refuse-events.up.sql");
const DOWN: &str = include_str!("../../deploy/sql/refuse-events.down.sql");

/// What becomes of an event, which is rolled back.
async fn refusal(scene: &Scene<'_>) -> Option<(String, String)> {
    let attempt = format!("BEGIN; {}", insert_statement(&scene.name, 0, 1));
    let answer = scene.database.batch_execute(&attempt).await;
    scene.database.batch_execute("ROLLBACK").await.unwrap();
    let error = answer.err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    Some((error.code().code().to_owned(), error.message().to_owned()))
}

async fn refuses_and_takes_again(major: u32) {
    let postgres = Postgres::start(major);
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, &format!("refuse_{major}")).await;
    let run = async |sql: &str| scene.database.batch_execute(sql).await;
    run(UP).await.unwrap();
    assert_eq!(refusal(&scene).await, None, "nothing was asked for yet");
    let error = run("SELECT outbox.refuse_events_above('1MB')").await.expect_err("less than two segments");
    assert_eq!(error.code().unwrap().code(), "22023");
    run("SELECT outbox.refuse_events_above('40MB')").await.unwrap();
    scene.insert(7).await;

    // The relay is down, and somebody writes.
    run("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1000000)) FROM generate_series(1, 60)")
        .await
        .unwrap();
    let (code, said) = refusal(&scene).await.expect("a refusal");
    assert_eq!(code, "53400", "{said}");
    assert!(said.contains(&scene.slot()) && said.contains("more than 40 MB"), "{said}");

    let relay = scene.start();
    scene.verdict().await.assert_pass();
    eventually_async(LIMIT, "events to be taken again", async || {
        // What a busy server does by itself every fifteen seconds: the slot lets go of log where it meets this.
        run("CHECKPOINT").await.unwrap();
        refusal(&scene).await.is_none().then_some(())
    })
    .await;
    scene.insert(7).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    run("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1000000)) FROM generate_series(1, 60)")
        .await
        .unwrap();
    assert!(refusal(&scene).await.is_some());
    run("SELECT outbox.refuse_events_above(NULL)").await.unwrap();
    assert_eq!(refusal(&scene).await, None, "no more");
    run(DOWN).await.unwrap();
    run(UP).await.unwrap();
    run(DOWN).await.unwrap();
    println!("proof: PostgreSQL {major}: {said}; {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_refused_while_too_much_log_is_kept_and_taken_again_after_that() {
    let [oldest, .., newest] = POSTGRES_VERSIONS;
    for major in [oldest, newest] {
        refuses_and_takes_again(major).await;
    }
}
