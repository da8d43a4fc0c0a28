//! Handlers, and what they may be registered with.
//!
//! | kind | what it gets | repetitions |
//! |---|---|---|
//! | [`transactional`] | the event and a transaction | effects happen once |
//! | [`batch`] | events and a transaction | effects happen once |
//! | [`external`] | the event | claimed before, settled behind: at least once, with a stable idempotency key |
//! | [`at_most_once`] | the event | never again, not even after a crash |
//! | [`idempotent`] | the event | the handler sees to them |

mod arguments;

use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use arguments::WrongNumber;
pub use arguments::{Alone, InBatch, InTransaction};

use crate::event::Facts;
use crate::ladder::{Admission, Admit, Budget, Flow, Limits};
use crate::outcome::{Handled, HandledBatch};
use crate::record::Record;
use crate::tx::Tx;

/// A consumer that has a database, in which the inbox is.
#[derive(Debug)]
pub struct WithDatabase(());

/// A consumer that has none. A transactional handler cannot be registered with it: that does not compile.
#[derive(Debug)]
pub struct WithoutDatabase(());

/// How long the outcome of a probe is waited for before it is asked for again.
const PROBE: Duration = Duration::from_millis(100);

/// How long a handler may take, unless told otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// What all handlers share, as [`Consumer::state`](crate::Consumer::state) was given it. Dereferences to it.
#[derive(Debug)]
pub struct State<S>(pub(crate) Arc<S>);

impl<S> Clone for State<S> {
    fn clone(&self) -> State<S> {
        State(self.0.clone())
    }
}

impl<S> Deref for State<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

/// A handler for one event type, for consumers of kind `D` with the state `S`.
#[must_use = "a handler does nothing before it is registered with Consumer::on"]
pub struct Handler<D, S = ()> {
    pub(crate) registration: Registration<S>,
    of: PhantomData<fn() -> D>,
}

/// A handler as the builder knows it: what it takes is forgotten, the state is not there yet.
pub(crate) struct Registration<S> {
    call: Arc<dyn Call<S>>,
    kind: Kind,
    timeout: Duration,
    dedup: Option<Arc<NameOf>>,
}

/// A handler as the workers know it.
#[derive(Clone)]
pub(crate) struct Bound {
    call: Arc<dyn Bare>,
    pub(crate) kind: Kind,
    pub(crate) timeout: Duration,
    pub(crate) dedup: Option<Arc<NameOf>>,
    /// Tells the handlers of a consumer apart; from 1.
    pub(crate) number: u32,
    /// Stops it when everything fails (C20).
    pub(crate) budget: Arc<Mutex<Budget>>,
    /// Each of its events has a transaction of its own, since its statements hold until the transaction ends.
    alone: Arc<AtomicBool>,
}

/// The business key of an event.
pub(crate) type NameOf = dyn Fn(&Facts) -> String + Send + Sync;

/// What the inbox has to do with a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Claim and effects are one transaction.
    Transactional,
    /// The same, for so many events at a time.
    Batch(usize),
    /// Claimed before, settled behind.
    External,
    /// Claimed before, for ever.
    AtMostOnce,
    /// The handler sees to repetitions itself.
    Idempotent,
}

impl Kind {
    /// Whether it cannot be without an inbox.
    pub(crate) fn needs_inbox(self) -> bool {
        !matches!(self, Kind::Idempotent)
    }

    /// Whether its events wait in the park for a rung's attempt: those that have a row in the inbox, and may run again.
    pub(crate) fn parks(self) -> bool {
        matches!(self, Kind::Transactional | Kind::Batch(_) | Kind::External)
    }
}

impl<D, S> Handler<D, S> {
    fn new(call: impl Call<S> + 'static, kind: Kind) -> Handler<D, S> {
        let registration = Registration { call: Arc::new(call), kind, timeout: TIMEOUT, dedup: None };
        Handler { registration, of: PhantomData }
    }

    /// How long one attempt may take: 30 s unless told otherwise. Then its statement is cancelled, its transaction
    /// rolled back, and the attempt has failed.
    pub fn timeout(mut self, timeout: Duration) -> Handler<D, S> {
        self.registration.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// What makes two events the same, in place of their ids: `idem:{order}:{type}`, say. Two events with the same
    /// text have one effect in this consumer's scope; what is remembered of it has no time in it and is kept in a
    /// store of its own. Of an [`idempotent`] handler nothing is remembered: it only goes into
    /// [`Facts::idempotency_key`].
    ///
    /// It has to answer the same for every copy of an event. An event for which it panics, or answers with an empty text
    /// or one with a NUL, is given up without an attempt, in the way that the retry policy says. Released or replayed, it
    /// is given up again, or where there is a text by then it runs as what its own id says it is.
    pub fn dedup_by(mut self, name: impl Fn(&Facts) -> String + Send + Sync + 'static) -> Handler<D, S> {
        self.registration.dedup = Some(Arc::new(name));
        self
    }
}

impl<S: Send + Sync + 'static> Registration<S> {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// With its state.
    pub(crate) fn bind(self, state: &Arc<S>, number: u32, limits: Limits) -> Bound {
        let Registration { call, kind, timeout, dedup } = self;
        let budget = Arc::new(Mutex::new(Budget::new(limits)));
        Bound {
            call: Arc::new(WithState { call, state: State(state.clone()) }),
            kind,
            timeout,
            dedup,
            number,
            budget,
            alone: Arc::default(),
        }
    }
}

