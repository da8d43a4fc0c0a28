//! What waits in quarantine for somebody's decision.

use outbox_schema::sql::quote_literal;
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use crate::config::Settings;
use crate::quarantine::recall::whose;
use crate::quarantine::table::Whose;
use crate::session::{Sql, SqlError};

/// Open entries of this lane.
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
    FROM outbox.quarantine WHERE relay = $1 AND lane = $2 AND settled_at IS NULL";

/// Asks the server.
pub async fn look(sql: &Sql, settings: &Settings) -> Result<Facts, SqlError> {
    let Whose { relay, lane } = whose(settings, settings.lane.number);
    ask::document(sql, "looking at the quarantine", SQL, &[&relay, &lane]).await
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
                "SELECT position, state, cause, reason FROM outbox.quarantine\n WHERE relay = {} AND lane = {} AND settled_at IS NULL \
                 AND state <> 'queued' ORDER BY epoch, commit_lsn, ordinal;",
                quote_literal(&settings.name),
                settings.lane.number
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
        assert!(
            found.command.unwrap().contains("relay = 'orders' AND lane = 0 AND settled_at IS NULL AND state")
        );
    }
}
