//! The transaction that a handler's effects belong to.

mod guard;

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
use crate::outcome::is_nobodys_fault;

/// A handle to the transaction in which the event was claimed: what is written through it is committed with the
/// claim, or not at all.
///
/// It takes single statements and refuses those that end or begin transactions (C50), and those that stay with the
/// connection, which serves other events later: `SET`, `RESET`, `LISTEN`, `PREPARE`, `DISCARD`. Kept beyond the handler it
/// answers with [`TxError::Over`].
///
/// `SET LOCAL`, `SET CONSTRAINTS`, `set_config`, temporary tables and session-level advisory locks are taken, and end with
/// the transaction. The first of a handler's statements that says so lets its events run in a transaction each from then
/// on, as with [`group_commit(1)`](crate::Consumer::group_commit), since others would meet it in one that they share; an
/// event that shares one at that moment runs again, by itself. Behind the transaction the session is swept, in the same
/// round trip.
///
/// What a statement's text does not show is not seen, and comes back with the connection: a function that says `SET`,
/// `CREATE TEMP TABLE` or `pg_advisory_lock` inside. Write such functions with `SET LOCAL` or a `SET` clause of their own,
/// `ON COMMIT DROP`, and `pg_advisory_xact_lock`. Where that cannot be, a name in a comment of the statement is as good as
/// another: `SELECT their_function() /* set_config */`.
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
    /// Other events are in the same transaction.
    shared: bool,
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
    /// Statements were sent whose answers are looked at before the COMMIT, for all events of the transaction at once.
    pipelined: AtomicBool,
    /// A statement was refused since one before it had failed.
    in_failed: AtomicBool,
    /// A statement was sent that may have left something in the session.
    leaves: AtomicBool,
    /// A statement was not sent, since the other events of the transaction would meet what it says.
    apart: AtomicBool,
    /// A statement failed, and it was nobody's fault.
    blameless: AtomicBool,
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
    /// Statements were sent whose answers are looked at before the COMMIT.
    pub(crate) pipelined: bool,
    /// A statement was refused since one before it had failed, be it this event's or an earlier one's.
    pub(crate) in_failed: bool,
    /// The event has to run in a transaction of its own, whatever the handler says.
    pub(crate) apart: bool,
    /// The transaction failed, or its connection, and it was nobody's fault (C44). An error of another connection is
    /// never taken for that.
    pub(crate) blameless: bool,
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
    /// The statement would stay with the connection, which serves other events later.
    #[error("{word} is refused: it stays with the connection, and later events would meet it; {instead}")]
    Session {
        /// What the statement begins with.
        word: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The statement holds until the transaction ends. It was not sent, and the handler runs again by itself, whatever it
    /// answers.
    #[error(
        "{0} holds until the end of a transaction that other events share: the event runs again by itself"
    )]
    Shared(&'static str),
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
            self.0.failed(error);
            // A table has changed under a statement that is kept: the connection is of no more use.
            if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
                self.0.marks.stale.store(true, SeqCst);
            }
        }
        Ok(answer?)
    }
}

