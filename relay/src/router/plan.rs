//! Which column of a row plays which part in its record.

use std::fmt;

use super::binary::Binary;
use super::column::Column;
use super::place::readable;
use super::row::{ColumnInfo, RelationShape, Value};
use super::rules::{Piece, Template, TopicRule};
use crate::config::{KafkaSettings, OutboxSettings, SourceFormat, rules};

/// How rows of one table become records. Compiled from the table's Relation message and good until the
/// next one for the table: PostgreSQL sends a new one before the first row of a changed shape.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The columns that every row has.
    pub(super) columns: Vec<ColumnInfo>,
    /// Their number.
    pub(super) width: usize,
    pub(super) max_record_bytes: usize,
    pub(super) id: Column,
    pub(super) topic: Topic,
    pub(super) key: Key,
    pub(super) r#type: Column,
    pub(super) payload: Column,
    pub(super) schema_version: Option<Column>,
    pub(super) version: Option<Column>,
    pub(super) headers: Option<Column>,
    pub(super) traceparent: Option<Column>,
    pub(super) created_at: Option<Column>,
    pub(super) header_rules: Vec<(String, Template)>,
}

/// How the topic of a row is made.
#[derive(Debug, Clone)]
pub(super) enum Topic {
    Prefixed { prefix: String, aggregatetype: Column },
    ByRule(TopicRule),
}

/// How the key of a row is made.
#[derive(Debug, Clone)]
pub(super) enum Key {
    OfTheRow { partition_key: Option<Column>, aggregateid: Column },
    ByRule(Template),
}

impl Plan {
    /// Finds the place of every configured column in the table as the stream shows it. The columns of a
    /// fill (`writer`, `seq`) are no part of a record and need not be in the stream.
    ///
    /// # Errors
    ///
    /// A configured column that the stream lacks is an error even where the part is optional: the
    /// configuration says that the table has it, so the records would silently lose what it holds (a
    /// publication's column list, or a column dropped or renamed while streaming). So is a column whose
    /// values the relay could not write, where the stream is binary. All of them are named at once.
    pub fn compile(
        shape: &RelationShape,
        outbox: &OutboxSettings,
        kafka: &KafkaSettings,
    ) -> Result<Plan, PlanError> {
        let names = &outbox.columns;
        let mut search = Search { shape, format: outbox.format, missing: Vec::new(), unwritable: Vec::new() };
        let id = search.column(Part::Id, &names.id);
        let topic = search.topic(outbox, kafka);
        let key = search.key(outbox);
        let r#type = search.column(Part::Type, &names.r#type);
        let payload = search.column(Part::Payload, &names.payload);
        let schema_version = search.mapped(Part::SchemaVersion, &names.schema_version);
        let version = search.mapped(Part::Version, &names.version);
        let headers = search.mapped(Part::Headers, &names.headers);
        let traceparent = search.mapped(Part::Traceparent, &names.traceparent);
        let created_at = search.mapped(Part::CreatedAt, &names.created_at);
        let rules = &outbox.rules.headers;
        let header_rules: Option<Vec<_>> = rules
            .iter()
            .map(|(name, rule)| Some((name.clone(), search.template(Part::HeaderRule, rule)?)))
            .collect();

        let whole = search.missing.is_empty() && search.unwritable.is_empty();
        match (id, topic, key, r#type, payload, header_rules) {
            (Some(id), Some(topic), Some(key), Some(r#type), Some(payload), Some(header_rules)) if whole => {
                Ok(Plan {
                    columns: shape.columns.clone(),
                    width: shape.columns.len(),
                    max_record_bytes: kafka.max_record_bytes,
                    id,
                    topic,
                    key,
                    r#type,
                    payload,
                    schema_version,
                    version,
                    headers,
                    traceparent,
                    created_at,
                    header_rules,
                })
            }
            _ => Err(search.error()),
        }
    }
}

impl Plan {
    /// The columns that every row has.
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    /// The event's id as its text; `None` where there is none to be read.
    pub fn event_id(&self, row: &[Value<'_>]) -> Option<String> {
        let mut buffer = Vec::new();
        let id = if row.len() > self.id.index { self.id.text(row, &mut buffer).ok()?? } else { return None };
        Some(readable(id.within(&buffer)))
    }
}

/// Looks columns up and keeps what was not found, so that one error names it all.
struct Search<'s> {
    shape: &'s RelationShape,
    format: SourceFormat,
    missing: Vec<(Part, String)>,
    unwritable: Vec<(Part, String, u32)>,
}

impl Search<'_> {
    fn column(&mut self, part: Part, name: &str) -> Option<Column> {
        let found = self.shape.columns.iter().position(|column| column.name == name);
        let Some(index) = found else {
            self.missing.push((part, name.to_owned()));
            return None;
        };
        let type_oid = self.shape.columns[index].type_oid;
        let form = Binary::of(type_oid);
        if form.is_none() && self.format == SourceFormat::Binary {
            self.unwritable.push((part, name.to_owned(), type_oid));
        }
        Some(Column { part, name: name.to_owned(), index, form })
    }

    fn mapped(&mut self, part: Part, name: &Option<String>) -> Option<Column> {
        name.as_ref().and_then(|name| self.column(part, name))
    }

