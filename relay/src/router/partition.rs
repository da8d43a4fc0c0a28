//! The partition of a key, as Java's default partitioner chooses it: consumers that join topics by
//! partition, and other producers of the same topic, must agree with it.

use std::num::NonZeroU32;

/// The partition of a key in a topic of so many partitions:
/// `toPositive(murmur2(key)) % partitions` of `org.apache.kafka.clients.producer.internals.BuiltInPartitioner`,
/// over the key bytes as they are written.
pub fn partition(key: &[u8], partitions: NonZeroU32) -> i32 {
    // "Positive" drops the sign bit; it is not the absolute value.
    let positive = murmur2(key) & 0x7FFF_FFFF;
    (positive % partitions) as i32
}

/// `org.apache.kafka.common.utils.Utils.murmur2`: 32-bit MurmurHash 2 with the seed that Kafka chose.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const M: u32 = 0x5BD1_E995;
    const R: u32 = 24;

    let (words, tail) = data.as_chunks::<4>();
    // Java's length is an i32; keys are far shorter than where the two would part.
    let mut h = SEED ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (n, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * n);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_as_kafkas_own_test_says() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    /// Partitions that Java's producer chose, read back from a broker (Kafka 4.3).
    #[test]
    fn partitions_are_those_of_javas_producer() {
        for (key, partitions, chosen) in [
            (b"".as_slice(), 4, 1),
            (b"k1", 4, 1),
            (b"\"k1\"", 4, 2),
            (b"\x01\x02\xFF", 4, 1),
            (b"\0\0\0\0\0\0\x01\x02", 4, 0),
            ("ключ".as_bytes(), 4, 0),
            ("ключ 😀".as_bytes(), 4, 2),
            (b"-12345678.99", 4, 0),
            (b"\"user-1\"", 12, 10),
            (b"\"user-5\"", 12, 1),
            (b"\"user-21\"", 12, 9),
        ] {
            assert_eq!(partition(key, NonZeroU32::new(partitions).unwrap()), chosen, "{key:?}");
        }
    }
}
