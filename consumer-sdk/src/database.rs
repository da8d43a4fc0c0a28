//! Connections to the consumer's database: a bounded number, thrown away when anything about them is in doubt.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use outbox_postgres_link::{Link, LinkError, Pool, PoolError, PoolLook, Session};

use crate::outcome::sentence;

/// Why there is no connection. A `main` that returns it prints its `Debug`: the sentence, with what it came from.
#[derive(thiserror::Error)]
pub enum DatabaseError {
    /// Everything that is wrong with `DATABASE_URL` and what belongs to it.
    #[error("DATABASE_URL: {0}")]
    Url(String),
    /// No connection can be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The inbox is not installed, or not for this role.
    #[error(
        "the inbox is not usable: install outbox-schema/sql/inbox in this database and grant the role outbox_consumer"
    )]
    Inbox(#[source] tokio_postgres::Error),
    /// The inbox has another contract.
    #[error(
        "the inbox has version {found} of its contract, and this consumer knows {known}: bring the older of both up to date"
    )]
    Version {
        /// What the inbox says.
        found: i32,
        /// What this consumer knows.
        known: i32,
    },
    /// Settlements would be kept for less time than a copy can come back.
    #[error("the inbox refuses this consumer")]
    Refused(#[source] tokio_postgres::Error),
}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sentence(self))
    }
}

impl DatabaseError {
    /// Whether waiting mends nothing.
    pub fn is_permanent(&self) -> bool {
        match self {
            DatabaseError::Url(_) | DatabaseError::Version { .. } => true,
            DatabaseError::Pool(error) => error.is_permanent(),
            // A server that goes, or is gone, is no refusal.
            DatabaseError::Inbox(error) | DatabaseError::Refused(error) => {
                error.code().is_some_and(|code| !code.code().starts_with("57"))
            }
        }
    }
}

/// The contract that this SDK was written for.
const CONTRACT: i32 = 1;

/// How long a connection is waited for before somebody is told.
const PATIENCE: Duration = Duration::from_secs(15);

/// Takes back what a session was left with: all that `DISCARD ALL` does, but for the statements that are kept. Role and
/// settings go back to what the connection began with.
const SWEEP: &str = "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; UNLISTEN *; DISCARD TEMP; \
                     DISCARD SEQUENCES; SELECT pg_catalog.pg_advisory_unlock_all()";

/// A bounded number of connections.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: Pool,
}

/// A connection in use. Dropped, it is thrown away; [given back](Lease::give_back), it is kept.
pub(crate) struct Lease {
    held: Option<outbox_postgres_link::Lease>,
    /// A statement may have left something in the session.
    leaves: bool,
}

impl Database {
    /// Connections to one database, at most so many. `abandoned` is how long the server lets a transaction of a
    /// frozen process stand (C31).
    ///
    /// # Errors
    /// [`DatabaseError::Url`].
    pub(crate) fn new(link: Link, consumer: &str, most: usize, abandoned: Duration) -> Database {
        let session = Session::named(format!("outbox-consumer {consumer}"))
            .set("idle_in_transaction_session_timeout", &abandoned.as_millis().to_string())
            .set("default_transaction_isolation", "read committed")
            // A transaction sets its own, and a claim tells by that whether it is in one.
            .set("statement_timeout", "0");
        Database { pool: Pool::new(link, session, most) }
    }

    /// A connection; waits for one to be free.
    ///
    /// # Errors
    /// The server is not there, or all connections stay in use.
    pub(crate) async fn lease(&self) -> Result<Lease, DatabaseError> {
        Ok(Lease { held: Some(self.pool.get(PATIENCE).await?), leaves: false })
    }

    /// Whether there is an inbox that this role may use, and of a version that is known.
    ///
    /// # Errors
    /// There is not, or the server is not there.
    pub(crate) async fn look_for_inbox(&self) -> Result<(), DatabaseError> {
        let lease = self.lease().await?;
        let row = lease.query_one("SELECT inbox.contract_version()", &[]).await;
        let found: i32 = row.and_then(|row| row.try_get(0)).map_err(DatabaseError::Inbox)?;
        if found != CONTRACT {
            return Err(DatabaseError::Version { found, known: CONTRACT });
        }
        lease.give_back();
        Ok(())
    }

    /// What the connections are doing.
    pub(crate) fn look(&self) -> PoolLook {
        self.pool.look()
    }
}

impl Lease {
    fn held(&self) -> &outbox_postgres_link::Lease {
        self.held.as_ref().expect("a lease has its connection until it is given back")
    }

    /// A statement may have left something in the session: it is swept with the transaction's end, or not kept.
    pub(crate) fn leaves_something(&mut self) {
        self.leaves = true;
    }

    /// Whether that is so.
    pub(crate) fn may_leave_something(&self) -> bool {
        self.leaves
    }

    /// Ends the transaction by these statements. Where something may be left in the session it is swept by others, sent
    /// right behind, so that both cost one round trip, and each has its answer.
    ///
    /// # Errors
    /// Those of the transaction's end.
    pub(crate) async fn end(&mut self, how: &str) -> Result<(), tokio_postgres::Error> {
        if !self.leaves {
            return self.batch_execute(how).await;
        }
        let (ended, swept) = tokio::join!(biased; self.batch_execute(how), self.batch_execute(SWEEP));
        self.leaves = swept.is_err();
        ended
    }

    /// Keeps the connection for others. Only where every answer has come and no transaction is open: never after
    /// a cancelled statement or an unanswered COMMIT (C45). One that was left with something is thrown away.
    pub(crate) fn give_back(mut self) {
        if self.leaves {
            return;
        }
        if let Some(held) = self.held.take() {
            held.release();
        }
    }

    /// Asks the server to stop what it does here; the connection is thrown away (C45).
    ///
    /// # Errors
    /// The server could not be asked.
    pub(crate) async fn cancel(mut self) -> Result<(), LinkError> {
        match self.held.take() {
            Some(mut held) => held.cancel().await,
            None => Ok(()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.discard();
        }
    }
}

impl Deref for Lease {
    type Target = outbox_postgres_link::Lease;

    fn deref(&self) -> &outbox_postgres_link::Lease {
        self.held()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held().fmt(f)
    }
}
