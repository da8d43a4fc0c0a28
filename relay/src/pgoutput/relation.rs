//! A table's description, sent before its first row and again after it has changed.

use super::cursor::Cursor;
use super::error::DecodeError;

/// A table as the server describes it.
#[derive(Debug, Clone, Copy)]
pub struct Relation<'a> {
    /// The number that rows refer to; the table's OID.
    pub id: u32,
    /// Schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Table. With `publish_via_partition_root` this is the root.
    pub name: &'a str,
    /// Replica identity as in `pg_class.relreplident`.
    pub replica_identity: u8,
    count: u16,
    columns: &'a [u8],
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Bit 0: part of the replica identity.
    pub flags: u8,
    /// Name.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// Its type's modifier as in `pg_attribute.atttypmod`; −1 for none.
    pub type_modifier: i32,
}

impl<'a> Relation<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let id = cursor.u32("a relation's id")?;
        let namespace = cursor.text("a relation's schema")?;
        let name = cursor.text("a relation's name")?;
        let replica_identity = cursor.u8("a replica identity")?;
        let count = cursor.u16("the number of columns")?;
        let columns = cursor.rest();
        for _ in 0..count {
            RelationColumn::read(cursor)?;
        }
        let length = columns.len() - cursor.rest().len();
        Ok(Relation { id, namespace, name, replica_identity, count, columns: &columns[..length] })
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the table has no column at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in the order in which rows carry them.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = RelationColumn<'a>> + use<'a> {
        RelationColumns { left: self.count, cursor: Cursor::new(self.columns) }
    }
}

impl<'a> RelationColumn<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        Ok(RelationColumn {
            flags: cursor.u8("a column's flags")?,
            name: cursor.text("a column's name")?,
            type_oid: cursor.u32("a column's type")?,
            type_modifier: cursor.i32("a column's type modifier")?,
        })
    }

    /// Whether the column is part of the replica identity.
    pub fn is_key(&self) -> bool {
        self.flags & 1 != 0
    }
}

struct RelationColumns<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for RelationColumns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The same bytes were read once already, so this cannot fail.
        RelationColumn::read(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RelationColumns<'_> {}
