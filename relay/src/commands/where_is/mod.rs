//! `outbox-relay where`: where an event is, as far as the table, the state record, the quarantine and Kafka tell.
//!
//! | file | what it looks at |
//! |---|---|
//! | `table` | the row, and what record the routing of now makes of it |
//! | `stand` | whether it is published, by what the relay remembers; pure |
//! | `kafka` | the topic's partition itself, with `--on-kafka` |

mod kafka;
mod stand;
mod table;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::quarantine::QuarantineError;
use super::quarantine::choice::Choice;
use super::quarantine::entry::{Entry, Key};
use super::quarantine::fetch::Source;
use super::{Exit, OneLane, outlook, output, plan, runtime};
use crate::config::Settings;
use crate::session::{Sql, lane_name};
use kafka::Search;
use stand::{Memory, Stand};
use table::Row;

const EXAMPLES: &str = "\
Examples:
  outbox-relay where 019aa3d1-2c5b-7000-8000-000000000001
  outbox-relay where 019aa3d1-2c5b-7000-8000-000000000001 --on-kafka
  outbox-relay where 019aa3d1-2c5b-7000-8000-000000000001 --on-kafka --topic outbox.event.order --key o-1 \\
      --since 2026-11-22T10:00:00Z      # of an event that stands in no table (any more)

It changes nothing, and may run beside a running relay. Exits with 0 if the event was found, with 6 if it was not,
with 1 if that cannot be told.";

/// What is asked of PostgreSQL and of the state record, without the search on Kafka.
const LIMIT: Duration = Duration::from_secs(60);

/// What `where` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WhereArgs {
    #[command(flatten)]
    place: OneLane,
    /// The event's id
    #[arg(value_name = "EVENT-ID")]
    id: String,
    /// Look for it on Kafka, too, by its header `id`
    #[arg(long)]
    on_kafka: bool,
    /// The topic to look on, where neither table nor quarantine say it
    #[arg(long, requires = "on_kafka")]
    topic: Option<String>,
    /// The key of the record, so that one partition is enough
    #[arg(long, requires = "on_kafka")]
    key: Option<Key>,
    /// Look at records from this time on [default: a minute before the event was made, else a day ago]
    #[arg(long, requires = "on_kafka", value_name = "TIME")]
    since: Option<Timestamp>,
    /// Seconds that the search on Kafka may take
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Everything that is known.
#[derive(Debug, Serialize)]
struct Answer {
    relay: String,
    event_id: String,
    /// Rows of the table with this id; `None` where events stand in no table.
    table: Option<Vec<Found>>,
    /// Entries of the quarantine with this id.
    quarantine: Vec<Entry>,
    /// What the search on Kafka brought.
    kafka: Option<Search>,
}

/// A row, and where it stands.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    row: Row,
    stand: Stand,
    sentence: String,
}

