//! One call of a handler, and what it came to.

use std::any::Any;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use futures_util::FutureExt;

use crate::handler::Answer;
use crate::ladder::Failure;
use crate::outcome::{Handled, HandlerError, Outcome};

/// A failure that counts, and may be over next time.
pub(super) const TRANSIENT: Failure = Failure::Transient { after: Duration::ZERO };

/// Why an event is not done: what dead letters are grouped by, and a sentence.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    /// One word: the error's type without its path, or ours.
    pub(super) cause: String,
    /// The error's type with its path, where there is one.
    pub(super) class: Option<&'static str>,
    /// Never the payload's content, unless the handler's own error quotes it.
    pub(super) said: String,
}

impl Reason {
    pub(super) fn new(cause: &str, said: impl Into<String>) -> Reason {
        Reason { cause: cause.to_owned(), class: None, said: said.into() }
    }

    pub(super) fn of(error: &HandlerError) -> Reason {
        let path = error.class();
        let bare = path.split('<').next().unwrap_or(path);
        let cause = bare.rsplit("::").next().unwrap_or(bare).to_owned();
        Reason { cause, class: Some(path), said: error.sentence() }
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
        Attempt::Failed(TRANSIENT, Reason::new("passed_over_error", said))
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

/// Calls the handler. A panic is a failed attempt, never a dead process.
pub(super) async fn attempt(begin: impl FnOnce() -> Result<Answer, String>, limit: Duration) -> Attempt {
    match begun(begin) {
        Ok(answer) => judge(answer, limit).await,
        Err(attempt) => attempt,
    }
}

/// Begins a call; an `Err` where nobody ran, or panicked at once.
pub(super) fn begun<A>(begin: impl FnOnce() -> Result<A, String>) -> Result<A, Attempt> {
    match panic::catch_unwind(AssertUnwindSafe(begin)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(unreadable)) => {
            Err(Attempt::Failed(Failure::Permanent, Reason::new("unreadable", unreadable)))
        }
        Err(panic) => Err(panicked(panic.as_ref())),
    }
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
        Ok(Outcome::Done) => Attempt::Done(None),
        Ok(Outcome::Completed { result }) => Attempt::Done(Some(result)),
        Ok(Outcome::Retry { after, reason }) => {
            Attempt::Failed(Failure::Transient { after }, Reason::new("retry", reason))
        }
        Ok(Outcome::Reject { reason }) => Attempt::Rejected(reason),
        Err(attempt) => attempt,
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Attempt {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    let said = said.map_or("the handler panicked".into(), |said| format!("the handler panicked: {said}"));
    Attempt::Failed(TRANSIENT, Reason::new("panic", said))
}

/// An error and what it came from, in one sentence.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        source = cause.source();
    }
    said
}
