//! The transaction that a handler's effects belong to.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use futures_util::FutureExt;
use outbox_schema::tokio_postgres::enqueue_on;
use outbox_schema::{EnqueueError, OutboxEvent};
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::database::Lease;

/// A handle to the transaction in which the event was claimed: what is written through it is committed with the
/// claim, or not at all.
///
/// It takes single statements and refuses those that end or begin transactions (C50). Kept beyond the
/// handler it answers with [`TxError::Over`].
///
/// A statement's text is prepared once per connection and kept: give values as parameters.
#[derive(Debug, Clone)]
pub struct Tx {
    /// Taken out when the handler has ended; whoever is in the middle of a statement is waited for, so that none
    /// of a kept handle can come behind the COMMIT.
    open: Arc<RwLock<Option<Open>>>,
}

/// The transaction, and what its statements did to it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) lease: Lease,
    /// What is to be sent before the first statement: the savepoint of this event. An event whose handler says
    /// nothing to the database costs none.
    prelude: Mutex<Option<String>>,
    marks: Marks,
}

/// What happened through a [`Tx`].
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// A statement was sent, and the prelude before it.
    begun: AtomicBool,
    /// The server refused a statement, so the transaction, or what came behind the savepoint, is lost.
    failed: AtomicBool,
    /// A kept statement does not fit its tables any more.
    stale: AtomicBool,
    /// Statements that were sent and whose answers nobody waited for.
    unheard: AtomicUsize,
}

/// How a transaction came back from its handler.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) lease: Lease,
    /// The prelude was sent.
    pub(crate) begun: bool,
    /// A statement failed, whatever the handler says.
    pub(crate) failed: bool,
    /// The connection is not to be used again.
    pub(crate) stale: bool,
    /// Somebody turned away from a statement: whether it failed is not known.
    pub(crate) unheard: bool,
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
    /// One row was asked for.
    #[error("{found} rows came where one was asked for")]
    Rows {
        /// How many there are.
        found: usize,
    },
    /// The event cannot be written to the outbox.
    #[error("the event was not written to the outbox")]
    Enqueue(#[from] EnqueueError<tokio_postgres::Error>),
}

/// Counts a statement until its answer is heard.
struct Hearing<'o>(&'o Open);

impl<'o> Hearing<'o> {
    fn begin(open: &'o Open) -> Hearing<'o> {
        open.marks.unheard.fetch_add(1, SeqCst);
        Hearing(open)
    }

    fn heard<T>(self, answer: Result<T, tokio_postgres::Error>) -> Result<T, TxError> {
        self.0.marks.unheard.fetch_sub(1, SeqCst);
        if let Err(error) = &answer {
            self.0.marks.failed.store(true, SeqCst);
            // A table has changed under a statement that is kept: the connection is of no more use.
            if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
                self.0.marks.stale.store(true, SeqCst);
            }
        }
        Ok(answer?)
    }
}

impl Open {
    /// Sends the prelude, unless that was done, and what follows right behind it.
    ///
    /// The driver sends with the first poll, so the prelude is polled once under the lock: no other statement of the
    /// handler can come before it.
    async fn behind_prelude<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let sent = {
            let mut waiting = self.prelude.lock();
            waiting.take().map(|text| {
                self.marks.begun.store(true, SeqCst);
                let client: &tokio_postgres::Client = &self.lease;
                let mut prelude = Box::pin(async move { client.batch_execute(&text).await });
                let answer = prelude.as_mut().now_or_never();
                (prelude, answer)
            })
        };
        match sent {
            None => statement.await,
            Some((_, Some(answer))) => {
                answer?;
                statement.await
            }
            Some((prelude, None)) => {
                let (before, answer) = tokio::join!(prelude, statement);
                before?;
                answer
            }
        }
    }
}

impl Tx {
    pub(crate) fn new(lease: Lease, prelude: Option<String>) -> Tx {
        let open = Open { lease, prelude: Mutex::new(prelude), marks: Marks::default() };
        Tx { open: Arc::new(RwLock::new(Some(open))) }
    }

    /// Ends every use of it; `None` where that has been done.
    pub(crate) async fn close(&self) -> Option<Closed> {
        let Open { lease, marks, .. } = self.open.write().await.take()?;
        let Marks { begun, failed, stale, unheard } = marks;
        Some(Closed {
            lease,
            begun: begun.into_inner(),
            failed: failed.into_inner(),
            stale: stale.into_inner(),
            unheard: unheard.into_inner() > 0,
        })
    }

