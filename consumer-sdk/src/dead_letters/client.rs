//! What the Kafka client says by itself.

use rdkafka::client::ClientContext;
use rdkafka::consumer::{ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;

/// A consumer that says what goes wrong, and not that a partition ends.
pub(super) type Reader = StreamConsumer<Quiet>;

/// Passes on what the client reports beside its answers.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    /// The end of a partition comes this way, too; it is what the readers here wait for.
    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error, KafkaError::Global(rdkafka::error::RDKafkaErrorCode::PartitionEOF)) {
            tracing::warn!(%error, reason, "the Kafka client reports");
        }
    }
}

impl ConsumerContext for Quiet {}
