//! `outbox-relay plan`: what a start would do now. It compares slot, state record and server as a start does, and
//! prints the decision. It owns, fences, makes and writes nothing, so it may run beside a running relay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::outlook::{self, Outlook};
use super::{ConfigFile, ExistingChoice, Exit, output, runtime};
use crate::config::{Lanes, Settings};
use crate::lsn::Lsn;
use crate::publisher::{Contact, metadata_config};
use crate::quarantine::recall::whose;
use crate::quarantine::table::Whose;
use crate::session::compare::{Decision, SlotFacts};
use crate::session::{Sql, lane_name};
use crate::state::StateRecord;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

const EXAMPLES: &str = "\
Examples:
  outbox-relay plan
  outbox-relay plan --existing publish     # what a first start with that answer would do
  outbox-relay plan --json | jq .would

Exits with 0 if a start would run, with 3 if it would halt, with 5 while another relay owns the lane (a start would
wait for it), with 1 if it cannot be told.";

/// How long everything together may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Rows that are counted at most.
const COUNTED: i64 = 1_000_000;

/// What `plan` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// What the start would be told to do with rows that stand in the table while there is neither slot nor memory
    #[arg(long, value_enum)]
    existing: Option<ExistingChoice>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Looks, compares, prints.
pub fn execute(args: PlanArgs) -> Exit {
    let lanes = match args.file.load(args.existing) {
        Ok(lanes) => lanes,
        Err(exit) => return exit,
    };
    match on_runtime(&lanes) {
        Ok(plans) => match output::print(&page(&plans, lanes.are_listed(), args.json)) {
            Exit::Success => worst(&plans),
            exit => exit,
        },
        Err(error) => {
            eprintln!("outbox-relay plan: {error:#}");
            Exit::Failure
        }
    }
}

/// A plan of each lane.
fn on_runtime(lanes: &Lanes) -> anyhow::Result<Vec<Plan>> {
    let runtime = runtime(1)?;
    let plans = lanes.iter().map(|settings| {
        let lane = lanes.label(settings);
        let made = runtime.block_on(async {
            let work = tokio::time::timeout(LIMIT, make(Arc::new(settings.clone()))).await;
            work.unwrap_or_else(|_| anyhow::bail!("PostgreSQL and Kafka did not answer within {LIMIT:?}"))
        });
        match (made, lane) {
            (Ok(plan), lane) => Ok(Plan { lane, ..plan }),
            (Err(error), None) => Err(error),
            (Err(error), Some(lane)) => Err(error.context(format!("lane {lane}"))),
        }
    });
    let plans = plans.collect();
    runtime.shutdown_timeout(Duration::from_secs(1));
    plans
}

fn page(plans: &[Plan], listed: bool, json: bool) -> String {
    match (listed, json) {
        (true, true) => output::pretty(&serde_json::json!({"lanes": plans})),
        (false, true) => plans.iter().map(output::pretty).collect(),
        (_, false) => plans.iter().map(Plan::text).collect::<Vec<_>>().join("\n"),
    }
}

/// A start goes on with the lanes that can; what the others come to is what has to be known.
fn worst(plans: &[Plan]) -> Exit {
    let exits = || plans.iter().map(Plan::exit);
    [Exit::Halted, Exit::LaneOwned]
        .into_iter()
        .find(|exit| exits().any(|of_lane| of_lane == *exit))
        .unwrap_or(Exit::Success)
}

/// What a start would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Would {
    /// It publishes.
    Run,
    /// It waits for the owner of the lane.
    Wait,
    /// It halts.
    Halt,
}

/// The plan of a start.
#[derive(Debug, Serialize)]
struct Plan {
    relay: String,
    /// The lane, where they are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    would: Would,
    /// The decision's name.
    decision: &'static str,
    /// The decision in words.
    sentence: String,
    /// Who owns the lane now.
    owner: Option<String>,
    system_id: String,
    timeline: u32,
    wal_end: Lsn,
    slot: Option<Lsn>,
    /// Where publishing begins.
    position: Option<Lsn>,
    epoch: Option<u64>,
    /// Bytes of log that are read from the slot again and passed over, since they are published.
    skipped_bytes: Option<u64>,
    /// Bytes of log from there to its present end.
    unpublished_bytes: Option<u64>,
    /// Bytes of log that the server decodes from.
    read_bytes: Option<u64>,
    /// Rows that a fill publishes; counted up to a million.
    rows: Option<i64>,
    /// Events that wait in quarantine.
    quarantined: Option<i64>,
}