impl Registration<()> {
    /// The same handler beside a state that it does not take.
    pub(crate) fn lift<S: Send + Sync + 'static>(self) -> Registration<S> {
        let Registration { call, kind, timeout, dedup } = self;
        Registration { call: Arc::new(WithState { call, state: State(Arc::new(())) }), kind, timeout, dedup }
    }
}

/// A handler's answer, on its way.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Handled> + Send>>;

/// A batch handler's answer, on its way.
pub(crate) type BatchAnswer = Pin<Box<dyn Future<Output = HandledBatch> + Send>>;

/// A batch that has begun.
pub(crate) struct Batched {
    /// One for each key.
    pub(crate) keys: Vec<Read>,
    /// `None` where no event could be read.
    pub(crate) answer: Option<BatchAnswer>,
}

/// How far the events of a key could be read.
pub(crate) struct Read {
    /// So many of them, from the first on, are in the batch.
    pub(crate) count: usize,
    /// What is wrong with the one behind these, in a sentence without its content.
    pub(crate) wrong: Option<String>,
}

/// A handler whose payload's type is forgotten.
pub(crate) trait Call<S>: Send + Sync {
    /// Reads the event and begins to handle it. Of a batch handler it is a batch of one, whose outcome is the
    /// event's.
    ///
    /// # Errors
    /// The payload is not what the handler takes; in a sentence without its content.
    fn one(&self, facts: Facts, tx: Option<Tx>, state: &State<S>) -> Result<Answer, String>;

    /// Reads the events of some keys and begins to handle those together that can be read.
    ///
    /// # Errors
    /// The handler takes no batches.
    fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx, state: &State<S>) -> Result<Batched, String> {
        let _unused = (keys, tx, state);
        Err("the handler takes no batches".into())
    }
}

/// A call whose state is known.
struct WithState<S> {
    call: Arc<dyn Call<S>>,
    state: State<S>,
}

impl<S: Send + Sync, O> Call<O> for WithState<S> {
    fn one(&self, facts: Facts, tx: Option<Tx>, _: &State<O>) -> Result<Answer, String> {
        self.call.one(facts, tx, &self.state)
    }

    fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx, _: &State<O>) -> Result<Batched, String> {
        self.call.many(keys, tx, &self.state)
    }
}

/// A call that has its state.
trait Bare: Send + Sync {
    fn one(&self, facts: Facts, tx: Option<Tx>) -> Result<Answer, String>;
    fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx) -> Result<Batched, String>;
}

impl<S: Send + Sync> Bare for WithState<S> {
    fn one(&self, facts: Facts, tx: Option<Tx>) -> Result<Answer, String> {
        self.call.one(facts, tx, &self.state)
    }

    fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx) -> Result<Batched, String> {
        self.call.many(keys, tx, &self.state)
    }
}

impl Bound {
    /// Whether its events share no transaction.
    pub(crate) fn runs_alone(&self) -> bool {
        self.alone.load(Relaxed)
    }

    /// They do not from now on, because of what it said for this event.
    pub(crate) fn shall_run_alone(&self, record: &Record) {
        if !self.alone.swap(true, Relaxed) {
            let event_type = record.event_type().unwrap_or_default();
            tracing::info!(
                event_type,
                "a statement of its handler holds until the transaction ends: its events run in one each from now on"
            );
        }
    }

    /// Asks whether an attempt may begin at this time of the consumer's clock.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn admit(&self, now: Duration) -> Result<Admission, Duration> {
        match self.budget.lock().admit(now) {
            Admit::Go(admission) => Ok(admission),
            Admit::WaitUntil(time) => Err(time.saturating_sub(now).max(PROBE)),
            Admit::WaitForProbe => Err(PROBE),
        }
    }

    /// What an admitted attempt came to; `None` where it says nothing of the others.
    pub(crate) fn ended(&self, admission: Admission, failed: Option<bool>, now: Duration) {
        let mut budget = self.budget.lock();
        let before = budget.flow();
        match failed {
            Some(failed) => budget.ended(admission, failed, now),
            None => budget.abandoned(admission, now),
        }
        match (before, budget.flow()) {
            (Flow::Flowing, Flow::Paused { probe_at }) => {
                let probe_in = probe_at.saturating_sub(now);
                tracing::error!(
                    ?probe_in,
                    "too many of its events fail: the handler is paused, and one event at a time is tried"
                );
            }
            (Flow::Probing, Flow::Flowing) => tracing::warn!("an event went well: the handler goes on"),
            _ => {}
        }
    }

    /// So many attempts have gone well.
    pub(crate) fn went_well(&self, admission: Admission, count: u32, now: Duration) {
        self.budget.lock().went_well(admission, count, now);
    }

    /// Begins to handle one event.
    ///
    /// # Errors
    /// As [`Call::one`].
    pub(crate) fn one(&self, facts: Facts, tx: Option<Tx>) -> Result<Answer, String> {
        self.call.one(facts, tx)
    }

    /// Begins to handle the events of some keys together.
    ///
    /// # Errors
    /// As [`Call::many`].
    pub(crate) fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx) -> Result<Batched, String> {
        self.call.many(keys, tx)
    }
}

