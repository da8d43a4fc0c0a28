//! The command line: one file per command, and what they share: exit codes, logging, output, the runtime.

mod backfill;
mod check;
mod config;
mod exit;
mod forget;
mod init;
mod logging;
mod outlook;
mod output;
mod plan;
mod quarantine;
mod run;
mod status;
mod topics;
mod where_is;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};

pub use exit::Exit;

use crate::config::{Existing, Lanes, Mistakes, Overrides, Settings, load, process_environment};

/// Publishes the rows that services insert into their outbox table to Kafka, keyed by entity, in commit
/// order, none lost and none invented.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, after_help = exit::HELP, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until it is told to stop (SIGTERM drains, a second signal exits at once).
    Run(run::RunArgs),
    /// Print, or with --admin-url apply, the SQL a relay needs: table, publication, roles, slot.
    Init(init::InitArgs),
    /// Look at everything that a relay needs, and say what to do where something is not as it should be.
    Check(check::CheckArgs),
    /// Say what a start would do now, without doing it.
    Plan(plan::PlanArgs),
    /// Ask a running relay how it is.
    Status(status::StatusArgs),
    /// Show the topics, make them, or move their keys to more partitions.
    Topics(topics::TopicsArgs),
    /// Show what the relay remembers on Kafka, or with --yes forget it, to begin anew after a halt.
    Forget(forget::ForgetArgs),
    /// Look at events that could not be published, and release or discard them.
    Quarantine(quarantine::QuarantineArgs),
    /// Publish events of the table again, by time, id or key.
    Backfill(backfill::BackfillArgs),
    /// Say where an event is.
    Where(where_is::WhereArgs),
    /// Look at the configuration without starting anything.
    Config(config::ConfigArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file, .toml or .yaml [default: $OUTBOX_RELAY_CONFIG, else ./outbox-relay.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Loads the settings; with mistakes it prints them and says how to exit.
    fn load(&self, existing: Option<ExistingChoice>) -> Result<Lanes, Exit> {
        let overrides = Overrides { existing: existing.map(ExistingChoice::meaning) };
        load(self.config.as_deref(), &process_environment, overrides).map_err(report)
    }
}

/// The configuration, and which lane of it is meant.
#[derive(Debug, Args)]
struct OneLane {
    #[command(flatten)]
    file: ConfigFile,
    /// Which lane, by name or number; needed only where the relay has several
    #[arg(long, value_name = "LANE")]
    lane: Option<String>,
}

impl OneLane {
    /// Loads the settings of the lane; where it is not clear which, it says so and how to exit.
    fn load(&self) -> Result<Settings, Exit> {
        self.file.load(None)?.choose(self.lane.as_deref()).map_err(|sentence| {
            eprintln!("outbox-relay: {sentence}");
            Exit::Usage
        })
    }
}

/// Prints what is wrong with the configuration.
fn report(mistakes: Mistakes) -> Exit {
    eprintln!("{mistakes}");
    Exit::Configuration
}

/// What to do with rows that stand in the table before there is a slot.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExistingChoice {
    /// Publish them first, in the order of their insertion.
    Publish,
    /// Never publish them.
    Skip,
}

impl ExistingChoice {
    fn meaning(self) -> Existing {
        match self {
            ExistingChoice::Publish => Existing::Publish,
            ExistingChoice::Skip => Existing::Skip,
        }
    }
}

/// A runtime with so many threads of its own.
fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().context("the runtime cannot be started")
}

/// Runs the program: the command line in, the exit code out.
pub fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Run(args) => run::execute(args),
        Command::Init(args) => init::execute(args),
        Command::Check(args) => check::execute(args),
        Command::Plan(args) => plan::execute(args),
        Command::Status(args) => status::execute(args),
        Command::Topics(args) => topics::execute(args),
        Command::Forget(args) => forget::execute(args),
        Command::Quarantine(args) => quarantine::execute(args),
        Command::Backfill(args) => backfill::execute(args),
        Command::Where(args) => where_is::execute(args),
        Command::Config(args) => config::execute(args),
    };
    exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_of_the_help_are_accepted() {
        for line in [
            "outbox-relay run --config relay.toml --existing publish --no-wait",
            "outbox-relay init --admin-url postgres://postgres@localhost/orders --existing skip",
            "outbox-relay init --print",
            "outbox-relay check --json --strict --config relay.toml",
            "outbox-relay plan --existing publish --json",
            "outbox-relay status --url http://127.0.0.1:9464 --json",
            "outbox-relay topics list --json",
            "outbox-relay topics create outbox.event.order outbox.event.payment",
            "outbox-relay topics switch outbox.event.order --partitions 24 --yes --config relay.toml",
            "outbox-relay config check --config relay.yaml",
            "outbox-relay forget --yes --lane billing --config relay.toml",
            "outbox-relay topics list --lane 0",
            "outbox-relay quarantine list --lane billing",
            "outbox-relay quarantine list --all --topic t --key k --limit 5 --json",
            "outbox-relay quarantine show 3/00000016B374D848/7 --no-values",
            "outbox-relay quarantine show 3/00000016B374D848/7 --raw",
            "outbox-relay quarantine release 3/00000016B374D848/7 --note n --wait",
            "outbox-relay quarantine release --topic outbox.event.order --key o-1 --dry-run",
            "outbox-relay quarantine discard 01900000-0000-7000-8000-000000000001 --note n --yes",
            "outbox-relay config reference",
            "outbox-relay backfill --from 2026-11-22T10:00:00Z --to 2026-11-22T11:00:00Z --dry-run",
            "outbox-relay backfill --id 01900000-0000-7000-8000-000000000001 --id x --rate 20 --yes --json",
            "outbox-relay backfill --key o-1 --aggregatetype order --after 7 --no-wait",
            "outbox-relay where 01900000-0000-7000-8000-000000000001 --json",
            "outbox-relay where x --on-kafka --topic outbox.event.order --key o-1 --since 2026-11-22T10:00:00Z",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "outbox-relay",
            "outbox-relay run --existing refuse",
            "outbox-relay status --url x --config y",
            "outbox-relay backfill",
            "outbox-relay backfill --key o-1",
            "outbox-relay backfill --after 7",
            "outbox-relay backfill --id x --rate 0",
            "outbox-relay where",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
