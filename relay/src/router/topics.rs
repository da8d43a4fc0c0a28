//! Topics as the router needs them: known by name, with a partition count that is pinned in the state
//! record before the first record is sent.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaSettings;
use crate::observe::Observed;
use crate::publisher::{Quiet, metadata_client};
use crate::session::Ending;
use crate::state::Recorder;

/// Limit of one metadata request, and the pause before a missing topic is looked for again.
const REQUEST: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(500);

/// Why a topic cannot be published to.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The topic was made anew with fewer partitions than its keys are spread over.
    #[error(
        "topic {topic} has {found} partitions, but its keys are spread over {pinned}: it was made anew; give it \
         {pinned} partitions or more, since with fewer every key would move"
    )]
    Shrunk {
        /// The topic.
        topic: String,
        /// The pinned partition count.
        pinned: NonZeroU32,
        /// What the cluster shows.
        found: NonZeroU32,
    },
    /// The client that looks topics up could not be made.
    #[error("looking up topics")]
    Client(#[source] Box<KafkaError>),
}

/// Partition counts: pinned by the state record, and looked up on a topic's first use in a session.
pub struct Topics {
    pinned: HashMap<String, NonZeroU32>,
    /// Topics that this session has seen to exist.
    ready: HashMap<String, NonZeroU32>,
    kafka: KafkaSettings,
    client: Option<BaseConsumer<Quiet>>,
    recorder: Arc<Recorder>,
    observed: Arc<Observed>,
    ending: Arc<Ending>,
}

impl Topics {
    /// Begins with the pins of the state record.
    pub fn new(
        pinned: impl IntoIterator<Item = (String, u32)>,
        kafka: KafkaSettings,
        recorder: Arc<Recorder>,
        observed: Arc<Observed>,
        ending: Arc<Ending>,
    ) -> Topics {
        let pinned = pinned.into_iter().filter_map(|(topic, count)| Some((topic, NonZeroU32::new(count)?)));
        Topics {
            pinned: pinned.collect(),
            ready: HashMap::new(),
            kafka,
            client: None,
            recorder,
            observed,
            ending,
        }
    }

    /// The pinned partition count of a topic. A topic that is not there is waited for, by name, and never
    /// made; `None` only when the session is over.
    ///
    /// # Errors
    /// The topic has fewer partitions than are pinned, or librdkafka refuses the configuration.
    pub fn partitions(&mut self, topic: &str) -> Result<Option<NonZeroU32>, TopicError> {
        if let Some(count) = self.ready.get(topic) {
            return Ok(Some(*count));
        }
        let Some(found) = self.wait_for(topic)? else { return Ok(None) };
        let count = match self.pinned.get(topic) {
            Some(&pinned) if found < pinned => {
                return Err(TopicError::Shrunk { topic: topic.to_owned(), pinned, found });
            }
            Some(&pinned) => {
                if found > pinned {
                    // Said, not followed: a key that moved could be overtaken by itself (R19).
                    tracing::warn!(topic, %pinned, %found, "the topic has grown; keys stay where they are");
                }
                pinned
            }
            None => {
                self.recorder.pin(topic, found.get(), &self.ending);
                if self.ending.is_over() {
                    return Ok(None);
                }
                tracing::info!(topic, partitions = found, "pinned the partition count of a topic");
                found
            }
        };
        self.ready.insert(topic.to_owned(), count);
        Ok(Some(count))
    }

    fn wait_for(&mut self, topic: &str) -> Result<Option<NonZeroU32>, TopicError> {
        let mut said = false;
        while !self.ending.is_over() {
            if self.client.is_none() {
                let client =
                    metadata_client(&self.kafka).map_err(|error| TopicError::Client(error.into()))?;
                self.client = Some(client);
            }
            let looked = self.client.as_ref().map(|client| look(client, topic));
            let why = match looked {
                Some(Ok(Some(count))) => {
                    self.observed.waiting_for(None);
                    return Ok(Some(count));
                }
                Some(Ok(None)) => {
                    format!("topic {topic} does not exist: create it with the partitions it is to keep")
                }
                Some(Err(error)) => format!("the partitions of topic {topic}: {error}"),
                None => continue,
            };
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(topic, "waiting: {why}");
            }
            self.observed.waiting_for(Some(why));
            self.ending.pause(AGAIN);
        }
        Ok(None)
    }
}

/// The partition count of a topic; `None` when there is no such topic.
fn look(client: &BaseConsumer<Quiet>, topic: &str) -> Result<Option<NonZeroU32>, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), REQUEST)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(u32::try_from(found.partitions().len()).ok().and_then(NonZeroU32::new)),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}
