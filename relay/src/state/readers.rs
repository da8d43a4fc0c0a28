//! Where one lane's state record stands on Kafka, and how it is read: by its owner after the fence, and by
//! whoever only looks.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::store::{SLICE, over};
use super::{StateRecord, StoreError};
use crate::config::{KafkaSettings, Settings};
use crate::publisher::{Contact, base_config};
use crate::session::Ending;

/// How long it may take before anybody is told that another's transaction is waited for.
const USUAL: Duration = Duration::from_secs(1);

/// Those who read the record: one sees the end of what anybody wrote, the other what is committed.
pub(super) struct Readers {
    uncommitted: BaseConsumer<Contact>,
    committed: BaseConsumer<Contact>,
    contact: Contact,
}

/// What a lane remembers, looked at without fencing its owner: the newest record whose transaction was
/// committed. Its topic has to exist. Another may write the next one at any time, so nothing may be decided by
/// it that has to hold; `check` and `plan` only tell.
///
/// # Errors
/// [`StoreError::Record`] when it cannot be understood, [`StoreError::Over`] when the session ends first.
pub fn glance(settings: &Settings, lane: u32, ending: &Ending) -> Result<Option<StateRecord>, StoreError> {
    let key = format!("{}/{lane}", settings.name);
    let partition = i32::try_from(lane).unwrap_or(i32::MAX);
    let readers = Readers::connect(&settings.kafka, &key, &Contact::default())?;
    readers.newest(&settings.state.topic, partition, &key, ending)
}

impl Readers {
    /// Connects in the background.
    pub(super) fn connect(kafka: &KafkaSettings, key: &str, contact: &Contact) -> KafkaResult<Readers> {
        let consumer = |isolation: &str| {
            base_config(kafka)
                .set("group.id", format!("outbox-relay-state-{}", key.replace('/', "-")))
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                // The broker holds a fetch at the end of the partition for so long before it says that this is
                // the end; a start would wait for it.
                .set("fetch.wait.max.ms", "10")
                .set("auto.offset.reset", "earliest")
                .set("isolation.level", isolation)
                .create_with_context(contact.clone())
        };
        Ok(Readers {
            uncommitted: consumer("read_uncommitted")?,
            committed: consumer("read_committed")?,
            contact: contact.clone(),
        })
    }

    /// The newest record under a key, up to the end that `read_uncommitted` shows: what a transaction that is
    /// still open hides is waited for.
    pub(super) fn newest(
        &self,
        topic: &str,
        partition: i32,
        key: &str,
        ending: &Ending,
    ) -> Result<Option<StateRecord>, StoreError> {
        let end = self.retry(topic, ending, || end_of(&self.uncommitted, topic, partition))?;
        self.wait_until_decided(topic, partition, end, ending)?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, partition, Offset::Beginning)?;
        self.committed.assign(&from)?;
        let mut newest = None;
        loop {
            over(ending)?;
            match self.committed.poll(SLICE) {
                None => {}
                Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                    newest = message.payload().map(<[u8]>::to_vec);
                }
                // Another lane's, or another relay's.
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => tracing::warn!(%error, "reading the state record; trying again"),
            }
        }
        self.committed.unassign()?;
        newest.map(|bytes| StateRecord::decode(&bytes)).transpose().map_err(|source| StoreError::Record {
            topic: topic.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    /// Waits until it is decided what is committed of everything before `end`. The former owner's transaction is ended
    /// by the fence, so this takes a moment. Where it does not end nothing is guessed: beginning and aborting a
    /// transaction of our own would close it, and throw a record away whose events may stand.
    fn wait_until_decided(
        &self,
        topic: &str,
        partition: i32,
        end: i64,
        ending: &Ending,
    ) -> Result<(), StoreError> {
        let (began, mut said) = (Instant::now(), None);
        loop {
            // With read_committed the upper watermark is the last stable offset.
            let decided = self.retry(topic, ending, || end_of(&self.committed, topic, partition))?;
            if decided >= end {
                if said.is_some() {
                    self.contact.waiting_for(None);
                }
                return Ok(());
            }
            if began.elapsed() >= USUAL {
                let what = undecided(topic, partition, decided, end);
                if said.replace(decided) != Some(decided) {
                    tracing::warn!("waiting for {what}");
                }
                // Said each time, since a question that failed in between has said something else.
                self.contact.waiting_for(Some(what));
            }
            ending.pause(SLICE / 5);
        }
    }

    /// Asks again until there is an answer; the topic was seen before, so an error is broker trouble, or a right
    /// that is missing.
    fn retry<T>(
        &self,
        topic: &str,
        ending: &Ending,
        ask: impl Fn() -> KafkaResult<T>,
    ) -> Result<T, StoreError> {
        let mut said = None;
        loop {
            over(ending)?;
            match ask() {
                Ok(answer) => {
                    if said.is_some() {
                        self.contact.waiting_for(None);
                    }
                    return Ok(answer);
                }
                Err(error) => {
                    let what = error.to_string();
                    if said.as_ref() != Some(&what) {
                        tracing::warn!(%error, topic, "waiting for the end of the state topic");
                        self.contact
                            .waiting_for(Some(format!("the end of the state topic {topic} ({what})")));
                        said = Some(what);
                    }
                    ending.pause(SLICE / 5);
                }
            }
        }
    }
}

/// Where a partition ends for a reader.
fn end_of(reader: &BaseConsumer<Contact>, topic: &str, partition: i32) -> KafkaResult<i64> {
    reader.fetch_watermarks(topic, partition, SLICE * 4).map(|(_, end)| end)
}

/// What is waited for where a transaction is open on the state topic.
fn undecided(topic: &str, partition: i32, decided: i64, end: i64) -> String {
    format!(
        "a Kafka transaction that is open on partition {partition} of the state topic {topic}: it is written up to offset \
         {end} and decided up to {decided}. `kafka-transactions.sh --bootstrap-server <broker> describe-producers --topic \
         {topic} --partition {partition}` shows its producer; what to do where it stays open is in the runbook \
         standing-still.md"
    )
}
