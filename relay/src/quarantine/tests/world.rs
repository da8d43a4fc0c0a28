//! What outlives a session: the log, the table, the state record, the broker; and what has to be true of them.

use std::collections::HashSet;

use super::session::Session;
use crate::config::Policy;
use crate::lsn::Lsn;
use crate::quarantine::desk::EntryId;
use crate::quarantine::entry::{parse_position, position_text};
use crate::quarantine::model::{Now, Queue, Table, event_id};
use crate::quarantine::recall;
use crate::router::RowPosition;
use crate::state::StateRecord;

/// The topic of all rows; its queue is called alike.
pub(super) const TOPIC: &str = "t";

/// A row of the outbox.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) key: Option<u8>,
    /// Whether it can be published as things are.
    pub(super) bad: bool,
    /// Whether that is only seen when it was counted and sent: the broker refuses it.
    pub(super) refused: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Row(usize),
    Decision(EntryId),
}

/// A transaction in the log.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) commit: Lsn,
    pub(super) end: Lsn,
    pub(super) items: Vec<Item>,
}

pub(super) struct World {
    pub(super) events: Vec<Event>,
    pub(super) log: Vec<Committed>,
    /// Where the server writes next.
    pub(super) wal: u64,
    pub(super) table: Table,
    pub(super) record: StateRecord,
    /// What the broker has, in the order in which it came.
    pub(super) delivered: Vec<usize>,
    /// Events that a policy let the others pass.
    pub(super) passed: HashSet<usize>,
    pub(super) policy: Policy,
    pub(super) max: u64,
    /// Events below it are sent one at a time, after a refusal.
    pub(super) alone: usize,
}

impl World {
    /// `alone`: events below it are sent one at a time.
    pub(super) fn new(alone: usize) -> World {
        let record = StateRecord::first("orders", 0, "7", 1, Lsn(1_000));
        World {
            events: Vec::new(),
            log: Vec::new(),
            wal: 1_010,
            table: Table::default(),
            record,
            delivered: Vec::new(),
            passed: HashSet::new(),
            policy: Policy::HoldKey,
            max: u64::MAX,
            alone,
        }
    }

    /// A transaction with rows is committed.
    pub(super) fn commit(&mut self, rows: Vec<Event>) {
        let first = self.events.len();
        self.events.extend(rows);
        self.append((first..self.events.len()).map(Item::Row).collect());
    }

    fn append(&mut self, items: Vec<Item>) {
        let (commit, end) = (Lsn(self.wal), Lsn(self.wal + 4));
        self.log.push(Committed { commit, end, items });
        self.wal += 10;
    }

    /// Something that is in no publication is written.
    pub(super) fn write_elsewhere(&mut self) -> Lsn {
        self.wal += 10;
        Lsn(self.wal)
    }

    /// A person decides: the entry is marked and the message written in one transaction.
    pub(super) fn decide(&mut self, which: usize, discard: bool) {
        let open: Vec<EntryId> =
            self.table.0.iter().filter(|(_, kept)| kept.is_open()).map(|(id, _)| *id).collect();
        if let Some(id) = open.get(which % open.len().max(1))
            && self.table.decide(*id, discard)
        {
            self.append(vec![Item::Decision(*id)]);
        }
    }

    /// A session begins: as [`recall::recall`], whose statements are the table's here.
    pub(super) fn begin(&mut self) -> Session {
        for listed in &self.record.quarantined {
            let id = parse_position(&listed.position).expect("a position");
            assert!(id.1 >= self.record.position || self.table.0.contains_key(&id), "{id:?} was lost");
        }
        let found = self.table.recall(self.record.position);
        for entry in found.iter().filter(|entry| entry.decided.is_some()) {
            self.append(vec![Item::Decision(entry.id)]);
        }
        let entry_lsn = Lsn(self.wal);
        let mut record = self.record.clone();
        recall::list(&mut record, &found, entry_lsn);
        let holds = recall::holds(&record, &found);
        self.acknowledge(record);
        Session::new(self, holds)
    }

    /// A state record is acknowledged. Whatever it passes is published, given up, or an entry that it lists,
    /// unless the position has passed the entry too.
    pub(super) fn acknowledge(&mut self, record: StateRecord) {
        assert!(record.position >= self.record.position, "the position goes back");
        for committed in self.log.iter().filter(|committed| committed.commit < record.position) {
            for (event, ordinal) in rows(committed).zip(0..) {
                if self.delivered.contains(&event) {
                    continue;
                }
                let mut entries = self.table.0.iter().filter(|(_, kept)| kept.event == event);
                let (id, kept) = entries
                    .next()
                    .unwrap_or_else(|| panic!("{event} is passed, neither published nor in the table"));
                assert_eq!((id.1, id.2), (committed.commit, ordinal));
                assert!(entries.next().is_none(), "{event} is in the table twice");
                let listed = record.quarantined.iter().any(|listed| listed.position == text(*id));
                assert!(
                    listed || kept.committed <= record.position,
                    "{event} is settled and its entry not listed"
                );
            }
        }
        self.record = record;
    }

    /// A record comes to the broker. Of its key everything before it is there, given up, or was let pass, unless it
    /// was let pass itself.
    pub(super) fn deliver(&mut self, event: usize) {
        let key = self.events[event].key;
        if key.is_some() && !self.passed.contains(&event) {
            for before in (0..event).filter(|before| self.events[*before].key == key) {
                assert!(
                    self.delivered.contains(&before)
                        || self.passed.contains(&before)
                        || self.given_up(before),
                    "{event} comes to the broker before {before}, which is of its key"
                );
            }
        }
        self.delivered.push(event);
    }

    fn given_up(&self, event: usize) -> bool {
        self.table.0.values().any(|kept| {
            // A discarded head is settled with those behind it, once they are on the broker.
            kept.event == event && matches!(kept.now, Now::Discarding | Now::Discarded)
        })
    }

    /// Nothing is lost: what is not published is given up, or waits in the table.
    pub(super) fn nothing_is_lost(&self) {
        for event in 0..self.events.len() {
            let kept = self.table.0.values().find(|kept| kept.event == event);
            let waits = kept.is_some_and(|kept| kept.is_open() || kept.now == Now::Discarded);
            assert!(waits || self.delivered.contains(&event), "{} is lost", event_id(event));
        }
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = Queue> + use<> {
        (0..KEYS).map(|key| (TOPIC.to_owned(), vec![key]))
    }
}

/// How many keys there are.
pub(super) const KEYS: u8 = 3;

/// The rows of a transaction.
pub(super) fn rows(committed: &Committed) -> impl Iterator<Item = usize> {
    committed.items.iter().filter_map(|item| match item {
        Item::Row(event) => Some(*event),
        Item::Decision(_) => None,
    })
}

pub(super) fn text((epoch, commit_lsn, ordinal): EntryId) -> String {
    position_text(&RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: 0 })
}
