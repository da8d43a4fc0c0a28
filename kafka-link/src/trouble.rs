//! What librdkafka says of a connection that cannot be made, with what to do about it.

use outbox_postgres_link::Program;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// What is the matter, as far as it can be told from here.
#[derive(Debug, Clone, Copy)]
enum Matter {
    Untrusted,
    NoTls,
    Tls,
    Closed,
    Login,
    ClientCertificate,
    Mechanism,
    Refused,
}

/// Which words of librdkafka mean what; the first that is found counts.
const WORDS: &[(&str, Matter)] = &[
    ("certificate verify failed", Matter::Untrusted),
    ("connecting to a PLAINTEXT broker listener", Matter::NoTls),
    ("wrong version number", Matter::NoTls),
    ("packet length too long", Matter::NoTls),
    ("connecting to a SSL listener", Matter::Tls),
    // What librdkafka means to add here it leaves out (2.12.1 looks for the word in the format, not in the text).
    ("in state APIVERSION_QUERY", Matter::Closed),
    ("might require SASL authentication", Matter::Login),
    ("client SSL authentication might be required", Matter::ClientCertificate),
    ("certificate required", Matter::ClientCertificate),
    ("alert unknown ca", Matter::ClientCertificate),
    ("alert bad certificate", Matter::ClientCertificate),
    ("alert certificate unknown", Matter::ClientCertificate),
    ("alert certificate expired", Matter::ClientCertificate),
    ("Unsupported SASL mechanism", Matter::Mechanism),
    ("mechanism not supported", Matter::Mechanism),
    ("SASL authentication error", Matter::Refused),
    ("Authentication failed", Matter::Refused),
];

/// What a program's settings are called.
struct Names {
    program: &'static str,
    brokers: &'static str,
    protocol: &'static str,
    clear: &'static str,
    authority: &'static str,
    certificate: &'static str,
    mechanism: &'static str,
    login: &'static str,
}

const RELAY: Names = Names {
    program: "relay",
    brokers: "kafka.brokers",
    protocol: "kafka.options.\"security.protocol\"",
    clear: "write kafka.options.\"security.protocol\" = \"plaintext\"",
    authority: "kafka.options.\"ssl.ca.location\"",
    certificate: "kafka.options.\"ssl.certificate.location\" and \"ssl.key.location\"",
    mechanism: "kafka.options.\"sasl.mechanisms\"",
    login: "sasl.mechanisms, sasl.username and sasl.password in kafka.options",
};

const CONSUMER: Names = Names {
    program: "consumer",
    brokers: "KAFKA_BROKERS",
    protocol: "KAFKA_SECURITY_PROTOCOL",
    clear: "set KAFKA_SECURITY_PROTOCOL=plaintext",
    authority: "KAFKA_SSL_CA_FILE",
    certificate: "KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE",
    mechanism: "KAFKA_SASL_MECHANISM",
    login: "KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
};

impl Matter {
    fn of(reason: &str) -> Option<Matter> {
        WORDS.iter().find(|(words, _)| reason.contains(words)).map(|(_, matter)| *matter)
    }

    fn advice(self, names: &Names) -> String {
        let Names { program, brokers, protocol, clear, authority, certificate, mechanism, login } = names;
        match self {
            Matter::Untrusted => format!(
                "the broker's certificate is not trusted, has expired or is for another name: name the file of the \
                 authority that signed it in {authority}, and connect to the broker by a name in its certificate"
            ),
            Matter::NoTls => format!(
                "the broker seems to speak no TLS there: name its TLS port in {brokers}, or {clear} where the way to it is a \
                 network you trust"
            ),
            Matter::Tls => format!(
                "the broker may expect TLS there: {protocol} is ssl or sasl_ssl then; where that is set already, it expects \
                 another login"
            ),
            Matter::Closed => format!(
                "the broker may expect TLS there, since it closed the connection on the first request: {protocol} is ssl or \
                 sasl_ssl then. A broker that is just starting or stopping does the same"
            ),
            Matter::Login => {
                format!("the broker closes the connection and may expect a login: set {login}")
            }
            Matter::ClientCertificate => format!(
                "the broker asks for a certificate of the {program}'s, or refused it: name its files in {certificate}"
            ),
            Matter::Mechanism => {
                format!("the broker knows no such login: set {mechanism} to one that it names")
            }
            Matter::Refused => {
                format!("the broker refused the login: check {login}, and that the broker knows the user")
            }
        }
    }
}

