//! `outbox-dlq project`.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use super::CommandError;
use super::connection::{DatabaseArgs, KafkaArgs};
use super::exit::Exit;
use super::output;
use crate::dead_letters::foreign::Adoption;
use crate::dead_letters::projection::{Projection, Report};

/// What `project` takes.
#[derive(Debug, Args)]
pub struct ProjectArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// The consumers' Kafka group; its topics <topic>.<group>.dlq are read
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    group: String,
    /// Read this topic, also one that Spring Kafka or Kafka Connect writes; repeatable [default: the group's]
    #[arg(long)]
    topic: Vec<String>,
    /// The consumer that letters of other frameworks, and damaged ones, belong to [default: the group]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    scope: Option<String>,
    /// The team that has to decide on those
    #[arg(long, default_value = "unassigned", value_parser = NonEmptyStringValueParser::new())]
    owner: String,
    /// How long it has, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..100_000))]
    within: u32,
    /// Go on reading what comes, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Print a JSON document per topic, or per round of --follow, each on a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    /// None where it is about all.
    topic: Option<&'a str>,
    read: u64,
    new: u64,
    refused: Vec<Refused<'a>>,
}

#[derive(Serialize)]
struct Refused<'a> {
    topic: &'a str,
    reason: &'a str,
    count: u64,
    first: &'a str,
}

/// Reads topics into PostgreSQL.
pub async fn run(args: &ProjectArgs) -> Result<Exit, CommandError> {
    let (database, kafka) = args.database.connect_with(&args.kafka).await?;
    let adoption = Adoption {
        scope: args.scope.clone().unwrap_or_else(|| args.group.clone()),
        owner: args.owner.clone(),
        within: Duration::from_secs(u64::from(args.within) * 3600),
    };
    let projection = Projection::new(&kafka, &args.group, adoption)?;
    let mut topics: BTreeSet<String> = args.topic.iter().cloned().collect();
    if args.follow {
        let stop = async {
            // Without a handler for the signal the signal itself ends the program.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut failed = false;
        let told = |report: &Report| {
            failed |= !report.refused.is_empty();
            if report.read > 0 {
                tell(None, report, args.json);
            }
        };
        projection.follow(&database.client, &topics, stop, told).await?;
        return Ok(Exit::failed_if(failed));
    }
    if topics.is_empty() {
        topics = projection.topics().await?;
    }
    if topics.is_empty() {
        let group = &args.group;
        return Err(CommandError::Refused(format!(
            "group {group} has no dead-letter topic: none is named <topic>.{group}.dlq; --topic names another one"
        )));
    }
    let mut failed = false;
    for topic in &topics {
        let report = projection.catch_up(&database.client, topic).await?;
        failed |= !report.refused.is_empty();
        tell(Some(topic), &report, args.json);
    }
    Ok(Exit::failed_if(failed))
}

fn tell(topic: Option<&str>, report: &Report, json: bool) {
    if json {
        let refused = report.refused.iter();
        let refused =
            refused.map(|((topic, reason), (count, first))| Refused { topic, reason, count: *count, first });
        let document = Document { topic, read: report.read, new: report.new, refused: refused.collect() };
        output::print(&output::json(&document));
    } else {
        let topic = topic.unwrap_or("all topics");
        output::print(&format!("{topic}: read {}, {} new\n", report.read, report.new));
    }
    for ((topic, reason), (count, first)) in &report.refused {
        output::complain(&format!(
            "{count} not taken up from {topic}: {}; the first is {first}",
            output::clean(reason)
        ));
    }
}
