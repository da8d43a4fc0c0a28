//! The state record as one more record of the Kafka transaction that holds the events: both are committed, or neither.
//!
//! The producer of events takes the `transactional.id` over from the small producer that has fenced and read. Whoever
//! else had it is fenced by that, and what they left open is aborted. Nothing is ever guessed of a commit: where its
//! answer does not come it is asked for again, and where the producer dies of it the session ends; the next one fences,
//! and the record that it reads then says which it was.

use std::sync::Arc;
use std::time::Duration;

use super::StateRecord;
use super::store::{SLICE, Step, Store, StoreError, over, step, the_right, until_done};
use crate::publisher::{Gate, Publisher, Publishers, Window};
use crate::session::{End, Ending, Refused, of_kafka};

/// How long the broker's answer to the record is waited for before it is looked for again.
const GLANCE: Duration = Duration::from_micros(200);

/// Slices in which a transaction that was given up is aborted. What does not answer by then the next owner of the
/// transactional id aborts.
const PARTING: usize = 4;

/// The producer of events as the writer of the state record.
pub struct Together {
    store: Store,
    publishers: Arc<Publishers>,
    /// Between two PostgreSQL transactions.
    pub(super) gate: Arc<Gate>,
    /// What is in flight.
    pub(super) window: Arc<Window>,
    /// A commit was begun whose answer is not known.
    unanswered: bool,
    /// Records in the Kafka transaction at the last look.
    looked: u64,
}

impl Together {
    /// Takes the transactional id over from `store`'s producer, and looks whether the record is still the one that was
    /// read by it.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another relay has written since; [`StoreError::Over`] when the session ends first.
    pub fn take_over(
        mut store: Store,
        publishers: Arc<Publishers>,
        gate: Arc<Gate>,
        window: Arc<Window>,
        ending: &Ending,
    ) -> Result<Together, StoreError> {
        loop {
            let publisher = publishers.current();
            // As the small producer does: without a broker to ask it would ask half a second later.
            for _ in 0..2 {
                over(ending)?;
                publisher.learn(store.topic());
            }
            match until_done(ending, || publisher.take_over(SLICE))? {
                None => break,
                Some(Step::Refused(error)) => return Err(error.into()),
                Some(Step::Forbidden(error)) => {
                    store.waits_for_the_right(&error);
                    ending.pause(SLICE);
                }
                Some(Step::Again | Step::Abort | Step::NewProducer) => ending.pause(SLICE),
            }
            publishers.switch(publisher.flow())?;
        }
        store.is_unchanged(ending)?;
        publishers.current().begin()?;
        Ok(Together { store, publishers, gate, window, unanswered: false, looked: 0 })
    }

    /// Whether the Kafka transaction holds another number of records than at the last look.
    pub(super) fn grows(&mut self, records: u64) -> bool {
        std::mem::replace(&mut self.looked, records) != records
    }

    /// Whether anything that was handed over was not taken: then the transaction ends with the session.
    pub(super) fn has_failed(&self) -> bool {
        let publisher = self.publishers.current();
        publisher.has_failed() || publisher.broken().is_some()
    }

    /// Commits what was handed over, all of it acknowledged, and this record. `None` when the session is over, whose end says
    /// why.
    ///
    /// # Errors
    /// The end of the session.
    pub(super) fn commit(&mut self, record: &StateRecord, ending: &Ending) -> Result<Option<()>, End> {
        let bytes = record.encode().map_err(|source| End::halt(&self.store.broken(source)))?;
        let publisher = self.publishers.current();
        let (topic, partition, key) = self.store.place();
        publisher.send_state(topic, partition, key, &bytes).map_err(|error| self.refused(&error))?;
        while !publisher.is_quiet() {
            if ending.is_over() {
                return Ok(None);
            }
            if let Some(error) = publisher.state_refusal() {
                return Err(self.refused(&error));
            }
            ending.pause(GLANCE);
        }
        if let Some(error) = publisher.state_refusal() {
            return Err(self.refused(&error));
        }
        self.unanswered = true;
        match until_done(ending, || publisher.commit(SLICE)) {
            Err(_over) => return Ok(None),
            Ok(Some(failed)) => return Err(self.lost(failed)),
            Ok(None) => self.unanswered = false,
        }
        self.begin(&publisher)?;
        self.store.wrote(record);
        Ok(Some(()))
    }

    fn begin(&self, publisher: &Publisher) -> Result<(), End> {
        publisher.begin().map_err(|error| self.lost(step(&error)))
    }

    fn refused(&self, error: &rdkafka::error::KafkaError) -> End {
        match error.rdkafka_error_code().map_or(Refused::TheProducer, of_kafka) {
            Refused::TheRecord | Refused::ItsTime => {
                End::Halt(format!("Kafka refused the state record: {error}"))
            }
            Refused::TheRight => End::Reconnect(self.store.needs(error)),
            Refused::TheProducer => {
                End::Reconnect(format!("the state record was not taken by its Kafka transaction: {error}"))
            }
        }
    }

    fn lost(&self, failed: Step) -> End {
        match failed {
            Step::Forbidden(error) => End::Reconnect(self.store.needs(&error)),
            Step::Refused(error) => End::Halt(format!("Kafka refused the state record: {error}")),
            Step::Again | Step::Abort | Step::NewProducer => End::Reconnect(
                "a Kafka transaction could not be committed: its events come again, and nobody has seen them"
                    .into(),
            ),
        }
    }

    /// Lets go of what is open, so that readers need not wait for the next owner of the lane. A transaction whose commit was
    /// begun is left to the coordinator. Whether there was one to abort.
    pub(super) fn leave(&self) -> bool {
        let aborts = self.gate.holds_any() && !self.unanswered;
        if aborts {
            let publisher = self.publishers.current();
            for _ in 0..PARTING {
                match publisher.abort(SLICE) {
                    Ok(()) => break,
                    Err(error) => match step(&error) {
                        Step::Again => {}
                        Step::Abort | Step::NewProducer | Step::Forbidden(_) | Step::Refused(_) => break,
                    },
                }
            }
        }
        aborts
    }

    /// Lets go of those who read the record.
    pub(super) fn read_no_more(&mut self) {
        self.store.read_no_more();
    }
}

/// Said where it is waited for, and where a session ends of it.
impl Store {
    fn needs(&self, error: &rdkafka::error::KafkaError) -> String {
        the_right(self.topic(), self.transactional_id(), error)
    }
}
