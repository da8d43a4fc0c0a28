//! The cast: one PostgreSQL, three brokers, two relays, two instances of each consumer, and what stands between them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outbox_schema::sql::inbox;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;

use super::actor::Actor;
use super::database::Database;
use super::disk::Disk;
use crate::cluster::ground::Port;
use crate::cluster::{Kafka, Postgres, usual_version};
use crate::fault::commits::CommitCutter;
use crate::fault::process::{Launch, Process};
use crate::fault::proxy::Proxy;
use crate::parts;
use crate::relay::{RelayConfig, http_get};

/// The name of the relays, and with it of their slot.
const RELAY: &str = "chaos";
const SECRET: &str = "secret of the relay";
/// The services' database and the consumers'.
pub const OUTBOX: &str = "services";
/// The consumers' database.
pub const INBOX: &str = "consumers";
/// Aggregate types, each with a topic.
pub const AGGREGATES: [&str; 2] = ["order", "payment"];
/// Partitions of each topic.
pub const PARTITIONS: usize = 4;
/// Scopes and what is special about their consumers.
pub const SCOPES: [(&str, &str); 3] = [("stock", "single"), ("billing", "grouped"), ("mail", "outside")];
/// Instances of each consumer.
pub const INSTANCES: usize = 2;

/// A relay, and its way to PostgreSQL.
#[derive(Debug)]
pub struct Relay {
    /// The process.
    pub actor: Actor,
    /// Between it and PostgreSQL.
    pub link: Arc<Proxy>,
    admin: SocketAddr,
    _port: Port,
}

impl Relay {
    /// The answer of `/status`, if it answers within five seconds.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&http_get(self.admin, "/status").ok()?.1).ok()
    }

    /// Whether it owns the slot and reads.
    pub fn streams(&self) -> bool {
        self.status().is_some_and(|status| status["phase"] == "streaming")
    }

    /// How often it had to connect anew in this life.
    pub fn reconnects(&self) -> Option<u64> {
        self.status()?["totals"]["reconnects"].as_u64()
    }
}

/// An instance of a consumer.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub actor: Actor,
    /// Its consumer's scope.
    pub scope: &'static str,
    /// Between it and PostgreSQL.
    pub link: Arc<Proxy>,
    /// The file that its clock is read from.
    pub clock: PathBuf,
}

/// Everybody.
#[derive(Debug)]
pub struct Stage {
    /// The relays.
    pub relays: Vec<Relay>,
    /// The consumers' instances.
    pub members: Vec<Member>,
    /// Loses answers of the consumers' COMMITs.
    pub consumers_commits: Arc<CommitCutter>,
    /// Loses answers of the services' COMMITs.
    pub services_commits: Arc<CommitCutter>,
    /// The small file system of the effects.
    pub disk: Disk,
    /// The services' database, directly.
    pub outbox: Database,
    /// The consumers' database, directly.
    pub inbox: Database,
    /// Held by whoever lets a client of PostgreSQL stand still, and by whoever restarts PostgreSQL: a fast shutdown waits
    /// for clients of replication.
    pub standstill: Mutex<()>,
    /// Where logs are kept.
    pub logs: PathBuf,
    /// The brokers. Dropped behind their clients.
    pub kafka: Kafka,
    /// The server.
    pub postgres: Arc<Postgres>,
}

