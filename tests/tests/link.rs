//! The pool of connections that consumers use, on a real PostgreSQL: what is bounded, what a session begins with,
//! and which connections nobody gets any more.

use std::time::Duration;

use futures_util::future::join_all;
use outbox_postgres_link::{Lease, Link, LinkError, Pool, PoolError, PoolLook, Session};
use outbox_tests::authority::{Authority, write};
use outbox_tests::cluster::{Postgres, usual_version};
use outbox_tests::fault::proxy::Proxy;
use outbox_tests::scene::LIMIT;
use outbox_tests::wait::eventually_async;
use tempfile::TempDir;
use tokio_postgres::Client;

/// A database of its own, the pool on it, and a superuser who looks on. Of the tests of this file each has a
/// server of its own in place of the shared ones, which would start Kafka, too.
struct Stage {
    postgres: Postgres,
    pool: Pool,
    watcher: Client,
}

impl Stage {
    async fn new(name: &str, size: usize) -> Stage {
        let postgres = Postgres::start(usual_version());
        let watcher = postgres.connect("postgres").await;
        let link = Link::parse(&postgres.url("postgres"), |_| None).unwrap();
        let session = Session::named(name)
            .set("idle_in_transaction_session_timeout", "20s")
            .set("search_path", "")
            .set("outbox.test", "two words \\ 'quoted'");
        Stage { postgres, pool: Pool::new(link, session, size), watcher }
    }

