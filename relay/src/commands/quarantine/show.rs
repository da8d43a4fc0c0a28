//! `quarantine show`: one entry, with its row since somebody asked for it.

use std::io::{self, Write};

use clap::Args;
use outbox_schema::record::Position;
use serde::Serialize;
use serde_json::{Value, json};

use super::choice::{Choice, pick};
use super::entry::{Entry, Key, clean, hex, short};
use super::fetch::{Column, Source};
use super::paint::Paint;
use super::{Place, QuarantineError};
use crate::commands::{Exit, output};
use crate::config::Settings;

/// Characters of a value that a page shows.
const VALUE: usize = 2_000;

/// What `show` takes.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub place: Place,
    /// The event's position, such as 3/00000016B374D848/7, or its id
    #[arg(value_name = "POSITION|ID")]
    which: Choice,
    /// Print the payload's bytes and nothing else
    #[arg(long, conflicts_with_all = ["json", "no_values"])]
    raw: bool,
    /// Leave the values of the row out
    #[arg(long)]
    no_values: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    stands_behind: Option<String>,
    row: Option<Vec<Value>>,
}

/// Shows it.
pub async fn run(source: &Source, settings: &Settings, args: &ShowArgs) -> Result<Exit, QuarantineError> {
    let found = source.find(&args.which).await?;
    let entry = pick(&args.which, found).map_err(QuarantineError::Refused)?;
    let row = source.row(&entry).await?;
    if args.raw {
        return raw(&entry, row.as_deref(), &settings.outbox.columns.payload);
    }
    let ahead =
        if entry.state == super::entry::State::Queued { source.ahead_of(&entry).await? } else { None };
    if args.json {
        let row = row.map(|row| row.iter().map(|column| column_json(column, !args.no_values)).collect());
        let stands_behind = ahead.map(|position| position.to_string());
        return Ok(output::print(&output::json(&Document { entry: &entry, stands_behind, row })));
    }
    let page = facts(&entry, ahead, Paint::of_stdout()) + &values(row.as_deref(), !args.no_values);
    Ok(output::print(&page))
}

/// The payload as it came.
fn raw(entry: &Entry, row: Option<&[Column]>, payload: &str) -> Result<Exit, QuarantineError> {
    let refused = |sentence: String| Err(QuarantineError::Refused(sentence));
    let Some(row) = row else {
        return refused(format!(
            "the row of {} was too large to be held; it stands in the outbox table only",
            entry.position
        ));
    };
    let Some(column) = row.iter().find(|column| column.name == payload) else {
        return refused(format!(
            "the row of {} has no column {payload} (outbox.columns.payload)",
            entry.position
        ));
    };
    let Some(value) = &column.value else {
        return refused(format!("the payload of {} is NULL: a tombstone", entry.position));
    };
    match io::stdout().lock().write_all(value) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            refused(format!("the standard output cannot be written: {error}"))
        }
        Ok(()) | Err(_) => Ok(Exit::Success),
    }
}

/// What is known of the entry, one line per fact; what is not there is left out.
fn facts(entry: &Entry, ahead: Option<Position>, paint: Paint) -> String {
    let text = |text: &Option<String>| text.as_deref().map(clean);
    let decided = entry
        .decided_at
        .map(|at| format!("{at} by {}", clean(entry.decided_by.as_deref().unwrap_or("somebody"))));
    let lines = [
        ("position", Some(entry.position.to_string())),
        ("lane", Some(entry.lane.to_string())),
        ("state", Some(paint.state(entry.state, entry.state.name()))),
        ("cause", Some(clean(&entry.cause))),
        ("reason", Some(clean(&entry.reason))),
        ("event id", text(&entry.event_id)),
        ("aggregate", text(&entry.aggregatetype)),
        ("event type", text(&entry.event_type)),
        ("topic", text(&entry.topic)),
        ("key", entry.key.as_ref().map(Key::text)),
        ("held by", text(&entry.held_by)),
        ("stands behind", ahead.map(|position| position.to_string())),
        ("behind it", (entry.behind > 0).then(|| format!("{} events", entry.behind))),
        ("size", Some(format!("{} bytes", entry.bytes))),
        ("committed", Some(entry.committed_at.to_string())),
        ("entered", Some(entry.entered_at.to_string())),
        ("decided", decided),
        ("note", text(&entry.note)),
        ("settled", entry.settled_at.map(|at| at.to_string())),
    ];
    let present = lines.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    present.map(|(name, value)| format!("{name:<13}  {value}\n")).collect()
}

