//! The SQL connection of a session: it owns the lane, sees the server go, and answers questions.
//!
//! It runs single statements only. A relay that is frozen while it holds a lock inside a transaction
//! would hold it for ever (R47); this one loses its lane after ten idle seconds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use outbox_postgres_link::dial;
use outbox_postgres_link::tls::Connector;
use secrecy::ExposeSecret;
use tokio_postgres::{Client, Row};

use super::compare::{ServerFacts, SlotFacts};
use super::disposition::sql_end;
use super::{End, Ending};
use crate::config::{OutboxSettings, SourceSettings};
use crate::lsn::Lsn;
use crate::observe::{SlotLog, WalStatus};

/// A question unanswered for this long means that the connection is lost.
const ANSWER: Duration = Duration::from_secs(5);
/// Idle sessions of the relay end on the server after this, so that a frozen owner loses its lane.
const IDLE: &str = "10s";

/// A question that failed; the session's end follows from it.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// PostgreSQL answered with an error, or the connection is gone.
    #[error("{question}")]
    Server {
        /// What was asked.
        question: Cow<'static, str>,
        /// What came back.
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("{question}: no answer for {} s", ANSWER.as_secs())]
    Silent {
        /// What was asked.
        question: Cow<'static, str>,
    },
    /// An answer that makes no sense.
    #[error("{question}: unexpected answer `{answer}`")]
    Answer {
        /// What was asked.
        question: &'static str,
        /// What came back.
        answer: String,
    },
}

/// What a ping brings home.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// The server's flush position.
    pub wal_flush: Lsn,
    /// Newest confirmed position of the slot.
    pub slot_confirmed: Option<Lsn>,
    /// Backend that streams from the slot.
    pub active_pid: Option<i32>,
    /// What the server keeps for the slot, and may keep.
    pub slot_log: SlotLog,
}

/// What the server says of itself.
#[derive(Debug, Clone)]
pub struct ServerLook {
    /// System identifier of the cluster.
    pub system_id: String,
    /// A standby cannot own a lane.
    pub in_recovery: bool,
}

/// One SQL connection.
pub struct Sql {
    client: Client,
}

/// Options of a connection to the source, shared by the lane's and the fill's.
pub fn config(source: &SourceSettings, application: &str, options: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&source.host)
        .port(source.port)
        .user(&source.user)
        .dbname(&source.database)
        .application_name(application)
        .connect_timeout(source.connect_timeout)
        .keepalives_idle(dial::KEEPALIVE_IDLE)
        .keepalives_interval(dial::KEEPALIVE_INTERVAL)
        .keepalives_retries(dial::KEEPALIVE_RETRIES)
        .tcp_user_timeout(dial::UNACKNOWLEDGED)
        .options(options);
    if let Some(password) = source.password_now() {
        config.password(password.expose_secret());
    }
    config
}

