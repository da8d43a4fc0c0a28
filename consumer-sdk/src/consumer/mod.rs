//! A consumer as an application writes it.
//!
//! | module | what it owns |
//! |---|---|
//! | this one | the builder: who consumes what, with which handlers, and what follows a failure |
//! | [`settings`] | what is read from the environment |
//! | [`park`] | how much the park may hold |
//! | [`kafka`] | the options of Kafka's client: the consumer's own, and those that are refused |
//! | [`running`] | from a builder without mistakes to a consumer that runs, and when it is told to stop |

mod kafka;
mod park;
mod running;
mod settings;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::handler::{Handler, Registration, WithDatabase, WithoutDatabase};
use crate::ladder::{Exhausted, Ladder, LadderError, Limits, in_place, minutes};
use settings::Settings;

pub use park::ParkLimits;
pub(crate) use running::Registered;
pub use running::RunError;

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
    settings: Settings,
    kafka: Vec<(String, String)>,
    topics: Vec<String>,
    handlers: HashMap<String, Registration<S>>,
    state: Arc<S>,
    owner: Option<(String, Duration)>,
    ladder: Ladder,
    unregistered: Unregistered,
    concurrency: usize,
    group_commit: usize,
    park: Option<ParkLimits>,
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

/// Workers, and with them handlers that run at the same time, unless told otherwise.
const CONCURRENCY: usize = 16;

/// Events that share a transaction at most, unless told otherwise, and the most there may be: PostgreSQL keeps the
/// savepoints of a transaction at hand up to 64, and is slower for everybody beyond.
const GROUP: usize = 50;
const MOST_OF_GROUP: usize = 60;

