//! A private PostgreSQL: its own directory, its own port of 127.0.0.1, gone with the demo.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::child;
use super::programs::{Programs, ProgramsError};

/// The superuser.
pub const SUPERUSER: &str = "postgres";
/// How long the server may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often a starting server is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(25);
/// Another program may take the free port before the server does.
const ATTEMPTS: u32 = 3;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// A file, directory or process could not be made.
    #[error("{what} failed")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// PostgreSQL does not run as root, and there is no one else to run it as.
    #[error("PostgreSQL refuses to run as root, and this machine knows neither a user postgres nor nobody")]
    NoUser,
    /// `initdb` failed.
    #[error("initdb failed:\n{0}")]
    Initdb(String),
    /// The server ended, or did not get ready.
    #[error("the private PostgreSQL does not start:\n{0}")]
    Start(String),
    /// The server was asked and did not answer well.
    #[error("the private PostgreSQL refused to {what}")]
    Sql {
        /// What was asked of it.
        what: &'static str,
        /// What it answered.
        source: tokio_postgres::Error,
    },
}

/// The running server. Dropping it stops the server and deletes its data.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    port: u16,
    password: String,
    // Deleted last.
    _directory: TempDir,
}

impl Postgres {
    /// Makes the data directory, starts the server and waits until it answers.
    ///
    /// # Errors
    /// [`PostgresError`], which says what failed in the server's own words.
    pub async fn start() -> Result<Postgres, PostgresError> {
        let place = Place::make()?;
        place.initdb().await?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let port = free_port()
                .map_err(|source| PostgresError::System { what: "looking for a free port", source })?;
            let child = place.spawn(port)?;
            let directory = &place.directory;
            let mut starting = Starting(Some(child));
            match starting.until_ready(port, &place.password, &directory.path().join("log")).await {
                Ok(()) => {
                    let Some(child) = starting.0.take() else { continue };
                    let Place { directory, password, .. } = place;
                    return Ok(Postgres { child, port, password, _directory: directory });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| PostgresError::Start(String::new())))
    }

    /// The port of 127.0.0.1 it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its version, such as `15.18`.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn version(&self) -> Result<String, PostgresError> {
        let refused = |source| PostgresError::Sql { what: "tell its version", source };
        let client = self.connect(SUPERUSER, SUPERUSER).await?;
        let row = client.query_one("SHOW server_version", &[]).await.map_err(refused)?;
        let version: String = row.try_get(0).map_err(refused)?;
        // Distributions put their own number behind it.
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }

    /// The password of every role of the demo.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// URL of a database for a role, password included.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A connection; its task ends with the client.
    ///
    /// # Errors
    /// What the driver or the server said.
    pub async fn connect(&self, role: &str, database: &str) -> Result<Client, PostgresError> {
        connect(self.port, role, &self.password, database)
            .await
            .map_err(|source| PostgresError::Sql { what: "accept a connection", source })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// An immediate shutdown: nobody needs the data again, and shared memory is given back.
fn stop(server: &mut Child) {
    if matches!(server.try_wait(), Ok(None)) {
        child::signal(server, Signal::QUIT);
        child::wait_or_kill(server, STOP_PATIENCE);
    }
}

async fn connect(
    port: u16,
    role: &str,
    password: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(role).password(password).dbname(database);
    config.application_name("outbox-demo").connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    // Whoever uses the client hears of a broken connection from its own next statement.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A port nobody listens on at this moment.
///
/// # Errors
/// What the system says.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The directory, before a server runs in it.
struct Place {
    programs: Programs,
    user: Option<User>,
    directory: TempDir,
    password: String,
}

/// Whom the server runs as where we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

impl Place {
    fn make() -> Result<Place, PostgresError> {
        let system = |what| move |source| PostgresError::System { what, source };
        let programs = Programs::find()?;
        let user = server_user()?;
        let directory = tempfile::Builder::new()
            .prefix("outbox-demo-postgres-")
            .tempdir()
            .map_err(system("making a temporary directory"))?;
        let password = format!("{:032x}", rand::random::<u128>());
        let password_file = directory.path().join("password");
        fs::write(&password_file, &password).map_err(system("writing to the temporary directory"))?;
        if let Some(User { uid, gid }) = user {
            for path in [directory.path(), &password_file] {
                chown(path, Some(uid), Some(gid))
                    .map_err(system("giving the directory to the server's user"))?;
            }
        }
        Ok(Place { programs, user, directory, password })
    }

    async fn initdb(&self) -> Result<(), PostgresError> {
        let mut initdb = self.command("initdb");
        initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.arg("--username").arg(SUPERUSER).arg("--pgdata").arg(self.path("data"));
        initdb.arg(format!("--pwfile={}", self.path("password").display()));
        let mut initdb = tokio::process::Command::from(initdb);
        let ended = initdb.kill_on_drop(true).output().await;
        let ended = ended.map_err(|source| PostgresError::System { what: "running initdb", source })?;
        if ended.status.success() {
            return Ok(());
        }
        Err(PostgresError::Initdb(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
    }

    fn spawn(&self, port: u16) -> Result<Child, PostgresError> {
        let system = |what| move |source| PostgresError::System { what, source };
        let log = File::create(self.path("log")).map_err(system("making the server's log"))?;
        let errors = log.try_clone().map_err(system("making the server's log"))?;
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.path("data")).args(["-c", &format!("port={port}")]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "wal_level=logical",
            "max_connections=60",
            "shared_buffers=32MB",
            "logging_collector=off",
        ] {
            server.args(["-c", setting]);
        }
        server.stdout(log).stderr(errors).spawn().map_err(system("starting postgres"))
    }

    /// One of the programs, as the server's user. On our death it shuts down at once (SIGQUIT).
    fn command(&self, program: &str) -> Command {
        let mut command = child::command(&self.programs.path(program), "QUIT");
        command.env("LC_ALL", "C");
        for variable in ["PGDATA", "PGPORT", "PGHOST", "PGOPTIONS", "PGUSER"] {
            command.env_remove(variable);
        }
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A server that may still fail to start; stopped when it is given up.
struct Starting(Option<Child>);

impl Starting {
    async fn until_ready(&mut self, port: u16, password: &str, log: &Path) -> Result<(), PostgresError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let ended = self.0.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                return Err(PostgresError::Start(child::tail(log)));
            }
            match connect(port, SUPERUSER, password, SUPERUSER).await {
                Ok(_) => return Ok(()),
                Err(source) if Instant::now() >= deadline => {
                    return Err(PostgresError::Sql { what: "become ready", source });
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            stop(child);
        }
    }
}

/// `None` unless we are root.
fn server_user() -> Result<Option<User>, PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = ["postgres", "nobody"].iter().find_map(|name| user_of(&users, name));
    user.map(Some).ok_or(PostgresError::NoUser)
}

/// A user's numbers from lines such as `postgres:x:101:104:…` (passwd(5)).
fn user_of(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nnobody2:x:1:1::/:\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        assert_eq!(user_of(users, "nobody"), Some(User { uid: 65534, gid: 65533 }));
        assert_eq!(user_of(users, "postgres"), None);
    }
}
