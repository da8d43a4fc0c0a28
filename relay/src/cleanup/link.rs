//! The connection of one look: its own, since statements of the lane's have to be answered at once (R47).
//!
//! Every statement is a transaction of its own, so a relay that is frozen holds no lock for longer than the statement
//! takes, which the server bounds.

use std::time::Duration;

use outbox_postgres_link::tls::Connector;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::config::Settings;
use crate::observe::Kept;
use crate::session::sql_config;

/// The server bounds a statement by this, also one whose relay is gone. Emptying a bucket reads it twice.
const STATEMENT: Duration = Duration::from_secs(30);
/// A statement unanswered for this much longer means that the connection is lost.
const GRACE: Duration = Duration::from_secs(5);

/// What a question may ask with.
pub(super) type Values<'v> = &'v [&'v (dyn ToSql + Sync)];

/// What went wrong; the rows stay.
#[derive(Debug, thiserror::Error)]
pub(super) enum CleanupError {
    /// PostgreSQL answered with an error, or the connection is gone.
    #[error("{doing}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What came back.
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("{doing}: no answer in time")]
    Silent {
        /// What was being done.
        doing: &'static str,
    },
}

/// What an SQLSTATE means for the clean-up; what is not listed is told in the server's words.
const BY_CODE: &[(&str, Kept)] = &[
    ("55P03", Kept::Locked),   // lock_not_available: lock_timeout
    ("40P01", Kept::Locked),   // deadlock_detected
    ("57014", Kept::Slow),     // query_canceled: statement_timeout
    ("42883", Kept::Contract), // undefined_function: a contract without clean-up
    ("3F000", Kept::Contract), // invalid_schema_name
    ("42501", Kept::Right),    // insufficient_privilege
];

impl CleanupError {
    /// Why the rows stay.
    pub(super) fn kept(&self) -> Kept {
        match self {
            CleanupError::Silent { .. } => Kept::Slow,
            CleanupError::Server { source, .. } => {
                source.code().map_or(Kept::Failed, |code| of_code(code.code()))
            }
        }
    }

    /// Whether another bucket may fare better.
    pub(super) fn is_of_one_bucket(&self) -> bool {
        match self {
            CleanupError::Silent { .. } => false,
            CleanupError::Server { source, .. } => {
                source.code().is_some_and(|code| [Kept::Locked, Kept::Slow].contains(&of_code(code.code())))
            }
        }
    }
}

fn of_code(code: &str) -> Kept {
    BY_CODE.iter().find(|(known, _)| *known == code).map_or(Kept::Failed, |(_, kept)| *kept)
}

/// The connection.
pub(super) struct Link {
    client: Client,
}

impl Link {
    pub(super) async fn open(settings: &Settings) -> Result<Link, CleanupError> {
        let doing = "connecting for the clean-up";
        // One snapshot a statement: the second look at a bucket has to see what was committed after the first.
        let options = format!(
            "-c idle_in_transaction_session_timeout=10s -c idle_session_timeout=10s -c lock_timeout=500ms \
             -c statement_timeout={}s -c timezone=UTC -c default_transaction_isolation=read\\ committed",
            STATEMENT.as_secs()
        );
        let source = &settings.source;
        let mut config = sql_config(source, &format!("outbox-relay {} cleanup", settings.name), &options);
        let tls = Connector::new(&source.transport, &source.host, &mut config);
        let limit = source.connect_timeout + GRACE;
        let (client, connection) = tokio::time::timeout(limit, config.connect(tls))
            .await
            .map_err(|_| CleanupError::Silent { doing })?
            .map_err(|source| CleanupError::Server { doing, source })?;
        // Its errors come back with the next statement.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection of the clean-up ended");
            }
        });
        Ok(Link { client })
    }

    /// A question with one row for an answer.
    pub(super) async fn one(
        &self,
        doing: &'static str,
        sql: &str,
        values: Values<'_>,
    ) -> Result<Row, CleanupError> {
        within(doing, self.client.query_one(sql, values)).await
    }

    /// A statement; answers how many rows it changed.
    pub(super) async fn run(
        &self,
        doing: &'static str,
        sql: &str,
        values: Values<'_>,
    ) -> Result<u64, CleanupError> {
        within(doing, self.client.execute(sql, values)).await
    }
}

async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, CleanupError> {
    match tokio::time::timeout(STATEMENT + GRACE, work).await {
        Ok(answer) => answer.map_err(|source| CleanupError::Server { doing, source }),
        Err(_) => Err(CleanupError::Silent { doing }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_reason() {
        assert_eq!(of_code("55P03"), Kept::Locked);
        assert_eq!(of_code("57014"), Kept::Slow);
        assert_eq!(of_code("42883"), Kept::Contract);
        assert_eq!(of_code("XX000"), Kept::Failed);
    }
}
