//! Where an event stands in the order of its source.

use std::fmt;
use std::str::FromStr;

/// The position of an event: it orders the events of one source and tells a repetition from a new event. It
/// is compared, never computed.
///
/// Its text is `<epoch>/<commit LSN>/<ordinal>`: the LSN as exactly 16 upper-case hex digits, the other two
/// decimal without leading zeros. There is one text for each position, so texts may be compared for equality.
///
/// ```
/// use outbox_schema::record::Position;
/// let position = Position { epoch: 1, commit_lsn: 0x16B_3748, ordinal: 2 };
/// assert_eq!(position.to_string(), "1/00000000016B3748/2");
/// assert_eq!("1/00000000016B3748/2".parse(), Ok(position));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// How often the stream had to be started anew; from 1. LSNs of different epochs say nothing about each
    /// other.
    pub epoch: u64,
    /// LSN of the transaction's commit record; 0 where the relay published from the table.
    pub commit_lsn: u64,
    /// The row's place among the published rows of its transaction; its `seq` where the relay published from
    /// the table.
    pub ordinal: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016X}/{}", self.epoch, self.commit_lsn, self.ordinal)
    }
}

/// The text was not a position such as `1/00000000016B3748/2`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position such as 1/00000000016B3748/2")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('/');
            let position = Position {
                epoch: decimal(parts.next()?)?,
                commit_lsn: hexadecimal(parts.next()?)?,
                ordinal: decimal(parts.next()?)?,
            };
            parts.next().is_none().then_some(position)
        };
        parse().ok_or_else(|| PositionError(text.to_owned()))
    }
}

/// Digits only (`parse` alone takes a sign), without leading zeros.
fn decimal(digits: &str) -> Option<u64> {
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok()).flatten()
}

fn hexadecimal(digits: &str) -> Option<u64> {
    let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for (text, epoch, commit_lsn, ordinal) in [
            ("1/0000000000000000/0", 1, 0, 0),
            ("1/00000016B374D848/7", 1, 0x16_B374_D848, 7),
            ("18446744073709551615/FFFFFFFFFFFFFFFF/18446744073709551615", u64::MAX, u64::MAX, u64::MAX),
        ] {
            let position = Position { epoch, commit_lsn, ordinal };
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "1/0000000000000000",
            "1/0000000000000000/0/0",
            "01/0000000000000000/0",
            "+1/0000000000000000/0",
            "1/000000000000000/0",
            "1/00000000000000000/0",
            "1/00000000016b3748/0",
            "1/0000000000000000/",
            "1/0000000000000000/18446744073709551616",
            " 1/0000000000000000/0",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn epoch_comes_before_lsn_comes_before_ordinal() {
        let at = |epoch, commit_lsn, ordinal| Position { epoch, commit_lsn, ordinal };
        assert!(at(1, 9, 9) < at(2, 0, 0) && at(1, 1, 9) < at(1, 2, 0) && at(1, 1, 1) < at(1, 1, 2));
    }
}
