//! Handlers, and what they may be registered with.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::event::{Event, Payload};
use crate::outcome::Handled;
use crate::record::Record;
use crate::tx::Tx;

/// A consumer that has a database, in which the inbox is.
#[derive(Debug)]
pub struct WithDatabase(());

/// A consumer that has none. A transactional handler cannot be registered with it: that does not compile.
#[derive(Debug)]
pub struct WithoutDatabase(());

/// How long a handler may take, unless told otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A handler for one event type, for consumers of kind `D`.
#[must_use = "a handler does nothing before it is registered with Consumer::on"]
pub struct Handler<D> {
    pub(crate) registration: Registration,
    of: PhantomData<fn() -> D>,
}

/// A handler as the workers know it: what it takes and needs is forgotten.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) call: Arc<dyn Call>,
    pub(crate) kind: Kind,
    pub(crate) timeout: Duration,
}

/// What the inbox has to do with a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Claim and effects are one transaction.
    Transactional,
    /// The handler sees to repetitions itself.
    Idempotent,
}

impl<D> Handler<D> {
    /// How long one attempt may take: 30 s unless told otherwise. Then its statement is cancelled, its transaction
    /// rolled back, and the attempt has failed.
    pub fn timeout(mut self, timeout: Duration) -> Handler<D> {
        self.registration.timeout = timeout.max(Duration::from_millis(1));
        self
    }
}

/// A handler's answer, on its way. An event that cannot be read is an `Err` of the outer kind: nobody ran.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Handled> + Send>>;

/// A handler whose payload's type is forgotten.
pub(crate) trait Call: Send + Sync {
    /// Reads the event and begins to handle it.
    ///
    /// # Errors
    /// The payload is not what the handler takes; in a sentence without its content.
    fn call(&self, record: &Record, id: Uuid, tx: Option<Tx>) -> Result<Answer, String>;
}

struct Closure<F>(F);

impl<F> Call for Closure<F>
where
    F: Fn(&Record, Uuid, Option<Tx>) -> Result<Answer, String> + Send + Sync,
{
    fn call(&self, record: &Record, id: Uuid, tx: Option<Tx>) -> Result<Answer, String> {
        (self.0)(record, id, tx)
    }
}

/// A handler whose effects are in the database, written through the transaction it is given. They happen
/// once: the event's claim is the first statement of the same transaction.
///
/// An `async fn(Event<T>, Tx) -> Handled`, or a closure that is called the same way.
pub fn transactional<T, F, A>(handler: F) -> Handler<WithDatabase>
where
    T: Payload,
    F: Fn(Event<T>, Tx) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    let call = move |record: &Record, id: Uuid, tx: Option<Tx>| -> Result<Answer, String> {
        let event = Event::of(record, id)?;
        let tx = tx.ok_or("a transactional handler was called without a transaction")?;
        Ok(Box::pin(handler(event, tx)))
    };
    let registration =
        Registration { call: Arc::new(Closure(call)), kind: Kind::Transactional, timeout: TIMEOUT };
    Handler { registration, of: PhantomData }
}

/// A handler that sees to repetitions itself: it may be called again for an event that it handled, after every
/// crash and rebalance. No inbox, no transaction.
///
/// An `async fn(Event<T>) -> Handled`, or a closure that is called the same way.
pub fn idempotent<D, T, F, A>(handler: F) -> Handler<D>
where
    T: Payload,
    F: Fn(Event<T>) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    let call = move |record: &Record, id: Uuid, _: Option<Tx>| -> Result<Answer, String> {
        let event = Event::of(record, id)?;
        Ok(Box::pin(handler(event)))
    };
    let registration =
        Registration { call: Arc::new(Closure(call)), kind: Kind::Idempotent, timeout: TIMEOUT };
    Handler { registration, of: PhantomData }
}
