//! Everything that runs, and how things stand with it.

use std::time::{Duration, Instant};

use super::broker::Broker;
use super::consumers::{Consumers, INSTANCES};
use super::group::{Group, Standing};
use super::log::LogReader;
use super::postgres::Postgres;
use super::relay::Relay;
use super::screen::{Kind, Progress, Screen};
use super::service::{self, Service};
use super::shipping::{self, Books};
use super::{DemoError, Options, words};

/// How often it is told how things stand.
const TELL: Duration = Duration::from_secs(1);

/// Dropped in this order: first who uses the others.
pub struct Stage {
    pub consumers: Consumers,
    pub relay: Relay,
    pub service: Service,
    pub books: Books,
    pub group: Group,
    pub log: Option<LogReader>,
    pub broker: Broker,
    pub postgres: Postgres,
    pub begun: Instant,
    told: Option<Instant>,
    /// Repeated records that had been seen when the relay was killed, for each kill.
    pub repeated_at_kills: Vec<u64>,
    /// Transactions that a consumer had open when it was killed, for each kill.
    pub open_at_kills: Vec<u64>,
    /// Where the group stood at the last kill of a consumer, until it has recovered.
    at_last_kill: Option<Standing>,
}

impl Stage {
    /// Starts everything.
    ///
    /// # Errors
    /// [`DemoError`]: something does not start.
    pub async fn set_up(options: &Options, screen: &mut Screen) -> Result<Stage, DemoError> {
        let postgres = Postgres::start().await?;
        screen.say(&format!(
            "PostgreSQL  {}, private, on 127.0.0.1:{}; deleted afterwards",
            postgres.version().await?,
            postgres.port()
        ));
        let broker = match &options.kafka_brokers {
            None => Broker::in_memory()?,
            Some(brokers) => Broker::real(brokers).await?,
        };
        screen.say(&words::describe(&broker));
        screen.say(&format!("Seed        {} (--seed {} plays the same again)\n", options.seed, options.seed));
        let (log, group) = (LogReader::start(&broker)?, Group::of(&broker)?);
        let mut relay = Relay::configure(&options.relay, &postgres, &broker)?;
        let mut consumers = Consumers::configure(&postgres, &broker)?;
        service::make_database(&postgres).await?;
        relay.init(&postgres).await?;
        service::make_table(&postgres).await?;
        screen.say("`outbox-relay init` made the outbox, a publication and a replication slot.");
        shipping::make_database(&postgres).await?;
        let books = Books::open(&postgres).await?;
        screen.say("The shipping service has a database of its own, with the inbox in it.");
        relay.start()?;
        for number in 0..INSTANCES {
            consumers.start(number)?;
        }
        screen.tell(Kind::Started, "`outbox-relay run` and two consumers started; the shop opens.");
        let service = Service::open(&postgres, options.rate, options.seed).await?;
        Ok(Stage {
            consumers,
            relay,
            service,
            books,
            group,
            log: Some(log),
            broker,
            postgres,
            begun: Instant::now(),
            told: None,
            repeated_at_kills: Vec::new(),
            open_at_kills: Vec::new(),
            at_last_kill: None,
        })
    }

    /// Fails if a process has ended by itself.
    ///
    /// # Errors
    /// [`DemoError::Relay`] or [`DemoError::Consumers`], with the end of its log.
    pub fn check(&mut self) -> Result<(), DemoError> {
        self.relay.check()?;
        Ok(self.consumers.check()?)
    }

    /// Kills a consumer that has so many transactions open.
    ///
    /// # Errors
    /// [`DemoError::Consumers`] or [`DemoError::Group`].
    pub async fn kill_consumer(&mut self, number: usize, open: u64) -> Result<(), DemoError> {
        self.consumers.kill(number)?;
        self.open_at_kills.push(open);
        self.at_last_kill = Some(self.group.standing().await?);
        Ok(())
    }

    /// Whether the consumers have come on everywhere since the last kill.
    ///
    /// # Errors
    /// [`DemoError::Group`].
    pub async fn consumers_have_recovered(&mut self) -> Result<bool, DemoError> {
        if let Some(before) = &self.at_last_kill {
            if !self.group.standing().await?.has_come_on_since(before) {
                return Ok(false);
            }
            self.at_last_kill = None;
        }
        Ok(true)
    }

    /// Tells how things stand, once a second.
    ///
    /// # Errors
    /// [`DemoError::Postgres`]: the effects cannot be counted.
    pub async fn tell_how_things_stand(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        let relay = self.relay.state().await;
        let progress = Progress {
            committed: self.service.done().committed(),
            rolled_back: self.service.done().rolled_back(),
            published: self.published(),
            repeated: self.repeated(),
            effects: self.books.count().await?,
            relay,
            consumers: self.consumers.running(),
            relay_kills: self.repeated_at_kills.len(),
            consumer_kills: self.open_at_kills.len(),
        };
        screen.progress(self.begun.elapsed(), &progress);
        Ok(())
    }

    /// Whether the log can no longer be read; then it says why itself.
    pub fn log_has_failed(&self) -> bool {
        self.log.as_ref().is_none_or(LogReader::has_failed)
    }

    /// Distinct events on the log.
    pub fn published(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.counts().published as u64)
    }

    /// Records beyond the first of their event.
    pub fn repeated(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.counts().repeated as u64)
    }

    /// Committed and not yet on the log. (The log may be a moment ahead of what the service was told.)
    pub fn in_flight(&self) -> u64 {
        self.service.done().committed().saturating_sub(self.published())
    }
}
