//! `outbox-relay topics create`: makes topics as the configuration says, before a row needs them.

use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::Args;

use super::LIMIT;
use crate::commands::{Exit, OneLane, output};
use crate::config::Settings;
use crate::router::topics::cluster::{Cluster, Look, Made, Shape};
use crate::router::topics::provision::make;

const EXAMPLES: &str = "\
Examples:
  outbox-relay topics create outbox.event.order outbox.event.payment

A topic that exists is left as it is. Partitions, replicas and retention come from `topics` in the
configuration; topics.create need not be set.";

/// The pause before a topic that is not ready is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// What `topics create` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CreateArgs {
    #[command(flatten)]
    pub(super) place: OneLane,
    /// Whole names of topics, prefix included
    #[arg(required = true, value_name = "TOPIC")]
    pub(super) topics: Vec<String>,
}

/// Makes the topics one after another, and waits until each can be published to.
pub fn create(settings: Settings, topics: &[String]) -> anyhow::Result<Exit> {
    let cluster = Cluster::new(&settings.kafka)?;
    let mut said = String::new();
    for topic in topics {
        let (made, shape) = one(&settings, &cluster, topic)?;
        let how = match made {
            Made::Now => "made",
            Made::Before => "exists",
        };
        let _ =
            writeln!(said, "{topic}: {how}, {} partitions, {} replicas", shape.partitions, shape.replicas);
    }
    Ok(output::print(&said))
}

fn one(settings: &Settings, cluster: &Cluster, topic: &str) -> anyhow::Result<(Made, Shape)> {
    let deadline = Instant::now() + LIMIT;
    let mut made = None;
    loop {
        let trouble = match cluster.look(topic) {
            Ok(Look::There(shape)) if made.is_none() => return Ok((Made::Before, shape)),
            Ok(Look::There(shape))
                if made.is_some_and(|(_, least)| shape.led && shape.partitions.get() >= least) =>
            {
                return Ok((made.map_or(Made::Before, |(made, _)| made), shape));
            }
            Ok(Look::There(_)) => "its partitions have no leaders yet".to_owned(),
            Ok(Look::Missing) if made.is_none() => {
                made = Some(make(cluster, &settings.topics, topic)?);
                continue;
            }
            Ok(Look::Missing) => "it is not to be seen yet".to_owned(),
            Ok(Look::Illegal) => anyhow::bail!("Kafka takes no topic of the name {topic}"),
            Ok(Look::Unauthorized) => {
                anyhow::bail!("topic {topic} may not be seen: the right Describe is missing")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            anyhow::bail!("topic {topic} cannot be published to after {LIMIT:?}: {trouble}");
        }
        std::thread::sleep(AGAIN);
    }
}
