//! What functions may be handlers: by what they take.

use std::future::Future;
use std::marker::PhantomData;

use super::{Answer, BatchAnswer, Batched, Call, Read, State};
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
    /// What it reads payloads as.
    #[doc(hidden)]
    type Read: Payload;

    /// Begins to handle the events.
    #[doc(hidden)]
    fn begin(&self, events: Vec<Event<Self::Read>>, tx: Tx, state: &State<S>) -> BatchAnswer;
}

impl<S, T, F, A> InBatch<S, (T,)> for F
where
    T: Payload,
    F: Fn(Vec<Event<T>>, Tx) -> A + Send + Sync + 'static,
    A: Future<Output = HandledBatch> + Send + 'static,
{
    type Read = T;

    fn begin(&self, events: Vec<Event<T>>, tx: Tx, _: &State<S>) -> BatchAnswer {
        Box::pin(self(events, tx))
    }
}

impl<S, T, F, A> InBatch<S, (T, State<S>)> for F
where
    T: Payload,
    F: Fn(Vec<Event<T>>, Tx, State<S>) -> A + Send + Sync + 'static,
    A: Future<Output = HandledBatch> + Send + 'static,
{
    type Read = T;

    fn begin(&self, events: Vec<Event<T>>, tx: Tx, state: &State<S>) -> BatchAnswer {
        Box::pin(self(events, tx, state.clone()))
    }
}

/// Reads the events of each key up to the first that cannot be read: nothing of its key overtakes it.
fn read<T: Payload>(keys: Vec<Vec<Facts>>) -> (Vec<Event<T>>, Vec<Read>) {
    let mut events = Vec::with_capacity(keys.iter().map(Vec::len).sum());
    let of_key = |facts: Vec<Facts>| {
        let before = events.len();
        let mut wrong = None;
        for facts in facts {
            match Event::of(facts) {
                Ok(event) => events.push(event),
                Err(said) => {
                    wrong = Some(said);
                    break;
                }
            }
        }
        Read { count: events.len() - before, wrong }
    };
    let keys = keys.into_iter().map(of_key).collect();
    (events, keys)
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
        let answer = self.0.begin(vec![Event::of(facts)?], tx.ok_or(NO_TRANSACTION)?, state);
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

    fn many(&self, keys: Vec<Vec<Facts>>, tx: Tx, state: &State<S>) -> Result<Batched, String> {
        let (events, keys) = read(keys);
        let answer = (!events.is_empty()).then(|| self.0.begin(events, tx, state));
        Ok(Batched { keys, answer })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::packed::Packed;
    use crate::record::{Body, Record, Tries};

    fn facts(value: &str) -> Facts {
        let body = Body {
            topic: Arc::from("t"),
            scope: Arc::from("scope"),
            partition: 0,
            offset: 0,
            timestamp: 0,
            id: None,
            packed: Packed::new(None, Some(value.as_bytes()), &[]),
        };
        Facts::new(&Record::new(body, Tries::default()), Uuid::nil())
    }

    #[test]
    fn of_a_key_nothing_is_read_behind_what_cannot_be_read() {
        let keys = [&["1", "2"][..], &["3", "x", "4"], &["x"], &["5"], &[]];
        let keys = keys.iter().map(|values| values.iter().copied().map(facts).collect()).collect();
        let (events, keys) = read::<u32>(keys);
        assert_eq!(events.iter().map(|event| **event).collect::<Vec<_>>(), [1, 2, 3, 5]);
        let keys: Vec<(usize, bool)> = keys.iter().map(|key| (key.count, key.wrong.is_some())).collect();
        assert_eq!(keys, [(2, false), (1, true), (0, true), (1, false), (0, false)]);
    }
}
