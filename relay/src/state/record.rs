//! The state record and its text form.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Ring;
use crate::ledger::LastPublished;
use crate::lsn::Lsn;

/// Version of the format this relay writes, and the newest it reads.
///
/// Within a version fields may be added, and a relay that does not know a field ignores it and drops it
/// with its next record, so that a release can be taken back. A field whose loss would matter therefore
/// comes with a new version, which older relays refuse.
pub const FORMAT_VERSION: u32 = 1;

/// A record above this is not written (512 KiB): it has to fit into one message under the brokers'
/// default limit of 1,048,588 bytes, with room to spare.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;

/// Most quarantine entries that a record lists.
pub const MAX_LISTED: usize = 1_000;

/// Of these, how many stay that the position has passed.
pub const MAX_PASSED: usize = 100;

/// Most fills whose times are remembered.
pub const MAX_FILLS: usize = 32;

/// Most bytes of an event's id in that list, so that the list fits whatever ids are like: those of the
/// contract have 36. Only people read it, and who looks for the row of an entry that was lost.
const MAX_LISTED_ID: usize = 64;

/// What the relay remembers of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Always [`FORMAT_VERSION`] in a record this relay made; checked first when one is read.
    pub version: u32,
    /// The relay's name.
    pub name: String,
    /// The lane's number, from 0.
    pub lane: u32,
    /// Whether the stream runs, or what the table holds is being published first.
    pub phase: RecordedPhase,
    /// The database cluster's system identifier, as `IDENTIFY_SYSTEM` spells it.
    pub system_id: String,
    /// The timeline on which everything below was seen.
    pub timeline: u32,
    /// How often the stream was started anew; begins at 1. Positions of different epochs are never
    /// compared.
    pub epoch: u64,
    /// End of the longest prefix of published transactions. A transaction is published if and only if
    /// its commit LSN is below it.
    pub position: Lsn,
    /// The newest published transaction that had a row, where it is known.
    pub last_published: Option<LastPublished>,
    /// No LSN that was sent exceeds this: it is recorded before it is used, well ahead.
    pub ceiling: Lsn,
    /// The highest commit LSN of which a record was handed to a producer that died of a refusal. Up to
    /// it records are sent one at a time. `None` once the position has passed it.
    #[serde(default)]
    pub highest_handed: Option<Lsn>,
    /// Partition counts by topic, fixed before the topic's first record, so that a topic that grows
    /// moves no key.
    pub partitions: BTreeMap<String, u32>,
    /// Quarantine entries whose rows settle with this record, until the position has passed them, and some of those
    /// that it has passed.
    pub quarantined: Vec<ListedEntry>,
    /// Such entries that found no room in the list, until the position has passed them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<Unlisted>,
    /// Published snapshots, thinned with age.
    pub ring: Ring,
    /// When gaps were filled from the table after a loss, newest last; at most [`MAX_FILLS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fills: Vec<Timestamp>,
    /// The relay process that wrote the record.
    pub writer: Uuid,
    /// Counts the records of that writer, from 1.
    pub sequence: u64,
    /// When it was written, by the writer's clock. For people; nothing is decided by it.
    pub written_at: Timestamp,
}

/// What the lane was doing when the record was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedPhase {
    /// Publishing rows of the table. Recorded before the slot is made; a start that finds it drops the
    /// slot and begins the fill again with the same base, since rows between were not all published.
    Filling {
        /// Rows of transactions visible in this snapshot are published already (`pg_snapshot` text).
        /// `None` is the empty snapshot: nothing is.
        base: Option<String>,
        /// The last LSN that the server's history shares with what was published; the base's LSN is not
        /// above it.
        shared_lsn: Lsn,
    },
    /// Publishing from the slot.
    Streaming,
    /// A person has decided to begin anew: to the comparison there is no record. What has to outlive that
    /// stays: the epoch, which the next stream counts on from, so that positions never come again, and the
    /// partition counts, so that no key moves.
    Forgotten,
}

/// A quarantine entry as the record lists it until the position has passed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedEntry {
    /// The event's id.
    pub id: String,
    /// The event's position, `<epoch>/<commit LSN as 16 hex digits>/<ordinal>`.
    pub position: String,
    /// An LSN at or above the commit of the entry itself.
    pub entry_lsn: Lsn,
}

