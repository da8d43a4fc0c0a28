//! How much of a backlog is on the log.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::bench::ground::{Ground, PARTITIONS};

/// Limit of one question.
const QUESTION: Duration = Duration::from_secs(10);

/// The topic of one run, which nobody else writes to.
pub struct Topic {
    client: BaseConsumer,
    brokers: String,
    name: String,
}

impl Topic {
    /// A look at a topic.
    ///
    /// # Panics
    /// When librdkafka refuses the configuration.
    pub fn new(ground: &Ground, name: &str) -> Topic {
        let brokers = ground.kafka.brokers();
        let client = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("group.id", "bench-looks")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a client");
        Topic { client, brokers, name: name.to_owned() }
    }

    /// Records that every consumer may have by now: the sum of the partitions' ends, by one request.
    pub fn records(&self) -> u64 {
        let ends = self.client.offsets_for_times(self.partitions(Offset::End), QUESTION);
        let ends =
            ends.map(|ends| ends.elements().iter().map(|end| end.offset().to_raw().unwrap_or(0)).sum());
        // A broker that is slow to answer is asked again.
        ends.map_or(0, |sum: i64| u64::try_from(sum).unwrap_or(0))
    }

    /// Sees whether one of the records is what a consumer of the relay's gets: the payload as it is in the table, the
    /// aggregate's id as key, id and type as headers.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self) {
        self.client.assign(&self.partitions(Offset::Beginning)).expect("an assignment");
        let record = crate::wait::eventually(QUESTION, "a record", || {
            Some(self.client.poll(Duration::from_millis(100))?.expect("a record").detach())
        });
        let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
        let payload: Value = serde_json::from_slice(record.payload().unwrap_or_default()).unwrap_or_default();
        let header = |name: &str| {
            let found = record.headers()?.iter().find(|header| header.key == name)?;
            Some(String::from_utf8_lossy(found.value?).into_owned())
        };
        assert!(
            payload["customer"] == key.as_str()
                && header("id").is_some_and(|id| id.trim_matches('"').len() == 36)
                && header("type").is_some_and(|kind| kind.trim_matches('"') == "OrderPlaced"),
            "not the relay's record: {key}, {payload}, id {:?}, type {:?}",
            header("id"),
            header("type")
        );
        self.client.unassign().expect("no assignment");
    }

    /// Deletes it: the topics of all runs together would fill a small disk.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn delete(self) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a client");
        admin.delete_topics(&[&self.name], &AdminOptions::new()).await.expect("Kafka answers");
    }

    fn partitions(&self, at: Offset) -> TopicPartitionList {
        let mut partitions = TopicPartitionList::new();
        for partition in 0..i32::try_from(PARTITIONS).expect("few partitions") {
            partitions.add_partition_offset(&self.name, partition, at).expect("an offset");
        }
        partitions
    }
}