async fn make(settings: Arc<Settings>) -> anyhow::Result<Plan> {
    let settings = Arc::new(outlook::at_primary(&settings).await);
    // First, since it refuses to say the password in clear text where the SQL driver would not.
    let replication =
        outlook::replication(&settings).await.map_err(|refusal| anyhow::anyhow!(refusal.sentence()))?;
    let sql = outlook::connect(&settings, &format!("{} plan", settings.name)).await?;
    let owner = sql.owned_by(&lane_name(&settings, settings.lane.number)).await?;
    let slot = sql.slot(&settings.slot()).await?.map(|(facts, _)| facts);
    let record = match state_topic_exists(&settings).await? {
        true => outlook::record(&settings).await.map_err(anyhow::Error::msg)?,
        false => None,
    };
    let outlook = outlook::decide(&sql, &settings, &replication, slot.as_ref(), record.as_ref()).await?;
    // A start looks at the publication last, and halts where nothing would come through it.
    let unpublished = sql.unpublished(&settings.publication(), &settings.outbox).await?;
    let unordered = match &outlook.decision {
        Decision::Fill { .. } => crate::fill::order(&settings.outbox).err().map(|error| error.to_string()),
        _ => None,
    };
    let mut plan = Plan {
        relay: settings.name.clone(),
        lane: None,
        would: Would::Run,
        decision: "",
        sentence: String::new(),
        owner,
        system_id: replication.system.system_id.clone(),
        timeline: replication.system.timeline,
        wal_end: outlook.wal_end,
        slot: slot.as_ref().map(|slot| slot.confirmed_flush),
        position: None,
        epoch: record.as_ref().map(|record| record.epoch),
        skipped_bytes: None,
        unpublished_bytes: None,
        read_bytes: None,
        rows: None,
        quarantined: quarantined(&sql, &settings).await,
    };
    plan.decide(&outlook, slot.as_ref(), record.as_ref());
    if matches!(outlook.decision, Decision::MakeSlot) && settings.outbox.message_prefix.is_some() {
        plan.sentence =
            "make the slot and stream from it; what was emitted before is never published".to_owned();
    }
    if let Decision::Fill { base, .. } = &outlook.decision {
        plan.rows = rows(&sql, &settings, base.as_deref()).await;
    }
    if let Some(sentence) = unpublished.or(unordered).filter(|_| plan.would == Would::Run) {
        (plan.would, plan.sentence) = (Would::Halt, format!("halt: {sentence}"));
    }
    if plan.owner.is_some() {
        plan.would = Would::Wait;
    }
    Ok(plan)
}

impl Plan {
    fn decide(&mut self, outlook: &Outlook, slot: Option<&SlotFacts>, record: Option<&StateRecord>) {
        let streams = |plan: &mut Plan, position: Lsn| {
            let from = slot.map_or(position, |slot| slot.confirmed_flush);
            plan.position = Some(position);
            plan.skipped_bytes = Some(position.0.saturating_sub(from.0));
            plan.unpublished_bytes = Some(outlook.wal_end.0.saturating_sub(position.0));
            let decoded = slot.and_then(|slot| slot.restart_lsn).unwrap_or(from);
            plan.read_bytes = Some(outlook.wal_end.0.saturating_sub(decoded.0));
        };
        let (decision, sentence) = match &outlook.decision {
            Decision::Begin { position } => {
                streams(self, *position);
                (
                    "begin",
                    format!("begin at {position}, where the slot stands: nothing is remembered as published"),
                )
            }
            Decision::MakeSlot => (
                "make-slot",
                "make the slot and stream from it; what stands in the table now is never published"
                    .to_owned(),
            ),
            Decision::Continue { position, must_meet } => {
                streams(self, *position);
                let from = slot.map_or(*position, |slot| slot.confirmed_flush);
                let proof = if must_meet.is_some() {
                    "; the last published transaction has to be met on the way, else it halts"
                } else {
                    ""
                };
                let sentence = if from < *position {
                    format!("go on: read from {from}, skip what is published up to {position}{proof}")
                } else {
                    format!("go on from {position}, where the slot stands; nothing is skipped")
                };
                ("continue", sentence)
            }
            Decision::NewTimeline { record, switch_point, possibly_lost, .. } => {
                streams(self, record.position);
                self.epoch = Some(record.epoch);
                let lost = possibly_lost.map_or(String::new(), |(from, to)| {
                    format!(
                        "; events between {from} and {to} may stand on the topics although the server has lost them"
                    )
                });
                let sentence = format!(
                    "go on from {} with epoch {}: the server went over to timeline {} at {switch_point}{lost}",
                    record.position, record.epoch, record.timeline
                );
                ("new-timeline", sentence)
            }
            Decision::Fill { epoch, base, drop_slot, reason, .. } => {
                self.epoch = Some(record.map_or(*epoch, |record| record.epoch.max(*epoch)));
                let rows = match base {
                    None => "every row that the table holds",
                    Some(_) => "the rows of the table that are not known to be published",
                };
                let slot = match (drop_slot, reason) {
                    (false, _) => "",
                    (true, None) => "drop the slot of a fill that was cut short, ",
                    (true, Some(_)) => "drop the slot, ",
                };
                let seen =
                    reason.as_ref().map_or(String::new(), |reason| format!("; what was seen: {reason}"));
                ("fill", format!("{slot}make a new slot, publish {rows}, then stream{seen}"))
            }
            Decision::Halt(reason) => {
                self.would = Would::Halt;
                ("halt", format!("halt: {reason}"))
            }
        };
        (self.decision, self.sentence) = (decision, sentence);
    }

