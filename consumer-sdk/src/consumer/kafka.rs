//! The options of Kafka's client.

use outbox_kafka_link::Link;
use rdkafka::config::ClientConfig;

use super::Consumer;

const FRONTIER: &str = "an offset is committed when everything below it is settled, and not when it was read";

/// Options that are the consumer's own, and why. The brokers are refused by whoever connects.
const REFUSED: [(&str, &str); 7] = [
    ("group.id", "it is KAFKA_GROUP"),
    ("enable.auto.commit", FRONTIER),
    ("auto.commit.enable", FRONTIER),
    ("enable.auto.offset.store", FRONTIER),
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
    /// The client's configuration. Those of every other client of a consumer are made of it.
    pub(super) fn client_config(&self, link: &Link) -> ClientConfig {
        let mut config = link.config();
        let name = format!("outbox-consumer {}", self.name);
        let usual = [
            ("client.id", name.as_str()),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("allow.auto.create.topics", "false"),
            // By default a consumer whose queue was full rests for a second.
            ("fetch.queue.backoff.ms", "5"),
            ("queued.max.messages.kbytes", "16384"),
            ("socket.keepalive.enable", "true"),
        ];
        for (option, value) in usual {
            if config.get(option).is_none() {
                config.set(option, value);
            }
        }
        config
            .set("group.id", self.group())
            // Where to begin is our decision: a new consumer begins with everything (C35), and a position that the log does
            // not have is told instead of moved (C49).
            .set("auto.offset.reset", "error")
            // Only the frontier is committed, and by us (C27).
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }
}
