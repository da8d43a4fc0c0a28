//! The outbox table: whether it is there, its columns and their types, its contract.

use outbox_schema::sql::{CONTRACT_VERSION, PRODUCER_ROLE, quote_identifier, quote_qualified};
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use super::rights::init_command;
use crate::commands::init::survey::{Contract, is_contract};
use crate::config::{CleanupMode, OutboxSettings, Settings};
use crate::session::{Sql, SqlError};

/// The table as the catalogue shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// Whether it is partitioned.
    pub partitioned: bool,
    /// Whether it, or one of its partitions, is UNLOGGED.
    pub unlogged: bool,
    /// Whether row security hides rows of it from the relay's role.
    pub row_security: bool,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, of a domain the base type, as `format_type` spells it without a length.
    pub r#type: String,
    /// Whether it is NOT NULL.
    pub required: bool,
}

impl Facts {
    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

const SQL: &str = "
    SELECT jsonb_build_object(
        'partitioned', c.relkind = 'p',
        'unlogged', c.relpersistence = 'u' OR EXISTS (SELECT FROM pg_partition_tree(c.oid) t
            JOIN pg_class leaf ON leaf.oid = t.relid WHERE leaf.relpersistence = 'u'),
        'row_security', row_security_active(c.oid),
        'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'name', a.attname, 'required', a.attnotnull,
                'type', format_type(CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, NULL))
                ORDER BY a.attnum), '[]')
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/// Asks the server; `None` where there is no such table.
pub async fn look(sql: &Sql, outbox: &OutboxSettings) -> Result<Option<Facts>, SqlError> {
    ask::optional(sql, "looking at the outbox table", SQL, &[&outbox.schema, &outbox.table]).await
}

/// Everything there is to say about it.
pub fn judge(facts: Option<&Facts>, settings: &Settings) -> Vec<Finding> {
    let outbox = &settings.outbox;
    let subject = format!("{}.{}", outbox.schema, outbox.table);
    let Some(facts) = facts else {
        let missing = Finding::error(Area::Table, "table-missing", subject, "there is no such table");
        return vec![match is_contract(settings) {
            true => missing.mend("let init make it", init_command(settings)),
            false => missing
                .mend("name the table you have, with its schema", "outbox.table = \"<schema>.<table>\""),
        }];
    };
    let missing = missing_columns(facts, settings, &subject);
    let mut findings = vec![missing.unwrap_or_else(|| {
        let seen = format!("is there, with every mapped column; payload is {}", payload_type(facts, outbox));
        Finding::ok(Area::Table, "table", &subject, seen)
    })];
    let name = quote_qualified(&outbox.schema, &outbox.table);
    if facts.unlogged {
        findings.push(
            Finding::error(
                Area::Table,
                "table-unlogged",
                &subject,
                "is UNLOGGED, or a partition of it is: its rows are in no log, so no slot brings them",
            )
            .mend("make it LOGGED (a partition by its own name)", format!("ALTER TABLE {name} SET LOGGED;")),
        );
    }
    if facts.row_security {
        let role = quote_identifier(&settings.source.user);
        findings.push(
            Finding::warning(
                Area::Table,
                "row-security",
                &subject,
                "row security is active for the relay's role: filling a gap would pass over rows that it hides",
            )
            .mend("let the role see all rows", format!("ALTER ROLE {role} BYPASSRLS;")),
        );
    }
    findings.extend(types(facts, outbox, &name));
    findings.extend(keys(facts, outbox, &name));
    findings.extend(fill(outbox));
    findings.extend(age(facts, settings));
    findings
}

/// Rows that are deleted by their age need a time to tell it by.
fn age(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let name = settings.outbox.columns.created_at.as_ref()?;
    let found = facts.column(name).filter(|_| settings.cleanup.mode == CleanupMode::Delete)?;
    (!found.r#type.starts_with("timestamp")).then(|| {
        Finding::error(
            Area::Table,
            "created-at-type",
            name,
            format!("is {}, so that cleanup.mode = \"delete\" cannot tell how old a row is", found.r#type),
        )
        .mend("map a timestamp, or leave the rows", "cleanup.mode = \"off\"")
    })
}