    fn exit(&self) -> Exit {
        match self.would {
            Would::Run => Exit::Success,
            Would::Wait => Exit::LaneOwned,
            Would::Halt => Exit::Halted,
        }
    }

    fn text(&self) -> String {
        let volume = |amount: Option<u64>| {
            amount.map(|amount| super::words::bytes(i64::try_from(amount).unwrap_or(i64::MAX)))
        };
        let many =
            |count: i64| if count > COUNTED { format!("more than {COUNTED}") } else { count.to_string() };
        let lane = self.lane.as_ref().map_or(String::new(), |lane| format!("lane {lane}: "));
        let first = match &self.owner {
            Some(owner) => format!(
                "{lane}A start would wait: the lane is owned by {owner}. Were it free, it would {}",
                self.sentence
            ),
            None => format!("{lane}A start would {}", self.sentence),
        };
        let rows = [
            (
                "server",
                Some(format!(
                    "system {}, timeline {}, log ends at {}",
                    self.system_id, self.timeline, self.wal_end
                )),
            ),
            ("slot", Some(self.slot.map_or("none".into(), |lsn| format!("confirmed up to {lsn}")))),
            ("epoch", self.epoch.map(|epoch| epoch.to_string())),
            ("skipped", volume(self.skipped_bytes).filter(|_| self.skipped_bytes != Some(0))),
            ("unpublished", volume(self.unpublished_bytes).map(|bytes| format!("at most {bytes} of log"))),
            ("read", volume(self.read_bytes).map(|bytes| format!("{bytes} of log, by the server"))),
            ("rows", self.rows.map(many)),
            ("quarantine", self.quarantined.map(|count| format!("{count} events wait"))),
        ];
        let table: String =
            rows.into_iter().filter_map(|(name, value)| Some(format!("  {name:<12} {}\n", value?))).collect();
        format!("{first}.\n\n{table}")
    }
}

/// Whether the state topic is there, with the lane's partition; asked by a client that never makes a topic.
pub(super) async fn state_topic_exists(settings: &Arc<Settings>) -> anyhow::Result<bool> {
    let settings = settings.clone();
    let look = tokio::task::spawn_blocking(move || {
        let (topic, lane) = (&settings.state.topic, settings.lane.number as usize);
        // Without a group: a consumer of one looks for its coordinator, for which brokers make a topic.
        let contact = Contact::default();
        let client: BaseConsumer<Contact> =
            metadata_config(&settings.kafka).create_with_context(contact.clone())?;
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10));
        let metadata = metadata.map_err(|error| match contact.trouble(&client) {
            Some(trouble) => anyhow::Error::new(error).context(trouble),
            None => error.into(),
        })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            None => anyhow::Ok(found.is_some_and(|found| found.partitions().len() > lane)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
            Some(code) => Err(rdkafka::error::KafkaError::MetadataFetch(code).into()),
        }
    });
    let found = look.await.map_err(io::Error::other)?;
    found.context("Kafka does not answer; a start would wait for it")
}

