//! What librdkafka says of a connection that cannot be made, with what to do about it.

/// Which words of librdkafka ask for which advice; the first that is found counts.
const ADVICE: &[(&str, &str)] = &[
    (
        "certificate verify failed",
        "the broker's certificate is not trusted, has expired or is for another name: name the file of the authority that \
         signed it in kafka.options.\"ssl.ca.location\", and connect to the broker by a name in its certificate",
    ),
    ("connecting to a PLAINTEXT broker listener", NO_TLS),
    ("wrong version number", NO_TLS),
    ("packet length too long", NO_TLS),
    (
        "connecting to a SSL listener",
        "the broker may expect TLS there: kafka.options.\"security.protocol\" is ssl or sasl_ssl then; where that is set \
         already, it expects another login",
    ),
    (
        // What librdkafka means to add here it leaves out (2.12.1 looks for the word in the format, not in the text).
        "in state APIVERSION_QUERY",
        "the broker may expect TLS there, since it closed the connection on the first request: kafka.options.\"security.protocol\" \
         is ssl or sasl_ssl then. A broker that is just starting or stopping does the same",
    ),
    (
        "might require SASL authentication",
        "the broker closes the connection and may expect a login: set sasl.mechanisms, sasl.username and sasl.password in \
         kafka.options",
    ),
    ("client SSL authentication might be required", CLIENT_CERTIFICATE),
    ("certificate required", CLIENT_CERTIFICATE),
    ("alert unknown ca", CLIENT_CERTIFICATE),
    ("alert bad certificate", CLIENT_CERTIFICATE),
    ("alert certificate unknown", CLIENT_CERTIFICATE),
    ("alert certificate expired", CLIENT_CERTIFICATE),
    (
        "Unsupported SASL mechanism",
        "the broker knows no such login: set kafka.options.\"sasl.mechanisms\" to one that it names",
    ),
    (
        "mechanism not supported",
        "the broker knows no such login: set kafka.options.\"sasl.mechanisms\" to one that it names",
    ),
    (
        "SASL authentication error",
        "the broker refused the login: check sasl.mechanisms, sasl.username and sasl.password in kafka.options, and that the \
         broker knows the user",
    ),
    (
        "Authentication failed",
        "the broker refused the login: check sasl.mechanisms, sasl.username and sasl.password in kafka.options, and that the \
         broker knows the user",
    ),
];

const NO_TLS: &str = "the broker seems to speak no TLS there: name its TLS port in kafka.brokers, or write \
                      kafka.options.\"security.protocol\" = \"plaintext\" where the way to it is a network you trust";
const CLIENT_CERTIFICATE: &str = "the broker asks for a certificate of the relay's, or refused it: name its files in \
                                  kafka.options.\"ssl.certificate.location\" and \"ssl.key.location\"";

/// librdkafka's reason in a sentence.
pub(super) fn sentence(reason: &str) -> String {
    match ADVICE.iter().find(|(words, _)| reason.contains(words)) {
        Some((_, advice)) => format!("Kafka: {advice} ({reason})"),
        None => format!("Kafka: {reason}"),
    }
}

/// What a line of librdkafka's log says of the same kind. A broker that wants something else than it gets just
/// closes the connection, which is no error to librdkafka but for its log.
pub(super) fn sentence_of_log(line: &str) -> Option<String> {
    // `[thrd:k1:9093/bootstrap]: ` stands before it.
    let reason = line.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(line, |(_, r)| r);
    ADVICE.iter().any(|(words, _)| reason.contains(words)).then(|| sentence(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_comes_first_and_the_reason_is_kept() {
        for (reason, part) in [
            (
                "ssl://k1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified",
                "ssl.ca.location",
            ),
            (
                "ssl://k1:9092/1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                "plaintext",
            ),
            (
                "sasl_ssl://k1:9093/1: SASL authentication error: Authentication failed: Invalid username",
                "sasl.password",
            ),
            (
                "k1:9093/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol \
                 configuration (connecting to a SSL listener?)",
                "security.protocol",
            ),
        ] {
            let told = sentence(reason);
            assert!(told.contains(part) && told.contains(reason), "{told}");
        }
        let line = "[thrd:k1:9093/bootstrap]: k1:9093/bootstrap: Disconnected: verify that security.protocol is correctly \
                    configured, broker might require SASL authentication";
        assert!(sentence_of_log(line).unwrap().contains("may expect a login"));
        let line = "[thrd:k1:9092/bootstrap]: k1:9092/bootstrap: Disconnected: connection closed by peer: receive 0 after \
                    POLLIN (after 1ms in state APIVERSION_QUERY)";
        assert!(sentence_of_log(line).unwrap().contains("may expect TLS there"));
        assert_eq!(
            sentence_of_log("[thrd:k1:9093/1]: k1:9093/1: Disconnected (after 5ms in state UP)"),
            None
        );
        assert_eq!(sentence("k1: Connection refused"), "Kafka: k1: Connection refused");
    }
}
