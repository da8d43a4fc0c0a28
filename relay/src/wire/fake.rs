//! A server for tests: one connection over a real socket, which says what the test tells it to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use outbox_postgres_link::Program;
use outbox_postgres_link::transport::Transport;

use super::connection::Target;

/// A message as the server sends it.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// An ErrorResponse.
pub(crate) fn error(severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0Hlook there\0\0").as_bytes())
}

/// A row of an answer.
pub(crate) fn row(columns: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).expect("few columns").to_be_bytes().to_vec();
    for column in columns {
        body.extend(u32::try_from(column.len()).expect("a short text").to_be_bytes());
        body.extend(column.as_bytes());
    }
    message(b'D', &body)
}

/// ReadyForQuery.
pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

pub(crate) struct Server {
    port: u16,
    thread: JoinHandle<()>,
}

impl Server {
    /// Takes one connection and leaves it to `script`.
    pub(crate) fn start(script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let thread = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a connection");
            // A test that goes wrong fails instead of hanging.
            socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            script(&mut Peer(socket));
        });
        Server { port, thread }
    }

    pub(crate) fn target(&self, password: Option<&str>) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: "relay".to_owned(),
            password: password.map(Into::into),
            database: "orders".to_owned(),
            application_name: "outbox_orders".to_owned(),
            transport: Transport::clear(Program::Relay),
            connect_timeout: Duration::from_secs(20),
            wal_sender_timeout: Duration::from_secs(10),
            receive_buffer: crate::config::ReceiveBuffer::Auto,
        }
    }

    /// Waits for the script; its failed assertion is the test's.
    pub(crate) fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The client's end, seen from the server.
pub(crate) struct Peer(TcpStream);

impl Peer {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the client listens");
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("the client speaks");
        bytes
    }

    fn counted(&mut self) -> Vec<u8> {
        let length = self.bytes(4).try_into().map(u32::from_be_bytes).expect("four bytes");
        self.bytes(length as usize - 4)
    }

    /// Reads the start-up message.
    pub(crate) fn startup(&mut self) -> Vec<u8> {
        self.counted()
    }

    /// Reads a message and checks its tag.
    pub(crate) fn request(&mut self, tag: u8) -> Vec<u8> {
        assert_eq!(self.bytes(1), [tag]);
        self.counted()
    }

    /// Reads a query and checks its text.
    pub(crate) fn query(&mut self, text: &str) {
        let request = self.request(b'Q');
        assert_eq!(String::from_utf8_lossy(&request), format!("{text}\0"));
    }

    /// Lets the client in.
    pub(crate) fn greet(&mut self) {
        self.send(&message(b'R', &[0; 4]));
        self.send(&message(b'S', b"server_version\x0015.18\0"));
        self.send(&message(b'K', &[0, 0, 0x12, 0x67, 0, 0, 0, 0]));
        self.send(&ready());
    }

    /// Start-up without a password.
    pub(crate) fn log_in(&mut self) {
        self.startup();
        self.greet();
    }

    /// Reads what still comes until the client has closed the connection.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too: the client may close with bytes unread.
        let _ = self.0.read_to_end(&mut rest);
        rest
    }
}
