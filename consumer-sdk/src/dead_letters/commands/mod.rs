//! `outbox-dlq`: looks at dead letters and decides what becomes of them.
//!
//! It reads and decides in PostgreSQL, as whoever logs in there; Kafka is asked for the letters' records. No consumer
//! has to run: one that runs finds a replayed event in its park.

mod audit;
mod causes;
mod choice;
mod connection;
mod decide;
mod exit;
mod fate;
mod hold;
mod letter;
mod list;
mod output;
mod parked;
mod project;
mod replay;
mod show;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use exit::Exit;

const EXAMPLES: &str = "\
Examples:
  outbox-dlq project --group inventory
  outbox-dlq causes
  outbox-dlq list --scope inventory --cause out_of_stock --since 2h
  outbox-dlq show 01900000-0000-7000-8000-000000000001 --payload
  outbox-dlq replay --cause out_of_stock --dry-run
  outbox-dlq replay --cause out_of_stock --reason 'stock was filled' --rate 50
  outbox-dlq discard 01900000-0000-7000-8000-000000000001 --reason 'a test order'
  outbox-dlq parked --held
  outbox-dlq release --scope inventory --key o-4711 --reason 'stock was filled'
  outbox-dlq audit --since 7d

A replayed event runs in the scope where it failed and in the order of its key: it waits in the
park of that scope, and later events of the key wait behind it. Nothing is published.";

#[derive(Debug, Parser)]
#[command(
    name = "outbox-dlq",
    version,
    about = "Dead letters: looks at them and decides what becomes of them"
)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
struct Line {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read dead-letter topics into PostgreSQL, until all is read or for as long as it runs.
    Project(project::ProjectArgs),
    /// List letters that wait for a decision, or others.
    List(list::ListArgs),
    /// Group letters by their cause, with counts, the oldest and the owner.
    Causes(causes::CausesArgs),
    /// Show one letter with its copies and everything that was decided.
    Show(show::ShowArgs),
    /// Run events again, in the order of their keys.
    Replay(replay::ReplayArgs),
    /// Give letters up.
    Discard(decide::DiscardArgs),
    /// Take back that letters were given up.
    Restore(decide::RestoreArgs),
    /// List parked keys: what waits in order, and what is held.
    Parked(parked::ParkedArgs),
    /// Hold parked keys: nothing of them runs until they are released.
    Hold(hold::HoldArgs),
    /// Let held keys run again, each from its first event.
    Release(hold::ReleaseArgs),
    /// Say who decided what, when and why.
    Audit(audit::AuditArgs),
}

/// Why it ended without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The settings of a connection are none; a sentence for each mistake says which and what to do.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// PostgreSQL cannot be reached, or one side refuses the other.
    #[error(transparent)]
    Connect(#[from] outbox_postgres_link::LinkError),
    /// There is no inbox.
    #[error(
        "there is no inbox in database {database:?} (schema inbox): use the database that the consumer's handlers write \
         to, or install the inbox there (outbox-schema/sql/inbox)"
    )]
    Absent {
        /// The database.
        database: String,
    },
    /// The role may not do it.
    #[error("role {role} may not do that: a member of outbox_consumer may (GRANT outbox_consumer TO {role})")]
    Forbidden {
        /// The role.
        role: String,
    },
    /// A question failed.
    #[error("PostgreSQL did not {what}")]
    Ask {
        /// What was asked.
        what: &'static str,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Kafka cannot be asked.
    #[error("the Kafka client cannot be made of these settings")]
    Kafka(#[source] rdkafka::error::KafkaError),
    /// Reading dead-letter topics failed.
    #[error(transparent)]
    Projection(#[from] super::projection::ProjectionError),
    /// A record cannot be had.
    #[error(transparent)]
    Fetch(#[from] super::replay::FetchError),
    /// A replay failed for a reason that stops the others, too.
    #[error(transparent)]
    Replay(#[from] super::replay::ReplayError),
    /// What was asked for cannot be done; the sentence says why.
    #[error("{0}")]
    Refused(String),
    /// The runtime could not be started.
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
}

/// The whole program.
pub fn main() -> ExitCode {
    let line = Line::parse();
    warn_on_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(CommandError::Runtime).and_then(|runtime| {
        let outcome = runtime.block_on(execute(line.what));
        // A question to a broker that is away must not hold the end back.
        runtime.shutdown_background();
        outcome
    });
    outcome.unwrap_or_else(failed).into()
}

/// Says why, each mistake in the settings on a line of its own.
fn failed(error: CommandError) -> Exit {
    if let CommandError::Settings(mistakes) = &error {
        mistakes.iter().for_each(|mistake| output::complain(mistake));
        return Exit::Configuration;
    }
    output::complain(&output::with_causes(&error));
    Exit::Failure
}

/// What is waited for is said where nobody pipes it; `RUST_LOG` says more, or less.
fn warn_on_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

async fn execute(what: What) -> Result<Exit, CommandError> {
    match what {
        What::Project(args) => project::run(&args).await,
        What::List(args) => list::run(&args).await,
        What::Causes(args) => causes::run(&args).await,
        What::Show(args) => show::run(&args).await,
        What::Replay(args) => replay::run(&args).await,
        What::Discard(args) => decide::discard(&args).await,
        What::Restore(args) => decide::restore(&args).await,
        What::Parked(args) => parked::run(&args).await,
        What::Hold(args) => hold::hold(&args).await,
        What::Release(args) => hold::release(&args).await,
        What::Audit(args) => audit::run(&args).await,
    }
}
