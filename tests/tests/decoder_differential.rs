//! Our reader and decoder against another implementation: both are played the same recorded streams by the
//! same fake server, in fragments of several sizes, and have to see the same frames and positions. (The
//! other one decodes no rows; those are compared with a naive decoder in the relay's own tests.)

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outbox_postgres_link::Program;
use outbox_postgres_link::transport::Transport;
use outbox_relay::config::SourceFormat;
use outbox_relay::observe::Observed;
use outbox_relay::pgoutput::{CopyMessage, Message};
use outbox_relay::reader::{self, Next, Positions, ReaderConfig};
use outbox_relay::wire::{Connection, Target};
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent};

/// The last keepalive carries this WAL end, so that both sides know where the recording stops.
const THE_END: u64 = 0x7FFF_FFFF_FFFF_FFFF;

/// What both implementations tell of a stream.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Begin { final_lsn: u64, time: i64, xid: u32 },
    Commit { lsn: u64, end_lsn: u64, time: i64 },
    Logical { transactional: bool, lsn: u64, prefix: String, content: Vec<u8> },
    Data { wal_start: u64, wal_end: u64, time: i64, body: Vec<u8> },
    Keepalive { wal_end: u64, time: i64, reply_requested: bool },
}

impl Event {
    fn is_the_end(&self) -> bool {
        matches!(self, Event::Keepalive { wal_end: THE_END, .. })
    }
}

#[tokio::test]
async fn both_implementations_see_the_same_stream() -> Result<()> {
    for name in ["text.bin", "binary-and-messages.bin"] {
        let path = format!("{}/../relay/corpus/pgoutput/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut recording = std::fs::read(&path).with_context(|| path.clone())?;
        recording.extend(keepalive(THE_END));
        for fragment in [1, 7, 100, 4096, usize::MAX] {
            let ours =
                play(&recording, fragment, |port| tokio::task::spawn_blocking(move || ours(port))).await?;
            let theirs = play(&recording, fragment, |port| tokio::spawn(theirs(port))).await?;
            let first_difference = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
            if let Some(at) = first_difference {
                bail!("{name} by {fragment}: event {at}: ours {:?}, theirs {:?}", ours[at], theirs[at]);
            }
            assert_eq!(ours.len(), theirs.len(), "{name} by {fragment}");
            assert!(ours.len() > 130, "{name} by {fragment}: only {} events", ours.len());
        }
    }
    Ok(())
}

/// Lets one client read the recording.
async fn play<F>(recording: &[u8], fragment: usize, client: impl FnOnce(u16) -> F) -> Result<Vec<Event>>
where
    F: Future<Output = Result<Result<Vec<Event>>, tokio::task::JoinError>>,
{
    let (port, server) = serve(recording.to_vec(), fragment)?;
    let events = client(port).await??;
    server.join().expect("the fake server does not panic")?;
    Ok(events)
}

fn ours(port: u16) -> Result<Vec<Event>> {
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port,
        user: "relay".to_owned(),
        password: None,
        database: "orders".to_owned(),
        transport: Transport::clear(Program::Relay),
        application_name: "differential".to_owned(),
        connect_timeout: Duration::from_secs(10),
        wal_sender_timeout: Duration::from_secs(10),
        receive_buffer: outbox_relay::config::ReceiveBuffer::Auto,
    };
    let stream =
        Connection::connect(&target)?.start_replication("slot", "publication", SourceFormat::Text)?;
    let config = ReaderConfig::new(64 * 1024, 1024 * 1024, target.wal_sender_timeout);
    let (reader, chunks) =
        reader::spawn(stream, config, Arc::new(Positions::default()), Arc::new(Observed::new()))?;
    let mut events = Vec::new();
    loop {
        let chunk = match chunks.next(Duration::from_secs(10)) {
            Next::Chunk(chunk) => chunk,
            Next::Empty => bail!("nothing came after {} events", events.len()),
            Next::Ended => return Err(anyhow::Error::new(reader.close()).context("the reader ended")),
        };
        for frame in chunk.frames() {
            let event = event(CopyMessage::parse(frame.payload)?)?;
            if event.is_the_end() {
                reader.abort();
                return Ok(events);
            }
            events.push(event);
        }
    }
}

