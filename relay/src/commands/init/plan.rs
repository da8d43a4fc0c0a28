//! What has to be done, from what was found: pure, and the only place that decides it.

use outbox_schema::sql;
use secrecy::{ExposeSecret, SecretString};

use super::InitError;
use super::survey::{Contract, Slot, Survey, Table, is_contract, published_columns};
use crate::config::{CleanupMode, Existing, Settings};

/// Lets producers in, once there is a slot. The contract's roles bring every right but this one is taken
/// from them first (see [`CLOSE_TO_PRODUCERS`]), so that it alone decides.
const LET_PRODUCERS_IN: &str = "GRANT USAGE ON SCHEMA outbox TO outbox_producer;";
/// Runs in the transaction that makes the contract: nobody inserts a row before there is a slot.
const CLOSE_TO_PRODUCERS: &str = "REVOKE USAGE ON SCHEMA outbox FROM outbox_producer;";

/// First version with column lists and row filters in publications.
const OLDEST_SERVER: i32 = 150_000;

/// What one step is.
#[derive(Debug)]
pub enum Step {
    /// It is there already.
    Present(String),
    /// Something to know; nothing is done.
    Note(String),
    /// SQL to run; all of it or nothing takes effect.
    Run {
        /// What it does, in words.
        says: String,
        /// The SQL, as it may be printed.
        sql: String,
        /// SQL that runs with it and is never printed, since it holds what a password is verified by.
        private: Option<SecretString>,
    },
    /// Make the slot.
    MakeSlot {
        /// What it does, in words.
        says: String,
        /// The SQL.
        sql: String,
        /// Whether the table has to be empty, before and after.
        only_if_empty: bool,
    },
}

/// Everything to be done, in order.
#[derive(Debug)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Whether the slot is left to `run --existing=publish`.
    pub slot_by_run: bool,
}

impl Plan {
    /// Decides what has to be done.
    ///
    /// # Errors
    ///
    /// [`InitError::Refused`] with a sentence where what was found does not allow it. Nothing was changed
    /// by then.
    pub fn new(settings: &Settings, survey: &Survey) -> Result<Plan, InitError> {
        refusal(settings, survey).map_or(Ok(()), |sentence| Err(InitError::Refused(sentence)))?;
        let ours = is_contract(settings);
        let mut plan = Plan { steps: Vec::new(), slot_by_run: false };
        if ours {
            plan.contract(survey);
        } else {
            plan.quarantine(survey);
        }
        plan.publication(settings, survey);
        plan.role(settings, survey, ours);
        plan.slot(settings, survey);
        if ours && !plan.slot_by_run {
            plan.producers(survey);
        }
        Ok(plan)
    }

    /// Takes the step out that lets producers in, where there is one.
    pub fn take_producers(&mut self) -> Option<Step> {
        let lets_in = |step: &Step| matches!(step, Step::Run { sql, .. } if sql == LET_PRODUCERS_IN);
        let at = self.steps.iter().position(lets_in)?;
        Some(self.steps.remove(at))
    }

    fn run(&mut self, says: impl Into<String>, sql: impl Into<String>) {
        self.steps.push(Step::Run { says: says.into(), sql: sql.into(), private: None });
    }

    fn present(&mut self, what: impl Into<String>) {
        self.steps.push(Step::Present(what.into()));
    }

    fn contract(&mut self, survey: &Survey) {
        let known = sql::CONTRACT_VERSION;
        match survey.contract {
            Contract::Absent | Contract::Foreign => {
                let closed = format!(
                    "-- Nobody inserts before there is a slot: such rows would come through none.\n{CLOSE_TO_PRODUCERS}\n\n"
                );
                self.run(
                    format!("schema outbox: tables, functions and roles of the contract, version {known}"),
                    transaction(sql::MIGRATIONS.iter(), &closed),
                );
            }
            Contract::Version(found) if found < known => {
                let missing = sql::MIGRATIONS.iter().filter(|migration| migration.version > found);
                self.run(
                    format!("the contract goes from version {found} to {known}"),
                    transaction(missing, ""),
                );
            }
            Contract::Version(found) => self.present(format!("the contract, version {found}")),
        }
    }

