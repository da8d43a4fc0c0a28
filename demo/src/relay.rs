//! The relay as a user runs it: the program `outbox-relay`, as a process of its own, with a configuration file.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::Broker;
use super::child;
use super::postgres::{Postgres, SUPERUSER, free_port};
use super::service::{DATABASE, RELAY_ROLE};

/// How long the relay may take to drain: more than its own deadline, after which it says what is left.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long its admin port may take to answer.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A file or a process could not be made.
    #[error("{what} failed")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such program.
    #[error("no relay at {0:?}: run `cargo build --release -p outbox-relay`, or name it with --relay")]
    Missing(PathBuf),
    /// `init` failed.
    #[error("`outbox-relay init` failed ({status}):\n{output}")]
    Init {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The relay ended without being told to.
    #[error("the relay ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        log: String,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RelayError {
    move |source| RelayError::System { what, source }
}

/// Where cargo and packages put it.
///
/// # Errors
/// [`RelayError::System`].
pub fn beside_this_program() -> Result<PathBuf, RelayError> {
    let program = env::current_exe().map_err(system("finding this program"))?;
    Ok(program.with_file_name("outbox-relay"))
}

/// How a relay that was told to stop has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// With exit code 0: everything it had read is published and confirmed.
    Cleanly,
    /// Otherwise; in words.
    No(String),
}

/// The relay: its configuration, and the process while there is one. Dropping it kills the process.
#[derive(Debug)]
pub struct Relay {
    program: PathBuf,
    directory: TempDir,
    admin: u16,
    child: Option<Child>,
    /// Whether this process's admin port has answered.
    answered: bool,
    /// Whether it was told to stop.
    stopped: bool,
}

impl Relay {
    /// Writes the configuration; starts nothing.
    ///
    /// # Errors
    /// [`RelayError::Missing`] or [`RelayError::System`].
    pub fn configure(program: &Path, postgres: &Postgres, broker: &Broker) -> Result<Relay, RelayError> {
        let program = program.to_owned();
        if !program.is_file() {
            return Err(RelayError::Missing(program));
        }
        let directory = tempfile::Builder::new().prefix("outbox-demo-relay-").tempdir();
        let directory = directory.map_err(system("making a temporary directory"))?;
        let admin = free_port().map_err(system("looking for a free port"))?;
        let relay = Relay { program, directory, admin, child: None, answered: false, stopped: false };
        let text = configuration(&postgres.url(RELAY_ROLE, DATABASE), broker, admin);
        fs::write(relay.file(), text).map_err(system("writing the relay's configuration"))?;
        Ok(relay)
    }

    /// `outbox-relay init`: the outbox, publication, roles and slot.
    ///
    /// # Errors
    /// [`RelayError`], with what it said.
    pub async fn init(&self, postgres: &Postgres) -> Result<(), RelayError> {
        let mut command = self.command("init");
        command.arg("--admin-url").arg(postgres.url(SUPERUSER, DATABASE));
        let mut command = tokio::process::Command::from(command);
        let ended =
            command.kill_on_drop(true).output().await.map_err(system("running `outbox-relay init`"))?;
        if ended.status.success() {
            return Ok(());
        }
        let output = [ended.stdout, ended.stderr].concat();
        let output = String::from_utf8_lossy(&output).trim().to_owned();
        Err(RelayError::Init { status: ended.status, output })
    }

