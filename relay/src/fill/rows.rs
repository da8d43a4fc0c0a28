//! The rows of a fill, as the server's text, in the order of `seq`, on the slot's exported snapshot.

use std::borrow::Cow;
use std::time::Duration;

use outbox_postgres_link::tls::Connector;
use outbox_schema::sql::{quote_identifier, quote_literal, quote_qualified};
use tokio::sync::mpsc;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::config::{OutboxSettings, Settings};
use crate::router::{ColumnInfo, RelationShape, Value};
use crate::session::{End, end_of_state, sql_config};

/// Rows of one FETCH, which are held until they are handed over.
const FETCH: u32 = 16;
/// A transaction that waits for the broker says so often enough to live on.
const ALIVE: Duration = Duration::from_secs(3);

/// Why the rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// PostgreSQL answered with an error, or the connection is gone.
    #[error("{doing}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What came back.
        source: tokio_postgres::Error,
    },
    /// The table cannot be filled from.
    #[error(
        "the table {0} has no `seq` column mapped (outbox.columns.seq), so the order of its rows is not known: \
         start with --existing=skip, or map a column that grows with every insert"
    )]
    NoOrder(String),
    /// Which rows are published cannot be told.
    #[error(
        "the table {0} has no `writer` column mapped (outbox.columns.writer), so which of its rows are published is not \
         known: run `outbox-relay forget --yes` and start with --existing=publish, or map it"
    )]
    NoWriter(String),
    /// A row that has no place in the order.
    #[error(
        "a row of the table has `{0}` as its seq: the rows cannot be put in order; give every row a number that is not \
         negative, or start with --existing=skip"
    )]
    NoPlace(String),
    /// A value that is no text.
    #[error("the row with seq {seq} has a value that is not UTF-8; mend it, or start with --existing=skip")]
    NotText {
        /// Its place in the order.
        seq: u64,
    },
}

impl RowsError {
    /// The end of the session that ran into this.
    pub fn end(&self) -> End {
        match self {
            RowsError::Server { source, .. } => {
                let code = source.code().map(tokio_postgres::error::SqlState::code);
                end_of_state(code, crate::session::chain(self))
            }
            RowsError::NoOrder(_)
            | RowsError::NoWriter(_)
            | RowsError::NoPlace(_)
            | RowsError::NotText { .. } => End::halt(self),
        }
    }
}

/// The outbox table's name, quoted.
pub(crate) fn table(outbox: &OutboxSettings) -> String {
    quote_qualified(&outbox.schema, &outbox.table)
}

/// The condition, in SQL, that a row's transaction is visible in the snapshot `base`; `None` where the table does not
/// say which transaction wrote a row.
pub(crate) fn is_published(outbox: &OutboxSettings, base: &str) -> Option<String> {
    let writer = quote_identifier(outbox.columns.writer.as_deref()?);
    let base = quote_literal(&in_order(base));
    Some(format!("pg_visible_in_snapshot({writer}::text::xid8, {base}::pg_snapshot)"))
}

/// A snapshot whose bounds are in order. The one that a slot exports where nothing was running may begin behind its end
/// (`20545:20544:`): then all below its beginning is visible and nothing else, as PostgreSQL's own look at it goes, but
/// the type `pg_snapshot` refuses the text.
fn in_order(snapshot: &str) -> Cow<'_, str> {
    let number = |text: &str| text.parse::<u64>().ok();
    let bounds = snapshot.split_once(':').and_then(|(from, rest)| {
        let (to, _) = rest.split_once(':')?;
        Some((number(from)?, number(to)?))
    });
    match bounds {
        Some((from, to)) if from > to => format!("{from}:{from}:").into(),
        _ => snapshot.into(),
    }
}

/// The condition that a row is to be filled. One without a writer is, since nothing says that it is published.
///
/// # Errors
/// [`RowsError::NoWriter`].
pub(crate) fn unpublished(outbox: &OutboxSettings, base: Option<&str>) -> Result<String, RowsError> {
    let Some(base) = base else { return Ok("true".into()) };
    let published = is_published(outbox, base).ok_or_else(|| RowsError::NoWriter(table(outbox)))?;
    Ok(format!("({published}) IS NOT TRUE"))
}

/// The column that orders the rows.
///
/// # Errors
/// [`RowsError::NoOrder`] where none is mapped.
pub fn order(outbox: &OutboxSettings) -> Result<&str, RowsError> {
    let none = || RowsError::NoOrder(table(outbox));
    outbox.columns.seq.as_deref().ok_or_else(none)
}

/// One row on its way.
pub struct Row {
    /// Its place in the order of the fill.
    pub seq: u64,
    row: SimpleQueryRow,
    columns: usize,
}

impl Row {
    /// The values in the order of the shape.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        // Looked at when the row came: every value is text or NULL.
        (0..self.columns).map(|column| match self.row.try_get(column) {
            Ok(Some(text)) => Value::Text(text.as_bytes()),
            Ok(None) | Err(_) => Value::Null,
        })
    }
}

/// An open cursor over the rows.
pub struct Rows {
    client: Client,
    shape: RelationShape,
    snapshot: String,
}

