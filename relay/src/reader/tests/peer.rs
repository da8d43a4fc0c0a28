//! The other end of a replication stream.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use bytes::BytesMut;

use super::LONG;
use crate::lsn::Lsn;
use crate::wire::channel::Channel;
use crate::wire::{ReplicationStream, fake};

/// A frame with a row.
pub(super) fn row(lsn: u64, body: &[u8]) -> Vec<u8> {
    let lsn = lsn.to_be_bytes();
    fake::message(b'd', &[b"w", &lsn[..], &lsn, &[0; 8], body].concat())
}

/// A frame with a keepalive.
pub(super) fn keepalive(lsn: u64, reply_requested: bool) -> Vec<u8> {
    let flag = [u8::from(reply_requested)];
    fake::message(b'd', &[b"k", &lsn.to_be_bytes()[..], &[0; 8], &flag].concat())
}

pub(super) struct Peer(TcpStream);

impl Peer {
    pub(super) fn connected() -> (Peer, ReplicationStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        // A test that goes wrong fails instead of hanging.
        server.set_read_timeout(Some(LONG)).expect("a timeout");
        server.set_write_timeout(Some(LONG)).expect("a timeout");
        (Peer(server), ReplicationStream::new(Channel::clear(client), BytesMut::new(), 1))
    }

    pub(super) fn another(&self) -> Peer {
        Peer(self.0.try_clone().expect("a second handle"))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the relay listens");
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("the relay speaks");
        bytes
    }

    /// The next feedback: write and flush position.
    pub(super) fn status(&mut self) -> (Lsn, Lsn) {
        self.status_or_copy_done().expect("feedback")
    }

    /// The next feedback, or `None` for CopyDone.
    pub(super) fn status_or_copy_done(&mut self) -> Option<(Lsn, Lsn)> {
        match self.bytes() {
            [b'd', 0, 0, 0, 38] => {}
            [b'c', 0, 0, 0, 4] => return None,
            other => panic!("{other:?}"),
        }
        let [kind] = self.bytes();
        assert_eq!(kind, b'r');
        let [write, flush, apply] = std::array::from_fn(|_| Lsn(u64::from_be_bytes(self.bytes())));
        assert_eq!(flush, apply);
        let _time_and_flag: [u8; 9] = self.bytes();
        Some((write, flush))
    }

    /// Reads the relay's goodbye.
    pub(super) fn goodbye(&mut self) {
        assert_eq!(self.bytes(), [b'X', 0, 0, 0, 4]);
    }

    /// Sends no more.
    pub(super) fn hang_up(&mut self) {
        // The relay may have closed first.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}
