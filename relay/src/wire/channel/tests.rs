//! Against a server that speaks TLS over a real socket.

use std::net::TcpListener;
use std::thread::JoinHandle;

use outbox_postgres_link::Program;
use outbox_postgres_link::tls::trial::Authority;
use outbox_postgres_link::transport::{Roots, SslMode, Transport};
use rand::RngExt;
use rustls::ServerConnection;

use super::*;
use crate::wire::connection::{Interrupt, is_pause};

const LONG: Duration = Duration::from_secs(20);

/// The server's end.
struct Peer {
    socket: TcpStream,
    session: ServerConnection,
}

impl Peer {
    /// The next bytes on the wire for these.
    fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.chunks(8192) {
            self.session.writer().write_all(piece).expect("room");
            while self.session.wants_write() {
                self.session.write_tls(&mut out).expect("a vector");
            }
        }
        out
    }

    fn send(&mut self, bytes: &[u8]) {
        let sealed = self.sealed(bytes);
        self.socket.write_all(&sealed).expect("the client listens");
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut stream = rustls::Stream::new(&mut self.session, &mut self.socket);
        stream.read_exact(&mut bytes).expect("the client speaks");
        bytes
    }
}

/// A connection to a server for `localhost`, whose handshake may fail.
fn connect(
    transport: impl FnOnce(&Authority, &std::path::Path) -> (Transport, &'static str),
    script: impl FnOnce(&mut Peer) + Send + 'static,
) -> (io::Result<Channel>, JoinHandle<()>) {
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("ca.pem"), authority.certificate()).expect("a file");
    let (transport, host) = transport(&authority, directory.path());
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let config = authority.server("localhost");
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a connection");
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        let mut session = ServerConnection::new(config).expect("a session");
        let mut io = &socket;
        while session.is_handshaking() {
            if session.complete_io(&mut io).is_err() {
                return;
            }
        }
        script(&mut Peer { socket, session });
    });
    let mut channel = Channel::clear(TcpStream::connect(address).expect("a connection"));
    let client = tls::Client::new(&transport, host).expect("good files").expect("TLS");
    channel.seal(client).expect("a session");
    let shaken = loop {
        match channel.shake_hands(LONG) {
            Ok(true) => break Ok(channel),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
    };
    (shaken, server)
}

fn verified(directory: &std::path::Path) -> Transport {
    Transport {
        mode: SslMode::VerifyFull,
        roots: Roots::File(directory.join("ca.pem")),
        ..Transport::clear(Program::Relay)
    }
}

fn connected(script: impl FnOnce(&mut Peer) + Send + 'static) -> (Channel, JoinHandle<()>) {
    let (channel, server) = connect(|_, directory| (verified(directory), "localhost"), script);
    (channel.expect("a handshake"), server)
}

#[test]
fn bytes_come_whole_however_they_are_cut() {
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let (mut channel, server) = connected(move |peer| {
        assert_eq!(peer.bytes(5), b"hello");
        let sealed = peer.sealed(&sent);
        let mut rest = sealed.as_slice();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rand::rng().random_range(1..=rest.len().min(30_000)));
            peer.socket.write_all(piece).expect("the client listens");
            rest = behind;
        }
        assert_eq!(peer.bytes(3), b"bye");
    });
    channel.send(b"hello").unwrap();
    let mut received = Vec::new();
    let mut largest = 0;
    while received.len() < expected.len() {
        let mut into = vec![0; rand::rng().random_range(1..=100_000)];
        let count = channel.receive(&mut into, Some(LONG)).unwrap();
        assert_ne!(count, 0, "the stream ended early");
        largest = largest.max(count);
        received.extend_from_slice(&into[..count]);
    }
    assert!(received == expected);
    // More than a record: what came together is handed over together.
    assert!(largest > 16 * 1024, "{largest}");
    channel.send(b"bye").unwrap();
    server.join().unwrap();
}

