//! `outbox-relay run`: settings, logging, a small runtime, and then the lanes, a task each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::{ConfigFile, ExistingChoice, Exit, logging, runtime};
use crate::admin::{self, Identity, Watched};
use crate::config::{Lanes, Settings};
use crate::lane::{self, Outcome};
use crate::observe::Observed;

const EXAMPLES: &str = "\
Examples:
  outbox-relay run
  outbox-relay run --config /etc/outbox-relay.toml
  outbox-relay run --existing publish    # the first start, with rows that nobody has published
  outbox-relay run --no-wait             # exit with 5 if another relay owns the lane";

/// What `run` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// What to do with rows that stand in the table while there is neither slot nor memory
    #[arg(long, value_enum)]
    existing: Option<ExistingChoice>,
    /// Exit with code 5 when another relay owns the lane, instead of waiting as its standby
    #[arg(long)]
    no_wait: bool,
}

/// Runs until told to stop, or until going on could lose events.
pub fn execute(args: RunArgs) -> Exit {
    let lanes = match args.file.load(args.existing) {
        Ok(lanes) => lanes,
        Err(exit) => return exit,
    };
    logging::start(&lanes.first().log);
    match block_on(&lanes, args.no_wait) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::Failure
        }
    }
}

/// Nothing per event runs on the runtime: connections, timers and the admin port need no more than two
/// threads, and one for each further lane, so that no step of one is waited for by another.
fn block_on(lanes: &Lanes, no_wait: bool) -> anyhow::Result<Exit> {
    let runtime = runtime(lanes.iter().len() + 1)?;
    let exit = runtime.block_on(serve(lanes, no_wait));
    // A step that still waits for a server must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

/// Admin port, signals and the lanes; the end of the last lane is the program's.
async fn serve(lanes: &Lanes, no_wait: bool) -> anyhow::Result<Exit> {
    let started_at = Instant::now();
    let watched: Vec<Watched> = lanes.iter().map(|settings| watched(lanes, settings, started_at)).collect();
    let settings = lanes.first();
    tracing::info!(
        sslmode = settings.source.transport.mode.name(),
        kafka_protocol = settings.kafka.protocol,
        "how connections are protected"
    );
    let port = admin::bind(settings.admin.listen).await?;
    let (close, closed) = oneshot::channel::<()>();
    let served = tokio::spawn(admin::serve(port, watched.clone(), settings.admin.clone(), async {
        // An error is a sender that is gone: closed as well.
        let _gone = closed.await;
    }));
    let (stop, stopped) = watch::channel(false);
    // Until the process ends: a second signal counts also while it closes.
    tokio::spawn(signals(stop));
    let mut running = JoinSet::new();
    for (settings, watched) in lanes.iter().zip(watched) {
        let lane = lane::run(Arc::new(settings.clone()), watched.observed, stopped.clone(), no_wait);
        // Every line of its log says whose it is, where there are several.
        let span = watched.identity.lane.map_or_else(Span::none, |lane| tracing::info_span!("lane", lane));
        running.spawn(async move { ended(&lane.await) }.instrument(span));
    }
    let mut exits = Vec::new();
    while let Some(lane) = running.join_next().await {
        match lane {
            Ok(exit) => exits.push(exit),
            // A mistake of ours: the program ends as if it had happened here, and is started again.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        if exits.len() < lanes.iter().len() && !*stopped.borrow() {
            tracing::warn!("the other lanes go on");
        }
    }
    let _nobody_listens = close.send(());
    if let Ok(Err(error)) = served.await {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    Ok(worst(&exits))
}

fn watched(lanes: &Lanes, settings: &Settings, started_at: Instant) -> Watched {
    let identity = Identity {
        relay: settings.name.clone(),
        lane: lanes.label(settings),
        slot: settings.slot(),
        publication: settings.publication(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guarantee: settings.delivery.guarantee.name(),
        started_at,
    };
    Watched { identity, observed: Arc::new(Observed::new()) }
}

/// What a supervisor has to know of how several lanes have ended: first what a start alone does not mend.
fn worst(exits: &[Exit]) -> Exit {
    let order = [Exit::Halted, Exit::NotDrained, Exit::LaneOwned];
    order.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Success)
}

fn ended(outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Drained => Exit::Success,
        Outcome::Undrained(sentence) => {
            tracing::error!("{sentence}; what is left comes again at the next start");
            Exit::NotDrained
        }
        Outcome::Halted(sentence) => {
            tracing::error!("halted: {sentence}");
            Exit::Halted
        }
        Outcome::Owned(sentence) => {
            tracing::error!("{sentence}");
            Exit::LaneOwned
        }
    }
}

/// The first SIGTERM or SIGINT drains, the second exits at once: nothing is lost by it, what is in
/// flight comes again.
async fn signals(stop: watch::Sender<bool>) {
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = streams else {
        tracing::error!(
            "signals cannot be listened to; stop this relay by killing it, nothing is lost by that"
        );
        return;
    };
    let mut first = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !std::mem::replace(&mut first, false) {
            tracing::warn!("second signal: exiting at once, not drained");
            std::process::exit(i32::from(Exit::NotDrained.code()));
        }
        tracing::info!("told to stop: draining (a second signal exits at once)");
        stop.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lanes_end_with_the_worst_of_their_codes() {
        for (exits, code) in [
            (&[Exit::Success, Exit::Success][..], Exit::Success),
            (&[Exit::Success, Exit::NotDrained], Exit::NotDrained),
            (&[Exit::NotDrained, Exit::Halted], Exit::Halted),
            (&[Exit::LaneOwned, Exit::NotDrained], Exit::NotDrained),
            (&[Exit::LaneOwned, Exit::Success], Exit::LaneOwned),
        ] {
            assert_eq!(worst(exits), code, "{exits:?}");
        }
    }
}
