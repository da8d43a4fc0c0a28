//! `outbox-dlq causes`.

use clap::Args;
use serde::Serialize;

use super::CommandError;
use super::choice::{CONDITION, Filter, STATES, WAITING, refused};
use super::connection::DatabaseArgs;
use super::exit::Exit;
use super::output::{self, Paint, count, short};
use super::table::table;

/// What `causes` takes.
#[derive(Debug, Args)]
pub struct CausesArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    filter: Filter,
    /// Letters in every state, not only those that wait for a decision
    #[arg(long)]
    all: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The letters of one cause.
#[derive(Debug, Serialize)]
struct Cause {
    cause: String,
    scope: String,
    owner: String,
    letters: i64,
    keys: i64,
    overdue: i64,
    oldest_seconds: f64,
    example: String,
}

#[derive(Serialize)]
struct Document<'a> {
    causes: &'a [Cause],
}

/// Groups by cause, the largest group first.
pub async fn run(args: &CausesArgs) -> Result<Exit, CommandError> {
    let database = args.database.connect().await?;
    let filter = &args.filter;
    let key = filter.key.as_ref().map(|key| key.0.as_slice());
    let states = if args.all { &STATES[..] } else { &WAITING[..] };
    let query = format!(
        "SELECT cause, scope, owner, count(*), count(DISTINCT (source_topic, key)),
                count(*) FILTER (WHERE deadline < clock_timestamp() AND state IN ('open', 'restored')),
                extract(epoch FROM clock_timestamp() - min(first_failed_at))::float8,
                (array_agg(error ORDER BY last_failed_at DESC))[1]
           FROM inbox.dead_letters WHERE {CONDITION}
          GROUP BY cause, scope, owner ORDER BY count(*) DESC, cause, scope, owner"
    );
    let nothing: Option<&[String]> = None;
    let rows = database
        .client
        .query(
            &query,
            &[
                &filter.scope,
                &filter.topic,
                &filter.cause,
                &filter.error,
                &filter.since,
                &filter.until,
                &key,
                &states,
                &nothing,
            ],
        )
        .await
        .map_err(|source| refused("group dead letters by cause", source))?;
    let causes: Vec<Cause> = rows
        .iter()
        .map(|row| Cause {
            cause: row.get(0),
            scope: row.get(1),
            owner: row.get(2),
            letters: row.get(3),
            keys: row.get(4),
            overdue: row.get(5),
            oldest_seconds: row.get(6),
            example: row.get(7),
        })
        .collect();
    if args.json {
        return Ok(output::print(&output::json(&Document { causes: &causes })));
    }
    Ok(output::print(&page(&causes, Paint::of_stdout())))
}

fn page(causes: &[Cause], paint: Paint) -> String {
    const HEAD: [&str; 8] = ["CAUSE", "LETTERS", "KEYS", "OVERDUE", "OLDEST", "SCOPE", "OWNER", "LAST ERROR"];
    let cells = |cause: &Cause| {
        [
            short(&cause.cause, 40),
            cause.letters.to_string(),
            cause.keys.to_string(),
            cause.overdue.to_string(),
            output::duration(cause.oldest_seconds),
            output::clean(&cause.scope),
            short(&cause.owner, 30),
            short(&cause.example, 60),
        ]
    };
    let rows: Vec<[String; 8]> = causes.iter().map(cells).collect();
    let colour = |at: usize| if causes[at].overdue > 0 { "31;1" } else { "" };
    let all: i64 = causes.iter().map(|cause| cause.letters).sum();
    table(HEAD, &rows, paint, Some((3, &colour)))
        + &format!(
            "{} of {}\n",
            count(usize::try_from(all).unwrap_or(0), "dead letter"),
            count(causes.len(), "cause")
        )
}
