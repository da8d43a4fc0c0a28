//! Rows and the records they become, byte for byte: the one truth that the tests of every crate read, and
//! that a consumer or relay in another language can read too. The files and their format are in `golden/`.
//!
//! For tests only; a malformed file panics.

use serde::Deserialize;

use crate::json::Members;

/// One row and its record.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The file's name without `.json`.
    pub name: String,
    /// What the case shows, in a sentence.
    pub shows: String,
    row: Members<Option<String>>,
    /// The transaction that wrote the row.
    pub transaction: Transaction,
    /// What the row becomes.
    pub record: Record,
}

impl Case {
    /// Name and text of each column in the table's order. The text is PostgreSQL's own, with `DateStyle` ISO
    /// and `TimeZone` UTC; `None` is SQL NULL.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = (&str, Option<&str>)> {
        self.row.0.iter().map(|(name, text)| (name.as_str(), text.as_deref()))
    }

    /// Text of one column; `None` is SQL NULL.
    ///
    /// # Panics
    ///
    /// When the table has no such column.
    pub fn column(&self, name: &str) -> Option<&str> {
        let column = self.columns().find(|(column, _)| *column == name);
        column.unwrap_or_else(|| panic!("golden case {} has no column {name}", self.name)).1
    }
}

/// What of the transaction enters the record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// Epoch of the stream.
    pub epoch: u64,
    /// LSN of the commit record as PostgreSQL prints it, `0/16B3748`.
    pub commit_lsn: String,
    /// The row's place in the transaction.
    pub ordinal: u64,
    /// Time of the commit, RFC 3339 with six fractional digits and `Z`.
    pub commit_time: String,
}

/// A record. Key, value and header values are the UTF-8 bytes of these texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Topic, with the default prefix.
    pub topic: String,
    /// Key; `None` is no key.
    pub key: Option<String>,
    /// Value; `None` is no value (a tombstone).
    pub value: Option<String>,
    /// Name and value of each header, in order.
    pub headers: Vec<(String, String)>,
    /// Timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../golden/", $name, ".json")))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "minimal",
    "all-columns",
    "tombstone",
    "json-null",
    "unicode",
    "payload-bytes",
    "payload-scalar",
    "payload-nested",
    "payload-numbers",
    "created-at",
    "created-at-whole-second",
    "partition-key",
    "header-scalars",
    "headers-empty",
    "versions",
    "version-largest",
    "longest-names",
    "topic-characters",
    "position",
];

/// All cases.
///
/// # Panics
///
/// When a file is malformed or its name and its contents disagree.
pub fn cases() -> Vec<Case> {
    let read = |(name, text): &(&str, &str)| {
        let case: Case =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("golden/{name}.json: {error}"));
        assert_eq!(case.name, *name, "golden/{name}.json has another name in it");
        case
    };
    FILES.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::record::{DEFAULT_TOPIC_PREFIX, Position, header, topic};
    use crate::sql::PUBLISHED_COLUMNS;

    #[test]
    fn every_file_is_a_case() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
        let names =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
        let mut cases: Vec<String> = cases().into_iter().map(|case| case.name).collect();
        files.sort();
        cases.sort();
        assert_eq!(files, cases);
    }

    #[test]
    fn rows_have_the_tables_columns() {
        for case in cases() {
            let columns: Vec<&str> = case.columns().map(|(name, _)| name).collect();
            let published: Vec<&str> =
                columns.iter().copied().filter(|name| !["seq", "writer", "bucket"].contains(name)).collect();
            assert_eq!(published, PUBLISHED_COLUMNS, "{}", case.name);
            assert_eq!(columns.len(), PUBLISHED_COLUMNS.len() + 3, "{}", case.name);
        }
    }

    /// The rules of [`crate::record`] written down as plainly as possible, against the files.
    #[test]
    fn records_follow_the_rules() {
        for case in cases() {
            let text = |name: &str| {
                case.column(name).unwrap_or_else(|| panic!("{} without {name}", case.name)).to_owned()
            };
            assert_eq!(
                case.record.topic,
                topic(DEFAULT_TOPIC_PREFIX, &text("aggregatetype")),
                "{}",
                case.name
            );
            let key = case.column("partition_key").map_or_else(|| text("aggregateid"), str::to_owned);
            assert_eq!(case.record.key, Some(key), "{}", case.name);
            assert_eq!(case.record.value.as_deref(), case.column("payload"), "{}", case.name);
            assert_eq!(case.record.headers, headers(&case), "{}", case.name);
        }
    }

    fn headers(case: &Case) -> Vec<(String, String)> {
        let sent = |name: &str| case.column(name).map(str::to_owned);
        let id = sent("id").unwrap();
        let created_at = (!header::carries_time(&id)).then(|| rfc3339(&sent("created_at").unwrap()));
        let own = [
            (header::ID, Some(id)),
            (header::TYPE, sent("type")),
            (header::POSITION, Some(position(&case.transaction).to_string())),
            (header::VERSION, sent("version")),
            (header::SCHEMA_VERSION, sent("schema_version").filter(|version| version != "1")),
            (header::TRACEPARENT, sent("traceparent")),
            (header::CREATED_AT, created_at),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let row: Members<Box<RawValue>> =
            serde_json::from_str(case.column("headers").unwrap_or("{}")).unwrap();
        let plain = |json: &str| serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
        own.chain(row.0.iter().map(|(name, value)| (name.clone(), plain(value.get())))).collect()
    }

    fn position(transaction: &Transaction) -> Position {
        let (high, low) = transaction.commit_lsn.split_once('/').unwrap();
        let part = |digits| u64::from_str_radix(digits, 16).unwrap();
        Position {
            epoch: transaction.epoch,
            commit_lsn: part(high) << 32 | part(low),
            ordinal: transaction.ordinal,
        }
    }

    /// `2026-01-02 03:04:05.5+00` as `2026-01-02T03:04:05.500000Z`.
    fn rfc3339(postgres: &str) -> String {
        let utc = postgres.strip_suffix("+00").unwrap();
        let (seconds, fraction) = utc.split_once('.').unwrap_or((utc, ""));
        format!("{}.{fraction:0<6}Z", seconds.replace(' ', "T"))
    }
}