    /// A relay on a table of another shape has no more of the contract than the quarantine.
    fn quarantine(&mut self, survey: &Survey) {
        let name = format!("{}.{}", sql::SCHEMA, sql::QUARANTINE_TABLE);
        if survey.quarantine.is_some() {
            return self.present(format!("table {name}"));
        }
        self.run(
            format!("table {name}, for rows that cannot be published, and group role {}", sql::RELAY_ROLE),
            transaction([&sql::QUARANTINE], ""),
        );
    }

    fn publication(&mut self, settings: &Settings, survey: &Survey) {
        let name = settings.publication();
        if survey.publication.is_some() {
            return self.present(format!("publication {name}"));
        }
        let outbox = &settings.outbox;
        if let Some(prefix) = &outbox.message_prefix {
            return self.run(
                format!("publication {name}: without a table, for messages with the prefix {prefix}, made before the slot"),
                sql::publication_up_of_messages(&name),
            );
        }
        let columns = published_columns(settings);
        self.run(
            format!("publication {name}: inserts only, {} columns, made before the slot", columns.len()),
            sql::publication_up(&name, &outbox.schema, &outbox.table, &columns),
        );
    }

    fn role(&mut self, settings: &Settings, survey: &Survey, ours: bool) {
        let name = &settings.source.user;
        let readable = survey.role.is_some_and(|role| role.reads_table);
        match survey.role {
            Some(role) if role.in_group => {
                self.present(format!("role {name}, member of {}", sql::RELAY_ROLE))
            }
            found => {
                let private = if found.is_none() { password_of(settings) } else { None };
                let says = match found {
                    None => format!("role {name} with LOGIN and REPLICATION, member of {}", sql::RELAY_ROLE),
                    Some(_) => format!("role {name} becomes member of {}", sql::RELAY_ROLE),
                };
                if found.is_none() && private.is_none() {
                    self.steps.push(Step::Note(format!(
                        "role {name} gets no password, since none is configured; if pg_hba.conf asks for one, \
                         set it with psql's \\password"
                    )));
                }
                self.steps.push(Step::Run { says, sql: sql::relay_role_up(name), private });
            }
        }
        if survey.role.is_some_and(|role| !role.may_replicate) {
            self.steps.push(Step::Note(format!(
                "role {name} was there and lacks LOGIN or REPLICATION; unless your service offers something \
                 in their place: ALTER ROLE {} LOGIN REPLICATION;",
                sql::quote_identifier(name)
            )));
        }
        if !ours && readable {
            self.present(format!("the right of {name} to read the table"));
        } else if !ours {
            let outbox = &settings.outbox;
            let statement = sql::table_read_up(&outbox.schema, &outbox.table, name);
            self.run(format!("{name} may read {}.{}", outbox.schema, outbox.table), statement);
        }
        self.deletion(settings, survey);
    }

    /// Buckets of the contract's table are emptied by a function of its owner; other tables need the right.
    fn deletion(&mut self, settings: &Settings, survey: &Survey) {
        let (name, outbox) = (&settings.source.user, &settings.outbox);
        match settings.cleanup.mode {
            CleanupMode::Buckets | CleanupMode::Off => {}
            CleanupMode::Delete if survey.role.is_some_and(|role| role.deletes) => {
                self.present(format!("the right of {name} to delete published rows"));
            }
            CleanupMode::Delete => {
                let statement = sql::table_delete_up(&outbox.schema, &outbox.table, name);
                self.run(format!("{name} may delete from {}.{}", outbox.schema, outbox.table), statement);
            }
        }
    }