/// A handler whose effects are in the database, written through the transaction it is given. They happen
/// once: the event's claim is the first statement of the same transaction.
///
/// An `async fn(Event<T>, Tx) -> Handled` or `async fn(Event<T>, Tx, State<S>) -> Handled`, or a closure that is
/// called the same way.
///
/// Under load several events share one transaction, each with a savepoint of its own; see
/// [`Consumer::group_commit`](crate::Consumer::group_commit).
pub fn transactional<S, Arguments, F>(handler: F) -> Handler<WithDatabase, S>
where
    F: InTransaction<S, Arguments>,
    Arguments: 'static,
    S: Send + Sync + 'static,
{
    Handler::new(arguments::Transactional::new(handler), Kind::Transactional)
}

/// A handler for up to `most` events of one type at a time, in one transaction. Events of one key are in their order.
/// What is there is taken; a batch does not wait to become full.
///
/// An `async fn(Vec<Event<T>>, Tx) -> HandledBatch`, with or without a `State<S>` behind, that answers
/// [`all_done`](crate::all_done) or an outcome for [`each`](crate::each). Unless all are done, nothing of the batch is
/// committed. What [`each`](crate::each) says is not done runs again as a batch of one, where its outcome is its own,
/// and the others without it. Where an error, a panic or a time-out leaves open whose fault it is, the events run again in
/// parts of an eighth of the batch, and those of a part that fails in parts of that, until it is known.
///
/// A payload that cannot be read is left out beforehand, with what follows it in its key: it is given up in the way
/// that the retry policy says, and the others are not held up.
pub fn batch<S, Arguments, F>(most: usize, handler: F) -> Handler<WithDatabase, S>
where
    F: InBatch<S, Arguments>,
    Arguments: 'static,
    S: Send + Sync + 'static,
{
    Handler::new(arguments::Batch::new(handler), Kind::Batch(most.max(1)))
}

/// A handler that calls the outside: a payment service, a mail server. No transaction is open while it runs.
///
/// The event is claimed and the claim committed, the handler runs, the claim is settled. A copy that comes meanwhile
/// waits; one that comes later is skipped. A process that dies in between leaves a claim that another takes over when
/// its lease, the handler's time-out and ten seconds, has ended: so the call may be made twice. It is the same call by
/// its [`idempotency_key`](Facts::idempotency_key), which the service outside has to know it by. A frozen process that
/// thaws may make its call after that of the key's next event.
///
/// An `async fn(Event<T>) -> Handled` or `async fn(Event<T>, State<S>) -> Handled`.
pub fn external<S, Arguments, F>(handler: F) -> Handler<WithDatabase, S>
where
    F: Alone<S, Arguments>,
    Arguments: 'static,
    S: Send + Sync + 'static,
{
    Handler::new(arguments::Lone::new(handler), Kind::External)
}

/// A handler that never runs twice for an event, not even where it is not known whether it ran: the claim is
/// committed before it starts and never given back. An attempt that fails is not made again; the event is a dead
/// letter then. After a crash in the middle its row says `claimed` for ever.
///
/// An `async fn(Event<T>) -> Handled` or `async fn(Event<T>, State<S>) -> Handled`.
pub fn at_most_once<S, Arguments, F>(handler: F) -> Handler<WithDatabase, S>
where
    F: Alone<S, Arguments>,
    Arguments: 'static,
    S: Send + Sync + 'static,
{
    Handler::new(arguments::Lone::new(handler), Kind::AtMostOnce)
}

/// A handler that sees to repetitions itself: it may be called again for an event that it handled, after every
/// crash and rebalance. No inbox, no transaction, and so no park: while it fails its key waits here, and nowhere else.
/// Nor does it wait behind an event of its key that another handler's failure has parked: where that order counts,
/// [`external`] keeps it.
///
/// An `async fn(Event<T>) -> Handled` or `async fn(Event<T>, State<S>) -> Handled`, or a closure that is called the
/// same way.
pub fn idempotent<D, S, Arguments, F>(handler: F) -> Handler<D, S>
where
    F: Alone<S, Arguments>,
    Arguments: 'static,
    S: Send + Sync + 'static,
{
    Handler::new(arguments::Lone::new(handler), Kind::Idempotent)
}

/// Handlers are code and cannot be shown.
impl<D, S> std::fmt::Debug for Handler<D, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Registration { kind, timeout, .. } = &self.registration;
        f.debug_struct("Handler").field("kind", kind).field("timeout", timeout).finish_non_exhaustive()
    }
}
