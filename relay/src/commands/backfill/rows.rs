//! The rows that are meant, as text, in the order of `seq`, seen as they stood at one moment.

use anyhow::Context;
use jiff::Timestamp;
use outbox_postgres_link::tls::Connector;
use outbox_schema::sql::quote_identifier;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::choice::{Choice, NO_ORDER};
use crate::config::Settings;
use crate::fill;
use crate::router::RelationShape;
use crate::session::sql_config;

/// Rows of one FETCH.
const FETCH: u32 = 50;

/// How many are meant, and which are the first and the last.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// Their number.
    pub count: u64,
    /// `seq` of the first and of the last.
    pub seq: Option<(i64, i64)>,
    /// When the earliest and the latest were made.
    pub made: Option<(Timestamp, Timestamp)>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its place in the order.
    pub seq: i64,
    /// A value for each column of the shape.
    pub values: Vec<Option<String>>,
}

/// A transaction that sees the rows of one moment. It reads only; the clean-up waits for it.
pub struct Rows {
    client: Client,
    shape: RelationShape,
    condition: String,
    table: String,
    seq: String,
}

impl Rows {
    /// Connects as the relay does, and begins to read.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; the table cannot be asked this.
    pub async fn open(settings: &Settings, choice: &Choice) -> anyhow::Result<Rows> {
        let outbox = &settings.outbox;
        let condition = choice.condition(outbox).map_err(anyhow::Error::msg)?;
        let seq = quote_identifier(outbox.columns.seq.as_deref().context(NO_ORDER)?);
        let options = "-c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c statement_timeout=0 \
                       -c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c extra_float_digits=3 \
                       -c bytea_output=hex";
        let source = &settings.source;
        let mut config = sql_config(source, &format!("outbox-relay {} backfill", settings.name), options);
        let tls = Connector::new(&source.transport, &source.host, &mut config);
        let connecting = config.connect(tls).await;
        let (client, connection) = connecting.context("PostgreSQL cannot be reached with source.url")?;
        // Ends with the client; what breaks it reaches the client's calls as errors.
        tokio::spawn(connection);
        let table = fill::table(outbox);
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let shape = fill::shape(&client, outbox, &table).await?;
        Ok(Rows { client, shape, condition, table, seq })
    }

    /// The columns that the rows carry.
    pub fn shape(&self) -> &RelationShape {
        &self.shape
    }

    /// How many there are.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn extent(&self, settings: &Settings) -> anyhow::Result<Extent> {
        let created_at = match &settings.outbox.columns.created_at {
            Some(column) => format!("{}::timestamptz", quote_identifier(column)),
            None => "NULL::timestamptz".into(),
        };
        let sql = format!(
            "SELECT count(*), min({seq})::bigint, max({seq})::bigint, min({created_at}), max({created_at}) FROM {} WHERE {}",
            self.table,
            self.condition,
            seq = self.seq
        );
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| self.refused(error, settings))?;
        let (first, last): (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
        let (earliest, latest): (Option<Timestamp>, Option<Timestamp>) = (row.get(3), row.get(4));
        Ok(Extent {
            count: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
            seq: first.zip(last),
            made: earliest.zip(latest),
        })
    }

    /// Begins to go through them.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn begin(&self) -> anyhow::Result<()> {
        let columns: Vec<String> =
            self.shape.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let declare = format!(
            "DECLARE backfill NO SCROLL CURSOR FOR SELECT {}, {seq} FROM {} WHERE {} ORDER BY {seq}",
            columns.join(", "),
            self.table,
            self.condition,
            seq = self.seq
        );
        self.client.batch_execute(&declare).await.context("the rows of the table cannot be read")
    }

    /// The next rows; none where there are no more.
    ///
    /// # Errors
    /// The connection is lost; a row has no place in the order, or a value that is no text.
    pub async fn next(&self) -> anyhow::Result<Vec<Row>> {
        let fetched = self.client.simple_query(&format!("FETCH {FETCH} FROM backfill")).await;
        let fetched = fetched.context("the rows of the table cannot be read any further")?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        fetched.into_iter().filter_map(row).map(|row| self.row(&row)).collect()
    }

    fn row(&self, row: &SimpleQueryRow) -> anyhow::Result<Row> {
        let columns = self.shape.columns.len();
        let seq = row.try_get(columns).ok().flatten().and_then(|seq| seq.parse().ok());
        let seq: i64 = seq.context("a row has no number as its seq, and so no place in the order")?;
        let value = |column| row.try_get(column).map(|value| value.map(str::to_owned));
        let values: Result<_, _> = (0..columns).map(value).collect();
        Ok(Row {
            seq,
            values: values.with_context(|| format!("the row with seq {seq} has a value that is no text"))?,
        })
    }

    fn refused(&self, error: tokio_postgres::Error, settings: &Settings) -> anyhow::Error {
        let role = &settings.source.user;
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => anyhow::Error::new(error)
                .context(format!("role {role} may not read {}: `outbox-relay init` lets it", self.table)),
            Some(&SqlState::INVALID_TEXT_REPRESENTATION) => anyhow::Error::new(error)
                .context(format!("an id that was given cannot be one of {}", self.table)),
            Some(_) | None => anyhow::Error::new(error).context(format!("{} cannot be asked", self.table)),
        }
    }
}
