//! Emitted events against expected ones, in words.

use std::fmt::Write;

use serde_json::Value;

use super::Emitted;
use crate::event::OutboxEvent;

/// How the emitted events differ from the expected ones; `None` when they do not.
///
/// They are compared one by one, in order. Payload and headers are compared as JSON, so spaces and the order
/// of members do not count. The id and the trace context are compared only where the expected event has them.
pub fn difference(emitted: &[Emitted], expected: &[OutboxEvent]) -> Option<String> {
    let mut lines = String::new();
    for at in 0..emitted.len().max(expected.len()) {
        match (emitted.get(at), expected.get(at)) {
            (Some(emitted), Some(expected)) => describe_columns(&mut lines, at, emitted, expected),
            (Some(emitted), None) => {
                line(&mut lines, format_args!("event {}: not expected: {}", at + 1, Brief(emitted)))
            }
            (None, Some(expected)) => line(
                &mut lines,
                format_args!(
                    "event {}: not emitted: {} {} {}",
                    at + 1,
                    expected.aggregatetype,
                    expected.aggregateid,
                    expected.event_type
                ),
            ),
            (None, None) => {}
        }
    }
    (!lines.is_empty())
        .then(|| format!("{} events expected, {} emitted\n{lines}", expected.len(), emitted.len()))
}

fn describe_columns(lines: &mut String, at: usize, emitted: &Emitted, expected: &OutboxEvent) {
    let columns = differing_columns(emitted, expected);
    if columns.is_empty() {
        return;
    }
    line(lines, format_args!("event {}: {}", at + 1, Brief(emitted)));
    for (column, expected, emitted) in columns {
        line(lines, format_args!("  {column}"));
        line(lines, format_args!("    expected {expected}"));
        line(lines, format_args!("    emitted  {emitted}"));
    }
}

/// Name, expected text and emitted text of each column that differs.
fn differing_columns(emitted: &Emitted, expected: &OutboxEvent) -> Vec<(&'static str, String, String)> {
    let mut columns = Vec::new();
    let mut compare = |column, expected: Option<String>, emitted: Option<String>| {
        if expected != emitted {
            let shown = |text: Option<String>| text.unwrap_or_else(|| "NULL".to_owned());
            columns.push((column, shown(expected), shown(emitted)));
        }
    };
    compare("aggregatetype", Some(expected.aggregatetype.clone()), Some(emitted.aggregatetype.clone()));
    compare("aggregateid", Some(expected.aggregateid.clone()), Some(emitted.aggregateid.clone()));
    compare("type", Some(expected.event_type.clone()), Some(emitted.event_type.clone()));
    compare(
        "schema_version",
        Some(expected.schema_version.to_string()),
        Some(emitted.schema_version.to_string()),
    );
    compare("version", expected.version.map(|v| v.to_string()), emitted.version.map(|v| v.to_string()));
    compare("partition_key", expected.partition_key.clone(), emitted.partition_key.clone());
    compare(
        "headers",
        expected.headers_json().as_deref().map(canonical),
        emitted.headers.as_deref().map(canonical),
    );
    compare("payload", expected.payload_json().map(canonical), emitted.payload.as_deref().map(canonical));
    if expected.id.is_some() {
        compare("id", expected.id.map(|id| id.to_string()), Some(emitted.id.to_string()));
    }
    if expected.traceparent.is_some() {
        compare("traceparent", expected.traceparent.clone(), emitted.traceparent.clone());
    }
    columns
}

/// JSON without spaces and with sorted members; what is not JSON as it is.
fn canonical(json: &str) -> String {
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |value| value.to_string())
}

/// An event in one line.
struct Brief<'a>(&'a Emitted);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Emitted { aggregatetype, aggregateid, event_type, .. } = self.0;
        write!(f, "{aggregatetype} {aggregateid} {event_type}")
    }
}

fn line(lines: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(lines, "{text}");
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn expected() -> OutboxEvent {
        OutboxEvent::new("order", "o-1", "OrderPlaced").raw_json(r#"{"b": 2, "a": 1}"#).header("n", 1)
    }

    fn emitted() -> Emitted {
        Emitted {
            id: Uuid::nil(),
            aggregatetype: "order".into(),
            aggregateid: "o-1".into(),
            event_type: "OrderPlaced".into(),
            schema_version: 1,
            version: None,
            partition_key: None,
            headers: Some(r#"{"n": 1}"#.into()),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            payload: Some(r#"{"a":1,"b":2}"#.into()),
        }
    }

    #[test]
    fn equal_events_do_not_differ() {
        assert_eq!(difference(&[emitted()], &[expected()]), None);
        assert_eq!(difference(&[], &[]), None);
    }

    #[test]
    fn each_column_is_compared() {
        type Change = (&'static str, fn(&mut Emitted));
        let changes: [Change; 9] = [
            ("aggregatetype", |e| e.aggregatetype.push('x')),
            ("aggregateid", |e| e.aggregateid.push('x')),
            ("type", |e| e.event_type.push('x')),
            ("schema_version", |e| e.schema_version = 2),
            ("version", |e| e.version = Some(1)),
            ("partition_key", |e| e.partition_key = Some("k".into())),
            ("headers", |e| e.headers = None),
            ("payload", |e| e.payload = None),
            ("payload", |e| e.payload = Some("null".into())),
        ];
        for (column, change) in changes {
            let mut emitted = emitted();
            change(&mut emitted);
            let difference = difference(&[emitted], &[expected()]).unwrap();
            assert!(difference.contains(&format!("\n  {column}\n    expected ")), "{difference}");
        }
    }

    #[test]
    fn id_and_trace_are_compared_where_expected() {
        let id = Uuid::from_u128(7);
        assert!(difference(&[emitted()], &[expected().id(id)]).unwrap().contains(&id.to_string()));
        assert!(
            difference(&[emitted()], &[expected().traceparent("00-other")]).unwrap().contains("00-other")
        );
    }

    #[test]
    fn missing_surplus_and_order_are_told() {
        let told = difference(&[emitted()], &[]).unwrap();
        assert_eq!(told, "0 events expected, 1 emitted\nevent 1: not expected: order o-1 OrderPlaced\n");
        let told = difference(&[], &[expected()]).unwrap();
        assert_eq!(told, "1 events expected, 0 emitted\nevent 1: not emitted: order o-1 OrderPlaced\n");
        let second = Emitted { aggregateid: "o-2".into(), ..emitted() };
        let mut other = expected();
        other.aggregateid = "o-2".into();
        assert_eq!(difference(&[emitted(), second.clone()], &[expected(), other.clone()]), None);
        assert!(difference(&[emitted(), second], &[other, expected()]).is_some());
    }
}