/// Rows that a fill publishes; `None` where they cannot be counted in time.
async fn rows(sql: &Sql, settings: &Settings, base: Option<&str>) -> Option<i64> {
    let outbox = &settings.outbox;
    let (table, wanted) = (crate::fill::table(outbox), crate::fill::unpublished(outbox, base).ok()?);
    let count = format!("SELECT count(*) FROM (SELECT FROM {table} WHERE {wanted} LIMIT {}) r", COUNTED + 1);
    sql.one("counting the rows of a fill", &count, &[]).await.ok().map(|row| row.get(0))
}

/// Entries in quarantine; `None` where there is none, or where it may not be read.
async fn quarantined(sql: &Sql, settings: &Settings) -> Option<i64> {
    let there = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'outbox' AND c.relname = 'quarantine')";
    if !sql.one("looking for the quarantine", there, &[]).await.ok()?.get::<_, bool>(0) {
        return None;
    }
    let count =
        "SELECT count(*) FROM outbox.quarantine WHERE relay = $1 AND lane = $2 AND settled_at IS NULL";
    let Whose { relay, lane } = whose(settings, settings.lane.number);
    sql.one("counting the quarantine", count, &[&relay, &lane]).await.ok().map(|row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::compare::HaltReason;

    fn plan() -> Plan {
        Plan {
            relay: "orders".into(),
            lane: None,
            would: Would::Run,
            decision: "",
            sentence: String::new(),
            owner: None,
            system_id: "42".into(),
            timeline: 1,
            wal_end: Lsn(0x1000),
            slot: Some(Lsn(0x100)),
            position: None,
            epoch: Some(1),
            skipped_bytes: None,
            unpublished_bytes: None,
            read_bytes: None,
            rows: None,
            quarantined: None,
        }
    }

    fn slot() -> SlotFacts {
        SlotFacts {
            confirmed_flush: Lsn(0x100),
            restart_lsn: Some(Lsn(0x80)),
            wal_status: None,
            invalidation_reason: None,
            plugin: "pgoutput".into(),
            database: "shop".into(),
            temporary: false,
        }
    }

    fn decided(decision: Decision) -> Plan {
        let mut plan = plan();
        plan.decide(&Outlook { decision, wal_end: Lsn(0x1000) }, Some(&slot()), None);
        plan
    }

    #[test]
    fn what_is_skipped_and_read_is_measured() {
        let plan = decided(Decision::Continue { position: Lsn(0x300), must_meet: None });
        assert_eq!((plan.would, plan.decision, plan.exit()), (Would::Run, "continue", Exit::Success));
        assert_eq!(plan.sentence, "go on: read from 0/100, skip what is published up to 0/300");
        assert_eq!(
            (plan.skipped_bytes, plan.unpublished_bytes, plan.read_bytes),
            (Some(0x200), Some(0xD00), Some(0xF80))
        );
        let text = plan.text();
        assert!(text.starts_with("A start would go on: read from 0/100,"), "{text}");
        assert!(text.contains("  skipped      512 B\n"), "{text}");
    }

    #[test]
    fn a_halt_and_an_owner_have_their_exit_codes() {
        let mut plan = decided(Decision::Halt(HaltReason::NothingYet));
        assert_eq!((plan.decision, plan.exit()), ("halt", Exit::Halted));
        let runs = decided(Decision::MakeSlot);
        assert_eq!(worst(&[runs, decided(Decision::Halt(HaltReason::NothingYet))]), Exit::Halted);
        plan.would = Would::Wait;
        plan.owner = Some("process 7 from 10.0.0.1".into());
        assert_eq!(plan.exit(), Exit::LaneOwned);
        assert!(plan.text().starts_with("A start would wait: the lane is owned by process 7"));
        let read = |plans: &[Plan], listed| -> serde_json::Value {
            serde_json::from_str(&page(plans, listed, true)).unwrap()
        };
        let mut plans = [plan];
        let json = read(&plans, false);
        assert_eq!((&json["would"], &json["slot"]), (&"wait".into(), &"0/100".into()));
        assert!(json.as_object().is_some_and(|plan| !plan.contains_key("lane")), "{json}");
        plans[0].lane = Some("billing".into());
        assert_eq!(read(&plans, true)["lanes"][0]["lane"], "billing");
        assert!(page(&plans, true, false).starts_with("lane billing: A start would wait"));
    }
}
