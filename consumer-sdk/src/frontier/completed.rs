//! Offsets that are settled although an earlier one is not.

use std::ops::Range;

/// Sorted ranges of offsets, none empty, none touching the next.
///
/// A range may reach over offsets that do not exist (compacted records, transaction markers): the reader
/// was past them, so nothing will ever be delivered there. This is the same conclusion that lets a
/// committed offset pass them, and it keeps the ranges few where every transaction leaves a marker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completed {
    ranges: Vec<Range<i64>>,
}

impl Completed {
    /// Nothing completed.
    pub const NONE: Completed = Completed { ranges: Vec::new() };

    /// Adds a range behind all others; one that touches the last is joined to it. Returns whether it was
    /// added: an empty one, or one that begins before the end of the last, is not.
    pub fn push(&mut self, range: Range<i64>) -> bool {
        match self.ranges.last_mut() {
            _ if range.is_empty() => return false,
            Some(last) if range.start < last.end => return false,
            Some(last) if range.start == last.end => last.end = range.end,
            _ => self.ranges.push(range),
        }
        true
    }

    /// The ranges, lowest first.
    pub fn ranges(&self) -> &[Range<i64>] {
        &self.ranges
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the offset is in a range.
    pub fn contains(&self, offset: i64) -> bool {
        let after = self.ranges.partition_point(|r| r.end <= offset);
        self.ranges.get(after).is_some_and(|r| r.contains(&offset))
    }
}
