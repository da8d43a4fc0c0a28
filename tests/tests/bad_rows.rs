//! Rows of every bad kind between good ones, on a table of another shape: each is put aside with a sentence
//! that names column or limit and shows no value; no event overtakes another of its key, and nothing stalls.

use std::collections::HashMap;

use outbox_tests::cluster;
use outbox_tests::history::Published;
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene};
use outbox_tests::wait::eventually;

/// Debezium's five columns and headers, without a single constraint: whatever services write.
const TABLE: &str = "CREATE TABLE public.outbox (id text DEFAULT gen_random_uuid()::text,
    aggregatetype text, aggregateid text, type text, payload jsonb, headers jsonb)";

/// Stands in every bad value, so that a sentence or a log line that shows one is found.
const SECRET: &str = "geheim-4711";

/// The key that nothing is wrong with, and the one with a transaction larger than every batch.
const HEALTHY: &str = "healthy";
const LARGE: &str = "large-transaction";
const LARGE_ROWS: u64 = 200;

/// A row of 200 MB in the stream.
const HUGE: i64 = 200_000_000;

/// The most memory that a relay may hold.
const MOST_KIB: u64 = 128 * 1024;

/// A database with a table of another shape and a topic; `init` is still to be run.
pub async fn other_shape(name: &str, table: &str) -> Scene<'static> {
    let servers = cluster::shared();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, name)
        .await
        .configured(|config| config.text("outbox.table", "public.outbox"));
    servers.kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    scene.database.batch_execute(table).await.unwrap();
    scene
}

/// One kind of bad row and what has to come of it.
struct Bad {
    key: &'static str,
    /// What is wrong with it: a column, and the SQL expression in place of a good row's.
    column: &'static str,
    value: &'static str,
    state: &'static str,
    cause: &'static str,
    /// What the sentence has to say.
    words: &'static [&'static str],
    /// What of its key reaches the topic, of the events 1 and 2 before and behind it.
    published: &'static [u64],
}

/// Held: what comes behind it waits.
const HELD: &[u64] = &[1];
/// In an order of its own, or in none: what comes behind it passes.
const PASSES: &[u64] = &[1, 2];

#[rustfmt::skip]
const BAD: &[Bad] = &[
    Bad { key: "too-large", column: "payload", value: "jsonb_build_object('s', 'geheim-4711' || repeat('x', 1200000))",
          state: "held", cause: "too_large", words: &["kafka.max_record_bytes", "1000000"], published: HELD },
    Bad { key: "topic-with-a-space", column: "aggregatetype", value: "'geheim-4711 order'",
          state: "held", cause: "illegal_topic", words: &["\"aggregatetype\"", "topic", "0x20"], published: PASSES },
    Bad { key: "topic-with-an-umlaut", column: "aggregatetype", value: "'prämie-geheim-4711'",
          state: "held", cause: "illegal_topic", words: &["\"aggregatetype\"", "topic", "0xC3"], published: PASSES },
    Bad { key: "topic-too-long", column: "aggregatetype", value: "'geheim-4711' || repeat('x', 300000)",
          state: "held", cause: "illegal_topic", words: &["\"aggregatetype\"", "topic", "249"], published: PASSES },
    Bad { key: "without-a-kind", column: "aggregatetype", value: "NULL",
          state: "passed", cause: "null_column", words: &["\"aggregatetype\"", "NULL"], published: PASSES },
    Bad { key: "without-a-key", column: "aggregateid", value: "NULL",
          state: "passed", cause: "null_column", words: &["\"aggregateid\"", "NULL"], published: PASSES },
    Bad { key: "without-an-id", column: "id", value: "NULL",
          state: "held", cause: "null_column", words: &["\"id\"", "NULL"], published: HELD },
    Bad { key: "without-a-type", column: "type", value: "NULL",
          state: "held", cause: "null_column", words: &["\"type\"", "NULL"], published: HELD },
    Bad { key: "headers-array", column: "headers", value: "'[\"geheim-4711\"]'",
          state: "held", cause: "undecodable", words: &["\"headers\"", "JSON object"], published: HELD },
    Bad { key: "headers-nested", column: "headers", value: "'{\"tenant\": {\"s\": \"geheim-4711\"}}'",
          state: "held", cause: "header", words: &["\"headers\"", "\"tenant\"", "object or an array"], published: HELD },
    Bad { key: "headers-reserved", column: "headers", value: "'{\"id\": \"geheim-4711\"}'",
          state: "held", cause: "header", words: &["\"headers\"", "\"id\"", "reserved"], published: HELD },
    Bad { key: "headers-nameless", column: "headers", value: "'{\"\": \"geheim-4711\"}'",
          state: "held", cause: "header", words: &["\"headers\"", "empty name"], published: HELD },
    Bad { key: "headers-too-large", column: "headers", value: "jsonb_build_object('s', 'geheim-4711' || repeat('x', 1200000))",
          state: "held", cause: "too_large", words: &["kafka.max_record_bytes"], published: HELD },
    // The state record lists entries by their ids, and has a bound of its own.
    Bad { key: "id-too-large", column: "id", value: "'geheim-4711' || repeat('x', 1200000)",
          state: "held", cause: "too_large", words: &["kafka.max_record_bytes"], published: HELD },
    Bad { key: "row-of-200-mb", column: "payload", value: "jsonb_build_object('s', 'geheim-4711' || repeat('x', 200000000))",
          state: "held", cause: "row_too_large", words: &["source.max_row_bytes"], published: HELD },
];

