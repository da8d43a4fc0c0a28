//! The SQL of the contract: numbered migrations, what each relay needs beside them, and the [`inbox`] of consumers.
//!
//! It runs on PostgreSQL 15 to 18. The files stand in `sql/` and can be run by hand.

mod quote;
mod relay;

pub use quote::{quote_identifier, quote_literal, quote_qualified};
pub use relay::{
    publication_down, publication_up, publication_up_of_messages, relay_role_down, relay_role_up,
    table_delete_down, table_delete_up, table_read_down, table_read_up,
};

/// What `outbox.contract_version()` answers once [`MIGRATIONS`] are installed.
pub const CONTRACT_VERSION: i32 = 4;

/// Schema of the outbox.
pub const SCHEMA: &str = "outbox";

/// The outbox table, in [`SCHEMA`].
pub const TABLE: &str = "events";

/// The table of what could not be published, in [`SCHEMA`]. A relay on a table of another shape has it, too.
pub const QUARANTINE_TABLE: &str = "quarantine";

/// The columns of `outbox.quarantine`.
pub const QUARANTINE_COLUMNS: &[&str] = &[
    "relay",
    "lane",
    "epoch",
    "commit_lsn",
    "ordinal",
    "committed_at",
    "event_id",
    "aggregatetype",
    "event_type",
    "topic",
    "key",
    "held_by",
    "state",
    "cause",
    "reason",
    "columns",
    "types",
    "row_values",
    "formats",
    "bytes",
    "entered_at",
    "decided_at",
    "decided_by",
    "note",
    "settled_at",
    "position",
];

/// The prefix of the messages that `outbox.emit()` writes, unless `outbox.message_prefix` says another.
pub const MESSAGE_PREFIX: &str = "outbox.event";

/// Group role of the services that write events.
pub const PRODUCER_ROLE: &str = "outbox_producer";

/// Group role of the relays.
pub const RELAY_ROLE: &str = "outbox_relay";

/// The columns of `outbox.events` that a publication has to carry: what becomes part of a record, and no
/// more, since every column costs the server for each row.
pub const PUBLISHED_COLUMNS: &[&str] = &[
    "id",
    "aggregatetype",
    "aggregateid",
    "type",
    "schema_version",
    "version",
    "partition_key",
    "headers",
    "traceparent",
    "payload",
    "created_at",
];

/// One step of the schema. `up` only adds; what destroys stands in `down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Its place in the order, from 1, without gaps.
    pub number: u32,
    /// The version of the contract that it belongs to.
    pub version: i32,
    /// What it makes, as in the file's name.
    pub name: &'static str,
    /// Several statements without transaction control.
    pub up: &'static str,
    /// Undoes `up`, given that the later migrations are undone.
    pub down: &'static str,
}

macro_rules! migration {
    ($number:literal, $version:literal, $name:literal, $file:literal) => {
        Migration {
            number: $number,
            version: $version,
            name: $name,
            up: include_str!(concat!("../../sql/", $file, ".up.sql")),
            down: include_str!(concat!("../../sql/", $file, ".down.sql")),
        }
    };
}

// Behind the macro that it uses.
pub mod inbox;

/// The migrations in the order in which `up` runs; `down` runs in the reverse order. Run all of them in one
/// transaction: `outbox.contract_version()` is then seen only together with everything else. Where an older
/// version is installed, those of a later [`version`](Migration::version) are what is missing.
pub const MIGRATIONS: &[Migration] = &[
    migration!(1, 1, "schema", "0001_schema"),
    migration!(2, 1, "events", "0002_events"),
    migration!(3, 1, "enqueue", "0003_enqueue"),
    migration!(4, 1, "roles", "0004_roles"),
    QUARANTINE,
    migration!(6, 3, "cleanup", "0006_cleanup"),
    migration!(7, 4, "emit", "0007_emit"),
];

/// The migration that makes `outbox.quarantine`. It also runs alone, for a relay on a table of another shape,
/// and beside the contract that may come later.
pub const QUARANTINE: Migration = migration!(5, 2, "quarantine", "0005_quarantine");

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements without comments and without the bodies of functions, upper case.
    fn statements(sql: &str) -> String {
        let bodiless: String = sql.split("$function$").step_by(2).collect();
        bodiless
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n")
            .to_uppercase()
    }

    #[test]
    fn numbers_are_without_gaps() {
        for (migrations, version) in
            [(MIGRATIONS, CONTRACT_VERSION), (inbox::MIGRATIONS, inbox::CONTRACT_VERSION)]
        {
            let numbers: Vec<u32> = migrations.iter().map(|m| m.number).collect();
            assert_eq!(numbers, (1..=migrations.len() as u32).collect::<Vec<_>>());
            assert!(migrations.is_sorted_by_key(|m| m.version));
            assert_eq!(migrations.last().map(|m| m.version), Some(version));
        }
    }

    #[test]
    fn up_only_adds() {
        for migration in MIGRATIONS.iter().chain(inbox::MIGRATIONS) {
            let up = statements(migration.up);
            for word in ["DROP ", "TRUNCATE ", "DELETE ", "IF EXISTS", "CASCADE"] {
                assert!(!up.contains(word), "{word} in {} up", migration.name);
            }
        }
    }

    #[test]
    fn transactions_are_the_callers() {
        for sql in MIGRATIONS.iter().chain(inbox::MIGRATIONS).flat_map(|m| [m.up, m.down]) {
            let sql = statements(sql);
            assert!(!sql.contains("COMMIT;") && !sql.contains("ROLLBACK;") && !sql.contains("BEGIN;"));
        }
    }

    #[test]
    fn every_column_is_explained() {
        let up = MIGRATIONS[1].up;
        for column in PUBLISHED_COLUMNS.iter().copied().chain(["seq", "writer", "bucket"]) {
            assert!(up.contains(&format!("COMMENT ON COLUMN outbox.events.{column} IS")), "{column}");
        }
        for column in QUARANTINE_COLUMNS {
            let comment = format!("COMMENT ON COLUMN outbox.quarantine.{column} IS");
            assert!(QUARANTINE.up.contains(&comment), "{column}");
        }
    }
}
