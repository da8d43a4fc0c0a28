//! Dialling, and how soon a server that is gone is noticed.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// A connection without traffic is probed after this.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// And from then on in this interval.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Until so many probes were not answered.
pub const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and is not acknowledged for this long ends the connection (Linux' `TCP_USER_TIMEOUT`).
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Connects to the first address of the host that answers before `deadline`.
pub(crate) async fn dial(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let looked_up = timeout_at(deadline, lookup_host((host, port))).await;
    let addresses: Vec<_> = looked_up.unwrap_or_else(|_| Err(late()))?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // Each address has its share of the time that is left: one that is silent must not use up another's.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(late())).and_then(prepared) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    // A statement is a small packet that somebody waits for.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}
