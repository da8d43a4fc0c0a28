//! Questions to PostgreSQL that are answered by one JSON document, since what is there differs by version.

use serde::de::DeserializeOwned;
use tokio_postgres::types::ToSql;

use super::finding::{Area, Finding};
use crate::session::{Sql, SqlError, chain};

/// The one row's one column, read.
pub async fn document<T: DeserializeOwned>(
    sql: &Sql,
    question: &'static str,
    query: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<T, SqlError> {
    let found = optional(sql, question, query, values).await?;
    found.ok_or_else(|| SqlError::Answer { question, answer: "no row".into() })
}

/// The same where there may be no row.
pub async fn optional<T: DeserializeOwned>(
    sql: &Sql,
    question: &'static str,
    query: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Option<T>, SqlError> {
    let Some(row) = sql.optional(question, query, values).await? else { return Ok(None) };
    let answer: String = row.get(0);
    serde_json::from_str(&answer).map(Some).map_err(|_| SqlError::Answer { question, answer })
}

/// Whether nothing more will be answered on this connection.
pub fn is_lost(error: &SqlError) -> bool {
    match error {
        SqlError::Server { source, .. } => source.is_closed() || source.code().is_none(),
        SqlError::Silent { .. } => true,
        SqlError::Answer { .. } => false,
    }
}

/// What could not be seen, and why.
pub fn unseen(area: Area, subject: &str, error: &SqlError) -> Finding {
    let (advice, command) = match error {
        SqlError::Server { source, .. } => match source.code().map(|code| code.code()) {
            Some("42501") => (
                "grant the relay's role what it lacks; init does",
                "outbox-relay init --admin-url postgres://<admin>@<server>/<database>",
            ),
            Some("57014") => {
                ("look why the server takes longer than 5 s for it", "SELECT * FROM pg_stat_activity;")
            }
            _ => ("look at what the server says in its log, then check again", "outbox-relay check"),
        },
        SqlError::Silent { .. } | SqlError::Answer { .. } => {
            ("look whether the server is overloaded, then check again", "outbox-relay check")
        }
    };
    Finding::warning(area, "not-seen", subject, format!("could not be looked at: {}", chain(error)))
        .mend(advice, command)
}
