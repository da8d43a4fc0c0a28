//! `outbox-dlq replay`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use tokio::time::{Interval, MissedTickBehavior};

use super::CommandError;
use super::choice::{Choice, WAITING, chosen};
use super::connection::{Database, DatabaseArgs, KafkaArgs, signed};
use super::decide::line;
use super::exit::Exit;
use super::fate::{self, Fate};
use super::letter::{LetterRow, waits};
use super::output::{self, Progress, count};
use super::show::copies;
use crate::dead_letters::replay::{FetchError, Fetcher, ReplayError, Wanted, park};

/// What `replay` takes.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    choice: Choice,
    /// Why; stands in the audit from then on
    #[arg(long, required_unless_present = "dry_run", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Say what would be replayed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Most letters a second [default: as fast as it goes]
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..100_000))]
    rate: Option<u32>,
    /// How often a letter may be replayed, before it is left for somebody to look at
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..1_000))]
    max_replays: i32,
    /// Print one JSON document, at the end
    #[arg(long)]
    json: bool,
}

/// Replays letter by letter. Each is one transaction, and what is replayed is no longer open: a run that was killed is
/// gone on with by the same command (C38).
pub async fn run(args: &ReplayArgs) -> Result<Exit, CommandError> {
    let (mut database, fetcher) = if args.dry_run {
        (args.database.connect().await?, None)
    } else {
        // Before anything is decided: without Kafka there is nothing to replay.
        let (database, config) = args.database.connect_with(&args.kafka).await?;
        (database, Some(Fetcher::new(&config).map_err(CommandError::Kafka)?))
    };
    let (letters, failed) = chosen(&database.client, &args.choice, &WAITING).await?;
    if failed {
        return Ok(Exit::Failure);
    }
    if letters.is_empty() {
        return Err(CommandError::Refused(
            "no dead letter of these waits for a decision; `outbox-dlq list --all` with the same filter shows what became \
             of them"
                .into(),
        ));
    }
    match fetcher {
        None if args.json => Ok(output::print(&fate::document(false, &foreseen(&letters, args.max_replays)))),
        None => Ok(foresee(&letters, args.max_replays)),
        Some(fetcher) => replay_all(&mut database, &fetcher, &letters, args).await,
    }
}

/// What would happen, by what is known of the letters.
fn foresee(letters: &[LetterRow], most: i32) -> Exit {
    let mut page = String::new();
    let (mut would, mut looping, mut other) = (0, 0, 0);
    for letter in letters {
        let verdict = if !waits(&letter.state) {
            other += 1;
            format!("is {}, not", letter.state)
        } else if letter.replay >= most {
            looping += 1;
            format!("was replayed {} times, not", letter.replay)
        } else {
            would += 1;
            format!("would be (number {})", letter.replay + 1)
        };
        page += &format!("{verdict} replayed  {}\n", line(letter));
    }
    let keys: std::collections::BTreeSet<_> =
        letters.iter().map(|letter| (&letter.scope, &letter.source_topic, letter.key_text())).collect();
    page += &format!(
        "would replay {would} of {} in {}",
        count(letters.len(), "dead letter"),
        count(keys.len(), "key")
    );
    if looping > 0 {
        page += &format!("; {looping} at the limit of --max-replays {most}");
    }
    if other > 0 {
        page += &format!("; {other} not waiting for a decision");
    }
    output::print(&(page + "; nothing was changed\n"))
}

/// The same for `--json`.
fn foreseen(letters: &[LetterRow], most: i32) -> Vec<Fate> {
    let would = |letter: &LetterRow| {
        if !waits(&letter.state) {
            Fate::of_letter(letter, "would_refuse").because(format!("it is {}", letter.state))
        } else if letter.replay >= most {
            Fate::of_letter(letter, "would_refuse").because(looping(letter))
        } else {
            Fate::of_letter(letter, "would_replay").numbered(letter.replay + 1)
        }
    };
    letters.iter().map(would).collect()
}

