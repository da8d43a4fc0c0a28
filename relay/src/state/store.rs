//! The state record's place on Kafka: fenced, read and written by a small transactional producer of its
//! own, so that a zombie's late record is refused by the broker instead of believed by the next owner.
//!
//! Every call here blocks in short slices and looks between them whether the session is over; none runs
//! on a thread that has to see the database go.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use super::readers::Readers;
use super::{StateError, StateRecord};
use crate::config::{KafkaSettings, Settings};
use crate::publisher::{Contact, base_config};
use crate::session::{Ending, Refused, of_kafka};

/// One slice of a blocking call; between two the session is asked whether it is over.
pub(super) const SLICE: Duration = Duration::from_millis(500);
/// How often the broker's answer to a record is looked for.
const GLANCE: Duration = Duration::from_micros(500);

/// Why the state record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The session ended while Kafka was waited for.
    #[error("the session ended while the state record was waited for")]
    Over,
    /// Another relay of this name has written since: this one is no longer the owner.
    #[error("another relay of this name has written the state record (writer {writer}, epoch {epoch})")]
    Fenced {
        /// The other's writer id.
        writer: uuid::Uuid,
        /// Its epoch.
        epoch: u64,
    },
    /// The record on Kafka cannot be read, or ours cannot be written.
    #[error("state record `{key}` on topic {topic}")]
    Record {
        /// Where it stands.
        topic: String,
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: StateError,
    },
    /// librdkafka or the broker refused for good.
    #[error("Kafka refused the state record")]
    Kafka(#[from] KafkaError),
}

/// What to do after a failed step of a transaction.
pub(super) enum Step {
    /// It did not finish in its slice: call again.
    Again,
    /// The transaction has to be aborted and begun again.
    Abort,
    /// The producer is dead, which is no proof of another owner.
    NewProducer,
    /// A right is missing, which may be given back: waited for, visibly.
    Forbidden(KafkaError),
    /// The cluster will never take the record as things are: it is above a limit.
    Refused(KafkaError),
}

/// The fenced place of one lane's state record.
pub struct Store {
    kafka: KafkaSettings,
    topic: String,
    partition: i32,
    key: String,
    transactional_id: String,
    contact: Contact,
    producer: BaseProducer<Contact>,
    /// Connected while the producer fenced; needed until the session's first write.
    readers: Option<Readers>,
    /// Writer and sequence of the newest record this store has read or written.
    seen: Option<(uuid::Uuid, u64)>,
    /// A right was missing, and that it is waited for can be seen.
    forbidden: bool,
}

impl Store {
    /// The transactional id of a lane.
    pub fn id_of(settings: &Settings, lane: u32) -> String {
        format!("outbox-relay.{}.{lane}", settings.name)
    }

    /// Fences every earlier writer of this lane: from here on only this producer writes.
    ///
    /// # Errors
    /// [`StoreError::Over`] when the session ends first; broker trouble is waited for.
    pub fn fence(
        settings: &Settings,
        lane: u32,
        contact: Contact,
        ending: &Ending,
    ) -> Result<Store, StoreError> {
        let transactional_id = Store::id_of(settings, lane);
        let key = format!("{}/{lane}", settings.name);
        // They connect meanwhile, which takes as long as the fence; nothing is asked of them before it.
        let readers = Some(Readers::connect(&settings.kafka, &key, &contact)?);
        let producer = fenced(&settings.kafka, &settings.state.topic, &transactional_id, &contact, ending)?;
        Ok(Store {
            kafka: settings.kafka.clone(),
            topic: settings.state.topic.clone(),
            partition: i32::try_from(lane).unwrap_or(i32::MAX),
            key,
            transactional_id,
            contact,
            producer,
            readers,
            seen: None,
            forbidden: false,
        })
    }

    /// Reads this lane's newest record, up to the end that `read_uncommitted` shows: what a transaction
    /// that is still open hides is waited for.
    ///
    /// # Errors
    /// [`StoreError::Record`] when it cannot be understood, [`StoreError::Over`] when the session ends.
    pub fn read(&mut self, ending: &Ending) -> Result<Option<StateRecord>, StoreError> {
        let record = self.newest(ending)?;
        self.seen = record.as_ref().map(|record| (record.writer, record.sequence));
        Ok(record)
    }

    fn newest(&mut self, ending: &Ending) -> Result<Option<StateRecord>, StoreError> {
        let readers = match self.readers.take() {
            Some(readers) => readers,
            None => Readers::connect(&self.kafka, &self.key, &self.contact)?,
        };
        let newest = readers.newest(&self.topic, self.partition, &self.key, ending);
        // Letting go of them takes a while, which nobody shall wait for now.
        self.readers = Some(readers);
        newest
    }

