//! The record's decoder on what stands in `corpus/state`, and on damages of it.

use std::path::Path;

use super::{RecordedPhase, StateRecord};
use crate::damage::all_damages;
use crate::session::chain;

/// What is said of each input that is refused.
const REFUSED: [(&str, &str); 47] = [
    ("another-object", "missing field `version`"),
    ("byte-order-mark", "expected value at line 1 column 1"),
    ("ceiling-signed", "`+16/F374D848` is not a log sequence number"),
    ("control-character", "control character"),
    ("cut-short", "EOF while parsing"),
    ("empty", "EOF while parsing a value"),
    ("epoch-fraction", "invalid type: floating point `3.0`, expected u64"),
    ("epoch-huge", "number out of range"),
    ("epoch-negative", "invalid value: integer `-3`, expected u64"),
    ("epoch-twice", "duplicate field `epoch`"),
    ("epoch-zero", "cannot be believed: epochs begin at 1"),
    ("half-a-surrogate", "hex escape"),
    ("lane-too-large", "invalid value: integer `4294967296`, expected u32"),
    ("list-of-values", "trailing characters"),
    ("listed-without-lsn", "missing field `entry_lsn`"),
    ("name-null", "invalid type: null, expected a string"),
    ("not-json", "expected value at line 1 column 1"),
    ("not-utf8", "invalid unicode code point"),
    ("null", "invalid type: null"),
    ("phase-filling-in-part", "missing field `shared_lsn`"),
    ("phase-two-at-once", "expected value"),
    ("phase-unknown", "unknown variant `paused`"),
    ("pin-negative", "invalid value: integer `-12`, expected u32"),
    ("pin-zero", "cannot be believed: a topic is pinned to no partition at all"),
    ("pins-list", "invalid type: sequence, expected a map"),
    ("position-missing", "missing field `position`"),
    ("position-no-slash", "`16B374D848` is not a log sequence number"),
    ("position-number", "invalid type: integer `97500059720`, expected a string"),
    ("position-too-long", "`16/0B374D848` is not a log sequence number"),
    (
        "published-above-position",
        "cannot be believed: its last published transaction ends above its position",
    ),
    ("published-in-part", "missing field `xid`"),
    ("ring-nested-deep", "invalid type: sequence, expected"),
    ("ring-out-of-order", "cannot be believed: its published snapshots are not in order"),
    (
        "ring-snapshot-too-long",
        "cannot be believed: its published snapshots are not in order, or too many or too long",
    ),
    ("ring-too-many", "cannot be believed: its published snapshots are not in order, or too many"),
    ("ring-twice-at-one-place", "cannot be believed: its published snapshots are not in order"),
    ("time-no-zone", "failed to find offset component"),
    ("time-out-of-range", "at line 1 column"),
    ("two-records", "trailing characters"),
    ("version-huge", "expected u64"),
    ("version-negative", "invalid value: integer `-1`, expected u64"),
    ("version-newer", "format version 2, this relay reads up to 1: a newer relay wrote it"),
    ("version-newer-and-unlike", "format version 9007199254740993"),
    ("version-text", "invalid type: string \"1\", expected u64"),
    ("version-twice", "duplicate field `version`"),
    ("version-zero", "cannot be believed: versions begin at 1"),
    ("writer-not-uuid", "invalid character"),
];

/// The inputs in the order of their names, without the ending.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/state");
    let mut inputs = Vec::new();
    for file in folder.read_dir().unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            inputs.push((name, std::fs::read(&path).unwrap()));
        }
    }
    inputs.sort();
    inputs
}

fn input(name: &str) -> StateRecord {
    let found = corpus().into_iter().find(|(found, _)| found == name);
    StateRecord::decode(&found.unwrap_or_else(|| panic!("no {name}")).1).unwrap()
}

/// Whether it is read; then it is the same after it was written again.
fn read_or_refused(text: &[u8]) -> bool {
    let Ok(record) = StateRecord::decode(text) else { return false };
    let again = record.encode().expect("what was read can be written");
    assert_eq!(StateRecord::decode(&again).expect("what was written can be read"), record);
    true
}

#[test]
fn every_input_is_read_or_refused_as_its_name_says() {
    let inputs = corpus();
    let (mut refused, mut wrong) = (Vec::new(), Vec::new());
    for (name, text) in &inputs {
        let Some(fault) = name.strip_prefix("bad-") else {
            assert!(name.starts_with("read-"), "{name}: read- or bad-");
            if let Err(error) = StateRecord::decode(text) {
                panic!("{name}: {}", chain(&error));
            }
            assert!(read_or_refused(text));
            continue;
        };
        refused.push(fault);
        let said = match StateRecord::decode(text) {
            Ok(record) => panic!("{name} was read as {record:?}"),
            Err(error) => chain(&error),
        };
        let expected = REFUSED.iter().find(|(listed, _)| *listed == fault);
        let (_, expected) = expected.unwrap_or_else(|| panic!("{name} is not listed here: {said}"));
        if !(said.contains("state record") && said.contains(expected)) {
            wrong.push(format!("{name} is not refused for {expected:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(refused, REFUSED.map(|(name, _)| name));
    assert_eq!(inputs.len() - refused.len(), 14);
}

#[test]
fn what_is_read_says_what_was_written() {
    let plain = input("read-streaming");
    for same in ["read-unknown-fields", "read-other-order-and-spaces", "read-lower-case-lsn"] {
        assert_eq!(input(same), plain, "{same}");
    }
    assert_eq!(input("read-unknown-field-nested-deep"), plain);
    assert_eq!(
        input("read-before-highest-handed"),
        StateRecord { highest_handed: None, ..plain.clone() },
        "a field that came later"
    );
    assert_eq!(input("read-forgotten"), StateRecord { phase: RecordedPhase::Forgotten, ..plain });
    assert_eq!(input("read-escapes").name, "orders 🎉 \"\\/\u{8}\u{c}\n\r\t\0");
    assert_eq!(input("read-full-ring").ring.entries().len(), super::MAX_RING_ENTRIES);
    assert_eq!(input("read-longest-snapshot").ring.entries()[0].snapshot.len(), super::MAX_SNAPSHOT_BYTES);
}

#[test]
fn damaged_inputs_are_read_or_refused() {
    let inputs = corpus();
    let texts: Vec<&[u8]> = inputs.iter().map(|(_, text)| text.as_slice()).collect();
    let (mut seen, mut read) = (0, 0);
    for (text, seed) in texts.iter().zip(0..) {
        all_damages(text, &texts, seed, |damaged| {
            seen += 1;
            read += usize::from(read_or_refused(damaged));
        });
    }
    assert!(read > seen / 100 && read < seen, "{read} of {seen} were read");
}
