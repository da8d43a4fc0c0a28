//! The rows of the table with an event's id, and the record that the routing of now makes of each.

use std::num::NonZeroU32;

use anyhow::Context;
use jiff::Timestamp;
use outbox_postgres_link::tls::Connector;
use outbox_schema::sql::{quote_identifier, quote_literal};
use serde::Serialize;
use tokio_postgres::error::SqlState;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::Pins;
use crate::commands::quarantine::entry::Key;
use crate::config::Settings;
use crate::fill;
use crate::lsn::Lsn;
use crate::router::{Plan, RelationShape, RowPosition, Scratch, Value, partition};
use crate::session::sql_config;

/// Rows with one id that are shown; ids are not enforced to be unique.
const SAME_ID: usize = 20;

/// A row of the table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Its place in the order of insertion.
    pub seq: Option<String>,
    /// The bucket it stands in.
    pub bucket: Option<String>,
    /// The transaction that wrote it.
    pub writer: Option<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was committed, where the server keeps that (`track_commit_timestamp`).
    pub committed_at: Option<String>,
    /// Where it goes.
    pub route: Option<Route>,
    /// Why it goes nowhere.
    pub unpublishable: Option<String>,
}

/// Where a row goes by the routing of now.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    /// The topic.
    pub topic: String,
    /// The record's key.
    pub key: Option<Key>,
    /// The partition, where the topic is pinned.
    pub partition: Option<i32>,
    /// What the partition is chosen by: the key or, without one, the id.
    #[serde(skip)]
    chosen_by: Vec<u8>,
}

impl Row {
    /// Finds the partition, over the counts that the relay has pinned.
    pub fn on(&mut self, pins: &Pins) {
        if let Some(route) = &mut self.route
            && let Some(count) = pins.get(&route.topic).copied().and_then(NonZeroU32::new)
        {
            route.partition = Some(partition(&route.chosen_by, count));
        }
    }

    /// For people, a fact a line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let made = self.created_at.map(|at| format!("made {at}"));
        let committed = self.committed_at.as_ref().map(|at| format!("committed {at}"));
        let seq = self.seq.as_ref().map(|seq| format!("seq {seq}"));
        let writer = self.writer.as_ref().map(|writer| format!("transaction {writer}"));
        let bucket = self.bucket.as_ref().map(|bucket| format!("bucket {bucket}"));
        let facts: Vec<String> = [seq, made, committed, writer, bucket].into_iter().flatten().collect();
        if !facts.is_empty() {
            lines.push(facts.join(", "));
        }
        if let Some(route) = &self.route {
            let key =
                route.key.as_ref().map_or("without a key".to_owned(), |key| format!("key {}", key.text()));
            let partition = route.partition.map_or(String::new(), |number| format!(", partition {number}"));
            lines.push(format!("goes to topic {}{partition}, {key}", route.topic));
        }
        if let Some(why) = &self.unpublishable {
            lines.push(format!("makes no record: {why}"));
        }
        lines
    }
}

/// Asks the server.
///
/// # Errors
/// It cannot be reached, or refuses.
pub async fn look(settings: &Settings, id: &str) -> anyhow::Result<Vec<Row>> {
    let outbox = &settings.outbox;
    let source = &settings.source;
    let options = "-c statement_timeout=30s -c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres \
                   -c extra_float_digits=3 -c bytea_output=hex -c default_transaction_read_only=on";
    let mut config = sql_config(source, &format!("outbox-relay {} where", settings.name), options);
    let tls = Connector::new(&source.transport, &source.host, &mut config);
    let (client, connection) =
        config.connect(tls).await.context("PostgreSQL cannot be reached with source.url")?;
    // Ends with the client; what breaks it reaches the client's calls as errors.
    tokio::spawn(connection);
    let table = fill::table(outbox);
    let shape = fill::shape(&client, outbox, &table).await?;
    let plan = Plan::compile(&shape, outbox, &settings.kafka)?;
    let bucket = outbox.is_contract().then(|| "bucket".to_owned());
    let sql = query(settings, &shape, &table, bucket.as_deref(), id);
    let answer = client.simple_query(&sql).await;
    let messages = match answer {
        Ok(messages) => messages,
        // A text that is no id of this table's type is no row's.
        Err(error) if error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION) => return Ok(Vec::new()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            return Err(anyhow::Error::new(error)
                .context(format!("role {} may not read {table}: `outbox-relay init` lets it", source.user)));
        }
        Err(error) => return Err(anyhow::Error::new(error).context(format!("{table} cannot be asked"))),
    };
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).map(|row| read(&row, &plan, shape.columns.len())).collect())
}

fn query(settings: &Settings, shape: &RelationShape, table: &str, bucket: Option<&str>, id: &str) -> String {
    let columns = &settings.outbox.columns;
    let optional = |column: Option<&str>, cast: &str| match column {
        Some(column) => format!("{}{cast}", quote_identifier(column)),
        None => "NULL".to_owned(),
    };
    let writer = columns.writer.as_deref();
    let committed = match writer {
        Some(writer) => format!(
            "CASE WHEN current_setting('track_commit_timestamp')::bool \
             THEN pg_xact_commit_timestamp({}::text::xid8::xid) END",
            quote_identifier(writer)
        ),
        None => "NULL".to_owned(),
    };
    let created_at = match &columns.created_at {
        Some(column) => {
            format!(
                "to_char({}::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
                quote_identifier(column)
            )
        }
        None => "NULL".to_owned(),
    };
    let values: Vec<String> = shape.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    format!(
        "SELECT {}, {}, {}, {}, {created_at}, {committed} FROM {table} WHERE {} = {} LIMIT {SAME_ID}",
        values.join(", "),
        optional(columns.seq.as_deref(), "::text"),
        optional(bucket, "::text"),
        optional(writer, "::text"),
        quote_identifier(&columns.id),
        quote_literal(id)
    )
}

fn read(row: &SimpleQueryRow, plan: &Plan, width: usize) -> Row {
    let text = |column: usize| row.try_get(column).ok().flatten();
    let values: Vec<Value<'_>> = (0..width)
        .map(|column| text(column).map_or(Value::Null, |text| Value::Text(text.as_bytes())))
        .collect();
    // The record's position is no part of where it goes.
    let at = RowPosition { epoch: 0, commit_lsn: Lsn::ZERO, ordinal: 0, commit_unix_millis: 0 };
    let mut scratch = Scratch::default();
    let (route, unpublishable) = match plan.record(&values, &at, &mut scratch) {
        Ok(record) => {
            let route = Route {
                topic: record.topic.to_owned(),
                key: record.key.map(|key| Key(key.to_vec())),
                partition: None,
                chosen_by: record.key.unwrap_or(record.id).to_vec(),
            };
            (Some(route), None)
        }
        Err(why) => (None, Some(why.to_string())),
    };
    let owned = |column: usize| text(column).map(str::to_owned);
    Row {
        seq: owned(width),
        bucket: owned(width + 1),
        writer: owned(width + 2),
        created_at: text(width + 3).and_then(|text| text.parse().ok()),
        committed_at: owned(width + 4),
        route,
        unpublishable,
    }
}