    fn topic(&mut self, outbox: &OutboxSettings, kafka: &KafkaSettings) -> Option<Topic> {
        let Some(rule) = &outbox.rules.topic else {
            let aggregatetype = self.column(Part::AggregateType, &outbox.columns.aggregatetype)?;
            return Some(Topic::Prefixed { prefix: kafka.topic_prefix.clone(), aggregatetype });
        };
        let template = self.template(Part::TopicRule, &rule.template)?;
        Some(Topic::ByRule(TopicRule { template, rewrite: rule.rewrite.clone() }))
    }

    fn key(&mut self, outbox: &OutboxSettings) -> Option<Key> {
        if let Some(rule) = &outbox.rules.key {
            return Some(Key::ByRule(self.template(Part::KeyRule, rule)?));
        }
        let aggregateid = self.column(Part::AggregateId, &outbox.columns.aggregateid);
        let partition_key = self.mapped(Part::PartitionKey, &outbox.columns.partition_key);
        Some(Key::OfTheRow { partition_key, aggregateid: aggregateid? })
    }

    fn template(&mut self, part: Part, rule: &rules::Template) -> Option<Template> {
        // All of them are looked up before one that is missing makes the whole useless.
        let pieces: Vec<Option<Piece>> = rule
            .pieces
            .iter()
            .map(|piece| match piece {
                rules::Piece::Literal(text) => Some(Piece::Literal(text.clone())),
                rules::Piece::Column(name) => self.column(part, name).map(Piece::Column),
            })
            .collect();
        pieces.into_iter().collect::<Option<_>>().map(Template)
    }

    fn error(self) -> PlanError {
        let (schema, table) = (self.shape.schema.clone(), self.shape.table.clone());
        if self.missing.is_empty() {
            return PlanError::Unwritable { schema, table, columns: self.unwritable };
        }
        let present = self.shape.columns.iter().map(|column| column.name.clone()).collect();
        PlanError::Missing { schema, table, missing: self.missing, present }
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
    /// Named by the topic's rule.
    TopicRule,
    /// Named by the key's rule.
    KeyRule,
    /// Named by a header's rule.
    HeaderRule,
}

impl Part {
    /// The part's name in the configuration, under `outbox.columns`; of a rule its own key.
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
            Part::TopicRule => "route.topic",
            Part::KeyRule => "route.key",
            Part::HeaderRule => "headers.*",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No record can be made of the table as the stream shows it, so the relay halts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The stream does not carry the columns that records are made of.
    #[error(
        "the stream of table \"{schema}\".\"{table}\" lacks {}; it carries {}. If the publication has a column \
         list, add the missing columns to it; if the table was changed, restore them or name the new ones under \
         `outbox.columns` and in the rules (an optional part that the table never had is removed there). A \
         generated column is not streamed before PostgreSQL 18",
        Parts(.missing), Names(.present)
    )]
    Missing {
        /// Schema of the table.
        schema: String,
        /// Name of the table.
        table: String,
        /// The missing columns by the part they should play.
        missing: Vec<(Part, String)>,
        /// The columns that the stream carries.
        present: Vec<String>,
    },
    /// The stream is binary and the relay cannot write values of these types as PostgreSQL would.
    #[error(
        "table \"{schema}\".\"{table}\" has {}, which the relay cannot read in binary form: set \
         source.format = \"text\"",
        Types(.columns)
    )]
    Unwritable {
        /// Schema of the table.
        schema: String,
        /// Name of the table.
        table: String,
        /// Part, name and type of each such column.
        columns: Vec<(Part, String, u32)>,
    },
}

struct Types<'e>(&'e [(Part, String, u32)]);

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (part, name, oid)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}column \"{name}\" ({part}) of type ")?;
            match tokio_postgres::types::Type::from_oid(*oid) {
                Some(built_in) => write!(f, "{built_in}")?,
                None => write!(f, "{oid} (`SELECT {oid}::regtype` says its name)")?,
            }
        }
        Ok(())
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

    fn missing(error: &PlanError) -> Vec<Part> {
        match error {
            PlanError::Missing { missing, .. } => missing.iter().map(|(part, _)| *part).collect(),
            PlanError::Unwritable { .. } => panic!("{error}"),
        }
    }

    #[test]
    fn types_that_cannot_be_written_are_named_where_they_matter() {
        let mut outbox = fixture::native_outbox();
        outbox.format = SourceFormat::Binary;
        let mut shape = fixture::native_shape();
        // A column that is no part of a record may be of any type.
        shape.columns.push(super::super::ColumnInfo { name: "tags".into(), type_oid: 1009 });
        Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap();
        for (name, type_oid) in [("payload", 1009), ("type", 16_712)] {
            shape.columns.iter_mut().find(|column| column.name == name).unwrap().type_oid = type_oid;
        }
        let error = Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "table \"outbox\".\"events\" has column \"type\" (type) of type 16712 (`SELECT 16712::regtype` says its \
             name), column \"payload\" (payload) of type _text, which the relay cannot read in binary form: set \
             source.format = \"text\""
        );
        outbox.format = SourceFormat::Text;
        Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap();
    }

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
        assert_eq!(missing(&error), [Part::AggregateId, Part::Payload, Part::Traceparent]);
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
        assert_eq!(missing(&error), [Part::Headers]);
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
        assert_eq!(missing(&error).len(), 11);
        assert!(error.to_string().contains("it carries no columns."), "{error}");
    }
}
