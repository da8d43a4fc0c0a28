//! What the relay's role may do.

use outbox_schema::sql::{RELAY_ROLE, quote_identifier, quote_qualified};
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use crate::config::{CleanupMode, Settings};
use crate::session::{Sql, SqlError};

/// What was found. `None` is a thing that is not there.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// Whether the role may replicate, by attribute or by a service's own role in its place.
    pub replicates: bool,
    /// Whether it is a member of the relays' group.
    pub in_group: bool,
    /// Whether it may use the schema of the outbox table.
    pub uses_schema: Option<bool>,
    /// Whether it may read the outbox table.
    pub reads_table: Option<bool>,
    /// Whether it may delete from the outbox table.
    pub deletes: Option<bool>,
    /// Rights on `outbox.quarantine` that it lacks.
    pub quarantine_lacks: Option<Vec<String>>,
}

impl Facts {
    /// Whether the quarantine is there and may be read.
    pub fn reads_quarantine(&self) -> bool {
        self.quarantine_lacks.as_ref().is_some_and(|lacks| !lacks.iter().any(|right| right == "SELECT"))
    }
}

// Cloud services grant replication by membership in a role of theirs in place of the attribute.
const SQL: &str = "
    SELECT jsonb_build_object(
        'replicates', r.rolreplication OR r.rolsuper OR EXISTS (
            SELECT FROM pg_roles s WHERE s.rolname IN ('rds_replication', 'alloydbsuperuser')
               AND pg_has_role(r.oid, s.oid, 'MEMBER')),
        'in_group', EXISTS (SELECT FROM pg_roles g WHERE g.rolname = $3 AND pg_has_role(r.oid, g.oid, 'MEMBER')),
        'uses_schema', (SELECT has_schema_privilege(r.oid, n.oid, 'USAGE') FROM pg_namespace n WHERE n.nspname = $1),
        'reads_table', (SELECT has_table_privilege(r.oid, c.oid, 'SELECT')
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2),
        'deletes', (SELECT has_table_privilege(r.oid, c.oid, 'DELETE')
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2),
        'quarantine_lacks', (SELECT coalesce((SELECT jsonb_agg(p) FROM unnest('{SELECT,INSERT,UPDATE}'::text[]) p
                WHERE NOT has_table_privilege(r.oid, c.oid, p)), '[]')
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'outbox' AND c.relname = 'quarantine'))::text
    FROM pg_roles r WHERE r.rolname = current_user";

/// Asks the server.
pub async fn look(sql: &Sql, settings: &Settings) -> Result<Facts, SqlError> {
    let outbox = &settings.outbox;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&outbox.schema, &outbox.table, &RELAY_ROLE];
    ask::document(sql, "asking for the rights of the relay's role", SQL, &values).await
}

/// Everything there is to say about them. `refused` is what the server said to a replication connection, where it was
/// about rights: being a member of a role called so is worth something on the service alone that made it.
pub fn judge(facts: &Facts, settings: &Settings, refused: Option<&str>) -> Vec<Finding> {
    let role = quote_identifier(&settings.source.user);
    let subject = &settings.source.user;
    let mut findings = Vec::new();
    findings.push(match (facts.replicates, refused) {
        (true, None) => Finding::ok(Area::Rights, "replication-right", subject, "may replicate"),
        (true, Some(refused)) => lacks_replication(settings, refused),
        (false, _) => lacks_replication(settings, "lacks the attribute REPLICATION"),
    });
    if facts.in_group {
        findings.push(Finding::ok(
            Area::Rights,
            "relay-group",
            subject,
            format!("is a member of {RELAY_ROLE}"),
        ));
    } else {
        findings.push(
            Finding::error(
                Area::Rights,
                "relay-group",
                subject,
                format!("is no member of {RELAY_ROLE}, which holds the rights of relays"),
            )
            .mend("make it one (init does)", format!("GRANT {RELAY_ROLE} TO {role};")),
        );
    }
    findings.extend(table(facts, settings));
    findings.extend(deletion(facts, settings));
    findings.extend(quarantine(facts, settings));
    findings
}

/// Without it no stream can be read.
pub fn lacks_replication(settings: &Settings, seen: &str) -> Finding {
    let role = quote_identifier(&settings.source.user);
    Finding::error(Area::Rights, "replication-right", &settings.source.user, seen).mend(
        "give it the attribute, or what your service offers in its place (on RDS: GRANT rds_replication TO the role)",
        format!("ALTER ROLE {role} REPLICATION;"),
    )
}

fn table(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let outbox = &settings.outbox;
    let role = quote_identifier(&settings.source.user);
    let name = quote_qualified(&outbox.schema, &outbox.table);
    let subject = format!("{}.{}", outbox.schema, outbox.table);
    if facts.uses_schema == Some(false) {
        let schema = quote_identifier(&outbox.schema);
        let seen = format!("{} may not use the schema {schema}", settings.source.user);
        return Some(
            Finding::error(Area::Rights, "schema-usage", subject, seen)
                .mend("grant it (init does)", format!("GRANT USAGE ON SCHEMA {schema} TO {role};")),
        );
    }
    facts.reads_table.map(|reads| {
        if reads {
            return Finding::ok(Area::Rights, "table-read", subject, "may be read");
        }
        let seen = format!(
            "{} may not read the table, which filling a gap and this check need",
            settings.source.user
        );
        Finding::error(Area::Rights, "table-read", subject, seen)
            .mend("grant it (init does)", format!("GRANT SELECT ON {name} TO {role};"))
    })
}

