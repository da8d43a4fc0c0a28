//! `outbox.clean_bucket()` on every supported PostgreSQL: what it empties, what it leaves and why, and who waits for it.

use std::time::{Duration, Instant};

use outbox_schema::sql::{
    MIGRATIONS, PRODUCER_ROLE, PUBLISHED_COLUMNS, SCHEMA, TABLE, publication_up, relay_role_up,
};
use outbox_tests::cluster::{POSTGRES_VERSIONS, Postgres};
use outbox_tests::quarantine::Entry;
use outbox_tests::scene::LIMIT;
use outbox_tests::wait::eventually_async;
use tokio_postgres::{Client, Error};

/// Three days old.
const AGE: i64 = 3;

/// What the function answers: rows, reason, words.
type Answer = (i64, Option<String>, Option<String>);

/// A database with the contract, as a superuser.
struct Trial {
    client: Client,
    bucket: i32,
}

impl Trial {
    /// `relays`: whether they are looked at as they are; otherwise none is behind, since here none runs.
    async fn prepare(postgres: &Postgres, name: &str, relays: bool) -> Trial {
        postgres.create_database(name).await;
        let client = postgres.connect(name).await;
        let all: String = MIGRATIONS.iter().map(|migration| migration.up).collect();
        let role = "ALTER ROLE cleaner PASSWORD 'secret'";
        let make = format!("BEGIN; {all}; COMMIT; {}; {role}", relay_role_up("cleaner"));
        client.batch_execute(&make).await.unwrap_or_else(|error| panic!("{error:?}"));
        if !relays {
            let none = "CREATE OR REPLACE FUNCTION outbox.relay_behind(published_lsn pg_lsn) RETURNS text
                            LANGUAGE sql AS 'SELECT NULL::text'";
            client.batch_execute(none).await.unwrap_or_else(|error| panic!("{error:?}"));
        }
        let bucket = number(&client, &bucket_of(AGE)).await as i32;
        Trial { client, bucket }
    }

    /// Inserts rows as they would have been written `AGE` days ago.
    async fn insert(&self, rows: u32) {
        let insert = insert(AGE, rows);
        self.client.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{error:?}"));
    }

    async fn count(&self) -> i64 {
        number(&self.client, &format!("SELECT count(*) FROM outbox.events_{}", self.bucket)).await
    }