async fn replay_all(
    database: &mut Database,
    fetcher: &Fetcher,
    letters: &[LetterRow],
    args: &ReplayArgs,
) -> Result<Exit, CommandError> {
    let reason = signed(args.reason.as_deref().unwrap_or_default());
    let cancelled = listen();
    let mut pace = args.rate.map(pace);
    let progress = Progress::new();
    let (mut fates, mut done, mut stopped) = (Vec::new(), 0, None);
    for letter in letters {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        if cancelled.load(Ordering::Relaxed) {
            break;
        }
        let outcome = one(database, fetcher, letter, &reason, args.max_replays).await;
        progress.clear();
        match outcome {
            Ok(Ok(number)) => {
                done += 1;
                fates.push(Fate::of_letter(letter, "replayed").numbered(number));
                if !args.json {
                    output::print(&format!("replayed as number {number}  {}\n", line(letter)));
                }
            }
            Ok(Err(sentence)) => {
                output::complain(&sentence);
                fates.push(Fate::of_letter(letter, "refused").because(sentence));
            }
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
        let refused = fates.len() - done;
        progress.say(&format!("{done} of {} replayed, {refused} refused", letters.len()));
    }
    progress.clear();
    let (tried, role) = (fates.len(), database.role.as_str());
    if args.json {
        fates.extend(letters[tried..].iter().map(|letter| Fate::of_letter(letter, "left")));
        output::print(&fate::document(true, &fates));
    } else {
        let why = if stopped.is_some() { "stopped" } else { "cancelled" };
        output::print(&ending(done, tried - done, letters.len() - tried, why, role));
    }
    stopped.map_or(Ok(Exit::failed_if(done < letters.len())), Err)
}

/// The last line: what was done, and what is left to do.
fn ending(done: usize, refused: usize, left: usize, why: &str, role: &str) -> String {
    let mut end = format!("replayed {} as {role}", count(done, "dead letter"));
    if refused > 0 {
        end += &format!("; {refused} refused");
    }
    if left > 0 {
        end += &format!("; {why} with {left} left: the same command goes on with them");
    }
    end + "\n"
}

/// Why a letter that was replayed too often is not replayed again.
fn looping(letter: &LetterRow) -> String {
    ReplayError::Loop { letter: letter.letter.clone(), times: letter.replay }.to_string()
}

/// One letter: its number, or the sentence why not. What concerns all letters ends the command.
async fn one(
    database: &mut Database,
    fetcher: &Fetcher,
    letter: &LetterRow,
    reason: &str,
    most: i32,
) -> Result<Result<i32, String>, CommandError> {
    if waits(&letter.state) && letter.replay >= most {
        return Ok(Err(looping(letter)));
    }
    let copies = copies(&database.client, letter).await?;
    let record = match fetcher.fetch(&letter.letter, &copies).await {
        Ok(record) => record,
        Err(error @ FetchError::Gone { .. }) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let source = letter.source_partition.zip(letter.source_offset);
    let wanted = Wanted { scope: &letter.scope, letter: &letter.letter, source, reason, most };
    match park(&mut database.client, wanted, &record).await {
        Ok(number) => Ok(Ok(number)),
        Err(error @ (ReplayError::Refused(_) | ReplayError::Loop { .. })) => Ok(Err(error.to_string())),
        Err(error @ ReplayError::Sql(_)) => Err(error.into()),
    }
}

/// Ctrl-C ends the run after the present letter; a second one at once, which loses nothing either.
fn listen() -> Arc<AtomicBool> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cancelled);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            seen.store(true, Ordering::Relaxed);
            output::complain("ending after the present letter; Ctrl-C again ends at once");
            let _ = tokio::signal::ctrl_c().await;
            std::process::exit(1);
        }
    });
    cancelled
}

fn pace(rate: u32) -> Interval {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    // A slow moment is not made up for: the rate is a promise to the database.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
