//! `outbox-relay run`: settings, logging, a small runtime, and then the lane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::{ConfigFile, ExistingChoice, Exit, logging, runtime};
use crate::admin::{self, Identity};
use crate::config::Settings;
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
    let settings = match args.file.load(args.existing) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    logging::start(&settings.log);
    match block_on(settings, args.no_wait) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::Failure
        }
    }
}

/// Nothing per event runs on the runtime: connections, timers and the admin port need no more than two
/// threads.
fn block_on(settings: Settings, no_wait: bool) -> anyhow::Result<Exit> {
    let runtime = runtime(2)?;
    let exit = runtime.block_on(serve(settings, no_wait));
    // A step that still waits for a server must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

/// Admin port, signals and the lane; the lane's outcome is the program's end.
async fn serve(settings: Settings, no_wait: bool) -> anyhow::Result<Exit> {
    let settings = Arc::new(settings);
    let observed = Arc::new(Observed::new());
    let identity = Identity {
        relay: settings.name.clone(),
        slot: settings.slot(),
        publication: settings.publication(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guarantee: settings.delivery.guarantee.name(),
        started_at: Instant::now(),
    };
    tracing::info!(
        sslmode = settings.source.transport.mode.name(),
        kafka_protocol = settings.kafka.protocol,
        "how connections are protected"
    );
    let port = admin::bind(settings.admin.listen).await?;
    let (close, closed) = oneshot::channel::<()>();
    let served =
        tokio::spawn(admin::serve(port, observed.clone(), identity, settings.admin.clone(), async {
            // An error is a sender that is gone: closed as well.
            let _gone = closed.await;
        }));
    let (stop, stopped) = watch::channel(false);
    // Until the process ends: a second signal counts also while it closes.
    tokio::spawn(signals(stop));
    let outcome = lane::run(settings, observed, stopped, no_wait).await;
    let _nobody_listens = close.send(());
    if let Ok(Err(error)) = served.await {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    Ok(ended(&outcome))
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
