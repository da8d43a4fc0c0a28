//! What routing needs to know of a table and of a row, apart from how the stream encodes them.

/// One column value of a row under the replication session's settings (`DateStyle` ISO, `TimeZone` UTC,
/// `bytea_output` hex). Where the stream is binary a type without a send function still comes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the server left out because the row's change did not touch it. It comes with
    /// updates only; an insert that carries one cannot be published.
    Unchanged,
    /// What the type's output function writes.
    Text(&'a [u8]),
    /// What the type's send function writes.
    Binary(&'a [u8]),
}

/// A column as the Relation message describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// The column's name.
    pub name: String,
    /// OID of its type in `pg_type`; of a domain that of the type it is made from, where that is built in.
    pub type_oid: u32,
}

/// A table as the Relation message describes it: the columns that the stream carries, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationShape {
    /// Schema of the table; of the root where it is partitioned.
    pub schema: String,
    /// Name of the table; of the root where it is partitioned.
    pub table: String,
    /// The columns in the order of every row's values.
    pub columns: Vec<ColumnInfo>,
}