impl Sql {
    /// Connects; from then on the loss of this connection ends the session.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn connect(source: &SourceSettings, name: &str, ending: Arc<Ending>) -> Result<Sql, SqlError> {
        // An entry of the quarantine has to outlive a crash of the server, whatever the role's settings are; a standby
        // is not waited for, since what a failover loses is looked for (R39).
        let options = format!(
            "-c idle_session_timeout={IDLE} -c statement_timeout=5s -c lock_timeout=5s -c synchronous_commit=local"
        );
        let mut config = config(source, &format!("outbox-relay {name}"), &options);
        let tls = Connector::new(&source.transport, &source.host, &mut config);
        let question = || format!("connecting to PostgreSQL at {}:{}", source.host, source.port).into();
        // The connect timeout of the driver ends with TCP; a server that accepts and is silent is one more.
        let limit = source.connect_timeout + ANSWER;
        let (client, connection) = tokio::time::timeout(limit, config.connect(tls))
            .await
            .map_err(|_| SqlError::Silent { question: question() })?
            .map_err(|source| SqlError::Server { question: question(), source })?;
        tokio::spawn(async move {
            // A server that goes says so on this connection (57P01) while its walsender still waits for
            // us (R30): whatever ends this connection ends the session. Without an error it is the session
            // that let go of it, for a reason of its own, which must not be outrun by a lesser one.
            if let Err(error) = connection.await {
                ending.end(sql_end(&error, "the SQL connection"));
            }
        });
        Ok(Sql { client })
    }

    /// The connection itself, for questions that only `check` and `plan` ask.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Tries to own the lane for the life of this connection.
    ///
    /// # Errors
    /// As for every question.
    pub async fn try_own(&self, lane: &str) -> Result<bool, SqlError> {
        let sql = "SELECT pg_try_advisory_lock(hashtextextended('outbox-relay:' || $1, 0))";
        Ok(self.one("owning the lane", sql, &[&lane]).await?.get(0))
    }

    /// Who owns the lane, in words, for one who was refused it.
    ///
    /// # Errors
    /// As for every question.
    pub async fn lane_owner(&self, lane: &str) -> Result<String, SqlError> {
        Ok(self.owned_by(lane).await?.unwrap_or_else(|| "a process that just left".into()))
    }

    /// Who owns the lane, in words; `None` while nobody does.
    ///
    /// # Errors
    /// As for every question.
    pub async fn owned_by(&self, lane: &str) -> Result<Option<String>, SqlError> {
        let sql = "WITH k AS (SELECT hashtextextended('outbox-relay:' || $1, 0) AS key)
             SELECT (SELECT format('process %s from %s, since %s', l.pid,
                     coalesce(host(a.client_addr), 'a local socket'), to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SSOF'))
               FROM k, pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
              WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND ((l.classid::bigint << 32) | l.objid::bigint) = k.key LIMIT 1)";
        Ok(self.one("who owns the lane", sql, &[&lane]).await?.get(0))
    }

    /// Puts a command for a relay into the log, as a transaction of its own; answers where it stands.
    ///
    /// # Errors
    /// As for every question; also on a standby.
    pub async fn tell(&self, command: &str) -> Result<Lsn, SqlError> {
        let question = "telling the relay";
        let sql = "SELECT pg_logical_emit_message(true, $1::text, $2::text)::text";
        let prefix = crate::router::command::PREFIX;
        lsn(question, self.one(question, sql, &[&prefix, &command]).await?.get(0))
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// As for every question.
    pub async fn server(&self) -> Result<ServerLook, SqlError> {
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery()";
        let row = self.one("identifying the server", sql, &[]).await?;
        Ok(ServerLook { system_id: row.get(0), in_recovery: row.get(1) })
    }

    /// `synchronous_standby_names`, where it takes the backend `pid` for a synchronous standby (R31).
    ///
    /// # Errors
    /// As for every question.
    pub async fn waits_for_us(&self, pid: i32) -> Result<Option<String>, SqlError> {
        let sql = "SELECT current_setting('synchronous_standby_names') FROM pg_stat_replication
                    WHERE pid = $1 AND sync_state <> 'async'";
        Ok(self.optional("looking whether commits wait for us", sql, &[&pid]).await?.map(|row| row.get(0)))
    }

    /// The slot as the catalogue shows it, and the backend that streams from it.
    ///
    /// # Errors
    /// As for every question.
    pub async fn slot(&self, slot: &str) -> Result<Option<(SlotFacts, Option<i32>)>, SqlError> {
        let question = "looking at the replication slot";
        // As JSON, since the columns differ between versions.
        let sql = "SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE slot_name = $1";
        let Some(row) = self.optional(question, sql, &[&slot]).await? else { return Ok(None) };
        let text: String = row.get(0);
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| SqlError::Answer { question, answer: text.clone() })?;
        let string = |key: &str| json.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        let lsn = |key: &str| string(key).and_then(|text| text.parse().ok());
        let facts = SlotFacts {
            // A slot that was never consumed shows none: then nothing was confirmed.
            confirmed_flush: lsn("confirmed_flush_lsn").unwrap_or(Lsn::ZERO),
            restart_lsn: lsn("restart_lsn"),
            wal_status: string("wal_status"),
            invalidation_reason: string("invalidation_reason"),
            plugin: string("plugin").unwrap_or_default(),
            database: string("database").unwrap_or_default(),
            temporary: json.get("temporary").and_then(serde_json::Value::as_bool).unwrap_or(false),
        };
        let pid = json.get("active_pid").and_then(serde_json::Value::as_i64);
        Ok(Some((facts, pid.and_then(|pid| i32::try_from(pid).ok()))))
    }

    /// The server's flush position and database, for the comparison.
    ///
    /// # Errors
    /// As for every question.
    pub async fn wal_end(&self) -> Result<Lsn, SqlError> {
        let question = "the end of the server's log";
        let row = self.one(question, "SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        lsn(question, row.get(0))
    }

    /// Whether rows stand in the outbox table.
    ///
    /// # Errors
    /// As for every question; also where the role may not read the table.
    pub async fn table_has_rows(&self, outbox: &OutboxSettings) -> Result<bool, SqlError> {
        // Messages stand in no table.
        if outbox.message_prefix.is_some() {
            return Ok(false);
        }
        let table = format!(
            "{}.{}",
            outbox_schema::sql::quote_identifier(&outbox.schema),
            outbox_schema::sql::quote_identifier(&outbox.table)
        );
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
        Ok(self.one("looking for rows in the outbox table", &sql, &[]).await?.get(0))
    }

    /// Why inserts into the outbox table do not come through the publication, if so. The stream itself does
    /// not tell: without the table it is merely silent, and positions go on.
    ///
    /// # Errors
    /// As for every question.
    pub async fn unpublished(
        &self,
        publication: &str,
        outbox: &OutboxSettings,
    ) -> Result<Option<String>, SqlError> {
        if outbox.message_prefix.is_some() {
            return self.not_for_messages(publication).await;
        }
        // With publish_via_partition_root the view names the root, without it the leaves.
        let sql = "SELECT CASE WHEN p.pubname IS NULL THEN 'does not exist'
                               WHEN NOT p.pubinsert THEN 'does not publish inserts'
                               WHEN t.tablename IS NULL THEN 'does not contain the outbox table (under its own name)'
                               WHEN t.rowfilter IS NOT NULL THEN 'holds rows back by a filter' END
                     FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = $1
                     LEFT JOIN pg_publication_tables t
                            ON t.pubname = p.pubname AND t.schemaname = $2 AND t.tablename = $3";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&publication, &outbox.schema, &outbox.table];
        let why: Option<String> = self.one("looking at the publication", sql, &values).await?.get(0);
        Ok(why.map(|why| {
            format!(
                "publication {publication} {why}: rows inserted while that is so come through no slot and stay \
                 unpublished. Mend the publication (`outbox-relay init` makes a missing one), look for rows that \
                 were inserted meanwhile, and start again"
            )
        }))
    }

    /// Why the publication is not one of a relay of messages. One that holds tables belongs to a relay that read them:
    /// what it had not published yet would be passed over.
    async fn not_for_messages(&self, publication: &str) -> Result<Option<String>, SqlError> {
        let sql = "SELECT p.pubname IS NULL, p.puballtables, (SELECT string_agg(format('%I.%I', t.schemaname, t.tablename), ', ')
                          FROM pg_publication_tables t WHERE t.pubname = $1)
                     FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = $1";
        let row = self.one("looking at the publication", sql, &[&publication]).await?;
        let (missing, all, tables): (bool, Option<bool>, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        if missing {
            return Ok(Some(format!(
                "publication {publication} does not exist; a slot cannot be read without it, although none of its tables \
                 are for messages: `outbox-relay init` makes it"
            )));
        }
        let tables = tables.or_else(|| all.filter(|all| *all).map(|_| "all tables".into()));
        Ok(tables.map(|tables| {
            format!(
                "publication {publication} holds {tables}, and with outbox.from = \"messages\" no row is published: rows \
                 that this relay has not published yet would be lost. Give the relay of messages another name; or, \
                 where every row is published, take the tables out (ALTER PUBLICATION … DROP TABLE …)"
            )
        }))
    }

    /// The outbox table's OID, which the stream carries with every change: a table that was renamed and got
    /// its name back comes under the other name from the log between.
    ///
    /// # Errors
    /// As for every question.
    pub async fn table_oid(&self, outbox: &OutboxSettings) -> Result<Option<u32>, SqlError> {
        if outbox.message_prefix.is_some() {
            return Ok(None);
        }
        let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = $1 AND c.relname = $2";
        let row =
            self.optional("looking for the outbox table", sql, &[&outbox.schema, &outbox.table]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Keeps lane and connection alive and brings the positions that operators look at.
    ///
    /// # Errors
    /// As for every question.
    pub async fn ping(&self, slot: &str) -> Result<Ping, SqlError> {
        let question = "pinging PostgreSQL";
        let sql = "SELECT pg_current_wal_flush_lsn()::text, s.confirmed_flush_lsn::text, s.active_pid,
                          s.wal_status, s.safe_wal_size,
                          nullif(pg_size_bytes(current_setting('max_slot_wal_keep_size')), -1)
                     FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1";
        let row = self.one(question, sql, &[&slot]).await?;
        let confirmed: Option<String> = row.get(1);
        let status: Option<&str> = row.get(3);
        Ok(Ping {
            wal_flush: lsn(question, row.get(0))?,
            slot_confirmed: confirmed.map(|text| lsn(question, text)).transpose()?,
            active_pid: row.get(2),
            slot_log: SlotLog {
                status: status.and_then(WalStatus::from_name),
                safe_bytes: row.get(4),
                limit_bytes: row.get(5),
            },
        })
    }

    /// A snapshot and a log position that everything visible in it committed before.
    ///
    /// # Errors
    /// As for every question.
    pub async fn snapshot(&self) -> Result<(String, Lsn), SqlError> {
        let question = "taking a snapshot";
        // Evaluated left to right within one statement: the snapshot is the statement's own and older
        // than the position that is read while it runs.
        let sql = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text";
        let row = self.one(question, sql, &[]).await?;
        Ok((row.get(0), lsn(question, row.get(1))?))
    }

    /// What a slot that is being made waits for: open and prepared transactions, by pid and gid.
    ///
    /// # Errors
    /// As for every question.
    pub async fn open_transactions(&self) -> Result<Option<String>, SqlError> {
        let sql = "SELECT string_agg(what, ', ') FROM (
              SELECT format('process %s (%s, in a transaction%s)', pid, usename,
                            -- Shown to members of pg_read_all_stats only.
                            ' since ' || to_char(xact_start, 'HH24:MI:SS')) AS what
                FROM pg_stat_activity
               WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
              UNION ALL
              SELECT format('prepared transaction %L', gid) FROM pg_prepared_xacts LIMIT 5) w";
        Ok(self.one("looking for open transactions", sql, &[]).await?.get(0))
    }

    /// A question with one row for an answer.
    pub(crate) async fn one(
        &self,
        question: &'static str,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Row, SqlError> {
        let missing = || SqlError::Answer { question, answer: "no row".into() };
        self.optional(question, sql, values).await?.ok_or_else(missing)
    }

    /// A question with at most one row for an answer.
    pub(crate) async fn optional(
        &self,
        question: &'static str,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Option<Row>, SqlError> {
        match tokio::time::timeout(ANSWER, self.client.query_opt(sql, values)).await {
            Ok(answer) => answer.map_err(|source| SqlError::Server { question: question.into(), source }),
            Err(_) => Err(SqlError::Silent { question: question.into() }),
        }
    }

    /// A question with any number of rows for an answer.
    pub(crate) async fn many(
        &self,
        question: &'static str,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, SqlError> {
        match tokio::time::timeout(ANSWER, self.client.query(sql, values)).await {
            Ok(answer) => answer.map_err(|source| SqlError::Server { question: question.into(), source }),
            Err(_) => Err(SqlError::Silent { question: question.into() }),
        }
    }

    /// A statement; answers how many rows it changed.
    pub(crate) async fn run(
        &self,
        question: &'static str,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<u64, SqlError> {
        match tokio::time::timeout(ANSWER, self.client.execute(sql, values)).await {
            Ok(answer) => answer.map_err(|source| SqlError::Server { question: question.into(), source }),
            Err(_) => Err(SqlError::Silent { question: question.into() }),
        }
    }
}

impl SqlError {
    /// The end of a session that ran into this.
    pub fn end(&self) -> End {
        match self {
            SqlError::Server { question, source } => sql_end(source, question),
            SqlError::Silent { .. } | SqlError::Answer { .. } => End::reconnect(self),
        }
    }
}

fn lsn(question: &'static str, text: String) -> Result<Lsn, SqlError> {
    text.parse().map_err(|_| SqlError::Answer { question, answer: text })
}

/// The facts of the server that the comparison needs.
pub fn server_facts(
    look: &ServerLook,
    timeline: u32,
    history: Vec<(u32, Lsn)>,
    wal_end: Lsn,
    database: &str,
) -> ServerFacts {
    ServerFacts {
        system_id: look.system_id.clone(),
        timeline,
        history,
        wal_end,
        database: database.to_owned(),
    }
}
