//! A process of the cast: it is started again whenever it has ended, as whoever runs it in operation would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::fault::process::Process;

/// How long an orderly end may take.
const ORDERLY: Duration = Duration::from_secs(60);

type Start = Box<dyn Fn() -> Process + Send + Sync>;

/// A process, through all its lives.
pub struct Actor {
    name: String,
    log: PathBuf,
    start: Start,
    /// `None` while it is meant to be down.
    process: Mutex<Option<Process>>,
    lives: AtomicUsize,
    /// How it ended without being asked to.
    ends: Mutex<Vec<ExitStatus>>,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("name", &self.name).field("lives", &self.lives).finish_non_exhaustive()
    }
}

impl Actor {
    /// Starts it. `log` is the file that `start` lets every life append to.
    pub fn new(name: &str, log: PathBuf, start: impl Fn() -> Process + Send + Sync + 'static) -> Actor {
        let actor = Actor {
            name: name.to_owned(),
            log,
            start: Box::new(start),
            process: Mutex::new(None),
            lives: AtomicUsize::new(0),
            ends: Mutex::default(),
        };
        actor.start();
        actor
    }

    /// What the cast calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, where it does not run.
    pub fn start(&self) {
        let mut process = self.process.lock();
        if process.is_none() {
            self.lives.fetch_add(1, SeqCst);
            *process = Some((self.start)());
        }
    }

    /// Starts it again where it has ended by itself.
    pub fn tend(&self) {
        let mut process = self.process.lock();
        if let Some(status) = process.as_ref().and_then(Process::ended) {
            self.ends.lock().push(status);
            self.lives.fetch_add(1, SeqCst);
            *process = Some((self.start)());
        }
    }

    /// SIGKILL; it is down until it is started. `None` where it was down, or had just ended by itself.
    pub fn kill(&self) -> Option<ExitStatus> {
        let process = self.process.lock().take()?;
        if let Some(status) = process.ended() {
            self.ends.lock().push(status);
            return None;
        }
        Some(process.kill())
    }

    /// SIGTERM; it is down until it is started. `None` where it was down, has not ended a minute later, or had just ended
    /// by itself.
    pub fn end(&self) -> Option<ExitStatus> {
        let process = self.process.lock().take()?;
        if let Some(status) = process.ended() {
            self.ends.lock().push(status);
            return None;
        }
        process.signal(Signal::TERM);
        crate::wait::watch(ORDERLY, || process.ended())
    }

    /// SIGSTOP. Whether there was a process to stop.
    pub fn pause(&self) -> bool {
        let process = self.process.lock();
        let runs = process.as_ref().filter(|process| process.ended().is_none());
        runs.is_some_and(|process| {
            process.pause();
            true
        })
    }

    /// SIGCONT.
    pub fn resume(&self) {
        if let Some(process) = self.process.lock().as_ref() {
            process.resume();
        }
    }

    /// Lives so far.
    pub fn lives(&self) -> usize {
        self.lives.load(SeqCst)
    }

    /// How it ended without being asked to, so far.
    pub fn ends(&self) -> Vec<ExitStatus> {
        self.ends.lock().clone()
    }

    /// The file of its output, over all lives.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How often its output says something.
    pub fn said(&self, what: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches(what).count()
    }

    /// The newest line of its output that holds these words.
    pub fn newest(&self, what: &str) -> Option<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().find(|line| line.contains(what)).map(str::to_owned)
    }
}
