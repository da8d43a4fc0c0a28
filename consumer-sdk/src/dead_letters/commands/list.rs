//! `outbox-dlq list`.

use clap::Args;
use serde::Serialize;

use super::CommandError;
use super::choice::{BY_DEADLINE, Filter, Look, WAITING, find, states};
use super::connection::DatabaseArgs;
use super::exit::Exit;
use super::letter::{LetterRow, colour};
use super::output::{self, Paint, clean, count, short};
use super::table::table;

/// What `list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    filter: Filter,
    /// Letters in this state; repeatable [default: open and restored, which wait for a decision]
    #[arg(long, value_parser = states(), conflicts_with = "all")]
    state: Vec<String>,
    /// Letters in every state
    #[arg(long)]
    all: bool,
    /// Most letters that are listed
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..1_000_000))]
    limit: i64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    letters: &'a [LetterRow],
    more: bool,
}

/// Lists.
pub async fn run(args: &ListArgs) -> Result<Exit, CommandError> {
    let database = args.database.connect().await?;
    let named: Vec<&str> = args.state.iter().map(String::as_str).collect();
    let wanted = if named.is_empty() { &WAITING[..] } else { &named[..] };
    let states = (!args.all).then_some(wanted);
    let look = Look { states, letters: None, order: BY_DEADLINE, limit: Some(args.limit + 1) };
    let mut letters = find(&database.client, &args.filter, look).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = letters.len() > most;
    letters.truncate(most);
    if args.json {
        return Ok(output::print(&output::json(&Document { letters: &letters, more })));
    }
    Ok(output::print(&page(&letters, more, most, Paint::of_stdout())))
}

fn page(letters: &[LetterRow], more: bool, most: usize, paint: Paint) -> String {
    const HEAD: [&str; 9] = ["LETTER", "SCOPE", "STATE", "CAUSE", "AGE", "OWNER", "TOPIC", "KEY", "ERROR"];
    let rows: Vec<[String; 9]> = letters.iter().map(cells).collect();
    let of = |at: usize| colour(&letters[at].state, letters[at].overdue);
    let mut page = table(HEAD, &rows, paint, Some((2, &of)));
    if more {
        page += &format!("… there are more; --limit shows more than {most}\n");
    }
    let late = letters.iter().filter(|letter| letter.overdue).count();
    let late = if late == 0 { String::new() } else { format!(", {late} past their deadline") };
    page + &format!("{}{late}\n", count(letters.len(), "dead letter"))
}

fn cells(letter: &LetterRow) -> [String; 9] {
    [
        clean(&letter.letter),
        clean(&letter.scope),
        letter.state.clone(),
        short(&letter.cause, 30),
        output::duration(letter.age_seconds),
        short(&letter.owner, 30),
        clean(&letter.source_topic),
        short(&letter.key_text(), 40),
        short(&letter.error, 60),
    ]
}
