//! `outbox-relay forget`: sets the state record aside after a halt, when a person has decided to begin anew.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{Exit, OneLane, logging, outlook, output, runtime};
use crate::config::Settings;
use crate::publisher::Contact;
use crate::session::{End, Ending, Sql, blocking, lane_name};
use crate::state::{RecordedPhase, StateRecord, Store, topic};

const EXAMPLES: &str = "\
Examples:
  outbox-relay forget          # show what the relay remembers
  outbox-relay forget --yes    # forget it
  outbox-relay forget --lane billing    # of a relay with several lanes

After that the next start has no memory, but for the epoch, which it counts on, and the partition counts: with a slot it begins where the slot stands, without one it asks for
--existing=publish (publish every row that the table holds, under its own event id) or --existing=skip.";

/// How long PostgreSQL and Kafka may take together.
const LIMIT: Duration = Duration::from_secs(60);

/// What `forget` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ForgetArgs {
    #[command(flatten)]
    place: OneLane,
    /// Forget it; without this it is only shown
    #[arg(long)]
    yes: bool,
}

/// Shows the record or sets it aside.
pub fn execute(args: ForgetArgs) -> Exit {
    let settings = match args.place.load() {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    logging::start(&settings.log);
    match on_runtime(settings, args.yes) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("outbox-relay forget: {error:#}");
            Exit::Failure
        }
    }
}

fn on_runtime(settings: Settings, yes: bool) -> anyhow::Result<Exit> {
    let runtime = runtime(1)?;
    let ending = Arc::new(Ending::default());
    runtime.block_on(async {
        let work = forget(Arc::new(settings), ending.clone(), yes);
        let result = tokio::time::timeout(LIMIT, work).await;
        // Whatever still waits for Kafka ends with it.
        ending.end(End::Drained);
        result.unwrap_or_else(|_| anyhow::bail!("PostgreSQL and Kafka did not answer within {LIMIT:?}"))
    })
}

/// Owns the lane, so that no relay writes meanwhile; fences, reads, and forgets if told to.
async fn forget(settings: Arc<Settings>, ending: Arc<Ending>, yes: bool) -> anyhow::Result<Exit> {
    let settings = Arc::new(outlook::at_primary(&settings).await);
    let number = settings.lane.number;
    let lane = lane_name(&settings, number);
    let sql = Sql::connect(&settings.source, &lane, ending.clone()).await?;
    if !sql.try_own(&lane).await? {
        let owner = sql.lane_owner(&lane).await?;
        eprintln!("outbox-relay forget: lane {lane} is owned by {owner}; stop that relay first");
        return Ok(Exit::LaneOwned);
    }
    let contact = Contact::default();
    topic::ensure(&settings.kafka, &settings.state, &contact).await.context("the state topic")?;
    let found = blocking(move || {
        let mut store =
            Store::fence(&settings, number, contact, &ending).map_err(|error| End::halt(&error))?;
        let found = store.read(&ending).map_err(|error| End::halt(&error))?;
        if let Some(record) = found.clone().filter(|_| yes) {
            let forgotten = StateRecord { phase: RecordedPhase::Forgotten, ..record };
            let forgotten = forgotten.stamped(uuid::Uuid::now_v7(), 1, jiff::Timestamp::now());
            store.write(&forgotten, &ending).map_err(|error| End::halt(&error))?;
        }
        Ok(found)
    });
    let found = found.await.map_err(|end| anyhow::anyhow!(end.sentence()))?;
    Ok(match found {
        None => output::print(&format!("{lane} has no state record\n")),
        Some(record) if yes => output::print(&format!("forgotten: {}\n", in_words(&lane, &record))),
        Some(record) => {
            let line = format!("{}\nnothing was changed; --yes forgets it\n", in_words(&lane, &record));
            output::print(&line)
        }
    })
}

fn in_words(lane: &str, record: &StateRecord) -> String {
    let phase = match record.phase {
        RecordedPhase::Filling { .. } => "filling",
        RecordedPhase::Streaming => "streaming",
        RecordedPhase::Forgotten => "forgotten",
    };
    format!(
        "{lane}: {phase}, system {}, timeline {}, epoch {}, published up to {}, {} topics, written at {}",
        record.system_id,
        record.timeline,
        record.epoch,
        record.position,
        record.partitions.len(),
        record.written_at
    )
}
