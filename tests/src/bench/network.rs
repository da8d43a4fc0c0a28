//! A network namespace of its own for another congestion control.
//!
//! The kernel lets only the machine's own namespace choose a default that the machine does not allow to everybody.
//! A route may name one, and the routes of a namespace that was made for the measurement are its own: nothing of
//! the machine is touched.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::machine::congestion_control;

/// The routes of loopback, of which the more special one wins.
const ROUTES: [&str; 2] = ["127.0.0.0/8", "127.0.0.1"];

/// Names this process's namespace.
const NAMESPACE: &str = "/proc/self/ns/net";

/// A command in a network namespace of its own, in which loopback is up.
///
/// # Errors
/// A sentence, where this process may not make one, or `unshare` or `ip` is missing.
pub fn isolated(program: &Path) -> Result<Command, String> {
    let shell = |last: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &format!("ip link set lo up && {last}"), "sh"]);
        command
    };
    let tried = shell("true").stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("no network namespace can be made here ({said})"));
        }
        Err(error) => return Err(format!("no network namespace can be made here: unshare: {error}")),
    }
    let mut command = shell("exec \"$@\"");
    command.arg(program);
    Ok(command)
}

/// The name of this process's namespace, for [`set_control`].
///
/// # Errors
/// A sentence, where the system has no such thing.
pub fn namespace() -> Result<String, String> {
    let link = fs::read_link(NAMESPACE).map_err(|error| format!("{NAMESPACE}: {error}"))?;
    Ok(link.display().to_string())
}

/// Sets the congestion control of loopback in this process's namespace, which must be another than `machine`, the
/// machine's: its setting is not ours to change.
///
/// # Errors
/// A sentence, where this is the machine's namespace or the kernel has no such congestion control.
pub fn set_control(name: &str, machine: &str) -> Result<(), String> {
    if namespace()? == machine {
        return Err("this is the machine's own network namespace; its setting is left alone".into());
    }
    for route in ROUTES {
        let mut command = Command::new("ip");
        command.args(["route", "replace", "local", route, "dev", "lo", "table", "local"]);
        command.args(["proto", "kernel", "scope", "host", "src", "127.0.0.1", "congctl", name]);
        let output = command.output().map_err(|error| format!("ip: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("congestion control {name}: {}", said.trim()));
        }
    }
    let found = congestion_control();
    if found != name {
        return Err(format!("connections over loopback go under {found}, although {name} was set"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_setting_is_left_alone() {
        let before = congestion_control();
        assert!(set_control("reno", &namespace().unwrap()).is_err());
        assert_eq!(congestion_control(), before);
    }
}
