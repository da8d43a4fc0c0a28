//! One connection as long as somebody has it, and whether it comes back.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::Inner;
use crate::connect::LinkError;

/// Statements that a connection keeps prepared. With one more all are let go of: a program has a handful, and one
/// that makes its statements from values would fill the server's memory.
const STATEMENTS: usize = 64;

/// Whether a connection is outside of any transaction: within one, `now()` is when it began, before this statement
/// came (PostgreSQL's manual, "Current Date/Time"). In one that failed it is an error.
const IS_IDLE: &str = "SELECT pg_catalog.now() OPERATOR(pg_catalog.=) pg_catalog.statement_timestamp()";

/// A connection with what drives it and what it has prepared.
pub(super) struct Held {
    client: Client,
    driving: AbortHandle,
    statements: Mutex<HashMap<String, Statement>>,
}

impl Held {
    pub(super) fn new(client: Client, driving: AbortHandle) -> Held {
        Held { client, driving, statements: Mutex::new(HashMap::new()) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks behind everything that was sent before.
    pub(super) async fn is_idle(&self) -> Result<bool, tokio_postgres::Error> {
        let answer = self.client.simple_query(IS_IDLE).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row == Some("t"))
    }

    /// Closes the socket, whatever is under way. Without this a driver would go on until the server has answered
    /// everything, and with it the backend.
    pub(super) fn abort(self) {
        self.driving.abort();
    }
}

/// A connection that somebody has; it is a [`Client`]. Dropped, it goes back to the pool, which looks at it first.
pub struct Lease {
    /// Taken by `drop` only.
    held: Option<Held>,
    permit: Option<OwnedSemaphorePermit>,
    pool: Arc<Inner>,
    goes_back: bool,
}

const HELD: &str = "a lease holds its connection until it is dropped";

impl Lease {
    pub(super) fn new(held: Held, permit: OwnedSemaphorePermit, pool: Arc<Inner>) -> Lease {
        Lease { held: Some(held), permit: Some(permit), pool, goes_back: true }
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect(HELD)
    }

    /// The statement, prepared once per connection. Ask before a transaction begins, which borrows the connection.
    ///
    /// # Errors
    ///
    /// What the server says about it. A statement that is kept fails when its result has changed with a table
    /// (`0A000`): [`discard`](Lease::discard) the connection then.
    pub async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.kept(sql) {
            return Ok(statement);
        }
        // Boxed, as it is seldom wanted.
        let statement = Box::pin(self.held().client.prepare(sql)).await?;
        let mut statements = self.held().statements.lock();
        if statements.len() >= STATEMENTS {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The statement, where this connection has it prepared; nothing is sent.
    pub fn kept(&self, sql: &str) -> Option<Statement> {
        self.held().statements.lock().get(sql).cloned()
    }

    /// Asks the server to stop what it does on this connection, which does not come back from now on, whatever the
    /// answer: the request may reach the backend when it already does something else.
    ///
    /// # Errors
    ///
    /// The server could not be asked.
    pub async fn cancel(&mut self) -> Result<(), LinkError> {
        self.goes_back = false;
        let token = self.held().client.cancel_token();
        self.pool.link.cancel(&token).await
    }

    /// Gives the connection back without a look at it: for whoever knows that every answer has come and that no
    /// transaction is open, and gives back thousands a second.
    pub fn release(mut self) {
        if let (Some(held), Some(permit)) = (self.held.take(), self.permit.take()) {
            self.pool.take_back_idle(held, permit);
        }
    }

    /// Closes the connection at once in place of giving it back: one on which a cancel request was sent, or whose
    /// COMMIT was not answered. The server ends the transaction as soon as it notices.
    pub fn discard(mut self) {
        self.goes_back = false;
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.held().client
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.held.as_mut().expect(HELD).client
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(held), Some(permit)) = (self.held.take(), self.permit.take()) else { return };
        if self.goes_back {
            self.pool.take_back(held, permit);
        } else {
            self.pool.figures.discarded.fetch_add(1, Relaxed);
            held.abort();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease(of {})", self.pool.link.describe())
    }
}
