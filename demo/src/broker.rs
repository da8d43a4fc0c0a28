//! The broker of the demo: librdkafka's own in this process's memory, or a real one.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// Partitions of the topic of orders.
pub const PARTITIONS: i32 = 12;
/// What the relay puts behind the prefix: the aggregate type of the demo's events.
pub const AGGREGATE: &str = "order";
/// Brokers of the cluster in memory.
const BROKERS_IN_MEMORY: i32 = 3;
/// How long the consumers' group waits for a member that is silent: for brokers no less than 6 s unless they are
/// told otherwise. The one in memory lets a new group wait for members for 3 s, and forgets for ever who became
/// silent meanwhile, as all do who wait: with a shorter time than that nobody would ever join. At each later change
/// of members it waits for a second less than this.
const SESSION_IN_MEMORY: Duration = Duration::from_secs(4);
const SESSION: Duration = Duration::from_secs(6);
/// How long a real broker may take to make the topics.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The one in memory failed.
    #[error("the broker in memory cannot be set up")]
    InMemory(#[source] KafkaError),
    /// The real one cannot be asked.
    #[error("{brokers} did not make the topics: does it answer there, without TLS and password?")]
    Unreachable {
        /// The brokers that were given.
        brokers: String,
        /// What the client said.
        source: KafkaError,
    },
    /// It answered and refused.
    #[error("the broker refused to make the topic {topic}")]
    Refused {
        /// The topic.
        topic: String,
        /// Its answer.
        source: RDKafkaErrorCode,
    },
}

/// A broker whose topics are there.
pub struct Broker {
    /// Bootstrap servers.
    pub servers: String,
    /// What the relay puts before the aggregate type.
    pub topic_prefix: String,
    /// The relay's memory.
    pub state_topic: String,
    /// The consumers' group.
    pub group: String,
    /// The group's session timeout.
    pub session: Duration,
    in_memory: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    /// Three brokers in this process's memory; others connect to them over real sockets.
    ///
    /// # Errors
    /// [`BrokerError::InMemory`].
    pub fn in_memory() -> Result<Broker, BrokerError> {
        let cluster = MockCluster::new(BROKERS_IN_MEMORY).map_err(BrokerError::InMemory)?;
        let broker = Broker {
            servers: cluster.bootstrap_servers(),
            topic_prefix: "outbox.event.".into(),
            state_topic: "outbox.relay.state".into(),
            group: "shipping".into(),
            session: SESSION_IN_MEMORY,
            in_memory: None,
        };
        // It knows no admin requests, so the topics are made from inside.
        for (topic, partitions) in [(broker.topic(), PARTITIONS), (broker.state_topic.clone(), 1)] {
            cluster.create_topic(&topic, partitions, BROKERS_IN_MEMORY).map_err(BrokerError::InMemory)?;
        }
        Ok(Broker { in_memory: Some(cluster), ..broker })
    }

    /// A broker that runs already. The topics bear a name of this run alone, so that runs do not meet.
    ///
    /// # Errors
    /// [`BrokerError`]: it does not answer, or refuses.
    pub async fn real(brokers: &str) -> Result<Broker, BrokerError> {
        let run = format!("{:08x}", rand::random::<u32>());
        let broker = Broker {
            servers: brokers.to_owned(),
            topic_prefix: format!("outbox.demo.{run}.event."),
            state_topic: format!("outbox.demo.{run}.state"),
            group: format!("outbox.demo.{run}.shipping"),
            session: SESSION,
            in_memory: None,
        };
        broker.make_topics().await?;
        Ok(broker)
    }

    /// The topic of the demo's events.
    pub fn topic(&self) -> String {
        format!("{}{AGGREGATE}", self.topic_prefix)
    }

    /// Whether this is the one in memory, which keeps little and nothing for long.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory.is_some()
    }

    async fn make_topics(&self) -> Result<(), BrokerError> {
        let unreachable = |source| BrokerError::Unreachable { brokers: self.servers.clone(), source };
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.servers).create().map_err(unreachable)?;
        let topic = self.topic();
        // -1 is the broker's own default of replication.
        let topics = [
            NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(-1)),
            NewTopic::new(&self.state_topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact"),
        ];
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        for made in admin.create_topics(&topics, &options).await.map_err(unreachable)? {
            made.map_err(|(topic, source)| BrokerError::Refused { topic, source })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};

    use super::*;

    #[test]
    fn the_topics_are_there_before_anybody_asks() {
        let broker = Broker::in_memory().unwrap();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &broker.servers)
            .set("allow.auto.create.topics", "false")
            .create()
            .unwrap();
        for (topic, partitions) in [("outbox.event.order", 12), ("outbox.relay.state", 1)] {
            let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
            assert_eq!(metadata.topics()[0].partitions().len(), partitions, "{topic}");
        }
        assert!(broker.is_in_memory());
    }
}
