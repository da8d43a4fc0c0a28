//! Every golden row through plan and record, byte for byte.

use outbox_schema::golden::{self, Case};

use super::{ColumnInfo, Plan, RelationShape, RowPosition, Scratch, Value, fixture};
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

#[test]
fn rows_become_the_golden_records() {
    // One scratch for all, as in the relay: nothing of one row may be seen in the next.
    let mut scratch = Scratch::default();
    for case in golden::cases() {
        let plan = Plan::compile(&shape(&case), &fixture::native_outbox(), &fixture::kafka()).unwrap();
        let row: Vec<Value<'_>> = case
            .columns()
            .map(|(_, text)| text.map_or(Value::Null, |text| Value::Text(text.as_bytes())))
            .collect();
        let made = plan.record(&row, &position(&case), &mut scratch).unwrap();

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
