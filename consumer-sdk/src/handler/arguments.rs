//! What functions may be handlers: by what they take.

use std::future::Future;
use std::marker::PhantomData;

use super::{Answer, BatchAnswer, Call, State};
use crate::event::{Event, Facts, Payload};
use crate::outcome::{Handled, HandledBatch, Outcome};
use crate::tx::Tx;

/// Functions that [`transactional`](super::transactional) takes: `(Event<T>, Tx)`, or with a `State<S>` behind.
pub trait InTransaction<S, Arguments>: Send + Sync + 'static {
    /// Reads the event and begins to handle it.
    ///
    /// # Errors
    /// The payload is not what the function takes.
    #[doc(hidden)]
    fn begin(&self, facts: Facts, tx: Tx, state: &State<S>) -> Result<Answer, String>;
}

impl<S, T, F, A> InTransaction<S, (T,)> for F
where
    T: Payload,
    F: Fn(Event<T>, Tx) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    fn begin(&self, facts: Facts, tx: Tx, _: &State<S>) -> Result<Answer, String> {
        Ok(Box::pin(self(Event::of(facts)?, tx)))
    }
}

impl<S, T, F, A> InTransaction<S, (T, State<S>)> for F
where
    T: Payload,
    F: Fn(Event<T>, Tx, State<S>) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    fn begin(&self, facts: Facts, tx: Tx, state: &State<S>) -> Result<Answer, String> {
        Ok(Box::pin(self(Event::of(facts)?, tx, state.clone())))
    }
}

/// Functions that [`batch`](super::batch) takes: `(Vec<Event<T>>, Tx)`, or with a `State<S>` behind.
pub trait InBatch<S, Arguments>: Send + Sync + 'static {
    /// Reads the events and begins to handle them.
    ///
    /// # Errors
    /// A payload is not what the function takes.
    #[doc(hidden)]
    fn begin(&self, facts: Vec<Facts>, tx: Tx, state: &State<S>) -> Result<BatchAnswer, String>;
}

fn events<T: Payload>(facts: Vec<Facts>) -> Result<Vec<Event<T>>, String> {
    facts.into_iter().map(Event::of).collect()
}

impl<S, T, F, A> InBatch<S, (T,)> for F
where
    T: Payload,
    F: Fn(Vec<Event<T>>, Tx) -> A + Send + Sync + 'static,
    A: Future<Output = HandledBatch> + Send + 'static,
{
    fn begin(&self, facts: Vec<Facts>, tx: Tx, _: &State<S>) -> Result<BatchAnswer, String> {
        Ok(Box::pin(self(events(facts)?, tx)))
    }
}

impl<S, T, F, A> InBatch<S, (T, State<S>)> for F
where
    T: Payload,
    F: Fn(Vec<Event<T>>, Tx, State<S>) -> A + Send + Sync + 'static,
    A: Future<Output = HandledBatch> + Send + 'static,
{
    fn begin(&self, facts: Vec<Facts>, tx: Tx, state: &State<S>) -> Result<BatchAnswer, String> {
        Ok(Box::pin(self(events(facts)?, tx, state.clone())))
    }
}

/// Functions that handlers without a transaction are made of: `(Event<T>)`, or with a `State<S>` behind.
pub trait Alone<S, Arguments>: Send + Sync + 'static {
    /// Reads the event and begins to handle it.
    ///
    /// # Errors
    /// The payload is not what the function takes.
    #[doc(hidden)]
    fn begin(&self, facts: Facts, state: &State<S>) -> Result<Answer, String>;
}

impl<S, T, F, A> Alone<S, (T,)> for F
where
    T: Payload,
    F: Fn(Event<T>) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    fn begin(&self, facts: Facts, _: &State<S>) -> Result<Answer, String> {
        Ok(Box::pin(self(Event::of(facts)?)))
    }
}

impl<S, T, F, A> Alone<S, (T, State<S>)> for F
where
    T: Payload,
    F: Fn(Event<T>, State<S>) -> A + Send + Sync + 'static,
    A: Future<Output = Handled> + Send + 'static,
{
    fn begin(&self, facts: Facts, state: &State<S>) -> Result<Answer, String> {
        Ok(Box::pin(self(Event::of(facts)?, state.clone())))
    }
}

/// A function with what it takes forgotten.
pub(super) struct Transactional<F, Arguments>(F, PhantomData<fn() -> Arguments>);

impl<F, Arguments> Transactional<F, Arguments> {
    pub(super) fn new(function: F) -> Transactional<F, Arguments> {
        Transactional(function, PhantomData)
    }
}

impl<S, Arguments, F: InTransaction<S, Arguments>> Call<S> for Transactional<F, Arguments> {
    fn one(&self, facts: Facts, tx: Option<Tx>, state: &State<S>) -> Result<Answer, String> {
        self.0.begin(facts, tx.ok_or(NO_TRANSACTION)?, state)
    }
}

/// A function for batches.
pub(super) struct Batch<F, Arguments>(F, PhantomData<fn() -> Arguments>);

impl<F, Arguments> Batch<F, Arguments> {
    pub(super) fn new(function: F) -> Batch<F, Arguments> {
        Batch(function, PhantomData)
    }
}

impl<S, Arguments, F: InBatch<S, Arguments>> Call<S> for Batch<F, Arguments> {
    fn one(&self, facts: Facts, tx: Option<Tx>, state: &State<S>) -> Result<Answer, String> {
        let answer = self.0.begin(vec![facts], tx.ok_or(NO_TRANSACTION)?, state)?;
        Ok(Box::pin(async move {
            match answer.await?.0 {
                None => Ok(Outcome::Done),
                Some(outcomes) => {
                    let given = outcomes.len();
                    let [outcome] =
                        <[Outcome; 1]>::try_from(outcomes).map_err(|_| WrongNumber { asked: 1, given })?;
                    Ok(outcome)
                }
            }
        }))
    }

    fn many(&self, facts: Vec<Facts>, tx: Tx, state: &State<S>) -> Result<BatchAnswer, String> {
        self.0.begin(facts, tx, state)
    }
}

/// A function without a transaction.
pub(super) struct Lone<F, Arguments>(F, PhantomData<fn() -> Arguments>);

impl<F, Arguments> Lone<F, Arguments> {
    pub(super) fn new(function: F) -> Lone<F, Arguments> {
        Lone(function, PhantomData)
    }
}

impl<S, Arguments, F: Alone<S, Arguments>> Call<S> for Lone<F, Arguments> {
    fn one(&self, facts: Facts, _: Option<Tx>, state: &State<S>) -> Result<Answer, String> {
        self.0.begin(facts, state)
    }
}

/// The handler's mistake, told as a failed attempt.
#[derive(Debug, thiserror::Error)]
#[error("a batch of {asked} events was answered with {given} outcomes")]
pub(crate) struct WrongNumber {
    pub(crate) asked: usize,
    pub(crate) given: usize,
}

const NO_TRANSACTION: &str = "the handler was called without a transaction";
