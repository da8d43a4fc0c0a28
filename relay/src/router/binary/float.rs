//! `float4` and `float8` as PostgreSQL writes them with `extra_float_digits` above 0: the fewest digits that
//! read back as the same number, and among those the nearest.
//!
//! Its digits are Ryu's with one difference (`src/common/d2s.c`, "acceptBounds"): a decimal exactly half way
//! to the next number is never used, although one that rounds to even would read it back. `1e23` is such a
//! decimal: PostgreSQL writes `9.999999999999999e+22` for what Rust writes as `1e23`.

use std::io::Write;

/// Appends a `float8`.
pub(super) fn append_f64(value: f64, out: &mut Vec<u8>) {
    if special(value, out) {
        return;
    }
    // 52 bits of fraction; a number below the normal ones has no leading one.
    let bits = value.abs().to_bits();
    let (fraction, exponent) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let number = Number {
        mantissa: if exponent == 0 { fraction } else { fraction | 1 << 52 },
        exponent: exponent.max(1) - 1_075,
        evenly_spaced: fraction != 0 || exponent <= 1,
    };
    let same = |text: &str| text.parse() == Ok(value.abs());
    let decimal = shortest(&format!("{:e}", value.abs()), 17, &number, same, |digits| {
        format!("{:.*e}", digits - 1, value.abs())
    });
    decimal.append(15, out);
}

/// Appends a `float4`.
pub(super) fn append_f32(value: f32, out: &mut Vec<u8>) {
    if special(f64::from(value), out) {
        return;
    }
    let bits = value.abs().to_bits();
    let (fraction, exponent) = (bits & ((1 << 23) - 1), (bits >> 23) as i32);
    let number = Number {
        mantissa: u64::from(if exponent == 0 { fraction } else { fraction | 1 << 23 }),
        exponent: exponent.max(1) - 150,
        evenly_spaced: fraction != 0 || exponent <= 1,
    };
    let same = |text: &str| text.parse() == Ok(value.abs());
    let decimal = shortest(&format!("{:e}", value.abs()), 9, &number, same, |digits| {
        format!("{:.*e}", digits - 1, value.abs())
    });
    decimal.append(6, out);
}

/// Appends the sign, and the whole of what has no digits.
fn special(value: f64, out: &mut Vec<u8>) -> bool {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return true;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let text: &[u8] = if value.is_infinite() { b"Infinity" } else { b"0" };
    let whole = value.is_infinite() || value == 0.0;
    if whole {
        out.extend_from_slice(text);
    }
    whole
}

/// A positive number: mantissa × 2^exponent.
struct Number {
    mantissa: u64,
    exponent: i32,
    /// Whether the next smaller number is as far away as the next larger one: not below a power of two.
    evenly_spaced: bool,
}

impl Number {
    /// Whether a decimal lies exactly half way to one of the two neighbours.
    fn is_half_way(&self, decimal: &Decimal) -> bool {
        let above = (2 * self.mantissa + 1, self.exponent - 1);
        let below = match self.evenly_spaced {
            true => (2 * self.mantissa - 1, self.exponent - 1),
            false => (4 * self.mantissa - 1, self.exponent - 2),
        };
        let exact = decimal.in_base_two();
        exact == Some(above) || exact == Some(below)
    }
}

/// A positive decimal number: digits × 10^exponent.
#[derive(Debug, Clone, Copy)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

impl Decimal {
    /// Reads `1.25e-7`.
    fn read(text: &str) -> Option<Decimal> {
        let (mantissa, exponent) = text.split_once('e')?;
        let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let digits = mantissa.replace('.', "").parse().ok()?;
        Some(Decimal { digits, exponent: exponent.parse::<i32>().ok()? - i32::try_from(fraction).ok()? })
    }

