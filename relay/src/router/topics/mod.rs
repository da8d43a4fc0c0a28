//! Topics as the router needs them: known by name, with a partition count that is pinned in the state
//! record before the first record is sent.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cluster`] | what the cluster is asked and told |
//! | [`provision`] | how a topic is made |
//! | [`limits`] | what a topic takes: how large a record, and how old |
//! | [`table`] | what is known, shared with the watch |
//! | [`watch`] | the thread that looks whether topics have grown |
//! | [`error`] | why a topic cannot be published to |

pub mod cluster;
pub mod error;
pub mod limits;
pub mod provision;
pub mod table;
pub mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use error::TopicError;

use self::cluster::{Cluster, Look};
use self::limits::{Facts, Limits};
use self::provision::{NotMade, make};
use self::table::Table;
use super::Pins;
use crate::config::{KafkaSettings, TopicSettings};
use crate::observe::Observed;
use crate::publisher::{Gate, batch_bytes};
use crate::session::Ending;
use crate::state::Recorder;

/// The pause before a missing topic is looked for again, and before one that was refused is made again.
const AGAIN: Duration = Duration::from_millis(500);
const MAKE_AGAIN: Duration = Duration::from_secs(5);

/// How long a Kafka transaction that holds events is left open for something that has to come first.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Partition counts: pinned by the state record, and looked up on a topic's first use in a session.
pub struct Topics {
    cluster: Arc<Cluster>,
    table: Arc<Table>,
    /// Topics that this session publishes to.
    used: HashMap<String, Used>,
    settings: TopicSettings,
    /// Batches of the session's producer.
    batch_bytes: usize,
    gate: Option<Arc<Gate>>,
    recorder: Arc<Recorder>,
    observed: Arc<Observed>,
    ending: Arc<Ending>,
}

/// What each record of a topic is looked up for.
struct Used {
    count: NonZeroU32,
    limits: Arc<Limits>,
}

impl Topics {
    /// Begins with the pins of the state record.
    ///
    /// # Errors
    /// The record pins too many topics.
    pub fn new(
        pinned: impl IntoIterator<Item = (String, u32)>,
        cluster: Arc<Cluster>,
        kafka: &KafkaSettings,
        settings: &TopicSettings,
        recorder: Arc<Recorder>,
        observed: Arc<Observed>,
        ending: Arc<Ending>,
    ) -> Result<Topics, TopicError> {
        let pinned = pinned.into_iter().filter_map(|(topic, count)| Some((topic, NonZeroU32::new(count)?)));
        let pins = Pins::try_from(pinned.collect::<BTreeMap<_, _>>())?;
        Ok(Topics {
            cluster,
            table: Arc::new(Table::new(pins, observed.clone())),
            used: HashMap::new(),
            settings: settings.clone(),
            batch_bytes: batch_bytes(kafka, None),
            gate: None,
            recorder,
            observed,
            ending,
        })
    }

    /// Says how large batches of this session's producer are, where they are not what [`batch_bytes`] makes
    /// of the settings.
    #[must_use]
    pub fn with_batches_of(self, bytes: usize) -> Topics {
        Topics { batch_bytes: bytes, ..self }
    }

    /// Nothing is waited for while a Kafka transaction holds events, or not for long: nobody would see them meanwhile.
    #[must_use]
    pub fn behind(self, gate: Option<Arc<Gate>>) -> Topics {
        Topics { gate, ..self }
    }

