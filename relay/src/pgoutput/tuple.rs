//! The columns of a row.

use super::cursor::Cursor;
use super::error::DecodeError;

/// One column's value as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL NULL.
    Null,
    /// A large value that an UPDATE did not touch; the server does not send it.
    Unchanged,
    /// The value as the type's output function writes it.
    Text(&'a [u8]),
    /// The value as the type's send function writes it.
    Binary(&'a [u8]),
}

impl<'a> Column<'a> {
    #[inline]
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let offset = cursor.offset();
        match cursor.u8("the kind of a column")? {
            b'n' => Ok(Column::Null),
            b'u' => Ok(Column::Unchanged),
            b't' => Ok(Column::Text(cursor.counted("a column's text")?)),
            b'b' => Ok(Column::Binary(cursor.counted("a column's binary value")?)),
            byte => {
                Err(DecodeError::UnknownByte { expected: "a column (`n`, `u`, `t` or `b`)", offset, byte })
            }
        }
    }
}

/// A row. Its columns were checked when it was decoded, so that going through them cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct Tuple<'a> {
    count: u16,
    columns: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let count = cursor.u16("the number of columns")?;
        let columns = cursor.rest();
        for _ in 0..count {
            Column::read(cursor)?;
        }
        let length = columns.len() - cursor.rest().len();
        Ok(Tuple { count, columns: &columns[..length] })
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the row has no column at all, as a table without columns has.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in the order of the Relation message.
    pub fn iter(&self) -> Columns<'a> {
        Columns { left: self.count, cursor: Cursor::new(self.columns) }
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Column<'a>;
    type IntoIter = Columns<'a>;

    fn into_iter(self) -> Columns<'a> {
        self.iter()
    }
}

/// Goes through the columns of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    #[inline]
    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The same bytes were read once already, so this cannot fail.
        Column::read(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}
