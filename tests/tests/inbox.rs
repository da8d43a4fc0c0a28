//! The SQL of the inbox on every supported PostgreSQL: up, down, up; what is explained; who may do what; which states
//! follow which; what it costs.

use std::time::{Duration, Instant};

use outbox_schema::sql::MIGRATIONS;
use outbox_schema::sql::inbox::{CONSUMER_ROLE, CONTRACT_VERSION, STATES, down, up};
use outbox_tests::cluster::{POSTGRES_VERSIONS, Postgres};
use outbox_tests::inbox::{Inbox, SCOPE, Session};

async fn session(postgres: &Postgres, database: &str) -> Session {
    Session::new(postgres.connect(database).await).await
}

async fn install(session: &Session) {
    session.run(&format!("BEGIN; {}; COMMIT", up())).await;
}

/// Everything that the migrations may make, by its identity, and the rights on it.
async fn objects(session: &Session) -> Vec<String> {
    let objects = "
        SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text || ' ' || coalesce(c.relacl::text, '')
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema$'
        UNION ALL SELECT p.oid::regprocedure::text || ' ' || coalesce(p.proacl::text, '')
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_|^information_schema$'
        UNION ALL SELECT attrelid::regclass::text || '.' || attname
          FROM pg_attribute WHERE attnum > 0 AND attrelid::regclass::text ~ '^inbox'
        UNION ALL SELECT nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_toast'
        UNION ALL SELECT rolname::text FROM pg_roles
        UNION ALL SELECT conname::text || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        ORDER BY 1";
    session.rows(objects).await
}

#[tokio::test]
async fn the_migrations_run_up_down_up_on_every_version() {
    for version in POSTGRES_VERSIONS {
        println!("PostgreSQL {version}");
        let postgres = Postgres::start(version);
        let owner = session(&postgres, "postgres").await;
        let bare = objects(&owner).await;
        install(&owner).await;
        let built = objects(&owner).await;
        owner.run("SELECT inbox.upkeep()").await;
        owner.run(&format!("BEGIN; {}; COMMIT", down())).await;
        assert_eq!(objects(&owner).await, bare, "down leaves nothing behind, nor what upkeep made");
        install(&owner).await;
        assert_eq!(objects(&owner).await, built, "up makes the same again");
        assert_eq!(owner.one("SELECT inbox.contract_version()").await, CONTRACT_VERSION.to_string());

        // Beside an outbox in the same database, and twice in one cluster.
        let outbox: String = MIGRATIONS.iter().map(|migration| migration.up).collect();
        owner.run(&format!("BEGIN; {outbox}; COMMIT")).await;
        postgres.create_database("second").await;
        let second = session(&postgres, "second").await;
        install(&second).await;
        owner.run(&format!("BEGIN; {}; COMMIT", down())).await;
        let kept = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{CONSUMER_ROLE}'");
        assert_eq!(owner.one(&kept).await, "1", "a role in use elsewhere stays");
        every_column_and_function_is_explained(&second).await;
        a_consumer_may_read_and_call_and_nothing_else(&postgres, &second).await;
        what_waits_in_the_park_is_not_dropped(&second).await;
    }
}

async fn every_column_and_function_is_explained(owner: &Session) {
    let silent = "
        SELECT a.attrelid::regclass::text || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'inbox'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND a.attnum > 0 AND coalesce(col_description(a.attrelid, a.attnum), '') = ''
        UNION ALL SELECT c.relname::text FROM pg_class c
         WHERE c.relnamespace = 'inbox'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND NOT c.relispartition
           AND c.relname <> 'audit_number_seq' AND coalesce(obj_description(c.oid, 'pg_class'), '') = ''
        UNION ALL SELECT p.proname::text FROM pg_proc p
         WHERE p.pronamespace = 'inbox'::regnamespace AND coalesce(obj_description(p.oid, 'pg_proc'), '') = ''";
    assert_eq!(owner.rows(silent).await, [""; 0]);
    // Whatever runs with the owner's rights looks up names in the catalogue only.
    let open = "SELECT proname FROM pg_proc WHERE pronamespace = 'inbox'::regnamespace AND prosecdef
                   AND NOT coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'";
    assert_eq!(owner.rows(open).await, [""; 0]);
}

