//! Why a row makes no record.

use super::emitted::EmittedFault;
use super::plan::Part;
use super::topic::TopicFault;

/// A row that cannot be published. The messages name columns, headers and what is expected; they never
/// show a payload, a key or another value of the row, since they end in logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublishable {
    /// A part without which there is no record is NULL.
    #[error("column \"{column}\" ({part}) is NULL; a record needs it")]
    Null {
        /// The column.
        column: String,
        /// What it is for.
        part: Part,
    },
    /// The text of a column is not what its part asks for.
    #[error("column \"{column}\" ({part}) is not {expected}")]
    Undecodable {
        /// The column.
        column: String,
        /// What it is for.
        part: Part,
        /// What it should have been.
        expected: &'static str,
    },
    /// The routed topic is not one that Kafka takes.
    #[error("column \"{column}\" (aggregatetype) makes no legal topic name: {fault}")]
    Topic {
        /// The column.
        column: String,
        /// What is wrong with the name.
        fault: TopicFault,
    },
    /// The topic that the rule makes is not one that Kafka takes.
    #[error("the topic that route.topic and route.regex make of the row is not legal: {fault}")]
    RuledTopic {
        /// What is wrong with the name.
        fault: TopicFault,
    },
    /// One of the row's own headers cannot be sent.
    #[error("header {name:?} in column \"{column}\" {fault}")]
    Header {
        /// The column.
        column: String,
        /// The header's name.
        name: String,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// The record would be above `kafka.max_record_bytes`.
    #[error("the record has {bytes} bytes; `kafka.max_record_bytes` allows {limit}")]
    RecordTooLarge {
        /// Size of the record, or a lower bound of it.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The row's frame is above `source.max_row_bytes`, so it was not held.
    #[error("the row has {bytes} bytes in the stream; `source.max_row_bytes` allows {limit}")]
    RowTooLarge {
        /// Size of the frame.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream left a TOASTed value out.
    #[error("column \"{column}\" was left out of the stream as unchanged; an insert carries every value")]
    Unchanged {
        /// The column.
        column: String,
    },
    /// A message that is no event.
    #[error("the message is no event: {fault}")]
    Message {
        /// What is wrong with it.
        fault: EmittedFault,
    },
    /// The row is not of the shape that its Relation message announced.
    #[error("the row has {found} columns; its table was announced with {expected}")]
    ColumnCount {
        /// Columns of the table.
        expected: usize,
        /// Columns of the row.
        found: usize,
    },
}

/// What is wrong with one of the row's own headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// An object or an array.
    #[error("holds an object or an array; only strings, numbers, booleans and null can be sent")]
    Nested,
    /// The name is one of the relay's own headers.
    #[error("has a name that is reserved for the relay's own headers")]
    Reserved,
    /// No name.
    #[error("has an empty name")]
    EmptyName,
    /// Kafka clients in C end a name at a zero character.
    #[error("has a zero character in its name")]
    ZeroInName,
}
