//! The publication: whether every insert into the outbox comes through it, whole.

use outbox_schema::sql::{quote_identifier, quote_qualified};
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use super::rights::init_command;
use super::table;
use crate::commands::init::survey::published_columns;
use crate::config::Settings;
use crate::session::{Sql, SqlError};

/// The publication as the catalogue shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// Whether inserts are published.
    pub inserts: bool,
    /// Updates, deletes and truncates, where they are published.
    pub also: Vec<String>,
    /// Whether rows of partitions come under the root's name.
    pub via_root: bool,
    /// Published columns of the outbox table; `None` if the table is not in it.
    pub columns: Option<Vec<String>>,
    /// The condition that rows have to meet.
    pub filter: Option<String>,
    /// Other tables in it.
    pub others: i64,
    /// Whether it was made or altered after the moment that the slot still decodes from.
    pub younger_than_slot: bool,
}

// With publish_via_partition_root the view names the root, without it the leaves. A row version's age is
// compared with that of the slot's catalogue horizon: what is younger was not there at that moment.
const SQL: &str = "
    SELECT jsonb_build_object(
        'inserts', p.pubinsert,
        'also', array_remove(ARRAY[CASE WHEN p.pubupdate THEN 'updates' END, CASE WHEN p.pubdelete THEN 'deletes' END,
            CASE WHEN p.pubtruncate THEN 'truncates' END], NULL),
        'via_root', p.pubviaroot,
        'columns', t.attnames,
        'filter', t.rowfilter,
        'others', (SELECT count(*) FROM pg_publication_tables o WHERE o.pubname = p.pubname
            AND (o.schemaname, o.tablename) <> ($2::text, $3::text)),
        'younger_than_slot', coalesce((SELECT age(p.xmin) < age(s.catalog_xmin) FROM pg_replication_slots s
            WHERE s.slot_name = $4), false))::text
    FROM pg_publication p
    LEFT JOIN pg_publication_tables t ON t.pubname = p.pubname AND t.schemaname = $2 AND t.tablename = $3
    WHERE p.pubname = $1";

/// Asks the server; `None` where there is no such publication.
pub async fn look(sql: &Sql, settings: &Settings) -> Result<Option<Facts>, SqlError> {
    let outbox = &settings.outbox;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&settings.publication(), &outbox.schema, &outbox.table, &settings.slot()];
    ask::optional(sql, "looking at the publication", SQL, &values).await
}

/// Everything there is to say about it. What it leaves out is told all at once.
pub fn judge(facts: Option<&Facts>, table: Option<&table::Facts>, settings: &Settings) -> Vec<Finding> {
    let name = settings.publication();
    let Some(facts) = facts else {
        let missing = Finding::error(Area::Publication, "publication-missing", name, "does not exist");
        return vec![missing.mend(
            "let init make it; it has to be there before the slot, and rows inserted meanwhile come through no slot",
            init_command(settings),
        )];
    };
    if settings.outbox.message_prefix.is_some() {
        return vec![of_messages(facts, &name)];
    }
    let mut findings = faults(facts, table, settings);
    if findings.is_empty() {
        let count = facts.columns.as_ref().map_or(0, Vec::len);
        findings.push(Finding::ok(
            Area::Publication,
            "publication",
            &name,
            format!("publishes inserts into the table, {count} columns, without a filter"),
        ));
    }
    findings.extend(wider(facts, settings));
    if facts.younger_than_slot {
        findings.push(Finding::note(
            Area::Publication,
            "publication-younger",
            name,
            "was made or altered after the moment that the slot still decodes from: what was inserted between does not \
             come through it as it stands now, and decoding may fail",
        ).advised(
            "nothing, if it goes away once the relay has moved on; else make publication and slot anew, in this order",
            init_command(settings),
        ));
    }
    findings
}

/// Messages come through every slot; a table in the publication says that rows were published by this relay.
fn of_messages(facts: &Facts, name: &str) -> Finding {
    if facts.columns.is_none() && facts.others == 0 {
        return Finding::ok(
            Area::Publication,
            "publication",
            name,
            "is there, without a table, as messages need it",
        );
    }
    let seen = "holds tables, and with outbox.from = \"messages\" no row is published: a start halts";
    Finding::error(Area::Publication, "publication-holds-tables", name, seen).mend(
        "give the relay of messages another name; or, where every row is published, make the publication anew",
        "name = \"<another name>\"",
    )
}

fn faults(facts: &Facts, table: Option<&table::Facts>, settings: &Settings) -> Vec<Finding> {
    let name = settings.publication();
    let quoted = quote_identifier(&name);
    let outbox = &settings.outbox;
    let whole = quote_qualified(&outbox.schema, &outbox.table);
    let list = |columns: &[&str]| columns.iter().map(|c| quote_identifier(c)).collect::<Vec<_>>().join(", ");
    let wanted = published_columns(settings);
    let again = format!("ALTER PUBLICATION {quoted} SET TABLE {whole} ({});", list(&wanted));
    let fault = |code, seen: String| Finding::error(Area::Publication, code, &name, seen);
    let mut findings = Vec::new();
    if !facts.inserts {
        let seen = "does not publish inserts".to_owned();
        findings.push(fault("publication-inserts", seen).mend(
            "let it; rows inserted meanwhile come through no slot",
            format!("ALTER PUBLICATION {quoted} SET (publish = 'insert');"),
        ));
    }
    let partitioned = table.is_some_and(|table| table.partitioned);
    match &facts.columns {
        None if partitioned && !facts.via_root => {
            let seen = "publishes partitions under their own names, not the table under its own".to_owned();
            findings.push(fault("publication-via-root", seen).mend(
                "publish through the root, so that a new partition cannot be missed",
                format!("ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true);"),
            ));
        }
        None => {
            let seen = format!("does not contain {}.{}", outbox.schema, outbox.table);
            let add = format!("ALTER PUBLICATION {quoted} ADD TABLE {whole} ({});", list(&wanted));
            findings.push(
                fault("publication-table", seen)
                    .mend("add it; rows inserted meanwhile come through no slot", add),
            );
        }
        Some(columns) => {
            let missing: Vec<&str> =
                wanted.iter().copied().filter(|wanted| !columns.iter().any(|c| c == wanted)).collect();
            if !missing.is_empty() {
                let seen = format!("leaves out column {}", missing.join(", "));
                findings.push(
                    fault("publication-columns", seen)
                        .mend("list every column that becomes part of a record", &again),
                );
            }
        }
    }
    if let Some(filter) = &facts.filter {
        let seen = format!("has a row filter, {filter}: rows that it holds back are never published");
        findings.push(fault("publication-filter", seen).mend("take the filter off", again));
    }
    findings
}