/// One insert; `changed` is the column with an expression of its own.
fn insert(scene: &Scene<'_>, key: &str, n: u64, changed: Option<(&str, &str)>) -> String {
    let good = [
        ("id", "gen_random_uuid()::text".to_owned()),
        ("aggregatetype", format!("'{}'", scene.name)),
        ("aggregateid", format!("'{key}'")),
        ("type", "'Made'".to_owned()),
        ("payload", format!("'{{\"n\": {n}}}'")),
        ("headers", "'{\"tenant\": \"a\", \"retries\": 3}'".to_owned()),
    ];
    let value = |(name, good): &(&str, String)| match changed {
        Some((column, value)) if column == *name => value.to_owned(),
        _ => good.clone(),
    };
    let values: Vec<String> = good.iter().map(value).collect();
    format!(
        "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload, headers) VALUES ({});",
        values.join(", ")
    )
}

/// `n` of every record by key, in the order of the log.
fn by_key(records: &[Published]) -> HashMap<String, Vec<u64>> {
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for record in records {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
        found.entry(key).or_default().push(value["n"].as_u64().expect("an event with its number"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_row_is_put_aside_by_name_and_holds_up_nothing_but_its_own_key() {
    let scene = other_shape("bad_rows", TABLE)
        .await
        .configured(|config| config.text("outbox.columns.headers", "headers"));
    scene.init(&[]);
    let relay = scene.start();
    let mut healthy = 0;
    for bad in BAD {
        let before = insert(&scene, bad.key, 1, None);
        let broken = insert(&scene, bad.key, 99, Some((bad.column, bad.value)));
        let behind = insert(&scene, bad.key, 2, None);
        healthy += 2;
        let good = [healthy - 1, healthy].map(|n| insert(&scene, HEALTHY, n, None));
        // Each in a transaction of its own, and the last two in one.
        for statement in [&before, &good[0], &broken, &format!("BEGIN; {behind} {} COMMIT", good[1])] {
            scene
                .database
                .batch_execute(statement)
                .await
                .unwrap_or_else(|error| panic!("{}: {error:?}", bad.key));
        }
    }
    let large = format!(
        "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
         SELECT '{}', '{LARGE}', 'Made', jsonb_build_object('n', i, 'x', repeat('x', 50000)) FROM generate_series(1, {LARGE_ROWS}) i",
        scene.name
    );
    scene.database.batch_execute(&large).await.unwrap();
    scene.database.batch_execute(&insert(&scene, HEALTHY, healthy + 1, None)).await.unwrap();

    let mut expected: HashMap<String, Vec<u64>> =
        BAD.iter().map(|bad| (bad.key.to_owned(), bad.published.to_vec())).collect();
    expected.insert(HEALTHY.to_owned(), (1..=healthy + 1).collect());
    expected.insert(LARGE.to_owned(), (1..=LARGE_ROWS).collect());
    let mut log = scene.log();
    let mut found = HashMap::new();
    eventually(LIMIT, "every good row", || {
        log.catch_up();
        found = by_key(log.records());
        assert!(relay.ended().is_none(), "{}", relay.log());
        (found.values().map(Vec::len).sum::<usize>() >= expected.values().map(Vec::len).sum()).then_some(())
    });
    assert_eq!(found, expected);

    let behind = BAD.iter().filter(|bad| bad.published == HELD).count();
    relay.wait_status(LIMIT, "everything put aside and confirmed", |status| {
        let open = status["quarantine"]["open"] == BAD.len() + behind;
        (open && status["positions"]["confirmed"] == status["positions"]["recorded"]).then_some(())
    });
    entries_are_as_expected(&scene).await;
    assert_eq!(relay.status()["phase"], "streaming");
    assert_eq!(relay.status()["totals"]["reconnects"], 0, "{}", relay.log());
    relay.wait_ready(LIMIT);
    let peak = relay.peak_rss_kib();
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    assert!(!relay.log().contains(SECRET), "no value is logged\n{}", relay.log());
    println!(
        "proof: {} kinds of bad rows put aside, {behind} events behind them, peak RSS {peak} KiB",
        BAD.len()
    );
}

/// One entry for every bad row, as the list says, and one for each event behind a held one.
async fn entries_are_as_expected(scene: &Scene<'_>) {
    let select =
        "SELECT coalesce(convert_from(key, 'UTF8'), ''), state, cause, reason, bytes, columns IS NOT NULL
                    FROM outbox.quarantine ORDER BY epoch, commit_lsn, ordinal";
    let rows = scene.database.query(select, &[]).await.unwrap();
    let mut rows = rows.iter();
    for bad in BAD {
        let row = rows.next().unwrap_or_else(|| panic!("{}: no entry", bad.key));
        let (key, state, cause, reason): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let named = if bad.column == "aggregateid" { "" } else { bad.key };
        assert_eq!((key, state, cause), (named, bad.state, bad.cause), "{}: {reason}", bad.key);
        for word in bad.words {
            assert!(reason.contains(word), "{}: `{word}` is missing in `{reason}`", bad.key);
        }
        assert!(!reason.contains(SECRET) && !reason.contains("xxx"), "{}: {reason}", bad.key);
        // Of a row too large to be held no more than a reference is kept.
        let (bytes, whole): (i64, bool) = (row.get(4), row.get(5));
        assert_eq!(whole, bad.cause != "row_too_large", "{}", bad.key);
        assert!(whole || bytes > HUGE, "{}: {bytes}", bad.key);
        println!("proof: {}: {state}, {cause}: {reason}", bad.key);
        if bad.published == HELD {
            let next = rows.next().unwrap_or_else(|| panic!("{}: nothing behind it", bad.key));
            let (key, state, cause): (&str, &str, &str) = (next.get(0), next.get(1), next.get(2));
            assert_eq!((key, state, cause), (bad.key, "queued", "behind"));
        }
    }
    assert!(rows.next().is_none(), "and nothing else");
}
