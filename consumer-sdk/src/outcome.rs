//! What a handler says became of an event: a closed set, acted on in one place.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use crate::ladder::Failure;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is handled.
    Done,
    /// It is handled, and the inbox keeps what came of it beside the event. Of an [`external`](crate::external)
    /// handler; elsewhere the result is let go of.
    Completed {
        /// At most 64 KiB; a longer one is let go of.
        result: Vec<u8>,
    },
    /// Not this time: try again, after this long at least. Counts as a failed attempt.
    Retry {
        /// Lengthens the delay of the retry policy, never shortens it.
        after: Duration,
        /// Why, for whoever looks.
        reason: String,
    },
    /// It never will be: it is settled as rejected, with the reason, and not tried again.
    Reject {
        /// Why.
        reason: String,
    },
}

/// What handlers return. `?` works on every error; the [policy](crate::ladder) decides when it is tried again.
pub type Handled = Result<Outcome, HandlerError>;

/// The event is handled.
///
/// # Errors
/// None; it is what a handler returns.
pub fn done() -> Handled {
    Ok(Outcome::Done)
}

/// The event is handled, and this came of it: an external handler's answer from outside, kept in the inbox
/// (`inbox.settlement.result`) for whoever asks later.
///
/// # Errors
/// None; it is what a handler returns.
pub fn completed(result: impl Into<Vec<u8>>) -> Handled {
    Ok(Outcome::Completed { result: result.into() })
}

/// Not this time.
///
/// # Errors
/// None; it is what a handler returns.
pub fn retry_after(after: Duration, reason: impl Into<String>) -> Handled {
    Ok(Outcome::Retry { after, reason: reason.into() })
}

/// Never: settled as rejected.
///
/// # Errors
/// None; it is what a handler returns.
pub fn reject(reason: impl Into<String>) -> Handled {
    Ok(Outcome::Reject { reason: reason.into() })
}

/// What a batch handler says: of all events alike, or of each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Outcomes(pub(crate) Option<Vec<Outcome>>);

/// What batch handlers return. Unless every event is done nothing of the batch is committed, and what follows is for
/// [`batch`](crate::batch) to say.
pub type HandledBatch = Result<Outcomes, HandlerError>;

/// Every event of the batch is handled.
///
/// # Errors
/// None; it is what a batch handler returns.
pub fn all_done() -> HandledBatch {
    Ok(Outcomes(None))
}

/// One outcome for each event of the batch, in their order.
///
/// # Errors
/// None; it is what a batch handler returns.
pub fn each(outcomes: impl IntoIterator<Item = Outcome>) -> HandledBatch {
    Ok(Outcomes(Some(outcomes.into_iter().collect())))
}

/// An error of a handler, whatever it was. Made by `?`.
pub struct HandlerError {
    source: Box<dyn StdError + Send + Sync>,
    /// The error's type.
    class: &'static str,
    permanent: bool,
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        HandlerError { source: Box::new(error), class: std::any::type_name::<E>(), permanent: false }
    }
}

impl HandlerError {
    /// It is sure to come again: no further attempt is made.
    #[must_use]
    pub fn permanent(self) -> HandlerError {
        HandlerError { permanent: true, ..self }
    }

    /// Whether somebody said so.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The error's type, with its path.
    pub fn class(&self) -> &'static str {
        self.class
    }

    /// The error and what it came from, in one sentence.
    pub fn sentence(&self) -> String {
        sentence(self.source.as_ref())
    }

    /// How the attempt counts. Whether it was nobody's fault is not for the error to say, which may be of any database:
    /// the handler's own transaction knows (C44).
    pub(crate) fn failure(&self) -> Failure {
        if self.permanent { Failure::Permanent } else { Failure::Transient { after: Duration::ZERO } }
    }
}

/// An error and what it came from, in one sentence. Of what PostgreSQL says its detail and hint are left out: they quote
/// rows and keys, and this goes to logs, spans and dead letters.
pub(crate) fn sentence(error: &(dyn StdError + 'static)) -> String {
    let mut said = one(error);
    let mut source = error.source();
    while let Some(cause) = source {
        said.push_str(": ");
        said.push_str(&one(cause));
        source = cause.source();
    }
    said
}

fn one(error: &(dyn StdError + 'static)) -> String {
    match error.downcast_ref::<DbError>() {
        Some(refused) => {
            let (severity, message, code) = (refused.severity(), refused.message(), refused.code().code());
            let constraint =
                refused.constraint().map(|name| format!(", constraint {name}")).unwrap_or_default();
            format!("{severity}: {message} (SQLSTATE {code}{constraint})")
        }
        None => error.to_string(),
    }
}

/// Whether an error of the handler's own transaction is nobody's fault: a serialization failure, a deadlock, a database
/// that went away.
pub(crate) fn is_nobodys_fault(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        // A cancelled statement (57014) is the handler's own time-out.
        Some(code) => matches!(code, "40001" | "40P01") || code.starts_with("08") || code.starts_with("57P"),
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()),
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HandlerError { source, class, permanent } = self;
        f.debug_struct("HandlerError")
            .field("class", class)
            .field("source", source)
            .field("permanent", permanent)
            .finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())
    }
}

/// Says of an error that it is permanent: `parse(text).permanent()?`.
pub trait Permanent<T> {
    /// The error is sure to come again.
    ///
    /// # Errors
    /// The error, marked.
    fn permanent(self) -> Result<T, HandlerError>;
}

impl<T, E: Into<HandlerError>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, HandlerError> {
        self.map_err(|error| error.into().permanent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_tried_again_unless_somebody_says_that_it_is_permanent() {
        let parse = |permanent: bool| -> Handled {
            let parsed = "x".parse::<u32>();
            if permanent {
                parsed.permanent()?
            } else {
                parsed?
            };
            done()
        };
        assert_eq!(parse(false).unwrap_err().failure(), Failure::Transient { after: Duration::ZERO });
        let error = parse(true).unwrap_err();
        assert_eq!(error.failure(), Failure::Permanent);
        assert_eq!(error.sentence(), "invalid digit found in string");
    }
}
