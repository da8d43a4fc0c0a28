//! Amounts with units: bytes, durations, counts. Whole numbers only, so that nothing is rounded quietly.

use std::time::Duration;

use super::{Kind, expected};

/// Bytes within bounds: `8MiB`, `900kB`, `4096`.
#[derive(Debug)]
pub struct Size {
    /// Least bytes allowed.
    pub min: usize,
    /// Most bytes allowed.
    pub max: usize,
}

const SIZE_UNITS: &[(&str, usize)] = &[
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

impl Kind for Size {
    type Value = usize;

    fn expectation(&self) -> String {
        format!(
            "a size from {} to {}, such as `8MiB`, `900kB` or plain bytes",
            show_size(self.min),
            show_size(self.max)
        )
    }

    fn read(&self, text: &str) -> Result<usize, String> {
        let (number, unit) = split(text).ok_or_else(|| expected(self))?;
        let unit = unit.to_ascii_lowercase();
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let bytes = factor.and_then(|factor| usize::try_from(number).ok()?.checked_mul(factor));
        bytes.filter(|bytes| (self.min..=self.max).contains(bytes)).ok_or_else(|| expected(self))
    }

    fn only_text(&self) -> bool {
        false
    }
}

/// A duration within bounds: `250ms`, `10s`, `1m`.
#[derive(Debug)]
pub struct Span {
    /// Shortest allowed.
    pub min: Duration,
    /// Longest allowed.
    pub max: Duration,
}

const SPAN_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

impl Kind for Span {
    type Value = Duration;

    fn expectation(&self) -> String {
        format!(
            "a duration from {} to {}, such as `250ms`, `10s` or `1m`",
            show_span(self.min),
            show_span(self.max)
        )
    }

    fn read(&self, text: &str) -> Result<Duration, String> {
        let (number, unit) = split(text).ok_or_else(|| expected(self))?;
        let factor = SPAN_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let millis = factor.and_then(|factor| number.checked_mul(factor)).map(Duration::from_millis);
        millis.filter(|span| (self.min..=self.max).contains(span)).ok_or_else(|| expected(self))
    }
}

/// A whole number within bounds.
#[derive(Debug)]
pub struct Count {
    /// Least allowed.
    pub min: usize,
    /// Most allowed.
    pub max: usize,
}

impl Kind for Count {
    type Value = usize;

    fn expectation(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }

    fn read(&self, text: &str) -> Result<usize, String> {
        let count = text.parse().ok();
        count.filter(|count| (self.min..=self.max).contains(count)).ok_or_else(|| expected(self))
    }

    fn only_text(&self) -> bool {
        false
    }
}

/// `8MiB` into 8 and `MiB`; spaces between are allowed. `None` without a leading whole number.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

/// Bytes with the largest binary unit that divides them.
fn show_size(bytes: usize) -> String {
    for (name, factor) in [("GiB", 1usize << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// A duration with the largest unit that divides it.
fn show_span(span: Duration) -> String {
    let millis = span.as_millis();
    for (name, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{name}", millis / factor);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let kind = Size { min: 1, max: 1 << 30 };
        for (text, bytes) in
            [("4096", 4096), ("900kB", 900_000), ("8MiB", 8 << 20), ("8 mib", 8 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(kind.read(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "0",
            "1.5MiB",
            "8 parsecs",
            "-1",
            "2GiB",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(kind.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        let kind = Span { min: Duration::from_millis(1), max: Duration::from_secs(7200) };
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("1m", 60_000), ("2h", 7_200_000)] {
            assert_eq!(kind.read(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["10", "0s", "3h", "1M", "s", "1.5s", "-1s", "18446744073709551615h"] {
            assert!(kind.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_are_told_with_units() {
        assert_eq!(
            Size { min: 64 << 10, max: 1 << 30 }.expectation(),
            "a size from 64KiB to 1GiB, such as `8MiB`, `900kB` or plain bytes"
        );
        let kind = Span { min: Duration::ZERO, max: Duration::from_secs(90) };
        assert_eq!(kind.expectation(), "a duration from 0ms to 90s, such as `250ms`, `10s` or `1m`");
    }
}
