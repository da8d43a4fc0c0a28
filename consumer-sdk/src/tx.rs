//! The transaction that a handler's effects belong to.

use std::sync::Arc;

use outbox_schema::tokio_postgres::enqueue_on;
use outbox_schema::{EnqueueError, OutboxEvent};
use tokio::sync::RwLock;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::database::Lease;

/// A handle to the transaction in which the event was claimed: what is written through it is committed with the
/// claim, or not at all.
///
/// It takes single statements and refuses those that end or begin transactions (C50). Kept beyond the
/// handler it answers with [`TxError::Over`].
#[derive(Debug, Clone)]
pub struct Tx {
    /// Taken out when the handler has ended; whoever is in the middle of a statement is waited for, so that none
    /// of a kept handle can come behind the COMMIT.
    lease: Arc<RwLock<Option<Lease>>>,
}

/// Why a statement was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum TxError {
    /// The handler has ended, and the transaction with it.
    #[error("the handler has ended, and its transaction with it: a Tx may not be kept")]
    Over,
    /// The statement would end the transaction, or begin another.
    #[error(
        "{0} is refused: the transaction belongs to the consumer, which commits it together with the event's claim; \
         answer with done(), retry_after() or reject() instead"
    )]
    Control(String),
    /// The database refused.
    #[error("the statement failed")]
    Postgres(#[from] tokio_postgres::Error),
    /// The event cannot be written to the outbox.
    #[error("the event was not written to the outbox")]
    Enqueue(#[from] EnqueueError<tokio_postgres::Error>),
}

impl Tx {
    pub(crate) fn new(lease: Lease) -> Tx {
        Tx { lease: Arc::new(RwLock::new(Some(lease))) }
    }

    /// Ends every use of it; `None` where that has been done.
    pub(crate) async fn close(&self) -> Option<Lease> {
        self.lease.write().await.take()
    }

    /// Carries out one statement; answers how many rows it changed.
    ///
    /// # Errors
    /// See [`TxError`].
    pub async fn execute(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, TxError> {
        let lease = self.lease.read().await;
        let client = &allowed(lease.as_ref(), statement)?.ready().client;
        Ok(client.execute(statement, parameters).await?)
    }

    /// The rows of one statement.
    ///
    /// # Errors
    /// See [`TxError`].
    pub async fn query(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, TxError> {
        let lease = self.lease.read().await;
        let client = &allowed(lease.as_ref(), statement)?.ready().client;
        Ok(client.query(statement, parameters).await?)
    }

    /// The only row of one statement.
    ///
    /// # Errors
    /// See [`TxError`]; another number of rows than one is an error of the driver.
    pub async fn query_one(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, TxError> {
        let lease = self.lease.read().await;
        let client = &allowed(lease.as_ref(), statement)?.ready().client;
        Ok(client.query_one(statement, parameters).await?)
    }

    /// The row of one statement, if there is one.
    ///
    /// # Errors
    /// See [`TxError`]; more rows than one are an error of the driver.
    pub async fn query_opt(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, TxError> {
        let lease = self.lease.read().await;
        let client = &allowed(lease.as_ref(), statement)?.ready().client;
        Ok(client.query_opt(statement, parameters).await?)
    }

    /// Writes an event to the service's own outbox: the next hop, in the same commit.
    ///
    /// # Errors
    /// See [`TxError`].
    pub async fn enqueue(&self, event: &OutboxEvent) -> Result<Uuid, TxError> {
        let lease = self.lease.read().await;
        let client = &lease.as_ref().ok_or(TxError::Over)?.ready().client;
        Ok(enqueue_on(client, event).await?)
    }
}

fn allowed<'l>(lease: Option<&'l Lease>, statement: &str) -> Result<&'l Lease, TxError> {
    match control(statement) {
        Some(word) => Err(TxError::Control(word)),
        None => lease.ok_or(TxError::Over),
    }
}

/// Words that begin a statement which ends a transaction or begins one.
const CONTROL: [&str; 9] =
    ["ABORT", "BEGIN", "COMMIT", "END", "PREPARE TRANSACTION", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"];

/// The words of transaction control that a statement begins with. The server takes one statement at a time
/// here, so that nothing can follow behind a semicolon.
fn control(statement: &str) -> Option<String> {
    let text = behind_comments(statement);
    let mut words = text.split(|c: char| c.is_ascii_whitespace() || c == ';').filter(|word| !word.is_empty());
    let first = words.next()?.to_ascii_uppercase();
    let two = format!("{first} {}", words.next().unwrap_or_default().to_ascii_uppercase());
    CONTROL.into_iter().find(|word| *word == first || *word == two).map(str::to_owned)
}

/// A statement without blanks and comments before it. PostgreSQL's block comments nest.
fn behind_comments(statement: &str) -> &str {
    let mut text = statement;
    loop {
        text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';');
        if let Some(rest) = text.strip_prefix("--") {
            text = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if text.starts_with("/*") {
            text = behind_block(text);
        } else {
            return text;
        }
    }
}

fn behind_block(text: &str) -> &str {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_control_is_refused_however_it_is_written() {
        for statement in [
            "COMMIT",
            " commit;",
            "-- note\nROLLBACK TO x",
            "/* a /* b */ c */ begin",
            ";END",
            "savepoint a",
            "release a",
            "Start Transaction",
            "abort",
            "prepare transaction 'x'",
            "/**/COMMIT AND CHAIN",
        ] {
            assert!(control(statement).is_some(), "{statement}");
        }
        for statement in [
            "UPDATE stock SET free = free - 1",
            "/* COMMIT */ SELECT 1",
            "-- COMMIT",
            "SELECT 'COMMIT'",
            "PREPARE p AS SELECT 1",
            "",
            "/* open",
            "WITH x AS (SELECT 1) SELECT * FROM x",
        ] {
            assert!(control(statement).is_none(), "{statement}");
        }
    }
}