impl Stage {
    /// Starts everybody, for a run of about this length.
    ///
    /// # Panics
    /// When a part is missing or a server does not start.
    pub async fn set(logs: &Path, run: Duration) -> Stage {
        fs::create_dir_all(logs).unwrap_or_else(|error| panic!("{}: {error}", logs.display()));
        let settings = Postgres::builder(usual_version()).setting("max_prepared_transactions", "20");
        let brokers = std::thread::spawn(|| Kafka::builder().brokers(3).proxied().start());
        let postgres = Arc::new(settings.start());
        let disk = Disk::mount(run);
        let kafka = brokers.join().expect("Kafka starts");
        prepare_outbox(&postgres, &kafka).await;
        prepare_inbox(&postgres, &disk).await;
        let consumers_commits = Arc::new(CommitCutter::start(postgres.port()));
        let relays = (1..=2).map(|number| start_relay(number, &postgres, &kafka, logs)).collect();
        let mut members = Vec::new();
        for (scope, temper) in SCOPES {
            for number in 1..=INSTANCES {
                let name = format!("{scope}-{number}");
                members.push(start_member(&name, scope, temper, &consumers_commits, &postgres, &kafka, logs));
            }
        }
        let handle = Handle::current();
        Stage {
            relays,
            members,
            consumers_commits,
            services_commits: Arc::new(CommitCutter::start(postgres.port())),
            disk,
            outbox: Database::new(postgres.clone(), OUTBOX, handle.clone()),
            inbox: Database::new(postgres.clone(), INBOX, handle),
            standstill: Mutex::default(),
            logs: logs.to_owned(),
            kafka,
            postgres,
        }
    }

    /// Starts again whoever has ended by himself.
    pub fn tend(&self) {
        self.actors().for_each(Actor::tend);
    }

    /// All processes that are looked after.
    pub fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.relays.iter().map(|relay| &relay.actor).chain(self.members.iter().map(|member| &member.actor))
    }

    /// The relay that reads the slot, if one says so.
    pub fn owner(&self) -> Option<&Relay> {
        self.relays.iter().find(|relay| relay.streams())
    }

    /// The topics of events.
    pub fn topics() -> Vec<String> {
        AGGREGATES.iter().map(|kind| format!("outbox.event.{kind}")).collect()
    }

    /// The file that opens the gate.
    pub fn gate(&self) -> PathBuf {
        self.logs.join("gate")
    }

    /// The calls that a scope's handlers have made outside.
    pub fn calls(&self, scope: &str) -> PathBuf {
        self.logs.join(format!("{scope}.calls"))
    }

    /// URL of the services' database, through the proxy that loses answers of COMMIT.
    pub fn services_url(&self) -> String {
        through(&self.postgres.url(OUTBOX), &self.postgres, self.services_commits.port())
    }

    /// Who takes part, with what each was given.
    pub fn cast(&self) -> Vec<(String, String)> {
        let mut cast = vec![
            (
                "postgres".to_owned(),
                format!("databases {OUTBOX} and {INBOX}; effects on a tmpfs of {} MiB", self.disk.mib()),
            ),
            ("services".to_owned(), "their COMMITs pass a proxy that can lose the answers".to_owned()),
        ];
        for number in 1..=self.kafka.count() {
            cast.push((
                format!("broker-{number}"),
                "a proxy before it for all clients; replication 3, min.insync.replicas 2".to_owned(),
            ));
        }
        for relay in &self.relays {
            cast.push((relay.actor.name().to_owned(), "a proxy of its own before PostgreSQL".to_owned()));
        }
        for member in &self.members {
            let temper =
                SCOPES.iter().find(|(scope, _)| *scope == member.scope).map_or("", |(_, temper)| temper);
            let what = match temper {
                "single" => "transactional, a transaction an event; dead letters, and the key goes on",
                "grouped" => "transactional and batch, grouped; what fails for good is held with its key",
                _ => "external, calls noted in a file; dead letters, and the key goes on",
            };
            let given = format!("{what}; a proxy of its own before PostgreSQL, a clock of its own");
            cast.push((member.actor.name().to_owned(), given));
        }
        cast
    }
}

/// A URL of this server with another port.
fn through(url: &str, postgres: &Postgres, port: u16) -> String {
    url.replace(&format!(":{}/", postgres.port()), &format!(":{port}/"))
}

