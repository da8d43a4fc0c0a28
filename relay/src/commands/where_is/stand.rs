//! Whether a row is published, by what the relay remembers. Pure.

use serde::Serialize;

use super::table::Row;
use crate::commands::quarantine::entry::{Entry, State};
use crate::lsn::Lsn;
use crate::state::{RecordedPhase, StateRecord};

/// What is remembered, and where the server stands.
#[derive(Debug)]
pub struct Memory {
    /// The newest state record.
    pub record: Option<StateRecord>,
    /// The server's system identifier.
    pub system_id: String,
    /// End of the server's log, after the row was seen: its transaction committed before.
    pub wal_end: Lsn,
    /// Whether a relay owns the lane.
    pub running: bool,
}

impl Memory {
    /// Whether the record is about this server and says what is published there.
    pub fn is_of_this_system(&self) -> bool {
        self.record.as_ref().is_some_and(|record| {
            record.system_id == self.system_id && record.phase != RecordedPhase::Forgotten
        })
    }
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stand {
    /// In the quarantine, undecided or not carried out: not on Kafka.
    Held,
    /// Given up: never on Kafka, unless it was published before.
    Discarded,
    /// On Kafka.
    Published,
    /// On Kafka or not: it is newer than what the relay has written down.
    Maybe,
    /// Not on Kafka, by all that is remembered.
    Waiting,
}

/// Where a row stands. `visible`: in the newest published snapshot.
pub fn of(row: &Row, entries: &[Entry], visible: Option<bool>, memory: &Memory) -> Stand {
    if let Some(entry) = entries.last() {
        return match entry.state {
            State::Held | State::Queued | State::Passed | State::Releasing | State::Discarding => Stand::Held,
            State::Published => Stand::Published,
            State::Discarded => Stand::Discarded,
        };
    }
    let Some(record) = memory.record.as_ref().filter(|_| memory.is_of_this_system()) else {
        return if memory.record.is_some() || memory.running { Stand::Maybe } else { Stand::Waiting };
    };
    // All that committed before the end of the log is published where the position has come to it.
    if visible == Some(true)
        || (record.phase == RecordedPhase::Streaming && record.position >= memory.wal_end)
    {
        return Stand::Published;
    }
    let later = row.created_at.is_some_and(|made| made > record.written_at);
    if later && !memory.running { Stand::Waiting } else { Stand::Maybe }
}

/// The same in words.
pub fn sentence(stand: Stand, row: &Row, memory: &Memory) -> String {
    let record = memory.record.as_ref();
    let position = record.map_or(Lsn::ZERO, |record| record.position);
    match stand {
        Stand::Held => "it is in the table, and in the quarantine: what stands there is not published".to_owned(),
        Stand::Discarded => {
            "it is in the table, and was discarded from the quarantine: what stood there is never published".to_owned()
        }
        // What nothing remembers apart: both count as settled.
        Stand::Published => "it is in the table, and published; unless it stood there before the relay began \
                             (--existing=skip), or was discarded and its entry is pruned (--on-kafka looks)"
            .to_owned(),
        Stand::Waiting if record.is_none() => {
            "it is in the table, and not yet published: this relay has published nothing so far".to_owned()
        }
        Stand::Waiting => format!(
            "it is in the table, and not yet published: it was made after the relay last wrote down how far it is \
             ({position}), and no relay is running"
        ),
        Stand::Maybe if record.is_some() && !memory.is_of_this_system() => {
            "it is in the table; whether it is published is not known, since what the relay remembers is of another \
             database system, or forgotten (--on-kafka looks)"
                .to_owned()
        }
        Stand::Maybe if row.writer.is_none() => format!(
            "it is in the table; whether it is published is not known: the table does not say which transaction wrote it \
             (outbox.columns.writer), and the relay is at {position} of {} (--on-kafka looks)",
            memory.wal_end
        ),
        Stand::Maybe => format!(
            "it is in the table, and may be published: it is newer than the newest snapshot that the relay wrote down, and \
             the relay is at {position} of {} (--on-kafka looks)",
            memory.wal_end
        ),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn memory(position: u64) -> Memory {
        let mut record = StateRecord::first("orders", 0, "42", 1, Lsn(position));
        record.written_at = Timestamp::from_second(1_000).unwrap();
        Memory { record: Some(record), system_id: "42".into(), wal_end: Lsn(0x100), running: true }
    }

    fn row(made: i64) -> Row {
        Row { writer: Some("7".into()), created_at: Timestamp::from_second(made).ok(), ..Row::default() }
    }

    #[test]
    fn what_is_remembered_decides() {
        for (visible, position, made, running, stand) in [
            (Some(true), 0x50, 2_000, false, Stand::Published),
            (Some(false), 0x100, 2_000, true, Stand::Published),
            (Some(false), 0xFF, 900, true, Stand::Maybe),
            (Some(false), 0xFF, 2_000, true, Stand::Maybe),
            (Some(false), 0xFF, 900, false, Stand::Maybe),
            (Some(false), 0xFF, 2_000, false, Stand::Waiting),
            (None, 0xFF, 2_000, false, Stand::Waiting),
        ] {
            let memory = Memory { running, ..memory(position) };
            let found = of(&row(made), &[], visible, &memory);
            assert_eq!(found, stand, "{visible:?} {position:X} {made} {running}");
            assert!(sentence(found, &row(made), &memory).starts_with("it is in the table"));
        }
    }

    #[test]
    fn memory_of_another_system_says_nothing() {
        let other = Memory { system_id: "43".into(), ..memory(0x100) };
        assert_eq!(of(&row(2_000), &[], None, &other), Stand::Maybe);
        assert!(sentence(Stand::Maybe, &row(1), &other).contains("another database system"));
        let none = Memory { record: None, running: false, ..memory(0) };
        assert_eq!(of(&row(2_000), &[], None, &none), Stand::Waiting);
        assert_eq!(of(&row(2_000), &[], None, &Memory { running: true, ..none }), Stand::Maybe);
        let mut filling = memory(0x100);
        filling.record.as_mut().unwrap().phase = RecordedPhase::Filling { base: None, shared_lsn: Lsn::ZERO };
        assert_eq!(
            of(&row(900), &[], Some(false), &filling),
            Stand::Maybe,
            "the position of a fill is another's"
        );
    }
}