    /// Backends of the pool.
    async fn backends(&self) -> Vec<i32> {
        let sql =
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pool%' ORDER BY backend_start";
        self.watcher.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn wait_gone(&self, pid: i32) {
        eventually_async(LIMIT, "the backend to be gone", async || {
            (!self.backends().await.contains(&pid)).then_some(())
        })
        .await;
    }

    /// Waits until the pool looks as it should.
    async fn wait_look(&self, what: &str, wanted: impl Fn(&PoolLook) -> bool) -> PoolLook {
        eventually_async(LIMIT, what, async || Some(self.pool.look()).filter(&wanted)).await
    }

    async fn get(&self) -> Lease {
        self.pool.get(LIMIT).await.unwrap()
    }
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn setting(client: &Client, name: &str) -> String {
    let sql = "SELECT pg_catalog.current_setting($1)";
    client.query_one(sql, &[&name]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_as_it_was_told_and_keeps_its_statements() {
    let stage = Stage::new("pool_session", 2).await;
    let lease = stage.get().await;
    assert_eq!(setting(&lease, "application_name").await, "pool_session");
    assert_eq!(setting(&lease, "idle_in_transaction_session_timeout").await, "20s");
    assert_eq!(setting(&lease, "search_path").await, "");
    assert_eq!(setting(&lease, "outbox.test").await, "two words \\ 'quoted'");
    // They are what a reset goes back to.
    lease.batch_execute("SET idle_in_transaction_session_timeout = 0; RESET ALL").await.unwrap();
    assert_eq!(setting(&lease, "idle_in_transaction_session_timeout").await, "20s");
    let first = pid(&lease).await;
    let sql = "SELECT pg_catalog.current_database()";
    lease.prepared(sql).await.unwrap();
    drop(lease);
    stage.wait_look("the connection to be back", |look| look.idle == 1).await;

    let lease = stage.get().await;
    assert_eq!(pid(&lease).await, first);
    let statement = lease.prepared(sql).await.unwrap();
    let database: String = lease.query_one(&statement, &[]).await.unwrap().get(0);
    assert_eq!(database, "postgres");
    let kept = "SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE statement = $1";
    assert_eq!(lease.query_one(kept, &[&sql]).await.unwrap().get::<_, i64>(0), 1);
    drop(lease);
    assert!(stage.pool.close(LIMIT).await, "nothing had to be cut");
    assert!(matches!(stage.pool.get(LIMIT).await, Err(PoolError::Closed)));
    stage.wait_gone(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_the_bound() {
    let stage = Stage::new("pool_bound", 3).await;
    let held = join_all((0..3).map(|_| stage.get())).await;
    let refused = stage.pool.get(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(refused, PoolError::Busy { size: 3, .. }) && !refused.is_permanent(), "{refused}");
    let look = stage.pool.look();
    assert_eq!((look.in_use, look.idle, look.waiting, look.waits), (3, 0, 0, 1));
    // Who waits is counted, and served as soon as one is back.
    let waiter = tokio::spawn({
        let pool = stage.pool.clone();
        async move { pool.get(LIMIT).await.map(drop) }
    });
    stage.wait_look("one who waits", |look| look.waiting == 1).await;
    drop(held);
    waiter.await.unwrap().unwrap();

    // Some are given back, some discarded.
    let many = (0..60).map(|turn| {
        let pool = stage.pool.clone();
        tokio::spawn(async move {
            let lease = pool.get(LIMIT).await.unwrap();
            // Backends of the pool that do something: those that were let go of have ended, or wait for nothing.
            let sql = "SELECT count(*) FROM pg_catalog.pg_stat_activity
                        WHERE application_name = 'pool_bound' AND state = 'active'";
            let active: i64 = lease.query_one(sql, &[]).await.unwrap().get(0);
            if turn % 7 == 0 {
                lease.discard();
            }
            active
        })
    });
    for active in join_all(many).await {
        let active = active.unwrap();
        assert!((1..=3).contains(&active), "{active}");
    }
    let look = stage.wait_look("all to be back", |look| look.in_use == 0).await;
    assert!(look.idle <= 3 && look.waits > 1, "{look:?}");
    assert_eq!(look.discarded, 9);
    assert_eq!(look.broken, 0);
    assert_eq!(look.opened, look.discarded + look.idle as u64);
    eventually_async(LIMIT, "as many backends as connections", async || {
        (stage.backends().await.len() == look.idle).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_connection_takes_its_backend_with_it() {
    let stage = Stage::new("pool_discard", 1).await;
    stage.watcher.batch_execute("CREATE TABLE discarded (n integer)").await.unwrap();
    let lease = stage.get().await;
    let first = pid(&lease).await;
    lease.batch_execute("BEGIN; INSERT INTO public.discarded VALUES (1)").await.unwrap();
    lease.discard();
    let lease = stage.get().await;
    assert_ne!(pid(&lease).await, first);
    stage.wait_gone(first).await;
    let rows: i64 = lease.query_one("SELECT count(*) FROM public.discarded", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0, "what was not committed is rolled back");
    assert_eq!(stage.pool.look().discarded, 1);
    drop(lease);
    assert!(stage.pool.close(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_connection_waits_for_no_answer() {
    let postgres = Postgres::start(usual_version());
    let proxy = Proxy::start(postgres.port());
    let url = postgres.url("postgres").replace(&postgres.port().to_string(), &proxy.port().to_string());
    let pool = Pool::new(Link::parse(&url, |_| None).unwrap(), Session::named("pool_silent"), 1);
    let lease = pool.get(LIMIT).await.unwrap();
    lease.batch_execute("BEGIN").await.unwrap();
    proxy.black_hole();
    let commit = tokio::time::timeout(Duration::from_millis(50), lease.batch_execute("COMMIT"));
    assert!(commit.await.is_err(), "the COMMIT is not answered");
    lease.discard();
    assert_eq!(pool.look().in_use, 0);
    // A driver that waited for the answer would not end.
    assert!(pool.close(Duration::from_secs(5)).await, "nothing had to be cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_connection_does_not_come_back() {
    let stage = Stage::new("pool_cancel", 1).await;
    let mut lease = stage.get().await;
    let first = pid(&lease).await;
    let sleeping = tokio::time::timeout(Duration::from_millis(50), async {
        lease.batch_execute("SELECT pg_catalog.pg_sleep(3600)").await
    });
    assert!(sleeping.await.is_err(), "the statement is under way");
    lease.cancel().await.unwrap();
    drop(lease);
    // Without the request it would sleep on: a backend does not look at its socket meanwhile.
    stage.wait_gone(first).await;
    let lease = stage.get().await;
    assert_ne!(pid(&lease).await, first);
    assert_eq!(stage.pool.look().discarded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_backend_was_killed_is_not_handed_out() {
    let stage = Stage::new("pool_killed", 2).await;
    // Killed while it stands idle.
    let lease = stage.get().await;
    let first = pid(&lease).await;
    drop(lease);
    stage.wait_look("the connection to be back", |look| look.idle == 1).await;
    assert_eq!(stage.postgres.terminate_backends("application_name = 'pool_killed'").await, 1);
    stage.wait_look("the end to be noticed", |look| look.idle == 0).await;
    let lease = stage.get().await;
    let second = pid(&lease).await;
    assert_ne!(second, first);
    assert_eq!(stage.pool.look().broken, 1);
    // Killed while somebody has it.
    assert_eq!(stage.postgres.terminate_backends("application_name = 'pool_killed'").await, 1);
    drop(lease);
    stage.wait_look("the end to be noticed", |look| look.broken == 2 && look.in_use == 0).await;
    let lease = stage.get().await;
    assert_ne!(pid(&lease).await, second);
    assert_eq!(stage.pool.look().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_inherits_a_transaction() {
    let stage = Stage::new("pool_return", 1).await;
    stage.watcher.batch_execute("CREATE TABLE returned (n integer)").await.unwrap();
    let insert = "INSERT INTO public.returned VALUES (1)";
    // Dropped, a transaction is rolled back, and the connection is good.
    let mut lease = stage.get().await;
    let first = pid(&lease).await;
    lease.transaction().await.unwrap().batch_execute(insert).await.unwrap();
    drop(lease);
    let lease = stage.get().await;
    assert_eq!(pid(&lease).await, first);
    // One that was opened by hand and left open, or failed and left so, ends its connection.
    lease.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
    drop(lease);
    let lease = stage.get().await;
    let second = pid(&lease).await;
    assert_ne!(second, first);
    lease.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
    drop(lease);
    let lease = stage.get().await;
    assert_ne!(pid(&lease).await, second);
    let rows: i64 = lease.query_one("SELECT count(*) FROM public.returned", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);
    assert_eq!(stage.pool.look().broken, 2);
}

/// All sentences of an error.
fn told(error: &LinkError) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told.push_str(&format!(": {error}"));
        cause = error.source();
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_bound_over_tls_and_says_no_password_in_clear_text() {
    let authority = Authority::new("the authority");
    let directory = TempDir::new().unwrap();
    let ca = write(directory.path(), "ca.pem", authority.certificate());
    // The driver would answer the role `careless`, whose rule asks for the password itself.
    let rules = "host all postgres 127.0.0.1/32 scram-sha-256\nhostssl all careless 127.0.0.1/32 password\n\
                 hostssl all all 127.0.0.1/32 scram-sha-256\n";
    let postgres = Postgres::builder(usual_version())
        .tls(&authority.server(&["localhost"]), &authority)
        .file("pg_hba.conf", rules)
        .start();
    let admin = postgres.connect("postgres").await;
    let roles = "CREATE ROLE app LOGIN PASSWORD 'a word'; CREATE ROLE careless LOGIN PASSWORD 'a word'";
    admin.batch_execute(roles).await.unwrap();
    let connect = async |role: &str, password: &str, parameters: &str| {
        let url = format!("postgres://{role}@localhost:{}/postgres?{parameters}", postgres.port());
        let env = |name: &str| (name == "PGPASSWORD").then(|| password.to_owned());
        Link::parse(&url, env).unwrap().connect(&Session::named("link_tls")).await
    };
    let bound = format!("sslrootcert={ca}&channel_binding=require");
    let (client, driver) = connect("app", "a word", &bound).await.unwrap();
    let driving = tokio::spawn(driver);
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(client.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));
    drop(client);
    driving.await.unwrap().unwrap();

    let trusted = format!("sslrootcert={ca}");
    for (role, password, parameters, sentence) in [
        ("careless", "a word", &trusted, "asks for the password in clear text"),
        ("app", "another", &trusted, "password authentication failed"),
        ("app", "a word", &"sslmode=verify-full".to_owned(), "is signed by nobody the consumer trusts"),
    ] {
        let Err(error) = connect(role, password, parameters).await else { panic!("{role} is in") };
        let said = told(&error);
        assert!(error.is_permanent() && said.contains(sentence), "{said}");
    }
}