impl Consumer<WithDatabase> {
    /// A consumer of this name, with brokers and database of the environment: `KAFKA_BROKERS`, `DATABASE_URL`, and
    /// `KAFKA_GROUP` where the group is not to be called as the consumer. The README has all variables.
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
            park: self.park,
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
        Consumer {
            name: name.to_owned(),
            scope: None,
            settings: Settings::read(lookup),
            kafka: Vec::new(),
            topics: Vec::new(),
            handlers: HashMap::new(),
            state: Arc::new(()),
            owner: None,
            ladder: in_place(3).then([minutes(1), minutes(10), minutes(60)]),
            unregistered: Unregistered::default(),
            concurrency: CONCURRENCY,
            group_commit: GROUP,
            park: None,
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
    /// otherwise. An event that is exhausted is held, with its key, whichever attempts there are: dead letters, behind
    /// which the key goes on, are asked for by
    /// [`when_exhausted(Exhausted::Skip)`](Ladder::when_exhausted).
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
    /// the group is one, so nobody waits for company. A handler whose statements hold until the transaction ends
    /// (`SET LOCAL`, say; [`Tx`](crate::Tx) has the list) shares none.
    pub fn group_commit(mut self, most: usize) -> Consumer<D, S> {
        self.group_commit = most;
        self
    }

    /// How much the park may hold: 10,000 events of a key, and 100,000 events or 1 GiB in all, unless told otherwise.
    /// `OUTBOX_PARK_EVENTS_OF_KEY`, `OUTBOX_PARK_EVENTS` and `OUTBOX_PARK_BYTES` do the same, where this is not called.
    pub fn park_limits(mut self, limits: ParkLimits) -> Consumer<D, S> {
        self.park = Some(limits);
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

    /// An option of librdkafka, such as `ssl.ca.location`. Those that would break a promise are refused, and so is one that
    /// a `KAFKA_…` variable gives, too. TLS is spoken unless every broker is on loopback; in the clear over a network takes
    /// `security.protocol`, as an option or as `KAFKA_SECURITY_PROTOCOL`.
    pub fn kafka_option(mut self, name: &str, value: &str) -> Consumer<D, S> {
        if let Some(why) = kafka::refused(name) {
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
        expect(self.settings.brokers().is_some(), "KAFKA_BROKERS is not set: host:port, comma-separated");
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
            !needs || self.settings.database().is_some(),
            "DATABASE_URL is not set, and a handler with an inbox needs it: postgresql://user@host/database",
        );
        let parks = self.handlers.values().any(|handler| handler.kind().parks());
        expect(
            self.ladder.exhausted() != Exhausted::Halt || self.ladder.rungs().is_empty() || !parks,
            "Exhausted::Halt cannot stand behind rungs: an event that waits for one is parked, and its partition has gone \
             on by then; leave then() out and raise in_place() and backoff(), or take Exhausted::Hold, which holds the key",
        );
        mistakes.extend(self.settings.kafka(&self.kafka).err().into_iter().flatten());
        if let Some(Err(wrong)) = self.settings.link() {
            mistakes.extend(wrong.iter().map(|sentence| format!("DATABASE_URL: {sentence}")));
        }
        mistakes.extend(self.limits_of_park().err().unwrap_or_default());
        mistakes.extend(self.admin_address().and_then(Result::err));
        mistakes.extend(self.ladder.check().err().map(|error: LadderError| error.to_string()));
        mistakes
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
    use crate::{Event, Raw, Tx, at_most_once, done, external, idempotent, transactional};

    #[test]
    fn all_mistakes_are_told_at_once() {
        let consumer = Consumer::from_lookup("", |_| None)
            .concurrency(0)
            .kafka_option("enable.auto.commit", "true")
            .kafka_option("sasl.username", "inventory")
            .kafka_option("sasl.pasword", "hush")
            .park_limits(ParkLimits { bytes: 0, ..ParkLimits::default() })
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
            "KAFKA_SASL_MECHANISM",
            "sasl.pasword: librdkafka has no such option",
            "limit of the park",
            "rung",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:?}");
        }
        assert!(!mistakes.concat().contains("hush"), "{mistakes:?}");
    }

    #[test]
    fn brokers_elsewhere_are_spoken_to_over_tls_unless_somebody_says_otherwise() {
        let config = |brokers: &'static str, clear: bool| {
            let lookup = move |name: &str| match name {
                "KAFKA_BROKERS" => Some(brokers.to_owned()),
                "KAFKA_SECURITY_PROTOCOL" if clear => Some("plaintext".to_owned()),
                _ => None,
            };
            let consumer = Consumer::from_lookup("audit", lookup).kafka_option("client.id", "mine");
            consumer.client_config(&consumer.settings.kafka(&consumer.kafka).unwrap())
        };
        for (brokers, clear, protocol) in [
            ("k1:9093", false, "ssl"),
            ("k1:9093", true, "plaintext"),
            ("localhost:9092", false, "plaintext"),
        ] {
            let config = config(brokers, clear);
            assert_eq!(config.get("security.protocol"), Some(protocol), "{brokers}");
            assert_eq!(config.get("bootstrap.servers"), Some(brokers));
            let own = ["group.id", "client.id", "auto.offset.reset", "socket.keepalive.enable"]
                .map(|o| config.get(o));
            assert_eq!(own, [Some("audit"), Some("mine"), Some("error"), Some("true")]);
        }
    }

    #[test]
    fn a_ladder_that_is_given_ends_as_the_usual_one_does() {
        let usual = Consumer::from_lookup("audit", |_| None);
        assert_eq!(usual.ladder.exhausted(), Exhausted::Hold);
        let given = usual.retry(in_place(3).then([minutes(1)]));
        assert_eq!(given.ladder.exhausted(), Exhausted::Hold);
    }

    #[test]
    fn nothing_halts_behind_rungs_that_has_left_its_partition_by_then() {
        let alone = || async |_: Event<Raw>| done();
        let halts = |handler: Handler<WithDatabase>, ladder: Ladder| {
            let consumer = Consumer::from_lookup("audit", |_| None).on("A", handler);
            let mistakes = consumer.retry(ladder.when_exhausted(Exhausted::Halt)).mistakes();
            mistakes.iter().any(|mistake| mistake.contains("Exhausted::Halt cannot stand behind rungs"))
        };
        let rungs = || in_place(3).then([minutes(1)]);
        assert!(halts(transactional(async |_: Event<Raw>, _: Tx| done()), rungs()));
        assert!(halts(external(alone()), rungs()));
        // These wait where they are, or not at all; and without rungs all do.
        assert!(!halts(idempotent(alone()), rungs()) && !halts(at_most_once(alone()), rungs()));
        assert!(!halts(external(alone()), in_place(3)));
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
