//! The builder: who consumes what, with which handlers, and what follows a failure.

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outbox_postgres_link::link::{PASSWORD, PASSWORD_FILE};
use outbox_postgres_link::{Link, Mistakes};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use crate::database::{Database, DatabaseError};
use crate::handler::{Bound, Handler, Kind, Registration, WithDatabase, WithoutDatabase};
use crate::ladder::{Exhausted, Ladder, LadderError, Limits, in_place, minutes};
use crate::metrics::admin::{self, Admin, AdminError};
use crate::metrics::{self, Metrics};
use crate::record::{Company, Record};
use crate::runtime;

/// A consumer that is being put together.
///
/// ```no_run
/// use outbox_consumer::{Consumer, Event, Handled, Tx, done, transactional};
/// use outbox_consumer::ladder::{hours, in_place, minutes};
///
/// #[derive(serde::Deserialize)]
/// struct OrderPlaced {
///     sku: String,
///     quantity: i32,
/// }
///
/// async fn reserve(order: Event<OrderPlaced>, tx: Tx) -> Handled {
///     tx.execute("UPDATE stock SET free = free - $2 WHERE sku = $1", &[&order.sku, &order.quantity]).await?;
///     done()
/// }
///
/// # async fn run() -> Result<(), outbox_consumer::RunError> {
/// Consumer::from_env("inventory")
///     .owner("inventory-team", hours(4))
///     .topic("outbox.event.order")
///     .on("OrderPlaced", transactional(reserve))
///     .retry(in_place(3).then([minutes(1), minutes(10), hours(1)]))
///     .run()
///     .await
/// # }
/// ```
///
/// A transactional handler needs a database; without one it does not compile:
///
/// ```compile_fail
/// use outbox_consumer::{Consumer, Event, Handled, Tx, done, transactional};
///
/// async fn reserve(_: Event<u32>, _: Tx) -> Handled {
///     done()
/// }
///
/// let consumer = Consumer::without_database("inventory").on("OrderPlaced", transactional(reserve));
/// ```
#[must_use = "a consumer does nothing before it is run"]
pub struct Consumer<D, S = ()> {
    name: String,
    scope: Option<String>,
    settings: HashMap<&'static str, String>,
    kafka: Vec<(String, String)>,
    topics: Vec<String>,
    handlers: HashMap<String, Registration<S>>,
    state: Arc<S>,
    owner: Option<(String, Duration)>,
    ladder: Ladder,
    unregistered: Unregistered,
    concurrency: usize,
    group_commit: usize,
    source_retention: Option<Duration>,
    kept: Option<(Duration, String)>,
    budget: Limits,
    admin: Option<String>,
    admin_allow_remote: bool,
    mistakes: Vec<String>,
    of: PhantomData<fn() -> D>,
}

/// What happens to events of types that no handler is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unregistered {
    /// They are passed over: another consumer's concern.
    #[default]
    Skip,
    /// They are a mistake, and given up at once in the way that the retry policy says: as dead letters, or held.
    Fail,
}

/// What the workers need of a consumer.
pub(crate) struct Registered {
    /// The scope of the inbox.
    pub(crate) name: Arc<str>,
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) handlers: HashMap<String, Bound>,
    pub(crate) ladder: Ladder,
    pub(crate) unregistered: Unregistered,
    pub(crate) concurrency: usize,
    pub(crate) group_commit: usize,
    /// Whoever decides about dead letters, and the time they have.
    pub(crate) owner: (String, Duration),
    /// How long the topics keep records, where they are not to be asked.
    pub(crate) source_retention: Option<Duration>,
    /// How long settlements are kept, and who signed for it.
    pub(crate) kept: Option<(Duration, String)>,
    pub(crate) metrics: Metrics,
}

