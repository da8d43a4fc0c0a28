//! What a record costs. Printed, not judged: `cargo test --release -p outbox-consumer -- --ignored
//! --nocapture nanoseconds`.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const RECORDS: usize = 3_000_000;
/// What the intake lets in at most.
const BACKLOG: usize = 10_000;

/// A key of the length of a UUID as text, without touching memory for a million of them.
fn key(number: u64) -> [u8; 36] {
    let mut key = [b'0'; 36];
    let mut rest = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for byte in &mut key[..16] {
        *byte = b'a' + (rest & 15) as u8;
        rest >>= 4;
    }
    key
}

/// One of `keys`, the first far more often than the last: Zipf's law with exponent 1, by inversion of its
/// continuous form.
fn zipf(rng: &mut StdRng, keys: u64) -> u64 {
    ((keys as f64).powf(rng.random::<f64>()) as u64).min(keys - 1)
}

fn measure(name: &str, numbers: &[u64]) {
    let lane = Lane { topic: 1, partition: 0, epoch: 1 };
    let mut keys = Keys::new();
    for number in &numbers[..BACKLOG] {
        assert!(keys.push(lane, Some(&key(*number)), *number, 500));
    }
    let start = Instant::now();
    for number in numbers {
        let run = keys.take().unwrap();
        keys.push(lane, Some(&key(*number)), *number, 500);
        keys.finish(run.ticket);
    }
    let one = start.elapsed().as_nanos() as f64 / numbers.len() as f64;
    let start = Instant::now();
    for batch in numbers.chunks(50) {
        let group = keys.take_group(50, |_| Some(((), 50)));
        for number in batch {
            keys.push(lane, Some(&key(*number)), *number, 500);
        }
        for run in group {
            keys.finish(run.ticket);
        }
    }
    let group = start.elapsed().as_nanos() as f64 / numbers.len() as f64;
    println!("keys, {name}: {one:.0} ns for push, take and finish; {group:.0} ns in groups of 50");
}

#[test]
#[ignore = "prints a measure"]
fn nanoseconds_of_a_record() {
    let mut rng = StdRng::seed_from_u64(1);
    for keys in [1_000, 10_000, 100_000, 1_000_000] {
        let numbers: Vec<u64> = (0..RECORDS).map(|_| rng.random_range(0..keys)).collect();
        measure(&format!("{keys} uniform"), &numbers);
    }
    let numbers: Vec<u64> = (0..RECORDS).map(|_| zipf(&mut rng, 1_000_000)).collect();
    measure("1000000 Zipf", &numbers);
}
