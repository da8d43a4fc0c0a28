//! The admin port's connections, bounded in number and in patience.
//!
//! A probe that hangs, or a client that opens connections and says nothing, must not use up the
//! process's file descriptors: those belong to PostgreSQL and Kafka.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections served at once; further ones wait in the system's queue.
pub const MAX_CONNECTIONS: usize = 64;

/// A connection on which no byte moves for this long is closed. Longer than the usual scrape interval
/// of 15 to 60 s, so that a scraper keeps its connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Accepts a bounded number of connections at a time.
#[derive(Debug)]
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl BoundedListener {
    /// With [`MAX_CONNECTIONS`] and [`IDLE_TIMEOUT`].
    pub fn new(listener: TcpListener) -> Self {
        Self::with_bounds(listener, MAX_CONNECTIONS, IDLE_TIMEOUT)
    }

    /// With bounds of one's own.
    pub fn with_bounds(listener: TcpListener, connections: usize, idle: Duration) -> Self {
        BoundedListener { listener, places: Arc::new(Semaphore::new(connections)), idle }
    }
}

impl Listener for BoundedListener {
    type Io = PatientStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (PatientStream, SocketAddr) {
        let Ok(place) = self.places.clone().acquire_owned().await else {
            // The semaphore is never closed; if it were, nobody could be served again.
            return std::future::pending().await;
        };
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let patience = Box::pin(tokio::time::sleep(self.idle));
        (PatientStream { stream, patience, idle: self.idle, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends with an error once nothing has moved on it for the idle time.
#[derive(Debug)]
pub struct PatientStream {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    idle: Duration,
    _place: OwnedSemaphorePermit,
}

impl PatientStream {
    fn settle<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.patience.as_mut().reset(Instant::now() + self.idle);
            return poll;
        }
        self.patience.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.settle(cx, poll)
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.settle(cx, poll)
    }

    // Neither of these two moves bytes of a TCP stream, so neither counts as a sign of life.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn listening(connections: usize, idle: Duration) -> (BoundedListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (BoundedListener::with_bounds(listener, connections, idle), address)
    }

    #[tokio::test]
    async fn a_silent_connection_ends() {
        let (mut listener, address) = listening(1, Duration::from_millis(20)).await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = listener.accept().await;
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_full_house_takes_the_next_when_one_goes() {
        let (mut listener, address) = listening(1, IDLE_TIMEOUT).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let (mut served, _) = listener.accept().await;
        first.write_all(b"x").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'x');

        let next = listener.accept();
        tokio::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending(), "both are served at once");
        drop(served);
        next.await;
    }
}
