//! The connection once it streams.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::channel::Channel;
use super::connection::Interrupt;
use super::kernel::Kernel;
use super::status::Status;

/// A connection on which the server sends changes and this side sends feedback. What comes is raw bytes;
/// frames are cut by the [`reader`](crate::reader). Dropping it closes the connection.
#[derive(Debug)]
pub struct ReplicationStream {
    channel: Channel,
    /// What came together with the answer to START_REPLICATION.
    early: BytesMut,
    backend_pid: i32,
}

impl ReplicationStream {
    pub(crate) fn new(channel: Channel, early: BytesMut, backend_pid: i32) -> Self {
        ReplicationStream { channel, early, backend_pid }
    }

    /// Process id of the server's end, as `pg_replication_slots.active_pid` shows it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// A handle with which another thread can end the stream.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt::new(self.channel.socket())
    }

    /// Asks the kernel about this connection; `None` where it does not say.
    pub(crate) fn kernel(&self) -> Option<Kernel> {
        Kernel::of(self.channel.socket()).ok()
    }

    /// Waits at most `timeout` for bytes and returns how many came; 0 if the server closed the stream. A
    /// wait that ended without any is an error for which [`is_pause`](super::connection::is_pause) holds.
    pub(crate) fn receive(&mut self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        if self.early.has_remaining() {
            let count = self.early.remaining().min(into.len());
            self.early.copy_to_slice(&mut into[..count]);
            return Ok(count);
        }
        self.channel.receive(into, Some(timeout))
    }

    /// Sends feedback.
    pub(crate) fn send_status(&mut self, status: &Status) -> io::Result<()> {
        self.channel.send(&status.encode())
    }

    /// Says that no more feedback will come. The server answers with CopyDone, possibly after much data.
    pub(crate) fn send_copy_done(&mut self) -> io::Result<()> {
        const COPY_DONE: [u8; 5] = [b'c', 0, 0, 0, 4];
        self.channel.send(&COPY_DONE)
    }

    /// Says goodbye and closes in both directions.
    pub(crate) fn terminate(&mut self) {
        const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
        // The connection is over either way; a server that no longer listens needs no goodbye.
        let _ = self.channel.send(&TERMINATE);
        self.channel.close();
    }
}
