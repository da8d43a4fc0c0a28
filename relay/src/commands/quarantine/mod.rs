//! `outbox-relay quarantine`: looks at events that could not be published and decides what becomes of them.
//!
//! It works on the table in PostgreSQL, as the relay's own role; the relay need not run. A decision is one call
//! of `outbox.decide()`, which tells the relay through its stream.

pub(super) mod choice;
mod decide;
pub(super) mod entry;
pub(super) mod fetch;
mod list;
mod paint;
mod show;

use std::future::Future;

use clap::{Args, Subcommand};

use super::{Exit, OneLane, output};
use crate::config::Settings;
use crate::quarantine::recall::whose;
use fetch::Source;

const EXAMPLES: &str = "\
Examples:
  outbox-relay quarantine list
  outbox-relay quarantine show 3/00000016B374D848/7
  outbox-relay quarantine show 3/00000016B374D848/7 --raw > payload.json
  outbox-relay quarantine release 3/00000016B374D848/7 --note 'limit of the topic raised' --wait
  outbox-relay quarantine release --topic outbox.event.order --key o-1 --dry-run
  outbox-relay quarantine discard 01900000-0000-7000-8000-000000000001 --note 'a test event' --yes

An event that is released is published where the relay reads the decision in its stream, then
what queued behind it; one that is discarded is never published, and what queued behind it is.

Exits with 1 if something was refused, is not there, or was not settled while --wait waited.";

/// What `quarantine` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List what is open: events that wait for a decision, and how many queue behind each.
    List(list::ListArgs),
    /// Show one entry with its reason and its row.
    Show(show::ShowArgs),
    /// Publish events after all, then what queues behind them.
    Release(decide::ReleaseArgs),
    /// Never publish events; what queues behind them is published.
    Discard(decide::DiscardArgs),
}

/// Whose entries.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    one: OneLane,
}

/// Why it ended without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The runtime could not be started.
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    /// The server cannot be reached, or refuses the relay's role.
    #[error("PostgreSQL cannot be reached with source.url")]
    Connect(#[source] tokio_postgres::Error),
    /// There is no quarantine in the database.
    #[error(
        "there is no quarantine in database {database:?} (table outbox.quarantine): `outbox-relay init` makes it"
    )]
    Absent {
        /// The database.
        database: String,
    },
    /// The role may not do it.
    #[error("role {role} may not {what}: `outbox-relay init` makes it a member of outbox_relay, which may")]
    Forbidden {
        /// The role.
        role: String,
        /// What was asked.
        what: &'static str,
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
    /// What was asked for cannot be done; the sentence says why.
    #[error("{0}")]
    Refused(String),
    /// What is in the table cannot be understood.
    #[error(
        "an entry of outbox.quarantine cannot be understood: {0}; a later version of the relay may have written it"
    )]
    Strange(String),
}

/// Does what was asked for.
pub fn execute(args: QuarantineArgs) -> Exit {
    match args.what {
        What::List(args) => on_server(&args.place, async |source, _| list::run(source, &args).await),
        What::Show(args) => {
            on_server(&args.place, async |source, settings| show::run(source, settings, &args).await)
        }
        What::Release(args) => {
            on_server(&args.which.place, async |source, _| decide::release(source, &args).await)
        }
        What::Discard(args) => {
            on_server(&args.which.place, async |source, _| decide::discard(source, &args).await)
        }
    }
}

fn on_server(
    place: &Place,
    work: impl AsyncFnOnce(&Source, &Settings) -> Result<Exit, QuarantineError>,
) -> Exit {
    let settings = match place.one.load() {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    // Named or not, it is one lane's: a relay with one lane has no entries of another.
    let lane = place.one.lane.is_some().then(|| whose(&settings, settings.lane.number).lane);
    let outcome = on_runtime(async {
        let source = Source::connect(&settings, lane).await?;
        work(&source, &settings).await
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("outbox-relay quarantine: {}", output::with_causes(&error));
        Exit::Failure
    })
}

fn on_runtime<T>(work: impl Future<Output = Result<T, QuarantineError>>) -> Result<T, QuarantineError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(QuarantineError::Runtime)?.block_on(work)
}
