//! The SQL contract on every supported PostgreSQL: up, down, up; what is explained; who may do what; what is
//! sent; what it costs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use outbox_schema::sql::{
    MIGRATIONS, PRODUCER_ROLE, PUBLISHED_COLUMNS, RELAY_ROLE, SCHEMA, TABLE, publication_down,
    publication_up, relay_role_down, relay_role_up,
};
use outbox_tests::cluster::{POSTGRES_VERSIONS, Postgres, usual_version};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

async fn up(client: &Client) {
    let all: String = MIGRATIONS.iter().map(|migration| migration.up).collect();
    client.batch_execute(&format!("BEGIN; {all}; COMMIT")).await.unwrap_or_else(|error| panic!("{error:?}"));
}

async fn down(client: &Client) {
    let all: String = MIGRATIONS.iter().rev().map(|migration| migration.down).collect();
    client.batch_execute(&format!("BEGIN; {all}; COMMIT")).await.unwrap_or_else(|error| panic!("{error:?}"));
}

async fn text(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Everything that the migrations may make, by its identity, and the rights on it.
async fn objects(client: &Client) -> Vec<String> {
    let objects = "
        SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text || ' ' || coalesce(c.relacl::text, '')
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema$'
        UNION ALL SELECT p.oid::regprocedure::text || ' ' || coalesce(p.proacl::text, '')
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_|^information_schema$'
        UNION ALL SELECT attrelid::regclass::text || '.' || attname || ' ' || coalesce(attacl::text, '')
          FROM pg_attribute WHERE attnum > 0 AND attrelid::regclass::text ~ '^outbox'
        UNION ALL SELECT nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_toast'
        UNION ALL SELECT rolname::text FROM pg_roles
        UNION ALL SELECT conname::text || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        UNION ALL SELECT pubname::text FROM pg_publication
        ORDER BY 1";
    text(client, objects).await
}

/// A log-in role that is a member of a group role, and its connection.
async fn member(postgres: &Postgres, admin: &Client, name: &str, group: &str) -> Client {
    let make = format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'; GRANT {group} TO {name}");
    admin.batch_execute(&make).await.unwrap();
    postgres.connect_as(name, "secret", "postgres").await.unwrap()
}

async fn assert_refused(client: &Client, statement: &str) {
    let error = client.batch_execute(statement).await.expect_err(statement);
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error:?}");
}

async fn assert_allowed(client: &Client, statement: &str) {
    client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

#[tokio::test]
async fn the_migrations_run_up_down_up_on_every_version() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let client = postgres.connect("postgres").await;
        let bare = objects(&client).await;
        up(&client).await;
        let built = objects(&client).await;
        assert_ne!(bare, built);
        down(&client).await;
        assert_eq!(objects(&client).await, bare, "down leaves nothing behind on PostgreSQL {version}");
        up(&client).await;
        assert_eq!(objects(&client).await, built, "up makes the same again on PostgreSQL {version}");
        // Another database of the cluster finds the roles that are there.
        postgres.create_database("second").await;
        let second = postgres.connect("second").await;
        up(&second).await;
        down(&client).await;
        let kept =
            text(&client, "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^outbox_' ORDER BY 1").await;
        assert_eq!(kept, [PRODUCER_ROLE, RELAY_ROLE], "roles in use elsewhere stay on PostgreSQL {version}");
        assert_allowed(&second, "SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await;
    }
}

#[tokio::test]
async fn every_column_and_table_is_explained() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let client = postgres.connect("postgres").await;
        up(&client).await;
        let silent = "
            SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid IN ('outbox.events'::regclass, 'outbox.quarantine'::regclass) AND a.attnum > 0
               AND coalesce(col_description(a.attrelid, a.attnum), '') = ''
            UNION ALL SELECT t.oid::regclass::text FROM pg_class t
             WHERE t.oid IN ('outbox.events'::regclass, 'outbox.quarantine'::regclass)
               AND coalesce(obj_description(t.oid, 'pg_class'), '') = ''
            UNION ALL SELECT p.proname::text FROM pg_proc p
             WHERE p.pronamespace = 'outbox'::regnamespace AND coalesce(obj_description(p.oid, 'pg_proc'), '') = ''";
        assert_eq!(text(&client, silent).await, [""; 0], "PostgreSQL {version}");
    }
}

