//! A dead letter as the row that PostgreSQL keeps of it: bounded texts that any database takes.

use jiff::Timestamp;
use serde::Serialize;

use super::evidence::{Evidence, Reading, place_name};
use super::foreign::{Adoption, adopted};
use super::record::Record;

/// Cause of a letter whose own evidence cannot be read.
pub const DAMAGED: &str = "damaged_evidence";
/// Cause of a record that says nothing of a failure.
pub const UNKNOWN: &str = "no_evidence";

/// The arguments of `inbox.project_dead_letter()`. Times and the key travel as texts, all rows as one JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Projected {
    /// The consumer whose letter it is.
    pub scope: String,
    /// What names it in the scope.
    pub letter: String,
    /// Topic of the copy.
    pub copy_topic: String,
    /// Its partition.
    pub copy_partition: i32,
    /// Its offset.
    pub copy_offset: i64,
    /// Its time.
    pub copy_time: String,
    /// Topic of the source record.
    pub source_topic: String,
    /// Its partition.
    pub source_partition: i32,
    /// Its offset.
    pub source_offset: i64,
    /// Class of the cause.
    pub cause: String,
    /// What the last attempt said.
    pub error: String,
    /// The team that has to decide.
    pub owner: String,
    /// By when.
    pub deadline: String,
    /// How often it was tried.
    pub attempts: i32,
    /// First failure.
    pub first_failed_at: String,
    /// Last failure.
    pub last_failed_at: String,
    /// Id under which it is settled.
    pub id: Option<String>,
    /// The created-at with which it is settled.
    pub created: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The handler.
    pub handler: Option<String>,
    /// The record's key in hex digits.
    pub key: Option<String>,
    /// Number of the replay that failed with it.
    pub replay: i32,
}

/// A letter of another group, which is not taken up (C13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherGroup(pub String);

/// What a record of a dead-letter topic is: every record is a letter, whatever it says, so that none is overlooked.
///
/// # Errors
/// [`OtherGroup`] where its own evidence names another group.
pub fn evidence_of(record: &Record, group: &str, adoption: &Adoption) -> Result<Evidence, OtherGroup> {
    let copy = (record.topic.clone(), record.partition, record.offset);
    match Evidence::read(&record.headers) {
        Reading::Own(evidence) if evidence.group != group => Err(OtherGroup(evidence.group)),
        Reading::Own(evidence) => Ok(*evidence),
        Reading::Foreign(foreign) => Ok(foreign.adopt(adoption, record)),
        Reading::Damaged(damage) => Ok(Evidence {
            message: damage.to_string(),
            // Its id may be the damaged part; by its place it is found in any case.
            id: None,
            ..adopted(DAMAGED.to_owned(), copy, adoption, record)
        }),
        Reading::None => Ok(Evidence {
            message: "no header of the record says why it is here".to_owned(),
            ..adopted(UNKNOWN.to_owned(), copy, adoption, record)
        }),
    }
}

/// The name of the letter that a record is a copy of.
pub fn letter_of(record: &Record) -> Option<String> {
    let nobody = Adoption { scope: String::new(), owner: String::new(), within: std::time::Duration::ZERO };
    match Evidence::read(&record.headers) {
        Reading::Own(evidence) => Some(evidence.letter()),
        Reading::Foreign(foreign) => Some(foreign.adopt(&nobody, record).letter()),
        Reading::Damaged(_) => Some(place_name(&record.topic, record.partition, record.offset)),
        Reading::None => evidence_of(record, "", &nobody).ok().map(|evidence| evidence.letter()),
    }
}

