//! Numbers as text that needs no separators, and the checksum over it.
//!
//! Each character holds five bits of a number and one that says whether more follow, lowest bits first
//! (the coding of source maps). Gaps and lengths of ranges are mostly below 32 and so take one character
//! each; base 36 would take two with its separator, base64 over bytes a third more than one, and its last
//! bytes would have to be known before it could be cut.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const MORE: u8 = 32;
/// Characters of a checksum: 32 bits, six in each.
pub(super) const CHECKSUM: usize = 6;

/// Appends a number: one character below 32, two below 1,024, at most 13.
pub(super) fn put(text: &mut String, mut number: u64) {
    loop {
        let digit = (number & 31) as u8;
        number >>= 5;
        let digit = if number > 0 { digit | MORE } else { digit };
        text.push(char::from(ALPHABET[usize::from(digit)]));
        if number == 0 {
            return;
        }
    }
}

/// Takes a number off the front. `None` when there is none, or none that fits 64 bits.
pub(super) fn take(text: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0_u64, 0_u32);
    loop {
        let (first, rest) = text.split_first()?;
        *text = rest;
        let digit = value(*first)?;
        let bits = u64::from(digit & (MORE - 1));
        if shift > 60 || (bits << shift) >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if digit & MORE == 0 {
            return Some(number);
        }
        shift += 5;
    }
}

fn value(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

/// The checksum of a text that stands beside `offset`.
pub(super) fn checksum(offset: i64, text: &[u8]) -> String {
    let sum = offset
        .to_le_bytes()
        .iter()
        .chain(text)
        .fold(!0_u32, |sum, byte| TABLE[usize::from((sum as u8) ^ byte)] ^ (sum >> 8));
    (0..CHECKSUM).map(|place| char::from(ALPHABET[(!sum >> (6 * place)) as usize & 63])).collect()
}

/// CRC-32 (IEEE 802.3, reflected), a byte at a time.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { 0xEDB8_8320 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(numbers in prop::collection::vec(prop_oneof![0..2_000_u64, any::<u64>()], 0..20)) {
            let mut text = String::new();
            numbers.iter().for_each(|n| put(&mut text, *n));
            let mut rest = text.as_bytes();
            for number in numbers {
                prop_assert_eq!(take(&mut rest), Some(number));
            }
            prop_assert_eq!(take(&mut rest), None);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = bytes.as_slice();
            while take(&mut rest).is_some() {}
        }
    }

    #[test]
    fn a_number_that_is_too_long_is_none() {
        let mut text = String::new();
        put(&mut text, u64::MAX);
        assert_eq!(take(&mut text.as_bytes()), Some(u64::MAX));
        // The last digit has room for four bits of 64; a fifth would be lost quietly.
        let fifth = text.replace(text.chars().last().unwrap_or_default(), "Q");
        assert_eq!(take(&mut fifth.as_bytes()), None);
        assert_eq!(take(&mut format!("{}A", "g".repeat(13)).as_bytes()), None, "a fourteenth digit");
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        // "123456789" has CRC-32 cbf43926; the offset's eight bytes are put in front by hand.
        let sum = checksum(i64::from_le_bytes(*b"12345678"), b"9");
        let expected =
            (0..6).map(|place| char::from(ALPHABET[(0xcbf4_3926_u32 >> (6 * place)) as usize & 63]));
        assert_eq!(sum, expected.collect::<String>());
    }
}
