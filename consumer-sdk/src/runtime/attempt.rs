//! One call of a handler, and what it came to.

use std::any::Any;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::Shared;
use crate::handler::Answer;
use crate::ladder::Failure;
use crate::metrics::counts::{Cause, Ended, Named};
pub(super) use crate::outcome::sentence;
use crate::outcome::{Handled, HandlerError, Outcome, is_nobodys_fault};
use crate::record::Record;
use crate::trace;

/// A failure that counts, and may be over next time.
pub(super) const TRANSIENT: Failure = Failure::Transient { after: Duration::ZERO };

/// Bytes of a result that the inbox takes.
const MOST_OF_RESULT: usize = 64 << 10;

/// Causes of our own, as dead letters are grouped by them.
const PANIC: &str = "panic";
const RETRY: &str = "retry";
const PASSED_OVER: &str = "passed_over_error";
const UNREADABLE: &str = "unreadable";
/// The database refused to commit what the handler had done.
const NOT_COMMITTED: &str = "commit_refused";
/// No handler is registered for the type.
pub(super) const UNREGISTERED: &str = "unregistered_type";
/// There is no type.
pub(super) const NO_TYPE: &str = "no_type";
/// There is no id.
pub(super) const NO_ID: &str = "no_id";
/// It ended the process, again and again.
pub(super) const KILLS: &str = "kills_the_process";
/// It is older than what the inbox remembers: there is no place for its row.
pub(super) const TOO_OLD: &str = "older_than_dedup";

/// Why an event is not done: what dead letters are grouped by, and a sentence.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    /// One word: the error's type without its path, or ours.
    pub(super) cause: String,
    /// The error's type with its path, where there is one.
    pub(super) class: Option<&'static str>,
    /// Never the payload's content, unless the handler's own error quotes it.
    pub(super) said: String,
    /// Attempts that are known of, where they are more than those that have failed here.
    pub(super) attempts: u32,
}

impl Reason {
    pub(super) fn new(cause: &str, said: impl Into<String>) -> Reason {
        Reason { cause: cause.to_owned(), class: None, said: said.into(), attempts: 0 }
    }

    /// How its dead letter is counted.
    pub(super) fn counted(&self, failure: Failure) -> Cause {
        match self.cause.as_str() {
            TOO_OLD => Cause::TooOld,
            KILLS => Cause::Killed,
            UNREGISTERED => Cause::Unregistered,
            NO_TYPE | NO_ID | UNREADABLE => Cause::Unreadable,
            _ if failure == Failure::Permanent => Cause::Permanent,
            _ => Cause::Exhausted,
        }
    }

    pub(super) fn of(error: &HandlerError) -> Reason {
        let path = error.class();
        let bare = path.split('<').next().unwrap_or(path);
        let cause = bare.rsplit("::").next().unwrap_or(bare).to_owned();
        Reason { cause, class: Some(path), said: error.sentence(), attempts: 0 }
    }
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The handler's work is done.
    Done(Option<Vec<u8>>),
    /// It never will be.
    Rejected(String),
    /// It has failed.
    Failed(Failure, Reason),
    /// It ran out of time, and its connection may be in the middle of a statement.
    TimedOut(Duration),
}

impl Attempt {
    /// A statement failed, and the handler says that all is well.
    pub(super) fn passed_over() -> Attempt {
        let said = "a statement had failed, and the handler passed over its error: nothing was committed";
        Attempt::Failed(TRANSIENT, Reason::new(PASSED_OVER, said))
    }

    /// The same, where the handler's transaction or its connection failed through nobody's fault: an error of the handler's
    /// counts no attempt then (C44). What it says itself, a panic, and what is sure to come again stand.
    pub(super) fn through_nobodys_fault(self) -> Attempt {
        match self {
            Attempt::Failed(Failure::Transient { .. }, reason) if reason.class.is_some() => {
                Attempt::Failed(Failure::Uncounted, reason)
            }
            other => other,
        }
    }

    /// The database refused to commit what the handler had done.
    pub(super) fn not_committed(error: tokio_postgres::Error) -> Attempt {
        let failure = if is_nobodys_fault(&error) { Failure::Uncounted } else { TRANSIENT };
        let reason = Reason::of(&HandlerError::from(error));
        Attempt::Failed(failure, Reason { cause: NOT_COMMITTED.into(), ..reason })
    }

    /// How it is counted.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Attempt::Done(_) => Ended::Done,
            Attempt::Rejected(_) => Ended::Rejected,
            Attempt::TimedOut(_) => Ended::TimedOut,
            Attempt::Failed(Failure::Permanent, _) => Ended::Permanent,
            Attempt::Failed(Failure::Uncounted, _) => Ended::Conflict,
            Attempt::Failed(Failure::Transient { .. }, reason) => match reason.cause.as_str() {
                PANIC => Ended::Panicked,
                RETRY => Ended::Retry,
                NOT_COMMITTED | PASSED_OVER => Ended::NotCommitted,
                _ => Ended::Failed,
            },
        }
    }

    /// What it says of the attempts of other events; `None` where it says nothing.
    pub(super) fn is_failure(&self) -> Option<bool> {
        match self {
            Attempt::Done(_) | Attempt::Rejected(_) => Some(false),
            Attempt::Failed(Failure::Uncounted, _) => None,
            Attempt::Failed(..) | Attempt::TimedOut(_) => Some(true),
        }
    }

    /// How it counts; `None` where it did not fail.
    pub(super) fn failure(self) -> Option<(Failure, Reason)> {
        match self {
            Attempt::Done(_) | Attempt::Rejected(_) => None,
            Attempt::Failed(failure, reason) => Some((failure, reason)),
            Attempt::TimedOut(limit) => {
                Some((TRANSIENT, Reason::new("timeout", format!("the handler took longer than {limit:?}"))))
            }
        }
    }
}