/// Buckets are emptied by a function of the contract, which comes with the group's rights.
fn deletion(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let outbox = &settings.outbox;
    let wanted = settings.cleanup.mode == CleanupMode::Delete;
    (wanted && facts.deletes == Some(false)).then(|| {
        let name = quote_qualified(&outbox.schema, &outbox.table);
        Finding::error(
            Area::Rights,
            "table-delete",
            format!("{}.{}", outbox.schema, outbox.table),
            format!("{} may not delete, which cleanup.mode = \"delete\" needs", settings.source.user),
        )
        .mend(
            "grant it (init does), or set cleanup.mode = \"off\"",
            format!("GRANT DELETE ON {name} TO {};", quote_identifier(&settings.source.user)),
        )
    })
}

fn quarantine(facts: &Facts, settings: &Settings) -> Option<Finding> {
    const SUBJECT: &str = "outbox.quarantine";
    match &facts.quarantine_lacks {
        None => Some(
            Finding::error(
                Area::Rights,
                "quarantine-missing",
                SUBJECT,
                "is not there: a row that cannot be published would stop everything behind it",
            )
            .mend("let init make it", init_command(settings)),
        ),
        Some(lacks) if lacks.is_empty() => {
            Some(Finding::ok(Area::Rights, "quarantine-rights", SUBJECT, "may be read and written"))
        }
        Some(lacks) => Some(
            Finding::error(
                Area::Rights,
                "quarantine-rights",
                SUBJECT,
                format!("{} lacks {} on it", settings.source.user, lacks.join(", ")),
            )
            .mend(
                "grant it (init does)",
                format!("GRANT SELECT, INSERT, UPDATE ON outbox.quarantine TO {RELAY_ROLE};"),
            ),
        ),
    }
}

/// `outbox-relay init`, as one would run it for this relay.
pub fn init_command(settings: &Settings) -> String {
    let source = &settings.source;
    format!(
        "outbox-relay init --admin-url postgres://postgres@{}:{}/{}",
        source.host, source.port, source.database
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn sound() -> Facts {
        Facts {
            replicates: true,
            in_group: true,
            uses_schema: Some(true),
            reads_table: Some(true),
            deletes: Some(false),
            quarantine_lacks: Some(Vec::new()),
        }
    }

    #[test]
    fn each_missing_right_has_its_grant() {
        assert_eq!(codes(&judge(&sound(), &settings(), None)), [""; 0]);
        type Change = fn(&mut Facts);
        let cases: &[(Change, &str, &str)] = &[
            (|f| f.replicates = false, "replication-right", "ALTER ROLE \"relay\" REPLICATION;"),
            (|f| f.in_group = false, "relay-group", "GRANT outbox_relay TO \"relay\";"),
            (|f| f.uses_schema = Some(false), "schema-usage", "GRANT USAGE ON SCHEMA \"outbox\""),
            (|f| f.reads_table = Some(false), "table-read", "GRANT SELECT ON \"outbox\".\"events\""),
            (|f| f.quarantine_lacks = None, "quarantine-missing", "outbox-relay init"),
            (
                |f| f.quarantine_lacks = Some(vec!["UPDATE".into()]),
                "quarantine-rights",
                "ON outbox.quarantine TO outbox_relay",
            ),
        ];
        for (change, code, command) in cases {
            let mut facts = sound();
            change(&mut facts);
            let findings = judge(&facts, &settings(), None);
            assert_eq!(codes(&findings), [*code]);
            let found = findings.into_iter().find_map(|finding| finding.command);
            assert!(found.as_ref().is_some_and(|found| found.contains(command)), "{found:?}");
        }
    }

    #[test]
    fn the_right_to_delete_is_asked_for_where_rows_are_deleted() {
        let mut settings = settings();
        settings.cleanup.mode = CleanupMode::Delete;
        assert_eq!(codes(&judge(&sound(), &settings, None)), ["table-delete"]);
        assert_eq!(codes(&judge(&Facts { deletes: Some(true), ..sound() }, &settings, None)), [""; 0]);
    }

    #[test]
    fn of_a_table_that_is_not_there_nothing_is_said_here() {
        let facts = Facts { uses_schema: None, reads_table: None, ..sound() };
        assert_eq!(codes(&judge(&facts, &settings(), None)), [""; 0]);
    }

    #[test]
    fn what_the_server_says_counts_more_than_a_membership() {
        let said = "permission denied to start WAL sender";
        let found = judge(&sound(), &settings(), Some(said));
        assert_eq!(codes(&found), ["replication-right"]);
        assert!(found.iter().any(|finding| finding.seen == said), "{found:?}");
    }
}
