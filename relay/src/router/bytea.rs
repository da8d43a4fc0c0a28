//! `bytea` in PostgreSQL's hex output, `\x00ff`.

/// Value of each hex digit; everything else is [`NO_DIGIT`].
const DIGITS: [u8; 256] = digits();
const NO_DIGIT: u8 = 0xFF;

const fn digits() -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value as usize] as usize] = value;
        table[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    table
}

/// Number of bytes that the text stands for, if it is well formed.
pub fn decoded_len(text: &[u8]) -> usize {
    text.len().saturating_sub(2) / 2
}

/// Appends the bytes. `None` if the text is not `\x` and pairs of hex digits
/// (the server was asked for `bytea_output` hex; the older escape form is not read).
pub fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (pairs, rest) = text.strip_prefix(b"\\x")?.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    // Checked once at the end: a branch per byte would cost more than the decoding.
    let mut seen = 0;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        seen |= high | low;
        high << 4 | low & 0x0F
    }));
    (seen & 0xF0 == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = format!("\\x{hex}");
            let mut out = b"before".to_vec();
            prop_assert_eq!(decode(text.as_bytes(), &mut out), Some(()));
            prop_assert_eq!(decoded_len(text.as_bytes()), bytes.len());
            prop_assert_eq!(out, [b"before", bytes.as_slice()].concat());
        }

        #[test]
        fn one_wrong_digit_is_seen(at in 0usize..8, byte in any::<u8>()) {
            prop_assume!(!byte.is_ascii_hexdigit());
            let mut text = *b"\\x01234567";
            text[2 + at] = byte;
            prop_assert_eq!(decode(&text, &mut Vec::new()), None);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [b"".as_slice(), b"x00", b"\\", b"\\x0", b"\\x000", b"\\X00", b"abc", b"\\000"] {
            assert_eq!(decode(text, &mut Vec::new()), None, "{text:?}");
        }
    }
}