impl Rows {
    /// Opens a cursor on the exported snapshot, over the rows whose transactions are not visible in `base`. The snapshot is imported when this returns.
    ///
    /// # Errors
    /// The server refuses, or the table has no order.
    pub async fn open(settings: &Settings, exported: &str, base: Option<&str>) -> Result<Rows, RowsError> {
        let doing = "opening the rows of the table";
        let server = |source| RowsError::Server { doing, source };
        let client = connect(settings, "fill").await.map_err(server)?;
        let outbox = &settings.outbox;
        let (table, wanted) = (table(outbox), unpublished(outbox, base)?);
        let seq = order(outbox)?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(exported)
        );
        client.batch_execute(&begin).await.map_err(server)?;
        let shape = shape(&client, outbox, &table).await?;
        let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(server)?;
        let snapshot = in_order(row.get(0)).into_owned();
        let columns: Vec<String> =
            shape.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let declare = format!(
            "DECLARE fill NO SCROLL CURSOR FOR SELECT {}, {seq} FROM {table} WHERE {wanted} ORDER BY {seq}",
            columns.join(", "),
            seq = quote_identifier(seq),
        );
        // Sorted last, it would be met when all others are published.
        let unplaced = format!(
            "SELECT {seq}::text FROM {table} WHERE {wanted} AND ({seq} IS NULL OR {seq} < 0) LIMIT 1",
            seq = quote_identifier(seq)
        );
        if let Some(row) = client.query_opt(&unplaced, &[]).await.map_err(server)? {
            let found: Option<String> = row.get(0);
            return Err(RowsError::NoPlace(found.unwrap_or_else(|| "NULL".into())));
        }
        client.batch_execute(&declare).await.map_err(server)?;
        Ok(Rows { client, shape, snapshot })
    }

    /// The columns that the rows carry.
    pub fn shape(&self) -> &RelationShape {
        &self.shape
    }

    /// The imported snapshot as `pg_snapshot` text: what is visible in it is published by this fill.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// Sends every row, and ends the transaction. Stops early without an error when nobody receives.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send_all(self, to: mpsc::Sender<Row>) -> Result<(), RowsError> {
        let doing = "fetching the rows of the table";
        let server = |source| RowsError::Server { doing, source };
        let fetch = format!("FETCH {FETCH} FROM fill");
        loop {
            // Read to its end first: a server that has sent its rows sees an idle transaction from then on.
            let fetched = self.client.simple_query(&fetch).await.map_err(server)?;
            let rows: Vec<_> = fetched.into_iter().filter_map(into_row).collect();
            if rows.is_empty() {
                return self.client.batch_execute("COMMIT").await.map_err(server);
            }
            for row in rows {
                let Some(place) = self.room(&to).await? else { return Ok(()) };
                place.send(self.row(row)?);
            }
        }
    }

    fn row(&self, row: SimpleQueryRow) -> Result<Row, RowsError> {
        let columns = self.shape.columns.len();
        let seq = row.try_get(columns).ok().flatten().unwrap_or("NULL");
        let seq = seq.parse().map_err(|_| RowsError::NoPlace(seq.to_owned()))?;
        if (0..columns).any(|column| row.try_get(column).is_err()) {
            return Err(RowsError::NotText { seq });
        }
        Ok(Row { seq, row, columns })
    }

    /// Waits for room, and keeps the transaction from looking idle meanwhile; `None` when nobody receives.
    async fn room<'a>(&self, to: &'a mpsc::Sender<Row>) -> Result<Option<mpsc::Permit<'a, Row>>, RowsError> {
        loop {
            if let Ok(place) = tokio::time::timeout(ALIVE, to.reserve()).await {
                return Ok(place.ok());
            }
            let alive = self.client.batch_execute("SELECT 1").await;
            alive.map_err(|source| RowsError::Server { doing: "keeping the fill's transaction", source })?;
        }
    }
}

/// Connects in order to read rows as the stream would write them; without a limit of time, since tables are large.
pub(super) async fn connect(settings: &Settings, purpose: &str) -> Result<Client, tokio_postgres::Error> {
    let options = "-c idle_in_transaction_session_timeout=10s -c datestyle=ISO -c timezone=UTC \
                   -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c statement_timeout=0";
    let source = &settings.source;
    let mut config = sql_config(source, &format!("outbox-relay {} {purpose}", settings.name), options);
    let tls = Connector::new(&source.transport, &source.host, &mut config);
    let (client, connection) = config.connect(tls).await?;
    // Its errors come back with the next statement.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection that reads rows ended");
        }
    });
    Ok(client)
}

pub(super) fn into_row(message: SimpleQueryMessage) -> Option<SimpleQueryRow> {
    match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }
}

/// The mapped columns that the table has, with their types; of a domain that of the type it is made from, as in
/// the stream.
pub(super) async fn shape(
    client: &Client,
    outbox: &OutboxSettings,
    table: &str,
) -> Result<RelationShape, RowsError> {
    let sql = "SELECT attname::text, (
                   WITH RECURSIVE made_from AS (
                       SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                       UNION ALL SELECT t.oid, t.typbasetype FROM made_from m JOIN pg_type t ON t.oid = m.typbasetype)
                   SELECT oid FROM made_from WHERE typbasetype = 0)
                 FROM pg_attribute a
                WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client
        .query(sql, &[&table])
        .await
        .map_err(|source| RowsError::Server { doing: "the columns of the table", source })?;
    let columns = rows
        .iter()
        .map(|row| ColumnInfo { name: row.get(0), type_oid: row.get(1) })
        .filter(|column| outbox.columns.publishes(&column.name))
        .collect();
    Ok(RelationShape { schema: outbox.schema.clone(), table: outbox.table.clone(), columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_ends_before_it_begins_is_put_in_order() {
        assert_eq!(in_order("20545:20544:"), "20545:20545:");
        for sound in ["20544:20545:", "5:9:6,7", "7:7:", "", "x"] {
            assert_eq!(in_order(sound), sound);
        }
    }
}
