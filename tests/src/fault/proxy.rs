//! A TCP proxy on 127.0.0.1 that can cut, delay, half-close, hold and eat what passes through it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Pass,
    /// Each chunk of up to 64 KiB waits this long before it passes; a slow link, too.
    Delay(Duration),
    /// Nothing is read, so the sender's buffers fill and it stands still; resuming loses nothing.
    Hold,
    /// They are read and thrown away: the sender believes that they arrived.
    Eat,
    /// The receiver sees the end of the stream while the other direction goes on; what comes is eaten.
    HalfClosed,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    to_server: Flow,
    to_client: Flow,
    /// Whether a new connection is forwarded or reset at once.
    accept: bool,
    /// Connections made under an older number are reset.
    generation: u64,
}

impl Rules {
    fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    to_server: AtomicU64,
    to_client: AtomicU64,
    open: AtomicUsize,
    accepted: AtomicU64,
    reset: AtomicU64,
    eaten: AtomicU64,
    delayed: AtomicU64,
}

/// What a proxy has done to its connections so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Connections that clients made, refused ones included.
    pub accepted: u64,
    /// Connections that were reset, refused ones included.
    pub reset: u64,
    /// Bytes that were eaten, in both directions.
    pub eaten: u64,
    /// Chunks that were delayed, in both directions.
    pub delayed: u64,
}