#[tokio::test]
async fn producers_may_insert_and_nothing_else() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let admin = postgres.connect("postgres").await;
        up(&admin).await;
        let producer = member(&postgres, &admin, "checkout", PRODUCER_ROLE).await;
        assert_allowed(&producer, "SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await;
        assert_allowed(&producer, "SELECT outbox.emit('order', 'o-1', 'Made', '{}')").await;
        let insert = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)";
        assert_allowed(&producer, &format!("{insert} VALUES ('order', 'o-1', 'Paid', NULL)")).await;
        for refused in [
            "SELECT id FROM outbox.events",
            "SELECT id FROM outbox.events_0",
            "UPDATE outbox.events SET type = 'x'",
            "DELETE FROM outbox.events",
            "TRUNCATE outbox.events",
            "TRUNCATE outbox.events_0",
            "INSERT INTO outbox.events_0 (aggregatetype, aggregateid, type) VALUES ('order', 'o-1', 'Made')",
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type, writer) VALUES ('order', 'o-1', 'Made', '1')",
            "SELECT setval('outbox.events_seq', 1)",
            "CREATE TABLE outbox.mine ()",
            "SELECT state FROM outbox.quarantine",
            "SELECT outbox.decide('orders', 0, 1, '0/1', 0, 'release')",
            "SELECT outbox.prune_quarantine('1 day')",
            "SELECT outbox.clean_bucket(1, pg_current_snapshot(), '0/0', '24 hours')",
            "SELECT outbox.relay_behind('0/0')",
        ] {
            assert_refused(&producer, refused).await;
        }
        let outsider = member(&postgres, &admin, "outsider", "pg_monitor").await;
        assert_refused(&outsider, "SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await;
        assert_refused(&outsider, "SELECT outbox.emit('order', 'o-1', 'Made', '{}')").await;
    }
}

#[tokio::test]
async fn relays_may_read_events_and_write_the_quarantine_and_nothing_else() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let admin = postgres.connect("postgres").await;
        up(&admin).await;
        assert_allowed(&admin, &relay_role_up("orders_relay")).await;
        assert_allowed(&admin, "ALTER ROLE orders_relay PASSWORD 'secret'").await;
        let relay = postgres.connect_as("orders_relay", "secret", "postgres").await.unwrap();
        for allowed in [
            "SELECT * FROM outbox.events",
            "SELECT * FROM outbox.events_7",
            "SELECT outbox.contract_version()",
            "SELECT pg_current_snapshot(), pg_current_wal_insert_lsn()",
            "SELECT * FROM outbox.quarantine",
            "UPDATE outbox.quarantine SET note = 'x'",
            "SELECT outbox.clean_bucket(1, pg_current_snapshot(), '0/0', '24 hours')",
        ] {
            assert_allowed(&relay, allowed).await;
        }
        for refused in [
            "INSERT INTO outbox.events (aggregatetype, aggregateid, type) VALUES ('order', 'o-1', 'Made')",
            "SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')",
            "SELECT outbox.emit('order', 'o-1', 'Made', '{}')",
            "UPDATE outbox.events SET type = 'x'",
            "DELETE FROM outbox.events",
            "TRUNCATE outbox.events_0",
            "SELECT nextval('outbox.events_seq')",
            "CREATE TABLE outbox.mine ()",
            "DELETE FROM outbox.quarantine",
            "TRUNCATE outbox.quarantine",
            "SELECT outbox.prune_quarantine('1 day')",
        ] {
            assert_refused(&relay, refused).await;
        }
        drop(relay);
        assert_allowed(&admin, &relay_role_down("orders_relay")).await;
    }
}