/// A foreign publication may be wider; what is not an insert into the outbox is skipped, but sent.
fn wider(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let wanted = published_columns(settings);
    let extra: Vec<&str> = facts
        .columns
        .iter()
        .flatten()
        .map(String::as_str)
        .filter(|column| !wanted.contains(column))
        .collect();
    let mut more = facts.also.clone();
    if facts.others > 0 {
        more.push(format!("{} other tables", facts.others));
    }
    if !extra.is_empty() {
        more.push(format!("column {}", extra.join(", ")));
    }
    (!more.is_empty()).then(|| {
        let outbox = &settings.outbox;
        let name = settings.publication();
        let quoted = quote_identifier(&name);
        let columns: Vec<String> = wanted.iter().map(|column| quote_identifier(column)).collect();
        let narrow = format!(
            "ALTER PUBLICATION {quoted} SET TABLE {} ({});\nALTER PUBLICATION {quoted} SET (publish = 'insert');",
            quote_qualified(&outbox.schema, &outbox.table),
            columns.join(", ")
        );
        Finding::note(
            Area::Publication,
            "publication-wide",
            name,
            format!("sends more than the relay needs: {}; it is skipped, but costs the server for each row", more.join(", ")),
        )
        .advised("narrow it (not where it is FOR ALL TABLES: drop it, and let init make it, before the slot)", narrow)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn sound() -> Facts {
        Facts {
            inserts: true,
            also: Vec::new(),
            via_root: true,
            columns: Some(published_columns(&settings()).into_iter().map(str::to_owned).collect()),
            filter: None,
            others: 0,
            younger_than_slot: false,
        }
    }

    fn table() -> table::Facts {
        table::Facts { partitioned: true, unlogged: false, row_security: false, columns: Vec::new() }
    }

    #[test]
    fn each_fault_is_told_with_its_statement() {
        type Change = fn(&mut Facts);
        let cases: &[(Change, &str, &str)] = &[
            (|f| f.inserts = false, "publication-inserts", "SET (publish = 'insert')"),
            (|f| f.columns = None, "publication-table", "ADD TABLE \"outbox\".\"events\" (\"id\", "),
            (
                |f| (f.columns, f.via_root) = (None, false),
                "publication-via-root",
                "publish_via_partition_root = true",
            ),
            (
                |f| f.columns = Some(vec!["id".into()]),
                "publication-columns",
                "SET TABLE \"outbox\".\"events\"",
            ),
            (|f| f.filter = Some("(id IS NULL)".into()), "publication-filter", "SET TABLE"),
            (|f| f.also = vec!["updates".into()], "publication-wide", "SET (publish = 'insert')"),
            (|f| f.others = 3, "publication-wide", "SET TABLE \"outbox\".\"events\""),
            (|f| f.columns.as_mut().unwrap().push("seq".into()), "publication-wide", "SET TABLE"),
            (|f| f.younger_than_slot = true, "publication-younger", "outbox-relay init"),
        ];
        assert_eq!(codes(&judge(Some(&sound()), Some(&table()), &settings())), [""; 0]);
        assert_eq!(codes(&judge(None, None, &settings())), ["publication-missing"]);
        for (change, code, command) in cases {
            let mut facts = sound();
            change(&mut facts);
            let findings = judge(Some(&facts), Some(&table()), &settings());
            assert_eq!(codes(&findings), [*code]);
            let found = findings.into_iter().find_map(|finding| finding.command).unwrap();
            assert!(found.contains(command), "{found}");
        }
    }

    #[test]
    fn faults_are_told_all_at_once() {
        let facts = Facts { inserts: false, filter: Some("x".into()), columns: Some(Vec::new()), ..sound() };
        let found = codes(&judge(Some(&facts), Some(&table()), &settings()));
        assert_eq!(found, ["publication-inserts", "publication-columns", "publication-filter"]);
    }

    #[test]
    fn messages_need_one_without_a_table() {
        let mut settings = settings();
        settings.outbox.message_prefix = Some("outbox.event".into());
        let empty = Facts { columns: None, ..sound() };
        assert!(codes(&judge(Some(&empty), None, &settings)).is_empty());
        for holds in [sound(), Facts { others: 2, ..empty }] {
            assert_eq!(codes(&judge(Some(&holds), None, &settings)), ["publication-holds-tables"]);
        }
        assert_eq!(codes(&judge(None, None, &settings)), ["publication-missing"]);
    }
}