/// Quarantine entries beyond [`MAX_LISTED`]: many rows of a backlog that cannot be published, or that wait
/// behind one. Which they are is not remembered; that none of them was lost follows from the server having
/// kept its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisted {
    /// How many.
    pub entries: u64,
    /// An LSN at or above the commit of the newest.
    pub up_to: Lsn,
    /// The timeline on which they were written.
    pub timeline: u32,
}

impl StateRecord {
    /// Lists entries, by name while there is room.
    pub fn list(&mut self, entries: impl IntoIterator<Item = ListedEntry>) {
        for entry in entries {
            if self.quarantined.len() < MAX_LISTED {
                self.quarantined.push(entry);
                continue;
            }
            let before =
                self.unlisted.unwrap_or(Unlisted { entries: 0, up_to: Lsn::ZERO, timeline: self.timeline });
            self.unlisted = Some(Unlisted {
                entries: before.entries + 1,
                up_to: before.up_to.max(entry.entry_lsn),
                ..before
            });
        }
    }

    /// Takes entries off the list that are settled: published or given up, they are not missed where they are gone.
    pub fn unlist(&mut self, positions: &[String]) {
        self.quarantined.retain(|entry| !positions.contains(&entry.position));
    }

    /// Lets go of entries that the position has passed, but for the newest [`MAX_PASSED`]: a failover may put the
    /// position back to a place before them, and then they are looked for.
    pub fn let_go(&mut self) {
        let position = self.position;
        let passed = |entry: &ListedEntry| entry.entry_lsn <= position;
        let mut too_many =
            self.quarantined.iter().filter(|entry| passed(entry)).count().saturating_sub(MAX_PASSED);
        self.quarantined.retain(|entry| {
            let goes = passed(entry) && too_many > 0;
            too_many -= usize::from(goes);
            !goes
        });
        self.unlisted = self.unlisted.filter(|unlisted| unlisted.up_to > position);
    }
}

impl ListedEntry {
    /// Lists an entry; a longer id is cut.
    pub fn new(id: Option<&str>, position: String, entry_lsn: Lsn) -> ListedEntry {
        let id = id.unwrap_or_default();
        let id = id[..id.floor_char_boundary(MAX_LISTED_ID)].to_owned();
        ListedEntry { id, position, entry_lsn }
    }

    /// Whether its event can be found by the id: none was cut off, and there is one.
    pub fn has_whole_id(&self) -> bool {
        !self.id.is_empty() && self.id.len() < MAX_LISTED_ID - 3
    }
}

