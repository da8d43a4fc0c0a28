//! What the cluster is asked about topics, and told to make. Every call blocks for a few seconds at most,
//! on a thread that may.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use outbox_kafka_link::Unwaited;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;

use super::limits::Facts;
use super::provision::Provision;
use crate::config::KafkaSettings;
use crate::publisher::{Contact, base_config};

/// Limit of one request; the caller asks again.
const REQUEST: Duration = Duration::from_secs(2);
/// Most topics that one request describes.
const AT_ONCE: usize = 100;
/// Above so many topics the cluster is asked for all of them at once instead of for one after another.
const ONE_BY_ONE: usize = 20;

/// What the cluster's metadata say of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is there.
    There(Shape),
    /// There is no such topic.
    Missing,
    /// No topic can have this name.
    Illegal,
    /// The relay may not know.
    Unauthorized,
}

/// How a topic is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its partitions.
    pub partitions: NonZeroU32,
    /// Replicas of the partition that has fewest.
    pub replicas: usize,
    /// Whether every partition has a leader.
    pub led: bool,
}

/// The cluster's brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brokers {
    /// Those that answer.
    pub live: usize,
    /// Those, and all that hold a replica of anything: one that is being restarted belongs to the cluster.
    pub known: usize,
}

/// Whether a topic was made by this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// By this one.
    Now,
    /// It was there: another relay, or a person, was quicker.
    Before,
}

/// A client for questions about topics. It never makes a topic by asking for it.
pub struct Cluster {
    admin: Unwaited<AdminClient<Contact>>,
}