async fn a_consumer_may_read_and_call_and_nothing_else(postgres: &Postgres, owner: &Session) {
    owner.run(&format!("CREATE ROLE stock LOGIN PASSWORD 'secret'; GRANT {CONSUMER_ROLE} TO stock")).await;
    let consumer = Session::new(postgres.connect_as("stock", "secret", "second").await.unwrap()).await;
    let id = "0193f2a0-1b2c-7000-8000-000000000001";
    for allowed in [
        &format!(
            "BEGIN; SELECT inbox.claim_group('s', '{{{id}}}'); SELECT inbox.settle_group('s', '{{{id}}}', '{{retry}}'); COMMIT"
        ),
        "SELECT inbox.claim('s', inbox.key_id('idem:1:Paid'))",
        "SELECT * FROM inbox.settlement, inbox.parked_key, inbox.parked_event, inbox.dead_letters, inbox.audit, inbox.scope, inbox.reached",
        "SELECT inbox.marked('s', '{t}', '{k}')",
        "SELECT inbox.take_parked_key('s')",
        "SELECT inbox.upkeep()",
        "SELECT inbox.declare_scope('s', '1 day', '1 hour', '1 day')",
        "SELECT inbox.contract_version()",
        "SELECT inbox.reach('s', 'g', '{t,t}', '{1,0}', '{5,7}')",
        "SELECT inbox.accept_reset('s', 'g', 'as told')",
    ] {
        consumer.run(allowed).await;
    }
    for refused in [
        "INSERT INTO inbox.settlement SELECT * FROM inbox.settlement",
        "UPDATE inbox.settlement SET state = 'done'",
        "DELETE FROM inbox.settlement",
        "TRUNCATE inbox.settlement",
        "DELETE FROM inbox.settlement_begin",
        "UPDATE inbox.store SET oldest = newest",
        "UPDATE inbox.scope SET kept = '1 second'",
        "UPDATE inbox.reached SET record_offset = 0",
        "DELETE FROM inbox.reached",
        "INSERT INTO inbox.parked_key SELECT * FROM inbox.parked_key",
        "DELETE FROM inbox.parked_event",
        "DELETE FROM inbox.dead_letter",
        "DELETE FROM inbox.audit",
        "SELECT inbox.upkeep_at(now() + '1 year', '1 day', 1)",
        "SELECT inbox.drop_partitions(now())",
        "SELECT inbox.prune_untimed(now(), 1)",
        "SELECT inbox.pass_group('s', '{}', '{}', '{}', now())",
        "SELECT inbox.settle_parked('s', '{}', '{}', '', NULL)",
        "SELECT inbox.append_parked('s', 't', 'k', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1, 1)",
        "CREATE TABLE inbox.mine ()",
    ] {
        assert_eq!(consumer.refused(refused).await.0, "42501", "{refused}");
    }
    owner.run("CREATE ROLE outsider LOGIN PASSWORD 'secret'").await;
    let outsider = Session::new(postgres.connect_as("outsider", "secret", "second").await.unwrap()).await;
    assert_eq!(outsider.refused("SELECT inbox.claim('s', inbox.key_id('x'))").await.0, "42501");

    // An operator of the caller's own, put before the catalogue's, is not what the functions use.
    owner.run("CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO stock").await;
    let trap = "CREATE FUNCTION trap.never(uuid, uuid) RETURNS boolean LANGUAGE sql RETURN 1 / 0 = 0;
                CREATE OPERATOR trap.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = trap.never);
                SET search_path = trap, pg_catalog";
    consumer.run(trap).await;
    let claim = format!("SELECT inbox.claim_group('s', '{{{id}, {id}}}')");
    assert_eq!(consumer.one(&claim).await, "{run,repeated}");
}

