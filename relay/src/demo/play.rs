//! The run from beginning to end: set up, load with kills, catch up, drain, verdict.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::broker::Broker;
use super::kills::{self, Kill};
use super::log::LogReader;
use super::postgres::Postgres;
use super::relay::{Drained, Relay};
use super::screen::{Kind, Progress, Screen};
use super::service::{self, Service};
use super::verdict::judge;
use super::{DemoError, Options, Outcome};

/// How often the play looks around.
const LOOK: Duration = Duration::from_millis(10);
/// How often it tells how things stand.
const TELL: Duration = Duration::from_secs(1);
/// A kill waits for something to be in flight, but not longer than this.
const LATEST_KILL: Duration = Duration::from_secs(1);
/// How long nothing may move before it is given up that the rest will come.
const STANDSTILL: Duration = Duration::from_secs(20);
/// How long reading to the end of the log may take.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// Plays everything and tells it. What it started is gone when it returns or is dropped.
///
/// # Errors
/// [`DemoError`]: there is no verdict.
pub async fn play(options: &Options, screen: &mut Screen) -> Result<Outcome, DemoError> {
    screen.say(INTRODUCTION);
    let mut stage = Stage::set_up(options, screen).await?;
    stage.load(options, screen).await?;
    stage.service.close().await?;
    stage.catch_up(screen).await?;
    stage.judge(options.seed, screen).await
}

const INTRODUCTION: &str = "\
An orders service and a relay, live, for about half a minute.

The service changes orders in PostgreSQL. Each transaction also inserts an event into the table
outbox.events: change and event become true together, or neither does (one transaction in ten is
rolled back, others only a savepoint of theirs). The relay follows PostgreSQL's log and publishes
what was committed to Kafka, keyed by order. On the way it is killed twice, without warning, while
orders go on. In the end every event in the table is compared with every record on the log: nothing
may be lost, nothing invented, and each order's events have to come in the order of their commits.
";

/// Everything that runs. Dropped in this order: first who uses the others.
struct Stage {
    relay: Relay,
    service: Service,
    log: Option<LogReader>,
    broker: Broker,
    postgres: Postgres,
    begun: Instant,
    told: Option<Instant>,
    /// Repeated records that had been seen when the relay was killed.
    repeated_at_kills: Vec<u64>,
}

impl Stage {
    async fn set_up(options: &Options, screen: &mut Screen) -> Result<Stage, DemoError> {
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
        screen.say(&describe(&broker));
        screen.say(&format!("Seed        {} (--seed {} plays the same again)\n", options.seed, options.seed));
        let log = LogReader::start(&broker)?;
        let mut relay = Relay::configure(&postgres, &broker)?;
        service::make_database(&postgres).await?;
        relay.init(&postgres).await?;
        service::make_table(&postgres).await?;
        screen.say("`outbox-relay init` made the outbox, a publication and a replication slot.");
        relay.start()?;
        screen.tell(Kind::Started, "`outbox-relay run` started; the shop opens.");
        let service = Service::open(&postgres, options.rate, options.seed).await?;
        let begun = Instant::now();
        let (told, repeated_at_kills) = (None, Vec::new());
        Ok(Stage { relay, service, log: Some(log), broker, postgres, begun, told, repeated_at_kills })
    }

    /// The load, with its kills.
    async fn load(&mut self, options: &Options, screen: &mut Screen) -> Result<(), DemoError> {
        let load = Duration::from_secs(options.seconds.into());
        let mut kills = kills::planned(options.seed, load).into_iter().peekable();
        let mut back_at = None;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while self.begun.elapsed() < load {
            looks.tick().await;
            self.relay.check()?;
            if self.cannot_go_on(screen) {
                break;
            }
            let elapsed = self.begun.elapsed();
            if back_at.is_some_and(|at| elapsed >= at) {
                back_at = None;
                self.start_again(screen)?;
            } else if let Some(kill) = kills.next_if(|kill| self.is_time_for(kill, elapsed)) {
                back_at = Some(elapsed + kill.away);
                self.kill(screen)?;
            }
            self.tell_how_things_stand(screen).await;
        }
        if back_at.is_some() {
            self.start_again(screen)?;
        }
        Ok(())
    }

    /// Whether the load has to end early, and why. What failed shows its reason at the next step.
    fn cannot_go_on(&self, screen: &mut Screen) -> bool {
        let Some(log) = &self.log else { return true };
        let full = self.broker.is_in_memory() && log.is_nearly_full();
        if full {
            let why = "The broker in memory keeps no more than 5 MiB a partition: the shop closes early.";
            screen.tell(Kind::Trouble, why);
        }
        full || log.has_failed() || self.service.has_failed()
    }

    /// At its time, and then as soon as there are orders that were committed and are not on the log.
    fn is_time_for(&self, kill: &Kill, elapsed: Duration) -> bool {
        elapsed >= kill.at && (self.in_flight() > 0 || elapsed >= kill.at + LATEST_KILL)
    }