impl Cluster {
    /// Makes the client; connects in the background.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn new(kafka: &KafkaSettings) -> Result<Cluster, KafkaError> {
        let admin = AdminClient::from_config_and_context(&base_config(kafka), Contact::default())?;
        Ok(Cluster { admin: Unwaited::new(admin) })
    }

    /// The same, on its way to a broker: the first answer comes from a bootstrap connection, which is closed with
    /// it, and the next question would wait until librdkafka connects again.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn on_its_way(kafka: &KafkaSettings, topic: &str) -> Result<Arc<Cluster>, KafkaError> {
        let cluster = Arc::new(Cluster::new(kafka)?);
        let (asks, topic) = (cluster.clone(), topic.to_owned());
        // It ends by itself. Without it, or an answer, the first question takes longer, and says what is wrong.
        let _asking = thread::Builder::new().name("ask".into()).spawn(move || {
            for _ in 0..2 {
                let _answer = asks.admin.inner().fetch_metadata(Some(&topic), REQUEST);
            }
        });
        Ok(cluster)
    }

    /// Looks at one topic.
    ///
    /// # Errors
    /// The cluster does not answer, or not about this topic for now.
    pub fn look(&self, topic: &str) -> Result<Look, KafkaError> {
        let metadata = self.admin.inner().fetch_metadata(Some(topic), REQUEST)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        found.map_or(Ok(Look::Missing), look).map_err(KafkaError::MetadataFetch)
    }

    /// Looks at many topics; those about which the cluster says nothing now are left out.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn look_at_all(&self, topics: &[String]) -> Result<Vec<(String, Look)>, KafkaError> {
        if topics.len() <= ONE_BY_ONE {
            let looked = topics.iter().map(|topic| match self.look(topic) {
                Err(KafkaError::MetadataFetch(code)) if is_transport(code) => {
                    Err(KafkaError::MetadataFetch(code))
                }
                looked => Ok(looked.ok().map(|look| (topic.clone(), look))),
            });
            return looked.filter_map(Result::transpose).collect();
        }
        let metadata = self.admin.inner().fetch_metadata(None, REQUEST * 5)?;
        let all: std::collections::HashMap<&str, &MetadataTopic> =
            metadata.topics().iter().map(|topic| (topic.name(), topic)).collect();
        let looked = topics.iter().filter_map(|topic| {
            let looked = all.get(topic.as_str()).map_or(Ok(Look::Missing), |found| look(found));
            Some((topic.clone(), looked.ok()?))
        });
        Ok(looked.collect())
    }

    /// Counts the brokers.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn brokers(&self) -> Result<Brokers, KafkaError> {
        let metadata = self.admin.inner().fetch_metadata(None, REQUEST * 5)?;
        let live: std::collections::BTreeSet<i32> =
            metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
        let mut known = live.clone();
        for topic in metadata.topics() {
            known.extend(topic.partitions().iter().flat_map(|partition| partition.replicas()));
        }
        Ok(Brokers { live: live.len(), known: known.len() })
    }

    /// How topics are set up; those that may not be described are left out.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn describe(&self, topics: &[String]) -> Result<Vec<(String, Facts)>, KafkaError> {
        let mut described = Vec::new();
        for some in topics.chunks(AT_ONCE) {
            let names: Vec<ResourceSpecifier<'_>> =
                some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
            let answers = wait(self.admin.describe_configs(&names, &options()))?;
            for answer in answers {
                match answer {
                    Ok(found) => {
                        let value = |name: &str| found.get(name).and_then(|entry| entry.value.clone());
                        if let OwnedResourceSpecifier::Topic(topic) = &found.specifier {
                            described.push((topic.clone(), Facts::read(value)));
                        }
                    }
                    Err(code) => tracing::debug!(%code, "a topic's configuration may not be described"),
                }
            }
        }
        Ok(described)
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// The cluster refuses, or does not answer.
    pub fn create(&self, topic: &str, provision: &Provision) -> Result<Made, KafkaError> {
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let replication = TopicReplication::Fixed(count(provision.replication));
        let mut new = NewTopic::new(topic, count(provision.partitions), replication);
        for (name, value) in &provision.options {
            new = new.set(name, value);
        }
        match wait(self.admin.create_topics([&new], &options()))?.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(Made::Before),
            Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
            Some(Ok(_)) | None => Ok(Made::Now),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

fn look(found: &MetadataTopic) -> Result<Look, RDKafkaErrorCode> {
    let code = found.error().map(RDKafkaErrorCode::from);
    let partitions = found.partitions();
    let replicas = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default();
    let led = partitions.iter().all(|partition| partition.leader() >= 0);
    classify(code, partitions.len(), replicas, led)
}

fn classify(
    code: Option<RDKafkaErrorCode>,
    partitions: usize,
    replicas: usize,
    led: bool,
) -> Result<Look, RDKafkaErrorCode> {
    match code {
        None => Ok(u32::try_from(partitions)
            .ok()
            .and_then(NonZeroU32::new)
            .map_or(Look::Missing, |partitions| Look::There(Shape { partitions, replicas, led }))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(Look::Missing),
        Some(RDKafkaErrorCode::InvalidTopic) => Ok(Look::Illegal),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Ok(Look::Unauthorized),
        Some(code) => Err(code),
    }
}

/// Whether the cluster did not answer at all, so that asking about the next topic would wait as long.
fn is_transport(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::AllBrokersDown
    )
}

/// Waits on this thread for an answer; the admin client has a thread of its own that brings it, and the
/// request a limit.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut answer = pin!(answer);
    loop {
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metadata_say_is_one_of_four_things_or_asked_again() {
        let three = NonZeroU32::new(3).unwrap();
        let there = Look::There(Shape { partitions: three, replicas: 2, led: true });
        assert_eq!(classify(None, 3, 2, true), Ok(there));
        assert_eq!(classify(None, 0, 0, true), Ok(Look::Missing));
        for (code, look) in [
            (RDKafkaErrorCode::UnknownTopicOrPartition, Look::Missing),
            (RDKafkaErrorCode::InvalidTopic, Look::Illegal),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Look::Unauthorized),
        ] {
            assert_eq!(classify(Some(code), 0, 0, true), Ok(look));
        }
        let soon = RDKafkaErrorCode::LeaderNotAvailable;
        assert_eq!(classify(Some(soon), 0, 0, true), Err(soon));
    }

    #[test]
    fn an_answer_from_another_thread_is_waited_for() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = thread::spawn(move || sender.send(7));
        assert_eq!(wait(receiver), Ok(7));
        assert_eq!(other.join().unwrap(), Ok(()));
    }
}
