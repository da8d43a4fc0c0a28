//! A look at the server: everything the plan depends on, read and not changed.

use tokio_postgres::{Client, Row};

use super::InitError;
use super::plan::Plan;
use crate::config::Settings;
use outbox_schema::sql;

/// What was found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The server; `None` where none was asked.
    pub server: Option<Server>,
    /// The contract's own schema.
    pub contract: Contract,
    /// The columns of `outbox.quarantine`; `None` if it is not there.
    pub quarantine: Option<Vec<String>>,
    /// The outbox table; `None` if it is not there.
    pub table: Option<Table>,
    /// Whether producers may use the contract's schema.
    pub producers_let_in: bool,
    /// The role the relay logs in as.
    pub role: Option<Role>,
    /// The relay's publication.
    pub publication: Option<Publication>,
    /// The relay's slot.
    pub slot: Option<Slot>,
}

/// The server itself.
#[derive(Debug, Clone)]
pub struct Server {
    /// `server_version_num`, such as 150018.
    pub version: i32,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The database the admin is connected to.
    pub database: String,
}

/// The contract's own schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// Not there.
    Absent,
    /// A schema of its name that is not the contract.
    Foreign,
    /// There, in this version.
    Version(i32),
}

/// The outbox table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether rows stand in it; `None` where nobody looked.
    pub has_rows: Option<bool>,
    /// Whether it is partitioned.
    pub partitioned: bool,
}

/// The role the relay logs in as.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// Whether it has LOGIN, and REPLICATION or more.
    pub may_replicate: bool,
    /// Whether it is a member of the relays' group.
    pub in_group: bool,
    /// Whether it may read the table.
    pub reads_table: bool,
    /// Whether it may delete from the table.
    pub deletes: bool,
}

/// The relay's publication.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Whether inserts are published.
    pub inserts: bool,
    /// Whether rows of partitions come under the root's name.
    pub via_root: bool,
    /// Columns of the outbox table that are published; `None` if the table is not among its tables.
    pub columns: Option<Vec<String>>,
    /// Whether a row filter holds rows of it back.
    pub filtered: bool,
}

/// The relay's slot.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Whether the server threw away the log it needs.
    pub lost: bool,
}

impl Survey {
    /// What is assumed where no server is asked: nothing is there but, if it is not the contract's own, the
    /// table.
    pub fn assumed(settings: &Settings) -> Survey {
        let ours = is_contract(settings);
        let columns = published_columns(settings).iter().map(|column| column.to_string()).collect();
        Survey {
            server: None,
            contract: Contract::Absent,
            quarantine: None,
            table: (!ours).then_some(Table { columns, has_rows: None, partitioned: false }),
            producers_let_in: false,
            role: None,
            publication: None,
            slot: None,
        }
    }
}

impl Survey {
    /// What a lane finds once the plan of another is carried out. Their tables, publications and slots are different ones;
    /// schema and role are the same.
    pub fn finds(&mut self, earlier: &Settings, plan: &Plan) {
        if is_contract(earlier) {
            self.contract = Contract::Version(sql::CONTRACT_VERSION);
            self.producers_let_in |= !plan.slot_by_run;
        }
        let quarantine = || sql::QUARANTINE_COLUMNS.iter().map(ToString::to_string).collect();
        self.quarantine.get_or_insert_with(quarantine);
        let made = Role { may_replicate: true, in_group: true, reads_table: false, deletes: false };
        self.role.get_or_insert(made).in_group = true;
    }
}

/// Whether the outbox is the contract's own table.
pub fn is_contract(settings: &Settings) -> bool {
    settings.outbox.is_contract()
}

/// The columns that become part of a record, each once; nothing else is published.
pub fn published_columns(settings: &Settings) -> Vec<&str> {
    let mut columns: Vec<&str> = Vec::new();
    for column in settings.outbox.columns.published() {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

/// Looks at the server.
///
/// # Errors
///
/// [`InitError::Look`] with what the server said.
pub async fn look(client: &Client, settings: &Settings) -> Result<Survey, InitError> {
    let quarantine = quarantine(client).await?;
    Ok(Survey {
        server: Some(server(client).await?),
        contract: contract(client, quarantine.is_some()).await?,
        quarantine,
        table: table(client, settings).await?,
        producers_let_in: producers_let_in(client).await?,
        role: role(client, settings).await?,
        publication: publication(client, settings).await?,
        slot: slot(client, settings).await?,
    })
}

/// Whether rows stand in the table now.
pub async fn has_rows(client: &Client, settings: &Settings) -> Result<bool, InitError> {
    let table = sql::quote_qualified(&settings.outbox.schema, &settings.outbox.table);
    let row = client.query_one(&format!("SELECT EXISTS (SELECT FROM {table})"), &[]).await;
    row.map(|row| row.get(0)).map_err(|source| InitError::Look { what: "rows of the table", source })
}

async fn server(client: &Client) -> Result<Server, InitError> {
    const SQL: &str = "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
                              pg_catalog.pg_is_in_recovery(), current_database()::text";
    let row =
        client.query_one(SQL, &[]).await.map_err(|source| InitError::Look { what: "the server", source })?;
    Ok(Server { version: row.get(0), wal_level: row.get(1), in_recovery: row.get(2), database: row.get(3) })
}

/// The columns of the quarantine; `None` if it is not there.
///
/// # Errors
///
/// [`InitError::Look`].
pub async fn quarantine(client: &Client) -> Result<Option<Vec<String>>, InitError> {
    const SQL: &str = "SELECT array(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
                       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE n.nspname = 'outbox' AND c.relname = $1";
    let row = optional(client, SQL, sql::QUARANTINE_TABLE, "the quarantine").await?;
    Ok(row.map(|row| row.get(0)))
}

/// Whether the contract is there, and in which version. A schema with a quarantine in it belongs to a relay on a
/// table of another shape and may take the contract.
///
/// # Errors
///
/// [`InitError::Look`].
pub async fn contract(client: &Client, quarantine: bool) -> Result<Contract, InitError> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = n.oid
                                      AND p.proname = 'contract_version' AND p.pronargs = 0)
                       FROM pg_catalog.pg_namespace AS n WHERE n.nspname = $1";
    match optional(client, SQL, sql::SCHEMA, "the contract").await?.map(|row| row.get(0)) {
        None => Ok(Contract::Absent),
        Some(false) if quarantine => Ok(Contract::Absent),
        Some(false) => Ok(Contract::Foreign),
        Some(true) => {
            let row = client.query_one("SELECT outbox.contract_version()", &[]).await;
            let row = row.map_err(|source| InitError::Look { what: "the contract's version", source })?;
            Ok(Contract::Version(row.get(0)))
        }
    }
}

