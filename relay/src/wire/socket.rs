//! Dialling, and what is set on the socket before and after.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::connection::Target;
use super::error::WireError;
use super::kernel::Kernel;
use crate::config::ReceiveBuffer;

/// The small receive buffer, set before connecting since the window scale is agreed then. A walsender is in one of two states, and this selects it: held by a small receive window, rows
/// wait in its kernel's write queue and leave in segments of tens of kilobytes; with a large window every
/// row leaves as a segment of its own, at twice the cost for both sides.
const SMALL_BUFFER: usize = 32 * 1024;

/// A server whose answers take longer is too far for the small buffer, which limits the throughput to one
/// window per round trip: at this distance to about what one walsender can do.
const FAR: Duration = Duration::from_micros(300);

/// Largest segment asked of the server beside the small buffer; set before connecting, when it is agreed. Loopback's own is
/// 64 KiB, above the small window: a sender whose segment is larger than the whole window may not send it and
/// is left with one probe per 200 ms, which was seen to last for minutes (85 rows a second). Segments still
/// travel in bundles, so this costs nothing.
const SMALL_SEGMENT: u32 = 12 * 1024;

/// Longest wait for room in the send buffer. The relay sends a few dozen bytes a second, so a server that
/// takes none of them for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the first address of the target's host that answers before `deadline`.
pub(super) fn dial(target: &Target, deadline: Instant) -> Result<TcpStream, WireError> {
    let failed = |source| WireError::Connect { host: target.host.clone(), port: target.port, source };
    let addresses = (target.host.as_str(), target.port).to_socket_addrs().map_err(failed)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            last = io::Error::new(io::ErrorKind::TimedOut, "no time was left for a further address");
            break;
        }
        match connect(address, left, target) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Connects with the receive buffer that the target asks for. Which one is best is known only once the first
/// packets have gone to and fro, and then it is too late to change it: a far server is connected to again.
fn connect(address: SocketAddr, limit: Duration, target: &Target) -> io::Result<TcpStream> {
    let began = Instant::now();
    let small = target.receive_buffer != ReceiveBuffer::System;
    let socket = connect_with(address, limit, target.wal_sender_timeout, small)?;
    let near = address.ip().is_loopback() || !small || target.receive_buffer == ReceiveBuffer::Small;
    if near || is_near(&socket) {
        return Ok(socket);
    }
    drop(socket);
    let left = limit.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
    connect_with(address, left, target.wal_sender_timeout, false)
}

/// Whether the server's first answer came quickly. Where the kernel does not say it counts as far.
fn is_near(socket: &TcpStream) -> bool {
    let facts = Kernel::of(socket).and_then(|kernel| kernel.facts());
    facts.is_ok_and(|facts| facts.min_rtt.is_some_and(|rtt| rtt < FAR))
}

fn connect_with(
    address: SocketAddr,
    limit: Duration,
    silence: Duration,
    small: bool,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if small {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_mss(SMALL_SEGMENT)?;
    }
    socket.connect_timeout(&address.into(), limit)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    // Feedback that no one acknowledges ends the connection; without this the kernel would repeat it for
    // a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(silence.max(WRITE_TIMEOUT)))?;
    #[cfg(not(target_os = "linux"))]
    let _ = silence;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok(socket.into())
}
