//! The committed rows, read from PostgreSQL, as the records that they have to become.
//!
//! The expectation is put together by SQL and by this file alone: none of the relay's own code takes part.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::judge::Committed;

/// `n` of the payload is the order, where the payload is an object that has it. Headers of the row come in
/// the row's order, scalars as text.
const SELECT: &str = r#"
SELECT id::text,
       aggregatetype,
       coalesce(partition_key, aggregateid),
       payload::text,
       type,
       CASE WHEN schema_version > 1 THEN schema_version::text END,
       version::text,
       traceparent,
       CASE WHEN substr(id::text, 15, 1) <> '7'
            THEN to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
       (SELECT array_agg(h.key ORDER BY h.place)
          FROM jsonb_each_text(headers) WITH ORDINALITY AS h (key, value, place)),
       (SELECT array_agg(coalesce(h.value, 'null') ORDER BY h.place)
          FROM jsonb_each_text(headers) WITH ORDINALITY AS h (key, value, place)),
       (payload ->> 'n')::bigint
  FROM"#;

/// Reads every row of `outbox.events`; topics are `prefix` and the aggregate type.
///
/// # Panics
/// When the server does not answer, or an `n` is no number.
pub async fn read(database: &Client, prefix: &str) -> Vec<Committed> {
    read_from("outbox.events", database, prefix).await
}

/// Reads every row of a table with the columns of `outbox.events`; topics are `prefix` and the aggregate type.
///
/// # Panics
/// When the server does not answer, or an `n` is no number.
pub async fn read_from(table: &str, database: &Client, prefix: &str) -> Vec<Committed> {
    let parameters: [&(dyn ToSql + Sync); 0] = [];
    let select = format!("{SELECT} {table}");
    let rows = database.query_raw(&select, parameters).await.unwrap_or_else(|error| panic!("{error:?}"));
    let mut rows = pin!(rows);
    let mut committed = Vec::new();
    while let Some(row) = rows.try_next().await.unwrap_or_else(|error| panic!("{error:?}")) {
        committed.push(expected(&row, prefix));
    }
    committed
}

fn expected(row: &Row, prefix: &str) -> Committed {
    let id: String = row.get(0);
    let mut headers = vec![("id".to_owned(), id.clone().into_bytes())];
    let mut push = |name: &str, value: Option<String>| {
        headers.extend(value.map(|value| (name.to_owned(), value.into_bytes())));
    };
    push("type", row.get(4));
    push("version", row.get(6));
    push("schema_version", row.get(5));
    push("traceparent", row.get(7));
    push("created_at", row.get(8));
    let names: Option<Vec<String>> = row.get(9);
    let values: Option<Vec<String>> = row.get(10);
    for (name, value) in names.into_iter().flatten().zip(values.into_iter().flatten()) {
        push(&name, Some(value));
    }
    Committed {
        id,
        topic: format!("{prefix}{}", row.get::<_, String>(1)),
        key: row.get::<_, String>(2).into_bytes(),
        value: row.get::<_, Option<String>>(3).map(String::into_bytes),
        headers,
        order: row.get::<_, Option<i64>>(11).map(|n| u64::try_from(n).expect("counters begin at 1")),
    }
}