    /// Writes the record and returns once its transaction is committed. Broker trouble is waited for. A
    /// dead producer is replaced, and the record on Kafka is read: only another's record means fenced.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Over`], or [`StoreError::Record`] for a record above its bound.
    pub fn write(&mut self, record: &StateRecord, ending: &Ending) -> Result<(), StoreError> {
        let bytes = record.encode().map_err(|source| self.broken(source))?;
        loop {
            over(ending)?;
            match self.write_once(&bytes, ending)? {
                None => {
                    self.seen = Some((record.writer, record.sequence));
                    if std::mem::take(&mut self.forbidden) {
                        self.contact.waiting_for(None);
                    }
                    return Ok(());
                }
                Some(Step::Again) => ending.pause(SLICE),
                Some(Step::Forbidden(error)) => {
                    self.forbidden = true;
                    let what = the_right(&self.topic, &self.transactional_id, &error);
                    self.contact.waiting_for(Some(what));
                    ending.pause(SLICE * 2);
                    self.replace(record, ending)?;
                }
                Some(Step::Abort) => match until_done(ending, || {
                    heard(&self.producer, self.producer.abort_transaction(SLICE))
                })? {
                    None => ending.pause(SLICE),
                    Some(Step::Refused(error)) => return Err(error.into()),
                    Some(Step::Again | Step::Abort | Step::NewProducer | Step::Forbidden(_)) => {
                        self.replace(record, ending)?;
                    }
                },
                Some(Step::NewProducer) => self.replace(record, ending)?,
                Some(Step::Refused(error)) => return Err(error.into()),
            }
        }
    }

    /// One transaction with the one record; `None` when it is committed.
    fn write_once(&self, bytes: &[u8], ending: &Ending) -> Result<Option<Step>, StoreError> {
        if let Err(error) = self.producer.begin_transaction() {
            return Ok(Some(step(&error)));
        }
        let record = BaseRecord::to(&self.topic).partition(self.partition).key(&self.key).payload(bytes);
        if let Err((error, _)) = self.producer.send(record) {
            if error.rdkafka_error_code().is_some_and(|code| of_kafka(code) == Refused::TheRecord) {
                return Ok(Some(Step::Refused(error)));
            }
            tracing::warn!(%error, "the state record was not taken; trying again");
            return Ok(Some(Step::Abort));
        }
        self.settle(ending);
        until_done(ending, || heard(&self.producer, self.producer.commit_transaction(SLICE)))
    }

    /// Waits until the broker has answered for the record. The client's own flush, which a commit begins with,
    /// looks every 100 ms only, and whoever waits for the record waits with it: a start, a new topic, a drain.
    fn settle(&self, ending: &Ending) {
        let deadline = Instant::now() + SLICE;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline && !ending.is_over() {
            // A poll that waits for less than two milliseconds spends them at the clock.
            ending.pause(GLANCE);
            // Each poll serves one of all that came: answers, errors, lines of the log.
            let mut before = i32::MAX;
            while (1..before).contains(&self.producer.in_flight_count()) {
                before = self.producer.in_flight_count();
                self.producer.poll(Duration::ZERO);
            }
        }
    }

    /// A new producer fences what the dead one may still have on its way; then the record tells whether
    /// anybody else has written meanwhile.
    fn replace(&mut self, ours: &StateRecord, ending: &Ending) -> Result<(), StoreError> {
        tracing::warn!("the producer of the state record died; making a new one and reading the record");
        self.producer = fenced(&self.kafka, &self.topic, &self.transactional_id, &self.contact, ending)?;
        match self.newest(ending)? {
            Some(found) if is_anothers(&found, ours, self.seen) => {
                Err(StoreError::Fenced { writer: found.writer, epoch: found.epoch })
            }
            _ => Ok(()),
        }
    }

    /// Lets go of those who read the record; after the first write of a session nobody needs them. Closing them
    /// takes a fifth of a second, for which the first topic of a session would wait, and every record behind it.
    pub(super) fn read_no_more(&mut self) {
        let Some(readers) = self.readers.take() else { return };
        // It ends by itself; without a thread they are closed here.
        let _closing = thread::Builder::new().name("close".into()).spawn(move || drop(readers));
    }

    /// The record's topic.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Topic, partition and key of the record.
    pub(super) fn place(&self) -> (&str, i32, &str) {
        (&self.topic, self.partition, &self.key)
    }

    /// The id by which others are fenced.
    pub(super) fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Shows that a right is missing and waited for.
    pub(super) fn waits_for_the_right(&self, error: &KafkaError) {
        self.contact.waiting_for(Some(the_right(&self.topic, &self.transactional_id, error)));
    }

