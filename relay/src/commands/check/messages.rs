//! Events that are messages: whether `outbox.emit()` writes them under the prefix that the relay reads.

use outbox_schema::sql::{MESSAGE_PREFIX, quote_literal};

use super::finding::{Area, Finding};
use crate::config::Settings;
use crate::session::{Sql, SqlError};

/// Asks for the prefix that holds in this database for a session that sets none; a role's own setting is not seen.
///
/// # Errors
/// As for every question.
pub async fn look(sql: &Sql) -> Result<String, SqlError> {
    let statement = "SELECT coalesce(nullif(current_setting('outbox.message_prefix', true), ''), $1::text)";
    Ok(sql.one("asking for outbox.message_prefix", statement, &[&MESSAGE_PREFIX]).await?.get(0))
}

/// What to say of it; nothing where events are rows.
pub fn judge(found: &str, settings: &Settings) -> Option<Finding> {
    let wanted = settings.outbox.message_prefix.as_deref()?;
    Some(if found == wanted {
        Finding::ok(Area::Publication, "message-prefix", wanted, "is the prefix of outbox.emit() here, too")
    } else {
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    #[test]
    fn another_prefix_is_told_with_its_statement() {
        let mut settings = settings();
        assert!(judge(MESSAGE_PREFIX, &settings).is_none(), "rows have no prefix");
        settings.outbox.message_prefix = Some("billing.event".into());
        let found = judge(MESSAGE_PREFIX, &settings).unwrap();
        assert_eq!(codes(&[found]), ["message-prefix"]);
        assert!(codes(&[judge("billing.event", &settings).unwrap()]).is_empty());
    }
}
