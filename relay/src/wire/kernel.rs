//! What the kernel knows of a TCP connection: how far away its other end is, and in how many segments its
//! data came.
//!
//! Asked over netlink (`sock_diag(7)`), where `ss` asks too, and not by `getsockopt(TCP_INFO)`: that would need
//! `unsafe` code or a crate which does; this is bytes in and bytes out on an ordinary socket. It needs no privilege. Where
//! the kernel does not answer (another system, a sandbox without netlink) nothing is known, and that is said.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Kind of the request and of its answer; an error is another kind.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// The attribute that holds `struct tcp_info`, and the bit that asks for it.
const INET_DIAG_INFO: u16 = 2;

/// Header of a netlink message, then `struct inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// Header of a netlink message, then `struct inet_diag_msg`; the attributes follow.
const ANSWER: usize = 16 + 72;

/// Places in `struct tcp_info`, which only ever grows at its end.
const UNACKED: usize = 24;
const MIN_RTT: usize = 148;
const DATA_SEGS_IN: usize = 152;

/// Longest wait for the kernel's answer, which it gives before `send` returns.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpFacts {
    /// The shortest round trip so far; `None` before the first.
    pub(crate) min_rtt: Option<Duration>,
    /// Segments that were sent and that the other end has not acknowledged.
    pub(crate) unacknowledged: u32,
    /// Segments with data received; counts modulo 2³².
    pub(crate) data_segments_in: u32,
}

/// Asks about one connection.
#[derive(Debug)]
pub(crate) struct Kernel {
    netlink: Socket,
    request: [u8; REQUEST],
}

impl Kernel {
    /// Of this connection.
    ///
    /// # Errors
    ///
    /// The system has no such socket, or the connection is gone.
    pub(crate) fn of(stream: &TcpStream) -> io::Result<Kernel> {
        let request = request(stream.local_addr()?, stream.peer_addr()?)?;
        let netlink =
            Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
        netlink.set_read_timeout(Some(PATIENCE))?;
        Ok(Kernel { netlink, request })
    }

    /// What it knows now.
    ///
    /// # Errors
    ///
    /// The connection is gone, or this kernel does not say.
    pub(crate) fn facts(&self) -> io::Result<TcpFacts> {
        (&self.netlink).write_all(&self.request)?;
        let mut answer = [0; 1024];
        let count = (&self.netlink).read(&mut answer)?;
        facts(&answer[..count]).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

fn request(local: SocketAddr, peer: SocketAddr) -> io::Result<[u8; REQUEST]> {
    let family = match (local.ip(), peer.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AF_INET6,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut out = Vec::with_capacity(REQUEST);
    out.extend((REQUEST as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender, which the kernel fills in.
    out.extend([0; 8]);
    out.extend([family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    // Any state.
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(peer.port().to_be_bytes());
    for ip in [local.ip(), peer.ip()] {
        match ip {
            IpAddr::V4(ip) => {
                out.extend(ip.octets());
                out.extend([0; 12]);
            }
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
    // Any interface, any cookie.
    out.extend([0; 4]);
    out.extend([0xFF; 8]);
    out.try_into().map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Reads an answer; `None` of one that is an error or holds no `tcp_info`.
fn facts(answer: &[u8]) -> Option<TcpFacts> {
    let length = u32_at(answer, 0)? as usize;
    if u16_at(answer, 4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(ANSWER..length.min(answer.len()))?;
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            // Before the first round trip the kernel shows its largest number.
            let micros = Some(u32_at(value, MIN_RTT)?).filter(|&micros| micros != u32::MAX);
            return Some(TcpFacts {
                min_rtt: micros.map(|micros| Duration::from_micros(micros.into())),
                unacknowledged: u32_at(value, UNACKED)?,
                data_segments_in: u32_at(value, DATA_SEGS_IN)?,
            });
        }
        // Attributes begin at multiples of four.
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Segments that a connection to `address` has received before and after `bytes` were sent to it.
    fn segments(address: &str, bytes: usize) -> (TcpFacts, TcpFacts) {
        let listener = TcpListener::bind(address).unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let kernel = Kernel::of(&near).unwrap();
        let before = kernel.facts().unwrap();
        far.write_all(&vec![1; bytes]).unwrap();
        near.read_exact(&mut vec![0; bytes]).unwrap();
        (before, kernel.facts().unwrap())
    }

    #[test]
    fn segments_and_distance_are_seen() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            if address.starts_with('[') && TcpListener::bind(address).is_err() {
                eprintln!("not tried: this machine has no IPv6");
                continue;
            }
            let (before, after) = segments(address, 1);
            assert_eq!((before.data_segments_in, after.data_segments_in), (0, 1), "{address}");
            assert!(before.min_rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)), "{before:?}");
            assert!(segments(address, 1_000_000).1.data_segments_in > 1, "{address}");
        }
    }

    #[test]
    fn a_connection_that_is_gone_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let kernel = Kernel::of(&near).unwrap();
        let (far, _) = listener.accept().unwrap();
        // Whoever closes first waits for late segments, so the other end does.
        drop(far);
        drop(near);
        assert!(kernel.facts().is_err());
    }

    #[test]
    fn nonsense_is_no_answer() {
        let mut answer = vec![0; 400];
        assert_eq!(facts(&answer), None);
        assert_eq!(facts(&[]), None);
        answer[..4].copy_from_slice(&400u32.to_ne_bytes());
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(facts(&answer), None, "attributes of no length");
        answer[ANSWER..ANSWER + 4].copy_from_slice(&[100, 0, 2, 0]);
        assert_eq!(facts(&answer), None, "a tcp_info that is too short");
    }
}
