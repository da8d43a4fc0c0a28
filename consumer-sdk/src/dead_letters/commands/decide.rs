//! `outbox-dlq discard` and `outbox-dlq restore`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::CommandError;
use super::choice::{Choice, WAITING, chosen};
use super::connection::{DatabaseArgs, signed};
use super::exit::Exit;
use super::fate::{self, Fate};
use super::letter::LetterRow;
use super::output::{self, clean, count};
use crate::dead_letters::replay::sentence;

/// Which letters, and why.
#[derive(Debug, Args)]
struct DecideArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    choice: Choice,
    /// Why; stands in the audit from then on
    #[arg(long, required_unless_present = "dry_run", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Say what would be decided, and decide nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What `discard` takes.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    args: DecideArgs,
}

/// What `restore` takes.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    args: DecideArgs,
}

/// Gives letters up.
pub async fn discard(args: &DiscardArgs) -> Result<Exit, CommandError> {
    decide(&args.args, "discard", &WAITING).await
}

/// Takes that back.
pub async fn restore(args: &RestoreArgs) -> Result<Exit, CommandError> {
    decide(&args.args, "restore", &["discarded"]).await
}

/// Each letter by itself: one that cannot be decided on is told, and keeps no other from it.
async fn decide(args: &DecideArgs, decision: &str, states: &[&str]) -> Result<Exit, CommandError> {
    let database = args.database.connect().await?;
    let (letters, mut failed) = chosen(&database.client, &args.choice, states).await?;
    if failed {
        return Ok(Exit::Failure);
    }
    if letters.is_empty() {
        return Err(CommandError::Refused(format!("no dead letter of these is {}", states.join(" or "))));
    }
    if args.dry_run && args.json {
        let would = |letter: &LetterRow| Fate::of_letter(letter, format!("would_{decision}"));
        let fates: Vec<Fate> = letters.iter().map(would).collect();
        return Ok(output::print(&fate::document(false, &fates)));
    }
    if args.dry_run {
        let lines: Vec<String> =
            letters.iter().map(|letter| format!("would {decision}  {}\n", line(letter))).collect();
        let total =
            format!("would {decision} {}; nothing was changed\n", count(letters.len(), "dead letter"));
        return Ok(output::print(&(lines.concat() + &total)));
    }
    let reason = signed(args.reason.as_deref().unwrap_or_default());
    // discarded, restored
    let past = format!("{}ed", decision.trim_end_matches('e'));
    let say = |line: String| {
        if !args.json {
            output::print(&line);
        }
    };
    let (mut fates, mut done) = (Vec::new(), 0);
    for letter in &letters {
        let call = "SELECT inbox.decide_letter($1, $2, $3, $4)";
        match database.client.execute(call, &[&letter.scope, &letter.letter, &decision, &reason]).await {
            Ok(_) => {
                done += 1;
                say(format!("{past}  {}\n", line(letter)));
                fates.push(Fate::of_letter(letter, past.as_str()));
            }
            Err(error) => match error.as_db_error() {
                Some(said) if ["22023", "IB002", "IB003"].contains(&said.code().code()) => {
                    let said = sentence(said.message());
                    output::complain(&said);
                    fates.push(Fate::of_letter(letter, "refused").because(said));
                    failed = true;
                }
                Some(_) | None => {
                    return Err(super::choice::refused("take the decision", error));
                }
            },
        }
    }
    if args.json {
        output::print(&fate::document(true, &fates));
    }
    say(format!("{past} {} as {}\n", count(done, "dead letter"), database.role));
    Ok(Exit::failed_if(failed))
}

/// A letter in one line.
pub fn line(letter: &LetterRow) -> String {
    format!(
        "{}  {} of {}, key {}",
        clean(&letter.letter),
        clean(&letter.cause),
        clean(&letter.scope),
        letter.key_text()
    )
}
