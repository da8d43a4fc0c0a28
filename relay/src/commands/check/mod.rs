//! `outbox-relay check`: a doctor. It looks at everything that a relay needs and says of each thing that is not as
//! it should be what to do, with the command, all in one run. It changes nothing, and takes nothing that a
//! running relay needs.
//!
//! Facts and judgement are apart: in each file `look` asks a server, `judge` is pure.
//!
//! | file | what it looks at |
//! |---|---|
//! | `source`, `server`, `rights` | the way to PostgreSQL, its settings, the role's rights |
//! | `table`, `quarantine`, `publication` | the outbox, what is held back from it, what the slot is sent |
//! | `messages` | the prefix of events that are messages |
//! | `slot`, `start` | the slot, the state record, and what a start would decide |
//! | `keys`, `clock` | the newest rows' keys, sizes and topics; the clocks |
//! | `cluster`, `broker`, `topics` | Kafka: who answers, brokers' settings, topics' limits and retention |
//! | `finding`, `report` | one finding, and all of them as text or JSON |
//! | `lanes` | the findings of several lanes as one list |
//! | `ask` | a question to PostgreSQL |

mod ask;
mod broker;
mod clock;
mod cluster;
mod finding;
#[cfg(test)]
mod fixture;
mod keys;
mod lanes;
mod messages;
mod publication;
mod quarantine;
mod report;
mod rights;
mod server;
mod slot;
mod source;
mod start;
mod table;
mod topics;
#[cfg(test)]
mod topics_tests;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{ConfigFile, ExistingChoice, Exit, outlook, output, runtime};
use crate::config::Settings;
use crate::state::StateRecord;
use cluster::{Cluster, Presence};
use finding::{Area, Finding};
use report::Summary;

const EXAMPLES: &str = "\
Examples:
  outbox-relay check
  outbox-relay check --strict                  # in a pipeline: warnings fail as well
  outbox-relay check --json | jq '.findings[] | select(.severity == \"error\")'

It changes nothing, and may run beside a running relay. Exits with 0 if there is no error, with 1 if there is one
(with --strict: or a warning).";

/// How long each side may take, whatever does not answer.
const SIDE: Duration = Duration::from_secs(40);
/// Topics that are looked at; a relay may know ten thousand.
const TOPICS: usize = 200;

/// What `check` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Judge a first start as `run --existing` would make it
    #[arg(long, value_enum)]
    existing: Option<ExistingChoice>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Exit with 1 for warnings, too
    #[arg(long)]
    strict: bool,
}

/// Looks, reports, and ends by what was found.
pub fn execute(args: CheckArgs) -> Exit {
    let lanes = match args.file.load(args.existing) {
        Ok(lanes) => lanes,
        Err(exit) => return exit,
    };
    // Nothing is logged: what the clients have to say is in the findings.
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outbox-relay check: {error:#}");
            return Exit::Failure;
        }
    };
    let mut of_lanes = Vec::new();
    for settings in lanes.iter() {
        let settings = Arc::new(runtime.block_on(outlook::at_primary(settings)));
        of_lanes.push((lanes.label(&settings), runtime.block_on(examine(&settings))));
    }
    let (settings, findings) = (lanes.first(), lanes::gathered(of_lanes));
    // A step that still waits for a server must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let page = if args.json {
        report::json(settings, &findings)
    } else {
        report::text(settings, &findings, io::stdout().is_terminal())
    };
    let summary = Summary::of(&findings);
    match output::print(&page) {
        Exit::Success if summary.errors > 0 || (args.strict && summary.warnings > 0) => Exit::Failure,
        exit => exit,
    }
}

/// Looks at both sides. Where one does not answer, the other is still looked at.
async fn examine(settings: &Arc<Settings>) -> Vec<Finding> {
    let (mut of_source, mut of_cluster) = (Vec::new(), Vec::new());
    let (source, kafka) = tokio::join!(
        within(source::look(settings, &mut of_source)),
        within(kafka(settings, &mut of_cluster))
    );
    let (source, source_silent) = (source.0.flatten(), source.1);
    let (kafka, kafka_silent) = (kafka.0.flatten(), kafka.1);
    let mut findings = of_source;
    findings.append(&mut of_cluster);
    if source_silent {
        findings.push(silent(Area::Server, "PostgreSQL"));
    }
    if kafka_silent {
        findings.push(silent(Area::Kafka, "Kafka"));
    }
    let record = kafka.as_ref().and_then(|kafka| kafka.record.as_ref());
    let mut sample = None;
    if let Some(source) = &source {
        let mut of_rest = Vec::new();
        let rest = within(source::compare(settings, source, record, &mut of_rest)).await;
        sample = rest.0.flatten();
        findings.append(&mut of_rest);
        if rest.1 {
            findings.push(silent(Area::Server, "PostgreSQL"));
        }
    }
    if let Some(kafka) = &kafka {
        let known = record.and_then(Option::as_ref);
        let mut of_topics = Vec::new();
        let done = within(event_topics(settings, kafka, known, sample.as_ref(), &mut of_topics)).await;
        findings.append(&mut of_topics);
        if done.1 {
            findings.push(silent(Area::Topics, "Kafka"));
        }
    }
    findings
}

