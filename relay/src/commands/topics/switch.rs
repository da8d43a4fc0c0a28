//! `outbox-relay topics switch`: explains what moving a topic's keys means, and with `--yes` orders it: a
//! message in the database's log that the relay meets between two transactions.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::LIMIT;
use crate::commands::{Exit, OneLane, outlook, output, runtime};
use crate::config::Settings;
use crate::router::command::{Command, Do};
use crate::router::topics::cluster::{Cluster, Look};
use crate::session::{End, Ending, Sql, lane_name};
use crate::state::{StateRecord, peek};

/// How often the state record is read while the relay is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// A relay that reconnects is without its lane for a moment; one that is away for longer does not run.
const NOT_RUNNING: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  outbox-relay topics switch outbox.event.order                        # explain, change nothing
  outbox-relay topics switch outbox.event.order --yes                  # to all partitions that there are
  outbox-relay topics switch outbox.event.order --partitions 24 --yes";

/// What `topics switch` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SwitchArgs {
    #[command(flatten)]
    pub(super) place: OneLane,
    /// Whole name of the topic, prefix included
    topic: String,
    /// Partitions that its keys are spread over from then on [default: all that the cluster shows]
    #[arg(long, value_name = "N")]
    partitions: Option<NonZeroU32>,
    /// Switch; without this it is only explained
    #[arg(long)]
    yes: bool,
    /// Seconds to wait for the relay to follow
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

/// What is to be done, after everything was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    topic: String,
    pinned: u32,
    wanted: NonZeroU32,
}

/// Explains, and with `--yes` orders and waits.
pub fn run(settings: Settings, args: &SwitchArgs) -> anyhow::Result<Exit> {
    let record = peek(&settings, settings.lane.number, LIMIT)?;
    let pinned = record.and_then(|record| record.partitions.get(&args.topic).copied());
    let pinned = pinned.with_context(|| {
        format!(
            "relay {} has not published to {}; `outbox-relay topics list` shows where to",
            settings.name, args.topic
        )
    })?;
    let look = Cluster::new(&settings.kafka)?.look(&args.topic)?;
    let Some(order) = order(&args.topic, pinned, args.partitions, look).map_err(anyhow::Error::msg)? else {
        return Ok(output::print(&format!(
            "{}: its keys are spread over {pinned} partitions already\n",
            args.topic
        )));
    };
    if !args.yes {
        return Ok(output::print(&explain(&order)));
    }
    give(settings, order, Duration::from_secs(args.timeout))
}

/// Checks what the relay would check again; `None` when there is nothing to do.
fn order(topic: &str, pinned: u32, asked: Option<NonZeroU32>, look: Look) -> Result<Option<Order>, String> {
    let found = match look {
        Look::There(shape) => shape.partitions,
        Look::Missing => return Err(format!("topic {topic} does not exist")),
        Look::Illegal | Look::Unauthorized => return Err(format!("topic {topic} may not be seen")),
    };
    let wanted = asked.unwrap_or(found);
    if wanted > found {
        return Err(format!(
            "topic {topic} has {found} partitions, not {wanted}: add partitions to it first"
        ));
    }
    if wanted.get() < pinned {
        return Err(format!(
            "topic {topic} is spread over {pinned} partitions and never over fewer, such as {wanted}"
        ));
    }
    Ok((wanted.get() > pinned).then(|| Order { topic: topic.to_owned(), pinned, wanted }))
}

fn explain(order: &Order) -> String {
    let Order { topic, pinned, wanted } = order;
    format!(
        "{topic}: its keys are spread over {pinned} partitions; --yes spreads them over {wanted}.

What happens then: the relay finishes what came before the order, waits until the brokers have acknowledged
all of it, records the new count, and goes on. Nothing is lost, and each partition stays in order.

What to do before: most keys move to another partition. A consumer that has not yet read a key's older events
on the old partition may meet the newer ones on the new partition first. Where the order of a key matters, let
every consumer group read to the end of the topic first (its lag is 0), with the services that write quiet.

nothing was changed; --yes switches
"
    )
}