async fn what_waits_in_the_park_is_not_dropped(owner: &Session) {
    owner
        .run(
            "BEGIN; SELECT inbox.claim_group('s', ARRAY[inbox.key_id('k')]);
             SELECT inbox.park('s', 't', 'k', now(), 'x', ARRAY[inbox.key_id('k')], '{0}', '{0}', '{now}', '{k}', '{v}', ARRAY['[]']::json[]);
             COMMIT",
        )
        .await;
    let (_, message) = owner.refused(&format!("BEGIN; {}; COMMIT", down())).await;
    assert!(message.contains("events wait in inbox.parked_event"), "{message}");
    owner.run("ROLLBACK; DELETE FROM inbox.parked_event").await;
    owner.run(&format!("BEGIN; {}; COMMIT", down())).await;
}

/// From, to, and by what; everything else is refused.
const TRANSITIONS: &[(&str, &[&str], &[&str])] = &[
    ("lease", &["claimed"], &["claimed", "done", "replayed"]),
    ("replay", &["dead", "rejected"], &["claimed", "replayed", "parked"]),
    ("claimant", &["parked"], &["claimed", "done", "replayed"]),
    ("transaction", &["done", "replayed"], &["rejected", "dropped", "parked", "dead"]),
    ("token", &["claimed"], &["claimed", "done", "replayed", "rejected", "dropped", "parked", "dead"]),
    ("nobody", &[], &[]),
];

#[tokio::test]
async fn every_transition_is_allowed_or_refused_as_documented() {
    let inbox = Inbox::prepare("inbox_transitions").await;
    for (by, from, to) in TRANSITIONS {
        for before in STATES {
            for after in STATES {
                let allowed =
                    inbox.admin.one(&format!("SELECT inbox.allowed('{by}', '{before}', '{after}')")).await;
                let expected = from.contains(before) && to.contains(after);
                assert_eq!(allowed == "t", expected, "{before} to {after} by {by}");
            }
        }
    }
    // What a claim without any right to pass finds in each state, and what it leaves.
    for (number, state) in STATES.iter().enumerate() {
        let number = u32::try_from(number).unwrap();
        write(&inbox, number, state).await;
        assert_eq!(inbox.admin.one(&inbox.claim(&[number])).await, *state);
        let claim = format!("SELECT verdict FROM inbox.claim('{SCOPE}', '{}')", inbox.id(number));
        assert_eq!(inbox.admin.one(&claim).await, *state);
        // With a newer number.
        let passes = ["dead", "rejected"].contains(state);
        inbox.admin.run("BEGIN").await;
        let verdict = inbox.admin.one(&inbox.claim_replay(&[number], 9)).await;
        assert_eq!(verdict, if passes { "run" } else { state });
        inbox.admin.run("ROLLBACK").await;
    }
}

async fn write(inbox: &Inbox, number: u32, state: &str) {
    let more = match state {
        "claimed" => "NULL, gen_random_uuid(), 'infinity', 1, now(), NULL",
        "done" => "NULL, NULL, NULL, NULL, NULL, NULL",
        "replayed" => "1, NULL, NULL, NULL, NULL, NULL",
        _ => "NULL, NULL, NULL, NULL, NULL, 'because'",
    };
    let id = inbox.id(number);
    let insert = "INSERT INTO inbox.settlement
        (event_time, settled_at, writer, id, scope, state, replay, token, lease_until, attempts, first_seen, error)";
    inbox.admin.run(&format!("{insert} VALUES (inbox.event_time('{id}', NULL), now(), '3', '{id}', '{SCOPE}', '{state}', {more})")).await;
}

#[tokio::test]
async fn settlements_that_contradict_themselves_cannot_be_written() {
    let inbox = Inbox::prepare("inbox_check").await;
    for (number, state) in STATES.iter().enumerate() {
        write(&inbox, u32::try_from(number).unwrap(), state).await;
    }
    for refused in [
        "state = 'lost'",
        "state = 'claimed' WHERE state = 'done'",
        "state = 'replayed' WHERE state = 'done'",
        "token = NULL WHERE state = 'claimed'",
        "lease_until = NULL WHERE state = 'claimed'",
        "attempts = NULL WHERE state = 'claimed'",
        "result = 'x' WHERE state = 'claimed'",
        "error = 'x' WHERE state = 'done'",
        "token = gen_random_uuid() WHERE state = 'done'",
        "token = gen_random_uuid() WHERE state = 'dead'",
        "replay = 0 WHERE state = 'replayed'",
        "error = NULL WHERE state = 'parked'",
        "error = '' WHERE state = 'rejected'",
        "result = 'x' WHERE state = 'dropped'",
    ] {
        let (code, _) = inbox.admin.refused(&format!("UPDATE inbox.settlement SET {refused}")).await;
        assert_eq!(code, "23514", "{refused}");
    }
}