    fn slot(&mut self, settings: &Settings, survey: &Survey) {
        let name = settings.slot();
        if survey.slot.is_some() {
            return self.present(format!("slot {name}"));
        }
        // A table that is made just now is empty; of one that nobody looked at that is not known.
        let rows = survey.table.as_ref().map_or(Some(false), |table| table.has_rows);
        // Rows are nobody's concern where events are messages.
        let rows = if settings.outbox.message_prefix.is_some() { Some(false) } else { rows };
        let (says, only_if_empty) = match (settings.existing, rows) {
            (Existing::Publish, _) => {
                self.slot_by_run = true;
                let closed = is_contract(settings) && !survey.producers_let_in;
                let again = if closed { "; run init again after it, to let producers in" } else { "" };
                self.steps.push(Step::Note(format!(
                    "slot {name} is made by `outbox-relay run --existing=publish`, which publishes the rows \
                     first{again}"
                )));
                return;
            }
            (Existing::Skip, Some(true) | None) => {
                (format!("slot {name}; rows that stand in the table now are never published"), false)
            }
            (Existing::Skip, Some(false)) => (format!("slot {name}"), false),
            (Existing::Refuse, _) if settings.outbox.message_prefix.is_some() => {
                (format!("slot {name}"), false)
            }
            (Existing::Refuse, _) => (format!("slot {name}, if the table is empty"), true),
        };
        // Servers before 17 do not know the argument, and without a server nobody knows.
        let knows = survey.server.as_ref().is_some_and(|server| server.version >= 170_000);
        let failover = if knows && settings.source.failover_slot { ", failover => true" } else { "" };
        let statement = format!(
            "SELECT slot_name, lsn FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{failover});",
            sql::quote_literal(&name)
        );
        self.steps.push(Step::MakeSlot { says, sql: statement, only_if_empty });
    }

    fn producers(&mut self, survey: &Survey) {
        let made_now = survey.contract == Contract::Absent;
        if survey.producers_let_in && !made_now {
            self.present(format!("the right of {} to insert", sql::PRODUCER_ROLE));
        } else {
            self.run(
                format!("{} may insert, now that there is a slot", sql::PRODUCER_ROLE),
                LET_PRODUCERS_IN,
            );
        }
    }
}

/// Migrations, and what else belongs to them, as one transaction.
fn transaction<'a>(migrations: impl IntoIterator<Item = &'a sql::Migration>, more: &str) -> String {
    let mut statements = String::from("BEGIN;\n\n");
    for migration in migrations {
        statements += &format!("-- {:04} {}\n{}\n", migration.number, migration.name, migration.up);
    }
    statements + more + "COMMIT;"
}

/// The statement that sets a new role's password, by its SCRAM verifier: the password itself would end in
/// the server's log wherever statements are logged.
fn password_of(settings: &Settings) -> Option<SecretString> {
    let password = settings.source.password.as_ref()?;
    let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    let role = sql::quote_identifier(&settings.source.user);
    Some(SecretString::from(format!("ALTER ROLE {role} PASSWORD {};", sql::quote_literal(&verifier))))
}

/// The sentence for what does not allow to go on, if anything does not.
fn refusal(settings: &Settings, survey: &Survey) -> Option<String> {
    server_refusal(settings, survey)
        .or_else(|| quarantine_refusal(survey))
        .or_else(|| table_refusal(settings, survey))
        .or_else(|| publication_refusal(settings, survey))
        .or_else(|| survey.slot.as_ref().and_then(|slot| slot_refusal(settings, survey, slot)))
        .or_else(|| rows_refusal(settings, survey))
}

fn server_refusal(settings: &Settings, survey: &Survey) -> Option<String> {
    let server = survey.server.as_ref()?;
    if server.version < OLDEST_SERVER {
        let major = server.version / 10_000;
        return Some(format!(
            "the server is PostgreSQL {major}; publications with column lists need 15 or later"
        ));
    }
    if server.in_recovery {
        return Some("the server is a standby; --admin-url has to lead to the primary".into());
    }
    if server.database != settings.source.database {
        return Some(format!(
            "--admin-url leads to database {:?} and source.url to {:?}; both have to name the outbox's",
            server.database, settings.source.database
        ));
    }
    if server.wal_level != "logical" {
        return Some(format!(
            "wal_level is {} and has to be logical: ALTER SYSTEM SET wal_level = 'logical', then restart the \
             server (a reload is not enough) and run init again",
            server.wal_level
        ));
    }
    None
}

fn quarantine_refusal(survey: &Survey) -> Option<String> {
    let found = survey.quarantine.as_ref()?;
    let missing: Vec<&str> =
        sql::QUARANTINE_COLUMNS.iter().copied().filter(|column| !found.iter().any(|c| c == column)).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "a table outbox.quarantine is there and is not the relay's, since it has no column {}: rename it",
            missing.join(", ")
        )
    })
}

