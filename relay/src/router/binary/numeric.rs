//! `numeric`: four 16-bit numbers (how many digits, weight of the first, sign, digits after the point), then
//! the digits in base 10,000.

use std::io::Write;

/// Decimal digits of one digit in base 10,000.
const DIGITS: usize = 4;

/// Appends the text as `numeric_out` writes it. `None` for bytes that are no `numeric`.
pub(super) fn append(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (words, odd) = value.as_chunks::<2>();
    let (head, digits) = words.split_at_checked(4)?;
    let word = |at: usize| u16::from_be_bytes(head[at]);
    let (count, weight, sign, scale) = (word(0), i16::from_be_bytes(head[1]), word(2), usize::from(word(3)));
    if !odd.is_empty() || usize::from(count) != digits.len() {
        return None;
    }
    match sign {
        0x0000 => {}
        0x4000 => out.push(b'-'),
        0xC000 => out.extend_from_slice(b"NaN"),
        0xD000 => out.extend_from_slice(b"Infinity"),
        0xF000 => out.extend_from_slice(b"-Infinity"),
        _ => return None,
    }
    if sign > 0x4000 {
        return Some(());
    }
    // Digits that are not sent are zero: trailing ones, and those between the point and a small number.
    let digit = |place: i64| -> Option<u16> {
        let digit = usize::try_from(place).ok().and_then(|place| digits.get(place));
        let digit = digit.map_or(0, |digit| u16::from_be_bytes(*digit));
        (digit < 10_000).then_some(digit)
    };
    let first_after_point = i64::from(weight) + 1;
    if first_after_point <= 0 {
        out.push(b'0');
    }
    for place in 0..first_after_point {
        let digit = digit(place)?;
        if place == 0 { write!(out, "{digit}").ok()? } else { write!(out, "{digit:04}").ok()? }
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        for place in (first_after_point..).take(scale.div_ceil(DIGITS)) {
            write!(out, "{:04}", digit(place)?).ok()?;
        }
        out.truncate(end);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(words: &[u16]) -> Option<String> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut out = Vec::new();
        append(&bytes, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_are_written_as_the_server_does() {
        const NEGATIVE: u16 = 0x4000;
        const MINUS_1: u16 = 0xFFFF;
        const MINUS_2: u16 = 0xFFFE;
        for (words, expected) in [
            (&[0, 0, 0, 0][..], "0"),
            (&[0, 0, 0, 3], "0.000"),
            (&[1, 0, 0, 2, 1], "1.00"),
            (&[2, 0, 0, 2, 1, 5000], "1.50"),
            (&[1, MINUS_1, NEGATIVE, 1, 5000], "-0.5"),
            (&[1, MINUS_2, 0, 8, 12], "0.00000012"),
            (&[1, MINUS_2, 0, 7, 10], "0.0000001"),
            (&[2, 1, 0, 0, 12, 34], "120034"),
            (&[1, 2, NEGATIVE, 0, 7], "-700000000"),
            (&[3, 1, 0, 5, 1, 2, 3456], "10002.34560"),
            (&[0, 0, 0xC000, 0], "NaN"),
            (&[0, 0, 0xD000, 0x20], "Infinity"),
            (&[0, 0, 0xF000, 0x20], "-Infinity"),
        ] {
            assert_eq!(text(words).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_numeric_is_refused() {
        for words in
            [&[][..], &[0, 0, 0], &[1, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 1, 0], &[1, 0, 0, 0, 10_000]]
        {
            assert_eq!(text(words), None, "{words:?}");
        }
        assert_eq!(append(&[0; 9], &mut Vec::new()), None);
    }

    proptest! {
        #[test]
        fn whole_numbers_come_back(number: u64) {
            let mut rest = number;
            let mut words = Vec::new();
            while rest > 0 {
                words.insert(0, (rest % 10_000) as u16);
                rest /= 10_000;
            }
            let weight = (words.len() as u16).wrapping_sub(1);
            let words = [&[words.len() as u16, weight, 0, 0][..], &words].concat();
            prop_assert_eq!(text(&words), Some(number.to_string()));
        }
    }
}
