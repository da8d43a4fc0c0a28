//! `outbox-dlq hold` and `outbox-dlq release`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::CommandError;
use super::choice::refused;
use super::connection::{DatabaseArgs, signed};
use super::exit::Exit;
use super::fate::{self, Fate};
use super::output::{self, count};
use super::parked::{KeyFilter, find};
use crate::dead_letters::replay::sentence;

/// Which keys, and why.
#[derive(Debug, Args)]
struct KeyArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    filter: KeyFilter,
    /// All of them, with no filter
    #[arg(long)]
    all: bool,
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

/// What `hold` takes.
#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    args: KeyArgs,
}

/// What `release` takes.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    args: KeyArgs,
}

/// A decision on a key.
struct Decision {
    /// Its verb.
    verb: &'static str,
    /// The verb in the past.
    past: &'static str,
    /// The state in which a key can be decided on so.
    from: &'static str,
    call: &'static str,
}

/// Holds keys that wait.
pub async fn hold(args: &HoldArgs) -> Result<Exit, CommandError> {
    let call = "SELECT inbox.hold_parked_key($1, $2, $3, $4)";
    decide(&args.args, Decision { verb: "hold", past: "held", from: "waiting", call }).await
}

/// Lets keys go that are held.
pub async fn release(args: &ReleaseArgs) -> Result<Exit, CommandError> {
    let call = "SELECT inbox.release_parked_key($1, $2, $3, $4)";
    decide(&args.args, Decision { verb: "release", past: "released", from: "held", call }).await
}

/// Each key by itself: one that changed meanwhile is told, and keeps no other from it.
async fn decide(args: &KeyArgs, decision: Decision) -> Result<Exit, CommandError> {
    let Decision { verb, past, from, call } = decision;
    if args.filter.is_empty() && !args.all {
        return Err(CommandError::Refused(format!(
            "no key is named: give a filter such as --key, or --all for all that are {from}"
        )));
    }
    let database = args.database.connect().await?;
    let keys = find(&database.client, &args.filter, Some(from), None).await?;
    if keys.is_empty() {
        return Err(CommandError::Refused(format!(
            "no parked key of these is {from}; `outbox-dlq parked` shows all of them"
        )));
    }
    let say = |line: String| {
        if !args.json {
            output::print(&line);
        }
    };
    let reason = signed(args.reason.as_deref().unwrap_or_default());
    let (mut fates, mut done) = (Vec::new(), 0);
    for key in &keys {
        if args.dry_run {
            say(format!("would {verb}  {}\n", key.line()));
            fates.push(Fate::of_key(key, format!("would_{verb}")));
            continue;
        }
        let decided = database.client.execute(call, &[&key.scope, &key.topic, &key.key.0, &reason]).await;
        match decided.as_ref().map_err(|error| error.as_db_error()) {
            Ok(_) => {
                done += 1;
                say(format!("{past}  {}\n", key.line()));
                fates.push(Fate::of_key(key, past));
            }
            Err(Some(said)) if said.code().code() == "IB002" => {
                let said = sentence(said.message());
                output::complain(&said);
                fates.push(Fate::of_key(key, "refused").because(said));
            }
            Err(_) => {
                return decided.map(|_| Exit::Failure).map_err(|error| refused("take the decision", error));
            }
        }
    }
    if args.json {
        output::print(&fate::document(!args.dry_run, &fates));
    }
    if args.dry_run {
        say(format!("would {verb} {}; nothing was changed\n", count(keys.len(), "parked key")));
        return Ok(Exit::Success);
    }
    say(format!("{past} {} as {}\n", count(done, "parked key"), database.role));
    Ok(Exit::failed_if(done < keys.len()))
}
