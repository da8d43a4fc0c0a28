//! The options of Kafka's client.

use rdkafka::config::ClientConfig;

use super::Consumer;

/// Options that are the consumer's own, and why.
const REFUSED: [(&str, &str); 7] = [
    ("bootstrap.servers", "it is KAFKA_BROKERS"),
    ("group.id", "it is KAFKA_GROUP"),
    (
        "enable.auto.commit",
        "an offset is committed when everything below it is settled, and not when it was read",
    ),
    (
        "enable.auto.offset.store",
        "an offset is committed when everything below it is settled, and not when it was read",
    ),
    (
        "auto.offset.reset",
        "a consumer goes on where its group has committed, or begins with everything; what is gone is said and not skipped",
    ),
    ("isolation.level", "records of transactions that were never committed would be handled"),
    ("enable.partition.eof", "it is no error here"),
];

/// Why an option is not the application's to set, if it is not.
pub(super) fn refused(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, why)| *why)
}

impl<D, S: Send + Sync + 'static> Consumer<D, S> {
    /// The client's configuration.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.settings.brokers().unwrap_or_default())
            .set("group.id", self.group())
            .set("client.id", format!("outbox-consumer {}", self.name))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("allow.auto.create.topics", "false")
            // By default a consumer whose queue was full rests for a second.
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "16384")
            .set("socket.keepalive.enable", "true");
        for (name, value) in &self.kafka {
            config.set(name, value);
        }
        config
            // Where to begin is our decision: a new consumer begins with everything (C35), and a position that the log does
            // not have is told instead of moved (C49).
            .set("auto.offset.reset", "error")
            // Only the frontier is committed, and by us (C27).
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }
}