fn relay_config(postgres: &Postgres, kafka: &Kafka) -> RelayConfig {
    RelayConfig::new(RELAY, &postgres.url_for("chaos_relay", OUTBOX), SECRET, &kafka.brokers())
        .text("kafka.max_record_bytes", "100kB")
        .text("source.connect_timeout", "2s")
        // The slot is lost more often here than it ever should be.
        .raw("recovery.max_fills", "16")
        .text("recovery.window", "30s")
}

async fn prepare_outbox(postgres: &Postgres, kafka: &Kafka) {
    postgres.create_database(OUTBOX).await;
    for topic in Stage::topics() {
        kafka.create_topic(&topic, PARTITIONS, &[]).await;
    }
    let (status, said) = relay_config(postgres, kafka).init(&postgres.url(OUTBOX), &[]);
    assert!(status.success(), "init failed ({status})\n{said}");
}

async fn prepare_inbox(postgres: &Postgres, disk: &Disk) {
    postgres.create_database(INBOX).await;
    let client = postgres.connect(INBOX).await;
    client.batch_execute(&inbox::up()).await.expect("the inbox");
    let space = format!("CREATE TABLESPACE small LOCATION '{}'", disk.tablespace().display());
    client.batch_execute(&space).await.expect("a tablespace");
    // The filling makes a full disk be met soon.
    let table = "CREATE TABLE effects (at bigserial, scope text NOT NULL, event uuid NOT NULL, key text NOT NULL,
                     number bigint NOT NULL, attempt integer NOT NULL, filling text NOT NULL) TABLESPACE small";
    client.batch_execute(table).await.expect("the effects");
}

fn start_relay(number: usize, postgres: &Postgres, kafka: &Kafka, logs: &Path) -> Relay {
    let name = format!("relay-{number}");
    let (link, port) = (Arc::new(Proxy::start(postgres.port())), Port::claim());
    let url = through(&postgres.url_for("chaos_relay", OUTBOX), postgres, link.port());
    let config = relay_config(postgres, kafka)
        .text("source.url", &url)
        .text("admin.listen", &format!("127.0.0.1:{}", port.number()));
    let directory = logs.join(&name);
    fs::create_dir_all(&directory).expect("our own directory");
    let log = directory.join("relay.log");
    let start = move || config.launch(&directory, vec!["run".to_owned()]);
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    Relay { actor: Actor::new(&name, log, start), link, admin, _port: port }
}

fn start_member(
    name: &str,
    scope: &'static str,
    temper: &str,
    commits: &CommitCutter,
    postgres: &Postgres,
    kafka: &Kafka,
    logs: &Path,
) -> Member {
    let link = Arc::new(Proxy::start(commits.port()));
    let clock = logs.join(format!("{name}.clock"));
    fs::write(&clock, "+0\n").expect("our own directory");
    let faketime = parts::faketime().unwrap_or_else(|error| panic!("{error}"));
    let url = through(&postgres.url(INBOX), postgres, link.port());
    let calls = logs.join(format!("{scope}.calls"));
    let environment: Vec<(String, String)> = [
        ("KAFKA_BROKERS", kafka.brokers()),
        ("DATABASE_URL", format!("{url}?application_name={name}")),
        ("CHAOS_SCOPE", scope.to_owned()),
        ("CHAOS_TEMPER", temper.to_owned()),
        ("CHAOS_TOPICS", Stage::topics().join(",")),
        ("CHAOS_GATE", logs.join("gate").display().to_string()),
        ("CHAOS_CALLS", calls.display().to_string()),
        ("LD_PRELOAD", faketime.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec();
    let log = logs.join(format!("{name}.log"));
    let (called, file) = (name.to_owned(), log.clone());
    let start = move || {
        Process::start(Launch {
            name: called.clone(),
            command: vec![parts::beside("chaos-consumer").display().to_string()],
            environment: environment.clone(),
            user: None,
            on_test_death: "KILL",
            log: file.clone(),
        })
    };
    Member { actor: Actor::new(name, log, start), scope, link, clock }
}
