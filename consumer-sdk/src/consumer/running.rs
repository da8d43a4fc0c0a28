//! A consumer that runs: what its parts are made of, and when it is told to stop.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use rdkafka::error::KafkaError;

use super::{Consumer, ParkLimits, Unregistered};
use crate::database::{Database, DatabaseError};
use crate::handler::{Bound, Kind, Registration};
use crate::ladder::{Exhausted, Ladder};
use crate::metrics::admin::{self, Admin, AdminError};
use crate::metrics::{self, Metrics};
use crate::outcome::sentence;
use crate::record::{Company, Known, Record};
use crate::runtime;

/// How long nothing may be settled beside the longest handler, before `/ready` says so.
const STALLED: Duration = Duration::from_secs(30);

/// What the workers need of a consumer.
pub(crate) struct Registered {
    /// The scope of the inbox.
    pub(crate) name: Arc<str>,
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) handlers: Handlers,
    pub(crate) ladder: Ladder,
    pub(crate) unregistered: Unregistered,
    pub(crate) concurrency: usize,
    pub(crate) group_commit: usize,
    /// How much the park may hold.
    pub(crate) park: ParkLimits,
    /// Whoever decides about dead letters, and the time they have.
    pub(crate) owner: (String, Duration),
    /// How long the topics keep records, where they are not to be asked.
    pub(crate) source_retention: Option<Duration>,
    /// How long settlements are kept, and who signed for it.
    pub(crate) kept: Option<(Duration, String)>,
    pub(crate) metrics: Metrics,
}

impl Registered {
    /// What a record's handler and its counts are, and whom it may run with. `topic` is its topic's number.
    pub(crate) fn introduce(&self, record: &mut Record, topic: u32) {
        let handler = record.event_type().and_then(|name| self.handlers.number(name));
        let series = self.handlers.series(topic, handler);
        record.known = Known { handler: handler.unwrap_or(u32::MAX), series };
        record.company = self.company(record);
    }

    /// Which records a record may share a transaction or a task with.
    pub(crate) fn company(&self, record: &Record) -> Option<Company> {
        let handler = record.id.and(self.handlers.of(record))?;
        match handler.kind {
            Kind::Transactional if self.group_commit > 1 && !handler.runs_alone() => {
                Some(Company::new(0, self.group_commit))
            }
            Kind::Batch(most) => Some(Company::new(handler.number, most)),
            Kind::Idempotent => Some(Company::LIGHT),
            Kind::Transactional | Kind::External | Kind::AtMostOnce => None,
        }
    }
}

/// The handlers of a consumer by event type.
pub(crate) struct Handlers {
    all: Vec<Bound>,
    numbers: AHashMap<String, u32>,
    /// Of each topic: where each handler's events are counted, and behind them where others are.
    series: Vec<u32>,
}

impl Handlers {
    fn of_types(
        bound: impl Iterator<Item = (String, Bound)>,
        topics: &[String],
        metrics: &Metrics,
    ) -> Handlers {
        let (names, all): (Vec<String>, Vec<Bound>) = bound.unzip();
        let types = || names.iter().map(|name| Some(name.as_str())).chain([None]);
        let series =
            topics.iter().flat_map(|topic| types().map(|name| metrics.series(topic, name))).collect();
        Handlers { all, numbers: names.into_iter().zip(0..).collect(), series }
    }

    fn series(&self, topic: u32, handler: Option<u32>) -> u32 {
        let handler = handler.map_or(self.all.len(), |handler| handler as usize);
        let series = self.series.get(topic as usize * (self.all.len() + 1) + handler);
        series.copied().unwrap_or(u32::MAX)
    }

    fn number(&self, event_type: &str) -> Option<u32> {
        self.numbers.get(event_type).copied()
    }

    /// The handler for an event type.
    pub(crate) fn get(&self, event_type: &str) -> Option<&Bound> {
        self.all.get(self.number(event_type)? as usize)
    }

    /// The handler for a record.
    pub(crate) fn of(&self, record: &Record) -> Option<&Bound> {
        match record.known {
            Known::UNKNOWN => self.get(record.event_type()?),
            Known { handler, .. } => self.all.get(handler as usize),
        }
    }

    /// All of them.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Bound> {
        self.all.iter()
    }
}

/// Why a consumer did not run, or had to stop. A `main` that returns it prints its `Debug`: the sentence, with what it
/// came from.
#[derive(thiserror::Error)]
pub enum RunError {
    /// It is not set up as it has to be. All mistakes at once.
    #[error("the consumer cannot run as it is set up:\n  - {}", .0.join("\n  - "))]
    SetUp(Vec<String>),
    /// librdkafka refuses the configuration.
    #[error("Kafka's client cannot be made")]
    Kafka(#[source] Box<KafkaError>),
    /// The database is not usable.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// There is no admin port, although one was asked for.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The system has no thread to give.
    #[error("starting the client's thread")]
    Thread(#[source] std::io::Error),
    /// It stopped, because no retry would mend what it met.
    #[error("the consumer halted: {0}")]
    Halted(String),
}

impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sentence(self))
    }
}

