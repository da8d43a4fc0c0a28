//! The ways in which rows get into the table.

use std::fmt::Write;
use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Error, Transaction};

use super::events::Event;

/// A way to insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A call of `outbox.enqueue` for each row.
    Function,
    /// An INSERT for each row.
    Single,
    /// One INSERT of many rows.
    Many,
    /// COPY.
    Copy,
}

/// Inserts the events in their order.
pub(super) async fn insert(transaction: &Transaction<'_>, way: Way, events: &[Event]) -> Result<(), Error> {
    match way {
        Way::Function => {
            for event in events {
                function(transaction, event).await?;
            }
            Ok(())
        }
        Way::Single => {
            for event in events {
                many(transaction, std::slice::from_ref(event)).await?;
            }
            Ok(())
        }
        Way::Many => many(transaction, events).await,
        Way::Copy => copy(transaction, events).await,
    }
}

async fn function(transaction: &Transaction<'_>, event: &Event) -> Result<(), Error> {
    let call =
        "SELECT outbox.enqueue($1, $2, $3, $4::text::json, id => $5, schema_version => $6, version => $7,
                                      headers => $8::text::jsonb, traceparent => $9)";
    transaction
        .execute(
            call,
            &[
                &event.aggregatetype,
                &event.aggregateid,
                &event.event_type,
                &event.payload,
                &event.id,
                &event.schema_version,
                &event.version,
                &event.headers,
                &event.traceparent,
            ],
        )
        .await?;
    Ok(())
}

async fn many(transaction: &Transaction<'_>, events: &[Event]) -> Result<(), Error> {
    let insert = "
        INSERT INTO outbox.events
            (id, aggregatetype, aggregateid, type, schema_version, version, headers, traceparent, payload)
        SELECT id, aggregatetype, aggregateid, type, schema_version, version, headers::jsonb, traceparent, payload::json
          FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::text[],
                      $9::text[]) WITH ORDINALITY
            AS e (id, aggregatetype, aggregateid, type, schema_version, version, headers, traceparent, payload, place)
         ORDER BY place";
    macro_rules! column {
        ($field:ident) => {
            events.iter().map(|event| &event.$field).collect::<Vec<_>>()
        };
    }
    transaction
        .execute(
            insert,
            &[
                &column!(id),
                &column!(aggregatetype),
                &column!(aggregateid),
                &column!(event_type),
                &column!(schema_version),
                &column!(version),
                &column!(headers),
                &column!(traceparent),
                &column!(payload),
            ],
        )
        .await?;
    Ok(())
}

async fn copy(transaction: &Transaction<'_>, events: &[Event]) -> Result<(), Error> {
    let mut text = String::new();
    for event in events {
        let Event { id, schema_version, version, .. } = event;
        let [kind, key, event_type, payload] =
            [&event.aggregatetype, &event.aggregateid, &event.event_type, &event.payload]
                .map(|field| escaped(field));
        let [headers, traceparent] =
            [&event.headers, &event.traceparent].map(|field| field.as_deref().map_or("\\N".into(), escaped));
        writeln!(
            text,
            "{id}\t{kind}\t{key}\t{event_type}\t{schema_version}\t{version}\t{headers}\t{traceparent}\t{payload}"
        )
        .expect("a string takes everything");
    }
    let statement = "COPY outbox.events
        (id, aggregatetype, aggregateid, type, schema_version, version, headers, traceparent, payload) FROM STDIN";
    let mut sink = pin!(transaction.copy_in(statement).await?);
    sink.send(Bytes::from(text)).await?;
    sink.finish().await?;
    Ok(())
}

/// A field in COPY's text format.
fn escaped(field: &str) -> String {
    field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