#[tokio::test]
async fn the_place_of_an_event_follows_from_the_event() {
    let inbox = Inbox::prepare("inbox_place").await;
    let time =
        |id: &str, created: &str| format!("SET timezone = 'UTC'; SELECT inbox.event_time('{id}', {created})");
    let seven = "0193f2a0-1b2c-7abc-8def-0123456789ab";
    assert_eq!(inbox.admin.one(&time(seven, "NULL")).await, "2024-12-23 08:26:39.276+00");
    assert_eq!(inbox.admin.one(&time(seven, "'2020-01-01'")).await, "2024-12-23 08:26:39.276+00");
    let latest = inbox.admin.one(&time("ffffffff-ffff-7fff-bfff-ffffffffffff", "NULL")).await;
    assert!(latest.starts_with("10889-08-02 05:31:50.655"), "{latest}");
    let four = "0193f2a0-1b2c-4abc-8def-0123456789ab";
    assert_eq!(
        inbox.admin.one(&time(four, "'2020-01-01T00:00:00.123456Z'")).await,
        "2020-01-01 00:00:00.123456+00"
    );
    assert_eq!(inbox.admin.one(&time(four, "NULL")).await, "-infinity");

    // SHA-256 of the text, marked as version 8 and variant 10.
    let key = "SELECT inbox.key_id(t), encode(sha256(convert_to(t, 'UTF8')), 'hex') FROM (VALUES ('idem:größe:1')) v (t)";
    let key = inbox.admin.one(key).await;
    let (id, hash) = key.split_once(' ').unwrap();
    let id = id.replace('-', "");
    assert_eq!((&id[..12], &id[13..16], &id[17..]), (&hash[..12], &hash[13..16], &hash[17..32]));
    assert_eq!(&id[12..13], "8");
    assert!(['8', '9', 'a', 'b'].contains(&id.chars().nth(16).unwrap()));
    assert_eq!(inbox.admin.one(&time(&id, "NULL")).await, "-infinity");
}

/// Least time per event over some runs: other work on the machine can only add to it.
async fn cost(session: &Session, events: u32, statement: &str) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        session.run(statement).await;
        least = least.min(started.elapsed());
        session.run("TRUNCATE inbox.settlement").await;
    }
    least / events
}

#[tokio::test]
async fn the_claim_is_measured() {
    let inbox = Inbox::prepare("inbox_cost").await;
    let ids = "CREATE TABLE ids AS SELECT n, (substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(gen_random_uuid()::text, 16))::uuid AS id
                 FROM (SELECT n, lpad(to_hex((date_part('epoch', now()) * 1000)::bigint + n / 50), 12, '0') AS h
                         FROM generate_series(1, 20000) n) x";
    inbox
        .admin
        .run(&format!("{ids}; CREATE TABLE groups AS SELECT array_agg(id) AS ids FROM ids GROUP BY n / 50"))
        .await;
    let each = |claim: &str, table: &str| {
        format!(
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {table} LOOP PERFORM inbox.claim_group('inventory', {claim}); END LOOP; END $$"
        )
    };
    let fifty = cost(&inbox.admin, 20_000, &each("r.ids", "groups")).await;
    let one = cost(&inbox.admin, 20_000, &each("ARRAY[r.id]", "ids")).await;
    println!(
        "proof: inbox claim cost: {:.1} µs per event in groups of 50, {:.1} µs alone",
        fifty.as_secs_f64() * 1e6,
        one.as_secs_f64() * 1e6
    );
    // Figures are for people; only a cost of another kind is a failure.
    assert!(fifty < Duration::from_micros(200) && fifty < one, "{fifty:?} in a group, {one:?} alone");
}