#[tokio::test]
async fn the_publication_sends_inserts_of_the_root_and_the_needed_columns() {
    for version in POSTGRES_VERSIONS {
        let postgres = Postgres::start(version);
        let client = postgres.connect("postgres").await;
        up(&client).await;
        assert_allowed(&client, &publication_up("outbox_orders", SCHEMA, TABLE, PUBLISHED_COLUMNS)).await;
        let sent = "SELECT unnest(attnames)::text FROM pg_publication_tables
                    WHERE pubname = 'outbox_orders' AND schemaname = 'outbox' AND tablename = 'events'";
        let sent: BTreeSet<String> = text(&client, sent).await.into_iter().collect();
        assert_eq!(sent, PUBLISHED_COLUMNS.iter().map(ToString::to_string).collect());
        let kinds = "SELECT concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot)
                     FROM pg_publication WHERE pubname = 'outbox_orders'";
        assert_eq!(text(&client, kinds).await, ["t f f f t"]);

        // What really comes out: the slot is asked after one insert of each kind and one clean-up.
        let slot = "SELECT lsn::text FROM pg_create_logical_replication_slot('outbox_orders', 'pgoutput')";
        text(&client, slot).await;
        assert_allowed(&client, "SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await;
        assert_allowed(&client, "UPDATE outbox.events SET type = 'x'").await;
        assert_allowed(&client, "DELETE FROM outbox.events; TRUNCATE outbox.events_0").await;
        let messages = "SELECT chr(get_byte(data, 0)) FROM pg_logical_slot_get_binary_changes('outbox_orders', NULL, NULL,
                        'proto_version', '1', 'publication_names', 'outbox_orders')";
        let messages = text(&client, messages).await.concat();
        // Begin, insert, commit; later transactions are empty and may still send their ends. The partition's
        // shape is sent besides the root's.
        assert!(messages.replace('R', "").starts_with("BIC"), "{messages}");
        assert_eq!(messages.matches(['I', 'U', 'D', 'T']).count(), 1, "{messages}");
        text(&client, "SELECT 'gone' FROM pg_drop_replication_slot('outbox_orders')").await;
        assert_allowed(&client, &publication_down("outbox_orders")).await;
    }
}

const DEBEZIUM_TABLE: &str = "CREATE TABLE plain (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb)";

/// Least time per row over some runs: other work on the machine can only add to it.
async fn cost(client: &Client, rows: u32, statement: &str) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        client.batch_execute(statement).await.unwrap();
        least = least.min(started.elapsed());
    }
    least / rows
}

#[tokio::test]
async fn the_insert_is_measured_beside_a_plain_table() {
    let postgres = Postgres::start(usual_version());
    let client = postgres.connect("postgres").await;
    up(&client).await;
    assert_allowed(&client, DEBEZIUM_TABLE).await;
    let values = "SELECT 'order', 'o-' || n % 1000, 'Made', ('{\"order\": ' || n || ', \"filling\": \"' || repeat('x', 150) || '\"}')";
    let columns = "(aggregatetype, aggregateid, type, payload)";
    let bulk = |table: &str, json: &str| {
        format!("INSERT INTO {table} {columns} {values}::{json} FROM generate_series(1, 20000) n")
    };
    let single =
        |insert: &str| format!("DO $$ BEGIN FOR n IN 1..5000 LOOP EXECUTE {insert}; END LOOP; END $$");
    let one = |table: &str| {
        single(&format!(
            "'INSERT INTO {table} {columns} VALUES (''order'', ''o-1'', ''Made'', ''{{\"total\": 1}}'')'"
        ))
    };
    let measured = [
        ("plain table, bulk", cost(&client, 20_000, &bulk("plain", "jsonb")).await),
        ("outbox.events, bulk", cost(&client, 20_000, &bulk("outbox.events", "json")).await),
        ("plain table, a statement each", cost(&client, 5_000, &one("plain")).await),
        ("outbox.events, a statement each", cost(&client, 5_000, &one("outbox.events")).await),
        (
            "outbox.enqueue(), a call each",
            cost(
                &client,
                5_000,
                &single("'SELECT outbox.enqueue(''order'', ''o-1'', ''Made'', ''{\"total\": 1}'')'"),
            )
            .await,
        ),
    ];
    for (what, each) in measured {
        println!("proof: insert cost: {what}: {:.1} µs per row", each.as_secs_f64() * 1e6);
    }
    // Figures are for people; only a cost of another kind, such as a sort per row, is a failure.
    let [plain, outbox, ..] = measured.map(|(_, each)| each);
    assert!(outbox < plain * 20, "the outbox costs {outbox:?} a row in bulk, a plain table {plain:?}");
}
