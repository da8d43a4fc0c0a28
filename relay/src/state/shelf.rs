//! Where one lane's state record stands on Kafka, and how it is read: by its owner after the fence, and by
//! whoever only looks.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::store::{SLICE, over};
use super::{StateRecord, StoreError};
use crate::config::{KafkaSettings, Settings};
use crate::publisher::{Contact, base_config};
use crate::session::Ending;

/// The place of one lane's record.
pub(super) struct Shelf<'s> {
    pub(super) kafka: &'s KafkaSettings,
    pub(super) topic: &'s str,
    pub(super) partition: i32,
    pub(super) key: &'s str,
    pub(super) contact: &'s Contact,
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
    let contact = &Contact::default();
    let shelf = Shelf { kafka: &settings.kafka, topic: &settings.state.topic, partition, key: &key, contact };
    shelf.newest(ending)
}

impl Shelf<'_> {
    /// The newest record, up to the end that `read_uncommitted` shows: what a transaction that is still open
    /// hides is waited for.
    pub(super) fn newest(&self, ending: &Ending) -> Result<Option<StateRecord>, StoreError> {
        let uncommitted = self.consumer("read_uncommitted")?;
        let end = self.retry(ending, || Ok(self.watermarks(&uncommitted)?.1))?;
        let committed = self.consumer("read_committed")?;
        // With read_committed the upper watermark is the last stable offset.
        self.retry(ending, || match self.watermarks(&committed)?.1 >= end {
            true => Ok(()),
            false => Err(KafkaError::NoMessageReceived),
        })?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(self.topic, self.partition, Offset::Beginning)?;
        committed.assign(&from)?;
        let mut newest = None;
        loop {
            over(ending)?;
            match committed.poll(SLICE) {
                None => {}
                Some(Ok(message)) if message.key() == Some(self.key.as_bytes()) => {
                    newest = message.payload().map(<[u8]>::to_vec);
                }
                // Another lane's, or another relay's.
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => tracing::warn!(%error, "reading the state record; trying again"),
            }
        }
        newest.map(|bytes| StateRecord::decode(&bytes)).transpose().map_err(|source| StoreError::Record {
            topic: self.topic.to_owned(),
            key: self.key.to_owned(),
            source,
        })
    }

    fn consumer(&self, isolation: &str) -> KafkaResult<BaseConsumer<Contact>> {
        base_config(self.kafka)
            .set("group.id", format!("outbox-relay-state-{}", self.key.replace('/', "-")))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", isolation)
            .create_with_context(self.contact.clone())
    }

    fn watermarks(&self, consumer: &BaseConsumer<Contact>) -> KafkaResult<(i64, i64)> {
        consumer.fetch_watermarks(self.topic, self.partition, SLICE * 4)
    }

    /// Asks again until there is an answer; the topic was seen before, so an error is broker trouble.
    fn retry<T>(&self, ending: &Ending, ask: impl Fn() -> KafkaResult<T>) -> Result<T, StoreError> {
        let mut said = false;
        loop {
            over(ending)?;
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(%error, topic = self.topic, "waiting for the end of the state topic");
                    }
                    ending.pause(SLICE / 5);
                }
            }
        }
    }
}
