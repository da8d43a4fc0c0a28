//! The instances of the shipping service: one group, each a process of its own.

use std::env;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::broker::Broker;
use super::child;
use super::postgres::Postgres;
use super::shipping;

/// How many there are.
pub const INSTANCES: usize = 2;
/// How long one may take to finish what it has in hand and to leave the group.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no consumer.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersError {
    /// A file or a process could not be made.
    #[error("{what} failed")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A consumer ended without being told to.
    #[error("consumer {number} ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which, from 1.
        number: usize,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        log: String,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ConsumersError {
    move |source| ConsumersError::System { what, source }
}

/// The instances, numbered from 0. Dropping it kills their processes.
#[derive(Debug)]
pub struct Consumers {
    program: PathBuf,
    directory: TempDir,
    topic: String,
    session: Duration,
    /// What is the same for each.
    environment: [(&'static str, String); 2],
    instances: [Instance; INSTANCES],
}

/// One instance, and its process while there is one.
#[derive(Debug)]
struct Instance {
    database: String,
    child: Option<Child>,
}

impl Consumers {
    /// Says what they will be; starts nothing.
    ///
    /// # Errors
    /// [`ConsumersError::System`].
    pub fn configure(postgres: &Postgres, broker: &Broker) -> Result<Consumers, ConsumersError> {
        let directory = tempfile::Builder::new().prefix("outbox-demo-consumers-").tempdir();
        let instance = |number| Instance { database: shipping::url(postgres, number), child: None };
        Ok(Consumers {
            program: env::current_exe().map_err(system("finding this program"))?,
            directory: directory.map_err(system("making a temporary directory"))?,
            topic: broker.topic(),
            session: broker.session,
            environment: [("KAFKA_BROKERS", broker.servers.clone()), ("KAFKA_GROUP", broker.group.clone())],
            instances: std::array::from_fn(instance),
        })
    }

    /// Starts an instance, its log in a file.
    ///
    /// # Errors
    /// [`ConsumersError::System`].
    pub fn start(&mut self, number: usize) -> Result<(), ConsumersError> {
        let log = File::options().create(true).append(true).open(self.log(number));
        let log = log.map_err(system("making a consumer's log"))?;
        let errors = log.try_clone().map_err(system("making a consumer's log"))?;
        let session = self.session.as_millis().to_string();
        let mut command: Command = child::command(&self.program, "KILL");
        command.args(["consume", "--topic", &self.topic, "--session-timeout-ms", &session]);
        command.envs(self.environment.clone()).env("DATABASE_URL", &self.instances[number].database);
        let child = command.stdout(log).stderr(errors).spawn();
        self.instances[number].child = Some(child.map_err(system("starting a consumer"))?);
        Ok(())
    }

    /// SIGKILL: what it has in hand is left as it is.
    ///
    /// # Errors
    /// [`ConsumersError::System`].
    pub fn kill(&mut self, number: usize) -> Result<(), ConsumersError> {
        let Some(mut child) = self.instances[number].child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map_err(system("killing a consumer"))?;
        Ok(())
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.instances.iter().filter(|instance| instance.child.is_some()).count()
    }

    /// Fails if one has ended by itself.
    ///
    /// # Errors
    /// [`ConsumersError::Ended`], with the end of its log.
    pub fn check(&mut self) -> Result<(), ConsumersError> {
        for number in 0..INSTANCES {
            let Some(child) = &mut self.instances[number].child else { continue };
            if let Some(status) = child.try_wait().map_err(system("looking at a consumer"))? {
                let log = child::tail(&self.log(number));
                return Err(ConsumersError::Ended { number: number + 1, status, log });
            }
        }
        Ok(())
    }

    /// SIGTERM for all; says what did not go in order, if anything.
    ///
    /// # Errors
    /// [`ConsumersError::System`].
    pub async fn stop(&mut self) -> Result<Vec<String>, ConsumersError> {
        for child in self.instances.iter().filter_map(|instance| instance.child.as_ref()) {
            child::signal(child, Signal::TERM);
        }
        let mut troubles = Vec::new();
        for number in 0..INSTANCES {
            let Some(child) = &mut self.instances[number].child else { continue };
            let ended = child::wait(child, STOP_PATIENCE).await.map_err(system("waiting for a consumer"))?;
            let how = match ended {
                Some(status) if status.success() => continue,
                Some(status) => format!("ended with {status}"),
                None => format!("still ran {} s after SIGTERM", STOP_PATIENCE.as_secs()),
            };
            let log = child::tail(&self.log(number));
            troubles.push(format!("consumer {} {how}; the end of its log:\n{log}", number + 1));
        }
        Ok(troubles)
    }

    /// The ends of all their logs.
    pub fn log_tails(&self) -> String {
        let tails = (0..INSTANCES).map(|number| child::tail(&self.log(number)));
        tails.collect::<Vec<_>>().join("\n---\n")
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("consumer-{}.log", number + 1))
    }
}

impl Drop for Consumers {
    fn drop(&mut self) {
        for number in 0..INSTANCES {
            // A process that cannot be killed is one that has ended.
            let _ = self.kill(number);
        }
    }
}