    /// Starts the thread that looks at the cluster beside the router. It ends with the session.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn watch(&self) -> io::Result<JoinHandle<()>> {
        let every = self.settings.look_interval;
        watch::spawn(self.cluster.clone(), self.table.clone(), every, self.ending.clone())
    }

    /// The pinned partition count of a record's topic. A topic that is not there is waited for, by name, or
    /// made where the configuration says so; `None` only when the session is over.
    ///
    /// # Errors
    /// The topic can take no record, or not one of this time; see [`TopicError`].
    pub fn partitions(
        &mut self,
        topic: &str,
        record_unix_millis: i64,
    ) -> Result<Option<NonZeroU32>, TopicError> {
        if let Some(used) = self.used.get(topic) {
            if !used.limits.takes(record_unix_millis) {
                judge(topic, &used.limits, record_unix_millis)?;
            }
            return Ok(Some(used.count));
        }
        let Some(found) = self.wait_for(topic)? else { return Ok(None) };
        self.table.saw(topic, found);
        let limits = Arc::new(Limits::new(self.facts(topic), jiff::Timestamp::now().as_millisecond()));
        judge(topic, &limits, record_unix_millis)?;
        let count = match self.table.pinned(topic) {
            Some(pinned) if found < pinned => {
                return Err(TopicError::Shrunk { topic: topic.to_owned(), pinned, found });
            }
            Some(pinned) => pinned,
            None => {
                self.table.pin(topic, found)?;
                self.recorder.pin(topic, found.get(), &self.ending);
                if self.ending.is_over() {
                    return Ok(None);
                }
                tracing::info!(topic, partitions = found, "pinned the partition count of a topic");
                found
            }
        };
        self.table.uses(topic, limits.clone());
        self.used.insert(topic.to_owned(), Used { count, limits });
        Ok(Some(count))
    }

    /// Topics in use.
    pub fn number_used(&self) -> usize {
        self.used.len()
    }

    /// The largest batch that a topic in use takes, where the cluster says so. A record that is larger by
    /// itself, uncompressed, may be refused.
    pub fn max_message_bytes(&self, topic: &str) -> Option<usize> {
        self.used.get(topic)?.limits.max_message_bytes()
    }

    /// The smallest of these limits over all topics in use.
    pub fn smallest_limit(&self) -> Option<usize> {
        self.table.smallest_limit()
    }

    /// The smallest limit, where the producer's batches may be larger: it would be refused whole, together
    /// with records that are small enough (R17). The session has to begin anew with smaller batches.
    pub fn batch_limit(&self) -> Option<usize> {
        self.smallest_limit().filter(|limit| *limit < self.batch_bytes)
    }

    /// Spreads the keys of a topic over another number of partitions. What was told is checked against the
    /// cluster first; where it does not fit nothing changes and the reason is said.
    ///
    /// Nothing may be in flight, and the state record has to have reached the end of what was published:
    /// events that come again after a crash must not come on other partitions than the first time. Asking
    /// twice for the same count changes nothing, so the message that asks for it may be read again.
    ///
    /// # Errors
    /// Only where a Kafka transaction must not wait; what cannot be done is said.
    pub fn switch(&mut self, topic: &str, partitions: NonZeroU32) -> Result<(), TopicError> {
        let Some(pinned) = self.table.pinned(topic) else {
            self.refuse_switch(&format!("topic {topic} is not published to by this relay"));
            return Ok(());
        };
        if partitions == pinned {
            tracing::info!(topic, %partitions, "the keys of the topic are spread over as many already");
            return Ok(());
        }
        let Some(look) = self.look_patiently(topic)? else { return Ok(()) };
        if let Err(why) = judge_switch(pinned, partitions, look) {
            self.refuse_switch(&format!("topic {topic} {why}"));
            return Ok(());
        }
        self.recorder.pin(topic, partitions.get(), &self.ending);
        if self.ending.is_over() {
            return Ok(());
        }
        self.table.switch(topic, partitions);
        if let Some(used) = self.used.get_mut(topic) {
            used.count = partitions;
        }
        tracing::warn!(topic, from = %pinned, to = %partitions, "switched: the keys of the topic move");
        Ok(())
    }

    /// Says why keys are not spread over another number of partitions, though somebody asked for it.
    pub fn refuse_switch(&self, why: &str) {
        let sentence = format!("told to switch, but {why}; nothing was changed");
        tracing::warn!("{sentence}");
        self.observed.error(sentence);
    }

    /// Looks until the cluster answers; `None` when the session is over.
    fn look_patiently(&self, topic: &str) -> Result<Option<Look>, TopicError> {
        let since = Instant::now();
        let mut waiting = Waiting::default();
        while !self.ending.is_over() {
            match self.cluster.look(topic) {
                Ok(look) => {
                    self.observed.waiting_for(None);
                    return Ok(Some(look));
                }
                Err(error) => {
                    let why = format!("the partitions of topic {topic}: {error}");
                    self.holds_back(since, &why)?;
                    waiting.say(&self.observed, why);
                    self.ending.pause(AGAIN);
                }
            }
        }
        Ok(None)
    }

    /// Whether what is waited for since then holds back what a Kafka transaction has of events.
    fn holds_back(&self, since: Instant, why: &str) -> Result<(), TopicError> {
        match &self.gate {
            Some(gate) if gate.holds_any() && since.elapsed() > PATIENCE => {
                Err(TopicError::HoldsBack(why.to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Waits until a topic can be published to; makes it where the configuration says so.
    fn wait_for(&self, topic: &str) -> Result<Option<NonZeroU32>, TopicError> {
        let since = Instant::now();
        let mut waiting = Waiting::default();
        // Partitions that a topic just made, by us or by somebody, has to show, all with leaders, before they
        // are counted.
        let mut made: Option<u32> = None;
        while !self.ending.is_over() {
            let mut pause = AGAIN;
            let why = match self.cluster.look(topic) {
                Ok(Look::There(shape))
                    if made.is_none_or(|least| shape.led && shape.partitions.get() >= least) =>
                {
                    self.observed.waiting_for(None);
                    return Ok(Some(shape.partitions));
                }
                Ok(Look::There(_)) => format!("topic {topic} was made; its partitions have no leaders yet"),
                Ok(Look::Missing) if self.settings.create => {
                    match make(&self.cluster, &self.settings, topic) {
                        Ok((_, least)) => {
                            made = Some(made.unwrap_or(0).max(least));
                            format!("topic {topic} was made; it is not to be seen yet")
                        }
                        Err(NotMade::Illegal) => return Err(TopicError::Illegal { topic: topic.to_owned() }),
                        Err(NotMade::Refused(why)) => {
                            pause = MAKE_AGAIN;
                            why
                        }
                    }
                }
                Ok(Look::Missing) => {
                    made = made.or(Some(1));
                    format!(
                        "topic {topic} does not exist: create it with the partitions it is to keep (`outbox-relay \
                     topics create {topic}`), or set topics.create"
                    )
                }
                Ok(Look::Illegal) => return Err(TopicError::Illegal { topic: topic.to_owned() }),
                Ok(Look::Unauthorized) => format!(
                    "topic {topic} may not be seen: grant the relay's principal the rights Describe and Write on it"
                ),
                Err(error) => format!("the partitions of topic {topic}: {error}"),
            };
            self.holds_back(since, &why)?;
            waiting.say(&self.observed, why);
            self.ending.pause(pause);
        }
        Ok(None)
    }

    /// How a topic is set up. What may not be known is not needed to publish.
    fn facts(&self, topic: &str) -> Facts {
        match self.cluster.describe(&[topic.to_owned()]) {
            Ok(described) => described.into_iter().next().map(|(_, facts)| facts).unwrap_or_default(),
            Err(error) => {
                tracing::debug!(topic, %error, "going on without knowing how the topic is set up");
                Facts::default()
            }
        }
    }
}

fn judge(topic: &str, limits: &Limits, time: i64) -> Result<(), TopicError> {
    let now = jiff::Timestamp::now().as_millisecond();
    limits.judge(time, now).map_err(|found| TopicError::out_of_time(topic, found))
}

/// Whether keys may be spread over `wanted` partitions from now on.
fn judge_switch(pinned: NonZeroU32, wanted: NonZeroU32, look: Look) -> Result<(), String> {
    if wanted < pinned {
        return Err(format!("is spread over {pinned} partitions and never over fewer, such as {wanted}"));
    }
    match look {
        Look::There(shape) if shape.partitions >= wanted => Ok(()),
        Look::There(shape) => Err(format!("has {} partitions, not {wanted}", shape.partitions)),
        Look::Missing => Err("does not exist".into()),
        Look::Illegal | Look::Unauthorized => Err("may not be seen by the relay".into()),
    }
}

/// What is waited for: in `/status` all the time, in the log once for each reason.
#[derive(Default)]
struct Waiting(Option<String>);

impl Waiting {
    fn say(&mut self, observed: &Observed, why: String) {
        observed.waiting_for(Some(why.clone()));
        if self.0.as_ref() != Some(&why) {
            tracing::warn!("waiting: {why}");
            self.0 = Some(why);
        }
    }
}
