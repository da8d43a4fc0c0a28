//! A network namespace of its own for another congestion control.
//!
//! The setting belongs to the namespace, so inside one that was made for the measurement it can be changed
//! without touching the machine's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the kernel shows the setting of whoever asks.
pub const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

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

/// Sets the congestion control of this process's namespace, which must be another than `machine`, the
/// machine's: its setting is not ours to change.
///
/// # Errors
/// A sentence, where this is the machine's namespace or the kernel has no such congestion control.
pub fn set_control(name: &str, machine: &str) -> Result<(), String> {
    if namespace()? == machine {
        return Err("this is the machine's own network namespace; its setting is left alone".into());
    }
    fs::write(CONTROL, name).map_err(|error| format!("congestion control {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_setting_is_left_alone() {
        let before = fs::read_to_string(CONTROL).unwrap();
        assert!(set_control("cubic", &namespace().unwrap()).is_err());
        assert_eq!(fs::read_to_string(CONTROL).unwrap(), before);
    }
}