impl Registered {
    /// Which records a record may share a transaction or a task with.
    pub(crate) fn company(&self, record: &Record) -> Option<Company> {
        let handler = record.id.and(self.handlers.get(record.event_type()?))?;
        match handler.kind {
            Kind::Transactional if self.group_commit > 1 => {
                Some(Company { number: 0, most: self.group_commit })
            }
            Kind::Batch(most) => Some(Company { number: handler.number, most }),
            Kind::Idempotent => Some(Company::LIGHT),
            Kind::Transactional | Kind::External | Kind::AtMostOnce => None,
        }
    }
}

/// Why a consumer did not run, or had to stop.
#[derive(Debug, thiserror::Error)]
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

/// What is read from the environment.
const VARIABLES: [&str; 7] = [
    "KAFKA_BROKERS",
    "KAFKA_GROUP",
    "DATABASE_URL",
    PASSWORD,
    PASSWORD_FILE,
    "OUTBOX_ADMIN",
    "OUTBOX_ADMIN_ALLOW_REMOTE",
];

/// How long nothing may be settled beside the longest handler, before `/ready` says so.
const STALLED: Duration = Duration::from_secs(30);

/// Workers, and with them handlers that run at the same time, unless told otherwise.
const CONCURRENCY: usize = 16;

/// Events that share a transaction at most, unless told otherwise, and the most there may be: PostgreSQL keeps the
/// savepoints of a transaction at hand up to 64, and is slower for everybody beyond.
const GROUP: usize = 50;
const MOST_OF_GROUP: usize = 60;

impl Consumer<WithDatabase> {
    /// A consumer of this name, with brokers and database of the environment: `KAFKA_BROKERS`, `DATABASE_URL`, and
    /// `KAFKA_GROUP` where the group is not to be called as the consumer.
    ///
    /// The name is the scope of the inbox: an event happens once per name, whatever the group.
    pub fn from_env(name: &str) -> Consumer<WithDatabase> {
        Consumer::new(name, |variable| std::env::var(variable).ok())
    }

    /// The same, from any lookup.
    pub fn from_lookup(name: &str, lookup: impl Fn(&str) -> Option<String>) -> Consumer<WithDatabase> {
        Consumer::new(name, lookup)
    }
}

impl Consumer<WithoutDatabase> {
    /// A consumer without a database: its handlers see to repetitions themselves.
    pub fn without_database(name: &str) -> Consumer<WithoutDatabase> {
        Consumer::new(name, |variable| std::env::var(variable).ok().filter(|_| variable != "DATABASE_URL"))
    }
}

impl<D> Consumer<D> {
    /// What all handlers share: a client of another service, say. They get it as their last argument, a
    /// [`State`](crate::State) of it.
    ///
    /// ```
    /// use outbox_consumer::{Consumer, Event, Handled, State, done, idempotent};
    ///
    /// struct Rates { percent: u32 }
    ///
    /// async fn quote(order: Event<u32>, rates: State<Rates>) -> Handled {
    ///     println!("{}", *order * rates.percent / 100);
    ///     done()
    /// }
    ///
    /// let consumer = Consumer::without_database("quotes").state(Rates { percent: 3 }).on("OrderPlaced", idempotent(quote));
    /// ```
    pub fn state<S: Send + Sync + 'static>(self, state: S) -> Consumer<D, S> {
        let lifted = self.handlers.into_iter().map(|(name, handler)| (name, handler.lift()));
        Consumer {
            name: self.name,
            scope: self.scope,
            settings: self.settings,
            kafka: self.kafka,
            topics: self.topics,
            handlers: lifted.collect(),
            state: Arc::new(state),
            owner: self.owner,
            ladder: self.ladder,
            unregistered: self.unregistered,
            concurrency: self.concurrency,
            group_commit: self.group_commit,
            source_retention: self.source_retention,
            kept: self.kept,
            budget: self.budget,
            admin: self.admin,
            admin_allow_remote: self.admin_allow_remote,
            mistakes: self.mistakes,
            of: PhantomData,
        }
    }

    fn new(name: &str, lookup: impl Fn(&str) -> Option<String>) -> Consumer<D> {
        let found = VARIABLES.into_iter().filter_map(|variable| Some((variable, lookup(variable)?)));
        Consumer {
            name: name.to_owned(),
            scope: None,
            settings: found.filter(|(_, value)| !value.trim().is_empty()).collect(),
            kafka: Vec::new(),
            topics: Vec::new(),
            handlers: HashMap::new(),
            state: Arc::new(()),
            owner: None,
            ladder: in_place(3).then([minutes(1), minutes(10), minutes(60)]).when_exhausted(Exhausted::Hold),
            unregistered: Unregistered::default(),
            concurrency: CONCURRENCY,
            group_commit: GROUP,
            source_retention: None,
            kept: None,
            budget: Limits::default(),
            admin: None,
            admin_allow_remote: false,
            mistakes: Vec::new(),
            of: PhantomData,
        }
    }
}