    /// Carries out one statement; answers how many rows it changed.
    ///
    /// # Errors
    /// See [`TxError`].
    pub async fn execute(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, TxError> {
        let open = self.open.read().await;
        let open = allowed(open.as_ref(), statement)?;
        let hearing = Hearing::begin(open);
        let sent = async {
            let prepared = open.lease.prepared(statement).await?;
            open.lease.execute(&prepared, parameters).await
        };
        hearing.heard(open.behind_prelude(sent).await)
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
        let open = self.open.read().await;
        let open = allowed(open.as_ref(), statement)?;
        let hearing = Hearing::begin(open);
        let sent = async {
            let prepared = open.lease.prepared(statement).await?;
            open.lease.query(&prepared, parameters).await
        };
        hearing.heard(open.behind_prelude(sent).await)
    }

    /// The only row of one statement.
    ///
    /// # Errors
    /// See [`TxError`]; another number of rows than one is [`TxError::Rows`].
    pub async fn query_one(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, TxError> {
        let found = self.query_opt(statement, parameters).await?;
        found.ok_or(TxError::Rows { found: 0 })
    }

    /// The row of one statement, if there is one.
    ///
    /// # Errors
    /// See [`TxError`]; more rows than one are [`TxError::Rows`].
    pub async fn query_opt(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, TxError> {
        let mut rows = self.query(statement, parameters).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            found => Err(TxError::Rows { found }),
        }
    }

    /// Writes an event to the service's own outbox: the next hop, in the same commit.
    ///
    /// # Errors
    /// See [`TxError`].
    pub async fn enqueue(&self, event: &OutboxEvent) -> Result<Uuid, TxError> {
        let open = self.open.read().await;
        let open = open.as_ref().ok_or(TxError::Over)?;
        let hearing = Hearing::begin(open);
        let client: &Client = &open.lease;
        // The prelude by itself: what the outbox answers is no error of the driver alone.
        let begun = open.behind_prelude(async { Ok(()) }).await;
        hearing.heard(begun)?;
        let hearing = Hearing::begin(open);
        let answer = enqueue_on(client, event).await;
        if matches!(answer, Err(EnqueueError::Database(_))) {
            open.marks.failed.store(true, SeqCst);
        }
        hearing.heard(Ok(()))?;
        Ok(answer?)
    }
}

fn allowed<'o>(open: Option<&'o Open>, statement: &str) -> Result<&'o Open, TxError> {
    match control(statement) {
        Some(word) => Err(TxError::Control(word)),
        None => open.ok_or(TxError::Over),
    }
}

/// Words that begin a statement which ends a transaction or begins one.
const CONTROL: [&str; 9] =
    ["ABORT", "BEGIN", "COMMIT", "END", "PREPARE TRANSACTION", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"];

/// The words of transaction control that a statement begins with. The server takes one statement at a time
/// here, so that nothing can follow behind a semicolon.
fn control(statement: &str) -> Option<String> {
    let (first, rest) = word(statement);
    let two = format!("{first} {}", word(rest).0);
    CONTROL.into_iter().find(|word| *word == first || *word == two).map(str::to_owned)
}

/// The word that a text begins with, in capitals, and what is behind it. Whatever is no letter ends a word: a comment may
/// stand at its end without a blank.
fn word(text: &str) -> (String, &str) {
    let text = behind_comments(text);
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    (text[..end].to_ascii_uppercase(), &text[end..])
}

/// A statement without blanks and comments before it. PostgreSQL's block comments nest.
fn behind_comments(statement: &str) -> &str {
    let mut text = statement;
    loop {
        // PostgreSQL takes a vertical tab for a blank since version 16.
        text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, ';' | '\u{b}'));
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
            "COMMIT/* tag */",
            "COMMIT--tag",
            "prepare /* x */ transaction 'x'",
            "PREPARE--x\nTRANSACTION 'x'",
            "\u{b}COMMIT",
        ] {
            assert!(control(statement).is_some(), "{statement}");
        }
        for statement in [
            "UPDATE stock SET free = free - 1",
            "/* COMMIT */ SELECT 1",
            "-- COMMIT",
            "SELECT 'COMMIT'",
            "PREPARE p AS SELECT 1",
            "commit_all()",
            "",
            "/* open",
            "WITH x AS (SELECT 1) SELECT * FROM x",
        ] {
            assert!(control(statement).is_none(), "{statement}");
        }
    }
}
