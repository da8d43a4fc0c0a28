//! Every golden row through plan and record, byte for byte.

use std::collections::HashMap;

use outbox_schema::golden::{self, Case};

use super::{ColumnInfo, Plan, RelationShape, RowPosition, Scratch, Value, fixture};
use crate::config::{OutboxSettings, SourceFormat};
use crate::lsn::Lsn;

/// PostgreSQL's epoch, 2000-01-01 00:00 UTC, in Unix microseconds.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

fn shape(case: &Case) -> RelationShape {
    let column = |(name, _): (&str, _)| {
        let known = fixture::native_shape().columns.into_iter().find(|column| column.name == name);
        // What no record is made of: its type does not matter.
        known.unwrap_or_else(|| ColumnInfo { name: name.to_owned(), type_oid: 20 })
    };
    RelationShape { columns: case.columns().map(column).collect(), ..fixture::native_shape() }
}

fn position(case: &Case) -> RowPosition {
    let at = &case.transaction;
    let commit: jiff::Timestamp = at.commit_time.parse().unwrap();
    RowPosition {
        epoch: at.epoch,
        commit_lsn: at.commit_lsn.parse::<Lsn>().unwrap(),
        ordinal: at.ordinal,
        commit_unix_millis: RowPosition::unix_millis(commit.as_microsecond() - POSTGRES_EPOCH_MICROS),
    }
}

/// The value as the column's send function writes it, from its text.
fn binary(name: &str, text: &str) -> Vec<u8> {
    match name {
        "id" => text.parse::<uuid::Uuid>().unwrap().as_bytes().to_vec(),
        "seq" | "writer" | "version" => text.parse::<i64>().unwrap().to_be_bytes().to_vec(),
        "schema_version" => text.parse::<i32>().unwrap().to_be_bytes().to_vec(),
        "headers" => [b"\x01", text.as_bytes()].concat(),
        "created_at" => {
            let time: jiff::Timestamp = text.parse().unwrap();
            (time.as_microsecond() - POSTGRES_EPOCH_MICROS).to_be_bytes().to_vec()
        }
        _ => text.as_bytes().to_vec(),
    }
}

/// Makes every golden row's record from the values that `value` gives of a column and its text.
fn assert_golden<'a>(
    format: SourceFormat,
    value: impl Fn(usize, &'a str, &'a str) -> Value<'a>,
    cases: &'a [Case],
) {
    // One scratch for all, as in the relay: nothing of one row may be seen in the next.
    let mut scratch = Scratch::default();
    let outbox = OutboxSettings { format, ..fixture::native_outbox() };
    for (at, case) in cases.iter().enumerate() {
        let plan = Plan::compile(&shape(case), &outbox, &fixture::kafka()).unwrap();
        let value =
            |(name, text): (&'a str, Option<&'a str>)| text.map_or(Value::Null, |text| value(at, name, text));
        let row: Vec<Value<'_>> = case.columns().map(value).collect();
        let made = plan.record(&row, &position(case), &mut scratch).unwrap();

        let expected = &case.record;
        let name = &case.name;
        assert_eq!(made.topic, expected.topic, "{name}");
        assert_eq!(made.key, expected.key.as_deref().map(str::as_bytes), "{name}");
        assert_eq!(made.value, expected.value.as_deref().map(str::as_bytes), "{name}");
        let headers: Vec<(&str, &[u8])> =
            expected.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(made.headers.iter().collect::<Vec<_>>(), headers, "{name}");
        assert_eq!(made.timestamp_ms, expected.timestamp_ms, "{name}");
    }
}

#[test]
fn rows_become_the_golden_records() {
    assert_golden(SourceFormat::Text, |_, _, text| Value::Text(text.as_bytes()), &golden::cases());
}

#[test]
fn rows_in_binary_form_become_the_golden_records() {
    let cases = golden::cases();
    let sent: Vec<HashMap<&str, Vec<u8>>> = cases
        .iter()
        .map(|case| case.columns().filter_map(|(name, text)| Some((name, binary(name, text?)))).collect())
        .collect();
    assert_golden(SourceFormat::Binary, |at, name, _| Value::Binary(&sent[at][name]), &cases);
}