impl<D, S: Send + Sync + 'static> Consumer<D, S> {
    /// Who looks at what cannot be handled, and the time they have for it. Asked for before anything runs.
    pub fn owner(mut self, owner: &str, within: Duration) -> Consumer<D, S> {
        self.owner = Some((owner.to_owned(), within));
        self
    }

    /// A topic to read; may be given again.
    pub fn topic(mut self, topic: &str) -> Consumer<D, S> {
        self.topics.push(topic.to_owned());
        self
    }

    /// The handler for events of a type.
    pub fn on(mut self, event_type: &str, handler: Handler<D, S>) -> Consumer<D, S> {
        if self.handlers.insert(event_type.to_owned(), handler.registration).is_some() {
            self.mistakes.push(format!("two handlers are registered for the type {event_type}"));
        }
        self
    }

    /// What happens to events of types that no handler is registered for: they are skipped unless told otherwise.
    pub fn unregistered(mut self, what: Unregistered) -> Consumer<D, S> {
        self.unregistered = what;
        self
    }

    /// What follows a failed attempt. Three attempts in place, then rungs of one minute, ten and sixty, unless told
    /// otherwise; an event that is exhausted is held, with its key.
    pub fn retry(mut self, ladder: Ladder) -> Consumer<D, S> {
        self.ladder = ladder;
        self
    }

    /// When a handler is paused because too many of its events fail: half of at least twenty within a minute, or fifty
    /// in a row, unless told otherwise. Then one event at a time is tried, until one goes well, and no other climbs the
    /// ladder meanwhile. First attempts count; those of events that have failed before say nothing new.
    pub fn retry_budget(mut self, limits: Limits) -> Consumer<D, S> {
        self.budget = limits;
        self
    }

    /// How many handlers run at the same time: 16 unless told otherwise. Each may take a connection to the
    /// database.
    pub fn concurrency(mut self, handlers: usize) -> Consumer<D, S> {
        self.concurrency = handlers;
        self
    }

    /// How many events share a transaction at most under load: 50 unless told otherwise, at most 60; 1 gives each a
    /// transaction of its own. Each has a savepoint, so that one that fails undoes no other. With one event waiting
    /// the group is one, so nobody waits for company.
    pub fn group_commit(mut self, most: usize) -> Consumer<D, S> {
        self.group_commit = most;
        self
    }

    /// How long the topics keep their records, where the cluster is not to be asked for it.
    pub fn source_retention(mut self, kept: Duration) -> Consumer<D, S> {
        self.source_retention = Some(kept);
        self
    }

    /// Keeps settlements for so long. Unless told otherwise that is how long a copy of an event can still come: what
    /// the topics keep, the ladder, the dead letters' window and the eight days of the relay's table. For less somebody
    /// has to sign, by name: a copy that comes later is never run, but becomes a dead letter.
    pub fn keep_settlements(mut self, kept: Duration, signed_by: &str) -> Consumer<D, S> {
        self.kept = Some((kept, signed_by.to_owned()));
        self
    }

    /// Opens an admin port with `/live`, `/ready`, `/status` and `/metrics` (Prometheus text): `127.0.0.1:9465`, or a
    /// port alone, which is on loopback. `OUTBOX_ADMIN` does the same, where this is not called. There is none unless
    /// asked for; metrics go to OpenTelemetry's global meter provider in any case.
    pub fn admin(mut self, address: &str) -> Consumer<D, S> {
        self.admin = Some(address.to_owned());
        self
    }

    /// Lets the admin port be on an address that is not loopback, which is refused otherwise: it asks for no
    /// password. `OUTBOX_ADMIN_ALLOW_REMOTE=true` does the same.
    pub fn admin_allow_remote(mut self) -> Consumer<D, S> {
        self.admin_allow_remote = true;
        self
    }

    /// The scope of the inbox where it is not to be the consumer's name: an event has one effect per scope. A group
    /// that is to run everything once more takes a fresh one.
    pub fn scope(mut self, scope: &str) -> Consumer<D, S> {
        self.scope = Some(scope.to_owned());
        self
    }

    /// An option of librdkafka. Those that would break a promise are refused.
    pub fn kafka_option(mut self, name: &str, value: &str) -> Consumer<D, S> {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            self.mistakes.push(format!("the option {name} of Kafka's client is refused: {why}"));
        }
        self.kafka.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Everything that is wrong with it; empty where it can run.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.mistakes.clone();
        let mut expect = |holds: bool, sentence: &str| {
            if !holds {
                mistakes.push(sentence.to_owned());
            }
        };
        expect(!self.name.trim().is_empty(), "the consumer has no name: it is the scope of its inbox");
        expect(
            self.scope.as_ref().is_none_or(|scope| !scope.trim().is_empty()),
            "the scope of the inbox is empty: leave scope() out, and it is the consumer's name",
        );
        expect(
            self.settings.contains_key("KAFKA_BROKERS"),
            "KAFKA_BROKERS is not set: host:port, comma-separated",
        );
        expect(!self.topics.is_empty(), "there is no topic: call topic()");
        expect(!self.handlers.is_empty(), "there is no handler: call on()");
        expect(
            self.owner.as_ref().is_some_and(|(owner, within)| !owner.trim().is_empty() && !within.is_zero()),
            "nobody owns what cannot be handled: call owner() with a name and the time they have",
        );
        expect(self.concurrency > 0, "concurrency is 0: nothing would ever run");
        expect(
            (1..=MOST_OF_GROUP).contains(&self.group_commit),
            "group_commit is not from 1 to 60: PostgreSQL keeps the savepoints of a transaction at hand up to 64",
        );
        let needs = self.handlers.values().any(|handler| handler.kind().needs_inbox());
        expect(
            !needs || self.settings.contains_key("DATABASE_URL"),
            "DATABASE_URL is not set, and a handler with an inbox needs it: postgresql://user@host/database",
        );
        if let Some(Err(wrong)) = self.link() {
            mistakes.extend(wrong.iter().map(|sentence| format!("DATABASE_URL: {sentence}")));
        }
        mistakes.extend(self.admin_address().and_then(Result::err));
        mistakes.extend(self.ladder.check().err().map(|error: LadderError| error.to_string()));
        mistakes
    }

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
        let config = self.client_config();
        let longest = self.handlers.values().map(Registration::timeout).max().unwrap_or_default();
        let scope = self.scope.clone().unwrap_or_else(|| self.name.clone());
        let database = match self.link() {
            // Workers, the parked keys, and one to spare. The server ends what a frozen process left open a while
            // after any handler would have been stopped (C31).
            Some(Ok(link)) => {
                let abandoned = longest + Duration::from_secs(10);
                Some(Database::new(link, &self.name, self.concurrency + 2, abandoned))
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
        let mut handlers = HashMap::new();
        for ((name, handler), number) in self.handlers.into_iter().zip(1..) {
            handlers.insert(name, handler.bind(&self.state, number, self.budget));
        }
        let registered = Registered {
            name: Arc::from(scope),
            group,
            topics: self.topics,
            handlers,
            ladder: self.ladder,
            unregistered: self.unregistered,
            concurrency: self.concurrency,
            group_commit: self.group_commit,
            owner: self.owner.unwrap_or_default(),
            source_retention: self.source_retention,
            kept: self.kept,
            metrics,
        };
        let (owner, within) = &registered.owner;
        let (consumer, topics) = (&*registered.name, registered.topics.join(", "));
        tracing::info!(consumer, owner, ?within, "consuming {topics}");
        let running = runtime::run(&config, registered, database, shutdown);
        match admin {
            Some(admin) => beside(admin, running).await,
            None => running.await,
        }
    }

    fn group(&self) -> String {
        self.settings.get("KAFKA_GROUP").unwrap_or(&self.name).clone()
    }

    /// Where the admin port is to listen, if there is to be one.
    fn admin_address(&self) -> Option<Result<SocketAddr, String>> {
        let text = self.admin.as_ref().or_else(|| self.settings.get("OUTBOX_ADMIN"))?;
        let set = self.settings.get("OUTBOX_ADMIN_ALLOW_REMOTE").is_some_and(|text| text.trim() == "true");
        Some(admin::address(text, self.admin_allow_remote || set))
    }

    /// What it will be seen by, in the application's meter provider.
    fn metrics(&self) -> Metrics {
        let names = metrics::Names { consumer: self.name.clone(), group: self.group() };
        let types: Vec<String> = self.handlers.keys().cloned().collect();
        let metrics = Metrics::new(names, &self.topics, &types);
        metrics.publish(&opentelemetry::global::meter(metrics::SCOPE));
        metrics
    }

    /// Where the database is; `None` where none is named.
    fn link(&self) -> Option<Result<Link, Mistakes>> {
        let url = self.settings.get("DATABASE_URL")?;
        Some(Link::parse(url, |variable| self.settings.get(variable).cloned()))
    }

    fn client_config(&self) -> ClientConfig {
        let setting = |name: &str| self.settings.get(name).cloned();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", setting("KAFKA_BROKERS").unwrap_or_default())
            .set("group.id", self.group())
            .set("client.id", format!("outbox-consumer {}", self.name))
            .set("partition.assignment.strategy", "cooperative-sticky")
            // A new consumer begins with everything (C35).
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            // By default a consumer whose queue was full rests for a second.
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "16384")
            .set("socket.keepalive.enable", "true");
        for (name, value) in &self.kafka {
            config.set(name, value);
        }
        config
            // Only the frontier is committed, and by us (C27).
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }
}

