//! Half a configuration, servers that are not what it says, rights that are missing: the program ends with the
//! code and a sentence that a person can act on, or waits and says for what.

use std::fs;
use std::path::Path;
use std::process::Command;

use outbox_tests::cluster::ground::Port;
use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::parts;
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};

use crate::bad_rows::other_shape;

/// Runs the relay on this file; answers code and output.
fn run(file: &Path) -> (Option<i32>, String) {
    let program = parts::relay().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(program)
        .args(["run", "--config"])
        .arg(file)
        .env_remove(parts::RELAY_VARIABLE)
        .output()
        .expect("the relay starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn a_configuration_that_is_none_ends_with_64_and_everything_that_is_wrong() {
    const REST: &str = "[kafka]\nbrokers = \"127.0.0.1:1\"\n";
    let directory = tempfile::tempdir().expect("a directory");
    let cases: [(&str, Option<&str>, &[&str]); 9] = [
        (
            "no file",
            None,
            &["cannot be read", "name (not set)", "source.url (not set)", "kafka.brokers (not set)"],
        ),
        (
            "empty file",
            Some(""),
            &["3 mistakes", "name (not set)", "source.url (not set)", "kafka.brokers (not set)"],
        ),
        ("no TOML", Some("name = \n"), &["line 1"]),
        (
            "half of it",
            Some("name = \"orders\"\n"),
            &["2 mistakes", "source.url (not set)", "kafka.brokers (not set)"],
        ),
        (
            "an unknown key",
            Some(
                "name = \"orders\"\nsource.url = \"postgres://r@127.0.0.1/o\"\nkafka.brokers = \"127.0.0.1:1\"\nkafka.topic_prefx = \"x\"\n",
            ),
            &["1 mistake", "kafka.topic_prefx", "kafka.topic_prefix"],
        ),
        (
            "wrong types",
            Some(
                "name = 5\nsource.url = [1]\nkafka.brokers = true\nkafka.max_in_flight_records = \"many\"\n",
            ),
            &[
                "4 mistakes",
                "name = \"5\"",
                "source.url",
                "kafka.brokers",
                "kafka.max_in_flight_records = \"many\"",
            ],
        ),
        (
            "URLs of something else",
            Some(
                "name = \"orders\"\nsource.url = \"mysql://r@127.0.0.1/o\"\nkafka.brokers = \"http://127.0.0.1\"\n",
            ),
            &["2 mistakes", "source.url", "postgres://", "kafka.brokers"],
        ),
        (
            "illegal names",
            Some(
                "name = \"Or ders\"\nsource.url = \"postgres://r@127.0.0.1/o\"\nkafka.brokers = \"127.0.0.1:1\"\nstate.topic = \"a topic\"\noutbox.table = \"a.b.c\"\nkafka.topic_prefix = \"ä\"\n",
            ),
            &[
                "4 mistakes",
                "name = \"Or ders\"",
                "state.topic = \"a topic\"",
                "outbox.table",
                "kafka.topic_prefix",
            ],
        ),
        (
            "a mode that libpq does not know",
            Some(
                "name = \"orders\"\nsource.url = \"postgres://r@db.example.com/o?sslmode=maybe\"\nkafka.brokers = \"127.0.0.1:1\"\n",
            ),
            &["source.url", "sslmode", "verify-full"],
        ),
    ];
    assert!(REST.contains("brokers"));
    for (what, text, words) in cases {
        let file = directory.path().join(format!("{}.toml", what.replace(' ', "-")));
        if let Some(text) = text {
            fs::write(&file, text).expect("a file in our own directory");
        }
        let (code, said) = run(&file);
        assert_eq!(code, Some(64), "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: `{word}` is missing in\n{said}");
        }
        println!("proof: {what}: {}", said.lines().next().unwrap_or_default());
    }
}

/// The relay halts, now and at the next start, with a sentence that has these words.
#[track_caller]
fn halts(config: &RelayConfig, what: &str, words: &[&str]) {
    for attempt in 1..=2 {
        let relay = Relay::start(config);
        let status = relay.wait_exit(LIMIT);
        let log = relay.log();
        assert_eq!(status.code(), Some(3), "{what}: a halt was expected\n{log}");
        let sentence = log.lines().find(|line| line.contains("halted: ")).unwrap_or_default();
        for word in words {
            assert!(sentence.contains(word), "{what}, attempt {attempt}: `{word}` is missing in\n{sentence}");
        }
        if attempt == 1 {
            println!("proof: {what}: {}", sentence.split_once("halted: ").unwrap_or_default().1);
        }
    }
}

