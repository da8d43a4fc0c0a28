//! Connections to the consumer's database: a few, kept, and thrown away when anything about them is in doubt.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config, NoTls, Statement};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be used.
    #[error("DATABASE_URL: {0}")]
    Url(String),
    /// The server refused, or is not there.
    #[error("connecting to the database")]
    Connect(#[source] tokio_postgres::Error),
    /// It did not answer in time.
    #[error("the database did not answer within {0:?}")]
    Timeout(Duration),
    /// The inbox is not installed, or not for this role.
    #[error("the inbox is not usable: install outbox-schema/sql/inbox and grant the role outbox_consumer")]
    Inbox(#[source] tokio_postgres::Error),
}

/// Limit of a log-in and of making a connection ready.
const CONNECT: Duration = Duration::from_secs(10);

/// A bounded number of connections.
#[derive(Debug)]
pub(crate) struct Database {
    config: Config,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Ready>>,
}

/// A connection with what every record needs prepared.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) client: Client,
    /// `inbox.claim_group()`, for one event or more.
    pub(crate) claim: Statement,
    /// `inbox.marked()`.
    pub(crate) marked: Statement,
}

/// A connection in use. Dropped, it is thrown away; [given back](Lease::give_back), it is kept.
#[derive(Debug)]
pub(crate) struct Lease {
    ready: Option<Ready>,
    of: Arc<Database>,
    _permit: OwnedSemaphorePermit,
}

impl Database {
    /// Connections to one database, at most so many. `abandoned` is how long the server lets a transaction of a
    /// frozen process stand (C31).
    ///
    /// # Errors
    /// [`DatabaseError::Url`].
    pub(crate) fn new(url: &str, most: usize, abandoned: Duration) -> Result<Arc<Database>, DatabaseError> {
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            // The driver's words do not repeat the URL, which holds the password.
            DatabaseError::Url(format!("it is no PostgreSQL URL ({error})"))
        })?;
        let far = config.get_hosts().iter().find(|host| !is_near(host));
        if let Some(far) = far {
            let sentence = format!(
                "{far:?} is another machine, and connections over a network need TLS, which this version does not \
                 have yet; use a TLS-terminating proxy on this machine"
            );
            return Err(DatabaseError::Url(sentence));
        }
        config.connect_timeout(CONNECT);
        // At the start of each connection, so that none goes without.
        let options = format!(
            "-c idle_in_transaction_session_timeout={} -c default_transaction_isolation=read\\ committed",
            abandoned.as_millis()
        );
        config.options(options);
        let permits = Arc::new(Semaphore::new(most.max(1)));
        Ok(Arc::new(Database { config, permits, idle: Mutex::default() }))
    }

    /// A connection; waits for one to be free.
    ///
    /// # Errors
    /// The server is not there, or the inbox is not.
    pub(crate) async fn lease(self: &Arc<Database>) -> Result<Lease, DatabaseError> {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| DatabaseError::Timeout(Duration::ZERO))?;
        let kept = loop {
            match self.idle.lock().pop() {
                Some(ready) if ready.client.is_closed() => {}
                kept => break kept,
            }
        };
        let ready = match kept {
            Some(ready) => ready,
            None => tokio::time::timeout(CONNECT, self.connect())
                .await
                .map_err(|_| DatabaseError::Timeout(CONNECT))??,
        };
        Ok(Lease { ready: Some(ready), of: self.clone(), _permit: permit })
    }

    async fn connect(&self) -> Result<Ready, DatabaseError> {
        let (client, connection) = self.config.connect(NoTls).await.map_err(DatabaseError::Connect)?;
        // Ends with the client, and says why on whatever waits for an answer.
        tokio::spawn(connection);
        let claim = client.prepare(
            "SELECT inbox.claim_group($1, $2::uuid[], $3::timestamptz[], NULL, $4::text[], $5::int[], $6::bigint[])",
        );
        let marked = client.prepare("SELECT inbox.marked($1, $2::text[], $3::bytea[])");
        let (claim, marked) = tokio::try_join!(claim, marked).map_err(DatabaseError::Inbox)?;
        Ok(Ready { client, claim, marked })
    }
}

impl Lease {
    /// The connection.
    pub(crate) fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("a lease has its connection until it is given back")
    }

    /// Keeps the connection for others. Only where every answer has come and no transaction is open: never after
    /// a cancelled statement or an unanswered COMMIT (C45).
    pub(crate) fn give_back(mut self) {
        if let Some(ready) = self.ready.take() {
            self.of.idle.lock().push(ready);
        }
    }
}

fn is_near(host: &tokio_postgres::config::Host) -> bool {
    match host {
        tokio_postgres::config::Host::Unix(_) => true,
        tokio_postgres::config::Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_database_is_refused_without_tls_and_no_url_is_repeated() {
        let make = |url: &str| Database::new(url, 4, Duration::from_secs(60)).map(drop);
        make("postgresql://u:secret@127.0.0.1/db").unwrap();
        make("postgresql://u:secret@localhost/db").unwrap();
        let said = make("postgresql://u:secret@db.example/db").unwrap_err().to_string();
        assert!(said.contains("db.example") && said.contains("TLS") && !said.contains("secret"), "{said}");
        let said = make("u:secret@nowhere").unwrap_err().to_string();
        assert!(!said.contains("secret"), "{said}");
    }
}
