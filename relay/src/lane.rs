//! A lane: one slot with its pipeline, from session to session. A relay runs a list of lanes, one unless
//! configured, so that an unavailable topic of one stalls no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::{Answer, Settings};
use crate::observe::{Observed, Phase};
use crate::session::compare::HaltReason;
use crate::session::{self, Context, End, Ended};

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
    let mut context = Context {
        settings,
        lane: 0,
        observed,
        shutdown,
        no_wait,
        outstanding: Arc::default(),
        owned: Arc::default(),
        logged_in: Arc::default(),
        refusals: Arc::default(),
        found: Arc::default(),
    };
    let mut places = Places::of(context.settings.places());
    let mut pause = FIRST_PAUSE;
    loop {
        context.settings = places.here();
        let began = Instant::now();
        let Ended { end, had_begun } = session::run(&context).await;
        if began.elapsed() >= HAS_WORKED {
            pause = FIRST_PAUSE;
        }
        let again = matches!(end, End::Again(_) | End::Astray(_));
        let elsewhere = matches!(end, End::Reconnect(_) | End::ServerGoing(_)) && !had_begun;
        if let Some(outcome) = settle(&context, end) {
            return outcome;
        }
        if again || elsewhere && places.next_one() {
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

/// The servers of which one is the primary, tried in turn.
struct Places<T> {
    all: Vec<Arc<T>>,
    at: usize,
    tried: usize,
}

impl<T> Places<T> {
    fn of(all: Vec<T>) -> Places<T> {
        Places { all: all.into_iter().map(Arc::new).collect(), at: 0, tried: 0 }
    }

    fn here(&self) -> Arc<T> {
        self.all[self.at].clone()
    }

    /// Goes on to the next; false once all have been tried, after which it is time for a pause.
    fn next_one(&mut self) -> bool {
        self.at = (self.at + 1) % self.all.len();
        self.tried = (self.tried + 1) % self.all.len();
        self.tried != 0
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

fn fills(context: &Context, reason: &HaltReason) -> bool {
    let recovery = &context.settings.recovery;
    reason.loss().is_some_and(|loss| recovery.answer(loss) == Answer::Fill)
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
        // What the stream shows has no place in the comparison of the next session, which is told of it.
        End::Astray(reason) if fills(context, &reason) => {
            tracing::warn!("{reason}");
            *context.found.lock() = Some(*reason);
            None
        }
        End::Astray(reason) => settle(context, End::Halt(reason.to_string())),
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
        End::LogIn(sentence) if !context.may_log_in_later() => settle(context, End::Halt(sentence)),
        End::Distrust(sentence) if !context.may_be_trusted_later() => settle(context, End::Halt(sentence)),
        End::LogIn(sentence)
        | End::Distrust(sentence)
        | End::ServerGoing(sentence)
        | End::Reconnect(sentence) => {
            tracing::warn!("reconnecting: {sentence}");
            observed.error(sentence.clone());
            observed.enter(Phase::Connecting, Some(sentence));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_tried_before_a_pause() {
        let mut places = Places::of(vec!['a', 'b', 'c']);
        let tried: Vec<(char, bool)> = (0..6).map(|_| (*places.here(), places.next_one())).collect();
        let round = [('a', true), ('b', true), ('c', false)];
        assert_eq!(tried, [round, round].concat());
    }
}
