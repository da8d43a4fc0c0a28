//! The questions to PostgreSQL, asked as the relay's own role.

use std::time::Duration;

use outbox_postgres_link::tls::Connector;
use outbox_schema::record::Position;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row};

use super::QuarantineError;
use super::choice::Choice;
use super::entry::{Entry, Key, State};
use crate::commands::outlook;
use crate::config::Settings;
use crate::session::sql_config;

/// What an entry is read from; `behind` is added by each question in its own way.
const FIELDS: &str =
    "lane, epoch, commit_lsn, ordinal, event_id, aggregatetype, event_type, topic, key, held_by, state,
    cause, reason, bytes, committed_at, entered_at, decided_at, decided_by, note, settled_at,
    extract(epoch FROM clock_timestamp() - entered_at)::float8 AS age_seconds";

/// More than a person would look through; entries of one id.
const SAME_ID: i64 = 20;

/// Which entries are meant, if not all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Entries of this topic, or of an order of this name.
    pub topic: Option<&'a str>,
    /// Entries of this key.
    pub key: Option<&'a Key>,
    /// Settled entries, and every one of those that queue.
    pub all: bool,
}

/// How many entries there are, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Held.
    pub held: i64,
    /// Queued behind them.
    pub queued: i64,
    /// Passed over.
    pub passed: i64,
    /// Decided, and the relay has not come to it.
    pub decided: i64,
    /// Published or discarded.
    pub settled: i64,
    /// Queues that stand still.
    pub queues: i64,
}

/// One column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as PostgreSQL calls it.
    pub type_name: String,
    /// Its value; `None` is an SQL NULL.
    pub value: Option<Vec<u8>>,
    /// Whether the value is text.
    pub text: bool,
}

/// A connection to the database of the outbox, for the entries of one relay.
pub struct Source {
    client: Client,
    relay: String,
    lane: Option<i32>,
    role: String,
    database: String,
}