/// The result in time, and whether time ran out.
async fn within<T>(work: impl Future<Output = T>) -> (Option<T>, bool) {
    match tokio::time::timeout(SIDE, work).await {
        Ok(done) => (Some(done), false),
        Err(_) => (None, true),
    }
}

fn silent(area: Area, who: &str) -> Finding {
    Finding::error(
        area,
        "silent",
        who,
        format!(
            "did not answer everything within {} s; what is missing here was not looked at",
            SIDE.as_secs()
        ),
    )
    .mend("look whether it is overloaded or cut off, then check again", "outbox-relay check")
}

/// The side of Kafka.
struct Kafka {
    cluster: Cluster,
    /// What the relay remembers; `None` where it cannot be read.
    record: Option<Option<StateRecord>>,
}

async fn kafka(settings: &Arc<Settings>, findings: &mut Vec<Finding>) -> Option<Kafka> {
    let cluster = match Cluster::connect(&settings.kafka).await {
        Ok(cluster) => cluster,
        Err(why) => {
            findings.push(broker::unreachable(settings, &why));
            return None;
        }
    };
    let entries = cluster.broker_settings().await;
    let transactions = cluster.presence(broker::TRANSACTIONS).await;
    findings.extend(broker::judge(settings, &cluster.brokers, &entries, &transactions));
    let state = cluster.topics(std::slice::from_ref(&settings.state.topic)).await;
    let mut record = None;
    for topic in &state {
        findings.extend(topics::judge_state(topic, cluster.brokers.len(), settings));
        record = match &topic.presence {
            Presence::Missing => Some(None),
            Presence::Unknown(_) => None,
            // The lane's partition is still to be added.
            Presence::There { partitions, .. } if *partitions <= settings.lane.number => Some(None),
            Presence::There { .. } => match source::record(settings).await {
                Ok(found) => Some(found),
                Err(why) => {
                    findings.push(start::unreadable(settings, &why));
                    None
                }
            },
        };
    }
    if let Some(record) = &record {
        findings.push(start::judge_record(record.as_ref(), settings));
    }
    Some(Kafka { cluster, record })
}

/// The topics that are pinned, and those that the newest rows go to.
async fn event_topics(
    settings: &Settings,
    kafka: &Kafka,
    record: Option<&StateRecord>,
    sample: Option<&keys::Sample>,
    findings: &mut Vec<Finding>,
) {
    let mut wanted: BTreeMap<String, Option<u32>> = BTreeMap::new();
    if let Some(record) = record {
        wanted.extend(record.partitions.iter().map(|(topic, count)| (topic.clone(), Some(*count))));
    }
    if let Some(sample) = sample {
        let (topics, illegal) = keys::topics(sample, settings);
        findings.extend(illegal);
        for topic in topics {
            wanted.entry(topic).or_insert(None);
        }
    }
    if wanted.is_empty() {
        let finding = Finding::note(
            Area::Topics,
            "topics-unknown",
            format!("{}*", settings.kafka.topic_prefix),
            "which topics there will be is not known before the first event",
        );
        findings.push(match settings.topics.create {
            true => finding,
            false => finding.advised(
                "make the topic of each aggregate type before its first event, since the relay waits for it, or set \
                 topics.create",
                format!("outbox-relay topics create {}<aggregate type>", settings.kafka.topic_prefix),
            ),
        });
    }
    if wanted.len() > TOPICS {
        let seen = format!("of {} topics the first {TOPICS} by name were looked at", wanted.len());
        findings.push(Finding::note(Area::Topics, "topics-many", "topics", seen));
    }
    let names: Vec<String> = wanted.keys().take(TOPICS).cloned().collect();
    let oldest = sample.and_then(|sample| sample.oldest_unpublished);
    for topic in kafka.cluster.topics(&names).await {
        let pinned = wanted.get(&topic.name).copied().flatten();
        findings.extend(topics::judge_event(&topic, pinned, oldest, kafka.cluster.brokers.len(), settings));
    }
}
