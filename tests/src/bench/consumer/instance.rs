//! A process that is measured, seen from the one that measures.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::job::{Job, Told};
use crate::bench::usage::cpu_nanos;
use crate::wait::watch;

/// How long it may say nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process with a job. Dropped, it is told to end, and waited for.
pub struct Instance {
    child: Child,
    told: Receiver<Told>,
    log: std::path::PathBuf,
}

impl Instance {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(job: &Job, brokers: &str, database: &str, logs: &Path) -> Instance {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command
            .arg("--job")
            .arg(serde_json::to_string(job).expect("plain values"))
            .env("KAFKA_BROKERS", brokers)
            .env("DATABASE_URL", database)
            .env_remove("KAFKA_GROUP");
        Instance::spawn(command, &job.name, logs)
    }

    /// Starts another program that says the same and ends in the same way.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut command: Command, name: &str, logs: &Path) -> Instance {
        let log = logs.join(format!("{name}.log"));
        let errors = File::create(&log).expect("our own directory");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, told) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(told) = serde_json::from_str(&line) else { continue };
                if sender.send(told).is_err() {
                    return;
                }
            }
        });
        Instance { child, told, log }
    }

    /// What it says next.
    ///
    /// # Panics
    /// When it says nothing for two minutes, with its log.
    pub fn hear(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            panic!("nothing was handled: {error}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
        })
    }

    /// Processor time of its threads so far.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu_nanos(&self) -> u64 {
        cpu_nanos(self.child.id()).expect("it runs")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it stand still, and waits until it does.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let status = format!("/proc/{}/status", self.child.id());
        let stopped = || {
            let status = std::fs::read_to_string(&status).ok()?;
            status.contains("State:\tT").then_some(())
        };
        watch(Duration::from_secs(10), stopped).expect("a stopped process");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // It is ours and has not been waited for, so the id is its own.
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be told");
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Panics
    /// When it fails, with its log.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        let status = watch(Duration::from_secs(60), || self.child.try_wait().expect("a child"));
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(status.is_some_and(|status| status.success()), "it ended with {status:?}\n{log}");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Both fail where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