#[test]
fn a_wait_ends_in_time_and_loses_nothing_of_a_record() {
    let (half, halves) = std::sync::mpsc::channel::<()>();
    let (mut channel, server) = connected(move |peer| {
        let sealed = peer.sealed(b"a record in two halves");
        let (first, second) = sealed.split_at(10);
        peer.socket.write_all(first).unwrap();
        halves.recv().unwrap();
        peer.socket.write_all(second).unwrap();
        halves.recv().unwrap_err();
    });
    let mut into = [0; 100];
    let since = Instant::now();
    let error = channel.receive(&mut into, Some(Duration::from_millis(50))).unwrap_err();
    assert!(is_pause(&error), "{error:?}");
    assert!(since.elapsed() < Duration::from_secs(5));
    half.send(()).unwrap();
    let count = channel.receive(&mut into, Some(LONG)).unwrap();
    assert_eq!(&into[..count], b"a record in two halves");
    drop(half);
    server.join().unwrap();
}

#[test]
fn an_interrupt_ends_a_wait() {
    let (mut channel, server) = connected(|peer| {
        // Reads until the end that the interrupt makes.
        let mut rest = Vec::new();
        let _ = peer.socket.read_to_end(&mut rest);
    });
    let interrupt = Interrupt::new(channel.socket());
    let waiting = std::thread::spawn(move || channel.receive(&mut [0; 10], None));
    interrupt.interrupt();
    let end = waiting.join().unwrap();
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|error| !is_pause(&error)));
    server.join().unwrap();
}

#[test]
fn what_was_said_before_the_end_is_heard() {
    for polite in [true, false] {
        let (mut channel, server) = connected(move |peer| {
            peer.send(b"last words");
            if polite {
                peer.session.send_close_notify();
                peer.send(b"");
                let sealed = peer.sealed(b"");
                peer.socket.write_all(&sealed).unwrap();
            }
            let _ = peer.socket.shutdown(Shutdown::Write);
        });
        let mut heard = Vec::new();
        loop {
            let mut into = [0; 4];
            match channel.receive(&mut into, Some(LONG)).unwrap() {
                0 => break,
                count => heard.extend_from_slice(&into[..count]),
            }
        }
        assert_eq!(heard, b"last words");
        assert_eq!(channel.receive(&mut [0; 4], Some(LONG)).unwrap(), 0, "an end stays one");
        server.join().unwrap();
    }
}

#[test]
fn each_mode_looks_at_what_it_says() {
    let other = Authority::new("two");
    let write = |directory: &std::path::Path| {
        std::fs::write(directory.join("other.pem"), other.certificate()).unwrap();
        Roots::File(directory.join("other.pem"))
    };
    let of = |mode, roots| Transport { mode, roots, ..Transport::clear(Program::Relay) };
    let trusted = |directory: &std::path::Path| Roots::File(directory.join("ca.pem"));
    type Case<'a> = (Box<dyn FnOnce(&std::path::Path) -> Transport + 'a>, &'static str, Option<&'static str>);
    let cases: Vec<Case<'_>> = vec![
        (Box::new(|_| of(SslMode::Require, Roots::System)), "127.0.0.1", None),
        (Box::new(|_| of(SslMode::Prefer, Roots::System)), "127.0.0.1", None),
        (Box::new(|at| of(SslMode::VerifyCa, trusted(at))), "127.0.0.1", None),
        (Box::new(|at| of(SslMode::VerifyCa, write(at))), "localhost", Some("signed by nobody")),
        (Box::new(|at| of(SslMode::VerifyFull, trusted(at))), "localhost", None),
        (Box::new(|at| of(SslMode::VerifyFull, trusted(at))), "127.0.0.1", Some("but for localhost")),
        (Box::new(|at| of(SslMode::VerifyFull, write(at))), "localhost", Some("signed by nobody")),
    ];
    for (transport, host, refusal) in cases {
        let (channel, server) = connect(|_, directory| (transport(directory), host), |_| {});
        server.join().unwrap();
        match (channel, refusal) {
            (Ok(channel), None) => assert_eq!(channel.end_point().map(|hash| hash.len()), Some(32)),
            (Err(error), Some(part)) => {
                let error = tls_error(error).expect("a TLS error");
                assert!(error.is_permanent() && error.to_string().contains(part), "{error}");
            }
            (found, expected) => panic!("{host}: {found:?} instead of {expected:?}"),
        }
    }
}
