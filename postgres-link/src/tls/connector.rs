//! TLS for the SQL driver.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{ChannelBinding as DriverBinding, SslMode as DriverMode};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::error::{TlsError, TlsTrouble};
use super::{Client, binding, server_certificate};
use crate::transport::{self, SslMode, Transport};

/// Makes the driver's connections to one server.
#[derive(Debug)]
pub struct Connector {
    transport: Transport,
    host: String,
}

impl Connector {
    /// For connections to `host`. Tells the driver what it decides itself: whether a server without TLS and a
    /// login without channel binding will do.
    pub fn new(transport: &Transport, host: &str, config: &mut tokio_postgres::Config) -> Connector {
        config.ssl_mode(match transport.mode {
            SslMode::Disable => DriverMode::Disable,
            SslMode::Prefer => DriverMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => DriverMode::Require,
        });
        config.channel_binding(match transport.channel_binding {
            transport::ChannelBinding::Disable => DriverBinding::Disable,
            transport::ChannelBinding::Prefer => DriverBinding::Prefer,
            transport::ChannelBinding::Require => DriverBinding::Require,
        });
        Connector { transport: transport.clone(), host: host.to_owned() }
    }
}

impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = TlsError;

    fn make_tls_connect(&mut self, _: &str) -> Result<Handshake, TlsError> {
        Client::new(&self.transport, &self.host).map(Handshake)
    }
}

/// One handshake.
#[derive(Debug)]
pub struct Handshake(Option<Client>);

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream<S>, TlsError>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            // The driver does not come here where the mode is `disable`.
            let Some(client) = self.0 else { return Err(TlsError::not_offered()) };
            let connecting = TlsConnector::from(client.config.clone()).connect(client.name.clone(), stream);
            let stream = connecting.await.map_err(|error| explain(&client, error))?;
            Ok(Stream(stream))
        })
    }
}

/// tokio-rustls wraps the error of a handshake into one of the system.
fn explain(client: &Client, error: io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(inner) => client.explain(inner.clone()),
        None => {
            let sentence = format!("the server at {} broke off the TLS handshake: {error}", client.host);
            TlsError::new(TlsTrouble::Broken, sentence, None)
        }
    }
}

/// The driver's connection.
#[derive(Debug)]
pub struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = server_certificate(self.0.get_ref().1);
        certificate
            .and_then(|certificate| binding::server_end_point(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