async fn table(client: &Client, settings: &Settings) -> Result<Option<Table>, InitError> {
    const SQL: &str = "SELECT c.relkind = 'p', array(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
                       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
        [&settings.outbox.schema, &settings.outbox.table];
    let row = client.query_opt(SQL, &parameters).await;
    let Some(row) = row.map_err(|source| InitError::Look { what: "the table", source })? else {
        return Ok(None);
    };
    let has_rows = Some(has_rows(client, settings).await?);
    Ok(Some(Table { partitioned: row.get(0), columns: row.get(1), has_rows }))
}

/// Whether producers may use the contract's schema; it follows the slot.
///
/// # Errors
///
/// [`InitError::Look`].
pub async fn producers_let_in(client: &Client) -> Result<bool, InitError> {
    const SQL: &str = "SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
                       FROM pg_catalog.pg_roles AS r CROSS JOIN pg_catalog.pg_namespace AS n
                       WHERE r.rolname = $1 AND n.nspname = 'outbox'";
    Ok(optional(client, SQL, sql::PRODUCER_ROLE, "rights of producers").await?.is_some_and(|row| row.get(0)))
}

async fn role(client: &Client, settings: &Settings) -> Result<Option<Role>, InitError> {
    // Cloud services grant replication by membership in a role of theirs in place of the attribute.
    const SQL: &str = "
        SELECT r.rolcanlogin AND (r.rolreplication OR r.rolsuper OR EXISTS (
                   SELECT FROM pg_catalog.pg_roles AS s WHERE s.rolname IN ('rds_replication', 'alloydbsuperuser')
                   AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER'))),
               EXISTS (SELECT FROM pg_catalog.pg_roles AS g WHERE g.rolname = 'outbox_relay'
                       AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')),
               EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE n.nspname = $2 AND c.relname = $3
                       AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
                       AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')),
               EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE n.nspname = $2 AND c.relname = $3
                       AND pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE'))
        FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&settings.source.user, &settings.outbox.schema, &settings.outbox.table];
    let row = client.query_opt(SQL, &parameters).await;
    let row = row.map_err(|source| InitError::Look { what: "the relay's role", source })?;
    Ok(row.map(|row| Role {
        may_replicate: row.get(0),
        in_group: row.get(1),
        reads_table: row.get(2),
        deletes: row.get(3),
    }))
}

async fn publication(client: &Client, settings: &Settings) -> Result<Option<Publication>, InitError> {
    const SQL: &str = "
        SELECT p.pubinsert, p.pubviaroot, t.attnames::text[], t.rowfilter IS NOT NULL
        FROM pg_catalog.pg_publication AS p
        LEFT JOIN pg_catalog.pg_publication_tables AS t
            ON t.pubname = p.pubname AND t.schemaname = $2 AND t.tablename = $3
        WHERE p.pubname = $1";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&settings.publication(), &settings.outbox.schema, &settings.outbox.table];
    let row = client.query_opt(SQL, &parameters).await;
    let row = row.map_err(|source| InitError::Look { what: "the publication", source })?;
    Ok(row.map(|row| Publication {
        inserts: row.get(0),
        via_root: row.get(1),
        columns: row.get(2),
        filtered: row.get(3),
    }))
}

async fn slot(client: &Client, settings: &Settings) -> Result<Option<Slot>, InitError> {
    const SQL: &str = "SELECT plugin::text, database::text, wal_status IS NOT DISTINCT FROM 'lost'
                       FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let row = optional(client, SQL, &settings.slot(), "the slot").await?;
    Ok(row.map(|row| Slot { plugin: row.get(0), database: row.get(1), lost: row.get(2) }))
}

async fn optional(
    client: &Client,
    sql: &str,
    name: &str,
    what: &'static str,
) -> Result<Option<Row>, InitError> {
    client.query_opt(sql, &[&name]).await.map_err(|source| InitError::Look { what, source })
}