/// The contract's version, and whether producers may insert now that there is a slot.
pub fn judge_contract(
    contract: Contract,
    producers_let_in: bool,
    slot_is_there: bool,
    settings: &Settings,
) -> Vec<Finding> {
    const SUBJECT: &str = "contract";
    let contract = match contract {
        Contract::Version(CONTRACT_VERSION) => {
            let ok = Finding::ok(Area::Table, "contract", SUBJECT, format!("version {CONTRACT_VERSION}"));
            let locked = (slot_is_there && !producers_let_in).then(|| {
                Finding::warning(
                    Area::Table,
                    "producers-locked-out",
                    PRODUCER_ROLE,
                    "may not use the schema, so that services cannot insert although there is a slot",
                )
                .mend("let them in (init does)", format!("GRANT USAGE ON SCHEMA outbox TO {PRODUCER_ROLE};"))
            });
            return [ok].into_iter().chain(locked).collect();
        }
        // The missing table is said elsewhere.
        Contract::Absent => return Vec::new(),
        // Of version 4 only relays of messages need anything; replicas are replaced one by one.
        Contract::Version(3) if settings.outbox.message_prefix.is_none() => Finding::warning(
            Area::Table,
            "contract-version",
            SUBJECT,
            format!(
                "is version 3 in the database and {CONTRACT_VERSION} in this program, which can do with it"
            ),
        )
        .mend("let init bring it up to date", init_command(settings)),
        Contract::Version(version) if version < CONTRACT_VERSION => Finding::error(
            Area::Table,
            "contract-version",
            SUBJECT,
            format!("is version {version} in the database and {CONTRACT_VERSION} in this program"),
        )
        .mend("let init bring it up to date", init_command(settings)),
        Contract::Version(version) => Finding::error(
            Area::Table,
            "contract-version",
            SUBJECT,
            format!(
                "is version {version} in the database; this program knows versions up to {CONTRACT_VERSION}"
            ),
        )
        .mend("run the program that made it, or a later one", "outbox-relay --version"),
        Contract::Foreign => Finding::error(
            Area::Table,
            "contract-foreign",
            SUBJECT,
            "a schema called outbox is there and is not the contract's",
        )
        .mend("rename that schema, or name the table you have", "outbox.table = \"<schema>.<table>\""),
    };
    vec![contract]
}

fn payload_type<'f>(facts: &'f Facts, outbox: &OutboxSettings) -> &'f str {
    facts.column(&outbox.columns.payload).map_or("missing", |column| column.r#type.as_str())
}

/// Whether every mapped column is there.
pub fn is_complete(facts: &Facts, settings: &Settings) -> bool {
    lacking(facts, settings).is_empty()
}

fn lacking<'s>(facts: &Facts, settings: &'s Settings) -> Vec<&'s str> {
    let names = &settings.outbox.columns;
    let fill = [&names.writer, &names.seq].into_iter().flatten().map(String::as_str);
    names.published().chain(fill).filter(|name| facts.column(name).is_none()).collect()
}

fn missing_columns(facts: &Facts, settings: &Settings, subject: &str) -> Option<Finding> {
    let missing = lacking(facts, settings);
    (!missing.is_empty()).then(|| {
        let there: Vec<&str> = facts.columns.iter().map(|column| column.name.as_str()).collect();
        let seen = format!("has no column {}; it has {}", missing.join(", "), there.join(", "));
        Finding::error(Area::Table, "columns-missing", subject, seen).mend(
            "name the columns it has, or add them",
            "outbox.columns.<part> = \"<column>\"   # parts: outbox-relay config reference",
        )
    })
}

