//! Making a connection, and asking a server to stop what it does on one.
//!
//! The driver is used below its own dialling (`connect_raw`), since only so the bytes of a login can be guarded
//! whether they go through TLS or not.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Config, Connection};

use crate::dial::dial;
use crate::guard::{Guarded, Refusal, Watch};
use crate::link::Link;
use crate::session::Session;
use crate::tls::Connector;
use crate::tls::connector::{Handshake, Stream};
use crate::tls::error::TlsError;

/// Why there is no connection. Its sources say more; nothing of them is repeated in its own words.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there, or the name is not known.
    #[error("PostgreSQL at {place} cannot be reached")]
    Unreachable {
        /// Host and port.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// A connection was made, and no login within the time.
    #[error("PostgreSQL at {place} let nobody in within {} s", limit.as_secs())]
    Silent {
        /// Host and port.
        place: String,
        /// The time.
        limit: Duration,
    },
    /// A file of TLS that was good at the start is not any more.
    #[error("TLS to PostgreSQL at {place} cannot be set up")]
    Tls {
        /// Host and port.
        place: String,
        /// Which, and what is wrong with it.
        source: TlsError,
    },
    /// One side refused the other, or the connection broke before the login was done.
    #[error("no login to PostgreSQL at {place}")]
    Login {
        /// Host and port.
        place: String,
        /// What the driver said; where TLS or a guard refused, their sentence is its source.
        source: tokio_postgres::Error,
    },
}

impl LinkError {
    /// Whether waiting mends nothing: somebody has to change a setting, a certificate, a role or a right.
    pub fn is_permanent(&self) -> bool {
        match self {
            LinkError::Unreachable { .. } | LinkError::Silent { .. } => false,
            LinkError::Tls { source, .. } => source.is_permanent(),
            LinkError::Login { source, .. } => match source.code() {
                // Authentication, no such database, rights and names, not supported, a setting's value.
                Some(state) => {
                    ["28", "3D", "42", "0A", "22"].iter().any(|class| state.code().starts_with(class))
                }
                None => refused(source),
            },
        }
    }
}

/// Whether TLS, the guard or the driver refused for good. An error of the system does not name what it wraps as
/// its source.
fn refused(error: &tokio_postgres::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    // What the driver does not like (no password, a login that is not bound) has a source that is its own; a
    // network's trouble has the system's, or none.
    let by_driver = cause.is_some_and(|cause| !cause.is::<io::Error>());
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<TlsError>() {
            return error.is_permanent();
        }
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return refusal.is_permanent();
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    by_driver
}

/// What moves a connection's bytes. It ends when the [`Client`] is dropped and everything it was asked for is
/// answered, or with what broke the connection; dropped before, it closes the connection at once.
#[must_use = "nothing happens on a connection whose driver is not polled"]
pub struct Driver(Connection<Guarded<TcpStream>, Guarded<Stream<TcpStream>>>);

impl Future for Driver {
    type Output = Result<(), tokio_postgres::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl Link {
    /// Connects, protected as the URL asks for, and logs in. Files of TLS are read anew for every connection.
    ///
    /// Nothing is spawned: the caller decides who owns the [`Driver`], and how it ends. [`Pool`](crate::Pool) is
    /// such a caller.
    ///
    /// A server that asks for the password in clear text is refused, over TLS as well. In the clear over a
    /// network, which takes `sslmode=disable` or `prefer` in the URL, one that asks for an MD5 hash is, too.
    ///
    /// # Errors
    ///
    /// As [`LinkError`] says, within the URL's `connect_timeout` (10 s without).
    pub async fn connect(&self, session: &Session) -> Result<(Client, Driver), LinkError> {
        let mut config = Config::new();
        let url = &self.url;
        let name = url.application_name.as_ref().unwrap_or(&session.application_name);
        config.user(&url.user).dbname(&url.database).application_name(name).options(&session.options);
        if let Some(password) = &url.password {
            config.password(password.expose_secret());
        }
        let deadline = Instant::now() + self.connect_timeout;
        let (stream, handshake) = self.open(&mut config, deadline).await?;
        let (client, connection) = self.within(deadline, config.connect_raw(stream, handshake)).await?;
        Ok((client, Driver(connection)))
    }

    /// Asks the server to stop what it does on the connection that the token is of, over a connection of its
    /// own. It may come too late: what is sent on that connection next may be stopped in its place, so nothing
    /// should be.
    ///
    /// # Errors
    ///
    /// As for [`Link::connect`]. That the server stopped anything is not known without an error, either.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), LinkError> {
        let deadline = Instant::now() + self.connect_timeout;
        let (stream, handshake) = self.open(&mut Config::new(), deadline).await?;
        self.within(deadline, token.cancel_query_raw(stream, handshake)).await
    }

    /// A guarded connection that has said nothing yet, and what makes TLS of it.
    async fn open(
        &self,
        config: &mut Config,
        deadline: Instant,
    ) -> Result<(Guarded<TcpStream>, GuardedHandshake), LinkError> {
        let (url, place) = (&self.url, || self.place());
        let mut connector = Connector::new(&url.transport, &url.host, config);
        let handshake = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &url.host)
            .map_err(|source| LinkError::Tls { place: place(), source })?;
        let stream = dial(&url.host, url.port, deadline)
            .await
            .map_err(|source| LinkError::Unreachable { place: place(), source })?;
        let watch = Watch::outside(&url.transport, &url.host);
        Ok((Guarded::new(stream, watch), GuardedHandshake(handshake)))
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        doing: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, LinkError> {
        let place = || self.place();
        match timeout_at(deadline, doing).await {
            Ok(done) => done.map_err(|source| LinkError::Login { place: place(), source }),
            Err(_) => Err(LinkError::Silent { place: place(), limit: self.connect_timeout }),
        }
    }
}

/// A handshake after which what is said within TLS is guarded.
struct GuardedHandshake(Handshake);

impl TlsConnect<Guarded<TcpStream>> for GuardedHandshake {
    type Stream = Guarded<Stream<TcpStream>>;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, TlsError>> + Send>>;

    fn connect(self, stream: Guarded<TcpStream>) -> Self::Future {
        let (stream, watch) = stream.into_inner();
        Box::pin(async move { Ok(Guarded::new(self.0.connect(stream).await?, watch)) })
    }
}

#[cfg(test)]
mod tests;