/// librdkafka's reason in a sentence.
pub fn sentence(program: Program, reason: &str) -> String {
    let names = match program {
        Program::Relay => &RELAY,
        Program::Consumer => &CONSUMER,
    };
    match Matter::of(reason) {
        Some(matter) => format!("Kafka: {} ({reason})", matter.advice(names)),
        None => format!("Kafka: {reason}"),
    }
}

/// What a line of librdkafka's log says of the same kind. A broker that wants something else than it gets just
/// closes the connection, which is no error to librdkafka but for its log.
pub fn of_log(program: Program, facility: &str, line: &str) -> Option<String> {
    // `[thrd:k1:9093/bootstrap]: ` stands before it.
    let reason = line.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(line, |(_, r)| r);
    (facility == "FAIL" && Matter::of(reason).is_some()).then(|| sentence(program, reason))
}

/// An error of librdkafka in a sentence; `None` where another has said more: that all brokers are down follows
/// what made each of them unreachable.
pub fn of_error(program: Program, error: &KafkaError, reason: &str) -> Option<String> {
    // The end of a partition is what readers wait for.
    let echo = [RDKafkaErrorCode::AllBrokersDown, RDKafkaErrorCode::PartitionEOF]
        .map(Some)
        .contains(&error.rdkafka_error_code());
    (!echo).then(|| sentence(program, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&str, &str, &str); 4] = [
        (
            "ssl://k1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker \
             certificate could not be verified",
            "ssl.ca.location",
            "KAFKA_SSL_CA_FILE",
        ),
        (
            "ssl://k1:9092/1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
            "plaintext",
            "KAFKA_SECURITY_PROTOCOL=plaintext",
        ),
        (
            "sasl_ssl://k1:9093/1: SASL authentication error: Authentication failed: Invalid username",
            "sasl.password",
            "KAFKA_SASL_PASSWORD",
        ),
        (
            "k1:9093/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol \
             configuration (connecting to a SSL listener?)",
            "security.protocol",
            "KAFKA_SECURITY_PROTOCOL",
        ),
    ];

    #[test]
    fn the_advice_comes_first_in_the_programs_own_words_and_the_reason_is_kept() {
        for (reason, relays, consumers) in CASES {
            for (program, part) in [(Program::Relay, relays), (Program::Consumer, consumers)] {
                let told = sentence(program, reason);
                assert!(told.contains(part) && told.ends_with(&format!("({reason})")), "{told}");
            }
            let told = sentence(Program::Consumer, reason);
            assert!(!told.contains("kafka.options") && !told.contains("relay"), "{told}");
        }
        assert_eq!(sentence(Program::Relay, "k1: Connection refused"), "Kafka: k1: Connection refused");
    }

    #[test]
    fn a_connection_that_is_just_closed_is_in_the_log_alone() {
        let log = |line: &str| of_log(Program::Relay, "FAIL", line);
        let line = "[thrd:k1:9093/bootstrap]: k1:9093/bootstrap: Disconnected: verify that security.protocol is correctly \
                    configured, broker might require SASL authentication";
        assert!(log(line).unwrap().contains("may expect a login"));
        let line = "[thrd:k1:9092/bootstrap]: k1:9092/bootstrap: Disconnected: connection closed by peer: receive 0 after \
                    POLLIN (after 1ms in state APIVERSION_QUERY)";
        assert!(log(line).unwrap().contains("may expect TLS there"));
        assert_eq!(of_log(Program::Relay, "BROKER", line), None);
        assert_eq!(log("[thrd:k1:9093/1]: k1:9093/1: Disconnected (after 5ms in state UP)"), None);
    }
}
