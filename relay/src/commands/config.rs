//! `outbox-relay config`: check, show and describe the configuration.

use clap::{Args, Subcommand};

use super::{ConfigFile, Exit, output, report};
use crate::config::{document, process_environment, show};

/// What `config` takes.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Say everything that is wrong with file and environment, or that nothing is.
    Check(ConfigFile),
    /// Print the values in force and where each comes from; secrets are masked.
    Show(ConfigFile),
    /// Print the reference of all keys as Markdown.
    Reference,
}

/// Answers the question.
pub fn execute(args: ConfigArgs) -> Exit {
    match args.question {
        Question::Check(file) => check(&file),
        Question::Show(file) => match show(file.config.as_deref(), &process_environment) {
            Ok(page) => output::print(&page),
            Err(mistakes) => report(mistakes),
        },
        Question::Reference => output::print(&document::reference()),
    }
}

fn check(file: &ConfigFile) -> Exit {
    match file.load(None) {
        Ok(lanes) => {
            let settings = lanes.first();
            let mut page = format!(
                "the configuration is fine: relay {}, from {}:{}/{} as {}, to {}\n",
                settings.name,
                settings.source.host,
                settings.source.port,
                settings.source.database,
                settings.source.user,
                settings.kafka.brokers,
            );
            for settings in lanes.iter().filter(|_| lanes.are_listed()) {
                page += &format!(
                    "lane {}, number {}: {}.{} by slot {}\n",
                    settings.lane.label(),
                    settings.lane.number,
                    settings.outbox.schema,
                    settings.outbox.table,
                    settings.slot(),
                );
            }
            output::print(&page)
        }
        Err(exit) => exit,
    }
}
