//! `outbox-dlq audit`.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::CommandError;
use super::choice::{refused, time};
use super::connection::DatabaseArgs;
use super::exit::Exit;
use super::letter::Key;
use super::output::{self, Paint, clean, count};
use super::table::table;

/// What `audit` takes.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Decisions about this letter
    letter: Option<String>,
    /// Decisions about this consumer
    #[arg(long)]
    scope: Option<String>,
    /// Decisions at or after this time: 2026-01-02T03:04:05Z, or 2h, 7d ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Decisions before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Most decisions that are listed, the latest ones
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..1_000_000))]
    limit: i64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A decision.
#[derive(Debug, Serialize)]
pub struct Entry {
    number: i64,
    at: Timestamp,
    who: String,
    action: String,
    scope: String,
    letter: Option<String>,
    topic: Option<String>,
    key: Option<Key>,
    reason: String,
}

#[derive(Serialize)]
struct Document<'a> {
    decisions: &'a [Entry],
}

/// Lists decisions, the latest last.
pub async fn run(args: &AuditArgs) -> Result<Exit, CommandError> {
    let database = args.database.connect().await?;
    let asked = (args.letter.as_deref(), args.scope.as_deref(), args.since, args.until);
    let entries = entries(&database.client, asked, args.limit).await?;
    if args.json {
        return Ok(output::print(&output::json(&Document { decisions: &entries })));
    }
    Ok(output::print(&(page(&entries) + &format!("{}\n", count(entries.len(), "decision")))))
}

/// The decisions about a letter, a scope, a time.
pub async fn entries(
    client: &tokio_postgres::Client,
    (letter, scope, since, until): (Option<&str>, Option<&str>, Option<Timestamp>, Option<Timestamp>),
    limit: i64,
) -> Result<Vec<Entry>, CommandError> {
    let query = "
        SELECT * FROM (
            SELECT number, at, who, action, scope, letter, topic, key, reason FROM inbox.audit
             WHERE ($1::text IS NULL OR letter = $1) AND ($2::text IS NULL OR scope = $2)
               AND ($3::timestamptz IS NULL OR at >= $3) AND ($4::timestamptz IS NULL OR at < $4)
             ORDER BY number DESC LIMIT $5) AS latest
         ORDER BY number";
    let rows = client.query(query, &[&letter, &scope, &since, &until, &limit]).await;
    let rows = rows.map_err(|source| refused("list decisions", source))?;
    let entry = |row: &tokio_postgres::Row| Entry {
        number: row.get(0),
        at: row.get(1),
        who: row.get(2),
        action: row.get(3),
        scope: row.get(4),
        letter: row.get(5),
        topic: row.get(6),
        key: row.get::<_, Option<Vec<u8>>>(7).map(Key),
        reason: row.get(8),
    };
    Ok(rows.iter().map(entry).collect())
}

/// Decisions as a table.
pub fn page(entries: &[Entry]) -> String {
    let what = |entry: &Entry| match (&entry.letter, &entry.topic, &entry.key) {
        (Some(letter), ..) => clean(letter),
        (None, Some(topic), Some(key)) => format!("key {} of {}", key.text(), clean(topic)),
        (None, ..) => "-".into(),
    };
    let cells = |entry: &Entry| {
        [
            entry.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            clean(&entry.who),
            entry.action.clone(),
            clean(&entry.scope),
            what(entry),
            clean(&entry.reason),
        ]
    };
    let rows: Vec<[String; 6]> = entries.iter().map(cells).collect();
    table(["AT", "WHO", "ACTION", "SCOPE", "ABOUT", "REASON"], &rows, Paint::of_stdout(), None)
}