/// A state record that cannot be written or believed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The record is larger than [`MAX_RECORD_BYTES`].
    #[error(
        "the state record takes {bytes} bytes, more than the {MAX_RECORD_BYTES} that are written; \
         it pins {topics} topics"
    )]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// Pinned topics, the part that grows without bound.
        topics: usize,
    },
    /// A newer relay wrote it.
    #[error(
        "the state record has format version {found}, this relay reads up to {FORMAT_VERSION}: a newer \
         relay wrote it, and an older one would forget what that one remembers; run that release or a \
         newer one"
    )]
    Newer {
        /// The version it states.
        found: u64,
    },
    /// It is not a record of this format.
    #[error("the state record cannot be read; it was damaged or something else wrote to its topic")]
    Malformed(#[source] serde_json::Error),
    /// It is well-formed and says what no relay writes.
    #[error("the state record cannot be believed: {0}")]
    Impossible(&'static str),
}

impl StateRecord {
    /// The first record of a lane: streaming, epoch 1, nothing published yet. `writer`, `sequence` and
    /// `written_at` are stamped with [`StateRecord::stamped`].
    pub fn first(name: &str, lane: u32, system_id: &str, timeline: u32, position: Lsn) -> StateRecord {
        StateRecord {
            version: FORMAT_VERSION,
            name: name.to_owned(),
            lane,
            phase: RecordedPhase::Streaming,
            system_id: system_id.to_owned(),
            timeline,
            epoch: 1,
            position,
            last_published: None,
            ceiling: position,
            highest_handed: None,
            partitions: BTreeMap::new(),
            quarantined: Vec::new(),
            unlisted: None,
            ring: Ring::default(),
            fills: Vec::new(),
            writer: Uuid::nil(),
            sequence: 0,
            written_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// The record with which a fill begins. What it said of positions belongs to a stream that is begun anew (R34);
    /// without a base everything is published again, and what the quarantine held comes again with it.
    pub fn filling(
        mut self,
        system_id: &str,
        timeline: u32,
        base: Option<String>,
        shared_lsn: Lsn,
        after_a_loss: bool,
    ) -> StateRecord {
        if after_a_loss {
            self.fills.push(Timestamp::now());
            let surplus = self.fills.len().saturating_sub(MAX_FILLS);
            self.fills.drain(..surplus);
        }
        self.ring.cut_to(shared_lsn);
        if base.is_none() {
            (self.quarantined, self.unlisted) = (Vec::new(), None);
        }
        StateRecord {
            phase: RecordedPhase::Filling { base, shared_lsn },
            system_id: system_id.to_owned(),
            timeline,
            position: Lsn::ZERO,
            ceiling: Lsn::ZERO,
            highest_handed: None,
            last_published: None,
            ..self
        }
    }

    /// The same record with its writer's signature.
    pub fn stamped(mut self, writer: Uuid, sequence: u64, written_at: Timestamp) -> StateRecord {
        (self.writer, self.sequence, self.written_at) = (writer, sequence, written_at);
        self
    }

    /// The record's JSON.
    ///
    /// # Errors
    /// [`StateError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        let text = serde_json::to_vec(self).map_err(StateError::Malformed)?;
        if text.len() > MAX_RECORD_BYTES {
            return Err(StateError::TooLarge { bytes: text.len(), topics: self.partitions.len() });
        }
        Ok(text)
    }

    /// Reads a record. The version is looked at before anything else, so that a newer format is refused
    /// as that and not as damage.
    ///
    /// # Errors
    /// [`StateError::Newer`], [`StateError::Malformed`], or [`StateError::Impossible`].
    pub fn decode(text: &[u8]) -> Result<StateRecord, StateError> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let Version { version } = serde_json::from_slice(text).map_err(StateError::Malformed)?;
        if version > u64::from(FORMAT_VERSION) {
            return Err(StateError::Newer { found: version });
        }
        if version == 0 {
            return Err(StateError::Impossible("versions begin at 1"));
        }
        let record: StateRecord = serde_json::from_slice(text).map_err(StateError::Malformed)?;
        record.check()
    }

    fn check(self) -> Result<StateRecord, StateError> {
        if self.epoch == 0 {
            return Err(StateError::Impossible("epochs begin at 1"));
        }
        if self.last_published.is_some_and(|last| last.end_lsn > self.position) {
            return Err(StateError::Impossible("its last published transaction ends above its position"));
        }
        if self.partitions.values().any(|&count| count == 0) {
            return Err(StateError::Impossible("a topic is pinned to no partition at all"));
        }
        if !self.ring.is_sound() {
            return Err(StateError::Impossible(
                "its published snapshots are not in order, or too many or too long",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::PublishedSnapshot;

    /// Every field filled, by hand: a change of the format changes this text, and then needs a version.
    const GOLDEN: &str = r#"{"version":1,"name":"orders","lane":0,"phase":"streaming","system_id":"7301020304050607081","timeline":2,"epoch":3,"position":"16/B374D848","last_published":{"end_lsn":"16/B374D800","xid":731,"commit_time":812345678901234},"ceiling":"16/F374D848","highest_handed":"16/B374D900","partitions":{"outbox.event.order":12},"quarantined":[{"id":"0197f3a0-0000-7000-8000-000000000001","position":"3/00000016B374D700/2","entry_lsn":"16/B374DA00"}],"ring":[{"lsn":"16/A0000000","snapshot":"700:710:703,705","taken_at":"2026-01-02T03:04:05Z"}],"writer":"0197f3a0-0000-7000-8000-0000000000ff","sequence":42,"written_at":"2026-01-02T03:04:06.789Z"}"#;

    fn golden() -> StateRecord {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let mut record = StateRecord::first("orders", 0, "7301020304050607081", 2, lsn("16/B374D848"));
        record.epoch = 3;
        record.last_published =
            Some(LastPublished { end_lsn: lsn("16/B374D800"), xid: 731, commit_time: 812_345_678_901_234 });
        record.ceiling = lsn("16/F374D848");
        record.highest_handed = Some(lsn("16/B374D900"));
        record.partitions.insert("outbox.event.order".to_owned(), 12);
        record.quarantined.push(ListedEntry {
            id: "0197f3a0-0000-7000-8000-000000000001".to_owned(),
            position: "3/00000016B374D700/2".to_owned(),
            entry_lsn: lsn("16/B374DA00"),
        });
        record.ring.push(PublishedSnapshot {
            lsn: lsn("16/A0000000"),
            snapshot: "700:710:703,705".to_owned(),
            taken_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        });
        let writer = "0197f3a0-0000-7000-8000-0000000000ff".parse().unwrap();
        record.stamped(writer, 42, "2026-01-02T03:04:06.789Z".parse().unwrap())
    }

    #[test]
    fn the_format_is_this_text() {
        assert_eq!(String::from_utf8(golden().encode().unwrap()).unwrap(), GOLDEN);
        assert_eq!(StateRecord::decode(GOLDEN.as_bytes()).unwrap(), golden());
        let mut filling = golden();
        filling.phase = RecordedPhase::Filling { base: Some("700:700:".to_owned()), shared_lsn: Lsn(16) };
        let text = String::from_utf8(filling.encode().unwrap()).unwrap();
        assert!(text.contains(r#""phase":{"filling":{"base":"700:700:","shared_lsn":"0/10"}}"#), "{text}");
    }

    #[test]
    fn another_version_is_refused_as_that() {
        let text = r#"{"version":2,"what":"else"}"#;
        let error = StateRecord::decode(text.as_bytes()).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2 }), "{error:?}");
        assert!(error.to_string().contains("format version 2") && error.to_string().contains("newer relay"));
        let zero = GOLDEN.replace(r#""version":1"#, r#""version":0"#);
        assert!(matches!(StateRecord::decode(zero.as_bytes()), Err(StateError::Impossible(_))));
    }

    #[test]
    fn an_unknown_field_is_ignored_and_a_missing_one_is_not() {
        let more = GOLDEN.replacen('{', r#"{"added_later":[1],"#, 1);
        assert_eq!(StateRecord::decode(more.as_bytes()).unwrap(), golden());
        let less = GOLDEN.replace(r#""position":"16/B374D848","#, "");
        assert!(matches!(StateRecord::decode(less.as_bytes()), Err(StateError::Malformed(_))));
    }

    #[test]
    fn what_no_relay_writes_is_not_believed() {
        for (from, to) in [
            (r#""epoch":3"#, r#""epoch":0"#),
            ("16/B374D800", "16/B374D849"),
            (r#""outbox.event.order":12"#, r#""outbox.event.order":0"#),
        ] {
            let text = GOLDEN.replace(from, to);
            assert_ne!(text, GOLDEN);
            assert!(matches!(StateRecord::decode(text.as_bytes()), Err(StateError::Impossible(_))), "{to}");
        }
    }

    #[test]
    fn a_record_above_the_limit_is_not_written() {
        let mut record = golden();
        for topic in 0..20_000 {
            record.partitions.insert(format!("outbox.event.a_long_topic_name_{topic:05}"), 12);
        }
        let Err(StateError::TooLarge { bytes, topics: 20_001 }) = record.encode() else { panic!() };
        assert!(bytes > MAX_RECORD_BYTES);
    }

    #[test]
    fn a_full_list_fits_whatever_ids_are_like() {
        let mut record = golden();
        for id in ["\u{1}".repeat(600_000), "ä".repeat(600_000), "x".repeat(63) + "ä"] {
            let position = "18446744073709551615/FFFFFFFFFFFFFFFF/18446744073709551615".to_owned();
            let entry = ListedEntry::new(Some(&id), position, Lsn(u64::MAX));
            assert!(entry.id.len() <= MAX_LISTED_ID && id.starts_with(&entry.id));
            record.quarantined = vec![entry; MAX_LISTED];
            assert!(record.encode().is_ok());
        }
        assert_eq!(ListedEntry::new(None, String::new(), Lsn(1)).id, "");
    }

    #[test]
    fn a_settled_entry_is_off_the_list_and_an_id_that_was_cut_finds_no_row() {
        let mut record = StateRecord::first("orders", 0, "7", 4, Lsn(10));
        let entry = |position: &str| ListedEntry::new(Some("e"), position.to_owned(), Lsn(20));
        record.list([entry("1/0000000000000001/0"), entry("1/0000000000000002/0")]);
        record.unlist(&["1/0000000000000001/0".to_owned()]);
        assert_eq!(record.quarantined, [entry("1/0000000000000002/0")]);
        let whole = |id: &str| ListedEntry::new(Some(id), String::new(), Lsn(1)).has_whole_id();
        assert!(whole("0197f3a0-0000-7000-8000-000000000001"));
        assert!(!whole("") && !whole(&"x".repeat(65)) && !whole(&"é".repeat(40)));
    }

    #[test]
    fn what_finds_no_room_in_the_list_is_counted_until_the_position_has_passed_it() {
        let mut record = StateRecord::first("orders", 0, "7", 4, Lsn(10));
        let entry = |lsn| ListedEntry::new(None, String::new(), Lsn(lsn));
        record.list((0..MAX_LISTED).map(|_| entry(20)));
        assert_eq!((record.quarantined.len(), record.unlisted), (MAX_LISTED, None));
        record.list([entry(40), entry(30)]);
        assert_eq!(record.quarantined.len(), MAX_LISTED);
        assert_eq!(record.unlisted, Some(Unlisted { entries: 2, up_to: Lsn(40), timeline: 4 }));
        assert_eq!(StateRecord::decode(&record.encode().unwrap()).unwrap(), record);
        record.position = Lsn(39);
        record.let_go();
        assert!(record.quarantined.len() == MAX_PASSED && record.unlisted.is_some());
        record.position = Lsn(40);
        record.let_go();
        assert_eq!(record.unlisted, None);
        record.list([entry(50), entry(60)]);
        record.position = Lsn(55);
        record.let_go();
        let last: Vec<Lsn> = record.quarantined.iter().rev().take(2).map(|entry| entry.entry_lsn).collect();
        assert_eq!(
            (record.quarantined.len(), last),
            (MAX_PASSED + 1, vec![Lsn(60), Lsn(50)]),
            "the newest stay"
        );
    }

    fn record() -> impl Strategy<Value = StateRecord> {
        let phase = prop_oneof![
            Just(RecordedPhase::Streaming),
            (proptest::option::of(".{0,40}"), any::<u64>())
                .prop_map(|(base, lsn)| RecordedPhase::Filling { base, shared_lsn: Lsn(lsn) }),
        ];
        let last = proptest::option::of((any::<u64>(), any::<u32>(), any::<i64>()));
        let texts = (".{0,20}", ".{0,20}", proptest::collection::btree_map(".{0,20}", 1..u32::MAX, 0..5));
        let numbers = (any::<u32>(), any::<u32>(), 1..=u64::MAX, any::<u64>(), any::<u64>(), any::<u64>());
        let signature = (any::<u128>(), -1_000_000_000_000i64..1_000_000_000_000);
        let ring = proptest::collection::vec((any::<u64>(), "[0-9:,]{0,40}"), 0..40);
        (phase, last, texts, numbers, signature, ring).prop_map(
            |(phase, last, texts, numbers, signature, ring)| {
                let (name, system_id, partitions) = texts;
                let (lane, timeline, epoch, position, ceiling, sequence) = numbers;
                let mut record = StateRecord::first(&name, lane, &system_id, timeline, Lsn(position));
                (record.phase, record.epoch, record.ceiling) = (phase, epoch, Lsn(ceiling));
                record.partitions = partitions;
                record.last_published = last.map(|(end, xid, commit_time)| LastPublished {
                    end_lsn: Lsn(end.min(position)),
                    xid,
                    commit_time,
                });
                let at = Timestamp::from_millisecond(signature.1).unwrap();
                for (lsn, snapshot) in ring {
                    record.ring.push(PublishedSnapshot { lsn: Lsn(lsn), snapshot, taken_at: at });
                }
                record.stamped(Uuid::from_u128(signature.0), sequence, at)
            },
        )
    }

    proptest! {
        #[test]
        fn text_round_trips(record in record()) {
            prop_assert_eq!(StateRecord::decode(&record.encode().unwrap()).unwrap(), record);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = StateRecord::decode(&bytes);
        }

        #[test]
        fn a_damaged_record_is_read_or_refused(at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()) {
            let mut text = GOLDEN.as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _ = StateRecord::decode(&text);
            prop_assert!(StateRecord::decode(&GOLDEN.as_bytes()[..cut % GOLDEN.len()]).is_err());
        }
    }
}
