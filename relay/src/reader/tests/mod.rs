//! The cutting by properties, the thread against a peer that plays the server.

mod assembling;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use self::peer::{Peer, keepalive, row};
use super::{Chunks, Next, Positions, Reader, ReaderConfig, ReaderEnd, spawn};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::wire::fake;

const LONG: Duration = Duration::from_secs(20);

const CONFIG: ReaderConfig = ReaderConfig {
    read_ahead_bytes: 64 * 1024,
    max_row_bytes: 32 * 1024,
    feedback_every: Duration::from_millis(10),
    silent_after: LONG,
};

fn start(config: ReaderConfig) -> (Reader, Chunks, Arc<Positions>, Peer) {
    let (peer, stream) = Peer::connected();
    let positions = Arc::new(Positions::default());
    let observed = Arc::new(Observed::new());
    let (reader, chunks) = spawn(stream, config, Arc::clone(&positions), observed).expect("a thread");
    (reader, chunks, positions, peer)
}

/// The payloads of everything that comes until `count` frames are there or the reader ends.
fn frames(chunks: &Chunks, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        match chunks.next(LONG) {
            Next::Chunk(chunk) => frames.extend(chunk.frames().map(|frame| frame.payload.to_vec())),
            Next::Empty => panic!("nothing came"),
            Next::Ended => break,
        }
    }
    frames
}

#[test]
fn frames_come_and_feedback_goes() {
    let (reader, chunks, positions, mut peer) = start(CONFIG);
    assert_eq!(peer.status(), (Lsn::ZERO, Lsn::ZERO), "nothing is confirmed before the record is read");
    peer.send(&[row(5, b"one"), fake::message(b'N', b"\0"), keepalive(7, false)].concat());
    let frames = frames(&chunks, 2);
    assert_eq!(frames[0][25..], *b"one");
    assert_eq!(frames[1][0], b'k');
    positions.record(Lsn(3));
    while peer.status() != (Lsn(7), Lsn(3)) {}
    drop(peer);
    assert!(matches!(
        reader.close(),
        ReaderEnd::Stopped | ReaderEnd::ClosedByServer(None) | ReaderEnd::Io { .. }
    ));
}

#[test]
fn a_sink_that_stands_still_stops_the_reading_but_not_the_feedback() {
    const ROWS: u64 = 2000;
    let (reader, chunks, _, mut peer) = start(CONFIG);
    let mut sender = peer.another();
    let sending = std::thread::spawn(move || (0..ROWS).for_each(|lsn| sender.send(&row(lsn, &[b'x'; 500]))));
    let mut held = Vec::new();
    while let Next::Chunk(chunk) = chunks.next(Duration::from_millis(300)) {
        held.push(chunk);
    }
    let bytes: usize = held.iter().map(super::Chunk::len_bytes).sum();
    assert!(0 < bytes && bytes <= CONFIG.read_ahead_bytes, "{bytes} bytes are out");
    // Many times the feedback that may have been under way.
    for _ in 0..20 {
        peer.status();
    }
    let before: usize = held.drain(..).map(|chunk| chunk.frames().count()).sum();
    assert_eq!(before + frames(&chunks, ROWS as usize - before).len(), ROWS as usize);
    sending.join().expect("the sender");
    assert!(matches!(reader.abort(), ReaderEnd::Stopped));
}

#[test]
fn the_servers_last_words_are_kept_and_come_after_its_rows() {
    let (reader, chunks, _, mut peer) = start(CONFIG);
    let words = fake::error("FATAL", "57P01", "terminating connection");
    peer.send(&[row(5, b"one"), row(6, b"two"), words].concat());
    assert_eq!(frames(&chunks, usize::MAX).len(), 2);
    match reader.close() {
        ReaderEnd::ClosedByServer(Some(error)) => assert_eq!(error.sqlstate, "57P01"),
        end => panic!("{end:?}"),
    }
}

