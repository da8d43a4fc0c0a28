//! The quarantine in SQL, on every supported PostgreSQL: what a decision does and what it refuses, what an entry
//! cannot be, and how `init` brings it to an older contract and to a table of another shape.

use outbox_schema::sql::{CONTRACT_VERSION, MIGRATIONS, Migration, QUARANTINE, RELAY_ROLE, relay_role_up};
use outbox_tests::cluster::{self, POSTGRES_VERSIONS, Postgres};
use outbox_tests::quarantine::Entry;
use outbox_tests::scene::Scene;
use tokio_postgres::{Client, Error};

async fn run<'a>(client: &Client, parts: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let all: String = parts.into_iter().collect();
    client.batch_execute(&format!("BEGIN; {all}; COMMIT")).await
}

async fn up(client: &Client, migrations: &[Migration]) {
    run(client, migrations.iter().map(|m| m.up)).await.unwrap_or_else(|error| panic!("{error:?}"));
}

async fn text(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// What went wrong: SQLSTATE and message.
fn told(result: Result<(), Error>) -> (String, String) {
    let error = result.expect_err("has to be refused");
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

fn decide(entry: &Entry, decision: &str) -> String {
    let place = entry.position();
    let (high, low) = (place.commit_lsn >> 32, place.commit_lsn & 0xFFFF_FFFF);
    format!(
        "SELECT outbox.decide('orders', 0, {}, '{high:X}/{low:X}', {}, '{decision}', 'a note');",
        place.epoch, place.ordinal
    )
}

/// A database of its own with the contract: the superuser's connection, a relay's, and a slot that sees messages.
async fn prepare(postgres: &Postgres, name: &str) -> (Client, Client) {
    postgres.create_database(name).await;
    let admin = postgres.connect(name).await;
    up(&admin, MIGRATIONS).await;
    let more = "ALTER ROLE orders_relay PASSWORD 'secret'; CREATE PUBLICATION p FOR TABLE outbox.events";
    admin.batch_execute(&format!("{}; {more}", relay_role_up("orders_relay"))).await.unwrap();
    let slot = format!("SELECT lsn::text FROM pg_create_logical_replication_slot('{name}', 'pgoutput')");
    text(&admin, &slot).await;
    let relay = postgres.connect_as("orders_relay", "secret", name).await.unwrap();
    (admin, relay)
}

/// Logical messages of the prefix `outbox` that came since the last look. A message's bytes (PostgreSQL's manual,
/// "Logical Replication Message Formats"): `M`, flags, an LSN of 8, the prefix and a zero, a length of 4, the text.
async fn messages(client: &Client) -> Vec<String> {
    let changes = "SELECT data FROM pg_logical_slot_get_binary_changes(current_database(), NULL, NULL, 'proto_version', '1',
                   'publication_names', 'p', 'messages', 'true')";
    let rows = client.query(changes, &[]).await.unwrap();
    let data = rows.iter().map(|row| row.get::<_, Vec<u8>>(0));
    let messages = data.filter(|data| data[0] == b'M').map(|data| {
        assert_eq!(data[1], 1, "transactional");
        let rest = data[10..].strip_prefix(b"outbox\0").expect("our prefix");
        String::from_utf8(rest[4..].to_vec()).unwrap()
    });
    messages.collect()
}

#[tokio::test]
async fn it_holds_what_it_promises_on_every_version() {
    for version in POSTGRES_VERSIONS {
        println!("PostgreSQL {version}");
        let postgres = Postgres::start(version);
        a_decision_is_a_mark_and_a_message_of_one_transaction(&postgres).await;
        a_decision_that_cannot_be_made_is_refused_and_leaves_no_message(&postgres).await;
        entries_that_contradict_themselves_cannot_be_written(&postgres).await;
        it_stands_alone_and_beside_the_contract_that_comes_later(&postgres).await;
    }
}

async fn a_decision_is_a_mark_and_a_message_of_one_transaction(postgres: &Postgres) {
    let (admin, relay) = prepare(postgres, "decided").await;
    let held = Entry::held("orders", 0x16_B374_D848, 7);
    held.insert(&relay).await;
    Entry::passed("orders", 0x16_B374_D900, 0).insert(&relay).await;

    relay.batch_execute(&format!("BEGIN; {} ROLLBACK", decide(&held, "release"))).await.unwrap();
    assert_eq!(messages(&admin).await, [""; 0], "rolled back");
    assert_eq!(
        text(&relay, "SELECT DISTINCT state FROM outbox.quarantine ORDER BY 1").await,
        ["held", "passed"]
    );

    relay.batch_execute(&decide(&held, "release")).await.unwrap();
    relay.batch_execute(&decide(&Entry::passed("orders", 0x16_B374_D900, 0), "discard")).await.unwrap();
    let release = r#"{"relay":"orders","lane":0,"do":{"release":{"position":"3/00000016B374D848/7"}}}"#;
    let discard = r#"{"relay":"orders","lane":0,"do":{"discard":{"position":"3/00000016B374D900/0"}}}"#;
    assert_eq!(messages(&admin).await, [release, discard]);
    let marked =
        "SELECT concat_ws(' ', position, state, decided_by, note, decided_at > entered_at, settled_at)
                  FROM outbox.quarantine ORDER BY commit_lsn";
    assert_eq!(
        text(&relay, marked).await,
        [
            "3/00000016B374D848/7 releasing orders_relay a note t",
            "3/00000016B374D900/0 discarding orders_relay a note t"
        ]
    );
}

async fn a_decision_that_cannot_be_made_is_refused_and_leaves_no_message(postgres: &Postgres) {
    let (admin, relay) = prepare(postgres, "refused").await;
    let head = Entry::held("orders", 0x100, 0);
    let follower = Entry::queued("orders", 0x200, 1);
    let of_another_key = Entry::held("orders", 0x080, 0).key(b"k-2");
    for entry in [&of_another_key, &head, &follower] {
        entry.insert(&relay).await;
    }
    let attempt = async |entry: &Entry, decision| told(relay.batch_execute(&decide(entry, decision)).await);

    let (code, message) = attempt(&follower, "release").await;
    assert_eq!(code, "OB003", "{message}");
    assert!(message.contains("3/0000000000000200/1 only waits behind 3/0000000000000100/0"), "{message}");
    let (code, message) = attempt(&Entry::held("orders", 0x300, 0), "release").await;
    assert_eq!(code, "OB001");
    assert!(message.contains("no entry at 3/0000000000000300/0 of lane 0 of relay orders"), "{message}");
    assert_eq!(attempt(&head, "publish").await.0, "22023");
    assert_eq!(messages(&admin).await, [""; 0]);

    relay.batch_execute(&decide(&head, "discard")).await.unwrap();
    let (code, message) = attempt(&head, "release").await;
    assert_eq!(code, "OB002");
    assert!(message.contains("is discarding already, decided by orders_relay at 20"), "{message}");
    assert_eq!(messages(&admin).await.len(), 1);
}

async fn entries_that_contradict_themselves_cannot_be_written(postgres: &Postgres) {
    let (admin, relay) = prepare(postgres, "checked").await;
    let (held, queued, passed) =
        (Entry::held("orders", 1, 0), Entry::queued("orders", 2, 0), Entry::passed("orders", 3, 0).row(None));
    for entry in [&held, &queued, &passed] {
        entry.insert(&relay).await;
    }
    let decided = "decided_at = now(), decided_by = 'me'";
    for refused in [
        "held_by = NULL WHERE state = 'held'",
        "held_by = NULL WHERE state = 'queued'",
        "held_by = topic WHERE state = 'passed'",
        "state = 'published'",
        "state = 'published', settled_at = now() WHERE state <> 'queued'",
        "state = 'releasing' WHERE state = 'held'",
        "state = 'lost' WHERE state = 'held'",
        "cause = 'behind' WHERE state = 'held'",
        "cause = 'refused' WHERE state = 'queued'",
        "settled_at = now()",
        &format!("state = 'releasing', {decided} WHERE state = 'queued'"),
        &format!("{decided} WHERE state = 'held'"),
        "columns = NULL WHERE state = 'held'",
        "formats = 'ttt' WHERE state = 'held'",
        "types = '{25}' WHERE state = 'held'",
        "formats = 'tttx' WHERE state = 'held'",
        "reason = ''",
    ] {
        let result = relay.batch_execute(&format!("UPDATE outbox.quarantine SET {refused}")).await;
        assert_eq!(told(result).0, "23514", "{refused}");
    }
    // The ways that a relay goes.
    for allowed in [
        "state = 'published', settled_at = now() WHERE state = 'queued'",
        &format!("state = 'discarding', {decided} WHERE state = 'passed'"),
        "state = 'discarded', settled_at = now() WHERE state = 'discarding'",
        &format!("state = 'releasing', {decided} WHERE state = 'held'"),
        "state = 'held', cause = 'refused', decided_at = NULL, decided_by = NULL WHERE state = 'releasing'",
    ] {
        let changed = relay.execute(&format!("UPDATE outbox.quarantine SET {allowed}"), &[]).await;
        assert_eq!(changed.unwrap_or_else(|error| panic!("{allowed}: {error:?}")), 1, "{allowed}");
    }
    // A key longer than an index may hold.
    Entry::held("orders", 4, 0).key(&[b'x'; 20_000]).insert(&relay).await;

    assert_eq!(told(relay.batch_execute("SELECT outbox.prune_quarantine('0')").await).0, "42501");
    assert_eq!(told(relay.batch_execute("DELETE FROM outbox.quarantine").await).0, "42501");
    assert_eq!(told(admin.batch_execute("SELECT outbox.prune_quarantine('-1 day')").await).0, "22023");
    assert_eq!(text(&admin, "SELECT outbox.prune_quarantine('1 day')::text").await, ["0"]);
    assert_eq!(text(&admin, "SELECT outbox.prune_quarantine('0')::text").await, ["2"]);
    assert_eq!(text(&admin, "SELECT DISTINCT state FROM outbox.quarantine").await, ["held"]);
}

async fn it_stands_alone_and_beside_the_contract_that_comes_later(postgres: &Postgres) {
    postgres.create_database("alone").await;
    let client = postgres.connect("alone").await;
    up(&client, &[QUARANTINE, QUARANTINE]).await;
    let versions = "SELECT proname::text FROM pg_proc WHERE proname = 'contract_version'";
    assert_eq!(text(&client, versions).await, [""; 0]);
    let held = Entry::held("orders", 1, 0);
    held.insert(&client).await;

    up(&client, MIGRATIONS).await;
    let version_now = "SELECT outbox.contract_version()::text";
    assert_eq!(text(&client, version_now).await, [CONTRACT_VERSION.to_string()]);
    assert_eq!(text(&client, "SELECT state FROM outbox.quarantine").await, ["held"]);

    // What is held may be the only copy.
    let (_, message) = told(run(&client, [QUARANTINE.down]).await);
    assert!(message.contains("neither published nor discarded"), "{message}");
    client.batch_execute("ROLLBACK; DELETE FROM outbox.quarantine").await.unwrap();
    run(&client, [QUARANTINE.down]).await.unwrap();
    assert_eq!(text(&client, version_now).await, ["1"]);

    postgres.create_database("strange").await;
    let strange = postgres.connect("strange").await;
    strange.batch_execute("CREATE SCHEMA outbox").await.unwrap();
    let (code, _) = told(run(&strange, MIGRATIONS.iter().map(|m| m.up)).await);
    assert_eq!(code, "42P06", "a schema of somebody else stays as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_brings_it_to_version_1_and_leaves_the_rest_alone() {
    let servers = cluster::shared();
    let scene = Scene::prepare(&servers.postgres, &servers.kafka, "quarantine_upgrade").await;
    run(&scene.database, [QUARANTINE.down]).await.unwrap();
    scene.insert(3).await;

    let printed = scene.init(&["--print"]);
    assert!(printed.contains("CREATE TABLE IF NOT EXISTS outbox.quarantine"), "{printed}");
    assert!(!printed.contains("CREATE TABLE outbox.events"), "{printed}");
    assert_eq!(scene.text("SELECT outbox.contract_version()::text").await, "1", "printing changes nothing");

    let said = scene.init(&[]);
    assert!(said.contains("done      the contract goes from version 1 to 4"), "{said}");
    assert_eq!(scene.text("SELECT outbox.contract_version()::text").await, "4");
    assert_eq!(scene.text("SELECT count(*)::text FROM outbox.events").await, "3");
    let producers = "SELECT has_schema_privilege('outbox_producer', 'outbox', 'USAGE')::text";
    assert_eq!(scene.text(producers).await, "true", "services went on inserting");
    let said = scene.init(&[]);
    assert!(said.contains("is there  the contract, version 4") && !said.contains("done"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_brings_it_to_a_table_of_another_shape_and_the_contract_may_follow() {
    const PLAIN: &str =
        "CREATE TABLE public.outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text,
                         type text, payload jsonb)";
    let servers = cluster::shared();
    let bare = Scene::bare(&servers.postgres, &servers.kafka, "quarantine_other").await;
    let contract = bare.config.clone();
    let scene = bare.configured(|config| config.text("outbox.table", "public.outbox"));
    scene.database.batch_execute(PLAIN).await.unwrap();
    let said = scene.init(&[]);
    assert!(said.contains("done      table outbox.quarantine"), "{said}");
    assert!(!said.contains("contract"), "{said}");
    let member = format!("SELECT pg_has_role('relay_quarantine_other', '{RELAY_ROLE}', 'MEMBER')::text");
    assert_eq!(scene.text(&member).await, "true");
    let relay = servers
        .postgres
        .connect_as("relay_quarantine_other", "secret of the relay", "quarantine_other")
        .await
        .unwrap();
    Entry::held("quarantine_other", 1, 0).insert(&relay).await;
    let said = scene.init(&[]);
    assert!(said.contains("is there  table outbox.quarantine") && !said.contains("done"), "{said}");

    // Another relay on the contract's own table.
    let contract = contract.text("name", "quarantine_ours");
    let (status, said) = contract.init(&servers.postgres.url("quarantine_other"), &[]);
    assert!(status.success() && said.contains("of the contract, version 4"), "{said}");
    assert_eq!(scene.text("SELECT outbox.contract_version()::text").await, "4");
    assert_eq!(scene.text("SELECT state FROM outbox.quarantine").await, "held");
}
