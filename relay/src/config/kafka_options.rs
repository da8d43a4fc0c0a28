//! librdkafka's own options, passed through: all but those that would break what the relay promises.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

const ACKS: &str = "a record is published when every in-sync replica has it (acks=all)";
const IDEMPOTENCE: &str = "idempotence keeps repeated requests from doubling or reordering records";
const GAPLESS: &str = "a refused record must end the session, else later records of its key overtake it";
const NO_TIMEOUT: &str = "the relay never gives a record up; a timeout would lose it";
const ORDER: &str = "it decides the order of records, which idempotence needs as the relay sets it";
const PARTITION: &str = "the relay computes partitions itself over pinned counts, so that no key moves";
const TRANSACTION: &str = "only the state record is written in transactions, by a producer of its own";
const REPORTS: &str =
    "the relay confirms a position only after the delivery report of every record before it";
const BOUND: &str = "it is bounded by kafka.max_in_flight_records and kafka.max_in_flight_bytes";
const RECORD_SIZE: &str = "its key is kafka.max_record_bytes, from which the relay computes it";
const STATE_READER: &str = "the relay reads its state record in one exact way";
const AUTO_CREATE: &str =
    "a topic made by a misspelled type would have the wrong partitions; the relay waits for it";
const FAKE: &str = "it belongs to librdkafka's tests";

/// Options that are refused, each with the reason. Aliases stand beside the name they mean.
pub const REFUSED: &[(&str, &str)] = &[
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("allow.auto.create.topics", AUTO_CREATE),
    ("auto.offset.reset", STATE_READER),
    ("batch.size", RECORD_SIZE),
    ("bootstrap.servers", "its key is kafka.brokers"),
    ("metadata.broker.list", "its key is kafka.brokers"),
    ("compression.codec", "its key is kafka.compression"),
    ("compression.type", "its key is kafka.compression"),
    ("delivery.report.only.error", REPORTS),
    ("delivery.timeout.ms", NO_TIMEOUT),
    ("message.timeout.ms", NO_TIMEOUT),
    ("enable.auto.commit", STATE_READER),
    ("enable.auto.offset.store", STATE_READER),
    ("enable.gapless.guarantee", GAPLESS),
    ("enable.idempotence", IDEMPOTENCE),
    ("enable.partition.eof", STATE_READER),
    ("group.id", STATE_READER),
    ("group.instance.id", STATE_READER),
    ("isolation.level", STATE_READER),
    ("linger.ms", "its key is kafka.linger"),
    ("queue.buffering.max.ms", "its key is kafka.linger"),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    ("message.max.bytes", RECORD_SIZE),
    ("message.send.max.retries", NO_TIMEOUT),
    ("retries", NO_TIMEOUT),
    ("partitioner", PARTITION),
    ("produce.offset.report", REPORTS),
    ("queue.buffering.max.kbytes", BOUND),
    ("queue.buffering.max.messages", BOUND),
    ("queuing.strategy", ORDER),
    ("test.mock.broker.rtt", FAKE),
    ("test.mock.num.brokers", FAKE),
    ("transaction.timeout.ms", TRANSACTION),
    ("transactional.id", TRANSACTION),
];

/// Whether an option's value must never be printed.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 6] = ["password", "secret", "sasl.oauthbearer.config", "key.pem", "jaas", "token"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part)) && !name.ends_with(".url") && !name.ends_with(".location")
}

/// Whether an option's value may be printed: of a name that librdkafka does not know it may not, since it
/// may be a misspelled secret.
pub fn may_show(name: &str) -> bool {
    let ours = REFUSED.iter().any(|(refused, _)| *refused == name);
    let known =
        !ClientConfig::new().set(name, "").create_native_config().is_err_and(|error| is_unknown(&error));
    !is_secret(name) && (ours || known)
}

fn is_unknown(error: &KafkaError) -> bool {
    matches!(error, KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..))
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
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(error) if is_unknown(&error) => Err("librdkafka has no such option".into()),
        Err(_) if is_secret(name) => Err("librdkafka does not take this value".into()),
        // What librdkafka says holds the value and what it expected; neither is a secret here.
        Err(KafkaError::ClientConfig(_, said, ..)) => {
            Err(format!("librdkafka does not take this value: {said}"))
        }
        Err(_) => Err("librdkafka does not take this option".into()),
    }
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

    #[test]
    fn librdkafka_is_asked_about_the_rest() {
        assert_eq!(check("socket.keepalive.enable", "true"), Ok(()));
        assert_eq!(check("security.protocol", "sasl_ssl"), Ok(()));
        assert_eq!(check("sasl.password", "hunter2"), Ok(()));
        assert_eq!(check("socket.kepalive.enable", "true"), Err("librdkafka has no such option".into()));
        assert!(check("socket.timeout.ms", "soon").unwrap_err().contains("does not take this value"));
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.key.location", "sasl.oauthbearer.token.endpoint.url", "debug"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
