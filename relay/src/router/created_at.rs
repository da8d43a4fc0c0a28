//! PostgreSQL's time text as RFC 3339 with exactly six fractional digits, in UTC.

use std::io::Write;

use jiff::SignedDuration;
use jiff::civil::DateTime;

/// Appends the time that `text` says, such as `2026-11-21T02:35:50.123456Z`.
///
/// The text is `timestamptz` in ISO style, `2026-11-21 02:35:50.123456+00`, with up to six fractional
/// digits and any offset, or `timestamp` (no offset), which is taken as UTC. `None`, with `out` as it was,
/// for everything else: infinities, years that RFC 3339 cannot write, other styles.
pub fn append_rfc3339(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let utc = parse(text)?;
    if utc.year() < 0 {
        return None;
    }
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        utc.year(),
        utc.month(),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.subsec_nanosecond() / 1_000
    )
    .ok()
}

fn parse(text: &[u8]) -> Option<DateTime> {
    let mut rest = Cursor(text);
    let year = rest.number(4)?;
    rest.byte(b'-')?;
    let month = rest.number(2)?;
    rest.byte(b'-')?;
    let day = rest.number(2)?;
    rest.byte(b' ')?;
    let hour = rest.number(2)?;
    rest.byte(b':')?;
    let minute = rest.number(2)?;
    rest.byte(b':')?;
    let second = rest.number(2)?;
    let nanos = match rest.byte(b'.') {
        Some(()) => rest.fraction()?,
        None => 0,
    };
    let offset = rest.offset()?;
    if !rest.0.is_empty() {
        return None;
    }
    let small = |number: i32| i8::try_from(number).ok();
    let year = i16::try_from(year).ok()?;
    let local =
        DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, nanos)
            .ok()?;
    // Civil arithmetic: an instant of jiff's ends a day before the calendar does.
    local.checked_sub(SignedDuration::from_secs(offset)).ok()
}

/// What is left of the text.
struct Cursor<'t>(&'t [u8]);

impl Cursor<'_> {
    fn byte(&mut self, wanted: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[wanted])?;
        Some(())
    }

    /// A number of exactly so many digits, at most nine.
    fn number(&mut self, digits: usize) -> Option<i32> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number
            .iter()
            .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i32::from(digit - b'0')))
    }

    /// One to six digits after the point, in nanoseconds.
    fn fraction(&mut self) -> Option<i32> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=6).contains(&digits) {
            return None;
        }
        let number = self.number(digits)?;
        Some(number * 10i32.pow(9 - digits as u32))
    }

    /// `+00`, `-03:30`, `+01:02:03` or nothing, in seconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        let sign = match (self.byte(b'+'), self.byte(b'-')) {
            (Some(()), None) => 1,
            (None, Some(())) => -1,
            (Some(()), Some(())) => return None,
            (None, None) => return Some(0),
        };
        let mut seconds = i64::from(self.number(2)?) * 3_600;
        for unit in [60, 1] {
            if self.byte(b':').is_some() {
                seconds += i64::from(self.number(2)?) * unit;
            }
        }
        Some(sign * seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rfc3339(text: &str) -> Option<String> {
        let mut out = Vec::new();
        append_rfc3339(text.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn fractions_have_six_digits() {
        for (text, expected) in [
            ("2026-11-21 02:35:50.123456+00", "2026-11-21T02:35:50.123456Z"),
            ("2026-11-21 02:35:50.1+00", "2026-11-21T02:35:50.100000Z"),
            ("2026-11-21 02:35:50.00001+00", "2026-11-21T02:35:50.000010Z"),
            ("2026-11-21 02:35:50+00", "2026-11-21T02:35:50.000000Z"),
            ("2026-11-21 02:35:50", "2026-11-21T02:35:50.000000Z"),
            ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000000Z"),
            ("9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(rfc3339(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_offsets_are_converted() {
        for (text, expected) in [
            ("2026-11-21 02:35:50.5+05:30", "2026-11-20T21:05:50.500000Z"),
            ("2026-12-31 23:00:00-01", "2027-01-01T00:00:00.000000Z"),
            ("1890-01-01 00:00:00+00:53:28", "1889-12-31T23:06:32.000000Z"),
        ] {
            assert_eq!(rfc3339(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_rfc_3339_form_is_refused() {
        for text in [
            "infinity",
            "-infinity",
            "",
            "0044-03-15 00:00:00+00 BC",
            "10000-01-01 00:00:00+00",
            "2026-02-30 00:00:00+00",
            "2026-11-21 24:00:01+00",
            "2026-11-21T02:35:50+00",
            "2026-11-21 02:35:50.+00",
            "2026-11-21 02:35:50.1234567+00",
            "2026-11-21 02:35:50+0",
            "2026-11-21 02:35:50+-00",
            "2026-11-21 02:35:50+00:00:00:00",
            "2026-11-21 02:35:50+00 ",
            "21/11/2026 02:35:50 UTC",
            "+026-11-21 02:35:50+00",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_calendar(micros in -62_135_596_800_000_000i64..253_402_000_000_000_000) {
            let time = jiff::Timestamp::from_microsecond(micros).unwrap();
            let postgres = time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string();
            prop_assert_eq!(rfc3339(&postgres), Some(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[0-9+:. -]{0,40}") {
            rfc3339(&text);
        }
    }
}
