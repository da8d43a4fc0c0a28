//! `outbox-relay topics`: what topics are pinned to beside what the cluster shows, making them, and moving
//! their keys to another number of partitions.

mod create;
mod list;
mod switch;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Exit, OneLane, logging};
use crate::config::Settings;
use crate::session::chain;

/// How long Kafka may take before a command gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// What `topics` takes.
#[derive(Debug, Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// Show the topics that the relay publishes to: pinned partitions, the cluster's, limits.
    List(list::ListArgs),
    /// Make topics ahead of time, as `topics` in the configuration says.
    Create(create::CreateArgs),
    /// Explain, or with --yes order, that a topic's keys are spread over more partitions.
    Switch(switch::SwitchArgs),
}

/// Runs one of them.
pub fn execute(args: TopicsArgs) -> Exit {
    let (name, result) = match args.command {
        TopicsCommand::List(args) => ("list", with(&args.place, |settings| list::list(settings, args.json))),
        TopicsCommand::Create(args) => {
            ("create", with(&args.place, |settings| create::create(settings, &args.topics)))
        }
        TopicsCommand::Switch(args) => ("switch", with(&args.place, |settings| switch::run(settings, &args))),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("outbox-relay topics {name}: {}", chain(&*error));
            Exit::Failure
        }
    }
}

fn with(place: &OneLane, work: impl FnOnce(Settings) -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match place.load() {
        Ok(settings) => {
            logging::start(&settings.log);
            work(settings)
        }
        Err(exit) => Ok(exit),
    }
}
