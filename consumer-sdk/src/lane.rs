//! One assignment of one partition: the name that everything in flight carries.

/// A partition during one assignment of it. What belongs to a former assignment has another epoch and
/// therefore decides nothing about the present one (C28).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Number that this process gave to the topic.
    pub topic: u32,
    /// Partition of the topic.
    pub partition: i32,
    /// Counts the assignments of this process; never the same for two assignments of a partition.
    pub epoch: u32,
}

impl Lane {
    /// Topic and partition, which stay the same from one assignment to the next.
    pub fn place(self) -> (u32, i32) {
        (self.topic, self.partition)
    }
}
