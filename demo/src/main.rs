//! `outbox-demo`: the whole path, live, with a verdict at its end: from a service's INSERT to a consumer's COMMIT.
//!
//! | module | what it owns |
//! |---|---|
//! | [`programs`], [`postgres`] | a private PostgreSQL |
//! | [`broker`] | a broker in memory, or a real one |
//! | [`service`] | the orders service: changes and events in one transaction |
//! | [`relay`] | the relay as a process of its own |
//! | [`shipping`] | the shipping service: one effect per event, written with the consumer SDK |
//! | [`consumers`] | its instances, each a process of its own: this very program with a hidden command |
//! | [`kills`] | when the relay and the consumers are killed |
//! | [`log`], [`group`] | reads what is published; how far the consumers have come |
//! | [`verdict`] | the judge |
//! | [`stage`], [`play`] | everything that runs; the run from beginning to end |
//! | [`screen`], [`words`] | what is shown |
//! | [`arguments`] | the command line |
//!
//! Everything that runs or lies on disk is owned by a value whose destructor ends and deletes it, so it is
//! gone however the demo ends; `child` sees to it that processes end even if the demo is killed.

mod arguments;
mod broker;
mod child;
mod consumers;
mod group;
mod kills;
mod log;
mod play;
mod postgres;
mod programs;
mod relay;
mod screen;
mod service;
mod shipping;
mod stage;
mod verdict;
mod words;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use broker::BrokerError;
use consumers::ConsumersError;
use group::GroupError;
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
    /// The program `outbox-relay`.
    pub relay: PathBuf,
}

impl Options {
    /// For how long there is load.
    fn load(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
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
    /// The consumers.
    #[error(transparent)]
    Consumers(#[from] ConsumersError),
    /// How far the consumers have come.
    #[error(transparent)]
    Group(#[from] GroupError),
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
    /// What outbox, log and effects say.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whether the relay ended with exit code 0 when it was told to stop.
    pub drained: bool,
    /// Whether every consumer ended with exit code 0 when it was told to stop.
    pub consumers_stopped: bool,
    /// Events that were inserted and rolled back.
    pub rolled_back: u64,
    /// For each kill, how many records came again after it.
    pub repeated_per_kill: Vec<u64>,
    /// For each kill of a consumer, how many transactions it had open.
    pub open_per_consumer_kill: Vec<u64>,
    /// The seed.
    pub seed: u64,
}

impl Outcome {
    /// Whether the promise was kept, and relay and consumers went in order.
    pub fn passed(&self) -> bool {
        self.verdict.holds() && self.drained && self.consumers_stopped
    }
}

fn main() -> ExitCode {
    arguments::main()
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
    fn whoever_does_not_stop_in_order_fails_the_run() {
        let outcome = Outcome {
            verdict: verdict::tests::CLEAN,
            drained: true,
            consumers_stopped: true,
            rolled_back: 0,
            repeated_per_kill: Vec::new(),
            open_per_consumer_kill: Vec::new(),
            seed: 1,
        };
        assert!(outcome.passed());
        assert!(!Outcome { drained: false, ..outcome.clone() }.passed());
        assert!(!Outcome { consumers_stopped: false, ..outcome }.passed());
    }
}
