//! A database with an inbox, and sessions of consumers that are stepped by hand.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use outbox_schema::sql::inbox::{CONSUMER_ROLE, up};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::cluster::{Postgres, usual_version};
use crate::wait::eventually_async;

/// The consumer of most tests.
pub const SCOPE: &str = "inventory";

/// How long a state may take to be seen before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database of its own with an inbox in it, and a table `effects (id uuid, what text)` that handlers write to.
#[derive(Debug)]
pub struct Inbox {
    postgres: &'static Postgres,
    name: String,
    millis: u128,
    /// The owner's connection.
    pub admin: Session,
}

/// One connection, and the backend behind it.
#[derive(Debug, Clone)]
pub struct Session {
    client: Arc<Client>,
    /// Process id of the backend.
    pub pid: i32,
}

/// The PostgreSQL that these tests share; nothing they do harms it.
pub fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(usual_version()))
}

impl Inbox {
    /// Makes the database, installs the inbox, makes today's partitions and a role that is a consumer.
    ///
    /// # Panics
    /// When the database exists or the inbox cannot be installed.
    pub async fn prepare(name: &str) -> Inbox {
        let postgres = server();
        postgres.create_database(name).await;
        let admin = Session::new(postgres.connect(name).await).await;
        admin.run(&format!("BEGIN; {}; COMMIT", up())).await;
        admin
            .run(&format!(
                "CREATE TABLE effects (id uuid, what text);
                 CREATE ROLE {name} LOGIN PASSWORD 'secret';
                 GRANT {CONSUMER_ROLE} TO {name}; GRANT ALL ON effects TO {name};
                 SELECT inbox.upkeep()"
            ))
            .await;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
        Inbox { postgres, name: name.to_owned(), millis: now.as_millis(), admin }
    }

    /// A new session of the consumer.
    ///
    /// # Panics
    /// When the server does not let it in.
    pub async fn consumer(&self) -> Session {
        let client = self.postgres.connect_as(&self.name, "secret", &self.name).await;
        Session::new(client.unwrap_or_else(|error| panic!("{error:?}"))).await
    }

    /// The version-7 id of event `number`; ids have the order of their numbers, and the time of [`prepare`](Self::prepare).
    pub fn id(&self, number: u32) -> String {
        self.id_at(0, number)
    }

    /// An id whose time is that many days later, or earlier.
    pub fn id_at(&self, days: i64, number: u32) -> String {
        let millis = (self.millis as i64 + days * 86_400_000) as u64;
        format!("{:08x}-{:04x}-7000-8000-{number:012x}", millis >> 16, millis & 0xFFFF)
    }

    /// Several ids as an SQL array.
    pub fn ids(&self, numbers: &[u32]) -> String {
        let ids: Vec<String> = numbers.iter().map(|&number| self.id(number)).collect();
        format!("'{{{}}}'::uuid[]", ids.join(","))
    }

    /// The claim of a group, as a query.
    pub fn claim(&self, numbers: &[u32]) -> String {
        format!("SELECT array_to_string(inbox.claim_group('{SCOPE}', {}), ' ')", self.ids(numbers))
    }

    /// The claim as the same replay for all, as a query.
    pub fn claim_replay(&self, numbers: &[u32], replay: u32) -> String {
        let (ids, many) = (self.ids(numbers), numbers.len());
        format!(
            "SELECT array_to_string(
                inbox.claim_group('{SCOPE}', {ids}, NULL, array_fill({replay}, ARRAY[{many}])), ' ')"
        )
    }

    /// Another decision about claimed events, as a query.
    pub fn settle(&self, numbers: &[u32], state: &str) -> String {
        let (ids, many) = (self.ids(numbers), numbers.len());
        format!(
            "SELECT inbox.settle_group('{SCOPE}', {ids}, array_fill('{state}'::text, ARRAY[{many}]), NULL,
                array_fill('because'::text, ARRAY[{many}]))"
        )
    }

    /// Number and state of the settlements, by id.
    ///
    /// # Panics
    /// When the query fails.
    pub async fn settlements(&self) -> Vec<String> {
        let query = "SELECT ('x' || right(id::text, 8))::bit(32)::int, state FROM inbox.settlement ORDER BY id, scope";
        self.admin.rows(query).await
    }

    /// Waits until a session's backend waits for a lock that another's holds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn blocked(&self, waiting: &Session, by: &Session) {
        let query = format!("SELECT {} = ANY (pg_blocking_pids({}))", by.pid, waiting.pid);
        eventually_async(PATIENCE, "one session to wait for the other", async || {
            (self.admin.rows(&query).await == ["t"]).then_some(())
        })
        .await;
    }
}

impl Session {
    /// A session on a connection.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn new(client: Client) -> Session {
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("an answer").get(0);
        Session { client: Arc::new(client), pid }
    }

    /// Runs statements; returns the rows of all, each as its columns' text with spaces between, `-` for NULL.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn attempt(&self, statements: &str) -> Result<Vec<String>, Error> {
        let messages = self.client.simple_query(statements).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let columns: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect();
                Some(columns.join(" "))
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The rows of statements that succeed.
    ///
    /// # Panics
    /// When one fails.
    pub async fn rows(&self, statements: &str) -> Vec<String> {
        self.attempt(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"))
    }

    /// The only row, as text.
    ///
    /// # Panics
    /// When there is another number of rows.
    pub async fn one(&self, statements: &str) -> String {
        let mut rows = self.rows(statements).await;
        assert_eq!(rows.len(), 1, "{statements}: {rows:?}");
        rows.remove(0)
    }

    /// Runs statements whose answers do not matter.
    ///
    /// # Panics
    /// When one fails.
    pub async fn run(&self, statements: &str) {
        self.rows(statements).await;
    }

    /// SQLSTATE and message of statements that fail.
    ///
    /// # Panics
    /// When none fails.
    pub async fn refused(&self, statements: &str) -> (String, String) {
        let Err(error) = self.attempt(statements).await else { panic!("not refused: {statements}") };
        code(&error)
    }

    /// Sends statements without waiting for the answer.
    pub fn send(&self, statements: &str) -> JoinHandle<Result<Vec<String>, Error>> {
        let (session, statements) = (self.clone(), statements.to_owned());
        tokio::spawn(async move { session.attempt(&statements).await })
    }
}

/// SQLSTATE and message of an error of the server.
///
/// # Panics
/// When it is none of the server's.
pub fn code(error: &Error) -> (String, String) {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

/// What was sent has been answered: its rows.
///
/// # Panics
/// When it failed, or there is no answer.
pub async fn answered(sent: JoinHandle<Result<Vec<String>, Error>>) -> Vec<String> {
    outcome(sent).await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// What was sent has been answered, well or not.
///
/// # Errors
/// What the server answered.
///
/// # Panics
/// When there is no answer.
pub async fn outcome(sent: JoinHandle<Result<Vec<String>, Error>>) -> Result<Vec<String>, Error> {
    tokio::time::timeout(PATIENCE, sent).await.expect("an answer in time").expect("no panic")
}
