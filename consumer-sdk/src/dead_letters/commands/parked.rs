//! `outbox-dlq parked`: keys whose first open event failed, and what stands behind it.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::CommandError;
use super::choice::refused;
use super::connection::DatabaseArgs;
use super::exit::Exit;
use super::letter::Key;
use super::output::{self, Paint, clean, count, short};
use super::table::table;

/// What keys have in common. All that is given has to hold.
#[derive(Debug, Clone, Args)]
pub struct KeyFilter {
    /// Keys of this consumer
    #[arg(long)]
    pub scope: Option<String>,
    /// Keys of this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// This key: text, or \x and hex digits
    #[arg(long, value_parser = Key::read)]
    pub key: Option<Key>,
    /// Keys whose last error has this text in it, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
}

impl KeyFilter {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.scope.is_none() && self.topic.is_none() && self.key.is_none() && self.error.is_none()
    }
}

/// What `parked` takes.
#[derive(Debug, Args)]
pub struct ParkedArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    filter: KeyFilter,
    /// Only keys that are held
    #[arg(long)]
    held: bool,
    /// Most keys that are listed
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..1_000_000))]
    limit: i64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A parked key.
#[derive(Debug, Serialize)]
pub struct KeyRow {
    /// The consumer.
    pub scope: String,
    /// The topic whose key it is.
    pub topic: String,
    /// The key.
    pub key: Key,
    /// waiting or held.
    pub state: String,
    /// Why it is held: hold, halt, operator.
    pub held_by: Option<String>,
    /// How often its first event was tried.
    pub attempts: i32,
    /// The delay of the ladder that it waits out.
    pub rung: i32,
    /// When its first event may run again.
    pub due: Timestamp,
    /// Events, the first included.
    pub events: i32,
    /// Their size.
    pub bytes: i64,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// First failure of its first event.
    pub first_failed_at: Timestamp,
    /// Last failure.
    pub last_failed_at: Timestamp,
    /// What the last attempt said.
    pub error: String,
    /// Id of its first event.
    pub event: Option<Uuid>,
    /// How long ago that failed first, by the server's clock.
    pub age_seconds: f64,
    /// How long until it is due; negative where that has passed.
    pub due_in_seconds: f64,
}

#[derive(Serialize)]
struct Document<'a> {
    keys: &'a [KeyRow],
    more: bool,
}

/// Lists, what is held and what is oldest first.
pub async fn run(args: &ParkedArgs) -> Result<Exit, CommandError> {
    let database = args.database.connect().await?;
    let state = args.held.then_some("held");
    let mut keys = find(&database.client, &args.filter, state, Some(args.limit + 1)).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = keys.len() > most;
    keys.truncate(most);
    if args.json {
        return Ok(output::print(&output::json(&Document { keys: &keys, more })));
    }
    let more =
        if more { format!("… there are more; --limit shows more than {most}\n") } else { String::new() };
    Ok(output::print(&(page(&keys, Paint::of_stdout()) + &more + &total(&keys))))
}

/// The keys of a filter, in this state or any.
pub async fn find(
    client: &Client,
    filter: &KeyFilter,
    state: Option<&str>,
    limit: Option<i64>,
) -> Result<Vec<KeyRow>, CommandError> {
    let query = "
        SELECT k.scope, k.topic, k.key, k.state, k.held_by, k.attempts, k.rung, k.due, k.waiting, k.bytes, k.parked_at,
               k.first_failed_at, k.last_failed_at, k.last_error,
               (SELECT e.id FROM inbox.parked_event AS e
                 WHERE e.scope = k.scope AND e.topic = k.topic AND e.key = k.key ORDER BY e.seq LIMIT 1),
               extract(epoch FROM clock_timestamp() - k.first_failed_at)::float8,
               extract(epoch FROM k.due - clock_timestamp())::float8
          FROM inbox.parked_key AS k
         WHERE ($1::text IS NULL OR k.scope = $1) AND ($2::text IS NULL OR k.topic = $2)
           AND ($3::bytea IS NULL OR k.key = inbox.order_key($3))
           AND ($4::text IS NULL OR position(lower($4) IN lower(k.last_error)) > 0)
           AND ($5::text IS NULL OR k.state = $5)
         ORDER BY k.state, k.first_failed_at, k.scope, k.topic, k.key LIMIT $6";
    let key = filter.key.as_ref().map(|key| key.0.as_slice());
    let rows =
        client.query(query, &[&filter.scope, &filter.topic, &key, &filter.error, &state, &limit]).await;
    let rows = rows.map_err(|source| refused("list parked keys", source))?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> KeyRow {
    KeyRow {
        scope: row.get(0),
        topic: row.get(1),
        key: Key(row.get(2)),
        state: row.get(3),
        held_by: row.get(4),
        attempts: row.get(5),
        rung: row.get(6),
        due: row.get(7),
        events: row.get(8),
        bytes: row.get(9),
        parked_at: row.get(10),
        first_failed_at: row.get(11),
        last_failed_at: row.get(12),
        error: row.get(13),
        event: row.get(14),
        age_seconds: row.get(15),
        due_in_seconds: row.get(16),
    }
}

impl KeyRow {
    /// The key in one line.
    pub fn line(&self) -> String {
        let events = count(usize::try_from(self.events).unwrap_or(0), "event");
        format!("{}  {} of {}, {events}", self.key.text(), clean(&self.topic), clean(&self.scope))
    }

    fn cells(&self) -> [String; 9] {
        let (state, due) = match &self.held_by {
            Some(by) => (format!("held by {by}"), "-".to_owned()),
            None if self.due_in_seconds > 0.0 => {
                (self.state.clone(), format!("in {}", output::duration(self.due_in_seconds)))
            }
            None => (self.state.clone(), "now".to_owned()),
        };
        [
            short(&self.key.text(), 40),
            clean(&self.topic),
            clean(&self.scope),
            state,
            due,
            self.events.to_string(),
            self.attempts.to_string(),
            output::duration(self.age_seconds),
            short(&self.error, 60),
        ]
    }
}

fn page(keys: &[KeyRow], paint: Paint) -> String {
    const HEAD: [&str; 9] =
        ["KEY", "TOPIC", "SCOPE", "STATE", "DUE", "EVENTS", "ATTEMPTS", "AGE", "LAST ERROR"];
    let rows: Vec<[String; 9]> = keys.iter().map(KeyRow::cells).collect();
    let colour = |at: usize| if keys[at].held_by.is_some() { "31" } else { "" };
    table(HEAD, &rows, paint, Some((3, &colour)))
}

fn total(keys: &[KeyRow]) -> String {
    let held = keys.iter().filter(|key| key.held_by.is_some()).count();
    let held = if held == 0 { String::new() } else { format!(", {held} held") };
    format!("{}{held}\n", count(keys.len(), "parked key"))
}
