//! Who drains an outbox, as a process.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::configuration::{built, fill, java, version};
use super::results::{Entry, Settings};
use crate::bench::ground::{Ground, NAME, publication, slot};
use crate::cluster::ground::{self as cluster, Port};
use crate::cluster::postgres::{PASSWORD, SUPERUSER};
use crate::fault::process::{Launch, Process};
use crate::parts;
use crate::relay::{Relay, RelayConfig};

/// How long a Java virtual machine may take to end.
const END: Duration = Duration::from_secs(60);

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// `pg_recvlogical` to the null device.
    Recvlogical,
    /// The relay by its defaults.
    Relay,
    /// Debezium Server.
    Server(Settings),
    /// Debezium in a worker of Kafka Connect.
    Connect(Settings),
}

impl System {
    /// Everybody, in the order of a round.
    pub const ALL: [System; 6] = [
        System::Recvlogical,
        System::Relay,
        System::Server(Settings::Tuned),
        System::Connect(Settings::Tuned),
        System::Server(Settings::Defaults),
        System::Connect(Settings::Defaults),
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            System::Recvlogical => "pg_recvlogical",
            System::Relay => "outbox-relay",
            System::Server(_) => "Debezium Server",
            System::Connect(_) => "Kafka Connect + Debezium",
        }
    }

    fn settings(self) -> Settings {
        match self {
            System::Recvlogical | System::Relay => Settings::Defaults,
            System::Server(settings) | System::Connect(settings) => settings,
        }
    }

    /// Its place in the results of a case.
    pub fn entry(self, case: &str) -> Entry {
        Entry { case: case.to_owned(), system: self.name().to_owned(), settings: self.settings() }
    }

    /// Its version.
    ///
    /// # Panics
    /// When it is not there.
    pub fn version(self, ground: &Ground) -> String {
        match self {
            System::Recvlogical => said(&ground.postgres.programs().join("pg_recvlogical")),
            System::Relay => said(&parts::relay().unwrap_or_else(|error| panic!("{error}"))),
            System::Server(_) => {
                version(&built("debezium-server").join("lib"), "debezium-connector-postgres")
            }
            System::Connect(_) => {
                let jars = built("debezium-connect");
                let debezium = version(&jars, "debezium-connector-postgres");
                format!("{} + {debezium}", version(&jars, "connect-runtime"))
            }
        }
    }

    /// Starts it on the slot of the relay.
    ///
    /// # Panics
    /// When it cannot be started, or is `pg_recvlogical`, which publishes nothing.
    pub fn start(self, ground: &Ground, config: &RelayConfig, topic: &str) -> Running {
        match self {
            System::Recvlogical => panic!("it publishes nothing"),
            System::Relay => Running::Relay(Relay::start(config)),
            System::Server(_) | System::Connect(_) => Running::Peer(self.launch(ground, topic)),
        }
    }

    fn launch(self, ground: &Ground, topic: &str) -> Peer {
        let settings = self.settings();
        let (directory, port) = (cluster::directory("peer"), Port::claim());
        let values = [
            ("brokers", ground.kafka.brokers()),
            ("port", ground.postgres.port().to_string()),
            ("user", SUPERUSER.to_owned()),
            ("password", PASSWORD.to_owned()),
            ("database", NAME.to_owned()),
            ("slot", slot()),
            ("publication", publication()),
            ("topic_prefix", topic.strip_suffix(NAME).expect("the run and the aggregate's type").to_owned()),
            ("rest_port", port.number().to_string()),
            ("directory", directory.display().to_string()),
        ];
        let filled = |file: String| fill(&file, &values, &directory).display().to_string();
        let mut command = java(settings);
        match self {
            System::Server(_) => {
                let jars = built("debezium-server");
                let version = version(&jars.join("lib"), "debezium-server-core");
                let properties = filled(format!("debezium-server/{settings}.properties"));
                command.push(format!("-Dsmallrye.config.locations={properties}"));
                // Its own message asks for it from Java 24 on.
                command.push("--add-opens=java.base/java.lang=ALL-UNNAMED".to_owned());
                let runner = jars.join(format!("debezium-server-dist-{version}-runner.jar"));
                let path = format!("{}:{}/lib/*", runner.display(), jars.display());
                command.extend(["-cp".to_owned(), path, "io.debezium.server.Main".to_owned()]);
            }
            _ => {
                let path = format!("{}/*", built("debezium-connect").display());
                let main = "org.apache.kafka.connect.cli.ConnectStandalone".to_owned();
                command.extend(["-cp".to_owned(), path, main]);
                command.push(filled(format!("debezium-connect/worker-{settings}.properties")));
                command.push(filled(format!("debezium-connect/connector-{settings}.properties")));
            }
        }
        let process = Process::start(Launch {
            name: self.name().to_owned(),
            command,
            environment: Vec::new(),
            user: None,
            on_test_death: "KILL",
            log: directory.join("log"),
        });
        Peer { process, directory, _port: port }
    }
}

/// What a program says of its version.
fn said(program: &PathBuf) -> String {
    let output = Command::new(program).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The name is in the table beside it.
    text.trim()
        .split_once(' ')
        .map_or(String::new(), |(_, version)| version.trim_start_matches("(PostgreSQL) ").to_owned())
}

/// A process of somebody else.
pub struct Peer {
    process: Process,
    directory: PathBuf,
    _port: Port,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.log_tail());
        }
        self.process.kill();
        cluster::remove(&self.directory);
    }
}

/// A process that drains an outbox. Dropped, it is killed.
pub enum Running {
    /// Ours.
    Relay(Relay),
    /// Another.
    Peer(Peer),
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        match self {
            Running::Relay(relay) => relay.pid(),
            Running::Peer(peer) => peer.process.pid(),
        }
    }

    /// Sees that it runs.
    ///
    /// # Panics
    /// When it has ended, with the end of its log.
    pub fn assert_alive(&self) {
        match self {
            Running::Relay(relay) => assert!(relay.ended().is_none(), "the relay ended\n{}", relay.log()),
            Running::Peer(peer) => {
                assert!(peer.process.ended().is_none(), "it ended\n{}", peer.process.log_tail());
            }
        }
    }

    /// Tells it to end, and waits until it has. What the relay has drained counts only if it ends well.
    ///
    /// # Panics
    /// When it does not end, or the relay not well.
    pub fn stop(self) {
        match self {
            Running::Relay(relay) => {
                let status = relay.terminate();
                assert!(status.success(), "the relay did not drain: {status}\n{}", relay.log());
            }
            Running::Peer(peer) => {
                peer.process.signal(Signal::TERM);
                peer.process.wait(END);
            }
        }
    }
}
