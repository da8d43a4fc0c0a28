//! `outbox-dlq show`.

use std::collections::BTreeSet;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Client;

use super::CommandError;
use super::audit::{self, Entry};
use super::choice::{BY_SOURCE, Filter, Look, absent, ambiguous, find, refused};
use super::connection::{DatabaseArgs, KafkaArgs};
use super::exit::Exit;
use super::letter::{Key, LetterRow};
use super::output::{self, clean};
use crate::dead_letters::record::Record;
use crate::dead_letters::replay::{Copy, Fetcher};

/// What `show` takes.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// The letter: the event's id, or topic/partition/offset of the source record
    letter: String,
    /// The consumer whose letter it is, where several have it
    #[arg(long)]
    scope: Option<String>,
    /// Also the record from Kafka: key, value, headers and all evidence
    #[arg(long)]
    payload: bool,
    /// Print nothing but the value's bytes
    #[arg(long, conflicts_with_all = ["payload", "json"])]
    raw: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A record that is a copy of the letter.
#[derive(Debug, Serialize)]
struct CopyRow {
    topic: String,
    partition: i32,
    offset: i64,
    time: Timestamp,
    replay: i32,
    projected_at: Timestamp,
}

#[derive(Serialize)]
struct Document<'a> {
    letter: &'a LetterRow,
    copies: &'a [CopyRow],
    audit: &'a [Entry],
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Content>,
}

/// A record for people and JSON: texts where they are such, otherwise `\x` and hex digits.
#[derive(Serialize)]
struct Content {
    key: Option<Key>,
    value: Option<Key>,
    headers: Vec<(String, Option<Key>)>,
}

/// Shows one letter.
pub async fn run(args: &ShowArgs) -> Result<Exit, CommandError> {
    let (database, fetcher) = if args.payload || args.raw {
        let (database, config) = args.database.connect_with(&args.kafka).await?;
        (database, Some(Fetcher::new(&config).map_err(CommandError::Kafka)?))
    } else {
        (args.database.connect().await?, None)
    };
    let client = &database.client;
    let letter = one(client, &args.letter, args.scope.as_deref()).await?;
    let rows = copy_rows(client, &letter).await?;
    let record = match &fetcher {
        None => None,
        Some(fetcher) => Some(fetcher.fetch(&letter.letter, &places(&rows)).await?),
    };
    if args.raw {
        let value = record.and_then(|record| record.value);
        return Ok(output::print_bytes(&value.unwrap_or_default()));
    }
    let asked = (Some(letter.letter.as_str()), Some(letter.scope.as_str()), None, None);
    let decisions = audit::entries(client, asked, 1_000).await?;
    let record = record.map(Content::of);
    if args.json {
        let document = Document { letter: &letter, copies: &rows, audit: &decisions, record };
        return Ok(output::print(&output::json(&document)));
    }
    let mut page = page(&letter, &rows);
    if !decisions.is_empty() {
        page += &format!("decisions\n{}", audit::page(&decisions));
    }
    if let Some(record) = &record {
        page += &record.page();
    }
    Ok(output::print(&page))
}

/// The letter of that name.
async fn one(client: &Client, letter: &str, scope: Option<&str>) -> Result<LetterRow, CommandError> {
    let filter = Filter { scope: scope.map(str::to_owned), ..Filter::default() };
    let named = [letter.to_owned()];
    let look = Look { states: None, letters: Some(&named), order: BY_SOURCE, limit: None };
    let mut found = find(client, &filter, look).await?;
    if found.len() > 1 {
        let scopes: BTreeSet<&str> = found.iter().map(|row| row.scope.as_str()).collect();
        return Err(CommandError::Refused(ambiguous(letter, &scopes)));
    }
    found.pop().ok_or_else(|| CommandError::Refused(absent(letter)))
}

async fn copy_rows(client: &Client, letter: &LetterRow) -> Result<Vec<CopyRow>, CommandError> {
    let query = "SELECT topic, partition, record_offset, record_time, replay, projected_at
                   FROM inbox.dead_letter_copy WHERE scope = $1 AND letter = $2
                  ORDER BY replay DESC, record_time DESC, topic, partition, record_offset DESC";
    let rows = client.query(query, &[&letter.scope, &letter.letter]).await;
    let rows = rows.map_err(|source| refused("list the copies of a dead letter", source))?;
    let copy = |row: &tokio_postgres::Row| CopyRow {
        topic: row.get(0),
        partition: row.get(1),
        offset: row.get(2),
        time: row.get(3),
        replay: row.get(4),
        projected_at: row.get(5),
    };
    Ok(rows.iter().map(copy).collect())
}

fn places(rows: &[CopyRow]) -> Vec<Copy> {
    let place =
        |row: &CopyRow| Copy { topic: row.topic.clone(), partition: row.partition, offset: row.offset };
    rows.iter().map(place).collect()
}

/// Where the copies of a letter stand, the newest first: its headers tell of the last failure.
pub async fn copies(client: &Client, letter: &LetterRow) -> Result<Vec<Copy>, CommandError> {
    Ok(places(&copy_rows(client, letter).await?))
}

impl Content {
    fn of(record: Record) -> Content {
        let header = |header: crate::dead_letters::Header| (header.name, header.value.map(Key));
        Content {
            key: record.key.map(Key),
            value: record.value.map(Key),
            headers: record.headers.into_iter().map(header).collect(),
        }
    }

    fn page(&self) -> String {
        let text = |value: &Option<Key>| value.as_ref().map_or_else(|| "(null)".into(), Key::text);
        let mut page = String::from("record\n");
        for (name, value) in &self.headers {
            page += &format!("  {}: {}\n", clean(name), text(value));
        }
        page + &format!("key      {}\nvalue    {}\n", text(&self.key), text(&self.value))
    }
}

fn page(letter: &LetterRow, copies: &[CopyRow]) -> String {
    let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "-".into(), clean);
    let late = if letter.overdue { ", which has passed" } else { "" };
    let lines = [
        ("letter", clean(&letter.letter)),
        ("scope", clean(&letter.scope)),
        ("state", letter.state.clone()),
        ("owner", format!("{}, until {}{late}", clean(&letter.owner), letter.deadline)),
        ("cause", clean(&letter.cause)),
        ("error", clean(&letter.error)),
        (
            "attempts",
            format!("{}, from {} to {}", letter.attempts, letter.first_failed_at, letter.last_failed_at),
        ),
        (
            "event",
            format!(
                "{} {}",
                optional(&letter.event_type),
                letter.id.map_or("without id".into(), |id| id.to_string())
            ),
        ),
        ("handler", optional(&letter.handler)),
        ("source", letter.source()),
        ("key", letter.key_text()),
        ("replays", letter.replay.to_string()),
        ("note", optional(&letter.note)),
    ];
    let mut page: String = lines.iter().map(|(name, text)| format!("{name:<9}{text}\n")).collect();
    page += "copies\n";
    for copy in copies {
        let replay = if copy.replay > 0 { format!(", of replay {}", copy.replay) } else { String::new() };
        page +=
            &format!("  {}/{}/{}  {}{replay}\n", clean(&copy.topic), copy.partition, copy.offset, copy.time);
    }
    page
}
