//! `outbox-relay demo`: the main job, live, with a verdict at its end.
//!
//! | module | what it owns |
//! |---|---|
//! | [`programs`], [`postgres`] | a private PostgreSQL |
//! | [`broker`] | a broker in memory, or a real one |
//! | [`service`] | the orders service: changes and events in one transaction |
//! | [`relay`], [`kills`] | the relay as a process of its own, and when it is killed |
//! | [`log`] | reads what is published |
//! | [`verdict`] | the judge |
//! | [`play`] | the run from beginning to end |
//! | [`screen`] | what is shown |
//!
//! Everything that runs or lies on disk is owned by a value whose destructor ends and deletes it, so it is
//! gone however the demo ends; `child` sees to it that processes end even if the demo is killed.

pub mod broker;
mod child;
pub mod kills;
pub mod log;
pub mod play;
pub mod postgres;
pub mod programs;
pub mod relay;
pub mod screen;
pub mod service;
pub mod verdict;

use std::io;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use broker::BrokerError;
use log::LogError;
use postgres::PostgresError;
use relay::RelayError;
use screen::Screen;
use service::ServiceError;
use verdict::Verdict;

/// What is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Chooses the service's transactions and the moments of the kills.
    pub seed: u64,
    /// Seconds of load.
    pub seconds: u32,
    /// Transactions a second.
    pub rate: u32,
    /// Bootstrap servers of a real broker; `None` is the one in memory.
    pub kafka_brokers: Option<String>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The orders service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The relay.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for")]
    Signals(#[source] io::Error),
    /// Ctrl-C or SIGTERM.
    #[error("stopped before there was a verdict; everything that was started is gone again")]
    Stopped,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What table and log say.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whether the relay ended with exit code 0 when it was told to stop.
    pub drained: bool,
    /// Events that were inserted and rolled back.
    pub rolled_back: u64,
    /// For each kill, how many records came again after it.
    pub repeated_per_kill: Vec<u64>,
    /// The seed.
    pub seed: u64,
}

impl Outcome {
    /// Whether the promise was kept and the relay went in order.
    pub fn passed(&self) -> bool {
        self.verdict.holds() && self.drained
    }
}

/// Plays the demo; shows everything but the error. To be run on the process's main thread (see `child`).
///
/// # Errors
/// [`DemoError`]: there is no verdict.
pub async fn run(options: &Options, screen: &mut Screen) -> Result<Outcome, DemoError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Signals)?;
    // Whichever ends first, the play is dropped, and with it all that it started.
    tokio::select! {
        biased;
        _ = interrupt.recv() => Err(DemoError::Stopped),
        _ = terminate.recv() => Err(DemoError::Stopped),
        outcome = play::play(options, screen) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_does_not_drain_fails_the_run() {
        let verdict = Verdict { committed: 1, published: 1, repeated: 0, lost: 0, reordered: 0, phantoms: 0 };
        let outcome =
            Outcome { verdict, drained: true, rolled_back: 0, repeated_per_kill: Vec::new(), seed: 1 };
        assert!(outcome.passed());
        assert!(!Outcome { drained: false, ..outcome }.passed());
    }
}
