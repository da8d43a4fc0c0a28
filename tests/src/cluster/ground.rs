//! Directories and ports of this test process's servers.
//!
//! All directories lie under `/tmp/outbox-tests-<uid>/run-<pid>-<start time>/`. A test process that was
//! killed leaves its directory behind; the next one to start removes what belongs to no living process.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fault::process::User;

/// A directory of its own for one server, which its user can reach; empty.
///
/// # Panics
/// When the temporary directory cannot be written to.
pub fn directory(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = run_directory().join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Removes a server's directory unless `OUTBOX_TESTS_KEEP` is set.
pub fn remove(directory: &Path) {
    if std::env::var_os("OUTBOX_TESTS_KEEP").is_none() {
        // What cannot be removed now is removed by the next test process.
        let _ = fs::remove_dir_all(directory);
    }
}

/// Whom servers run as that refuse to run as root: `None` (ourselves) unless we are root, else `postgres`
/// or `nobody`.
///
/// # Panics
/// When root's machine knows neither.
pub fn server_user() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let known = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let user = ["postgres", "nobody"].iter().find_map(|name| find_user(&known, name));
    Some(user.expect("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody"))
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

fn run_directory() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let root = root();
        remove_stale(&root);
        let pid = std::process::id();
        let path = root.join(format!("run-{pid}-{}", start_time(pid).expect("our own start time")));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    })
}

fn root() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let root = PathBuf::from(format!("/tmp/outbox-tests-{uid}"));
    // 0755 whatever the umask: servers run as another user where the test is root.
    let made = DirBuilder::new().mode(0o755).create(&root);
    let owner = fs::metadata(&root).map(|found| found.uid());
    assert!(owner.is_ok_and(|owner| owner == uid), "{} cannot be used: {made:?}", root.display());
    root
}

/// When a process was started, in clock ticks since the machine was: with the id it names one process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the command in field 2 may hold spaces and parentheses, so counting starts behind it.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("run-")?.split_once('-'));
        let Some((pid, started)) = owner.and_then(|(p, s)| Some((p.parse().ok()?, s.parse().ok()?))) else {
            continue;
        };
        if start_time(pid) != Some(started) {
            remove(&entry.path());
        }
    }
}

/// A TCP port of 127.0.0.1 that is ours while this value lives, also while nobody listens on it.
///
/// It lies below the kernel's range for outgoing connections: in that range a client that tries to
/// reconnect to a stopped server can be given the server's port, and even be connected to itself.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a port that is free now.
    ///
    /// # Panics
    /// When none is free.
    pub fn claim() -> Port {
        let claims = root().join("ports");
        fs::create_dir_all(&claims).unwrap_or_else(|error| panic!("{}: {error}", claims.display()));
        let ports = 10_000..lowest_outgoing_port().max(12_000);
        (0..10_000)
            .map(|_| rand::random_range(ports.clone()))
            .find_map(|number| Port::try_claim(&claims, number))
            .expect("a free port")
    }

    fn try_claim(claims: &Path, number: u16) -> Option<Port> {
        let claim = File::create(claims.join(number.to_string())).expect("a file in our own directory");
        match claim.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Error(error)) => panic!("locking a port's file: {error}"),
        }
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Port { number, _claim: claim })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn lowest_outgoing_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|lowest| lowest.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_not_claimed_twice() {
        let port = Port::claim();
        assert!(Port::try_claim(&root().join("ports"), port.number()).is_none());
    }

    #[test]
    fn directories_of_dead_processes_are_removed_and_others_kept() {
        let root = tempfile::tempdir().unwrap();
        let own = format!("run-{0}-{1}", std::process::id(), start_time(std::process::id()).unwrap());
        // Our id with another start time is a process that is gone and whose id came to us.
        let stale = format!("run-{}-1", std::process::id());
        for name in [&own, &stale, "ports"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        remove_stale(root.path());
        assert!(root.path().join(own).exists() && root.path().join("ports").exists());
        assert!(!root.path().join(stale).exists());
    }

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "postgresql:x:7:8::/:\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(find_user(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
    }
}
