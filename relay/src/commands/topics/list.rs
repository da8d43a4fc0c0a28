//! `outbox-relay topics list`: the pins of the state record beside what the cluster shows.

use std::collections::HashMap;
use std::num::NonZeroU32;

use clap::Args;
use serde::Serialize;

use super::LIMIT;
use crate::commands::{Exit, OneLane, output};
use crate::config::Settings;
use crate::router::topics::cluster::{Cluster, Look};
use crate::router::topics::limits::{Facts, in_words};
use crate::state::{StateRecord, peek};

const EXAMPLES: &str = "\
Examples:
  outbox-relay topics list
  outbox-relay topics list --json

Reads the state record on Kafka; a running relay is not disturbed, and none has to run.";

/// What `topics list` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) place: OneLane,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
struct List {
    /// The relay's name.
    relay: String,
    /// When the state record was written; `null` where there is none.
    recorded_at: Option<jiff::Timestamp>,
    /// Topics with a pin, by name.
    topics: Vec<Topic>,
}

/// One topic.
#[derive(Debug, Serialize)]
struct Topic {
    /// Its name.
    topic: String,
    /// Partitions that its keys are spread over.
    pinned: u32,
    /// Partitions that the cluster shows; `null` where it shows no topic.
    found: Option<u32>,
    /// Replicas of the partition that has fewest.
    replicas: Option<usize>,
    /// How it is set up.
    #[serde(flatten)]
    facts: Facts,
    /// What does not fit, in words.
    note: Option<String>,
}

/// Prints the list.
pub fn list(settings: Settings, json: bool) -> anyhow::Result<Exit> {
    let record = peek(&settings, settings.lane.number, LIMIT)?;
    let list = gather(&settings, record)?;
    let page = if json { format!("{}\n", serde_json::to_string_pretty(&list)?) } else { table(&list) };
    Ok(output::print(&page))
}

fn gather(settings: &Settings, record: Option<StateRecord>) -> anyhow::Result<List> {
    let recorded_at = record.as_ref().map(|record| record.written_at);
    let pins = record.map(|record| record.partitions).unwrap_or_default();
    let names: Vec<String> = pins.keys().cloned().collect();
    let cluster = Cluster::new(&settings.kafka)?;
    let looks: HashMap<String, Look> = cluster.look_at_all(&names)?.into_iter().collect();
    let there: Vec<String> =
        names.into_iter().filter(|name| matches!(looks.get(name), Some(Look::There(_)))).collect();
    let mut facts: HashMap<String, Facts> = cluster.describe(&there)?.into_iter().collect();
    let topics = pins.into_iter().map(|(topic, pinned)| {
        let facts = facts.remove(&topic).unwrap_or_default();
        one(topic.clone(), pinned, looks.get(&topic).copied(), facts)
    });
    Ok(List { relay: settings.name.clone(), recorded_at, topics: topics.collect() })
}

fn one(topic: String, pinned: u32, look: Option<Look>, facts: Facts) -> Topic {
    let shape = match look {
        Some(Look::There(shape)) => Some(shape),
        Some(Look::Missing | Look::Illegal | Look::Unauthorized) | None => None,
    };
    let found = shape.map(|shape| NonZeroU32::get(shape.partitions));
    let note = match (look, found) {
        (Some(Look::Missing), _) => Some("does not exist".to_owned()),
        (Some(Look::Illegal), _) => Some("no legal name".to_owned()),
        (Some(Look::Unauthorized), _) => Some("may not be seen".to_owned()),
        (_, Some(found)) if found > pinned => Some("has grown".to_owned()),
        (_, Some(found)) if found < pinned => Some("was made anew with fewer partitions".to_owned()),
        (Some(Look::There(_)), _) => None,
        (None, _) => Some("the cluster did not say".to_owned()),
    };
    Topic { topic, pinned, found, replicas: shape.map(|shape| shape.replicas), facts, note }
}

/// The list for people.
fn table(list: &List) -> String {
    if list.topics.is_empty() {
        return format!("relay {} has published to no topic yet\n", list.relay);
    }
    let mut rows = vec![
        ["topic", "pinned", "found", "replicas", "in sync", "max message", "retention", ""]
            .map(str::to_owned),
    ];
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".into());
    rows.extend(list.topics.iter().map(|topic| {
        let facts = &topic.facts;
        let retention = facts.retention_ms.map(|millis| match facts.cleanup_policy.as_deref() {
            Some("compact") => "compacted".into(),
            _ if millis < 0 => "for ever".into(),
            _ => in_words(millis),
        });
        [
            topic.topic.clone(),
            topic.pinned.to_string(),
            or_unknown(topic.found.map(|found| found.to_string())),
            or_unknown(topic.replicas.map(|replicas| replicas.to_string())),
            or_unknown(facts.min_insync_replicas.map(|count| count.to_string())),
            or_unknown(facts.max_message_bytes.map(|bytes| bytes.to_string())),
            or_unknown(retention),
            topic.note.clone().unwrap_or_default(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::topics::cluster::Shape;

    fn there(partitions: u32) -> Option<Look> {
        let partitions = NonZeroU32::new(partitions).unwrap();
        Some(Look::There(Shape { partitions, replicas: 3, led: true }))
    }

    #[test]
    fn what_does_not_fit_is_noted() {
        let note = |look| one("t".into(), 12, look, Facts::default()).note;
        assert_eq!(note(there(12)), None);
        assert_eq!(note(there(24)).as_deref(), Some("has grown"));
        assert!(note(there(6)).unwrap().contains("fewer"));
        assert_eq!(note(Some(Look::Missing)).as_deref(), Some("does not exist"));
        assert!(note(None).is_some());
    }

    #[test]
    fn the_table_is_aligned_and_says_what_is_not_known() {
        let facts = Facts {
            max_message_bytes: Some(1_048_588),
            retention_ms: Some(604_800_000),
            cleanup_policy: Some("delete".into()),
            min_insync_replicas: Some(2),
            ..Facts::default()
        };
        let topics = vec![
            one("outbox.event.order".into(), 12, there(24), facts),
            one("t".into(), 3, Some(Look::Missing), Facts::default()),
        ];
        let list = List { relay: "orders".into(), recorded_at: None, topics };
        let expected = "\
topic               pinned  found  replicas  in sync  max message  retention
outbox.event.order  12      24     3         2        1048588      7 d        has grown
t                   3       ?      ?         ?        ?            ?          does not exist
";
        assert_eq!(table(&list), expected);
        let none = List { relay: "orders".into(), recorded_at: None, topics: Vec::new() };
        assert!(table(&none).contains("no topic yet"));
        let json = serde_json::to_value(&list).unwrap();
        assert_eq!(json["topics"][0]["found"], 24);
        assert_eq!(json["topics"][0]["retention_ms"], 604_800_000);
        assert_eq!(json["topics"][1]["found"], serde_json::Value::Null);
    }
}