impl<D, S: Send + Sync + 'static> Consumer<D, S> {
    /// Runs until SIGTERM or Ctrl-C, then finishes what runs and leaves the group in order.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self) -> Result<(), RunError> {
        self.run_until(told_to_stop()).await
    }

    /// Runs until `shutdown` resolves.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let mistakes = self.mistakes();
        if !mistakes.is_empty() {
            return Err(RunError::SetUp(mistakes));
        }
        let config = self.client_config(&self.settings.kafka(&self.kafka).map_err(RunError::SetUp)?);
        let park = self.limits_of_park().map_err(RunError::SetUp)?;
        let longest = self.handlers.values().map(Registration::timeout).max().unwrap_or_default();
        let scope = self.scope.clone().unwrap_or_else(|| self.name.clone());
        let database = match self.settings.link() {
            // Workers, those of the parked keys, and two to spare. The server ends what a frozen process left open a while
            // after any handler would have been stopped (C31).
            Some(Ok(link)) => {
                let abandoned = longest + Duration::from_secs(10);
                let connections = self.concurrency + self.concurrency / 4 + 2;
                Some(Database::new(link, &self.name, connections, abandoned))
            }
            Some(Err(wrong)) => return Err(RunError::SetUp(wrong.iter().map(str::to_owned).collect())),
            None => None,
        };
        let metrics = self.metrics();
        let admin = match self.admin_address() {
            Some(Ok(address)) => Some(Admin::open(address, metrics.clone(), longest + STALLED).await?),
            _ => None,
        };
        let group = self.group();
        let bound = self.handlers.into_iter().zip(1..);
        let handlers = Handlers::of_types(
            bound.map(|((name, handler), number)| (name, handler.bind(&self.state, number, self.budget))),
            &self.topics,
            &metrics,
        );
        let registered = Registered {
            name: Arc::from(scope),
            group,
            topics: self.topics,
            handlers,
            ladder: self.ladder,
            unregistered: self.unregistered,
            concurrency: self.concurrency,
            group_commit: self.group_commit,
            park,
            owner: self.owner.unwrap_or_default(),
            source_retention: self.source_retention,
            kept: self.kept,
            metrics,
        };
        let (owner, within) = &registered.owner;
        let (consumer, topics) = (&*registered.name, registered.topics.join(", "));
        tracing::info!(consumer, owner, ?within, "consuming {topics}");
        tracing::info!(consumer, "{}", after_the_last_attempt(registered.ladder.exhausted()));
        let running = runtime::run(&config, registered, database, shutdown);
        match admin {
            Some(admin) => beside(admin, running).await,
            None => running.await,
        }
    }

    /// The group it reads in.
    pub(super) fn group(&self) -> String {
        self.settings.group().unwrap_or(&self.name).to_owned()
    }

    /// How much the park may hold.
    pub(super) fn limits_of_park(&self) -> Result<ParkLimits, Vec<String>> {
        self.park.map_or_else(|| ParkLimits::read(&self.settings), ParkLimits::checked)
    }

    /// Where the admin port is to listen, if there is to be one.
    pub(super) fn admin_address(&self) -> Option<Result<SocketAddr, String>> {
        let text = self.admin.as_deref().or_else(|| self.settings.admin())?;
        Some(admin::address(text, self.admin_allow_remote || self.settings.admin_allow_remote()))
    }

    /// What it will be seen by, in the application's meter provider.
    fn metrics(&self) -> Metrics {
        let names = metrics::Names { consumer: self.name.clone(), group: self.group() };
        let types: Vec<String> = self.handlers.keys().cloned().collect();
        let metrics = Metrics::new(names, &self.topics, &types);
        if self.settings.database().is_some()
            && let Ok(limits) = self.limits_of_park()
        {
            metrics.park_may_hold(limits);
        }
        metrics.publish(&opentelemetry::global::meter(metrics::SCOPE));
        metrics
    }
}

/// What the policy means, said at the start: who did not choose it shall see it.
fn after_the_last_attempt(exhausted: Exhausted) -> &'static str {
    match exhausted {
        Exhausted::Hold => {
            "an event that is exhausted is held, and its key waits behind it until somebody releases it (outbox-dlq parked, \
             release)"
        }
        Exhausted::Skip => {
            "an event that is exhausted becomes a dead letter, and later events of its key go on without it"
        }
        Exhausted::Halt => "an event that is exhausted halts its partition until it goes well",
    }
}

/// Serves the admin port while the consumer runs and drains.
async fn beside(admin: Admin, running: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(admin.serve(async {
        // Dropped, it says the same.
        let _ = stopped.await;
    }));
    let ended = running.await;
    drop(stop);
    // A panic there is no reason to call the consumer's end another than it was.
    let _ = serving.await;
    ended
}

/// SIGTERM or Ctrl-C.
async fn told_to_stop() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminated) = terminated {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    // Without a way to hear of either nothing would ever stop it: running on is what is left.
    if interrupted.await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fn main() -> Result<(), RunError>` prints it that way.
    #[test]
    fn an_error_is_printed_as_its_sentence_with_what_it_came_from() {
        let set_up = RunError::SetUp(vec!["there is no topic: call topic()".into(), "another".into()]);
        let said =
            "the consumer cannot run as it is set up:\n  - there is no topic: call topic()\n  - another";
        assert_eq!(format!("{set_up:?}"), said);
        let inner = DatabaseError::Version { found: 2, known: 1 };
        assert_eq!(format!("{inner:?}"), inner.to_string());
        assert_eq!(
            format!("{:?}", RunError::from(inner)),
            DatabaseError::Version { found: 2, known: 1 }.to_string()
        );
        let source = std::io::Error::other("no room");
        assert_eq!(format!("{:?}", RunError::Thread(source)), "starting the client's thread: no room");
        let address = "127.0.0.1:9465".parse().unwrap();
        let admin = AdminError::Bind { address, source: std::io::Error::other("in use") };
        assert!(format!("{admin:?}").ends_with("(port 0 takes a free one): in use"), "{admin:?}");
    }
}