#[test]
fn a_server_that_goes_is_noticed() {
    for goodbye in [vec![], fake::message(b'C', b"COPY 0\0"), fake::message(b'c', b"")] {
        let (reader, chunks, _, mut peer) = start(CONFIG);
        peer.send(&goodbye);
        peer.hang_up();
        assert!(matches!(chunks.next(LONG), Next::Ended));
        let end = reader.close();
        assert!(matches!(end, ReaderEnd::ClosedByServer(None)), "{end:?}");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let (reader, chunks, _, _peer) =
        start(ReaderConfig { silent_after: Duration::from_millis(150), ..CONFIG });
    assert!(matches!(chunks.next(LONG), Next::Ended));
    let end = reader.close();
    assert!(matches!(end, ReaderEnd::Silent { .. }), "{end:?}");
}

#[test]
fn what_is_no_frame_ends_the_reading() {
    for bytes in [b"Z\0\0\0\x05I".as_slice(), b"d\0\0\0\x03", b"d\xFF\xFF\xFF\xFF"] {
        let (reader, chunks, _, mut peer) = start(CONFIG);
        peer.send(&[row(5, b"one"), bytes.to_vec()].concat());
        assert_eq!(frames(&chunks, usize::MAX).len(), 1, "what came before still counts");
        let end = reader.close();
        assert!(matches!(end, ReaderEnd::Framing(_)), "{end:?}");
    }
}

#[test]
fn a_drain_hands_out_what_was_read_and_goes_on_with_feedback() {
    let (reader, chunks, positions, mut peer) = start(CONFIG);
    peer.send(&row(5, b"one"));
    assert_eq!(frames(&chunks, 1).len(), 1);
    reader.stop_reading();
    assert!(matches!(chunks.next(LONG), Next::Ended));
    positions.record(Lsn(5));
    while peer.status() != (Lsn(5), Lsn(5)) {}
    positions.record(Lsn(6));
    let closing = std::thread::spawn(move || reader.close());
    let mut last = (Lsn::ZERO, Lsn::ZERO);
    while let Some(status) = peer.status_or_copy_done() {
        last = status;
    }
    assert_eq!(last.1, Lsn(6), "the last feedback carries what is recorded");
    peer.send(&fake::message(b'c', b""));
    peer.goodbye();
    let end = closing.join().expect("the closing");
    assert!(matches!(end, ReaderEnd::Stopped), "{end:?}");
}

#[test]
fn a_drain_reads_on_and_throws_away_so_that_the_connection_stays_alive() {
    let (reader, chunks, positions, mut peer) = start(ReaderConfig { read_ahead_bytes: 1 << 20, ..CONFIG });
    reader.stop_reading();
    assert!(matches!(chunks.next(LONG), Next::Ended));
    let mut sender = peer.another();
    let sending = std::thread::spawn(move || {
        // More than the buffers of both ends take: it ends only where somebody reads.
        let rows: Vec<u8> = (0..40).flat_map(|lsn| row(lsn, &[b'x'; 25_000])).collect();
        (0..16).for_each(|_| sender.send(&rows));
    });
    sending.join().expect("everything was sent");
    positions.record(Lsn(5));
    while peer.status().1 != Lsn(5) {}
    assert!(matches!(chunks.next(Duration::ZERO), Next::Ended), "nothing of it is handed out");
    drop(peer);
    reader.close();
}

#[test]
fn a_server_that_goes_during_a_drain_is_noticed() {
    let (reader, chunks, _, mut peer) = start(CONFIG);
    reader.stop_reading();
    assert!(matches!(chunks.next(LONG), Next::Ended));
    assert!(!reader.has_ended());
    peer.send(&fake::error("FATAL", "57P01", "terminating connection"));
    let began = std::time::Instant::now();
    while !reader.has_ended() {
        assert!(began.elapsed() < LONG, "it reads on");
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = reader.close();
    assert!(matches!(&end, ReaderEnd::ClosedByServer(Some(error)) if error.sqlstate == "57P01"), "{end:?}");
}

#[test]
fn a_server_that_asks_is_answered() {
    let (reader, chunks, _, mut peer) = start(ReaderConfig { feedback_every: LONG, ..CONFIG });
    peer.status();
    for lsn in 1..4 {
        peer.send(&keepalive(lsn, true));
        assert_eq!(peer.status(), (Lsn(lsn), Lsn::ZERO));
    }
    assert_eq!(frames(&chunks, 3).len(), 3, "keepalives go to the router too");
    drop(reader);
    peer.hang_up();
}

#[test]
fn without_the_router_feedback_goes_on() {
    let (reader, chunks, positions, mut peer) = start(CONFIG);
    drop(chunks);
    peer.send(&row(5, b"one"));
    positions.record(Lsn(1));
    while peer.status().1 != Lsn(1) {}
    assert!(!reader.has_ended());
    assert!(matches!(reader.abort(), ReaderEnd::Stopped));
}
