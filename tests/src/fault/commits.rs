//! A proxy before PostgreSQL that lets a COMMIT through and loses its answer, and makes a BEGIN one that is refused.
//!
//! It reads the messages of both directions, so that the cut is exactly there: behind the client's COMMIT and before
//! the server's answer. It speaks no TLS.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Code of a request for TLS, in the place of a version.
const TLS: u32 = 80_877_103;
/// Code of a request for GSS encryption.
const GSS: u32 = 80_877_104;
/// Longest message that a test may send.
const LONGEST: u32 = 64 << 20;

#[derive(Debug, Default)]
struct Cuts {
    /// How many are still to be made.
    wanted: AtomicUsize,
    /// The server had answered: the transaction stands.
    answered: AtomicUsize,
    /// The server had not answered yet: it may still be at it.
    under_way: AtomicUsize,
    /// How many are to be kept back instead.
    silenced: AtomicUsize,
    /// How many BEGINs are still to be refused.
    refused: AtomicUsize,
}

/// A running proxy, with a runtime of its own. Dropping it cuts every connection.
#[derive(Debug)]
pub struct CommitCutter {
    port: u16,
    cuts: Arc<Cuts>,
    runtime: Option<Runtime>,
}

impl CommitCutter {
    /// Forwards connections to a PostgreSQL on a port of 127.0.0.1.
    ///
    /// # Panics
    /// When no port can be listened on.
    pub fn start(target: u16) -> CommitCutter {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            runtime.worker_threads(1).thread_name("cutter").enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("the port").port();
        let cuts = Arc::new(Cuts::default());
        runtime.spawn(listen(listener, target, cuts.clone()));
        CommitCutter { port, cuts, runtime: Some(runtime) }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses the answers to the next so many COMMITs, each with its connection: every other one when the server has
    /// answered, the rest while it is still at it.
    pub fn lose(&self, answers: usize) {
        self.cuts.wanted.fetch_add(answers, SeqCst);
    }

    /// Keeps back the answers to the next so many COMMITs: the connections stay open and lead nowhere.
    pub fn silence(&self, answers: usize) {
        self.cuts.silenced.fetch_add(answers, SeqCst);
    }

    /// COMMITs that are still to be silenced.
    pub fn unsilenced(&self) -> usize {
        self.cuts.silenced.load(SeqCst)
    }

    /// Lets the server refuse the next so many BEGINs, and nothing of what was sent behind them.
    pub fn refuse_begins(&self, begins: usize) {
        self.cuts.refused.fetch_add(begins, SeqCst);
    }

    /// BEGINs that are still to be refused.
    pub fn unrefused(&self) -> usize {
        self.cuts.refused.load(SeqCst)
    }

    /// Answers that were lost after the server had given them, and before.
    pub fn lost(&self) -> (usize, usize) {
        (self.cuts.answered.load(SeqCst), self.cuts.under_way.load(SeqCst))
    }
}

impl Drop for CommitCutter {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(listener: std::net::TcpListener, target: u16, cuts: Arc<Cuts>) {
    let listener = TcpListener::from_std(listener).expect("a listening socket");
    while let Ok((client, _)) = listener.accept().await {
        let cuts = cuts.clone();
        tokio::spawn(async move {
            // An end of one side is the end of the other, whatever it was.
            let _ended = forward(client, target, &cuts).await;
        });
    }
}

/// One connection, from its acceptance to its end or its cut.
async fn forward(mut client: TcpStream, target: u16, cuts: &Cuts) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let first = startup(&mut client).await?;
    server.write_all(&first).await?;
    let (from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let (mut from_client, mut from_server) = (BufReader::new(from_client), BufReader::new(from_server));
    let mut cutting = false;
    loop {
        tokio::select! {
            // Nothing is read from the client behind the COMMIT that is cut.
            readable = wait(&mut from_client), if !cutting => {
                readable?;
                let mut message = message(&mut from_client).await?;
                if is_begin(&message) && take(&cuts.refused) {
                    // Of the same length, and no word that the server knows.
                    message[BODY..BODY + BEGIN.len()].copy_from_slice(b"BEGUN");
                }
                if is_commit(&message) && take(&cuts.silenced) {
                    to_server.write_all(&message).await?;
                    // Until the client gives up.
                    return from_client.read_u8().await.map(|_| ());
                }
                cutting = is_commit(&message) && take(&cuts.wanted);
                to_server.write_all(&message).await?;
                if cutting && cuts.under_way.load(SeqCst) < cuts.answered.load(SeqCst) {
                    cuts.under_way.fetch_add(1, SeqCst);
                    // In order towards the server: a reset could take the COMMIT with it.
                    return to_server.shutdown().await;
                }
            }
            readable = wait(&mut from_server) => {
                readable?;
                let message = message(&mut from_server).await?;
                if cutting && message.starts_with(b"C") && message.ends_with(b"COMMIT\0") {
                    cuts.answered.fetch_add(1, SeqCst);
                    return Ok(());
                }
                if cutting && message.starts_with(b"Z") && message.ends_with(b"I") {
                    // Another end than a commit, whose answer passes.
                    cutting = false;
                    cuts.wanted.fetch_add(1, SeqCst);
                }
                to_client.write_all(&message).await?;
            }
        }
    }
}

fn take(wanted: &AtomicUsize) -> bool {
    wanted.try_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok()
}

/// Waits until there is something to read; may be given up at any time, which reading a message may not.
async fn wait(from: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<()> {
    use tokio::io::AsyncBufReadExt;
    match from.fill_buf().await?.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(()),
    }
}

/// The first message, which has no type. Requests for encryption are refused.
async fn startup(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let message = rest(client, Vec::new()).await?;
        let code = message.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("four bytes")));
        if !matches!(code, Some(TLS | GSS)) {
            return Ok(message);
        }
        client.write_all(b"N").await?;
    }
}

/// One message with its type.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let kind = from.read_u8().await?;
    rest(from, vec![kind]).await
}

/// Length and body of a message; the length counts itself.
async fn rest(from: &mut (impl AsyncRead + Unpin), mut message: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    if !(4..LONGEST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.extend(length.to_be_bytes());
    let begin = message.len();
    message.resize(begin + length as usize - 4, 0);
    from.read_exact(&mut message[begin..]).await?;
    Ok(message)
}

/// Where a message's body begins, behind its type and its length.
const BODY: usize = 5;
const BEGIN: &[u8] = b"BEGIN";

/// A simple query that begins with a BEGIN.
fn is_begin(message: &[u8]) -> bool {
    message.starts_with(b"Q") && message.get(BODY..).is_some_and(|text| text.starts_with(BEGIN))
}

/// A simple query that ends in a COMMIT.
fn is_commit(message: &[u8]) -> bool {
    let text = message.strip_prefix(b"Q").and_then(|rest| rest.get(4..)).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\0').trim().trim_end_matches(';').trim_end();
    text.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("COMMIT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_known_by_its_message() {
        let query = |text: &str| {
            let length = u32::try_from(text.len() + 5).unwrap();
            [b"Q".as_slice(), &length.to_be_bytes(), text.as_bytes(), b"\0"].concat()
        };
        assert!(is_commit(&query("COMMIT")) && is_commit(&query(" commit; ")));
        assert!(is_commit(&query("SELECT; COMMIT")));
        assert!(
            is_begin(&query("BEGIN; SET LOCAL statement_timeout = 1")) && !is_begin(&query("SELECT 'BEGIN'"))
        );
        assert!(!is_commit(&query("ROLLBACK")) && !is_commit(&query("SELECT 'COMMIT'")) && !is_commit(b"X"));
    }
}