/// Looks and prints.
pub fn execute(args: WhereArgs) -> Exit {
    let settings = match args.place.load() {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    match on_runtime(settings, &args) {
        Ok(answer) => {
            let page = if args.json { output::json(&answer) } else { answer.text() };
            match output::print(&page) {
                Exit::Success => answer.exit(),
                exit => exit,
            }
        }
        Err(error) => {
            eprintln!("outbox-relay where: {error:#}");
            Exit::Failure
        }
    }
}

fn on_runtime(settings: Settings, args: &WhereArgs) -> anyhow::Result<Answer> {
    let runtime = runtime(1)?;
    let answer = runtime.block_on(look(Arc::new(settings), args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    answer
}

async fn look(settings: Arc<Settings>, args: &WhereArgs) -> anyhow::Result<Answer> {
    let looking = tokio::time::timeout(LIMIT, sources(&settings, args));
    let (settings, mut answer, pinned) = looking
        .await
        .unwrap_or_else(|_| anyhow::bail!("PostgreSQL and Kafka did not answer within {LIMIT:?}"))?;
    if args.on_kafka {
        let wanted = wanted(&answer, args, &pinned)?;
        let limit = Duration::from_secs(args.timeout);
        let id = args.id.clone();
        let search = tokio::task::spawn_blocking(move || kafka::search(&settings, &id, wanted, limit));
        answer.kafka = Some(search.await??);
    }
    Ok(answer)
}

type Pins = std::collections::BTreeMap<String, u32>;

async fn sources(
    settings: &Arc<Settings>,
    args: &WhereArgs,
) -> anyhow::Result<(Arc<Settings>, Answer, Pins)> {
    let settings = Arc::new(outlook::at_primary(settings).await);
    let sql = outlook::connect(&settings, &format!("{} where", settings.name)).await?;
    let mut rows = match settings.outbox.message_prefix {
        None => Some(table::look(&settings, &args.id).await?),
        Some(_) => None,
    };
    // After the rows: what they stand for was committed before this.
    let memory = remember(&settings, &sql).await?;
    // After the memory: what that takes for settled is in the quarantine by now, if it is not published.
    let entries = quarantined(&settings, &args.id).await?;
    let pins: Pins = memory
        .record
        .as_ref()
        .map(|record| record.partitions.clone().into_iter().collect())
        .unwrap_or_default();
    let mut found = Vec::new();
    for mut row in rows.take().into_iter().flatten() {
        row.on(&pins);
        let visible = visible(&sql, &row, &memory).await?;
        let stand = stand::of(&row, &entries, visible, &memory);
        let sentence = stand::sentence(stand, &row, &memory);
        found.push(Found { row, stand, sentence });
    }
    let answer = Answer {
        relay: settings.name.clone(),
        event_id: args.id.clone(),
        table: settings.outbox.message_prefix.is_none().then_some(found),
        quarantine: entries,
        kafka: None,
    };
    Ok((settings, answer, pins))
}

/// What the relay remembers, and where the server stands.
async fn remember(settings: &Arc<Settings>, sql: &Sql) -> anyhow::Result<Memory> {
    let wal_end = sql.wal_end().await?;
    let running = sql.owned_by(&lane_name(settings, settings.lane.number)).await?.is_some();
    let system_id = sql.server().await?.system_id;
    let record = match plan::state_topic_exists(settings).await? {
        true => outlook::record(settings).await.map_err(anyhow::Error::msg)?,
        false => None,
    };
    Ok(Memory { record, system_id, wal_end, running })
}

/// Whether the row's transaction is visible in the newest published snapshot; `None` where nothing says so.
async fn visible(sql: &Sql, row: &Row, memory: &Memory) -> anyhow::Result<Option<bool>> {
    let Some(record) = memory.record.as_ref().filter(|_| memory.is_of_this_system()) else { return Ok(None) };
    let (Some(writer), Some(published)) = (&row.writer, record.ring.newest()) else { return Ok(None) };
    let statement = "SELECT pg_visible_in_snapshot($1::text::xid8, $2::text::pg_snapshot)";
    let question = "comparing with the published snapshot";
    // A snapshot of a slot may have its bounds out of order, and says little then.
    match sql.one(question, statement, &[writer, &published.snapshot]).await {
        Ok(answer) => Ok(Some(answer.get(0))),
        Err(error) => {
            tracing::debug!(%error, "the published snapshot cannot be read");
            Ok(None)
        }
    }
}

async fn quarantined(settings: &Settings, id: &str) -> anyhow::Result<Vec<Entry>> {
    let source = Source::connect(settings, None).await?;
    match source.find(&Choice::Id(id.to_owned())).await {
        Ok(entries) => Ok(entries),
        Err(QuarantineError::Absent { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Where to look on Kafka: what the command line says, else what table and quarantine say.
fn wanted(answer: &Answer, args: &WhereArgs, pins: &Pins) -> anyhow::Result<kafka::Wanted> {
    let row = answer.table.as_deref().unwrap_or_default().first().map(|found| &found.row);
    let entry = answer.quarantine.first();
    let route = row.and_then(|row| row.route.as_ref());
    let topic = args.topic.clone().or_else(|| route.map(|route| route.topic.clone()));
    let topic = topic.or_else(|| entry.and_then(|entry| entry.topic.clone()));
    let Some(topic) = topic else {
        anyhow::bail!(
            "which topic the event would be on is not known: it stands neither in a table nor in the quarantine; say --topic"
        );
    };
    let key = args.key.clone().or_else(|| route.and_then(|route| route.key.clone()));
    let key = key.or_else(|| entry.and_then(|entry| entry.key.clone()));
    let made = row.and_then(|row| row.created_at).or_else(|| entry.map(|entry| entry.committed_at));
    let since = args
        .since
        .or_else(|| made.and_then(|made| made.checked_sub(jiff::SignedDuration::from_mins(1)).ok()));
    let partitions = pins.get(&topic).copied();
    Ok(kafka::Wanted { topic, key, partitions, since })
}

impl Answer {
    fn exit(&self) -> Exit {
        let in_table = self.table.as_ref().is_some_and(|rows| !rows.is_empty());
        let on_kafka = self.kafka.as_ref().is_some_and(|search| !search.found.is_empty());
        match in_table || on_kafka || !self.quarantine.is_empty() {
            true => Exit::Success,
            false => Exit::NotFound,
        }
    }

    fn text(&self) -> String {
        let mut page = String::new();
        match self.table.as_deref() {
            None => page += "events of this relay are messages and stand in no table\n",
            Some([]) => {
                page += "it is not in the table: it was never committed, or it was published and cleaned up since\n";
            }
            Some(rows) => rows.iter().for_each(|found| page += &found.text()),
        }
        for entry in &self.quarantine {
            page += &entry_text(entry);
        }
        if self.quarantine.is_empty() && self.table.as_ref().is_none_or(Vec::is_empty) {
            page += "it is not in the quarantine\n";
        }
        if let Some(search) = &self.kafka {
            page += &search.text();
        }
        page
    }
}

impl Found {
    fn text(&self) -> String {
        let mut page = format!("{}\n", self.sentence);
        for line in self.row.lines() {
            page += &format!("  {line}\n");
        }
        page
    }
}

fn entry_text(entry: &Entry) -> String {
    let behind = if entry.behind > 0 { format!(", {} behind it", entry.behind) } else { String::new() };
    format!(
        "in the quarantine it is {} at position {} since {:.0} ({}){behind}: {}\n",
        entry.state.name(),
        entry.position,
        entry.entered_at,
        entry.cause,
        entry.reason
    )
}
