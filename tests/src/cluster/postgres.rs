//! A private PostgreSQL server: one process tree, one data directory, one port of 127.0.0.1.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use super::ground::{self, Port};
use crate::authority::{Authority, Issued};
use crate::fault::process::{Launch, Process, User};
use crate::parts;
use crate::wait::{eventually, eventually_async, watch};

/// The superuser's name.
pub const SUPERUSER: &str = "postgres";

/// The superuser's password: every connection is checked with SCRAM-SHA-256, as in operation.
pub const PASSWORD: &str = "superuser password";

/// How long a server may take to start or to stop before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server and its data. Dropping it stops the server and deletes the data.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    user: Option<User>,
    port: Port,
    process: Mutex<Option<Process>>,
}

/// A copy of a data directory, taken while the server did not run.
#[derive(Debug)]
pub struct Snapshot {
    copy: PathBuf,
}

/// What a server is started with beyond the defaults.
#[derive(Debug)]
pub struct Builder {
    major: u32,
    settings: Vec<(String, String)>,
    files: Vec<(String, String)>,
}

impl Builder {
    /// Adds a line to `postgresql.conf`; the value as it would stand there, without quotes.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a file into the data directory, where only the server may read it.
    pub fn file(mut self, name: &str, text: &str) -> Builder {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Speaks TLS with this certificate, and asks clients for one that `authority` has signed; those that have
    /// none may go on. The role `cert_relay` logs in by its certificate, all others but the superuser by
    /// TLS and password.
    pub fn tls(self, server: &Issued, authority: &Authority) -> Builder {
        let rules = format!(
            "host all {SUPERUSER} 127.0.0.1/32 scram-sha-256\nhostssl all cert_relay 127.0.0.1/32 cert\n\
             hostssl all all 127.0.0.1/32 scram-sha-256\n"
        );
        self.setting("ssl", "on")
            .setting("ssl_ca_file", "ca.pem")
            .file("server.crt", &server.certificate)
            .file("server.key", &server.key)
            .file("ca.pem", authority.certificate())
            .file("pg_hba.conf", &rules)
    }

    /// Makes commits durable, as in operation; without it they survive a kill of the server, not of the
    /// machine, and a test runs several times as fast.
    pub fn durable(self) -> Builder {
        self.setting("fsync", "on").setting("full_page_writes", "on")
    }

    /// Makes the data directory and starts the server.
    ///
    /// # Panics
    /// When this version is not there or does not start.
    pub fn start(self) -> Postgres {
        let programs = parts::postgres(self.major).unwrap_or_else(|error| panic!("{error}"));
        let user = ground::server_user();
        let directory = ground::directory(&format!("postgres{}", self.major));
        if let Some(User { uid, gid }) = user {
            std::os::unix::fs::chown(&directory, Some(uid), Some(gid))
                .expect("root may give a directory away");
        }
        let server = Postgres { programs, directory, user, port: Port::claim(), process: Mutex::new(None) };
        server.make_data();
        server.configure(&self.settings);
        for (name, text) in &self.files {
            server.put_file(name, text);
        }
        server.start_again();
        server
    }
}

impl Postgres {
    /// Starts a server of a major version with the defaults of the tests: `wal_level = logical`, ten
    /// times the usual slots, nothing flushed to disk.
    ///
    /// # Panics
    /// When this version is not there or does not start.
    pub fn start(major: u32) -> Postgres {
        Postgres::builder(major).start()
    }

    /// A server with further settings.
    pub fn builder(major: u32) -> Builder {
        Builder { major, settings: Vec::new(), files: Vec::new() }
    }