fn event(message: CopyMessage<'_>) -> Result<Event> {
    let (wal_start, wal_end, send_time, body) = match message {
        CopyMessage::XLogData { wal_start, wal_end, send_time, body } => {
            (wal_start, wal_end, send_time, body)
        }
        CopyMessage::Keepalive { wal_end, send_time, reply_requested } => {
            return Ok(Event::Keepalive { wal_end: wal_end.0, time: send_time.0, reply_requested });
        }
    };
    Ok(match Message::parse(body)? {
        Message::Begin { final_lsn, commit_time, xid } => {
            Event::Begin { final_lsn: final_lsn.0, time: commit_time.0, xid }
        }
        Message::Commit { commit_lsn, end_lsn, commit_time, .. } => {
            Event::Commit { lsn: commit_lsn.0, end_lsn: end_lsn.0, time: commit_time.0 }
        }
        Message::Logical(message) => Event::Logical {
            transactional: message.transactional,
            lsn: message.lsn.0,
            prefix: message.prefix.to_owned(),
            content: message.content.to_vec(),
        },
        _ => {
            Event::Data { wal_start: wal_start.0, wal_end: wal_end.0, time: send_time.0, body: body.to_vec() }
        }
    })
}

async fn theirs(port: u16) -> Result<Vec<Event>> {
    let mut config = ReplicationConfig::new("127.0.0.1", "relay", "", "orders", "slot", "publication");
    config.port = port;
    let mut client = ReplicationClient::connect(config).await?;
    let mut events = Vec::new();
    while let Some(event) = client.recv().await? {
        let event = match event {
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros: time } => {
                Event::Begin { final_lsn: final_lsn.0, time, xid }
            }
            ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros: time } => {
                Event::Commit { lsn: lsn.0, end_lsn: end_lsn.0, time }
            }
            ReplicationEvent::Message { transactional, lsn, prefix, content } => {
                Event::Logical { transactional, lsn: lsn.0, prefix, content: content.to_vec() }
            }
            ReplicationEvent::XLogData { wal_start, wal_end, server_time_micros: time, data } => {
                Event::Data { wal_start: wal_start.0, wal_end: wal_end.0, time, body: data.to_vec() }
            }
            ReplicationEvent::KeepAlive { wal_end, reply_requested, server_time_micros: time } => {
                Event::Keepalive { wal_end: wal_end.0, time, reply_requested }
            }
            ReplicationEvent::StoppedAt { reached } => bail!("stopped at {reached}, which nobody asked for"),
        };
        if event.is_the_end() {
            client.abort();
            return Ok(events);
        }
        events.push(event);
    }
    bail!("the stream ended after {} events", events.len())
}

/// Takes one connection, lets it in, and answers its START_REPLICATION with the recording.
fn serve(recording: Vec<u8>, fragment: usize) -> Result<(u16, JoinHandle<Result<()>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept()?;
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        client.set_nodelay(true)?;
        read_counted(&mut client)?;
        client.write_all(&message(b'R', &[0; 4]))?;
        client.write_all(&message(b'Z', b"I"))?;
        let mut tag = [0];
        client.read_exact(&mut tag)?;
        let query = read_counted(&mut client)?;
        anyhow::ensure!(query.starts_with(b"START_REPLICATION"), "{}", String::from_utf8_lossy(&query));
        client.write_all(&message(b'W', &[0; 3]))?;
        for fragment in recording.chunks(fragment.min(recording.len())) {
            client.write_all(fragment)?;
        }
        // Feedback is read to its end; how the client closes is not what is compared here.
        let _ = client.read_to_end(&mut Vec::new());
        Ok(())
    });
    Ok((port, server))
}

/// The rest of a message whose length comes next.
fn read_counted(client: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut body)?;
    Ok(body)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn keepalive(wal_end: u64) -> Vec<u8> {
    message(b'd', &[b"k", &wal_end.to_be_bytes()[..], &[0; 9]].concat())
}
