//! How often a careful reader sees an event, and how large the Kafka transactions are that see to it.

use std::time::Duration;

use super::assemble::Reader;
use super::keys;

/// What publishing promises, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// How often an event comes (default at least once).
    pub guarantee: Guarantee,
    /// How long a Kafka transaction stays open under load (default 100 ms); longer while the relay is far behind.
    pub commit_interval: Duration,
    /// Records above which a Kafka transaction ends with the PostgreSQL transaction at hand (default 500,000).
    pub max_records: u64,
    /// The same in bytes (default 256 MiB).
    pub max_bytes: u64,
    /// Most records of one PostgreSQL transaction (default 1,000,000).
    pub max_transaction_records: u64,
    /// What becomes of a larger one (default halt).
    pub larger: Larger,
    /// `transaction.timeout.ms` (default 60 s): how long the cluster leaves a Kafka transaction open whose relay is gone.
    pub transaction_timeout: Duration,
}

/// How often an event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Once, and again after a crash or a take-over, under the same id.
    AtLeastOnce,
    /// Once for whoever reads with `isolation.level=read_committed`.
    ExactlyOnce,
}

impl Guarantee {
    /// Its word in the configuration and in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Guarantee::AtLeastOnce => "at_least_once",
            Guarantee::ExactlyOnce => "exactly_once",
        }
    }
}

/// What becomes of a PostgreSQL transaction that is too large for one Kafka transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Larger {
    /// The relay stops before it.
    Halt,
    /// It is published in several Kafka transactions: at least once, and seen in parts.
    Split,
}

impl Reader<'_> {
    /// The bounds of Kafka transactions.
    pub(super) fn delivery(&mut self) -> Option<DeliverySettings> {
        let guarantee = self.get(&keys::DELIVERY_GUARANTEE);
        let commit_interval = self.get(&keys::DELIVERY_COMMIT_INTERVAL);
        let max_records = self.get(&keys::DELIVERY_MAX_RECORDS);
        let max_bytes = self.get(&keys::DELIVERY_MAX_BYTES);
        let max_transaction_records = self.get(&keys::DELIVERY_MAX_TRANSACTION_RECORDS);
        let larger = self.get(&keys::DELIVERY_LARGER);
        let transaction_timeout = self.get(&keys::DELIVERY_TRANSACTION_TIMEOUT);
        Some(DeliverySettings {
            guarantee: guarantee?,
            commit_interval: commit_interval?,
            max_records: max_records? as u64,
            max_bytes: max_bytes? as u64,
            max_transaction_records: max_transaction_records? as u64,
            larger: larger?,
            transaction_timeout: transaction_timeout?,
        })
    }
}