/// The row, one line per column.
fn values(row: Option<&[Column]>, shown: bool) -> String {
    let Some(row) = row else {
        return "\nThe row was too large to be held; it stands in the outbox table only.\n".into();
    };
    let names: Vec<String> = row.iter().map(|column| clean(&column.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let lines = row.iter().zip(names).map(|(column, name)| {
        let type_name = clean(&column.type_name);
        format!("  {name:<width$}  {type_name}: {}\n", value(column, shown))
    });
    format!("\nThe row as it came:\n{}", lines.collect::<String>())
}

fn value(column: &Column, shown: bool) -> String {
    let Some(bytes) = &column.value else { return "NULL".into() };
    if !shown {
        return format!("({} bytes)", bytes.len());
    }
    let text = readable(column).map_or_else(|| hex(bytes), clean);
    let shortened = short(&text, VALUE);
    if shortened.len() == text.len() { text } else { format!("{shortened} ({} bytes)", bytes.len()) }
}

/// The value as text, where it is text.
fn readable(column: &Column) -> Option<&str> {
    let bytes = column.value.as_deref().filter(|_| column.text)?;
    std::str::from_utf8(bytes).ok()
}

fn column_json(column: &Column, shown: bool) -> Value {
    let mut json = json!({
        "name": column.name,
        "type": column.type_name,
        "bytes": column.value.as_ref().map(Vec::len),
    });
    if let (Some(bytes), true) = (&column.value, shown) {
        match readable(column) {
            Some(text) => json["text"] = text.into(),
            None => json["hex"] = hex(bytes).into(),
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    fn column(name: &str, type_name: &str, value: Option<&[u8]>, text: bool) -> Column {
        Column { name: name.into(), type_name: type_name.into(), value: value.map(<[u8]>::to_vec), text }
    }

    fn row() -> Vec<Column> {
        vec![
            column("id", "uuid", Some(&[0x01, 0x90]), false),
            column("traceparent", "text", None, true),
            column("payload", "json", Some(b"{\"a\":\n\"\xc3\xbc\"}"), true),
            column("broken", "text", Some(b"\xff"), true),
        ]
    }

    #[test]
    fn a_row_is_shown_to_people() {
        let expected = "
The row as it came:
  id           uuid: \\x0190
  traceparent  text: NULL
  payload      json: {\"a\":\\n\"ü\"}
  broken       text: \\xff
";
        assert_eq!(values(Some(&row()), true), expected);
        let hidden = values(Some(&row()), false);
        assert!(hidden.contains("payload      json: (11 bytes)") && !hidden.contains('ü'), "{hidden}");
        assert!(values(None, true).contains("too large"));
        let long = column("payload", "json", Some(&[b'x'; 5_000]), true);
        assert!(value(&long, true).ends_with("xx… (5000 bytes)"));
    }

    #[test]
    fn facts_that_are_not_there_are_left_out() {
        let mut entry = entry();
        entry.topic = None;
        entry.note = Some("looked\x07 at".into());
        let page = facts(&entry, None, Paint(false));
        for line in [
            "position       3/00000016B374D848/7\n",
            "state          held\n",
            "key            o-1\n",
            "behind it      3 events\n",
            "committed      2026-01-02T03:04:05.678901Z\n",
            "note           looked\\u{7} at\n",
        ] {
            assert!(page.contains(line), "{line}{page}");
        }
        assert!(!page.contains("topic") && !page.contains("decided") && !page.contains("settled"), "{page}");
    }

    #[test]
    fn json_tells_text_from_bytes_and_hides_values() {
        let json: Vec<Value> = row().iter().map(|column| column_json(column, true)).collect();
        assert_eq!(json[0], json!({"name": "id", "type": "uuid", "bytes": 2, "hex": "\\x0190"}));
        assert_eq!(json[1], json!({"name": "traceparent", "type": "text", "bytes": null}));
        assert_eq!(json[2]["text"], "{\"a\":\n\"ü\"}");
        assert_eq!(column_json(&row()[2], false), json!({"name": "payload", "type": "json", "bytes": 11}));
    }

    #[test]
    fn a_payload_that_is_not_there_is_told() {
        let told = |row: Option<&[Column]>, payload| raw(&entry(), row, payload).unwrap_err().to_string();
        assert!(told(None, "payload").contains("too large to be held"));
        assert!(told(Some(&row()), "data").contains("no column data"));
        assert!(told(Some(&row()), "traceparent").contains("tombstone"));
    }
}
