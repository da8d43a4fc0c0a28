//! `outbox-relay init`: what a relay needs in PostgreSQL, printed as SQL or applied.
//!
//! A look at the server ([`survey`]) goes into a pure [`plan`]; the plan is printed ([`script`]) or run
//! ([`apply`]). Publication before slot, always: a slot decodes with the publications of its time. Producers
//! may insert only once there is a slot, else their first events would be rows that no slot brings.

mod apply;
mod plan;
mod script;
pub(super) mod survey;
#[cfg(test)]
mod tests;

use clap::Args;
use outbox_postgres_link::url::ParsedUrl;
use outbox_postgres_link::{Program, tls};

use super::{ConfigFile, ExistingChoice, Exit, output};
use crate::config::{ADMIN_URL_VARIABLE, Lanes, Settings};
use plan::Plan;
use survey::Survey;

const EXAMPLES: &str = "\
Examples:
  outbox-relay init > init.sql                # the SQL for an empty database, to read and run by hand:
  psql -v ON_ERROR_STOP=1 -f init.sql orders
  outbox-relay init --admin-url postgres://postgres@localhost/orders
  outbox-relay init --admin-url postgres://postgres@localhost/orders --print   # only what is missing there

The admin may be a superuser, or the owner of the table with CREATEROLE and the right to make publications and
slots. A second run says what is there already and changes nothing.";

/// What `init` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Apply it, connected as this superuser or owner (postgres:// URL, same rules as source.url)
    #[arg(long, value_name = "URL", env = ADMIN_URL_VARIABLE, hide_env_values = true)]
    admin_url: Option<String>,
    /// Print the SQL and change nothing (the default without --admin-url)
    #[arg(long)]
    print: bool,
    /// What to do with rows that stand in the table while there is no slot: `skip` makes the slot now and
    /// they are never published; with `publish` the first `run --existing=publish` makes it and publishes them
    #[arg(long, value_enum)]
    existing: Option<ExistingChoice>,
}

/// Why `init` ended without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The admin's URL cannot be used.
    #[error("--admin-url: {0}")]
    Url(String),
    /// The runtime could not be started.
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    /// The server cannot be reached, or refuses the admin.
    #[error("the server cannot be reached with --admin-url")]
    Connect(#[source] tokio_postgres::Error),
    /// A look at the server failed.
    #[error("the server cannot be looked at ({what})")]
    Look {
        /// What was looked at.
        what: &'static str,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A step failed; the steps before it are done, it is undone.
    #[error("failed: {step}; what was done before stays, and a second run goes on from there")]
    Step {
        /// What was to be done.
        step: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// What was found does not allow to go on; the sentence says what to do.
    #[error("{0}")]
    Refused(String),
}

/// Prints the SQL or applies it.
pub fn execute(args: InitArgs) -> Exit {
    let lanes = match args.file.load(args.existing) {
        Ok(lanes) => lanes,
        Err(exit) => return exit,
    };
    let outcome = match &args.admin_url {
        None => lanes
            .iter()
            .map(|settings| Ok((settings, Survey::assumed(settings))))
            .collect::<Result<_, _>>()
            .and_then(plans)
            .map(|plans| print(&lanes, &plans)),
        Some(url) => with_server(&lanes, url, args.print),
    };
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("outbox-relay init: {}", output::with_causes(&error));
            Exit::Failure
        }
    }
}

/// A plan for each lane, none of them carried out yet: what one makes, the next ones find. The contract goes first, since
/// it brings what tables of another shape need.
///
/// # Errors
/// What does not allow one of them to go on; with several lanes it names the slot.
fn plans(mut surveys: Vec<(&Settings, Survey)>) -> Result<Vec<(&Settings, Plan)>, InitError> {
    surveys.sort_by_key(|(settings, _)| !survey::is_contract(settings));
    let several = surveys.len() > 1;
    let mut plans: Vec<(&Settings, Plan)> = Vec::new();
    for (settings, mut survey) in surveys {
        for (earlier, plan) in &plans {
            survey.finds(earlier, plan);
        }
        let plan = Plan::new(settings, &survey).map_err(|error| match error {
            InitError::Refused(sentence) if several => {
                InitError::Refused(format!("lane {}: {sentence}", settings.lane.label()))
            }
            error => error,
        })?;
        plans.push((settings, plan));
    }
    // Producers come in behind the last slot: what they emit before a lane has one is in no table.
    let let_in: Vec<plan::Step> = plans.iter_mut().filter_map(|(_, plan)| plan.take_producers()).collect();
    if let Some((_, last)) = plans.last_mut() {
        last.steps.extend(let_in);
    }
    Ok(plans)
}

fn print(lanes: &Lanes, plans: &[(&Settings, Plan)]) -> Exit {
    let mut page = String::new();
    for (settings, plan) in plans {
        if let Some(lane) = lanes.label(settings) {
            page += &format!("{}-- Lane {lane}.\n", if page.is_empty() { "" } else { "\n" });
        }
        page += &script::render(settings, plan);
    }
    output::print(&page)
}

fn with_server(lanes: &Lanes, url: &str, only_print: bool) -> Result<Exit, InitError> {
    let admin = ParsedUrl::parse(Program::Relay, url).map_err(|wrong| InitError::Url(wrong.to_string()))?;
    let wrong = tls::check(&admin.transport, &admin.host);
    if !wrong.is_empty() {
        return Err(InitError::Url(wrong.join("; ")));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(InitError::Runtime)?;
    runtime.block_on(async {
        let client = apply::connect(&admin, lanes.first().source.connect_timeout).await?;
        let mut surveys = Vec::new();
        for settings in lanes.iter() {
            surveys.push((settings, survey::look(&client, settings).await?));
        }
        let plans = plans(surveys)?;
        if only_print {
            return Ok(print(lanes, &plans));
        }
        for (settings, plan) in &plans {
            if let Some(lane) = lanes.label(settings) {
                output::print(&format!("lane {lane}\n"));
            }
            apply::run(&client, settings, plan).await?;
        }
        Ok(output::print(&script::farewell(&plans)))
    })
}
