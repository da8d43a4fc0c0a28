//! The Kafka cluster, asked and not changed: who answers, how topics and brokers are set up.

use std::collections::HashMap;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaSettings;
use crate::publisher::{Contact, base_config, metadata_config};

/// How long the first answer may take; later ones come from brokers that have answered.
const FIRST: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);
/// How long a broker that does not answer is given to accept a connection.
const KNOCK: Duration = Duration::from_secs(2);
/// A topic to ask for where any will do.
const NOBODYS: &str = "outbox-relay-check";
/// Brokers whose settings are asked for.
const BROKERS: usize = 9;

/// A cluster that has answered.
pub struct Cluster {
    /// A consumer, since a producer that asks for a topic may make it (R40).
    metadata: Arc<BaseConsumer<Contact>>,
    admin: AdminClient<Contact>,
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
        // Without a group: a consumer of one looks for its coordinator, for which brokers make a topic.
        let contact = Contact::default();
        let metadata = metadata_config(kafka).create_with_context(contact.clone());
        let metadata: Arc<BaseConsumer<Contact>> =
            Arc::new(metadata.map_err(|error: KafkaError| error.to_string())?);
        let admin = AdminClient::from_config_and_context(&base_config(kafka), Contact::default());
        let admin = admin.map_err(|error| error.to_string())?;
        let asked = metadata.clone();
        // Of one topic, which need not exist: without one the cluster lists all, and there may be many.
        let found = blocking(move || asked.fetch_metadata(Some(NOBODYS), FIRST)).await;
        let brokers = match found {
            Ok(found) => found.brokers().iter().map(|broker| broker.id()).collect(),
            Err(error) => {
                if let Some(trouble) = contact.trouble(&metadata) {
                    return Err(trouble);
                }
                let brokers = kafka.brokers.clone();
                let tried = blocking(move || Ok(knock(&brokers))).await.unwrap_or_default();
                return Err(format!("{error}; {tried}"));
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

/// Whether the bootstrap servers take connections: librdkafka only says that nobody answered, and of one that
/// accepts and is silent the usual reason is the security protocol.
fn knock(brokers: &str) -> String {
    let tried = brokers.split(',').map(str::trim).take(3).map(|broker| {
        let place = broker.split_once("://").map_or(broker, |(_, place)| place);
        let connected = place.to_socket_addrs().and_then(|mut found| {
            let address = found.next().ok_or(io::ErrorKind::NotFound)?;
            TcpStream::connect_timeout(&address, KNOCK).map(drop)
        });
        match connected {
            Ok(()) => format!(
                "{place} accepts connections: does it speak this security.protocol, does it know the user?"
            ),
            Err(error) => format!("{place}: {error}"),
        }
    });
    tried.collect::<Vec<_>>().join("; ")
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
