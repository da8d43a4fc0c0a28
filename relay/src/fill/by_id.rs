//! Rows of the outbox by the ids of their events, as the server's text.

use std::collections::HashMap;

use outbox_schema::sql::{quote_identifier, quote_literal};
use tokio_postgres::SimpleQueryRow;

use super::rows::{RowsError, connect, into_row, shape, table};
use crate::config::Settings;
use crate::router::RelationShape;

/// What was found of one id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ById {
    /// Its row, in the order of the shape.
    Row(Vec<Option<Vec<u8>>>),
    /// Its row has so many bytes, more than `source.max_row_bytes`.
    TooLarge(u64),
    /// Its row has a value that is not UTF-8.
    NotText,
    /// More than one row has this id.
    Several,
}

/// Looks for rows; an id without one is not in the answer. One pass over the table, whatever its size.
///
/// # Errors
/// The server does not answer, or refuses.
pub(crate) async fn by_id(
    settings: &Settings,
    ids: &[&str],
) -> Result<(RelationShape, HashMap<String, ById>), RowsError> {
    let server = |source| RowsError::Server { doing: "looking for rows of the outbox by their ids", source };
    let client = connect(settings, "look").await.map_err(server)?;
    let outbox = &settings.outbox;
    let table = table(outbox);
    let shape = shape(&client, outbox, &table).await?;
    let columns: Vec<String> = shape.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let limit = settings.source.max_row_bytes;
    // A value's text is that of its output function, as in the stream; a cast to text may differ from it.
    let size = |column: &String| format!("coalesce(octet_length(format('%s', {column})), 0)::int8");
    let sizes: Vec<String> = columns.iter().map(size).collect();
    let bounded = |column: &String| format!("CASE WHEN f.bytes <= {limit} THEN f.{column} END");
    let bounded: Vec<String> = columns.iter().map(bounded).collect();
    let ids: Vec<String> = ids.iter().map(|id| quote_literal(id)).collect();
    let select = format!(
        "SELECT f.event, f.bytes, {} FROM (
             SELECT {id}::text AS event, {} AS bytes, {} FROM {table} WHERE {id}::text IN ({})) f",
        bounded.join(", "),
        sizes.join(" + "),
        columns.join(", "),
        ids.join(", "),
        id = quote_identifier(&outbox.columns.id),
    );
    let answers = client.simple_query(&select).await.map_err(server)?;
    let mut found = HashMap::new();
    for row in answers.into_iter().filter_map(into_row) {
        let (Ok(Some(event)), Ok(Some(bytes))) = (row.try_get(0), row.try_get(1)) else { continue };
        let bytes = bytes.parse().unwrap_or(u64::MAX);
        let now = if bytes > limit as u64 { ById::TooLarge(bytes) } else { values(&row, columns.len()) };
        let before = found.insert(event.to_owned(), now);
        if before.is_some() {
            found.insert(event.to_owned(), ById::Several);
        }
    }
    Ok((shape, found))
}

fn values(row: &SimpleQueryRow, columns: usize) -> ById {
    let value = |column: usize| row.try_get(column + 2).map(|text| text.map(|text| text.as_bytes().to_vec()));
    (0..columns).map(value).collect::<Result<_, _>>().map_or(ById::NotText, ById::Row)
}
