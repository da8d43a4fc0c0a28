//! librdkafka's own options, passed through: all but those that would break what the relay promises.

use outbox_kafka_link::options::{self, Silent, is_known, is_secret};
use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;

const ACKS: &str = "a record is published when every in-sync replica has it (acks=all)";
const IDEMPOTENCE: &str = "idempotence keeps repeated requests from doubling or reordering records";
const GAPLESS: &str = "a refused record must end the session, else later records of its key overtake it";
const NO_TIMEOUT: &str = "the relay never gives a record up; a timeout would lose it";
const ORDER: &str = "it decides the order of records, which idempotence needs as the relay sets it";
const PARTITION: &str = "the relay computes partitions itself over pinned counts, so that no key moves";
const TRANSACTION: &str =
    "the relay fences by it; its keys are delivery.guarantee and delivery.transaction_timeout";
const REPORTS: &str =
    "the relay confirms a position only after the delivery report of every record before it";
const BOUND: &str = "it is bounded by kafka.max_in_flight_records and kafka.max_in_flight_bytes";
const RECORD_SIZE: &str = "its key is kafka.max_record_bytes, from which the relay computes it";
const CONSUMER: &str =
    "it belongs to consumers, and the relay's only one reads its state record in one exact way";
const AUTO_CREATE: &str =
    "a topic made by a misspelled type would have the wrong partitions; the relay waits for it";
const PROPAGATION: &str =
    "a topic that was just made is not known to every broker at once; with less its records would be refused";
const HIDDEN_TOPICS: &str = "a topic that it hides would be waited for for ever";
const FEATURES: &str =
    "idempotence and headers need what the brokers say of themselves; records would be refused without";
const PLUGIN: &str = "code from outside could change, double or drop records";
const LOG_QUEUE: &str = "nobody reads that queue: log lines would gather in memory";
const SIGNALS: &str = "signals belong to the relay, which drains on them";
const FAKE: &str = "it belongs to librdkafka's tests";

/// Options that are refused, each with the reason. Aliases stand beside the name they mean. Options whose
/// values are functions and other pointers are not here: librdkafka takes none of them as text.
pub const REFUSED: &[(&str, &str)] = &[
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("allow.auto.create.topics", AUTO_CREATE),
    ("api.version.fallback.ms", FEATURES),
    ("api.version.request", FEATURES),
    ("broker.version.fallback", FEATURES),
    ("auto.commit.enable", CONSUMER),
    ("auto.commit.interval.ms", CONSUMER),
    ("auto.offset.reset", CONSUMER),
    ("batch.size", RECORD_SIZE),
    ("bootstrap.servers", "its key is kafka.brokers"),
    ("metadata.broker.list", "its key is kafka.brokers"),
    ("check.crcs", CONSUMER),
    ("compression.codec", "its key is kafka.compression"),
    ("compression.type", "its key is kafka.compression"),
    ("consume.callback.max.messages", CONSUMER),
    ("coordinator.query.interval.ms", CONSUMER),
    ("delivery.report.only.error", REPORTS),
    ("delivery.timeout.ms", NO_TIMEOUT),
    ("message.timeout.ms", NO_TIMEOUT),
    ("enable.auto.commit", CONSUMER),
    ("enable.auto.offset.store", CONSUMER),
    ("enable.gapless.guarantee", GAPLESS),
    ("enable.idempotence", IDEMPOTENCE),
    ("enable.partition.eof", CONSUMER),
    ("enabled_events", REPORTS),
    ("fetch.error.backoff.ms", CONSUMER),
    ("fetch.max.bytes", CONSUMER),
    ("fetch.message.max.bytes", CONSUMER),
    ("max.partition.fetch.bytes", CONSUMER),
    ("fetch.min.bytes", CONSUMER),
    ("fetch.queue.backoff.ms", CONSUMER),
    ("fetch.wait.max.ms", CONSUMER),
    ("group.id", CONSUMER),
    ("group.instance.id", CONSUMER),
    ("group.protocol", CONSUMER),
    ("group.protocol.type", CONSUMER),
    ("group.remote.assignor", CONSUMER),
    ("heartbeat.interval.ms", CONSUMER),
    ("internal.termination.signal", SIGNALS),
    ("isolation.level", CONSUMER),
    ("linger.ms", "its key is kafka.linger"),
    ("queue.buffering.max.ms", "its key is kafka.linger"),
    ("log.queue", LOG_QUEUE),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    ("max.poll.interval.ms", CONSUMER),
    ("message.max.bytes", RECORD_SIZE),
    ("message.send.max.retries", NO_TIMEOUT),
    ("retries", NO_TIMEOUT),
    ("offset.store.method", CONSUMER),
    ("offset.store.path", CONSUMER),
    ("offset.store.sync.interval.ms", CONSUMER),
    ("partition.assignment.strategy", CONSUMER),
    ("partitioner", PARTITION),
    ("plugin.library.paths", PLUGIN),
    ("produce.offset.report", REPORTS),
    ("queue.buffering.max.kbytes", BOUND),
    ("queue.buffering.max.messages", BOUND),
    ("queued.max.messages.kbytes", CONSUMER),
    ("queued.min.messages", CONSUMER),
    ("queuing.strategy", ORDER),
    ("session.timeout.ms", CONSUMER),
    ("test.mock.broker.rtt", FAKE),
    ("test.mock.num.brokers", FAKE),
    ("topic.blacklist", HIDDEN_TOPICS),
    ("topic.metadata.propagation.max.ms", PROPAGATION),
    ("transaction.timeout.ms", TRANSACTION),
    ("transactional.id", TRANSACTION),
];

