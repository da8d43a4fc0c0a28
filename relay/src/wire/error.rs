//! What can go wrong on the replication connection, with what the server said.

use std::fmt;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use outbox_postgres_link::tls::error::TlsError;
use postgres_protocol::message::backend::ErrorFields;

/// Why the replication connection could not do what it was asked to. Never holds the password.
///
/// `doing` completes the sentence "... while ..." and is one of a few fixed phrases.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No TCP connection.
    #[error("cannot connect to PostgreSQL at {host}:{port}")]
    Connect {
        /// Host as configured.
        host: String,
        /// Port as configured.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the replication connection failed while {doing}")]
    Io {
        /// What was going on.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The other side closed the connection without a word.
    #[error("the server closed the replication connection while {doing}")]
    Closed {
        /// What was going on.
        doing: &'static str,
    },
    /// No answer in time.
    #[error("the server did not answer within {within:?} while {doing}")]
    NoAnswer {
        /// What was going on.
        doing: &'static str,
        /// How long the relay waited.
        within: Duration,
    },
    /// No TLS connection.
    #[error(transparent)]
    Tls(TlsError),
    /// The two sides cannot agree on how to log in, or the server failed to prove that it knows the
    /// password. (A password that the server refuses is a [`WireError::Server`] with SQLSTATE `28P01`.)
    #[error("cannot log in to PostgreSQL: {reason}")]
    Authentication {
        /// What to do about it.
        reason: &'static str,
        /// What failed, where there is more to say.
        #[source]
        source: Option<io::Error>,
    },
    /// `channel_binding=require`, and there is none.
    #[error(
        "channel_binding=require cannot be kept: {why}; it takes TLS on the server and `scram-sha-256` for the relay's role \
         in pg_hba.conf"
    )]
    Unbound {
        /// What is missing.
        why: &'static str,
    },
    /// The other side does not speak the protocol as expected.
    #[error("unexpected answer while {doing}: {what}")]
    Protocol {
        /// What was going on.
        doing: &'static str,
        /// What came instead.
        what: String,
        /// What failed, where there is more to say.
        #[source]
        source: Option<io::Error>,
    },
    /// The server refused with an ErrorResponse.
    #[error("PostgreSQL refused while {doing}")]
    Server {
        /// What was going on.
        doing: &'static str,
        /// What the server said.
        #[source]
        error: Box<ServerError>,
    },
}

impl WireError {
    /// The server's SQLSTATE, if the server said anything.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.sqlstate.as_str())
    }

    /// The server's error, if the server said anything.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            WireError::Server { error, .. } => Some(error),
            WireError::Connect { .. }
            | WireError::Io { .. }
            | WireError::Closed { .. }
            | WireError::NoAnswer { .. }
            | WireError::Tls(_)
            | WireError::Authentication { .. }
            | WireError::Unbound { .. }
            | WireError::Protocol { .. } => None,
        }
    }

    pub(super) fn protocol(doing: &'static str, what: impl Into<String>) -> Self {
        WireError::Protocol { doing, what: what.into(), source: None }
    }
}

/// The server's ErrorResponse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`; the last two end the connection.
    pub severity: String,
    /// Five characters, such as `55006`.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerError {
    /// Gathers the fields of an ErrorResponse; a field that cannot be read ends the gathering, since half
    /// an error says more than none.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = ServerError::default();
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // The untranslated severity follows the translated one and takes its place.
                b'S' | b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}
