//! One connection in command mode: messages in, messages out, deadlines.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use outbox_postgres_link::transport::Transport;
use postgres_protocol::message::backend::{Header, Message};
use secrecy::SecretString;

use super::channel::{self, Channel};
use super::error::{ServerError, WireError};
use super::{secure, socket, startup};
use crate::config::ReceiveBuffer;

/// Longest message accepted in command mode. The longest real one is a timeline's history.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Where to connect, as whom, and for how long to wait.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Its password, if the server asks for one; never printed.
    pub password: Option<SecretString>,
    /// Database whose changes are read.
    pub database: String,
    /// Shown in `pg_stat_replication`.
    pub application_name: String,
    /// How the connection is protected.
    pub transport: Transport,
    /// Limit of dialling and logging in together.
    pub connect_timeout: Duration,
    /// `wal_sender_timeout` of the session.
    pub wal_sender_timeout: Duration,
    /// How much of what the server sends the kernel holds.
    pub receive_buffer: ReceiveBuffer,
}

/// A replication connection that takes commands, until [`start_replication`](Self::start_replication)
/// makes it a stream. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    pub(super) channel: Channel,
    pub(super) inbox: BytesMut,
    pub(super) backend_pid: i32,
    server_version: String,
}

/// Until when an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// For this long from `since` on.
    Limited { since: Instant, within: Duration },
    /// Until it comes, or until somebody [interrupts](Interrupt::interrupt).
    Unlimited,
}

impl Patience {
    /// From now on.
    pub(super) fn within(within: Duration) -> Self {
        Patience::Limited { since: Instant::now(), within }
    }

    /// How long is left, more than nothing; `None` without a limit.
    pub(super) fn left(self, doing: &'static str) -> Result<Option<Duration>, WireError> {
        match self {
            Patience::Unlimited => Ok(None),
            Patience::Limited { since, within } => {
                let left = within.saturating_sub(since.elapsed());
                if left.is_zero() { Err(WireError::NoAnswer { doing, within }) } else { Ok(Some(left)) }
            }
        }
    }
}

/// What reading or writing ran into.
pub(super) fn failed(doing: &'static str, error: io::Error) -> WireError {
    channel::tls_error(error).map_or_else(|source| WireError::Io { doing, source }, WireError::Tls)
}

impl Connection {
    /// Connects and logs in, with `replication=database` and settings that make the server's output
    /// independent of what role or database have set.
    ///
    /// # Errors
    ///
    /// Every kind of [`WireError`]: no connection, no TLS, no agreement on how to log in, a refusal by the server
    /// (wrong password, no such database, no right to replicate, too many walsenders, starting up or
    /// shutting down), no answer within [`Target::connect_timeout`].
    pub fn connect(target: &Target) -> Result<Connection, WireError> {
        let patience = Patience::within(target.connect_timeout);
        let socket = socket::dial(target, Instant::now() + target.connect_timeout)?;
        let mut connection = Connection {
            channel: Channel::clear(socket),
            inbox: BytesMut::new(),
            backend_pid: 0,
            server_version: String::new(),
        };
        secure::secure(&mut connection, target, patience)?;
        startup::log_in(&mut connection, target, patience)?;
        Ok(connection)
    }

    /// Process id of the server's end, as `pg_replication_slots.active_pid` shows it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The server's major version; 0 where it does not say.
    pub fn major(&self) -> u32 {
        let digits: String = self.server_version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }

    /// The server's version as it says it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// A handle with which another thread can end what this connection waits for.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt::new(self.channel.socket())
    }

    /// Sends what `write` puts into a buffer.
    pub(super) fn send(
        &mut self,
        doing: &'static str,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        write(&mut out).and_then(|()| self.channel.send(&out)).map_err(|error| failed(doing, error))
    }

    /// The next message that says something: notices are logged, and settings the server reports are
    /// passed over but for its version. An ErrorResponse is returned as an error.
    pub(super) fn receive(&mut self, doing: &'static str, patience: Patience) -> Result<Message, WireError> {
        loop {
            self.await_message(doing, patience)?;
            if let Some(message) = self.take_message(doing)? {
                return Ok(message);
            }
        }
    }

    /// Waits until a whole message stands at the front of the inbox; returns its first byte and length.
    pub(super) fn await_message(
        &mut self,
        doing: &'static str,
        patience: Patience,
    ) -> Result<(u8, usize), WireError> {
        loop {
            let malformed = |source| WireError::Protocol {
                doing,
                what: "a message with an impossible length".to_owned(),
                source: Some(source),
            };
            if let Some(header) = Header::parse(&self.inbox).map_err(malformed)? {
                // The length counts itself but not the byte before it, and is at least 4.
                let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
                if length > MAX_ANSWER {
                    return Err(WireError::protocol(doing, format!("a message of {length} bytes")));
                }
                if self.inbox.len() >= length {
                    return Ok((header.tag(), length));
                }
            }
            self.fill(doing, patience)?;
        }
    }

    /// Takes the message at the front of the inbox; `None` if it was only for the log.
    pub(super) fn take_message(&mut self, doing: &'static str) -> Result<Option<Message>, WireError> {
        let malformed = |source| WireError::Protocol {
            doing,
            what: "a message that cannot be read".to_owned(),
            source: Some(source),
        };
        match Message::parse(&mut self.inbox).map_err(malformed)? {
            None => Ok(None),
            Some(Message::ErrorResponse(body)) => {
                let error = Box::new(ServerError::from_fields(body.fields()));
                Err(WireError::Server { doing, error })
            }
            Some(Message::NoticeResponse(body)) => {
                tracing::debug!(notice = %ServerError::from_fields(body.fields()), "the server remarks");
                Ok(None)
            }
            Some(Message::ParameterStatus(body)) => {
                if body.name().is_ok_and(|name| name == "server_version") {
                    self.server_version = body.value().unwrap_or_default().to_owned();
                }
                Ok(None)
            }
            Some(message) => Ok(Some(message)),
        }
    }

    /// Waits for more bytes.
    pub(super) fn fill(&mut self, doing: &'static str, patience: Patience) -> Result<(), WireError> {
        let mut bytes = [0; 8192];
        loop {
            let timeout = patience.left(doing)?;
            match self.channel.receive(&mut bytes, timeout) {
                Ok(0) => return Err(WireError::Closed { doing }),
                Ok(count) => {
                    self.inbox.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(failed(doing, error)),
            }
        }
    }
}

/// Whether a read ended only because its time was over or a signal came.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Ends a connection from another thread: whatever waits on it returns at once with an error. Holds the
/// connection only weakly, so a handle that is kept does not keep a slot busy.
#[derive(Clone)]
pub struct Interrupt(Weak<TcpStream>);

impl Interrupt {
    pub(super) fn new(socket: &Arc<TcpStream>) -> Self {
        Interrupt(Arc::downgrade(socket))
    }

    /// Shuts the connection down in both directions; does nothing if it is gone.
    pub fn interrupt(&self) {
        if let Some(socket) = self.0.upgrade() {
            // The only failure is a connection that is closed already, which is what was wanted.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupt")
    }
}
