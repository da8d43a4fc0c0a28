//! The connection once it streams.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::connection::Interrupt;
use super::status::Status;

/// A connection on which the server sends changes and this side sends feedback. What comes is raw bytes;
/// frames are cut by the [`reader`](crate::reader). Dropping it closes the connection.
#[derive(Debug)]
pub struct ReplicationStream {
    socket: Arc<TcpStream>,
    /// What came together with the answer to START_REPLICATION.
    early: BytesMut,
    backend_pid: i32,
    timeout: Option<Duration>,
}

impl ReplicationStream {
    pub(crate) fn new(socket: Arc<TcpStream>, early: BytesMut, backend_pid: i32) -> Self {
        ReplicationStream { socket, early, backend_pid, timeout: None }
    }

    /// Process id of the server's end, as `pg_replication_slots.active_pid` shows it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// A handle with which another thread can end the stream.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt::new(&self.socket)
    }

    /// Waits at most `timeout` for bytes and returns how many came; 0 if the server closed the stream. A
    /// wait that ended without any is an error for which [`is_pause`](super::connection::is_pause) holds.
    pub(crate) fn receive(&mut self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        if self.early.has_remaining() {
            let count = self.early.remaining().min(into.len());
            self.early.copy_to_slice(&mut into[..count]);
            return Ok(count);
        }
        if self.timeout != Some(timeout) {
            // Remembered because it is a system call, and the timeout seldom changes.
            self.socket.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        (&*self.socket).read(into)
    }

    /// Sends feedback.
    pub(crate) fn send_status(&self, status: &Status) -> io::Result<()> {
        (&*self.socket).write_all(&status.encode())
    }

    /// Says that no more feedback will come. The server answers with CopyDone, possibly after much data.
    pub(crate) fn send_copy_done(&self) -> io::Result<()> {
        const COPY_DONE: [u8; 5] = [b'c', 0, 0, 0, 4];
        (&*self.socket).write_all(&COPY_DONE)
    }

    /// Says goodbye and closes in both directions.
    pub(crate) fn terminate(&self) {
        const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
        // The connection is over either way; a server that no longer listens needs no goodbye.
        let _ = (&*self.socket).write_all(&TERMINATE);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
