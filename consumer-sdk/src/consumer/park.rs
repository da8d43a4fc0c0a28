//! How much the park may hold.

use super::settings::Settings;

/// How much of a consumer's events may be parked, in all its instances. What would be more waits where it is, with its key,
/// and says so: the log, `/status` and the gauge `outbox_consumer_park_full`.
///
/// ```
/// use outbox_consumer::{Consumer, ParkLimits};
///
/// let limits = ParkLimits { events: 1_000_000, ..ParkLimits::default() };
/// let consumer = Consumer::from_env("inventory").park_limits(limits);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkLimits {
    /// Events of one key, the one that failed included: 10,000 unless told otherwise.
    pub events_of_key: u32,
    /// Events in all: 100,000 unless told otherwise.
    pub events: u32,
    /// Bytes of their keys, values and headers in all: 1 GiB unless told otherwise.
    pub bytes: u64,
}

impl Default for ParkLimits {
    fn default() -> ParkLimits {
        ParkLimits { events_of_key: 10_000, events: 100_000, bytes: 1 << 30 }
    }
}

/// What PostgreSQL counts events with.
const MOST: u32 = i32::MAX as u32;

impl ParkLimits {
    /// Those of the environment, and the usual ones where it says nothing.
    ///
    /// # Errors
    /// Everything in it that is no number.
    pub(super) fn read(settings: &Settings) -> Result<ParkLimits, Vec<String>> {
        let (mut limits, mut mistakes) = (ParkLimits::default(), Vec::new());
        let mut read = |variable: &str, most: u64| {
            let text = settings.get(variable)?.trim();
            let number = text.parse().ok().filter(|number| *number <= most);
            if number.is_none() {
                mistakes.push(format!("{variable} is {text:?}: a whole number from 1 to {most}"));
            }
            number
        };
        let mut events = |variable| u32::try_from(read(variable, MOST.into())?).ok();
        if let Some(number) = events(OF_KEY) {
            limits.events_of_key = number;
        }
        if let Some(number) = events(EVENTS) {
            limits.events = number;
        }
        if let Some(number) = read(BYTES, i64::MAX as u64) {
            limits.bytes = number;
        }
        if mistakes.is_empty() { limits.checked() } else { Err(mistakes) }
    }

    /// The same, where they make sense.
    ///
    /// # Errors
    /// Everything that does not.
    pub(super) fn checked(self) -> Result<ParkLimits, Vec<String>> {
        let ParkLimits { events_of_key, events, bytes } = self;
        let mut mistakes = Vec::new();
        let mut expect = |holds: bool, sentence: String| {
            if !holds {
                mistakes.push(sentence);
            }
        };
        expect(
            events_of_key > 0 && events > 0 && bytes > 0,
            "a limit of the park is 0: nothing could be parked, and what fails would hold its key here for ever".into(),
        );
        expect(
            events_of_key <= events,
            format!("the park takes {events_of_key} events of a key and {events} in all: raise the second"),
        );
        expect(
            events <= MOST && bytes <= i64::MAX as u64,
            format!("the park takes {events} events and {bytes} bytes: at most {MOST} and {}", i64::MAX),
        );
        if mistakes.is_empty() { Ok(self) } else { Err(mistakes) }
    }
}

/// Events of one key.
pub(super) const OF_KEY: &str = "OUTBOX_PARK_EVENTS_OF_KEY";
/// Events in all.
pub(super) const EVENTS: &str = "OUTBOX_PARK_EVENTS";
/// Their bytes.
pub(super) const BYTES: &str = "OUTBOX_PARK_BYTES";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<ParkLimits, Vec<String>> {
        let found = |variable: &str| set.iter().find(|(name, _)| *name == variable);
        ParkLimits::read(&Settings::read(|variable| found(variable).map(|(_, text)| (*text).to_owned())))
    }

    #[test]
    fn the_environment_says_what_is_not_usual() {
        assert_eq!(read(&[]), Ok(ParkLimits::default()));
        let usual = ParkLimits::default();
        assert_eq!(read(&[(EVENTS, " 200000 ")]), Ok(ParkLimits { events: 200_000, ..usual }));
        assert_eq!(
            read(&[(OF_KEY, "2"), (EVENTS, "3"), (BYTES, "4")]),
            Ok(ParkLimits { events_of_key: 2, events: 3, bytes: 4 })
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_name() {
        let mistakes = read(&[(OF_KEY, "many"), (EVENTS, "3000000000"), (BYTES, "1 GiB")]).unwrap_err();
        let named = |name: &str| mistakes.iter().any(|mistake| mistake.starts_with(&format!("{name} is ")));
        assert!([OF_KEY, EVENTS, BYTES].into_iter().all(named) && mistakes.len() == 3, "{mistakes:?}");
        assert!(read(&[(BYTES, "0")]).unwrap_err()[0].contains("is 0"));
        assert!(read(&[(EVENTS, "100")]).unwrap_err()[0].contains("raise the second"));
    }
}
