//! What waits in quarantine for somebody's decision.

use outbox_schema::sql::quote_literal;
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use crate::config::Settings;
use crate::session::{Sql, SqlError};

/// Open entries of this relay.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Facts {
    /// Events that could not be published.
    pub open: i64,
    /// Events that wait behind them.
    pub queued: i64,
}

const SQL: &str = "
    SELECT jsonb_build_object('open', count(*) FILTER (WHERE state <> 'queued'),
                              'queued', count(*) FILTER (WHERE state = 'queued'))::text
    FROM outbox.quarantine WHERE relay = $1 AND settled_at IS NULL";

/// Asks the server.
pub async fn look(sql: &Sql, settings: &Settings) -> Result<Facts, SqlError> {
    ask::document(sql, "looking at the quarantine", SQL, &[&settings.name]).await
}

/// Says what waits, if anything does.
pub fn judge(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let Facts { open, queued } = facts;
    (*open + *queued > 0).then(|| {
        Finding::warning(
            Area::Table,
            "quarantine-open",
            "outbox.quarantine",
            format!("{open} events could not be published, and {queued} wait behind them"),
        )
        .mend(
            "look at the reasons, mend what is wrong, then release or discard each with outbox.decide()",
            format!(
                "SELECT position, state, cause, reason FROM outbox.quarantine\n WHERE relay = {} AND settled_at IS NULL \
                 AND state <> 'queued' ORDER BY epoch, commit_lsn, ordinal;",
                quote_literal(&settings.name)
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::settings;

    #[test]
    fn only_what_waits_is_told() {
        assert_eq!(judge(&Facts { open: 0, queued: 0 }, &settings()), None);
        let found = judge(&Facts { open: 2, queued: 5 }, &settings()).unwrap();
        assert_eq!(found.code, "quarantine-open");
        assert!(found.command.unwrap().contains("relay = 'orders' AND settled_at IS NULL AND state"));
    }
}
