//! What a client of Kafka says beside its answers: passed on in sentences with what to do.

use std::time::{Duration, Instant};

use outbox_kafka_link::trouble;
use outbox_postgres_link::Program;
use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// How long the same sentence is not said again.
const SAID: Duration = Duration::from_secs(30);

/// Says what is heard. Of one mishap librdkafka tells in its log and by an error; it is said once.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Option<(String, Instant)>>);

impl Heard {
    /// A line of librdkafka's log. It names brokers and topics, never payloads. `Some` where it says why a broker cannot
    /// be spoken to, and that was not said just now.
    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) -> Option<String> {
        if let Some(sentence) = trouble::of_log(Program::Consumer, facility, message) {
            return self.say(sentence);
        }
        match level {
            // What ends a connection comes as an error, too.
            _ if facility == "FAIL" => tracing::debug!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", facility, "{message}");
            }
        }
        None
    }

    /// An error that librdkafka goes on after by itself. `Some` as for a line.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) -> Option<String> {
        self.say(trouble::of_error(Program::Consumer, error, reason)?)
    }

    fn say(&self, sentence: String) -> Option<String> {
        let mut last = self.0.lock();
        let said = |(said, at): &(String, Instant)| *said == sentence && at.elapsed() < SAID;
        if last.as_ref().is_some_and(said) {
            return None;
        }
        tracing::warn!("{sentence}");
        *last = Some((sentence.clone(), Instant::now()));
        Some(sentence)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    #[test]
    fn one_mishap_is_said_once() {
        let heard = Heard::default();
        let reason = "ssl://k1:9093/bootstrap: SSL handshake failed: certificate verify failed";
        let line = format!("[thrd:ssl://k1:9093/bootstrap]: {reason}");
        let said = heard.log(RDKafkaLogLevel::Error, "FAIL", &line).unwrap();
        assert!(said.contains("KAFKA_SSL_CA_FILE") && said.contains(reason), "{said}");
        let error = KafkaError::Global(RDKafkaErrorCode::SSL);
        assert_eq!(heard.error(&error, reason), None);
        assert!(heard.error(&error, "another").is_some());
        assert_eq!(
            heard.error(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down"),
            None
        );
        assert_eq!(
            heard.log(RDKafkaLogLevel::Info, "FAIL", "k1: Disconnected (after 5ms in state UP)"),
            None
        );
    }
}