    /// The same number as odd × 2^n, if it has that form with an odd part below 2^64.
    fn in_base_two(&self) -> Option<(u64, i32)> {
        // 5^27 is the last power below 2^63; digits have less than 2^57. A larger one is no neighbour's half.
        let power = 5u128.pow(self.exponent.unsigned_abs().min(28));
        let whole = match self.exponent {
            0..28 => u128::from(self.digits) * power,
            -27..0 if u128::from(self.digits).is_multiple_of(power) => u128::from(self.digits) / power,
            _ => return None,
        };
        let zeros = whole.trailing_zeros();
        let odd = u64::try_from(whole.checked_shr(zeros)?).ok()?;
        Some((odd, self.exponent + i32::try_from(zeros).ok()?))
    }

    /// Appends it as C's `%g` would: in plain digits from 0.0001 up to `plain` digits before the point.
    fn append(&self, plain: i32, out: &mut Vec<u8>) {
        let mut text = self.digits.to_string();
        let mut exponent = self.exponent;
        while text.len() > 1 && text.ends_with('0') {
            text.pop();
            exponent += 1;
        }
        let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
        // Of the first digit.
        let exponent = exponent + length - 1;
        let written = if !(-4..plain).contains(&exponent) {
            let (first, rest) = text.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{first}{point}{rest}e{sign}{:02}", exponent.abs())
        } else if exponent < 0 {
            write!(out, "0.{:0<zeros$}{text}", "", zeros = exponent.unsigned_abs() as usize - 1)
        } else {
            let whole = exponent as usize + 1;
            match text.split_at_checked(whole) {
                Some((whole, fraction)) if !fraction.is_empty() => write!(out, "{whole}.{fraction}"),
                _ => write!(out, "{text:0<whole$}"),
            }
        };
        written.expect("memory takes every byte");
    }
}

/// The decimal that PostgreSQL writes. `rust` is the shortest that reads back at all; no shorter one can do.
fn shortest(
    rust: &str,
    longest: usize,
    number: &Number,
    same: impl Fn(&str) -> bool,
    nearest: impl Fn(usize) -> String,
) -> Decimal {
    let length = rust.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    for digits in length..=longest {
        // Rounded half to even, as Ryu does where two are equally near.
        let Some(nearest) = Decimal::read(&nearest(digits)) else { break };
        // The nearest of this length may lie beyond the half way down from a power of two.
        let candidates = [
            nearest,
            Decimal { digits: nearest.digits + 1, ..nearest },
            Decimal { digits: nearest.digits - 1, ..nearest },
        ];
        let fits = |decimal: &&Decimal| {
            same(&format!("{}e{}", decimal.digits, decimal.exponent)) && !number.is_half_way(decimal)
        };
        if let Some(decimal) = candidates.iter().find(fits) {
            return *decimal;
        }
    }
    Decimal::read(rust).expect("Rust writes numbers as it always does")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn f64_text(value: f64) -> String {
        let mut out = Vec::new();
        append_f64(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn f32_text(value: f32) -> String {
        let mut out = Vec::new();
        append_f32(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Seen on PostgreSQL 15 with `extra_float_digits = 3`.
    #[test]
    fn doubles_are_written_as_the_server_does() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e14, "100000000000000"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e15, "1e+15"),
            (1.25e15, "1.25e+15"),
            (1e23, "9.999999999999999e+22"),
            (2f64.powi(50) + 0.25, "1.1258999068426242e+15"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(f64_text(value), expected);
        }
    }

    #[test]
    fn singles_are_written_as_the_server_does() {
        for (value, expected) in [
            (0.1, "0.1"),
            (-0.0, "-0"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (16_777_216.0, "1.6777216e+07"),
            (3.402_823_5e38, "3.4028235e+38"),
            (1e-45, "1e-45"),
            (f32::INFINITY, "Infinity"),
        ] {
            assert_eq!(f32_text(value), expected);
        }
    }

    proptest! {
        #[test]
        fn every_double_reads_back(bits: u64) {
            let value = f64::from_bits(bits);
            let read: f64 = f64_text(value).parse().unwrap();
            prop_assert!(read.to_bits() == bits || value.is_nan() && read.is_nan());
        }

        #[test]
        fn every_single_reads_back(bits: u32) {
            let value = f32::from_bits(bits);
            let read: f32 = f32_text(value).parse().unwrap();
            prop_assert!(read.to_bits() == bits || value.is_nan() && read.is_nan());
        }
    }
}
