//! librdkafka's options: which it knows, what it takes, and which must not be printed.

use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaConfRes;
use rdkafka::{ClientConfig, ClientContext};

/// Whether an option's value must never be printed.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 7] =
        ["password", "passphrase", "secret", "sasl.oauthbearer.config", "key.pem", "jaas", "token"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part)) && !name.ends_with(".url") && !name.ends_with(".location")
}

/// Whether librdkafka has an option of this name.
pub fn is_known(name: &str) -> bool {
    !ClientConfig::new().set(name, "").create_native_config().is_err_and(|error| is_unknown(&error))
}

fn is_unknown(error: &KafkaError) -> bool {
    matches!(error, KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..))
}

/// Checks one option: that librdkafka knows it and takes the value.
///
/// # Errors
///
/// A sentence without the value where it is a secret.
pub fn check(name: &str, value: &str) -> Result<(), String> {
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

/// Checks what options say together, and the files that they name: makes a client, which has no broker to connect to,
/// and lets it go.
///
/// # Errors
///
/// What librdkafka says of it. It names options and files, never a secret.
pub fn check_together<T: FromClientConfigAndContext<Silent>>(config: &ClientConfig) -> Result<(), String> {
    match config.create_with_context::<_, T>(Silent) {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientCreation(said)) => {
            Err(format!("librdkafka does not take these options: {said}"))
        }
        Err(error) => Err(format!("librdkafka does not take these options: {error}")),
    }
}

/// What a client without brokers has to say is no news.
#[derive(Debug)]
pub struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

impl ProducerContext for Silent {
    type DeliveryOpaque = ();

    /// Nothing is sent.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_is_asked_about_an_option() {
        assert_eq!(check("socket.keepalive.enable", "true"), Ok(()));
        assert_eq!(check("security.protocol", "sasl_ssl"), Ok(()));
        assert_eq!(check("sasl.password", "hunter2"), Ok(()));
        assert_eq!(check("socket.kepalive.enable", "true"), Err("librdkafka has no such option".into()));
        assert!(check("socket.timeout.ms", "soon").unwrap_err().contains("does not take this value"));
        assert!(is_known("ssl.ca.location") && !is_known("ssl.ca.file"));
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.config",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.key.location", "sasl.oauthbearer.token.endpoint.url", "debug"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