fn types(facts: &Facts, outbox: &OutboxSettings, name: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let columns = &outbox.columns;
    match facts.column(&columns.payload).map(|column| column.r#type.as_str()) {
        None | Some("json" | "text" | "character varying" | "bytea") => {}
        Some("jsonb") => findings.push(
            Finding::note(
                Area::Table,
                "payload-jsonb",
                &columns.payload,
                "is jsonb: PostgreSQL rewrites what producers sent, and decoding it costs the server twice as much as json",
            )
            .advised(
                "with json (or text) the bytes stay as they were written; the change rewrites the table",
                format!("ALTER TABLE {name} ALTER COLUMN {} TYPE json;", quote_identifier(&columns.payload)),
            ),
        ),
        Some(other) => findings.push(
            Finding::warning(
                Area::Table,
                "payload-type",
                &columns.payload,
                format!("is {other}; records would carry PostgreSQL's text of it"),
            )
            .mend(
                "use json, text or bytea, or map another column",
                "outbox.columns.payload = \"<column>\"",
            ),
        ),
    }
    let expected: [(&Option<String>, &str, &[&str]); 3] = [
        (&columns.headers, "header-type", &["json", "jsonb", "text"]),
        (&columns.writer, "writer-type", &["xid8"]),
        (&columns.seq, "seq-type", &["bigint", "integer"]),
    ];
    for (column, code, wanted) in expected {
        let found = column.as_ref().and_then(|name| facts.column(name));
        if let Some(found) = found.filter(|found| !wanted.contains(&found.r#type.as_str())) {
            findings.push(
                Finding::warning(
                    Area::Table,
                    code,
                    &found.name,
                    format!("is {} and has to be {}", found.r#type, wanted.join(" or ")),
                )
                .mend("map a column of that type", "outbox.columns.<part> = \"<column>\""),
            );
        }
    }
    findings
}

fn keys(facts: &Facts, outbox: &OutboxSettings, name: &str) -> Vec<Finding> {
    let columns = &outbox.columns;
    let needed = [
        (&columns.id, true),
        (&columns.aggregatetype, outbox.rules.topic.is_none()),
        (&columns.aggregateid, outbox.rules.key.is_none()),
        (&columns.r#type, true),
    ];
    let required = needed.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name);
    let nullable = required.filter_map(|name| facts.column(name)).filter(|found| !found.required);
    nullable
        .map(|column| {
            Finding::warning(
                Area::Table,
                "column-nullable",
                &column.name,
                "may be NULL, and a row with NULL in it cannot be published",
            )
            .mend(
                "let the insert fail in the producer's transaction",
                format!("ALTER TABLE {name} ALTER COLUMN {} SET NOT NULL;", quote_identifier(&column.name)),
            )
        })
        .collect()
}

fn fill(outbox: &OutboxSettings) -> Option<Finding> {
    let lacks: Vec<&str> = [("writer", &outbox.columns.writer), ("seq", &outbox.columns.seq)]
        .into_iter()
        .filter_map(|(part, column)| column.is_none().then_some(part))
        .collect();
    (!lacks.is_empty()).then(|| {
        let name = quote_qualified(&outbox.schema, &outbox.table);
        Finding::note(
            Area::Table,
            "no-fill",
            format!("{}.{}", outbox.schema, outbox.table),
            format!(
                "has no {} column: after a lost slot the relay can only halt, not fill the gap",
                lacks.join(" and no ")
            ),
        )
        .advised(
            "add the columns, and name them under outbox.columns",
            format!(
                "ALTER TABLE {name} ADD COLUMN writer xid8 DEFAULT pg_current_xact_id(), \
                 ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY;"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn sound() -> Facts {
        let column = |(name, kind): (&str, &str)| Column {
            name: name.into(),
            r#type: kind.into(),
            required: ["id", "aggregatetype", "aggregateid", "type"].contains(&name),
        };
        let columns = [
            ("seq", "bigint"),
            ("id", "uuid"),
            ("aggregatetype", "text"),
            ("aggregateid", "text"),
            ("type", "text"),
            ("schema_version", "integer"),
            ("version", "bigint"),
            ("partition_key", "text"),
            ("headers", "jsonb"),
            ("traceparent", "text"),
            ("payload", "json"),
            ("created_at", "timestamp with time zone"),
            ("writer", "xid8"),
        ];
        Facts {
            partitioned: true,
            unlogged: false,
            row_security: false,
            columns: columns.into_iter().map(column).collect(),
        }
    }

    fn retyped(name: &str, kind: &str) -> Facts {
        let mut facts = sound();
        facts.columns.iter_mut().find(|column| column.name == name).unwrap().r#type = kind.into();
        facts
    }

    #[test]
    fn each_fault_of_the_table_is_told() {
        let found = |facts: &Facts| codes(&judge(Some(facts), &settings()));
        assert_eq!(found(&sound()), [""; 0]);
        assert_eq!(codes(&judge(None, &settings())), ["table-missing"]);
        assert_eq!(found(&Facts { unlogged: true, ..sound() }), ["table-unlogged"]);
        assert_eq!(found(&Facts { row_security: true, ..sound() }), ["row-security"]);
        assert_eq!(found(&retyped("payload", "jsonb")), ["payload-jsonb"]);
        assert_eq!(found(&retyped("payload", "xml")), ["payload-type"]);
        assert_eq!(found(&retyped("headers", "hstore")), ["header-type"]);
        assert_eq!(found(&retyped("writer", "bigint")), ["writer-type"]);
        let mut nullable = sound();
        nullable.columns[3].required = false;
        assert_eq!(found(&nullable), ["column-nullable"]);
        let mut lacks = sound();
        lacks.columns.retain(|column| !["writer", "payload"].contains(&column.name.as_str()));
        let findings = judge(Some(&lacks), &settings());
        assert_eq!(codes(&findings), ["columns-missing"]);
        assert!(findings[0].seen.contains("no column payload, writer;"), "{}", findings[0].seen);
    }

    #[test]
    fn rows_are_deleted_by_a_time() {
        let mut settings = settings();
        let found = |settings: &Settings| codes(&judge(Some(&retyped("created_at", "bigint")), settings));
        assert_eq!(found(&settings), [""; 0]);
        settings.cleanup.mode = CleanupMode::Delete;
        assert_eq!(found(&settings), ["created-at-type"]);
    }

    #[test]
    fn what_a_table_of_another_shape_lacks_is_said_with_the_statement() {
        let mut settings = settings();
        (settings.outbox.columns.writer, settings.outbox.columns.seq) = (None, None);
        let findings = judge(Some(&sound()), &settings);
        assert_eq!(codes(&findings), ["no-fill"]);
        assert!(findings.last().unwrap().command.as_ref().unwrap().contains("ADD COLUMN writer xid8"));
    }

    #[test]
    fn the_contract_has_to_be_known_and_producers_let_in_with_the_slot() {
        let judged = |contract, let_in, slot| codes(&judge_contract(contract, let_in, slot, &settings()));
        let known = Contract::Version(CONTRACT_VERSION);
        assert_eq!(judged(known, true, true), [""; 0]);
        assert_eq!(judged(known, false, false), [""; 0]);
        assert_eq!(judged(known, false, true), ["producers-locked-out"]);
        for other in [CONTRACT_VERSION + 1, 0] {
            assert_eq!(judged(Contract::Version(other), true, true), ["contract-version"]);
        }
        assert_eq!(judged(Contract::Foreign, true, true), ["contract-foreign"]);
        assert_eq!(judged(Contract::Absent, false, false), [""; 0]);
    }
}
