//! Dates and times, counted from 2000-01-01: PostgreSQL's ISO style, and RFC 3339.

use std::io::Write;

const DAY: i64 = 86_400_000_000;
/// Days from 0000-03-01 to 2000-01-01.
const TO_MARCH_OF_YEAR_0: i64 = 730_425;

struct Day {
    /// Year 0 is 1 BC.
    year: i64,
    month: i64,
    day: i64,
}

/// The calendar's day so many days after 2000-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, so that the leap day is the last).
fn day(days: i64) -> Day {
    const ERA: i64 = 146_097;
    let days = days + TO_MARCH_OF_YEAR_0;
    let of_era = days.rem_euclid(ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = days.div_euclid(ERA) * 400 + year_of_era + i64::from(month <= 2);
    Day { year, month, day: of_year - (153 * from_march + 2) / 5 + 1 }
}

/// Appends a `date`; the two ends of its range are infinite.
pub(super) fn append_date(days: i32, out: &mut Vec<u8>) -> Option<()> {
    match days {
        i32::MIN => out.extend_from_slice(b"-infinity"),
        i32::MAX => out.extend_from_slice(b"infinity"),
        days => append_day(&day(i64::from(days)), out, |_| Some(()))?,
    }
    Some(())
}

/// Appends a `time`.
pub(super) fn append_time(micros: i64, out: &mut Vec<u8>) -> Option<()> {
    // 24:00:00 is a time to PostgreSQL.
    (0..=DAY).contains(&micros).then_some(())?;
    append_clock(micros, out)
}

/// Appends a `timestamp` or, with the offset of UTC as `zone`, a `timestamptz`.
pub(super) fn append_timestamp(micros: i64, zone: &str, out: &mut Vec<u8>) -> Option<()> {
    match micros {
        i64::MIN => out.extend_from_slice(b"-infinity"),
        i64::MAX => out.extend_from_slice(b"infinity"),
        micros => append_day(&day(micros.div_euclid(DAY)), out, |out| {
            out.push(b' ');
            append_clock(micros.rem_euclid(DAY), out)?;
            out.write_all(zone.as_bytes()).ok()
        })?,
    }
    Some(())
}

/// Appends the time as RFC 3339 in UTC with six digits of fraction. `None`, with `out` as it was, for what
/// it cannot write: infinities and years beyond 1 to 9999.
pub(in crate::router) fn append_rfc3339(micros: i64, out: &mut Vec<u8>) -> Option<()> {
    let Day { year, month, day } = day(micros.div_euclid(DAY));
    if !(1..=9999).contains(&year) {
        return None;
    }
    let (hours, minutes, seconds, micros) = clock(micros.rem_euclid(DAY));
    write!(out, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{micros:06}Z").ok()
}

/// The day, then what comes behind it, then the era if it is not ours.
fn append_day(day: &Day, out: &mut Vec<u8>, behind: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    let before_christ = day.year <= 0;
    let year = if before_christ { 1 - day.year } else { day.year };
    write!(out, "{year:04}-{:02}-{:02}", day.month, day.day).ok()?;
    behind(out)?;
    if before_christ {
        out.extend_from_slice(b" BC");
    }
    Some(())
}

/// Hours, minutes, seconds and a fraction without zeros at its end.
fn append_clock(micros: i64, out: &mut Vec<u8>) -> Option<()> {
    let (hours, minutes, seconds, micros) = clock(micros);
    write!(out, "{hours:02}:{minutes:02}:{seconds:02}").ok()?;
    if micros != 0 {
        write!(out, ".{micros:06}").ok()?;
        let zeros = out.iter().rev().take_while(|byte| **byte == b'0').count();
        out.truncate(out.len() - zeros);
    }
    Some(())
}

fn clock(micros: i64) -> (i64, i64, i64, i64) {
    let seconds = micros / 1_000_000;
    (seconds / 3_600, seconds / 60 % 60, seconds % 60, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::super::created_at;
    use super::*;
    use proptest::prelude::*;

    fn written(append: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<String> {
        let mut out = Vec::new();
        append(&mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn days_beyond_the_usual() {
        for (days, expected) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (59, "2000-02-29"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (-2_451_545, "4714-11-24 BC"),
            (2_145_031_948, "5874897-12-31"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(written(|out| append_date(days, out)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        for (micros, expected) in [
            (0, Some("00:00:00")),
            (1, Some("00:00:00.000001")),
            (100_000, Some("00:00:00.1")),
            (DAY - 1, Some("23:59:59.999999")),
            (DAY, Some("24:00:00")),
            (DAY + 1, None),
            (-1, None),
        ] {
            assert_eq!(written(|out| append_time(micros, out)).as_deref(), expected);
        }
    }

    #[test]
    fn timestamps_of_all_ages() {
        for (micros, expected) in [
            (0, "2000-01-01 00:00:00+00"),
            (-1, "1999-12-31 23:59:59.999999+00"),
            (-63_082_281_600_000_000, "0001-01-01 00:00:00+00"),
            (-63_082_281_600_000_001, "0001-12-31 23:59:59.999999+00 BC"),
            (9_223_371_331_199_999_999, "294276-12-31 23:59:59.999999+00"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(written(|out| append_timestamp(micros, "+00", out)).as_deref(), Some(expected));
        }
        for micros in [i64::MAX, i64::MIN, -63_082_281_600_000_001, 252_455_616_000_000_000] {
            assert_eq!(written(|out| append_rfc3339(micros, out)), None, "{micros}");
        }
    }

    proptest! {
        #[test]
        fn rfc_3339_is_the_same_as_by_way_of_the_text(
            micros in -63_082_281_600_000_000i64..252_455_616_000_000_000,
        ) {
            let text = written(|out| append_timestamp(micros, "+00", out)).unwrap();
            let by_text = written(|out| created_at::append_rfc3339(text.as_bytes(), out));
            prop_assert_eq!(written(|out| append_rfc3339(micros, out)), by_text);
        }

        #[test]
        fn arbitrary_times_never_panic(micros: i64, days: i32) {
            append_timestamp(micros, "", &mut Vec::new()).unwrap();
            append_rfc3339(micros, &mut Vec::new());
            append_time(micros, &mut Vec::new());
            append_date(days, &mut Vec::new()).unwrap();
        }
    }
}