/// Whether an option's value may be printed: of a name that librdkafka does not know it may not, since it
/// may be a misspelled secret.
pub fn may_show(name: &str) -> bool {
    let ours = REFUSED.iter().any(|(refused, _)| *refused == name);
    !is_secret(name) && (ours || is_known(name))
}

/// Checks what options say together, and the files that they name: makes a producer like the relay's, which
/// has no broker to connect to, and lets it go.
///
/// # Errors
///
/// What librdkafka says of it. It names options and files, never a secret.
pub fn check_together(options: &[(String, String)]) -> Result<(), String> {
    // Such a client asks for a token at once; nothing is to be started here.
    if options.iter().any(|(name, _)| name == "sasl.oauthbearer.method") {
        return Ok(());
    }
    let mut config = ClientConfig::new();
    // What the relay sets for its clients and librdkafka compares with the user's.
    config.set("reconnect.backoff.max.ms", "1000");
    for (name, value) in options {
        config.set(name, value);
    }
    config
        .set("transactional.id", "outbox-relay-check")
        .set("transaction.timeout.ms", "60000")
        .set("message.timeout.ms", "50000");
    options::check_together::<BaseProducer<Silent>>(&config)
}

/// Checks one option: that it breaks no promise, that librdkafka knows it and takes the value.
///
/// # Errors
///
/// A sentence without the value.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("this option is the relay's own: {reason}"));
    }
    options::check(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_promise_is_refused_with_the_reason() {
        for (name, reason) in REFUSED {
            let refusal = check(name, "1").unwrap_err();
            assert!(refusal.contains(reason), "{name}: {refusal}");
        }
    }

    /// A misspelled name in the list would let the option through.
    #[test]
    fn the_list_names_options_that_librdkafka_has() {
        for (name, _) in REFUSED {
            assert!(is_known(name), "{name}");
        }
        let mut names: Vec<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REFUSED.len());
    }

    /// They would be addresses in memory.
    #[test]
    fn functions_cannot_be_given_as_text() {
        for name in [
            "background_event_cb",
            "closesocket_cb",
            "connect_cb",
            "consume_cb",
            "default_topic_conf",
            "dr_cb",
            "dr_msg_cb",
            "error_cb",
            "interceptors",
            "log_cb",
            "msg_order_cmp",
            "oauthbearer_token_refresh_cb",
            "offset_commit_cb",
            "opaque",
            "open_cb",
            "partitioner_cb",
            "rebalance_cb",
            "resolve_cb",
            "socket_cb",
            "ssl.certificate.verify_cb",
            "ssl_ca",
            "ssl_certificate",
            "ssl_engine_callback_data",
            "ssl_key",
            "stats_cb",
            "throttle_cb",
        ] {
            assert!(check(name, "1").is_err(), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_found_without_a_broker() {
        let together = |options: &[(&str, &str)]| {
            let options: Vec<_> = options.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            check_together(&options)
        };
        assert_eq!(together(&[("socket.timeout.ms", "30000"), ("client.id", "x")]), Ok(()));
        for (options, word) in [
            (&[("socket.timeout.ms", "120000")][..], "socket.timeout.ms"),
            (&[("reconnect.backoff.ms", "5000")], "reconnect.backoff.ms"),
            (&[("security.protocol", "ssl"), ("ssl.ca.location", "/nowhere/ca.pem")], "ssl.ca.location"),
        ] {
            let refused = together(options).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }
}
