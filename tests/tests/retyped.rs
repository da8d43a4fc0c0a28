//! Columns that change their type, go and come back while the relay streams: the plan is made anew with the next
//! row, and what a record would silently lose halts the relay by name (R16).

use outbox_tests::history::Published;
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;

use crate::bad_rows::other_shape;

const TABLE: &str = "CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL,
    payload jsonb, headers jsonb)";

/// A publication of whole rows: a column in a publication's list keeps its type.
/// Answers the configuration without headers, too.
async fn scene(name: &str) -> (Scene<'static>, RelayConfig) {
    let publication = format!(
        "CREATE PUBLICATION outbox_{name} FOR TABLE public.outbox
         WITH (publish = 'insert', publish_via_partition_root = true)"
    );
    let scene = other_shape(name, TABLE).await;
    let unmapped = scene.config.clone();
    let scene = scene.configured(|config| config.text("outbox.columns.headers", "headers"));
    scene.database.batch_execute(&publication).await.unwrap();
    scene.init(&[]);
    (scene, unmapped)
}

/// Changes the table, if asked to, and inserts a row of these columns. Answers the record it became.
async fn insert(scene: &Scene<'_>, alter: &str, columns: &str, values: &str) -> Published {
    let mut log = scene.log();
    log.catch_up();
    let before = log.records().len();
    scene.database.batch_execute(alter).await.unwrap_or_else(|error| panic!("{alter}: {error:?}"));
    statement(scene, columns, values).await;
    eventually(LIMIT, &format!("the row after `{alter}`"), || {
        log.catch_up();
        assert!(log.records().len() <= before + 1, "nothing is repeated");
        log.records().get(before).cloned()
    })
}

async fn statement(scene: &Scene<'_>, columns: &str, values: &str) {
    let insert = format!(
        "INSERT INTO public.outbox (aggregatetype, type, {columns}) VALUES ('{}', 'Made', {values})",
        scene.name
    );
    scene.database.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{insert}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_changes_its_type_is_read_by_its_new_one_from_the_next_row_on() {
    let (scene, _) = scene("retyped").await;
    let relay = scene.start();
    let record = insert(&scene, "", "aggregateid, payload", "'7', '{\"n\": 1}'").await;
    assert_eq!(record.value.as_deref(), Some(&b"{\"n\": 1}"[..]));

    let text = "ALTER TABLE public.outbox ALTER COLUMN payload TYPE text USING payload::text";
    let record = insert(&scene, text, "aggregateid, payload", "'7', 'no JSON at all'").await;
    assert_eq!(record.value.as_deref(), Some(&b"no JSON at all"[..]));

    // A text that looks like hex is no bytes, and the same characters of a bytea are.
    let record = insert(&scene, "", "aggregateid, payload", r"'7', '\x00ff'").await;
    assert_eq!(record.value.as_deref(), Some(&br"\x00ff"[..]));
    let bytea = "ALTER TABLE public.outbox ALTER COLUMN payload TYPE bytea USING convert_to(payload, 'UTF8')";
    let record = insert(&scene, bytea, "aggregateid, payload", r"'7', '\x00ff'").await;
    assert_eq!(record.value.as_deref(), Some(&[0, 0xFF][..]));

    let number = "ALTER TABLE public.outbox ALTER COLUMN aggregateid TYPE bigint USING aggregateid::bigint";
    let record = insert(&scene, number, "aggregateid, payload", r"7, '\x01'").await;
    assert_eq!(record.key.as_deref(), Some(&b"7"[..]), "the same key as before");

    let id =
        "ALTER TABLE public.outbox ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE text USING id::text";
    let record = insert(&scene, id, "id, aggregateid, payload", r"'01J-ULID', 7, '\x02'").await;
    assert_eq!(record.id(), Some("01J-ULID"));

    let json = "ALTER TABLE public.outbox ALTER COLUMN headers TYPE json USING headers::json";
    let values = r#"'01J-2', 7, '\x03', '{"tenant": "a", "n": 1.50}'"#;
    let record = insert(&scene, json, "id, aggregateid, payload, headers", values).await;
    assert_eq!((record.header("tenant"), record.header("n")), (Some("a"), Some("1.50")));

    // A type that no headers can be read from makes the row one that cannot be published, and no more.
    let array = "ALTER TABLE public.outbox ALTER COLUMN headers TYPE text[] USING NULL";
    scene.database.batch_execute(array).await.unwrap();
    statement(&scene, "id, aggregateid, payload, headers", r"'01J-3', 8, '\x04', '{a,b}'").await;
    let record = insert(&scene, "", "id, aggregateid, payload", r"'01J-4', 7, '\x05'").await;
    assert_eq!((record.key.as_deref(), record.id()), (Some(&b"7"[..]), Some("01J-4")));
    let reason = scene.text("SELECT state || ': ' || reason FROM outbox.quarantine").await;
    assert!(reason.starts_with("held: ") && reason.contains("\"headers\""), "{reason}");
    assert_eq!(relay.status()["totals"]["reconnects"], 0, "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_column_that_comes_back_in_time_is_not_missed_and_one_that_does_not_halts_by_name() {
    let (scene, unmapped) = scene("retyped_dropped").await;
    let relay = scene.start();
    insert(&scene, "", "aggregateid, headers", "'7', '{\"tenant\": \"a\"}'").await;
    let back =
        "ALTER TABLE public.outbox DROP COLUMN headers; ALTER TABLE public.outbox ADD COLUMN headers jsonb";
    let record = insert(&scene, back, "aggregateid, headers", "'7', '{\"tenant\": \"b\"}'").await;
    assert_eq!(record.header("tenant"), Some("b"));

    scene.database.batch_execute("ALTER TABLE public.outbox DROP COLUMN headers").await.unwrap();
    statement(&scene, "aggregateid", "'7'").await;
    let status = relay.wait_exit(LIMIT);
    let log = relay.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("lacks column \"headers\" (headers)"), "{log}");
    let log = scene.start_halts();
    assert!(log.contains("\"headers\""), "{log}");

    // Without the mapping it goes on with the row that it halted on.
    let mut records = scene.log();
    let relay = Relay::start(&unmapped);
    eventually(LIMIT, "the row without headers", || {
        records.catch_up();
        (records.records().len() == 3).then_some(())
    });
    assert_eq!(records.records()[2].header("tenant"), None);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
