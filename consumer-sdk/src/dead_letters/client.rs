//! What the Kafka client says by itself.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;

use crate::kafka::Heard;

/// A consumer that says what goes wrong, and not that a partition ends.
pub(super) type Reader = StreamConsumer<Quiet>;

/// Passes on what the client reports beside its answers. The end of a partition comes as an error, too; it is what the
/// readers here wait for, and no news.
#[derive(Debug, Default)]
pub(super) struct Quiet(Heard);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for Quiet {}
