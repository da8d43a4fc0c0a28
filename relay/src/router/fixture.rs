//! The project's own table and a plain row of it, for the tests of this module.

use std::time::Duration;

use super::{ColumnInfo, Plan, RelationShape, Value};
use crate::config::{
    ColumnNames, KafkaSettings, OutboxSettings, RuleColumns, Rules, SourceFormat, TopicSettings,
};

/// A version-7 id.
pub(super) const V7: &str = "019aa3d1-2c5b-7000-8000-000000000001";
/// A version-4 id.
pub(super) const V4: &str = "00000000-0000-4000-8000-000000000001";

const TEXT: u32 = 25;

/// The columns that the relay's own publication carries, a type, and the value of a plain row.
const COLUMNS: [(&str, u32, Option<&str>); 11] = [
    ("id", 2950, Some(V7)),
    ("aggregatetype", TEXT, Some("order")),
    ("aggregateid", TEXT, Some("o-1")),
    ("type", TEXT, Some("OrderPlaced")),
    ("schema_version", 23, Some("1")),
    ("version", 20, None),
    ("partition_key", TEXT, None),
    ("headers", 3802, None),
    ("traceparent", TEXT, None),
    ("payload", 114, Some("{}")),
    ("created_at", 1184, Some("2026-11-21 02:35:50.123456+00")),
];

/// `outbox.events` as the stream shows it.
pub(super) fn native_shape() -> RelationShape {
    let column = |(name, type_oid, _): (&str, u32, _)| ColumnInfo { name: name.to_owned(), type_oid };
    RelationShape {
        schema: "outbox".to_owned(),
        table: "events".to_owned(),
        columns: COLUMNS.map(column).into(),
    }
}

/// A plain row of `outbox.events` with some columns changed.
pub(super) fn native_row<'a>(changes: &[(&str, Value<'a>)]) -> Vec<Value<'a>> {
    let plain = |value: Option<&'static str>| value.map_or(Value::Null, |text| Value::Text(text.as_bytes()));
    let change = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
    COLUMNS.map(|(name, _, value)| change(name).unwrap_or_else(|| plain(value))).into()
}

/// The settings of `outbox.events`.
pub(super) fn native_outbox() -> OutboxSettings {
    let some = |name: &str| Some(name.to_owned());
    OutboxSettings {
        schema: "outbox".to_owned(),
        table: "events".to_owned(),
        columns: ColumnNames {
            id: "id".to_owned(),
            aggregatetype: "aggregatetype".to_owned(),
            aggregateid: "aggregateid".to_owned(),
            r#type: "type".to_owned(),
            payload: "payload".to_owned(),
            schema_version: some("schema_version"),
            version: some("version"),
            partition_key: some("partition_key"),
            headers: some("headers"),
            traceparent: some("traceparent"),
            created_at: some("created_at"),
            writer: some("writer"),
            seq: some("seq"),
            rules: RuleColumns::default(),
        },
        rules: Rules::default(),
        format: SourceFormat::Text,
        message_prefix: None,
        backfill: true,
    }
}

/// Kafka settings with the defaults.
pub(super) fn kafka() -> KafkaSettings {
    KafkaSettings {
        brokers: "127.0.0.1:9092".to_owned(),
        compression: "lz4".to_owned(),
        linger: Duration::from_millis(1),
        max_in_flight_records: 20_000,
        max_in_flight_bytes: 32 << 20,
        max_record_bytes: 1_000_000,
        topic_prefix: "outbox.event.".to_owned(),
        protocol: "plaintext".to_owned(),
        options: Vec::new(),
    }
}

/// Topics with the defaults.
pub(super) fn topics() -> TopicSettings {
    TopicSettings {
        create: false,
        partitions: 12,
        replication: None,
        min_insync_replicas: None,
        retention: None,
        options: Vec::new(),
        look_interval: Duration::from_secs(60),
    }
}

/// The plan of `outbox.events`.
pub(super) fn plan() -> Plan {
    Plan::compile(&native_shape(), &native_outbox(), &kafka()).unwrap()
}

/// The same with another type for one column.
pub(super) fn plan_with_type(column: &str, type_oid: u32) -> Plan {
    let mut shape = native_shape();
    shape.columns.iter_mut().find(|info| info.name == column).unwrap().type_oid = type_oid;
    Plan::compile(&shape, &native_outbox(), &kafka()).unwrap()
}
