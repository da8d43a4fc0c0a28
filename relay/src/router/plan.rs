//! Which column of a row plays which part in its record.

use std::fmt;

use super::row::{ColumnInfo, RelationShape, Value};
use super::unpublishable::Unpublishable;
use crate::config::{KafkaSettings, OutboxSettings};

/// OID of `bytea` in `pg_type`; fixed in every PostgreSQL.
const BYTEA: u32 = 17;

/// How rows of one table become records. Compiled from the table's Relation message and good until the
/// next one for the table: PostgreSQL sends a new one before the first row of a changed shape.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The columns that every row has.
    pub(super) columns: Vec<ColumnInfo>,
    /// Their number.
    pub(super) width: usize,
    pub(super) topic_prefix: String,
    pub(super) max_record_bytes: usize,
    pub(super) id: Column,
    pub(super) aggregatetype: Column,
    pub(super) aggregateid: Column,
    pub(super) r#type: Column,
    pub(super) payload: Column,
    pub(super) schema_version: Option<Column>,
    pub(super) version: Option<Column>,
    pub(super) partition_key: Option<Column>,
    pub(super) headers: Option<Column>,
    pub(super) traceparent: Option<Column>,
    pub(super) created_at: Option<Column>,
}

impl Plan {
    /// Finds the place of every configured column in the table as the stream shows it. The columns of a
    /// fill (`writer`, `seq`) are no part of a record and need not be in the stream.
    ///
    /// # Errors
    ///
    /// A configured column that the stream lacks is an error even where the part is optional: the
    /// configuration says that the table has it, so the records would silently lose what it holds (a
    /// publication's column list, or a column dropped or renamed while streaming). All of them are named
    /// at once.
    pub fn compile(
        shape: &RelationShape,
        outbox: &OutboxSettings,
        kafka: &KafkaSettings,
    ) -> Result<Plan, PlanError> {
        let names = &outbox.columns;
        let mut search = Search { shape, missing: Vec::new() };
        let id = search.column(Part::Id, &names.id);
        let aggregatetype = search.column(Part::AggregateType, &names.aggregatetype);
        let aggregateid = search.column(Part::AggregateId, &names.aggregateid);
        let r#type = search.column(Part::Type, &names.r#type);
        let payload = search.column(Part::Payload, &names.payload);
        let schema_version = search.mapped(Part::SchemaVersion, &names.schema_version);
        let version = search.mapped(Part::Version, &names.version);
        let partition_key = search.mapped(Part::PartitionKey, &names.partition_key);
        let headers = search.mapped(Part::Headers, &names.headers);
        let traceparent = search.mapped(Part::Traceparent, &names.traceparent);
        let created_at = search.mapped(Part::CreatedAt, &names.created_at);

        let missing = search.missing;
        match (id, aggregatetype, aggregateid, r#type, payload) {
            (Some(id), Some(aggregatetype), Some(aggregateid), Some(r#type), Some(payload))
                if missing.is_empty() =>
            {
                Ok(Plan {
                    columns: shape.columns.clone(),
                    width: shape.columns.len(),
                    topic_prefix: kafka.topic_prefix.clone(),
                    max_record_bytes: kafka.max_record_bytes,
                    id,
                    aggregatetype,
                    aggregateid,
                    r#type,
                    payload,
                    schema_version,
                    version,
                    partition_key,
                    headers,
                    traceparent,
                    created_at,
                })
            }
            _ => Err(PlanError::new(shape, missing)),
        }
    }
}

impl Plan {
    /// The columns that every row has.
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    /// The event's id as its text; `None` where there is none to be read.
    pub fn event_id<'a>(&self, row: &[Value<'a>]) -> Option<&'a [u8]> {
        match self.id.value(row)? {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged => None,
        }
    }
}

/// Looks columns up and keeps what was not found, so that one error names it all.
struct Search<'s> {
    shape: &'s RelationShape,
    missing: Vec<(Part, String)>,
}

impl Search<'_> {
    fn column(&mut self, part: Part, name: &str) -> Option<Column> {
        let found = self.shape.columns.iter().position(|column| column.name == name);
        match found {
            Some(index) => {
                let bytea = self.shape.columns[index].type_oid == BYTEA;
                Some(Column { part, name: name.to_owned(), index, bytea })
            }
            None => {
                self.missing.push((part, name.to_owned()));
                None
            }
        }
    }

    fn mapped(&mut self, part: Part, name: &Option<String>) -> Option<Column> {
        name.as_ref().and_then(|name| self.column(part, name))
    }
}

/// A column of the plan: where it is and what it is for.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) part: Part,
    pub(super) name: String,
    index: usize,
    /// The text is hex and stands for raw bytes.
    pub(super) bytea: bool,
}