    fn kill(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        let in_flight = self.in_flight();
        self.relay.kill()?;
        self.repeated_at_kills.push(self.repeated());
        let text =
            format!("relay killed (SIGKILL); committed and not yet on the log: {in_flight}; orders go on");
        screen.tell(Kind::Killed, &text);
        Ok(())
    }

    fn start_again(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        let behind = self.in_flight();
        self.relay.start()?;
        let text = format!("relay started again, {behind} events behind; it reads on from its last record");
        screen.tell(Kind::Started, &text);
        Ok(())
    }

    /// Waits until the log has everything, or nothing moves any more: then the judge will say so.
    async fn catch_up(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        screen.say("the shop closes; the log has to get everything");
        let mut newest = (self.published(), Instant::now());
        let mut looks = interval(LOOK);
        while self.in_flight() > 0 {
            looks.tick().await;
            self.relay.check()?;
            self.tell_how_things_stand(screen).await;
            let published = self.published();
            if published > newest.0 {
                newest = (published, Instant::now());
            }
            if self.log_has_failed() || newest.1.elapsed() >= STANDSTILL {
                break;
            }
        }
        // A log that cannot be read says why itself.
        if self.in_flight() > 0 && !self.log_has_failed() {
            let text = format!(
                "nothing has moved for {} s; the end of the relay's log:\n{}",
                newest.1.elapsed().as_secs(),
                self.relay.log_tail()
            );
            screen.tell(Kind::Trouble, &text);
        }
        Ok(())
    }

    /// Stops the relay in order, reads table and log to their ends, and compares them.
    async fn judge(mut self, seed: u64, screen: &mut Screen) -> Result<Outcome, DemoError> {
        let drained = self.relay.drain().await?;
        match &drained {
            Drained::Cleanly => screen.say("relay told to stop (SIGTERM): drained, exit code 0"),
            Drained::No(why) => screen.tell(Kind::Trouble, &format!("the relay did not drain: {why}")),
        }
        let rolled_back = self.service.done().rolled_back();
        let published = match self.log.take() {
            Some(log) => log.finish(READ_PATIENCE).await?,
            None => Vec::new(),
        };
        let committed = service::committed(&self.postgres).await?;
        let verdict = judge(&committed, &published);
        let ends = self.repeated_at_kills.iter().skip(1).copied().chain([verdict.repeated as u64]);
        let repeated_per_kill = self.repeated_at_kills.iter().zip(ends).map(|(at, end)| end - at).collect();
        let drained = drained == Drained::Cleanly;
        let outcome = Outcome { verdict, drained, rolled_back, repeated_per_kill, seed };
        screen.say(&conclusion(&outcome, &self.broker));
        Ok(outcome)
    }

    /// Once a second.
    async fn tell_how_things_stand(&mut self, screen: &mut Screen) {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        self.told = Some(Instant::now());
        let relay = self.relay.state().await;
        let progress = Progress {
            committed: self.service.done().committed(),
            rolled_back: self.service.done().rolled_back(),
            published: self.published(),
            repeated: self.repeated(),
            relay,
        };
        screen.progress(self.begun.elapsed(), &progress);
    }

    fn log_has_failed(&self) -> bool {
        self.log.as_ref().is_none_or(LogReader::has_failed)
    }

    fn published(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.counts().published as u64)
    }

    fn repeated(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.counts().repeated as u64)
    }

    /// Committed and not yet on the log. (The log may be a moment ahead of what the service was told.)
    fn in_flight(&self) -> u64 {
        self.service.done().committed().saturating_sub(self.published())
    }
}

fn describe(broker: &Broker) -> String {
    if broker.is_in_memory() {
        return "Kafka       in memory, inside this process: it shows what the relay does and nothing about\n            \
                durability, since it keeps nothing. --kafka-brokers HOST:PORT takes a real one."
            .into();
    }
    format!("Kafka       {}, topics {} and {}", broker.servers, broker.topic(), broker.state_topic)
}

/// What the numbers mean.
fn conclusion(outcome: &Outcome, broker: &Broker) -> String {
    let counts: Vec<String> = outcome.repeated_per_kill.iter().map(u64::to_string).collect();
    let kills = match counts.as_slice() {
        [] => "\nThe relay was never killed.".to_owned(),
        counts => format!(
            "\nKills of the relay: {}; records that came again after them: {}. It goes on from its last recorded\n\
             position, so a stretch repeats: in order, and under the same ids, by which consumers know that\n\
             they have had them.",
            counts.len(),
            counts.join(" and ")
        ),
    };
    let kept = match broker.is_in_memory() {
        true => String::new(),
        false => {
            format!("\nThe topics {} and {} are left for you to look at.", broker.topic(), broker.state_topic)
        }
    };
    format!(
        "{kills}\nEvents rolled back with their changes: {}; each of them on the log would be a phantom.{kept}\n",
        outcome.rolled_back
    )
}
