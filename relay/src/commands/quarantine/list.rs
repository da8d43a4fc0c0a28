//! `quarantine list`.

use clap::Args;
use serde::Serialize;

use super::entry::{Entry, Key, clean, short};
use super::fetch::{Filter, Source, Totals};
use super::paint::Paint;
use super::{Place, QuarantineError};
use crate::commands::{Exit, output};

/// Characters of a key that a table shows.
const KEY: usize = 40;

/// What `list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub place: Place,
    /// Also what only queues, one by one, and what was published or discarded
    #[arg(long)]
    all: bool,
    /// Entries of this topic only, or of an order of this name
    #[arg(long)]
    topic: Option<String>,
    /// Entries of this key only: text, or \x and hex digits
    #[arg(long)]
    key: Option<Key>,
    /// Most entries that are listed
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..1_000_000))]
    limit: i64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    relay: &'a str,
    entries: &'a [Entry],
    more: bool,
    totals: Totals,
}

/// Lists, and counts what there is.
pub async fn run(source: &Source, args: &ListArgs) -> Result<Exit, QuarantineError> {
    let filter = Filter { topic: args.topic.as_deref(), key: args.key.as_ref(), all: args.all };
    let totals = source.totals(filter).await?;
    let mut entries = source.list(filter, Some(args.limit + 1)).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    if args.json {
        let document = Document { relay: source.relay(), entries: &entries, more, totals };
        return Ok(output::print(&output::json(&document)));
    }
    let mut page = table(&entries, Paint::of_stdout());
    if more {
        page += &format!("… there are more; --limit shows more than {most}\n");
    }
    page += &summary(source.relay(), &totals, args);
    Ok(output::print(&page))
}

/// The table, one line per entry; empty without any.
fn table(entries: &[Entry], paint: Paint) -> String {
    const HEAD: [&str; 8] = ["POSITION", "STATE", "CAUSE", "AGE", "BEHIND", "TOPIC", "KEY", "ID"];
    /// The column that has a colour.
    const STATE: usize = 1;
    if entries.is_empty() {
        return String::new();
    }
    let lines: Vec<[String; 8]> = entries.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let pad = |text: &str, column: usize| match column + 1 == HEAD.len() {
        true => text.to_owned(),
        false => format!("{text:<width$}", width = widths[column]),
    };
    let head: Vec<String> = HEAD.iter().enumerate().map(|(column, name)| pad(name, column)).collect();
    let mut page = format!("{}\n", head.join("  "));
    for (line, entry) in lines.iter().zip(entries) {
        let padded = line.iter().enumerate().map(|(column, text)| match column {
            STATE => paint.state(entry.state, &pad(text, column)),
            _ => pad(text, column),
        });
        page += &format!("{}\n", padded.collect::<Vec<_>>().join("  "));
    }
    page
}

fn cells(entry: &Entry) -> [String; 8] {
    let key = entry.key.as_ref().map_or_else(|| "-".into(), Key::text);
    [
        entry.position.to_string(),
        entry.state.name().into(),
        clean(&entry.cause),
        output::duration(entry.age_seconds.max(0.0).trunc()),
        entry.behind.to_string(),
        entry.destination(),
        short(&key, KEY),
        clean(entry.event_id.as_deref().unwrap_or("-")),
    ]
}

fn summary(relay: &str, totals: &Totals, args: &ListArgs) -> String {
    let Totals { held, queued, passed, decided, settled, queues } = *totals;
    let narrowed = args.topic.is_some() || args.key.is_some() || args.place.one.lane.is_some();
    let such = if narrowed { " of this kind" } else { "" };
    if held + queued + passed + decided + settled == 0 {
        return format!("nothing{such} is in the quarantine of relay {relay}\n");
    }
    let counts = [
        (held, "held"),
        (queued, "queued behind"),
        (passed, "passed over"),
        (decided, "decided on and not yet reached by the relay"),
        (settled, "settled"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let standing = match queues {
        0 => String::new(),
        1 => "; 1 queue stands still".into(),
        _ => format!("; {queues} queues stand still"),
    };
    format!("relay {relay}: {}{such}{standing}\n", counts.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::entry::State;
    use super::super::entry::tests::entry;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }

    fn args(line: &str) -> ListArgs {
        Line::parse_from(format!("list {line}").split_whitespace()).args
    }

    fn two() -> [Entry; 2] {
        let other = Entry {
            position: "12/00000016B374D848/0".parse().unwrap(),
            state: State::Passed,
            topic: None,
            held_by: None,
            key: Some(Key(vec![b'k'; 50])),
            event_id: None,
            behind: 0,
            ..entry()
        };
        [entry(), other]
    }

    #[test]
    fn entries_are_lines_of_a_table() {
        let expected = "\
POSITION               STATE   CAUSE      AGE        BEHIND  TOPIC               KEY                                       ID
3/00000016B374D848/7   held    too_large  1 h 2 min  3       outbox.event.order  o-1                                       01900000-0000-7000-8000-000000000001
12/00000016B374D848/0  passed  too_large  1 h 2 min  0       -                   kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…  -
";
        assert_eq!(table(&two(), Paint(false)), expected);
        assert!(table(&two(), Paint(true)).contains("\x1b[31mheld  \x1b[0m  too_large"));
        assert_eq!(table(&[], Paint(true)), "");
    }

    #[test]
    fn counts_are_a_sentence() {
        let totals = Totals { held: 2, queued: 5, passed: 1, decided: 0, settled: 0, queues: 2 };
        let line = "relay orders: 2 held, 5 queued behind, 1 passed over; 2 queues stand still\n";
        assert_eq!(summary("orders", &totals, &args("")), line);
        let nothing = Totals::default();
        assert_eq!(summary("orders", &nothing, &args("")), "nothing is in the quarantine of relay orders\n");
        let narrowed = summary("orders", &nothing, &args("--topic a"));
        assert_eq!(narrowed, "nothing of this kind is in the quarantine of relay orders\n");
    }

    #[test]
    fn the_document_names_everything_and_no_value_of_the_row() {
        let entries = two();
        let document = Document { relay: "orders", entries: &entries, more: true, totals: Totals::default() };
        let json: serde_json::Value = serde_json::from_str(&output::json(&document)).unwrap();
        assert_eq!(json["entries"][0]["position"], "3/00000016B374D848/7");
        assert_eq!(json["entries"][0]["key"], "o-1");
        assert_eq!(json["entries"][0]["entered_at"], "2026-01-02T03:04:06Z");
        assert_eq!(json["entries"][1]["state"], "passed");
        assert_eq!((&json["more"], &json["totals"]["held"]), (&true.into(), &0.into()));
    }
}