fn give(settings: Settings, order: Order, timeout: Duration) -> anyhow::Result<Exit> {
    let runtime = runtime(1)?;
    runtime.block_on(tell_and_wait(Arc::new(settings), order, timeout))
}

async fn tell_and_wait(settings: Arc<Settings>, order: Order, timeout: Duration) -> anyhow::Result<Exit> {
    let settings = Arc::new(outlook::at_primary(&settings).await);
    let number = settings.lane.number;
    let lane = lane_name(&settings, number);
    let ending = Arc::new(Ending::default());
    let sql = Sql::connect(&settings.source, &lane, ending.clone()).await?;
    let told = Do::Switch { topic: order.topic.clone(), partitions: order.wanted };
    let command = Command { relay: settings.name.clone(), lane: number, r#do: told };
    let lsn = sql.tell(&command.content()?).await?;
    let Order { topic, pinned, wanted } = &order;
    eprintln!(
        "told relay {} at {lsn} to switch {topic} from {pinned} to {wanted} partitions; waiting for it",
        settings.name
    );
    let began = Instant::now();
    let mut owned = began;
    let exit = loop {
        let (mine, limit) = (settings.clone(), LIMIT);
        let record = tokio::task::spawn_blocking(move || peek(&mine, number, limit)).await??;
        if follows(record.as_ref(), &order) {
            break output::print(&format!("{topic}: its keys are spread over {wanted} partitions\n"));
        }
        let is_owned = sql.owned_by(&lane).await?.is_some();
        if is_owned {
            owned = Instant::now();
        }
        let late = began.elapsed() >= timeout;
        if !is_owned && (late || owned.elapsed() >= NOT_RUNNING) {
            eprintln!(
                "outbox-relay topics switch: no relay {} is running; the order stands in the log, and the next \
                 one that runs follows it when it gets there",
                settings.name
            );
            break Exit::Failure;
        }
        if late {
            eprintln!(
                "outbox-relay topics switch: relay {} has not followed within {timeout:?}; it does so when it has \
                 published everything before {lsn} (`outbox-relay status` shows where it is, and under last error \
                 why it refused, if it did)",
                settings.name
            );
            break Exit::Failure;
        }
        tokio::time::sleep(LOOK).await;
    };
    ending.end(End::Drained);
    Ok(exit)
}

fn follows(record: Option<&StateRecord>, order: &Order) -> bool {
    record.and_then(|record| record.partitions.get(&order.topic)) == Some(&order.wanted.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::topics::cluster::Shape;

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    fn there(partitions: u32) -> Look {
        Look::There(Shape { partitions: count(partitions), replicas: 1, led: true })
    }

    #[test]
    fn all_partitions_are_meant_unless_said() {
        let wanted = |asked| order("t", 12, asked, there(24)).unwrap().map(|order| order.wanted.get());
        assert_eq!(wanted(None), Some(24));
        assert_eq!(wanted(Some(count(18))), Some(18));
        assert_eq!(wanted(Some(count(12))), None);
        assert_eq!(order("t", 24, None, there(24)), Ok(None));
    }

    #[test]
    fn what_the_relay_would_refuse_is_refused_before() {
        for (asked, look, part) in [
            (Some(count(25)), there(24), "has 24 partitions, not 25"),
            (Some(count(11)), there(24), "never over fewer"),
            (None, there(6), "never over fewer"),
            (None, Look::Missing, "does not exist"),
        ] {
            let why = order("t", 12, asked, look).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn the_record_shows_when_it_was_followed() {
        let order = Order { topic: "t".into(), pinned: 3, wanted: count(8) };
        let mut record = StateRecord::first("orders", 0, "1", 1, crate::lsn::Lsn::ZERO);
        assert!(!follows(None, &order) && !follows(Some(&record), &order));
        record.partitions.insert("t".into(), 8);
        assert!(follows(Some(&record), &order));
        assert!(explain(&order).contains("nothing was changed"));
    }
}
