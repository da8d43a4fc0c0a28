//! Child processes that do not outlive the demo, not even if it is killed.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a child that was told to end is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A command in a process group of its own, so that Ctrl-C on the terminal reaches only the demo, which
/// then ends its children in order. Should the demo be killed, the kernel sends the child the signal named
/// here, where util-linux' `setpriv` is there to ask for it.
///
/// The kernel takes the *thread* that starts the child for its parent: start children where the demo's
/// main future runs, which is the process's main thread, never on a worker.
pub fn command(program: &Path, on_our_death: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = if setpriv_works() {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", on_our_death, "--"]).arg(program);
        wrapped
    } else {
        Command::new(program)
    };
    command.process_group(0).current_dir("/").stdin(Stdio::null());
    command
}

/// There are programs of that name that do not know the option.
fn setpriv_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "clear", "--", "true"]);
        probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// Sends a signal to a child that has not been waited for. One that has ended meanwhile needs none.
pub fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Waits for a child's end in a destructor; kills it if it takes too long.
pub fn wait_or_kill(child: &mut Child, patience: Duration) {
    let deadline = Instant::now() + patience;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits for a child's end; `None` if it takes too long.
///
/// # Errors
/// What the system says when it is asked.
pub async fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

/// What the relay's environment variables begin with.
const VARIABLE_PREFIX: &str = "OUTBOX_RELAY_";

/// Takes the relay's environment variables out of a child's environment: what it is given in a file must
/// not be overruled by what happens to be set for another relay.
pub fn without_relay_variables(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
            command.env_remove(name);
        }
    }
}

/// The last lines of a log file, for a message.
pub fn tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let mut child = command(Path::new("sleep"), "KILL").arg("600").spawn().unwrap();
        wait_or_kill(&mut child, Duration::ZERO);
        assert!(child.try_wait().unwrap().is_some());
    }

    #[test]
    fn the_prefix_is_the_relays() {
        assert_eq!(VARIABLE_PREFIX, outbox_relay::config::keys::VARIABLE_PREFIX);
    }

    #[test]
    fn a_tail_is_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), (1..=30).map(|n| format!("{n}\n")).collect::<String>()).unwrap();
        let tail = tail(file.path());
        assert!(tail.starts_with("16\n") && tail.ends_with("\n30"), "{tail}");
        assert_eq!(super::tail(Path::new("/nonexistent")), "");
    }
}
