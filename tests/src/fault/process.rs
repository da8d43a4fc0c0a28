//! Child processes that can be killed and frozen, and that never outlive the test.
//!
//! Statics are not dropped and a test can be killed itself, so nothing here relies on `Drop` alone: every
//! child asks the kernel for a signal on its parent's death (`setpriv --pdeathsig`). That signal is sent
//! when the *thread* that made the child ends, and the test harness runs every test on a thread of its
//! own; so all children are made by one thread that lives as long as the process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::parts;
use crate::wait::{eventually, watch};

/// A user that servers run as where the test itself is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
}

/// How a child is started.
#[derive(Debug)]
pub struct Launch {
    /// What it is called in messages.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables on top of the test's own.
    pub environment: Vec<(String, String)>,
    /// Another user to run as; `None` keeps the test's.
    pub user: Option<User>,
    /// What the kernel sends the child when the test is gone: `KILL`, or a signal on which it cleans up.
    pub on_test_death: &'static str,
    /// File that takes standard output and standard error; appended to.
    pub log: PathBuf,
}

/// A running child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts a child.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(launch: Launch) -> Process {
        let log = File::options().create(true).append(true).open(&launch.log);
        let log = log.unwrap_or_else(|error| panic!("{}: {error}", launch.log.display()));
        let errors = log.try_clone().expect("a second handle of the log");
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(launch.on_test_death);
        if let Some(User { uid, gid }) = launch.user {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        }
        command.arg("--").args(&launch.command).envs(launch.environment).env("LC_ALL", "C");
        // It names the program for us; to the relay itself it would be a misspelled key.
        command.env_remove(parts::RELAY_VARIABLE);
        command.current_dir("/").stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = spawn(command).unwrap_or_else(|error| panic!("{} does not start: {error}", launch.name));
        let pid = Pid::from_child(&child);
        Process { name: launch.name, pid, log: launch.log, child: Mutex::new(child) }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within `limit`, with the tail of its log.
    #[track_caller]
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        match watch(limit, || self.ended()) {
            Some(status) => status,
            None => panic!("{} has not ended within {limit:?}\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        // Until the child has been waited for, its id cannot belong to another process.
        let mut child = self.child.lock();
        if matches!(child.try_wait(), Ok(None)) {
            kill_process(self.pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(30))
    }

    /// SIGSTOP, and waits until the process stands still.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        eventually(Duration::from_secs(10), "a stopped process", || (self.state()? == 'T').then_some(()));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The state letter of `/proc/<pid>/stat`.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// A figure of `/proc/<pid>/status` in KiB, such as `VmRSS`.
    pub fn memory_kib(&self, figure: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The file that takes its output.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The end of its output, for messages.
    pub fn log_tail(&self) -> String {
        let tail = tail(&self.log).unwrap_or_else(|error| error.to_string());
        format!("--- end of {} ---\n{tail}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both fail only where it has ended before.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last few kilobytes of a file.
fn tail(path: &Path) -> io::Result<String> {
    const KEPT: u64 = 6 * 1024;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lets the one thread that lives as long as the process make the child.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        let parent = move || {
            for (mut command, answer) in receiver {
                // Whoever ordered is waiting; if not, dropping the child's handle is all that is left.
                let _ = answer.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("parent".into()).spawn(parent).expect("a thread");
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::sync_channel(1);
    orders.lock().send((command, answer)).expect("the parent thread lives as long as the process");
    child.recv().expect("the parent thread answers every order")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn start(directory: &Path, script: &str) -> Process {
        Process::start(Launch {
            name: "sh".into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            user: None,
            on_test_death: "KILL",
            log: directory.join("log"),
        })
    }

    #[test]
    fn output_and_status_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let process = start(directory.path(), "echo $GREETING; exit 3");
        assert_eq!(process.wait(Duration::from_secs(10)).code(), Some(3));
        assert!(process.log_tail().ends_with("hello\n"), "{}", process.log_tail());
    }

    #[test]
    fn a_paused_process_can_be_killed() {
        let directory = tempfile::tempdir().unwrap();
        let process = start(directory.path(), "exec sleep 1000");
        process.pause();
        assert!(process.ended().is_none());
        assert_eq!(process.kill().signal(), Some(9));
    }

    #[test]
    fn children_outlive_the_thread_that_ordered_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let process = std::thread::spawn(move || start(&path, "exec sleep 1000")).join().unwrap();
        // Only a process that is still there can be seen to stand still.
        process.pause();
        assert!(process.ended().is_none());
    }
}
