//! Messages: whether `outbox.emit()` writes events under the prefix that the relay reads, and who may write what it
//! publishes.

use outbox_schema::sql::{MESSAGE_PREFIX, quote_literal};

use super::finding::{Area, Finding};
use crate::config::Settings;
use crate::session::{Sql, SqlError};

/// What is known of messages in this database.
#[derive(Debug)]
pub struct Found {
    /// The prefix that holds for a session that sets none; a role's own setting is not seen.
    pub prefix: String,
    /// The functions that write messages, where everybody may execute them.
    pub open: Option<String>,
}

/// Asks.
///
/// # Errors
/// As for every question.
pub async fn look(sql: &Sql) -> Result<Found, SqlError> {
    let statement = "SELECT coalesce(nullif(current_setting('outbox.message_prefix', true), ''), $1::text),
                            (SELECT string_agg(oid::regprocedure::text, ', ' ORDER BY oid)
                               FROM pg_catalog.pg_proc
                              WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace
                                AND has_function_privilege('public', oid, 'EXECUTE'))";
    let row = sql.one("asking who writes messages", statement, &[&MESSAGE_PREFIX]).await?;
    Ok(Found { prefix: row.get(0), open: row.get(1) })
}

/// What to say of it; nothing where the relay publishes nothing that a message brings.
pub fn judge(found: &Found, settings: &Settings) -> Vec<Finding> {
    let outbox = &settings.outbox;
    let mut findings = Vec::new();
    if let Some(wanted) = outbox.message_prefix.as_deref() {
        findings.push(of_prefix(&found.prefix, wanted, settings));
    }
    if outbox.message_prefix.is_none() && !outbox.backfill {
        return findings;
    }
    findings.push(match &found.open {
        None => Finding::ok(Area::Rights, "messages-closed", "messages", "are written by those who were given the right"),
        Some(functions) => Finding::warning(
            Area::Rights,
            "messages-open",
            "messages",
            "may be written by every role of this database, and what they say this relay publishes",
        )
        .mend(
            "let only those write them who are meant to",
            format!(
                "REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {functions} TO {}, {};",
                outbox_schema::sql::quote_identifier(&settings.source.user),
                outbox_schema::sql::PRODUCER_ROLE,
            ),
        ),
    });
    findings
}

fn of_prefix(found: &str, wanted: &str, settings: &Settings) -> Finding {
    if found == wanted {
        return Finding::ok(
            Area::Publication,
            "message-prefix",
            wanted,
            "is the prefix of outbox.emit() here, too",
        );
    }
    Finding::warning(
        Area::Publication,
        "message-prefix",
        wanted,
        format!("is read, and outbox.emit() writes {found}, unless a service sets outbox.message_prefix for itself"),
    )
    .mend(
        "let both be the same; messages of another prefix are published by nobody",
        format!(
            "ALTER DATABASE {} SET outbox.message_prefix = {};",
            outbox_schema::sql::quote_identifier(&settings.source.database),
            quote_literal(wanted)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn found(prefix: &str, open: bool) -> Found {
        Found {
            prefix: prefix.into(),
            open: open.then(|| "pg_logical_emit_message(boolean,text,text)".into()),
        }
    }

    #[test]
    fn another_prefix_is_told_with_its_statement() {
        let mut settings = settings();
        assert!(judge(&found(MESSAGE_PREFIX, true), &settings).is_empty(), "rows have no prefix");
        settings.outbox.message_prefix = Some("billing.event".into());
        assert_eq!(codes(&judge(&found(MESSAGE_PREFIX, false), &settings)), ["message-prefix"]);
        assert!(codes(&judge(&found("billing.event", false), &settings)).is_empty());
    }

    #[test]
    fn that_everybody_may_write_what_is_published_is_told_with_the_statement() {
        let mut settings = settings();
        settings.outbox.backfill = true;
        let findings = judge(&found(MESSAGE_PREFIX, true), &settings);
        assert_eq!(codes(&findings), ["messages-open"]);
        assert!(codes(&judge(&found(MESSAGE_PREFIX, false), &settings)).is_empty());
    }
}
