//! The bytes of a connection: in the clear, or through TLS.
//!
//! One thread reads and writes; another may only cut the socket. Both kinds read in large pieces, wait at
//! most as long as they are told to, and write without waiting for anything to be read, so that the reader
//! does not see which it has.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_postgres_link::tls::error::{TlsError, TlsTrouble};
use outbox_postgres_link::tls::{self, binding};
use rustls::ClientConnection;

/// Bytes taken from the socket at once. rustls by itself takes 4 KiB, which would be a system call for every
/// few rows; this is what the kernel may hold for us on loopback.
const SEALED: usize = 64 * 1024;

/// A connected socket, and what is spoken on it.
pub(crate) struct Channel {
    socket: Arc<TcpStream>,
    tls: Option<Box<Sealed>>,
    timeout: Option<Duration>,
}

/// TLS on a socket.
struct Sealed {
    session: ClientConnection,
    client: tls::Client,
    /// What came from the socket and was not decrypted yet: `from..to`.
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Channel {
    /// In the clear.
    pub(crate) fn clear(socket: TcpStream) -> Channel {
        Channel { socket: Arc::new(socket), tls: None, timeout: None }
    }

    /// Speaks TLS from now on, beginning with [`shake_hands`](Self::shake_hands).
    pub(super) fn seal(&mut self, client: tls::Client) -> Result<(), TlsError> {
        let session = client.session()?;
        let buffer = vec![0; SEALED].into_boxed_slice();
        self.tls = Some(Box::new(Sealed { session, client, buffer, from: 0, to: 0 }));
        Ok(())
    }

    /// One step of the handshake; true when it is done. Waits at most `limit` for the server.
    pub(super) fn shake_hands(&mut self, limit: Duration) -> io::Result<bool> {
        self.wait_at_most(Some(limit))?;
        let Some(tls) = &mut self.tls else { return Ok(true) };
        tls.flush(&self.socket)?;
        if !tls.session.is_handshaking() {
            return Ok(true);
        }
        if tls.from == tls.to && tls.fetch(&self.socket)? == 0 {
            let closed = "the server closed the connection during the TLS handshake".to_owned();
            return Err(io::Error::other(TlsError::new(TlsTrouble::Broken, closed, None)));
        }
        tls.open(&self.socket)?;
        Ok(false)
    }

    /// What a login on this connection is bound to; `None` in the clear, and where the certificate's signature
    /// defines nothing.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        let certificate = tls::server_certificate(&self.tls.as_ref()?.session)?;
        binding::server_end_point(certificate)
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Waits for bytes, at most `limit` if there is one, and returns how many came; 0 if the server closed the
    /// connection. A wait that ended without any is an error for which
    /// [`is_pause`](super::connection::is_pause) holds.
    pub(crate) fn receive(&mut self, into: &mut [u8], limit: Option<Duration>) -> io::Result<usize> {
        self.wait_at_most(limit)?;
        match &mut self.tls {
            None => (&*self.socket).read(into),
            Some(tls) => tls.receive(&self.socket, into, limit),
        }
    }

    /// Sends all of it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => (&*self.socket).write_all(bytes),
            Some(tls) => {
                tls.session.writer().write_all(bytes)?;
                tls.flush(&self.socket)
            }
        }
    }

    /// Closes in both directions.
    pub(super) fn close(&mut self) {
        // The connection is over either way.
        if let Some(tls) = &mut self.tls {
            tls.session.send_close_notify();
            let _ = tls.flush(&self.socket);
        }
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Remembered because it is a system call, and the limit seldom changes.
    fn wait_at_most(&mut self, limit: Option<Duration>) -> io::Result<()> {
        if self.timeout != limit {
            self.socket.set_read_timeout(limit)?;
            self.timeout = limit;
        }
        Ok(())
    }
}

impl Sealed {
    fn receive(&mut self, socket: &TcpStream, into: &mut [u8], limit: Option<Duration>) -> io::Result<usize> {
        let since = Instant::now();
        let mut count = 0;
        while count < into.len() {
            match self.session.reader().read(&mut into[count..]) {
                Ok(0) => break,
                Ok(more) => {
                    count += more;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The connection ended without a goodbye of TLS. Frames have lengths of their own and nothing
                // is concluded from an end, so it is one like any other.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            if self.from == self.to {
                // Everything that came is handed out; only then is more waited for.
                if count > 0 {
                    break;
                }
                // A record that comes in pieces is waited for no longer than anything else.
                if limit.is_some_and(|limit| since.elapsed() >= limit) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.fetch(socket)?;
            }
            self.open(socket)?;
        }
        Ok(count)
    }

    /// Takes what the socket has, or waits for it; 0 at its end.
    fn fetch(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let mut socket = socket;
        self.from = 0;
        self.to = 0;
        self.to = socket.read(&mut self.buffer)?;
        Ok(self.to)
    }

    /// Decrypts some of what was taken; nothing of it tells rustls that the socket has ended. Answers what the
    /// protocol wants answered.
    fn open(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.from += self.session.read_tls(&mut &self.buffer[self.from..self.to])?;
        let processed = self.session.process_new_packets();
        // The server is told why, too.
        let flushed = if self.session.wants_write() { self.flush(socket) } else { Ok(()) };
        match processed {
            Ok(_) => flushed,
            Err(error) => Err(io::Error::other(self.client.explain(error))),
        }
    }

    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        let mut socket = socket;
        while self.session.wants_write() {
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The TLS error within an error of the system, if it is one.
pub(super) fn tls_error(error: io::Error) -> Result<TlsError, io::Error> {
    error.downcast::<TlsError>()
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", if self.is_sealed() { "TLS" } else { "in the clear" })
    }
}

#[cfg(test)]
mod tests;
