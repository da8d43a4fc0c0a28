//! The judgement, pure: nothing here knows where rows and records come from.

use std::collections::{HashMap, HashSet};

use outbox_schema::record::{Position, header};

use super::verdict::{Fault, Verdict};

/// A committed row and the record that it has to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The event's id, in the hyphenated form.
    pub id: String,
    /// The topic it belongs to.
    pub topic: String,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record's headers in order, without `position`, which only the relay knows.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its place in the commit order of its key, counted without gaps from 1; `None` where the data does
    /// not say.
    pub order: Option<u64>,
}

/// A record as it stands on the log. The records of a partition come in the order of their offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key; `None` where it has none.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers in order; one without a value has an empty one.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Published {
    /// Value of a header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The event's id.
    pub fn id(&self) -> Option<&str> {
        self.header(header::ID)
    }

    fn place(&self) -> String {
        format!("{}/{} offset {}", self.topic, self.partition, self.offset)
    }
}

/// Judges a history: committed = published, contents untouched, first occurrences of each key in commit
/// order, positions that order them.
pub fn judge(committed: &[Committed], published: &[Published]) -> Verdict {
    let mut verdict = Verdict { committed: committed.len() as u64, ..Verdict::default() };
    let mut rows = HashMap::with_capacity(committed.len());
    for row in committed {
        if rows.insert(row.id.as_str(), row).is_some() {
            verdict.fault(Fault::Altered, || format!("two rows have the id {}", row.id));
        }
    }
    let mut reading = Reading { verdict, rows, ..Reading::default() };
    for record in published {
        reading.record(record);
    }
    let Reading { mut verdict, seen, .. } = reading;
    verdict.published = seen.len() as u64;
    for row in committed.iter().filter(|row| !seen.contains_key(row.id.as_str())) {
        verdict.fault(Fault::Lost, || format!("{} ({}, order {:?})", row.id, row.topic, row.order));
    }
    verdict
}

/// The log is read once, front to back.
#[derive(Debug, Default)]
struct Reading<'a> {
    verdict: Verdict,
    rows: HashMap<&'a str, &'a Committed>,
    /// Position and partition of the first record of each id.
    seen: HashMap<&'a str, First<'a>>,
    keys: HashMap<(&'a str, &'a [u8]), Key>,
    positions: HashMap<Position, &'a str>,
    moved: HashSet<(&'a str, &'a [u8])>,
}

#[derive(Debug)]
struct First<'a> {
    record: &'a Published,
    /// One per epoch in which copies were published; nearly always one.
    positions: Vec<Position>,
}

/// What the log has shown of one key.
#[derive(Debug)]
struct Key {
    partition: i32,
    /// Highest order among first occurrences.
    highest: u64,
    /// Order of the record before.
    last: u64,
    /// Highest position among first occurrences.
    position: Option<Position>,
}

impl<'a> Reading<'a> {
    fn record(&mut self, record: &'a Published) {
        let Some(id) = record.id() else {
            self.verdict.fault(Fault::Altered, || format!("no event id at {}", record.place()));
            return;
        };
        let position = self.position(record, id);
        let first = !self.seen.contains_key(id);
        if first {
            self.seen.insert(id, First { record, positions: position.into_iter().collect() });
        } else {
            self.verdict.repeated += 1;
            self.copy(record, id, position);
        }
        let Some(row) = self.rows.get(id).copied() else {
            if first {
                self.verdict.fault(Fault::Phantom, || format!("{id} at {}", record.place()));
            }
            return;
        };
        if let Some(difference) = difference(row, record) {
            self.verdict.fault(Fault::Altered, || format!("{id} at {}: {difference}", record.place()));
        }
        self.order(row, record, first, position);
    }

    /// The position of a record, which no other event may have.
    fn position(&mut self, record: &'a Published, id: &'a str) -> Option<Position> {
        let Some(position) = record.header(header::POSITION).and_then(|text| text.parse().ok()) else {
            self.verdict.fault(Fault::Misplaced, || format!("no position at {}", record.place()));
            return None;
        };
        let owner = *self.positions.entry(position).or_insert(id);
        if owner != id {
            self.verdict.fault(Fault::Misplaced, || format!("{position} is {owner}'s and {id}'s"));
        }
        Some(position)
    }

    /// A repetition has the position of its epoch.
    fn copy(&mut self, record: &Published, id: &str, position: Option<Position>) {
        let (Some(first), Some(position)) = (self.seen.get_mut(id), position) else { return };
        match first.positions.iter().find(|known| known.epoch == position.epoch) {
            Some(known) if *known != position => {
                let (known, place) = (*known, first.record.place());
                self.verdict.fault(Fault::Misplaced, || {
                    format!("{id} is {known} at {place} and {position} at {}", record.place())
                });
            }
            Some(_) => {}
            None => first.positions.push(position),
        }
    }

    /// One partition per key; first occurrences in commit order, which their positions say, too.
    fn order(&mut self, row: &'a Committed, record: &'a Published, first: bool, position: Option<Position>) {
        let name = (row.topic.as_str(), row.key.as_slice());
        let fresh = Key { partition: record.partition, highest: 0, last: 0, position: None };
        let key = self.keys.entry(name).or_insert(fresh);
        if key.partition != record.partition && self.moved.insert(name) {
            let was = key.partition;
            self.verdict.fault(Fault::Misplaced, || {
                format!("key {} stands in partition {was}, too: {}", text(&row.key), record.place())
            });
        }
        if let Some(order) = row.order {
            if first && order < key.highest {
                let highest = key.highest;
                self.verdict.fault(Fault::Reordered, || {
                    format!("key {}: {order} after {highest} at {}", text(&row.key), record.place())
                });
            }
            if !first && order > key.last + 1 {
                self.verdict.ragged += 1;
            }
            key.last = order;
            if first {
                key.highest = key.highest.max(order);
            }
        }
        if let (true, Some(position)) = (first, position) {
            if let Some(before) = key.position.filter(|before| position <= *before) {
                self.verdict.fault(Fault::Misplaced, || {
                    format!("key {}: {position} after {before} at {}", text(&row.key), record.place())
                });
            }
            key.position = key.position.max(Some(position));
        }
    }
}

/// What of a record is not its row's, in words.
fn difference(row: &Committed, record: &Published) -> Option<String> {
    if record.topic != row.topic {
        return Some(format!("belongs to {}", row.topic));
    }
    if record.key.as_deref() != Some(&row.key) {
        return Some(format!("its key is {}", text(&row.key)));
    }
    if record.value != row.value {
        let length = |value: &Option<Vec<u8>>| value.as_ref().map(Vec::len);
        return Some(format!(
            "a value of {:?} bytes is not the row's of {:?}",
            length(&record.value),
            length(&row.value)
        ));
    }
    let headers: Vec<_> = record.headers.iter().filter(|(name, _)| name != header::POSITION).collect();
    if headers.iter().copied().ne(row.headers.iter()) {
        let show = |(name, value): &(String, Vec<u8>)| format!("{name}={}", text(value));
        let found: Vec<String> = headers.iter().map(|header| show(header)).collect();
        let expected: Vec<String> = row.headers.iter().map(show).collect();
        return Some(format!("headers {found:?}, expected {expected:?}"));
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