async fn sql(scene: &Scene<'_>, statements: &str) {
    scene.database.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_halts_and_says_why() {
    let servers = cluster::shared();
    let name = "settings_login";
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
    let role = format!("relay_{name}");
    let config = |role: &str, database: &str, password: &str| {
        let url = servers.postgres.url_for(role, database);
        RelayConfig::new(name, &url, password, &servers.kafka.brokers())
    };
    let right = "secret of the relay";
    halts(&config(&role, name, "wrong-secret"), "a wrong password", &["28P01", "check user and password"]);
    halts(&config("nobody_at_all", name, right), "a role that does not exist", &["28P01", "source.url"]);
    halts(&config(&role, "no_database", right), "a database that does not exist", &["3D000", "no_database"]);
    let log = {
        let relay = Relay::start(&config(&role, name, "wrong-secret"));
        relay.wait_exit(LIMIT);
        relay.log()
    };
    assert!(!log.contains("wrong-secret"), "{log}");
    // A URL without a database means the role's name.
    let url = format!("postgres://{role}@127.0.0.1:{}", servers.postgres.port());
    let without = RelayConfig::new(name, &url, right, &servers.kafka.brokers());
    halts(&without, "a URL without a database", &["3D000", &role, "source.url"]);

    sql(&scene, &format!("ALTER ROLE {role} NOREPLICATION")).await;
    halts(&scene.config, "a role without REPLICATION", &["42501", "REPLICATION"]);
    sql(&scene, &format!("ALTER ROLE {role} REPLICATION")).await;
    sql(&scene, "REVOKE SELECT, INSERT, UPDATE ON outbox.quarantine FROM outbox_relay").await;
    halts(&scene.config, "no right to the quarantine", &["42501", "outbox-relay init"]);
    sql(&scene, "GRANT SELECT ON outbox.quarantine TO outbox_relay").await;
    let small = scene.config.clone().text("kafka.max_record_bytes", "10000");
    // Reading alone is not enough once there is a row to put aside.
    sql(
        &scene,
        &format!(
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
             VALUES ('{name}', 'k', 'Made', to_json(repeat('x', 12000)))"
        ),
    )
    .await;
    halts(&small, "no right to fill the quarantine", &["42501", "quarantine", "outbox-relay init"]);
    sql(&scene, "GRANT INSERT, UPDATE ON outbox.quarantine TO outbox_relay").await;
    let relay = Relay::start(&small);
    relay.wait_status(LIMIT, "the row in quarantine", |status| {
        (status["quarantine"]["open"] == 1).then_some(())
    });
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_may_not_be_looked_for_are_not_taken_for_none() {
    let servers = cluster::shared();
    let name = "settings_select";
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
    scene.insert(7).await;
    sql(&scene, &format!("SELECT pg_drop_replication_slot('{}')", scene.slot())).await;
    sql(&scene, "REVOKE SELECT ON outbox.events FROM outbox_relay").await;
    halts(&scene.config, "a table that may not be read", &["42501", "outbox-relay init"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_holds_rows_back_halts_by_its_name() {
    let name = "settings_publication";
    let table = "CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
        CREATE TABLE public.other (id int)";
    let scene = other_shape(name, table).await;
    scene.init(&[]);
    let publication = format!("outbox_{name}");
    let make = |rest: &str| {
        format!("DROP PUBLICATION IF EXISTS {publication}; CREATE PUBLICATION {publication} {rest}")
    };
    let on = "FOR TABLE public.outbox";
    for (what, statements, words) in [
        ("no publication", format!("DROP PUBLICATION {publication}"), &["does not exist"][..]),
        (
            "a row filter",
            make(&format!("{on} WHERE (aggregateid <> 'x') WITH (publish = 'insert')")),
            &["filter"],
        ),
        (
            "no inserts",
            make(&format!("{on} WITH (publish = 'update, delete')")),
            &["does not publish inserts"],
        ),
        ("another table", make("FOR TABLE public.other"), &["does not contain the outbox table"]),
    ] {
        sql(&scene, &statements).await;
        let words: Vec<&str> = words.iter().copied().chain([publication.as_str()]).collect();
        halts(&scene.config, what, &words);
    }
    // A list that lacks a column is seen with the first row. A slot decodes with the publication of the row's time.
    sql(&scene, &make(&format!("{on} (id, aggregatetype, aggregateid, type) WITH (publish = 'insert')")))
        .await;
    let relay = scene.start();
    sql(
        &scene,
        &format!(
            "INSERT INTO public.outbox (aggregatetype, aggregateid, type) VALUES ('{name}', 'k', 'Made')"
        ),
    )
    .await;
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "{}", relay.log());
    halts(&scene.config, "a column list", &["lacks column \"payload\" (payload)", "column list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_to_columns_that_are_not_there_is_refused_by_init_and_halts() {
    let name = "settings_mapping";
    let table = "CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb)";
    let scene = other_shape(name, table).await;
    let mapped =
        scene.config.clone().text("outbox.columns.payload", "body").text("outbox.columns.headers", "meta");
    let (status, text) = mapped.init(&scene.postgres.url(name), &[]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("body") && text.contains("meta"), "all of them at once: {text}");
    scene.init(&[]);
    sql(
        &scene,
        &format!(
            "INSERT INTO public.outbox (aggregatetype, aggregateid, type) VALUES ('{name}', 'k', 'Made')"
        ),
    )
    .await;
    halts(
        &mapped,
        "mapped columns that are not there",
        &["\"body\" (payload)", "\"meta\" (headers)", "outbox.columns"],
    );
    let missing = scene.config.clone().text("outbox.table", "public.no_outbox");
    halts(
        &missing,
        "a table that is not there",
        &["outbox_settings_mapping", "does not contain the outbox table"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_kind_halts_and_says_whose_it_is() {
    let servers = cluster::shared();
    let name = "settings_slot";
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, name).await;
    let slot = scene.slot();
    for (what, make, words) in [
        (
            "another plugin",
            format!("pg_create_logical_replication_slot('{slot}', 'test_decoding')"),
            &["test_decoding", "not pgoutput", "another name"][..],
        ),
        (
            "a physical slot",
            format!("pg_create_physical_replication_slot('{slot}', true)"),
            &["not pgoutput", "another name"],
        ),
    ] {
        sql(&scene, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;
        sql(&scene, &format!("SELECT {make}")).await;
        halts(&scene.config, what, words);
    }
    sql(&scene, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    // Slot names are shared by all databases of a server.
    let elsewhere = servers.postgres.connect("postgres").await;
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    elsewhere.batch_execute(&make).await.unwrap();
    halts(&scene.config, "a slot of another database", &["database `postgres`", name, "another name"]);
    elsewhere.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_logical_decoding_is_refused_by_init_and_halts() {
    let postgres = Postgres::builder(usual_version()).setting("wal_level", "replica").start();
    let name = "settings_wal_level";
    let scene = Scene::bare(&postgres, &cluster::shared().kafka, name).await;
    let (status, text) = scene.try_init(&[]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("wal_level is replica and has to be logical"), "{text}");
    let role = format!("relay_{name}");
    sql(&scene, &format!("CREATE ROLE {role} LOGIN REPLICATION SUPERUSER PASSWORD 'secret of the relay'"))
        .await;
    sql(
        &scene,
        "CREATE SCHEMA outbox; CREATE TABLE outbox.events (id uuid);
         CREATE PUBLICATION outbox_settings_wal_level FOR TABLE outbox.events WITH (publish = 'insert')",
    )
    .await;
    halts(&scene.config.clone().argument("--existing=skip"), "wal_level too low", &["wal_level", "55000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_reached_is_waited_for_by_its_address() {
    let nobody = Port::claim();
    let url = format!("postgres://relay@127.0.0.1:{}/orders", nobody.number());
    let brokers = cluster::shared().kafka.brokers();
    let relay =
        Relay::start(&RelayConfig::new("settings_unreachable", &url, "secret of the relay", &brokers));
    let port = nobody.number().to_string();
    let said = relay.wait_status(LIMIT, "the refused connection to be said", |status| {
        let said = status["last_error"]["message"].as_str()?;
        let again = status["totals"]["reconnects"].as_u64()? >= 2;
        (again && said.contains("refused")).then(|| (said.to_owned(), status["waiting_for"].clone()))
    });
    assert!(!relay.is_ready());
    let (code, reason) = relay.get("/ready").unwrap();
    println!("proof: unreachable: {said:?}; /ready {code} {reason}");
    assert!(said.0.contains(&port) || said.1.as_str().is_some_and(|text| text.contains(&port)), "{said:?}");
    // Nothing is in flight: it ends at once, and well.
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
