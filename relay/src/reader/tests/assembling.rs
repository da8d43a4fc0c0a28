//! However the bytes are split on their way, the same frames come out.

use std::sync::Arc;

use proptest::prelude::*;

use super::peer::{keepalive, row};
use crate::damage::all_damages;
use crate::lsn::Lsn;
use crate::reader::allowance::Allowance;
use crate::reader::assembler::{Assembler, Progress, Seen};
use crate::reader::chunk::Chunk;
use crate::reader::end::FramingError;
use crate::wire::fake;

/// Above the assembler's buffer, so that frames make it grow, and below the longest frame.
const MAX_ROW: usize = 30_000;

#[derive(Debug, Clone)]
enum Sent {
    Row(u64, Vec<u8>),
    Keepalive(u64, bool),
    Notice(Vec<u8>),
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Sent::Row(lsn, body) => row(*lsn, body),
            Sent::Keepalive(lsn, reply) => keepalive(*lsn, *reply),
            Sent::Notice(body) => fake::message(b'N', body),
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let row =
        |size| (0..1000u64, size, any::<u8>()).prop_map(|(lsn, size, byte)| Sent::Row(lsn, vec![byte; size]));
    prop_oneof![
        12 => row(0..300usize),
        2 => row(10_000..40_000usize),
        1 => row(MAX_ROW - 27..MAX_ROW - 22),
        1 => row(70_000..200_000usize),
        2 => (0..1000u64, any::<bool>()).prop_map(|(lsn, reply)| Sent::Keepalive(lsn, reply)),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Sent::Notice),
    ]
}

/// What a frame has to come out as: what is kept of it, and how long it was.
fn expected(sent: &[Sent]) -> Vec<(Vec<u8>, usize)> {
    let frames = sent.iter().filter(|sent| !matches!(sent, Sent::Notice(_)));
    frames
        .map(|sent| {
            let mut payload = sent.bytes().split_off(5);
            let full = payload.len();
            payload.truncate(MAX_ROW);
            (payload, full)
        })
        .collect()
}

struct Feeder {
    assembler: Assembler,
    seen: Seen,
    chunks: Vec<Chunk>,
}

impl Feeder {
    fn new() -> Self {
        let allowance = Arc::new(Allowance::new(64 * 1024));
        let assembler = Assembler::new(MAX_ROW, &allowance);
        Feeder { assembler, seen: Seen::default(), chunks: Vec::new() }
    }

    /// Gives `bytes` in parts of at most `part` bytes.
    fn feed(&mut self, mut bytes: &[u8], part: usize) -> Result<Progress, FramingError> {
        let mut progress = Progress::More;
        while !bytes.is_empty() && progress == Progress::More {
            let space = self.assembler.space();
            let count = bytes.len().min(part).min(space.len());
            assert_ne!(count, 0, "there is always space");
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            progress = self.assembler.advance(count, &mut self.seen)?;
            while progress == Progress::Cut {
                self.cut();
                progress = self.assembler.advance(0, &mut self.seen)?;
            }
        }
        Ok(progress)
    }

    fn cut(&mut self) {
        self.chunks.extend(self.assembler.cut());
    }

    fn frames(&self) -> Vec<(Vec<u8>, usize)> {
        let frames = self.chunks.iter().flat_map(Chunk::frames);
        frames.map(|frame| (frame.payload.to_vec(), frame.full_len)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_fragmentation_yields_the_same_frames(
        sent in prop::collection::vec(sent(), 0..20),
        parts in prop::collection::vec((prop_oneof![1..20usize, 1..2000usize, 1..100_000usize], any::<bool>()), 1..30),
    ) {
        let stream: Vec<u8> = sent.iter().flat_map(Sent::bytes).collect();
        let mut feeder = Feeder::new();
        let mut rest = stream.as_slice();
        for (part, cut) in parts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*part));
            rest = later;
            prop_assert_eq!(feeder.feed(now, *part), Ok(Progress::More));
            if *cut {
                feeder.cut();
            }
        }
        feeder.cut();
        prop_assert_eq!(feeder.frames(), expected(&sent));

        let newest = sent.iter().map(|sent| match sent {
            Sent::Row(lsn, _) | Sent::Keepalive(lsn, _) => *lsn,
            Sent::Notice(_) => 0,
        });
        prop_assert_eq!(feeder.seen.position, Lsn(newest.max().unwrap_or(0)));
        let asked = sent.iter().any(|sent| matches!(sent, Sent::Keepalive(_, true)));
        prop_assert_eq!(feeder.seen.reply_requested, asked);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), part in 1..50usize) {
        // A wrong tag or length must end in an error or an end; anything else waits for more.
        let _ = Feeder::new().feed(&bytes, part);
    }
}

#[test]
fn a_damaged_stream_ends_alike_however_it_is_split() {
    let notice = fake::message(b'N', b"SNOTICE\0\0");
    let stream =
        [row(5, b"one"), keepalive(7, true), notice, row(9, &[b'x'; MAX_ROW]), row(11, b"two")].concat();
    let others = [keepalive(3, false), fake::message(b'E', b"SFATAL\0\0"), fake::message(b'c', b"")];
    let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
    // The long row in the middle is not what is damaged: head and tail are.
    let (head, tail) = (&stream[..120], &stream[stream.len() - 60..]);
    let split = |bytes: &[u8], part| {
        let mut feeder = Feeder::new();
        let progress = feeder.feed(bytes, part);
        feeder.cut();
        (progress, feeder.frames())
    };
    for (around, part) in [(head, 1), (tail, 7)] {
        all_damages(around, &others, part as u64, |damaged| {
            let damaged = match around.as_ptr() == head.as_ptr() {
                true => [damaged, &stream[120..]].concat(),
                false => [&stream[..stream.len() - 60], damaged].concat(),
            };
            assert_eq!(
                split(&damaged, usize::MAX),
                split(&damaged, 1_000 + part),
                "{:02x?}",
                &damaged[..120]
            );
        });
    }
}

#[test]
fn an_oversized_row_holds_no_more_than_is_kept() {
    let mut feeder = Feeder::new();
    let gigabyte = 1024 * 1024 * 1024;
    let header = [b"d", &u32::to_be_bytes(gigabyte + 4)[..]].concat();
    assert_eq!(feeder.feed(&header, 5), Ok(Progress::More));
    let part = vec![b'x'; 1024 * 1024];
    for _ in 0..1024 {
        assert_eq!(feeder.feed(&part, usize::MAX), Ok(Progress::More));
        assert!(feeder.assembler.cost() <= MAX_ROW + 5, "{}", feeder.assembler.cost());
    }
    assert_eq!(feeder.feed(&keepalive(9, false), 3), Ok(Progress::More));
    feeder.cut();
    let frames = feeder.frames();
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[0].0.len(), frames[0].1), (MAX_ROW, gigabyte as usize));
    assert_eq!(frames[1].1, 18);
}

#[test]
fn a_few_rows_do_not_take_a_buffer_with_them() {
    let mut feeder = Feeder::new();
    feeder.feed(&row(1, b"x"), 100).unwrap();
    feeder.cut();
    assert_eq!(format!("{:?}", feeder.chunks), "[Chunk(31 bytes)]");
    let before = feeder.assembler.cost();
    feeder.feed(&row(1, b"x"), 100).unwrap();
    assert_eq!(feeder.assembler.cost(), before);
}
