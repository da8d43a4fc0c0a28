//! A lane: one slot with its pipeline, from session to session. A relay runs a list of lanes, one unless
//! configured, so that an unavailable topic of one stalls no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Settings;
use crate::observe::{Observed, Phase};
use crate::session::{self, Context, End};

/// First and longest pause between two sessions.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A session that lived so long has worked: the next failure begins with the first pause again.
const HAS_WORKED: Duration = Duration::from_secs(30);

/// How a lane's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Told to stop, and everything in flight was acknowledged, recorded and confirmed.
    Drained,
    /// Told to stop, and the deadline passed first; the sentence says what is left.
    Undrained(String),
    /// Stopped for good; the sentence says what was seen and what to do.
    Halted(String),
    /// Another relay owns the lane, and waiting was not wanted.
    Owned(String),
}

/// Runs a lane until it is told to stop or halts.
pub async fn run(
    settings: Arc<Settings>,
    observed: Arc<Observed>,
    shutdown: watch::Receiver<bool>,
    no_wait: bool,
) -> Outcome {
    let context = Context {
        settings,
        lane: 0,
        observed,
        shutdown,
        no_wait,
        outstanding: Arc::default(),
        owned: Arc::default(),
        refusals: Arc::default(),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let end = session::run(&context).await;
        if began.elapsed() >= HAS_WORKED {
            pause = FIRST_PAUSE;
        }
        let again = matches!(end, End::Again(_));
        if let Some(outcome) = settle(&context, end) {
            return outcome;
        }
        if again {
            continue;
        }
        context.observed.reconnects.add(1);
        let mut shutdown = context.shutdown.clone();
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return stopped(&context),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Told to stop while nothing streams: after a drain, before the first session streamed, or between two.
fn stopped(context: &Context) -> Outcome {
    if context.outstanding.is_any() {
        let sentence = "not drained: told to stop after a session had been lost, before all that it had in flight was seen confirmed";
        context.observed.error(sentence.into());
        return Outcome::Undrained(sentence.into());
    }
    tracing::info!("drained: everything published is confirmed");
    Outcome::Drained
}

/// One session's end: the lane's outcome, or `None` to begin another session.
fn settle(context: &Context, end: End) -> Option<Outcome> {
    let observed = &context.observed;
    match end {
        End::Drained => Some(stopped(context)),
        End::Undrained { in_flight, reason } => {
            let sentence = format!("not drained: {in_flight} records in flight; {reason}");
            observed.error(sentence.clone());
            Some(Outcome::Undrained(sentence))
        }
        End::Halt(sentence) => {
            observed.error(sentence.clone());
            observed.enter(Phase::Halted, Some(sentence.clone()));
            Some(Outcome::Halted(sentence))
        }
        End::Standby(sentence) if context.refuses_to_wait() => Some(Outcome::Owned(sentence)),
        End::Standby(sentence) | End::Fenced(sentence) => {
            tracing::info!("standing by: {sentence}");
            observed.enter(Phase::Standby, Some(sentence));
            None
        }
        End::Again(sentence) => {
            tracing::info!("beginning anew: {sentence}");
            None
        }
        End::ServerGoing(sentence) | End::Reconnect(sentence) => {
            tracing::warn!("reconnecting: {sentence}");
            observed.error(sentence.clone());
            observed.enter(Phase::Connecting, Some(sentence));
            None
        }
    }
}