impl Counts {
    fn read(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// A running proxy. It has a runtime of its own, so that tests without one can use it. Dropping it cuts
/// every connection.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    rules: watch::Sender<Rules>,
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Forwards connections to a port of 127.0.0.1.
    ///
    /// # Panics
    /// When no port can be listened on.
    pub fn start(target: u16) -> Proxy {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("proxy").enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("the port").port();
        let open = Rules { to_server: Flow::Pass, to_client: Flow::Pass, accept: true, generation: 0 };
        let (rules, seen) = watch::channel(open);
        let counts = Arc::new(Counts::default());
        runtime.spawn(listen(listener, target, seen, counts.clone()));
        Proxy { port, rules, counts, runtime: Some(runtime) }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets what happens to one direction, of open and of new connections.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.rules.send_modify(|rules| match direction {
            Direction::ToServer => rules.to_server = flow,
            Direction::ToClient => rules.to_client = flow,
        });
    }

    /// Eats both directions: the network is gone and nobody is told.
    pub fn black_hole(&self) {
        self.set(Direction::ToServer, Flow::Eat);
        self.set(Direction::ToClient, Flow::Eat);
    }

    /// Delays both directions.
    pub fn delay(&self, by: Duration) {
        self.set(Direction::ToServer, Flow::Delay(by));
        self.set(Direction::ToClient, Flow::Delay(by));
    }

    /// Resets every open connection on both sides; new ones are forwarded.
    pub fn cut(&self) {
        self.rules.send_modify(|rules| rules.generation += 1);
    }

    /// Resets every open connection, and new ones as they come, until [`Proxy::resume`].
    pub fn refuse(&self) {
        self.rules.send_modify(|rules| {
            rules.generation += 1;
            rules.accept = false;
        });
    }

    /// Lets everything pass again. What was eaten stays lost: a connection that lost bytes should be cut.
    pub fn resume(&self) {
        self.rules.send_modify(|rules| {
            rules.to_server = Flow::Pass;
            rules.to_client = Flow::Pass;
            rules.accept = true;
        });
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// What was done to connections so far.
    pub fn done(&self) -> Done {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let Counts { accepted, reset, eaten, delayed, .. } = &*self.counts;
        Done { accepted: read(accepted), reset: read(reset), eaten: read(eaten), delayed: read(delayed) }
    }

    /// Bytes that were read from one direction's sender so far, eaten ones included.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.counts.read(direction).load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(
    listener: std::net::TcpListener,
    target: u16,
    rules: watch::Receiver<Rules>,
    counts: Arc<Counts>,
) {
    let listener = TcpListener::from_std(listener).expect("a listening socket");
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(forward(client, target, rules.clone(), counts.clone()));
    }
}

/// One connection, from its acceptance to its end or its cut.
async fn forward(mut client: TcpStream, target: u16, rules: watch::Receiver<Rules>, counts: Arc<Counts>) {
    let Rules { accept, generation, .. } = *rules.borrow();
    counts.accepted.fetch_add(1, Ordering::SeqCst);
    if !accept {
        counts.reset.fetch_add(1, Ordering::SeqCst);
        reset(client);
        return;
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        reset(client);
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    counts.open.fetch_add(1, Ordering::SeqCst);
    let mut cuts = rules.clone();
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, Direction::ToServer, rules.clone(), &counts);
        let down = pump(from_server, to_client, Direction::ToClient, rules, &counts);
        tokio::select! {
            // A reset of one end is told to the other at once, as a router would pass it on.
            ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
            _ = cuts.wait_for(|rules| rules.generation != generation) => false,
        }
    };
    if !ended {
        counts.reset.fetch_add(1, Ordering::SeqCst);
        reset(client);
        reset(server);
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
}

/// A connection ended, and not in order.
struct Broken;

/// Closes a connection with a reset instead of an orderly end.
fn reset(connection: TcpStream) {
    // It fails only where the connection is gone already.
    let _ = connection.set_zero_linger();
}

/// Moves one direction's bytes by the rules until its end. The rules are read again after every read, since
/// they may have changed while it waited. An error is an end that was no orderly one.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut rules: watch::Receiver<Rules>,
    counts: &Counts,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 64 * 1024];
    let mut closed = false;
    loop {
        let flow = rules.borrow_and_update().flow(direction);
        if flow == Flow::HalfClosed && !closed {
            closed = true;
            let _ = to.shutdown().await;
        }
        let length = tokio::select! {
            biased;
            changed = rules.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Err(Broken),
            },
            read = from.read(&mut buffer), if flow != Flow::Hold => match read {
                Ok(length) => length,
                Err(_) => return Err(Broken),
            },
        };
        if length == 0 {
            return if to.shutdown().await.is_ok() || closed { Ok(()) } else { Err(Broken) };
        }
        counts.read(direction).fetch_add(length as u64, Ordering::SeqCst);
        let flow = rules.borrow().flow(direction);
        if let Flow::Delay(by) = flow {
            counts.delayed.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(by).await;
        }
        let passes = matches!(flow, Flow::Pass | Flow::Delay(_) | Flow::Hold);
        if !passes || closed {
            counts.eaten.fetch_add(length as u64, Ordering::SeqCst);
        }
        if passes && !closed && to.write_all(&buffer[..length]).await.is_err() {
            return Err(Broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::wait::eventually;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A proxy before a server of one connection, and both ends.
    fn connected() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port());
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(LIMIT)).unwrap();
        }
        (proxy, client, server)
    }

    fn read(mut end: &TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        end.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn bytes_pass_both_ways_and_ends_are_told() {
        let (proxy, mut client, mut server) = connected();
        client.write_all(b"question").unwrap();
        assert_eq!(read(&server, 8), b"question");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        server.write_all(b"answer").unwrap();
        assert_eq!(read(&client, 6), b"answer");
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        eventually(LIMIT, "no open connection", || (proxy.connections() == 0).then_some(()));
    }

    #[test]
    fn a_cut_resets_both_ends() {
        let (proxy, mut client, mut server) = connected();
        proxy.cut();
        for end in [&mut client, &mut server] {
            assert_eq!(end.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn a_servers_reset_is_told_to_a_client_that_only_waits() {
        let (proxy, mut client, server) = connected();
        client.write_all(b"never read").unwrap();
        eventually(LIMIT, "the bytes", || (proxy.bytes(Direction::ToServer) == 10).then_some(()));
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        eventually(LIMIT, "one reset", || (proxy.done().reset == 1).then_some(()));
    }

    #[test]
    fn what_was_done_is_counted() {
        let (proxy, mut client, _server) = connected();
        proxy.set(Direction::ToServer, Flow::Eat);
        client.write_all(b"eaten").unwrap();
        eventually(LIMIT, "the eaten bytes", || (proxy.done().eaten == 5).then_some(()));
        proxy.delay(Duration::from_millis(1));
        client.write_all(b"late").unwrap();
        eventually(LIMIT, "the late chunk", || (proxy.done().delayed == 1).then_some(()));
        proxy.cut();
        let done = Done { accepted: 1, reset: 1, eaten: 5, delayed: 1 };
        eventually(LIMIT, "the reset", || (proxy.done() == done).then_some(()));
    }

    #[test]
    fn held_bytes_arrive_after_resuming_and_eaten_ones_never() {
        let (proxy, mut client, server) = connected();
        proxy.set(Direction::ToServer, Flow::Eat);
        client.write_all(b"eaten").unwrap();
        eventually(LIMIT, "the eaten bytes", || (proxy.bytes(Direction::ToServer) == 5).then_some(()));
        proxy.set(Direction::ToServer, Flow::Hold);
        client.write_all(b"held").unwrap();
        proxy.resume();
        assert_eq!(read(&server, 4), b"held");
    }

    #[test]
    fn a_half_closed_direction_leaves_the_other_open() {
        let (proxy, mut client, mut server) = connected();
        proxy.set(Direction::ToClient, Flow::HalfClosed);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        client.write_all(b"still").unwrap();
        assert_eq!(read(&server, 5), b"still");
        server.write_all(b"lost").unwrap();
        eventually(LIMIT, "the lost bytes", || (proxy.bytes(Direction::ToClient) == 4).then_some(()));
    }

    #[test]
    fn a_delay_is_at_least_as_long_as_asked() {
        let (proxy, mut client, server) = connected();
        proxy.delay(Duration::from_millis(50));
        let started = std::time::Instant::now();
        client.write_all(b"late").unwrap();
        assert_eq!(read(&server, 4), b"late");
        assert!(started.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_refused_client_is_reset_until_resumed() {
        let (proxy, ..) = connected();
        proxy.refuse();
        let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        refused.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(refused.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