impl Open {
    fn failed(&self, error: &tokio_postgres::Error) {
        self.marks.failed.store(true, SeqCst);
        if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) {
            self.marks.in_failed.store(true, SeqCst);
        }
        if is_nobodys_fault(error) {
            self.marks.blameless.store(true, SeqCst);
        }
    }

    /// Sends the prelude, unless that was done; what has come of it, and what is still to come.
    ///
    /// The driver sends with the first poll, so the prelude is polled once under the lock: no other statement of the
    /// handler can come before it.
    #[allow(clippy::type_complexity, reason = "the answer that is there and the one that is to come")]
    fn send_prelude(
        &self,
    ) -> Option<(
        impl Future<Output = Result<(), tokio_postgres::Error>> + Unpin,
        Option<Result<(), tokio_postgres::Error>>,
    )> {
        let mut waiting = self.prelude.lock();
        waiting.take().map(|text| {
            self.marks.begun.store(true, SeqCst);
            let client: &tokio_postgres::Client = &self.lease;
            let mut prelude = Box::pin(async move { client.batch_execute(&text).await });
            let answer = prelude.as_mut().now_or_never();
            (prelude, answer)
        })
    }

    /// Sends the prelude, unless that was done, and what follows right behind it.
    async fn behind_prelude<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        match self.send_prelude() {
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
        // Whoever is alone in a transaction needs no savepoint.
        let shared = prelude.is_some();
        let open = Open { lease, prelude: Mutex::new(prelude), shared, marks: Marks::default() };
        Tx { open: Arc::new(RwLock::new(Some(open))) }
    }

    /// Ends every use of it; `None` where that has been done.
    pub(crate) async fn close(&self) -> Option<Closed> {
        let Open { mut lease, marks, .. } = self.open.write().await.take()?;
        let Marks { begun, failed, stale, unheard, pipelined, in_failed, leaves, apart, blameless } = marks;
        if leaves.into_inner() {
            lease.leaves_something();
        }
        Some(Closed {
            blameless: blameless.into_inner() || lease.is_closed(),
            apart: apart.into_inner(),
            lease,
            begun: begun.into_inner(),
            failed: failed.into_inner(),
            stale: stale.into_inner(),
            unheard: unheard.into_inner() > 0,
            pipelined: pipelined.into_inner(),
            in_failed: in_failed.into_inner(),
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

    /// Carries out one statement whose answer the handler need not know, without waiting for it where events share the
    /// transaction by [`group_commit`](crate::Consumer::group_commit).
    ///
    /// There all answers are looked at together, before the COMMIT, which saves each event a round trip. One that is an error
    /// undoes the whole group, unless the handler itself fails afterwards: its events run again in ever smaller parts, with
    /// no attempt counted, until the event that it belongs to is by itself and its answer is waited for. So it is for
    /// statements that hardly ever fail: an `UPDATE` of a sum, an `INSERT … ON CONFLICT DO NOTHING`. The statement's
    /// time-out is the handler's, but the handler has ended before it; what handlers of the group say later waits behind it,
    /// and the next event of the key may be given to its handler before this one's statement is found to have failed: both
    /// are undone and come again in order.
    ///
    /// An event that runs by itself, a batch, and what comes out of the park wait for the answer, as
    /// [`execute`](Tx::execute) does.
    ///
    /// ```no_run
    /// # use outbox_consumer::{Event, Handled, Tx, done};
    /// # #[derive(serde::Deserialize)]
    /// # struct Order { sku: String }
    /// async fn reserve(order: Event<Order>, tx: Tx) -> Handled {
    ///     tx.execute_pipelined("UPDATE stock SET free = free - 1 WHERE sku = $1", &[&order.sku]).await?;
    ///     done()
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`TxError`]. In a group only what is known without waiting, which may be that another event's statement has
    /// failed.
    pub async fn execute_pipelined(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), TxError> {
        let open = self.open.read().await;
        let open = allowed(open.as_ref(), statement)?;
        let hearing = Hearing::begin(open);
        if !open.shared {
            let sent = async {
                let prepared = open.lease.prepared(statement).await?;
                open.lease.execute(&prepared, parameters).await
            };
            hearing.heard(sent.await)?;
            return Ok(());
        }
        let prepared = match open.lease.kept(statement) {
            Some(prepared) => prepared,
            // Behind the savepoint as well: a statement that cannot be prepared fails the transaction.
            None => match open.behind_prelude(open.lease.prepared(statement)).await {
                Ok(prepared) => prepared,
                Err(error) => return hearing.heard(Err(error)),
            },
        };
        open.marks.pipelined.store(true, SeqCst);
        drop(open.send_prelude());
        // Sent with the first poll; whoever turns away from its answer does not hold up those that follow.
        let refused = open.lease.execute(&prepared, parameters).now_or_never().and_then(Result::err);
        hearing.heard(refused.map_or(Ok(()), Err))
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
        if let Err(EnqueueError::Database(error)) = &answer {
            open.failed(error);
        }
        hearing.heard(Ok(()))?;
        Ok(answer?)
    }
}

fn allowed<'o>(open: Option<&'o Open>, statement: &str) -> Result<&'o Open, TxError> {
    let holds = guard::look(statement)?;
    let open = open.ok_or(TxError::Over)?;
    match holds {
        None => {}
        Some(what) if open.shared => {
            open.marks.apart.store(true, SeqCst);
            return Err(TxError::Shared(what));
        }
        Some(_) => open.marks.leaves.store(true, SeqCst),
    }
    Ok(open)
}
