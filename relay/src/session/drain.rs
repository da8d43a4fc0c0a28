//! Draining: take nothing more, settle, record, send feedback, and see the server confirm it (R27).

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::own::keep_alive;
use super::stream::Pipeline;
use super::{Context, End, Ending, Sql};
use crate::observe::Phase;

/// How often a drain looks at what it waits for.
const LOOK: Duration = Duration::from_millis(20);

/// Drains under the deadline of the settings.
pub(super) async fn drain(context: &Context, ending: &Ending, sql: &Sql, pipeline: &Pipeline) -> End {
    context.observed.enter(Phase::Draining, None);
    tracing::info!(in_flight = pipeline.window.records(), "draining");
    let slot = context.settings.slot();
    let deadline = Instant::now() + context.settings.drain_timeout;
    let mut waiting_for = "the router to finish its transaction".to_owned();
    let steps = steps(context, sql, pipeline, &mut waiting_for);
    let result = tokio::select! {
        biased;
        end = ending.wait() => Err(end.sentence()),
        // Kafka may keep a drain waiting; the lane is kept meanwhile.
        end = keep_alive(sql, &slot, None) => Err(end.sentence()),
        result = timeout_at(deadline, steps) => match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("the deadline of {:?} passed", context.settings.drain_timeout)),
        },
    };
    match result {
        Ok(()) => End::Drained,
        Err(reason) => End::Undrained {
            in_flight: pipeline.window.records(),
            reason: format!("{reason} while waiting for {waiting_for}"),
        },
    }
}

async fn steps(
    context: &Context,
    sql: &Sql,
    pipeline: &Pipeline,
    waiting_for: &mut String,
) -> Result<(), String> {
    pipeline.draining.store(true, SeqCst);
    pipeline.reader.stop_reading();
    until(|| pipeline.router.is_finished()).await;
    // The reader left off within a transaction: its Kafka transaction is aborted, so that nobody sees a part of it, and
    // comes again. What is recorded is all that is published.
    if pipeline.gate.as_ref().is_some_and(|gate| gate.is_inside()) {
        return confirmed(context, sql, pipeline, waiting_for).await;
    }
    *waiting_for = "acknowledgements of the broker".into();
    until(|| pipeline.window.records() == 0).await;
    *waiting_for = "the quarantine".into();
    until(|| pipeline.desk.is_idle()).await;
    // The ledger's head follows the last report within two rounds of the poller.
    let round = pipeline.confirmations.rounds();
    until(|| pipeline.confirmations.rounds() >= round + 2).await;
    *waiting_for = "the state record".into();
    let target = pipeline.confirmations.newest().end_lsn;
    pipeline.recorder.flush();
    until(|| pipeline.recorder.recorded_up_to(target)).await;
    confirmed(context, sql, pipeline, waiting_for).await
}

/// Waits until the server has confirmed what is recorded.
async fn confirmed(
    context: &Context,
    sql: &Sql,
    pipeline: &Pipeline,
    waiting_for: &mut String,
) -> Result<(), String> {
    // Zero where the session ended before skipping was believed: then nothing was published either.
    let recorded = pipeline.positions.recorded();
    let slot = context.settings.slot();
    *waiting_for = format!("the server to confirm {recorded}");
    loop {
        // Looked at before: what it sent last may be confirmed.
        let ended = pipeline.reader.has_ended();
        let ping = sql.ping(&slot).await.map_err(|error| super::chain(&error))?;
        match ping.slot_confirmed {
            Some(confirmed) if confirmed >= recorded => {
                context.observed.slot_confirmed.set(recorded.0);
                return Ok(());
            }
            Some(confirmed) => {
                *waiting_for = format!("the server to confirm {recorded}: slot {slot} stands at {confirmed}");
            }
            None => *waiting_for = format!("the server to confirm {recorded}: slot {slot} is gone"),
        }
        if ended {
            return Err("the replication stream ended".to_owned());
        }
        sleep(LOOK).await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        sleep(LOOK).await;
    }
}
