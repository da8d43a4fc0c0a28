//! The Kafka cluster, asked and not changed: who answers, how topics and brokers are set up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaSettings;
use crate::publisher::base_config;

/// How long the first answer may take; later ones come from brokers that have answered.
const FIRST: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);
/// How long is waited for the reasons why nobody answers.
const REASONS: Duration = Duration::from_secs(2);
/// Brokers whose settings are asked for.
const BROKERS: usize = 9;

/// Keeps what librdkafka says of brokers that do not answer: the error of a request only says that it timed
/// out. It names brokers and topics, never payloads or passwords.
#[derive(Debug, Clone, Default)]
struct Listener(Arc<Mutex<Vec<String>>>);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, _: &str, message: &str) {
        if matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
        ) {
            self.hear(message);
        }
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.hear(reason);
    }
}

impl Listener {
    fn hear(&self, message: &str) {
        let mut heard = self.0.lock();
        // `[thrd:broker]: what`
        let said = message.split_once("]: ").map_or(message, |(_, said)| said).to_owned();
        if heard.len() < 4 && !heard.contains(&said) {
            heard.push(said);
        }
    }
}

impl ConsumerContext for Listener {}

/// A cluster that has answered.
pub struct Cluster {
    /// A consumer, since a producer that asks for a topic may make it (R40).
    metadata: Arc<BaseConsumer<Listener>>,
    admin: AdminClient<Listener>,
    /// Ids of its brokers.
    pub brokers: Vec<i32>,
}

/// A topic's or a broker's settings by name, or why they are not known.
pub type Entries = Result<HashMap<String, String>, String>;

/// A topic as the cluster shows it.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub presence: Presence,
    /// Its settings.
    pub settings: Entries,
}

/// Whether a topic is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is not.
    Missing,
    /// The cluster does not say.
    Unknown(String),
    /// It is.
    There {
        /// Partitions.
        partitions: u32,
        /// Replicas of the partition that has fewest.
        replicas: usize,
        /// Partitions without a leader.
        leaderless: u32,
    },
}

impl Cluster {
    /// Asks for the brokers.
    ///
    /// # Errors
    /// A sentence with what librdkafka said.
    pub async fn connect(kafka: &KafkaSettings) -> Result<Cluster, String> {
        let listener = Listener::default();
        let config = {
            let mut config = base_config(kafka);
            config.set("group.id", "outbox-relay-check").set("enable.auto.commit", "false");
            config
        };
        let metadata = BaseConsumer::from_config_and_context(&config, listener.clone());
        let metadata = Arc::new(metadata.map_err(|error| error.to_string())?);
        let admin = AdminClient::from_config_and_context(&base_config(kafka), listener.clone());
        let admin = admin.map_err(|error| error.to_string())?;
        let asked = metadata.clone();
        // Of one topic, which need not exist: without one the cluster lists all, and there may be many.
        let found = blocking(move || asked.fetch_metadata(Some("__consumer_offsets"), FIRST)).await;
        let brokers = match found {
            Ok(found) => found.brokers().iter().map(|broker| broker.id()).collect(),
            Err(error) => {
                // A consumer keeps the reasons from its log; the other client, asked for nothing, tells them.
                let reasons = blocking(move || admin.inner().fetch_metadata(None, REASONS).map(drop));
                reasons.await.ok();
                let mut heard = listener.0.lock().clone();
                heard.insert(0, error.to_string());
                return Err(heard.join("; "));
            }
        };
        Ok(Cluster { metadata, admin, brokers })
    }

    /// Looks at topics, in the order of the names.
    pub async fn topics(&self, names: &[String]) -> Vec<Topic> {
        let mut settings = self.settings(names.iter().map(|name| ResourceSpecifier::Topic(name))).await;
        let mut topics = Vec::new();
        for name in names {
            let presence = self.presence(name).await;
            let settings = settings.remove(name).unwrap_or_else(|| Err("they were not sent".into()));
            topics.push(Topic { name: name.clone(), presence, settings });
        }
        topics
    }

    /// Whether a topic is there; it is never made by that.
    pub async fn presence(&self, name: &str) -> Presence {
        let (client, asked) = (self.metadata.clone(), name.to_owned());
        let metadata = match blocking(move || client.fetch_metadata(Some(&asked), REQUEST)).await {
            Ok(metadata) => metadata,
            Err(error) => return Presence::Unknown(error.to_string()),
        };
        let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else {
            return Presence::Missing;
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Presence::Missing;
            }
            Some(code) => return Presence::Unknown(code.to_string()),
        }
        let partitions = found.partitions();
        Presence::There {
            partitions: count(partitions.len()),
            replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            leaderless: count(partitions.iter().filter(|partition| partition.leader() < 0).count()),
        }
    }

    /// The settings of the first brokers.
    pub async fn broker_settings(&self) -> Vec<(i32, Entries)> {
        let mut found = Vec::new();
        for &id in self.brokers.iter().take(BROKERS) {
            // Each has to be asked itself.
            let mut answer = self.settings([ResourceSpecifier::Broker(id)]).await;
            let entries = answer.remove(&id.to_string()).unwrap_or_else(|| Err("they were not sent".into()));
            found.push((id, entries));
        }
        found
    }

    /// Settings by the name of topic or broker.
    async fn settings<'a>(
        &self,
        of: impl IntoIterator<Item = ResourceSpecifier<'a>>,
    ) -> HashMap<String, Entries> {
        let of: Vec<ResourceSpecifier<'a>> = of.into_iter().collect();
        let names: Vec<String> = of.iter().map(name_of).collect();
        if names.is_empty() {
            return HashMap::new();
        }
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        match self.admin.describe_configs(&of, &options).await {
            Ok(answers) => {
                names.into_iter().zip(answers).map(|(name, answer)| (name, entries(answer))).collect()
            }
            Err(error) => names.into_iter().map(|name| (name, Err(error.to_string()))).collect(),
        }
    }
}

fn name_of(resource: &ResourceSpecifier<'_>) -> String {
    match resource {
        ResourceSpecifier::Topic(name) | ResourceSpecifier::Group(name) => (*name).to_owned(),
        ResourceSpecifier::Broker(id) => id.to_string(),
    }
}

fn entries(answer: Result<ConfigResource, RDKafkaErrorCode>) -> Entries {
    let resource = answer.map_err(|code| code.to_string())?;
    // A sensitive value comes without its text.
    Ok(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaError::Canceled))
}