/// Options that are the consumer's own, and why.
const REFUSED: [(&str, &str); 6] = [
    ("bootstrap.servers", "it is KAFKA_BROKERS"),
    ("group.id", "it is KAFKA_GROUP"),
    (
        "enable.auto.commit",
        "an offset is committed when everything below it is settled, and not when it was read",
    ),
    (
        "enable.auto.offset.store",
        "an offset is committed when everything below it is settled, and not when it was read",
    ),
    ("isolation.level", "records of transactions that were never committed would be handled"),
    ("enable.partition.eof", "it is no error here"),
];

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

/// Handlers are code and cannot be shown.
impl<D, S> std::fmt::Debug for Consumer<D, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Raw, done, idempotent};

    #[test]
    fn all_mistakes_are_told_at_once() {
        let consumer = Consumer::from_lookup("", |_| None)
            .concurrency(0)
            .kafka_option("enable.auto.commit", "true")
            .retry(in_place(1).then([Duration::ZERO]));
        let mistakes = consumer.mistakes();
        for part in [
            "no name",
            "KAFKA_BROKERS",
            "topic()",
            "on()",
            "owner()",
            "concurrency",
            "enable.auto.commit",
            "rung",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:?}");
        }
    }

    #[test]
    fn a_consumer_without_database_takes_idempotent_handlers() {
        let handler = async |_: Event<Raw>| done();
        let brokers = |name: &str| (name == "KAFKA_BROKERS").then(|| "127.0.0.1:9".to_owned());
        let consumer: Consumer<WithoutDatabase> = Consumer::new("audit", brokers);
        let consumer = consumer.topic("t").owner("team", minutes(5)).on("A", idempotent(handler));
        assert_eq!(consumer.mistakes(), Vec::<String>::new());
    }
}