    /// Cleans up with everything published that is committed now.
    async fn clean(&self) -> Answer {
        clean(&self.client, self.bucket, "24 hours").await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Cleans up what has to stay; answers why.
    async fn stays(&self) -> String {
        let before = self.count().await;
        let (rows, kept_by, detail) = self.clean().await;
        assert_eq!((rows, self.count().await), (0, before), "{kept_by:?}");
        assert!(detail.is_some_and(|detail| !detail.is_empty()));
        kept_by.expect("a reason")
    }

    async fn run(&self, statement: &str) {
        self.client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

fn bucket_of(age: i64) -> String {
    format!("SELECT (floor(date_part('epoch', clock_timestamp()) / 86400)::bigint - {age}) % 8")
}

fn insert(age: i64, rows: u32) -> String {
    format!(
        "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, created_at, bucket)
         SELECT 'order', 'o-' || i, 'Made', '{{}}', clock_timestamp() - interval '{age} days', ({})::smallint
           FROM generate_series(1, {rows}) i",
        bucket_of(age)
    )
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

const CLEAN: &str = "SELECT cleaned, kept_by, detail FROM outbox.clean_bucket(";

async fn clean(client: &Client, bucket: i32, keep: &str) -> Result<Answer, Error> {
    let sql = format!("{CLEAN}{bucket}, pg_current_snapshot(), '0/0', '{keep}')");
    let row = client.query_one(&sql, &[]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

fn code(result: Result<Answer, Error>) -> String {
    let error = result.expect_err("has to be refused");
    error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_looks_for_itself_on_every_version() {
    for version in POSTGRES_VERSIONS {
        println!("PostgreSQL {version}");
        let postgres = Postgres::start(version);
        what_is_published_and_old_goes_at_once(&postgres).await;
        what_is_not_published_stays(&postgres).await;
        what_the_quarantine_refers_to_stays(&postgres).await;
        every_relay_of_the_table_is_waited_for(&postgres).await;
        arguments_and_isolation_are_looked_at(&postgres).await;
    }
}

async fn what_is_published_and_old_goes_at_once(postgres: &Postgres) {
    let trial = Trial::prepare(postgres, "goes", false).await;
    trial.insert(100).await;
    trial.run(&insert(AGE + 1, 7)).await;
    trial.run("SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await;
    let relay = postgres.connect_as("cleaner", "secret", "goes").await.unwrap();
    for refused in ["TRUNCATE outbox.events_0", "DELETE FROM outbox.events"] {
        assert!(relay.batch_execute(refused).await.is_err(), "{refused}");
    }
    let answer = clean(&relay, trial.bucket, "24 hours").await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(answer, (100, None, None));
    let left = number(&trial.client, "SELECT count(*) FROM outbox.events").await;
    assert_eq!(left, 8, "another bucket's, and today's");
    assert_eq!(trial.clean().await, (0, None, None), "nothing is left to be emptied");

    // Today's, yesterday's, and what is younger than its bucket.
    for age in [0, 1] {
        let bucket = number(&trial.client, &bucket_of(age)).await as i32;
        let kept = clean(&trial.client, bucket, "24 hours").await.unwrap();
        assert_eq!((kept.0, kept.1.as_deref()), (0, Some("young")), "{age} days");
    }
    trial.insert(2).await;
    trial.run("UPDATE outbox.events SET created_at = clock_timestamp() WHERE aggregateid = 'o-2'").await;
    assert_eq!(trial.stays().await, "young");

    let make = format!("CREATE ROLE shop LOGIN PASSWORD 'secret'; GRANT {PRODUCER_ROLE} TO shop");
    trial.run(&make).await;
    let producer = postgres.connect_as("shop", "secret", "goes").await.unwrap();
    assert_eq!(code(clean(&producer, trial.bucket, "24 hours").await), "42501");
}

async fn what_is_not_published_stays(postgres: &Postgres) {
    let trial = Trial::prepare(postgres, "stays", false).await;
    trial.insert(10).await;
    let open = postgres.connect("stays").await;
    open.batch_execute(&format!("BEGIN; {}", insert(AGE, 1))).await.unwrap();
    assert_eq!(trial.stays().await, "open");

    // A snapshot of the time at which the transaction had not ended.
    let snapshot: String =
        trial.client.query_one("SELECT pg_current_snapshot()::text", &[]).await.unwrap().get(0);
    open.batch_execute("COMMIT").await.unwrap();
    let sql = format!("{CLEAN}{}, '{snapshot}', '0/0', '24 hours')", trial.bucket);
    let row = trial.client.query_one(&sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<&str>>(1)), (0, Some("unpublished")));
    assert_eq!(trial.count().await, 11);

    // A snapshot of a history that this server never had.
    let sql = format!("{CLEAN}{}, '900000000:900000000:', '0/0', '24 hours')", trial.bucket);
    let row = trial.client.query_one(&sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<&str>>(1), Some("unpublished"));

    a_row_that_comes_between_the_looks_is_seen(&trial, &open).await;
    nobody_waits_for_long(&trial, &open, postgres).await;
    assert_eq!(trial.clean().await.0, 13);
}

/// The first look has passed and the lock is waited for, when the row is committed.
async fn a_row_that_comes_between_the_looks_is_seen(trial: &Trial, other: &Client) {
    let bucket = trial.bucket;
    other.batch_execute(&format!("BEGIN; LOCK TABLE outbox.events_{bucket} IN SHARE MODE")).await.unwrap();
    trial.run("SET lock_timeout = '60s'").await;
    let looking = trial.clean();
    let between = async {
        let waits = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = 'outbox.events_{bucket}'::regclass AND NOT granted"
        );
        eventually_async(LIMIT, "the second look to wait", async || {
            (number(other, &waits).await == 1).then_some(())
        })
        .await;
        other.batch_execute(&format!("{}; COMMIT", insert(AGE, 1))).await.unwrap();
    };
    let ((rows, kept_by, _), ()) = tokio::join!(looking, between);
    trial.run("RESET lock_timeout").await;
    assert_eq!((rows, kept_by.as_deref()), (0, Some("unpublished")));
    assert_eq!(trial.count().await, 12);
}

/// A dump holds the bucket: the clean-up gives up, and services have not noticed.
async fn nobody_waits_for_long(trial: &Trial, reader: &Client, postgres: &Postgres) {
    let read = format!("BEGIN; SELECT count(*) FROM outbox.events_{}", trial.bucket);
    reader.batch_execute(&read).await.unwrap();
    let service = postgres.connect("stays").await;
    let inserting = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let began = Instant::now();
            service.batch_execute("SELECT outbox.enqueue('order', 'o-1', 'Made', '{}')").await.unwrap();
            slowest = slowest.max(began.elapsed());
        }
        // Nobody writes into a past bucket, but who did would wait no longer than the clean-up does.
        service.batch_execute(&insert(AGE, 1)).await.unwrap();
        slowest
    };
    let began = Instant::now();
    let (refused, slowest) = tokio::join!(clean(&trial.client, trial.bucket, "24 hours"), inserting);
    assert_eq!(code(refused), "55P03");
    println!(
        "proof: a reader held the bucket, given up after {:?}; slowest insert {slowest:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    reader.batch_execute("COMMIT").await.unwrap();
}

async fn what_the_quarantine_refers_to_stays(postgres: &Postgres) {
    let trial = Trial::prepare(postgres, "referred", false).await;
    trial.insert(3).await;
    let id = "SELECT id::text FROM outbox.events WHERE aggregateid = 'o-2'";
    let id: String = trial.client.query_one(id, &[]).await.unwrap().get(0);
    let too_large = Entry::held("orders", 1, 0).row(None).id(&id.to_uppercase());
    too_large.insert(&trial.client).await;
    assert_eq!(trial.stays().await, "quarantine");
    trial.run("UPDATE outbox.quarantine SET event_id = NULL").await;
    assert_eq!(trial.stays().await, "quarantine", "it may be any row");
    let settled = "UPDATE outbox.quarantine SET state = 'discarded', decided_at = now(), decided_by = 'me', settled_at = now()";
    trial.run(settled).await;
    assert_eq!(trial.clean().await.0, 3);

    // One that holds its row, and one that refers to a row elsewhere, need nothing of this bucket.
    trial.insert(3).await;
    Entry::held("orders", 2, 0).id(&id).insert(&trial.client).await;
    Entry::passed("orders", 3, 0).row(None).insert(&trial.client).await;
    assert_eq!(trial.clean().await.0, 3);
}

async fn every_relay_of_the_table_is_waited_for(postgres: &Postgres) {
    let trial = Trial::prepare(postgres, "relays", true).await;
    trial.insert(3).await;
    let stays = async |words: &str| {
        let (rows, kept_by, detail) = trial.clean().await;
        let detail = detail.unwrap_or_default();
        assert_eq!((rows, kept_by.as_deref()), (0, Some("relay")), "{detail}");
        assert!(detail.contains(words), "{words}: {detail}");
    };
    stays("no publication").await;
    trial.run(&publication_up("outbox_relays", SCHEMA, TABLE, PUBLISHED_COLUMNS)).await;
    stays("publication outbox_relays has no slot").await;
    trial.run("SELECT pg_create_logical_replication_slot('outbox_relays', 'pgoutput')").await;
    stays("nobody streams from slot outbox_relays").await;
    assert_eq!(trial.count().await, 3);
    trial.run("SELECT pg_drop_replication_slot('outbox_relays')").await;
}

async fn arguments_and_isolation_are_looked_at(postgres: &Postgres) {
    let trial = Trial::prepare(postgres, "arguments", false).await;
    for (bucket, keep) in [(8, "24 hours"), (-1, "24 hours"), (1, "145 hours"), (1, "-1 hours")] {
        assert_eq!(code(clean(&trial.client, bucket, keep).await), "22023", "{bucket} {keep}");
    }
    trial.insert(1).await;
    trial.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(code(clean(&trial.client, trial.bucket, "24 hours").await), "25000");
    trial.run("ROLLBACK").await;
    assert_eq!(trial.clean().await.0, 1);
}