    /// Another producer of the same session has fenced: looks whether the record is still the one that was read.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it is another's; as [`Store::read`].
    pub(super) fn is_unchanged(&mut self, ending: &Ending) -> Result<(), StoreError> {
        match self.newest(ending)? {
            Some(found) if Some((found.writer, found.sequence)) != self.seen => {
                Err(StoreError::Fenced { writer: found.writer, epoch: found.epoch })
            }
            _ => Ok(()),
        }
    }

    /// The record was written by the producer of events.
    pub(super) fn wrote(&mut self, record: &StateRecord) {
        self.seen = Some((record.writer, record.sequence));
    }

    pub(super) fn broken(&self, source: StateError) -> StoreError {
        StoreError::Record { topic: self.topic.clone(), key: self.key.clone(), source }
    }
}

/// Whether the record that was found shows that another relay has written since (R45). `seen`: writer and sequence of
/// the newest that this one has read or written.
pub(crate) fn is_anothers(found: &StateRecord, ours: &StateRecord, seen: Option<(uuid::Uuid, u64)>) -> bool {
    found.writer != ours.writer && Some((found.writer, found.sequence)) != seen
}

/// A transactional producer that has fenced its predecessors.
fn fenced(
    kafka: &KafkaSettings,
    topic: &str,
    id: &str,
    contact: &Contact,
    ending: &Ending,
) -> Result<BaseProducer<Contact>, StoreError> {
    let mut shown = false;
    loop {
        let producer: BaseProducer<Contact> = base_config(kafka)
            .set("transactional.id", id)
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("transaction.timeout.ms", "60000")
            // Within a transaction a record may not wait longer than the transaction.
            .set("message.timeout.ms", "50000")
            .create_with_context(contact.clone())?;
        // Without a broker to ask, the client asks for the coordinator only half a second later. The first
        // answer comes from a bootstrap connection, which is closed with it; the second from the broker itself. That it
        // does not answer is no news here: the next call waits for it.
        for _ in 0..2 {
            over(ending)?;
            let _connected = producer.client().fetch_metadata(Some(topic), SLICE);
        }
        match until_done(ending, || heard(&producer, producer.init_transactions(SLICE)))? {
            None => {
                if shown {
                    contact.waiting_for(None);
                }
                return Ok(producer);
            }
            Some(Step::Refused(error)) => return Err(error.into()),
            Some(Step::Forbidden(error)) => {
                shown = true;
                contact.waiting_for(Some(the_right(topic, id, &error)));
                ending.pause(SLICE);
            }
            // Fenced by a newer one while asking, or broker trouble that librdkafka calls fatal: the
            // caller still holds lane and slot, so it asks again with a new producer.
            Some(Step::Again | Step::Abort | Step::NewProducer) => ending.pause(SLICE),
        }
    }
}

/// Repeats a blocking call in slices until it is done or needs another step.
pub(super) fn until_done(
    ending: &Ending,
    call: impl Fn() -> KafkaResult<()>,
) -> Result<Option<Step>, StoreError> {
    loop {
        over(ending)?;
        match call() {
            Ok(()) => return Ok(None),
            Err(error) => match step(&error) {
                Step::Again => ending.pause(Duration::from_millis(20)),
                other => {
                    tracing::warn!(%error, "a transaction of the state record failed");
                    return Ok(Some(other));
                }
            },
        }
    }
}

/// Lets a producer whose call has failed say why.
fn heard<T>(producer: &BaseProducer<Contact>, result: KafkaResult<T>) -> KafkaResult<T> {
    if result.is_err() {
        Contact::listen(producer);
    }
    result
}

/// What the cluster does not let the relay do, which somebody may allow at any moment.
pub(super) fn the_right(topic: &str, id: &str, error: &KafkaError) -> String {
    format!(
        "the right to write the state record: allow the relay's user to describe and write the transactional id {id}, \
         and to describe, read and write the topic {topic} ({error})"
    )
}

pub(super) fn step(error: &KafkaError) -> Step {
    match error {
        KafkaError::Transaction(inner) if of_kafka(inner.code()) == Refused::TheRight => {
            Step::Forbidden(error.clone())
        }
        KafkaError::Transaction(inner) if of_kafka(inner.code()) == Refused::TheRecord => {
            Step::Refused(error.clone())
        }
        KafkaError::Transaction(inner) if inner.txn_requires_abort() => Step::Abort,
        KafkaError::Transaction(inner) if inner.is_fatal() => Step::NewProducer,
        KafkaError::Transaction(inner) if inner.is_retriable() => Step::Again,
        // The flush before a commit ran out of its slice.
        KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut) => Step::Again,
        // Anything else leaves the producer in a state that only a new one surely leaves.
        _ => Step::NewProducer,
    }
}

pub(super) fn over(ending: &Ending) -> Result<(), StoreError> {
    if ending.is_over() { Err(StoreError::Over) } else { Ok(()) }
}