/// Calls the handler, in a span of its own; also how long it took. A panic is a failed attempt, never a dead process.
pub(super) async fn attempt(
    shared: &Shared,
    record: &Record,
    id: Uuid,
    begin: impl FnOnce() -> Result<Answer, String>,
    limit: Duration,
) -> (Attempt, Duration) {
    let names = shared.registered.metrics.names();
    let span = trace::handling(&names.consumer, &names.group, record, id, record.tries.counted + 1);
    let at = Instant::now();
    let came_to = match span.in_scope(|| begun(begin)) {
        Ok(answer) => judge(answer, limit).instrument(span.clone()).await,
        Err(attempt) => attempt,
    };
    let took = at.elapsed();
    tell(&span, &came_to);
    (came_to, took)
}

/// What a call comes to before it waits for anything.
pub(super) enum First {
    /// It has ended.
    Ended(Attempt),
    /// It waits.
    Waits(Called),
}

/// A call that waits.
pub(super) struct Called {
    answer: Answer,
    span: Span,
    began: Instant,
}

/// Calls the handler as [`attempt`] does, as far as it comes without waiting. It `began` at the time that is given.
pub(super) fn first(
    shared: &Shared,
    record: &Record,
    id: Uuid,
    begin: impl FnOnce() -> Result<Answer, String>,
    began: Instant,
    cx: &mut Context<'_>,
) -> First {
    let names = shared.registered.metrics.names();
    let span = trace::handling(&names.consumer, &names.group, record, id, record.tries.counted + 1);
    let entered = span.enter();
    let came_to = match begun(begin) {
        Err(attempt) => attempt,
        Ok(mut answer) => {
            let polled = panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx)));
            match polled {
                Ok(Poll::Ready(handled)) => judged(handled),
                Err(panic) => panicked(panic.as_ref()),
                Ok(Poll::Pending) => {
                    drop(entered);
                    return First::Waits(Called { answer, span, began });
                }
            }
        }
    };
    drop(entered);
    tell(&span, &came_to);
    First::Ended(came_to)
}

impl Called {
    /// The rest of it, and how long all of it took.
    pub(super) async fn rest(self, limit: Duration) -> (Attempt, Duration) {
        let Called { answer, span, began } = self;
        let left = limit.saturating_sub(began.elapsed());
        let came_to = match judge(answer, left).instrument(span.clone()).await {
            Attempt::TimedOut(_) => Attempt::TimedOut(limit),
            came_to => came_to,
        };
        tell(&span, &came_to);
        (came_to, began.elapsed())
    }
}

/// Says in the trace how an attempt failed.
fn tell(span: &Span, came_to: &Attempt) {
    match came_to {
        Attempt::Done(_) => {}
        Attempt::Rejected(said) => trace::failed(span, came_to.ended().name(), said),
        Attempt::Failed(_, reason) => trace::failed(span, &reason.cause, &reason.said),
        Attempt::TimedOut(_) => trace::failed(span, came_to.ended().name(), "the handler took too long"),
    }
}

/// Begins a call; an `Err` where nobody ran, or panicked at once.
pub(super) fn begun<A>(begin: impl FnOnce() -> Result<A, String>) -> Result<A, Attempt> {
    match panic::catch_unwind(AssertUnwindSafe(begin)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(said)) => Err(unreadable(said)),
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

/// The payload is not what the handler takes.
pub(super) fn unreadable(said: String) -> Attempt {
    Attempt::Failed(Failure::Permanent, Reason::new(UNREADABLE, said))
}

/// Waits for an answer, so long.
pub(super) async fn within<T>(
    answer: impl Future<Output = Result<T, HandlerError>>,
    limit: Duration,
) -> Result<T, Attempt> {
    match tokio::time::timeout(limit, AssertUnwindSafe(answer).catch_unwind()).await {
        Err(_) => Err(Attempt::TimedOut(limit)),
        Ok(Err(panic)) => Err(panicked(panic.as_ref())),
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(Attempt::Failed(error.failure(), Reason::of(&error))),
    }
}

async fn judge(answer: impl Future<Output = Handled>, limit: Duration) -> Attempt {
    match within(answer, limit).await {
        Ok(outcome) => done(outcome),
        Err(attempt) => attempt,
    }
}

fn judged(handled: Handled) -> Attempt {
    match handled {
        Ok(outcome) => done(outcome),
        Err(error) => Attempt::Failed(error.failure(), Reason::of(&error)),
    }
}

fn done(outcome: Outcome) -> Attempt {
    match outcome {
        Outcome::Done => Attempt::Done(None),
        Outcome::Completed { result } if result.len() > MOST_OF_RESULT => {
            // The call is made, and the inbox would refuse to settle it.
            tracing::error!(bytes = result.len(), "a result of more than 64 KiB is not kept");
            Attempt::Done(None)
        }
        Outcome::Completed { result } => Attempt::Done(Some(result)),
        Outcome::Retry { after, reason } => {
            Attempt::Failed(Failure::Transient { after }, Reason::new(RETRY, reason))
        }
        Outcome::Reject { reason } => Attempt::Rejected(reason),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Attempt {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    let said = said.map_or("the handler panicked".into(), |said| format!("the handler panicked: {said}"));
    Attempt::Failed(TRANSIENT, Reason::new(PANIC, said))
}