fn table_refusal(settings: &Settings, survey: &Survey) -> Option<String> {
    let name = format!("{}.{}", settings.outbox.schema, settings.outbox.table);
    if is_contract(settings) {
        match survey.contract {
            Contract::Absent => return None,
            Contract::Version(1..=sql::CONTRACT_VERSION) => {}
            Contract::Version(version) => {
                return Some(format!(
                    "the contract in the database has version {version} and this program knows {}; use the \
                     program that made it, or a later one",
                    sql::CONTRACT_VERSION
                ));
            }
            Contract::Foreign => {
                return Some(
                    "a schema called outbox is there and is not the contract's: rename it, or set \
                             outbox.table to the table you have"
                        .into(),
                );
            }
        }
    }
    let Some(table) = &survey.table else {
        return Some(format!("there is no table {name}; outbox.table names it with its schema"));
    };
    let missing: Vec<&str> = wanted_columns(settings)
        .into_iter()
        .filter(|column| !table.columns.iter().any(|c| c == column))
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "table {name} has no column {}; it has {}; name them under outbox.columns",
            missing.join(", "),
            table.columns.join(", ")
        )
    })
}

/// What is published and what a fill reads besides.
fn wanted_columns(settings: &Settings) -> Vec<&str> {
    let columns = &settings.outbox.columns;
    let fill = [&columns.writer, &columns.seq].into_iter().flatten().map(String::as_str);
    published_columns(settings).into_iter().chain(fill).collect()
}

fn publication_refusal(settings: &Settings, survey: &Survey) -> Option<String> {
    let found = survey.publication.as_ref()?;
    let name = settings.publication();
    if settings.outbox.message_prefix.is_some() {
        return found.columns.is_some().then(|| {
            format!(
                "publication {name} is there and holds a table, and with outbox.from = \"messages\" no row is published: \
                 choose another name for the relay"
            )
        });
    }
    let partitioned = survey.table.as_ref().is_some_and(|table: &Table| table.partitioned);
    let fault = match &found.columns {
        None if partitioned && !found.via_root => "does not publish the table under its own name \
                                                   (publish_via_partition_root)"
            .to_string(),
        None => "does not hold the outbox table".to_string(),
        Some(_) if !found.inserts => "does not publish inserts".to_string(),
        Some(_) if found.filtered => "has a row filter, which would lose events".to_string(),
        Some(columns) => {
            let missing: Vec<&str> =
                published_columns(settings).into_iter().filter(|c| !columns.iter().any(|p| p == c)).collect();
            if missing.is_empty() {
                return None;
            }
            format!("leaves out column {}", missing.join(", "))
        }
    };
    Some(format!("publication {name} is there but {fault}; alter it, or choose another name for the relay"))
}

fn slot_refusal(settings: &Settings, survey: &Survey, slot: &Slot) -> Option<String> {
    let name = settings.slot();
    let plugin = slot.plugin.as_deref().unwrap_or("none, it is physical");
    if plugin != "pgoutput" {
        return Some(format!("slot {name} is there with output plugin {plugin}; the relay needs pgoutput"));
    }
    if slot.database.as_deref() != Some(settings.source.database.as_str()) {
        let database = slot.database.as_deref().unwrap_or_default();
        return Some(format!(
            "slot {name} is there for database {database:?}: choose another name for the relay"
        ));
    }
    if slot.lost {
        return Some(format!(
            "slot {name} has lost the log it needs (max_slot_wal_keep_size); `outbox-relay run` says what is gone"
        ));
    }
    if survey.publication.is_none() {
        return Some(format!(
            "slot {name} is there without publication {}: decoding what was written before the publication is \
             made would fail. If nothing was published through the slot yet, drop it with \
             SELECT pg_drop_replication_slot('{name}') and run init again",
            settings.publication()
        ));
    }
    None
}

fn rows_refusal(settings: &Settings, survey: &Survey) -> Option<String> {
    if settings.outbox.message_prefix.is_some() {
        return None;
    }
    let has_rows = survey.table.as_ref().and_then(|table| table.has_rows) == Some(true);
    let asked = settings.existing == Existing::Refuse;
    (survey.slot.is_none() && has_rows && asked).then(|| rows_sentence(settings))
}

/// Asks what to do with rows that no slot would bring.
pub fn rows_sentence(settings: &Settings) -> String {
    format!(
        "rows stand in {}.{} and there is no slot that would bring them. Say what to do with them: \
         --existing=publish (init leaves the slot to `outbox-relay run --existing=publish`, which publishes them \
         first) or --existing=skip (the slot is made now; they are never published)",
        settings.outbox.schema, settings.outbox.table
    )
}
