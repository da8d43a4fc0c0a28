//! Who consumes a topic, as a process.

use std::process::Command;

use super::configuration::{built, java, version};
use super::results::{Entry, Settings};
use crate::bench::consumer::ground::{Ground, NAME};
use crate::bench::consumer::instance::Instance;
use crate::bench::consumer::job;
use crate::bench::consumer::plan::{CONNECTIONS, GROUP, SLEEPERS};
use crate::cluster::postgres::{PASSWORD, SUPERUSER};

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// librdkafka alone.
    Bare,
    /// The consumer of this repository.
    Consumer,
    /// Confluent Parallel Consumer.
    Parallel,
    /// Spring Kafka.
    Spring,
}

impl System {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            System::Bare => "bare rdkafka loop",
            System::Consumer => "outbox-consumer",
            System::Parallel => "Parallel Consumer",
            System::Spring => "Spring Kafka",
        }
    }

    /// Its version.
    ///
    /// # Panics
    /// When it is not there.
    pub fn version(self) -> String {
        match self {
            System::Bare => rdkafka::util::get_rdkafka_version().1,
            System::Consumer => env!("CARGO_PKG_VERSION").to_owned(),
            System::Parallel => version(&built(self.directory()), "parallel-consumer-core"),
            System::Spring => version(&built(self.directory()), "spring-kafka"),
        }
    }

    fn directory(self) -> &'static str {
        match self {
            System::Parallel => "parallel-consumer",
            System::Spring => "spring-kafka",
            System::Bare | System::Consumer => panic!("it is in this program"),
        }
    }
}

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Nothing,
    /// A sleep of one millisecond.
    Sleep,
    /// An update, once for each event, in a transaction of its own.
    One,
    /// The same with many events in a transaction.
    Shared,
    /// A row is inserted, once for each event, in a transaction of its own.
    Insert,
}

impl Work {
    /// How it is called in tables.
    pub fn case(self) -> &'static str {
        match self {
            Work::Nothing => "topic consumed, handler that does nothing",
            Work::Sleep => "topic consumed, handler of 1 ms",
            Work::One => "topic consumed, update in PostgreSQL, a commit per event",
            Work::Shared => "topic consumed, update in PostgreSQL, shared commits",
            Work::Insert => "record to commit, an event per record at a steady rate",
        }
    }

    /// Whether it writes to the database.
    pub fn is_effect(self) -> bool {
        matches!(self, Work::One | Work::Shared | Work::Insert)
    }

    /// How the programs of `tests/peers` call it.
    fn argument(self) -> &'static str {
        match self {
            Work::Nothing => "nothing",
            Work::Sleep => "sleep",
            Work::One => "one",
            Work::Shared => "shared",
            Work::Insert => "insert",
        }
    }
}

/// A system with its settings and its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender {
    /// Who.
    pub system: System,
    /// With which settings.
    pub settings: Settings,
    /// What it does.
    pub work: Work,
}

impl Contender {
    /// Its place in the results.
    pub fn entry(self) -> Entry {
        let Contender { system, settings, work } = self;
        Entry { case: work.case().to_owned(), system: system.name().to_owned(), settings }
    }

    /// Starts it on a topic. It tells when it has handled `warm_up` events, and when `events`. Also says what its group
    /// is called.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        self,
        ground: &mut Ground,
        topic: &str,
        (warm_up, events): (u64, u64),
    ) -> (String, Instance) {
        let counts = (warm_up, events - warm_up);
        match self.job() {
            Some(work) => ground.start(topic, work, counts),
            None => self.launch(ground, topic, counts),
        }
    }

    /// What a process of ours does; `None` of a peer.
    fn job(self) -> Option<job::Work> {
        let handlers = |tuned| if self.settings == Settings::Tuned { tuned } else { CONNECTIONS };
        let job = match (self.system, self.work) {
            (System::Parallel | System::Spring, _) => return None,
            (System::Bare, _) => job::Work::Bare,
            (System::Consumer, Work::Nothing) => job::Work::Nothing,
            (System::Consumer, Work::Sleep) => job::Work::Sleep { handlers: handlers(SLEEPERS) },
            (System::Consumer, Work::One) => {
                job::Work::Update { handlers: CONNECTIONS, group: 1, pipelined: false }
            }
            (System::Consumer, Work::Shared) => {
                job::Work::Update { handlers: CONNECTIONS, group: GROUP, pipelined: false }
            }
            (System::Consumer, Work::Insert) => job::Work::Insert,
        };
        Some(job)
    }

    fn launch(self, ground: &mut Ground, topic: &str, (warm_up, every): (u64, u64)) -> (String, Instance) {
        let name = ground.new_name();
        let java = java(self.settings);
        let mut command = Command::new(&java[0]);
        let password = PASSWORD.replace(' ', "%20");
        let port = ground.postgres.port();
        command
            .args(&java[1..])
            .arg("-cp")
            .arg(format!("{}/*", built(self.system.directory()).display()))
            .arg("Main")
            .args([format!("topic={topic}"), format!("group={name}"), format!("settings={}", self.settings)])
            .args([
                format!("work={}", self.work.argument()),
                format!("warm_up={warm_up}"),
                format!("every={every}"),
            ])
            .env("KAFKA_BROKERS", ground.kafka.brokers())
            .env(
                "JDBC_URL",
                format!("jdbc:postgresql://127.0.0.1:{port}/{NAME}?user={SUPERUSER}&password={password}"),
            );
        let instance = Instance::spawn(command, &name, ground.directory());
        (name, instance)
    }
}