impl Source {
    /// Connects as the relay does.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn connect(settings: &Settings, lane: Option<i32>) -> Result<Source, QuarantineError> {
        let settings = &outlook::at_primary(settings).await;
        // A decision waits for the relay where both are at the same entry.
        let options = "-c statement_timeout=30s -c lock_timeout=10s";
        let name = format!("outbox-relay {} quarantine", settings.name);
        let mut config = sql_config(&settings.source, &name, options);
        let tls = Connector::new(&settings.source.transport, &settings.source.host, &mut config);
        let (client, connection) = config.connect(tls).await.map_err(QuarantineError::Connect)?;
        // Ends with the client; what breaks it reaches the client's calls as errors.
        tokio::spawn(connection);
        Ok(Source {
            client,
            relay: settings.name.clone(),
            lane,
            role: settings.source.user.clone(),
            database: settings.source.database.clone(),
        })
    }

    /// The relay's name.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// Entries in the order of the stream, a queue together; `limit` at most. Without `all` a queue is shown by
    /// what it waits for: what only queues is counted, unless nothing is ahead of it.
    ///
    /// # Errors
    /// As for every question.
    pub async fn list(&self, filter: Filter<'_>, limit: Option<i64>) -> Result<Vec<Entry>, QuarantineError> {
        let sql = format!(
            "SELECT {FIELDS}, behind FROM (
                 SELECT *, row_number() OVER queue AS place,
                        first_value((epoch, commit_lsn, ordinal)) OVER queue AS head,
                        count(*) FILTER (WHERE state = 'queued')
                            OVER (queue ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS behind
                   FROM outbox.quarantine
                  WHERE {FILTER}
                 WINDOW queue AS (PARTITION BY lane, held_by, key, CASE WHEN held_by IS NULL THEN position END
                                  ORDER BY epoch, commit_lsn, ordinal)) AS q
              WHERE $5 OR state <> 'queued' OR place = 1
              ORDER BY lane, head, epoch, commit_lsn, ordinal LIMIT $6"
        );
        let key = filter.key.map(|key| &key.0);
        let values: [&(dyn ToSql + Sync); 6] =
            [&self.relay, &self.lane, &filter.topic, &key, &filter.all, &limit];
        self.ask("list the entries", &sql, &values).await?.iter().map(read_entry).collect()
    }

    /// How many there are of what [`Source::list`] lists.
    ///
    /// # Errors
    /// As for every question.
    pub async fn totals(&self, filter: Filter<'_>) -> Result<Totals, QuarantineError> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE state = 'held'), count(*) FILTER (WHERE state = 'queued'),
                    count(*) FILTER (WHERE state = 'passed'), count(*) FILTER (WHERE state IN ('releasing', 'discarding')),
                    count(*) FILTER (WHERE settled_at IS NOT NULL),
                    count(DISTINCT (lane, held_by, key)) FILTER (WHERE settled_at IS NULL AND held_by IS NOT NULL)
               FROM outbox.quarantine WHERE {FILTER}"
        );
        let key = filter.key.map(|key| &key.0);
        let values: [&(dyn ToSql + Sync); 5] = [&self.relay, &self.lane, &filter.topic, &key, &filter.all];
        let rows = self.ask("count the entries", &sql, &values).await?;
        Ok(rows.first().map_or_else(Totals::default, |row| Totals {
            held: row.get(0),
            queued: row.get(1),
            passed: row.get(2),
            decided: row.get(3),
            settled: row.get(4),
            queues: row.get(5),
        }))
    }

    /// The entries that may be meant.
    ///
    /// # Errors
    /// As for every question.
    pub async fn find(&self, choice: &Choice) -> Result<Vec<Entry>, QuarantineError> {
        let select = format!(
            "SELECT {FIELDS}, (SELECT count(*) FROM outbox.quarantine AS f
                 WHERE f.relay = q.relay AND f.lane = q.lane AND f.settled_at IS NULL AND f.state = 'queued'
                   AND f.held_by = q.held_by AND f.key IS NOT DISTINCT FROM q.key
                   AND (f.epoch, f.commit_lsn, f.ordinal) > (q.epoch, q.commit_lsn, q.ordinal)) AS behind
               FROM outbox.quarantine AS q WHERE relay = $1 AND ($2::integer IS NULL OR lane = $2)"
        );
        let what = "look for the entry";
        let rows = match choice {
            Choice::Position(position) => {
                let Some((epoch, lsn, ordinal)) = numbers(*position) else { return Ok(Vec::new()) };
                let sql =
                    format!("{select} AND epoch = $3 AND commit_lsn = $4 AND ordinal = $5 ORDER BY lane");
                self.ask(what, &sql, &[&self.relay, &self.lane, &epoch, &lsn, &ordinal]).await?
            }
            Choice::Id(id) => {
                let sql =
                    format!("{select} AND event_id = $3 ORDER BY epoch, commit_lsn, ordinal LIMIT {SAME_ID}");
                self.ask(what, &sql, &[&self.relay, &self.lane, id]).await?
            }
        };
        rows.iter().map(read_entry).collect()
    }

    /// Where the entry stands behind which a queued one waits.
    ///
    /// # Errors
    /// As for every question.
    pub async fn ahead_of(&self, entry: &Entry) -> Result<Option<Position>, QuarantineError> {
        let sql = "SELECT epoch, commit_lsn, ordinal FROM outbox.quarantine
            WHERE relay = $1 AND lane = $2 AND settled_at IS NULL AND state <> 'queued' AND held_by = $3
              AND key IS NOT DISTINCT FROM $4 AND (epoch, commit_lsn, ordinal) < ($5, $6, $7)
            ORDER BY epoch, commit_lsn, ordinal LIMIT 1";
        let Some((epoch, lsn, ordinal)) = numbers(entry.position) else { return Ok(None) };
        let key = entry.key.as_ref().map(|key| &key.0);
        let values: [&(dyn ToSql + Sync); 7] =
            [&self.relay, &entry.lane, &entry.held_by, &key, &epoch, &lsn, &ordinal];
        let rows = self.ask("look for what is ahead of it", sql, &values).await?;
        rows.first().map(|row| read_position(row, 0)).transpose()
    }

    /// The row as the stream brought it; `None` where only a reference is kept.
    ///
    /// # Errors
    /// As for every question.
    pub async fn row(&self, entry: &Entry) -> Result<Option<Vec<Column>>, QuarantineError> {
        let sql = "SELECT columns, row_values, formats, array(
                SELECT pg_catalog.format_type(t.oid, NULL) FROM unnest(types) WITH ORDINALITY AS t (oid, n) ORDER BY n)
            FROM outbox.quarantine
            WHERE relay = $1 AND lane = $2 AND epoch = $3 AND commit_lsn = $4 AND ordinal = $5";
        let Some((epoch, lsn, ordinal)) = numbers(entry.position) else { return Ok(None) };
        let values: [&(dyn ToSql + Sync); 5] = [&self.relay, &entry.lane, &epoch, &lsn, &ordinal];
        let rows = self.ask("read the row", sql, &values).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let names: Option<Vec<String>> = row.get(0);
        let values: Option<Vec<Option<Vec<u8>>>> = row.get(1);
        let formats: Option<String> = row.get(2);
        let (Some(names), Some(values), Some(formats)) = (names, values, formats) else { return Ok(None) };
        let types: Vec<String> = row.get(3);
        let columns = names.into_iter().zip(types).zip(values).zip(formats.chars());
        Ok(Some(
            columns
                .map(|(((name, type_name), value), format)| Column {
                    name,
                    type_name,
                    value,
                    text: format == 't',
                })
                .collect(),
        ))
    }

    /// Calls `outbox.decide()`: one transaction.
    ///
    /// # Errors
    /// [`QuarantineError::Refused`] with the sentence of `outbox.decide()`, or as for every question.
    pub async fn decide(
        &self,
        entry: &Entry,
        decision: &str,
        note: Option<&str>,
    ) -> Result<(), QuarantineError> {
        let Some((epoch, lsn, ordinal)) = numbers(entry.position) else {
            return Err(QuarantineError::Strange(format!("position {}", entry.position)));
        };
        let values: [&(dyn ToSql + Sync); 7] =
            [&self.relay, &entry.lane, &epoch, &lsn, &ordinal, &decision, &note];
        let sql = "SELECT outbox.decide($1, $2, $3, $4, $5, $6, $7)";
        match self.client.query(sql, &values).await {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(&error).unwrap_or_else(|| self.failed("decide", error))),
        }
    }

    async fn ask(
        &self,
        what: &'static str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, QuarantineError> {
        self.client.query(sql, values).await.map_err(|source| self.failed(what, source))
    }

    fn failed(&self, what: &'static str, source: tokio_postgres::Error) -> QuarantineError {
        match source.code().map(|code| code.code()) {
            // undefined_table, invalid_schema_name, undefined_function
            Some("42P01" | "3F000" | "42883") => QuarantineError::Absent { database: self.database.clone() },
            Some("42501") => QuarantineError::Forbidden { role: self.role.clone(), what },
            Some(_) | None => QuarantineError::Ask { what, source },
        }
    }
}