    /// `outbox-relay run`, its log in a file.
    ///
    /// # Errors
    /// [`RelayError::System`].
    pub fn start(&mut self) -> Result<(), RelayError> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.map_err(system("making the relay's log"))?;
        let errors = log.try_clone().map_err(system("making the relay's log"))?;
        let child = self.command("run").stdout(log).stderr(errors).spawn();
        self.child = Some(child.map_err(system("starting the relay"))?);
        self.answered = false;
        Ok(())
    }

    /// SIGKILL: no farewell, no last words to broker or database.
    ///
    /// # Errors
    /// [`RelayError::System`].
    pub fn kill(&mut self) -> Result<(), RelayError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map_err(system("killing the relay"))?;
        Ok(())
    }

    /// Fails if the process has ended by itself.
    ///
    /// # Errors
    /// [`RelayError::Ended`], with the end of its log.
    pub fn check(&mut self) -> Result<(), RelayError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait().map_err(system("looking at the relay"))? {
            Some(status) => Err(RelayError::Ended { status, log: child::tail(&self.log()) }),
            None => Ok(()),
        }
    }

    /// SIGTERM, and what came of it.
    ///
    /// # Errors
    /// [`RelayError::System`].
    pub async fn drain(&mut self) -> Result<Drained, RelayError> {
        let Some(child) = &mut self.child else { return Ok(Drained::No("it did not run".into())) };
        self.stopped = true;
        child::signal(child, Signal::TERM);
        match child::wait(child, DRAIN_PATIENCE).await.map_err(system("waiting for the relay"))? {
            Some(status) if status.success() => Ok(Drained::Cleanly),
            Some(status) => Ok(Drained::No(format!(
                "it ended with {status}; the end of its log:\n{}",
                child::tail(&self.log())
            ))),
            None => Ok(Drained::No(format!("it still ran {} s after SIGTERM", DRAIN_PATIENCE.as_secs()))),
        }
    }

    /// What it does, in a word: the phase its admin port tells, `starting` until that answers, `silent` when
    /// it no longer does, `killed` where there is no process, `stopped` once it was told to stop.
    pub async fn state(&mut self) -> String {
        if self.stopped || self.child.is_none() {
            return if self.stopped { "stopped" } else { "killed" }.into();
        }
        let phase = phase(self.admin).await;
        self.answered |= phase.is_some();
        phase.unwrap_or_else(|| if self.answered { "silent" } else { "starting" }.into())
    }

    /// The end of the relay's log.
    pub fn log_tail(&self) -> String {
        child::tail(&self.log())
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = child::command(&self.program, "KILL");
        child::without_relay_variables(&mut command);
        command.arg(subcommand).arg("--config").arg(self.file());
        command
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("relay.toml")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("relay.log")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A process that cannot be killed is one that has ended.
        let _ = self.kill();
    }
}

/// The three keys everybody needs; a free admin port, since the usual one may be taken; and on a broker
/// that others use too, names of this run alone.
fn configuration(url: &str, broker: &Broker, admin: u16) -> String {
    let mut text = format!(
        "name = \"orders\"\n\n[source]\nurl = \"{url}\"\n\n[kafka]\nbrokers = \"{}\"\n",
        broker.servers
    );
    if !broker.is_in_memory() {
        text += &format!(
            "topic_prefix = \"{}\"\n\n[state]\ntopic = \"{}\"\n",
            broker.topic_prefix, broker.state_topic
        );
    }
    text + &format!("\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n")
}

/// The phase in an answer of `/status`.
async fn phase(port: u16) -> Option<String> {
    let answer = tokio::time::timeout(STATUS_PATIENCE, get(port, "/status")).await.ok()?.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(status.get("phase")?.as_str()?.to_owned())
}

/// One page of an admin port. HTTP/1.0: the answer ends with the connection (RFC 9112, 6.3).
async fn get(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_relay::config::{Overrides, load};

    #[test]
    fn the_configuration_is_one_the_relay_takes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("relay.toml");
        let broker = Broker::in_memory().unwrap();
        fs::write(&file, configuration("postgres://relay:x@127.0.0.1:5/shop", &broker, 4711)).unwrap();
        let settings = load(Some(&file), &Vec::new, Overrides::default()).unwrap().into_first();
        assert_eq!(settings.kafka.brokers, broker.servers);
        assert_eq!(settings.kafka.topic_prefix, broker.topic_prefix);
        assert_eq!(settings.state.topic, broker.state_topic);
        assert_eq!(settings.admin.listen.port(), 4711);
    }
}