impl Column {
    /// The column's value; `None` where the row ends before it.
    pub(super) fn value<'a>(&self, row: &[Value<'a>]) -> Option<Value<'a>> {
        row.get(self.index).copied()
    }

    /// The column's text; `None` for SQL NULL. The row must be as wide as the plan.
    pub(super) fn text<'a>(&self, row: &[Value<'a>]) -> Result<Option<&'a [u8]>, Unpublishable> {
        match row[self.index] {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            Value::Unchanged => Err(Unpublishable::Unchanged { column: self.name.clone() }),
        }
    }

    /// The column's text, which no record can do without.
    pub(super) fn required<'a>(&self, row: &[Value<'a>]) -> Result<&'a [u8], Unpublishable> {
        self.text(row)?.ok_or_else(|| self.null())
    }

    /// The column is NULL and must not be.
    pub(super) fn null(&self) -> Unpublishable {
        Unpublishable::Null { column: self.name.clone(), part: self.part }
    }

    /// The column's text is not what it has to be.
    pub(super) fn undecodable(&self, expected: &'static str) -> Unpublishable {
        Unpublishable::Undecodable { column: self.name.clone(), part: self.part, expected }
    }
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The event's id.
    Id,
    /// Routes the event to its topic.
    AggregateType,
    /// The record's key unless a partition key is set.
    AggregateId,
    /// What handlers dispatch on.
    Type,
    /// The record's value.
    Payload,
    /// The event's schema version.
    SchemaVersion,
    /// The aggregate's own version.
    Version,
    /// Overrides the key.
    PartitionKey,
    /// Further headers.
    Headers,
    /// Trace context.
    Traceparent,
    /// When the event was made.
    CreatedAt,
}

impl Part {
    /// The part's name in the configuration, under `outbox.columns`.
    pub fn name(self) -> &'static str {
        match self {
            Part::Id => "id",
            Part::AggregateType => "aggregatetype",
            Part::AggregateId => "aggregateid",
            Part::Type => "type",
            Part::Payload => "payload",
            Part::SchemaVersion => "schema_version",
            Part::Version => "version",
            Part::PartitionKey => "partition_key",
            Part::Headers => "headers",
            Part::Traceparent => "traceparent",
            Part::CreatedAt => "created_at",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The stream does not carry the columns that records are made of. Nothing of the table can be published
/// until it does, so the relay halts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream of table \"{schema}\".\"{table}\" lacks {}; it carries {}. If the publication has a column \
     list, add the missing columns to it; if the table was changed, restore them or name the new ones under \
     `outbox.columns` (an optional part that the table never had is removed there)",
    Parts(.missing), Names(.present)
)]
pub struct PlanError {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub table: String,
    /// The missing columns by the part they should play.
    pub missing: Vec<(Part, String)>,
    /// The columns that the stream carries.
    pub present: Vec<String>,
}

impl PlanError {
    fn new(shape: &RelationShape, missing: Vec<(Part, String)>) -> Self {
        PlanError {
            schema: shape.schema.clone(),
            table: shape.table.clone(),
            missing,
            present: shape.columns.iter().map(|column| column.name.clone()).collect(),
        }
    }
}

struct Parts<'e>(&'e [(Part, String)]);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (part, name)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}column \"{name}\" ({part})")?;
        }
        Ok(())
    }
}

struct Names<'e>(&'e [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no columns");
        }
        for (n, name) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}\"{name}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn columns_are_found_by_name_wherever_they_stand() {
        let mut shape = fixture::native_shape();
        shape.columns.reverse();
        let plan = Plan::compile(&shape, &fixture::native_outbox(), &fixture::kafka()).unwrap();
        assert_eq!(shape.columns[plan.payload.index].name, "payload");
        assert_eq!(shape.columns[plan.id.index].name, "id");
        assert_eq!(plan.width, shape.columns.len());
    }

    #[test]
    fn all_missing_columns_are_named_at_once() {
        let mut shape = fixture::native_shape();
        shape
            .columns
            .retain(|column| !["payload", "aggregateid", "traceparent"].contains(&column.name.as_str()));
        let error = Plan::compile(&shape, &fixture::native_outbox(), &fixture::kafka()).unwrap_err();
        let parts: Vec<Part> = error.missing.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, [Part::AggregateId, Part::Payload, Part::Traceparent]);
        let text = error.to_string();
        assert!(text.starts_with(
            "the stream of table \"outbox\".\"events\" lacks column \"aggregateid\" (aggregateid), column \
             \"payload\" (payload), column \"traceparent\" (traceparent); it carries \"id\", \"aggregatetype\","
        ), "{text}");
    }

    #[test]
    fn an_optional_column_that_the_table_is_said_to_have_must_be_there() {
        let mut shape = fixture::native_shape();
        let mut outbox = fixture::native_outbox();
        shape.columns.retain(|column| column.name != "headers");
        let error = Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap_err();
        assert_eq!(error.missing, [(Part::Headers, "headers".to_owned())]);
        outbox.columns.headers = None;
        Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap();
    }

    #[test]
    fn a_missing_column_of_another_name_is_named_with_its_part() {
        let mut outbox = fixture::native_outbox();
        outbox.columns.id = "event_id".to_owned();
        let error = Plan::compile(&fixture::native_shape(), &outbox, &fixture::kafka()).unwrap_err();
        assert!(error.to_string().contains("lacks column \"event_id\" (id);"), "{error}");
    }

    #[test]
    fn columns_of_a_fill_need_not_be_in_the_stream() {
        let outbox = fixture::native_outbox();
        assert!(outbox.columns.writer.is_some() && outbox.columns.seq.is_some());
        let shape = fixture::native_shape();
        assert!(!shape.columns.iter().any(|column| column.name == "writer" || column.name == "seq"));
        Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap();
    }

    #[test]
    fn a_stream_without_columns_is_said() {
        let shape = RelationShape { columns: Vec::new(), ..fixture::native_shape() };
        let error = Plan::compile(&shape, &fixture::native_outbox(), &fixture::kafka()).unwrap_err();
        assert_eq!(error.missing.len(), 11);
        assert!(error.to_string().contains("it carries no columns."), "{error}");
    }
}