/// The condition of [`Filter`]: relay, lane, topic, key, all.
const FILTER: &str = "relay = $1 AND ($2::integer IS NULL OR lane = $2)
    AND ($3::text IS NULL OR topic = $3 OR held_by = $3) AND ($4::bytea IS NULL OR key = $4)
    AND ($5::boolean OR settled_at IS NULL)";

/// A pause between two looks at what becomes of a decision.
pub const PAUSE: Duration = Duration::from_millis(300);

/// What `outbox.decide()` itself refused (SQLSTATEs of its own class), without the prefix of its messages.
fn refusal(error: &tokio_postgres::Error) -> Option<QuarantineError> {
    let error = error.as_db_error().filter(|error| error.code().code().starts_with("OB"))?;
    let message = error.message();
    let message = message.strip_prefix("outbox quarantine: ").unwrap_or(message);
    Some(QuarantineError::Refused(message.to_owned()))
}

/// As PostgreSQL holds it; `None` where it cannot, so that no entry can stand there.
fn numbers(position: Position) -> Option<(i64, PgLsn, i64)> {
    let epoch = i64::try_from(position.epoch).ok()?;
    Some((epoch, PgLsn::from(position.commit_lsn), i64::try_from(position.ordinal).ok()?))
}

/// Epoch, LSN and ordinal, from the column `first` on.
fn read_position(row: &Row, first: usize) -> Result<Position, QuarantineError> {
    let unsigned = |number: i64| {
        u64::try_from(number).map_err(|_| QuarantineError::Strange(format!("{number} is negative")))
    };
    Ok(Position {
        epoch: unsigned(row.get(first))?,
        commit_lsn: row.get::<_, PgLsn>(first + 1).into(),
        ordinal: unsigned(row.get(first + 2))?,
    })
}

fn read_entry(row: &Row) -> Result<Entry, QuarantineError> {
    let state: String = row.get("state");
    let state = State::named(&state).ok_or_else(|| QuarantineError::Strange(format!("state {state:?}")))?;
    Ok(Entry {
        position: read_position(row, 1)?,
        lane: row.get("lane"),
        event_id: row.get("event_id"),
        aggregatetype: row.get("aggregatetype"),
        event_type: row.get("event_type"),
        topic: row.get("topic"),
        key: row.get::<_, Option<Vec<u8>>>("key").map(Key),
        held_by: row.get("held_by"),
        state,
        cause: row.get("cause"),
        reason: row.get("reason"),
        bytes: row.get("bytes"),
        behind: row.get("behind"),
        committed_at: row.get("committed_at"),
        entered_at: row.get("entered_at"),
        age_seconds: row.get("age_seconds"),
        decided_at: row.get("decided_at"),
        decided_by: row.get("decided_by"),
        note: row.get("note"),
        settled_at: row.get("settled_at"),
    })
}