impl Projected {
    /// The row of a copy.
    pub fn new(record: &Record, evidence: &Evidence) -> Projected {
        let copy_time = record.timestamp.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let error = match &evidence.class {
            Some(class) if !evidence.message.is_empty() => format!("{class}: {}", evidence.message),
            Some(class) => class.clone(),
            None => evidence.message.clone(),
        };
        Projected {
            scope: text(&evidence.scope),
            letter: text(&evidence.letter()),
            copy_topic: record.topic.clone(),
            copy_partition: record.partition,
            copy_offset: record.offset,
            copy_time: time(copy_time.unwrap_or(evidence.last_failed)),
            source_topic: text(&evidence.topic),
            source_partition: evidence.partition,
            source_offset: evidence.offset,
            cause: text(&evidence.cause),
            error: text(&error),
            owner: text(&evidence.owner),
            deadline: time(evidence.deadline),
            attempts: i32::try_from(evidence.attempts).unwrap_or(i32::MAX),
            first_failed_at: time(evidence.first_failed),
            last_failed_at: time(evidence.last_failed),
            id: evidence.id.map(|id| id.to_string()),
            created: evidence.created.map(time),
            event_type: evidence.event_type.as_deref().map(text),
            handler: evidence.handler.as_deref().map(text),
            key: record.key.as_deref().map(hex),
            replay: i32::try_from(evidence.replay).unwrap_or(0),
        }
    }

    /// Where the copy stands, for people.
    pub fn place(&self) -> String {
        place_name(&self.copy_topic, self.copy_partition, self.copy_offset)
    }
}

/// PostgreSQL has no NUL in a text.
fn text(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// Nothing failed before 1970, and a negative year is none that PostgreSQL reads.
fn time(at: Timestamp) -> String {
    at.max(Timestamp::UNIX_EPOCH).to_string()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::super::record::Header;
    use super::*;

    fn adoption() -> Adoption {
        Adoption { scope: "s".into(), owner: "o".into(), within: Duration::from_secs(1) }
    }

    fn record(headers: Vec<Header>) -> Record {
        let (key, value) = (Some(vec![0, 0xAB]), None);
        Record { topic: "t.g.dlq".into(), partition: 2, offset: 5, timestamp: Some(0), key, value, headers }
    }

    #[test]
    fn a_record_without_evidence_is_a_letter_all_the_same() {
        let silent = record(vec![]);
        let row = Projected::new(&silent, &evidence_of(&silent, "g", &adoption()).unwrap());
        assert_eq!((row.letter.as_str(), row.cause.as_str()), ("t.g.dlq/2/5", UNKNOWN));
        assert_eq!(row.key.as_deref(), Some("00ab"));
        let damaged = record(vec![Header::text("dlq.topic", "t"), Header::text("dlq.id", "x")]);
        let row = Projected::new(&damaged, &evidence_of(&damaged, "g", &adoption()).unwrap());
        assert_eq!((row.letter.as_str(), row.cause.as_str()), ("t.g.dlq/2/5", DAMAGED));
        assert_eq!(row.error, "header dlq.last_failed of the dead letter is missing or cannot be read");
        assert_eq!(letter_of(&damaged).unwrap(), row.letter);
    }

    proptest! {
        /// Whatever stands in a topic becomes a row that PostgreSQL takes (C24).
        #[test]
        fn any_record_becomes_a_row(
            names in vec((prop_oneof!["dlq\\.[a-z.]{1,14}", "kafka_dlt-original-[a-z]{5,9}", ".{0,9}"], of(vec(any::<u8>(), 0..9))), 0..9),
            time in of(any::<i64>()),
        ) {
            let headers = names.into_iter().map(|(name, value)| Header { name, value }).collect();
            let record = Record { timestamp: time, ..record(headers) };
            if let Ok(evidence) = evidence_of(&record, "g", &adoption()) {
                let row = Projected::new(&record, &evidence);
                prop_assert!(!serde_json::to_string(&row).unwrap().contains("\\u0000"));
                prop_assert!(!row.cause.is_empty() && !row.owner.is_empty() && row.attempts >= 0);
                prop_assert!(!row.deadline.starts_with('-') && !row.copy_time.starts_with('-'));
                prop_assert_eq!(letter_of(&record).map(|letter| text(&letter)), Some(row.letter));
            }
        }
    }
}