    /// The port it listens on; the same after every restart.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// URL of a database for the superuser, password included.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}",
            PASSWORD.replace(' ', "%20"),
            self.port()
        )
    }

    /// URL of a database for a role, without a password.
    pub fn url_for(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port())
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The file that it logs to.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    /// Directory of its version's programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    fn make_data(&self) {
        let password = self.directory.join("password");
        fs::write(&password, PASSWORD).expect("a file in our own directory");
        let password = format!("--pwfile={}", password.display());
        let options =
            ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", SUPERUSER];
        let data = self.data().display().to_string();
        let mut command = vec![self.program("initdb"), "--pgdata".into(), data, password];
        command.extend(options.map(String::from));
        let initdb = self.launch("initdb", command);
        assert!(initdb.wait(PATIENCE).success(), "initdb failed\n{}", initdb.log_tail());
    }

    fn configure(&self, settings: &[(String, String)]) {
        let port = self.port().to_string();
        let defaults = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("max_wal_senders", "50"),
            ("max_replication_slots", "200"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("log_line_prefix", "%m [%p] %u@%d %a "),
        ];
        let given = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let lines: Vec<String> = defaults
            .into_iter()
            .chain(given)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let file = fs::File::options().append(true).open(self.data().join("postgresql.conf"));
        file.and_then(|mut file| file.write_all(lines.concat().as_bytes())).expect("postgresql.conf");
    }

    fn put_file(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file in our own directory");
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, only_owner).expect("our own file");
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root may give a file away");
        }
    }

    /// Changes the server's certificate while it runs; connections made from now on see it.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn change_certificate(&self, server: &Issued) {
        let loaded = "SELECT pg_conf_load_time()::text";
        let client = self.connect(SUPERUSER).await;
        let before: String = client.query_one(loaded, &[]).await.expect("an answer").get(0);
        self.put_file("server.crt", &server.certificate);
        self.put_file("server.key", &server.key);
        client.batch_execute("SELECT pg_reload_conf()").await.expect("a superuser");
        // A backend that knows of the reload was forked after the whole of it.
        eventually_async(PATIENCE, "the server to read its certificate", async || {
            let client = self.connect(SUPERUSER).await;
            let now: String = client.query_one(loaded, &[]).await.expect("an answer").get(0);
            (now != before).then_some(())
        })
        .await;
    }

    /// Changes the server's certificate and the authority whose clients it lets in, while it runs.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn change_authority(&self, server: &Issued, authority: &Authority) {
        self.put_file("ca.pem", authority.certificate());
        self.change_certificate(server).await;
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    fn launch(&self, name: &str, command: Vec<String>) -> Process {
        Process::start(Launch {
            name: format!("{name} ({})", self.directory.display()),
            command,
            environment: Vec::new(),
            user: self.user,
            // An immediate shutdown: the shared memory is given back, which SIGKILL would leave behind.
            on_test_death: "QUIT",
            log: self.directory.join(format!("{name}.log")),
        })
    }

    /// Starts the server on the data that is there and waits until it accepts connections.
    ///
    /// # Panics
    /// When it runs already or does not start.
    pub fn start_again(&self) {
        let mut process = self.process.lock();
        assert!(process.is_none(), "the server runs already");
        let command = vec![self.program("postgres"), "-D".into(), self.data().display().to_string()];
        let started = self.launch("postgres", command);
        let status = self.data().join("postmaster.pid");
        let pid = started.pid().to_string();
        let what = format!("PostgreSQL on port {} to be ready", self.port());
        eventually(PATIENCE, &what, || {
            assert!(started.ended().is_none(), "PostgreSQL does not start\n{}", started.log_tail());
            is_ready(&fs::read_to_string(&status).unwrap_or_default(), &pid).then_some(())
        });
        *process = Some(started);
    }

    /// Whether the server has been started and not been stopped.
    pub fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// What `pg_ctl stop -m fast` does; returns how long it took. A fast shutdown waits for every walsender
    /// until its client has everything.
    ///
    /// # Panics
    /// When the server does not run, or has not stopped within a minute.
    pub fn stop_fast(&self) -> Duration {
        self.stop(Signal::INT)
    }

    /// What `pg_ctl stop -m immediate` does, a crash; returns how long it took.
    ///
    /// # Panics
    /// When the server does not run, or has not stopped within a minute.
    pub fn stop_immediate(&self) -> Duration {
        self.stop(Signal::QUIT)
    }

    fn stop(&self, signal: Signal) -> Duration {
        let process = self.process.lock().take().expect("the server runs");
        let started = Instant::now();
        process.signal(signal);
        process.wait(PATIENCE);
        started.elapsed()
    }

    /// A fast shutdown and a new start.
    pub fn restart(&self) {
        self.stop_fast();
        self.start_again();
    }

    /// Copies the data directory, as a disk snapshot would.
    ///
    /// # Panics
    /// When the server runs: a copy of changing files would be no moment in time.
    pub fn snapshot(&self) -> Snapshot {
        assert!(!self.is_running(), "stop the server first");
        let copy = ground::directory("snapshot");
        copy_tree(&self.data(), &copy.join("data"));
        Snapshot { copy }
    }

    /// Puts a copy in the place of the data directory: time goes back on the same timeline.
    ///
    /// # Panics
    /// When the server runs.
    pub fn restore(&self, snapshot: &Snapshot) {
        assert!(!self.is_running(), "stop the server first");
        fs::remove_dir_all(self.data()).expect("our own data directory");
        copy_tree(&snapshot.copy.join("data"), &self.data());
    }

    /// Starts the stopped server as a standby without a primary and promotes it: what follows is on a new
    /// timeline, as after a failover.
    ///
    /// # Panics
    /// When the server runs or the promotion fails.
    pub async fn start_promoted(&self) {
        assert!(!self.is_running(), "stop the server first");
        fs::write(self.data().join("standby.signal"), "").expect("a file in our own data directory");
        if let Some(User { uid, gid }) = self.user {
            let file = self.data().join("standby.signal");
            std::os::unix::fs::chown(file, Some(uid), Some(gid)).expect("root may give a file away");
        }
        self.start_again();
        let client = self.connect(SUPERUSER).await;
        let promoted: bool = client.query_one("SELECT pg_promote()", &[]).await.expect("promotion").get(0);
        assert!(promoted, "the server was not promoted");
    }

    /// Starts the stopped server as what clients meet where a standby that had everything was promoted and took the
    /// primary's address: all that was committed, on a new timeline. Nobody is let in before. `slots`: whether the standby
    /// had the logical slots, which before PostgreSQL 17 none has.
    ///
    /// # Panics
    /// When the server runs or does not start.
    pub fn start_in_the_place_of_a_primary(&self, slots: bool) {
        assert!(!self.is_running(), "stop the server first");
        let file = self.data().join("postgresql.auto.conf");
        let mut settings = fs::read_to_string(file).expect("our own data directory");
        // Recovery that asks an archive for more, and finds no more, ends on a new timeline.
        for line in ["restore_command = 'false'", "hot_standby = off"] {
            if !settings.contains(line) {
                settings.push_str(line);
                settings.push('\n');
            }
        }
        self.put_file("postgresql.auto.conf", &settings);
        self.put_file("recovery.signal", "");
        if !slots {
            for slot in fs::read_dir(self.data().join("pg_replslot")).expect("our own data directory") {
                fs::remove_dir_all(slot.expect("an entry").path()).expect("our own data directory");
            }
        }
        self.start_again();
    }

    /// A running physical standby of this server, which is stopped for it and started again, with a slot of its own there.
    /// From PostgreSQL 17 on it keeps copies of failover slots, and this server's logical slots wait for it.
    ///
    /// # Panics
    /// When it cannot be made or does not start.
    pub async fn standby(&self) -> Postgres {
        const SLOT: &str = "standby";
        let client = self.connect(SUPERUSER).await;
        let make = format!("SELECT pg_create_physical_replication_slot('{SLOT}', true)");
        client.batch_execute(&make).await.expect("a superuser");
        let version = "SELECT current_setting('server_version_num')::int";
        let version: i32 = client.query_one(version, &[]).await.expect("an answer").get(0);
        if version >= 170_000 {
            let waits = format!("ALTER SYSTEM SET synchronized_standby_slots = '{SLOT}'");
            client.batch_execute(&waits).await.expect("a superuser");
        }
        drop(client);
        let standby = self.copied();
        self.start_again();
        let from = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD:?} dbname={SUPERUSER}",
            self.port()
        );
        let port = standby.port().to_string();
        let from = from.replace('"', "''");
        let mut settings = vec![
            ("port", port.as_str()),
            ("hot_standby_feedback", "on"),
            ("primary_conninfo", from.as_str()),
            ("primary_slot_name", SLOT),
        ];
        if version >= 170_000 {
            settings.push(("sync_replication_slots", "on"));
        }
        let lines: String =
            settings.into_iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
        let file = fs::File::options().append(true).open(standby.data().join("postgresql.conf"));
        file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("postgresql.conf");
        // What the primary waits for is no business of the standby's, which would wait for itself once it is promoted.
        standby.put_file("postgresql.auto.conf", "");
        standby.put_file("standby.signal", "");
        standby.start_again();
        standby
    }

    /// Stops the server; its data in another's directory, without its slots.
    fn copied(&self) -> Postgres {
        let directory = ground::directory("standby");
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(&directory, Some(uid), Some(gid))
                .expect("root may give a directory away");
        }
        let (programs, user) = (self.programs.clone(), self.user);
        let other = Postgres { programs, directory, user, port: Port::claim(), process: Mutex::new(None) };
        self.stop_fast();
        copy_tree(&self.data(), &other.data());
        for slot in fs::read_dir(other.data().join("pg_replslot")).expect("our own data directory") {
            fs::remove_dir_all(slot.expect("an entry").path()).expect("our own data directory");
        }
        other
    }

    /// Promotes a running standby.
    ///
    /// # Panics
    /// When it is none, or the promotion fails.
    pub async fn promote(&self) {
        let client = self.connect(SUPERUSER).await;
        let promoted: bool = client.query_one("SELECT pg_promote()", &[]).await.expect("promotion").get(0);
        assert!(promoted, "the server was not promoted");
    }

    /// A superuser's connection to a database. Its task ends with the client.
    ///
    /// # Panics
    /// When the server cannot be reached.
    pub async fn connect(&self, database: &str) -> Client {
        self.connect_as(SUPERUSER, PASSWORD, database).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// A role's connection to a database.
    ///
    /// # Errors
    /// What the server or the driver answered.
    pub async fn connect_as(
        &self,
        role: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port()).user(role).password(password).dbname(database);
        config.application_name("outbox-tests").connect_timeout(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // A server that is stopped by a test ends its connections with an error: no news to anybody.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Creates an empty database.
    ///
    /// # Panics
    /// When it exists or the server does not run.
    pub async fn create_database(&self, name: &str) {
        let client = self.connect(SUPERUSER).await;
        let statement = format!("CREATE DATABASE \"{name}\"");
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    /// Terminates every backend that an SQL condition on `pg_stat_activity` selects, such as
    /// `backend_type = 'walsender'`, waits until they are gone, and returns how many there were.
    ///
    /// # Panics
    /// When the condition is not valid SQL or a backend stays.
    pub async fn terminate_backends(&self, condition: &str) -> usize {
        let client = self.connect(SUPERUSER).await;
        let select = format!(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND ({condition})"
        );
        let rows = client.query(&select, &[]).await.unwrap_or_else(|error| panic!("{condition}: {error:?}"));
        let pids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        let left = "SELECT 1 FROM pg_stat_activity WHERE pid = ANY($1)";
        eventually_async(PATIENCE, "terminated backends to be gone", async || {
            client.query(left, &[&pids]).await.expect("pg_stat_activity").is_empty().then_some(())
        })
        .await;
        pids.len()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.get_mut().take() {
            process.signal(Signal::QUIT);
            // An immediate shutdown takes milliseconds; a server that hangs is killed with `process`.
            watch(Duration::from_secs(10), || process.ended());
            if std::thread::panicking() {
                eprintln!("{}", process.log_tail());
            }
        }
        ground::remove(&self.directory);
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        ground::remove(&self.copy);
    }
}

/// The postmaster writes its state into the eighth line of its pid file, where `pg_ctl` waits for it, too.
/// The first line tells this start from an earlier one that crashed.
fn is_ready(pid_file: &str, pid: &str) -> bool {
    let mut lines = pid_file.lines();
    lines.next() == Some(pid)
        && lines.nth(6).is_some_and(|state| ["ready", "standby"].contains(&state.trim()))
}

/// Copies a directory with owners and modes.
fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()), "cp -a {} {}", from.display(), to.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_not_ready_by_the_file_of_another() {
        let file = "77\n/data\n1700000000\n15432\n\n127.0.0.1\n  1 2\nready   \n";
        assert!(is_ready(file, "77"));
        assert!(!is_ready(file, "78"));
        assert!(!is_ready(&file.replace("ready", "starting"), "77"));
        assert!(!is_ready("77\n/data\n", "77"));
    }
}
