//! What must hold, looked at whenever something could break it.

use std::collections::{BTreeMap, BTreeSet};

use outbox_relay::lsn::Lsn;
use outbox_relay::quarantine::desk::EntryId;
use outbox_relay::quarantine::entry::parse_position;
use outbox_relay::quarantine::model::Now;
use outbox_relay::state::StateRecord;

use super::broker::{MOST_PARTITIONS, Record};
use super::source::{EventId, Item, Source};
use crate::verdict::Verdict;

/// The first thing that did not hold, and what is counted to find it.
#[derive(Debug, Default)]
pub struct Judge {
    /// What did not hold.
    pub verdict: Verdict,
    /// How often each event is on the topic.
    times: BTreeMap<EventId, u32>,
    /// Events that a policy, or the want of a key, let the others pass.
    passed: BTreeSet<EventId>,
    /// Of each key, how many of its first events are over.
    over: BTreeMap<u8, usize>,
    /// Of each session and key, the last of its events that it brought.
    last: BTreeMap<(u64, u8), usize>,
    /// The newest session that brought anything to a partition.
    newest: [u64; MOST_PARTITIONS],
    /// Where a key's records are.
    partition: BTreeMap<u8, usize>,
    positions: BTreeMap<EntryId, EventId>,
    /// The highest ceiling that was ever recorded, and the position of each epoch.
    ceiling: Lsn,
    position: (u64, Lsn),
    /// How far the log was looked at: what is confirmed, what is recorded.
    confirmed: usize,
    recorded: usize,
}

impl Judge {
    /// Looks at something that has to hold.
    pub fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.verdict.hold(holds, what);
    }

    /// An event that others may pass.
    pub fn passes(&mut self, event: EventId) {
        self.passed.insert(event);
    }

    /// The server's log went back to an earlier state.
    pub fn went_back(&mut self) {
        self.over.clear();
        self.last.clear();
        (self.confirmed, self.recorded) = (0, 0);
    }

    fn is_on_topic(&self, event: EventId) -> bool {
        self.times.contains_key(&event)
    }

    /// Whether later events of its key may come.
    fn is_over(&self, source: &Source, event: EventId) -> bool {
        let given_up = || {
            source.entry(event).is_some_and(|(_, kept)| matches!(kept.now, Now::Discarding | Now::Discarded))
        };
        self.is_on_topic(event) || self.passed.contains(&event) || given_up()
    }

    /// A record is on the topic. `excused`: its session is over and cannot know, or its request was on its way then.
    pub fn appended(
        &mut self,
        source: &Source,
        record: &Record,
        session: u64,
        partition: usize,
        excused: bool,
    ) {
        let Record { event, at, .. } = *record;
        let what = &source.events[event];
        self.hold(what.committed, || format!("event {event} is published and its transaction rolled back"));
        self.hold(at.1 <= self.ceiling, || {
            format!("event {event} at {} is published above the recorded ceiling", at.1)
        });
        let first = *self.positions.entry(at).or_insert(event);
        self.hold(first == event || source.restored, || {
            format!("events {first} and {event} have the same position {at:?}")
        });
        let newest = self.newest[partition];
        self.hold(session >= newest || excused, || {
            format!("session {session} is over and brings event {event} between those of session {newest}")
        });
        self.newest[partition] = newest.max(session);
        if let (Some(key), Some(nth)) = (what.key, what.nth) {
            self.in_order(source, (event, key, nth), session, partition);
        }
        *self.times.entry(event).or_default() += 1;
    }

    fn in_order(
        &mut self,
        source: &Source,
        (event, key, nth): (EventId, u8, usize),
        session: u64,
        at: usize,
    ) {
        let partition = *self.partition.entry(key).or_insert(at);
        self.hold(partition == at, || {
            format!("event {event} of key {key} is on partition {at}, and its key on {partition}")
        });
        if self.passed.contains(&event) {
            return;
        }
        if !self.is_on_topic(event) {
            let events = &source.keys[usize::from(key)];
            let mut over = self.over.get(&key).copied().unwrap_or(0);
            while events.get(over).is_some_and(|before| self.is_over(source, *before)) {
                over += 1;
            }
            self.over.insert(key, over);
            if let Some(before) = events.get(over).filter(|_| over < nth) {
                let before = *before;
                self.verdict.fail(|| format!("event {event} overtook event {before} of key {key}"));
            }
        }
        if let Some(last) = self.last.insert((session, key), nth) {
            self.hold(nth > last, || {
                format!(
                    "session {session} brings event {event} of key {key} out of order: {nth} after {last}"
                )
            });
        }
    }

    /// A hold begins with this event: of its key everything before it is on the topic, in quarantine or given up.
    pub fn holds_from(&mut self, source: &Source, event: EventId) {
        let what = &source.events[event];
        let (Some(key), Some(nth)) = (what.key, what.nth) else { return };
        for before in &source.keys[usize::from(key)][..nth] {
            let kept = self.is_over(source, *before) || source.entry(*before).is_some();
            self.hold(kept, || {
                format!("key {key} is held from event {event} on, and event {before} is in flight")
            });
        }
    }

    /// What became of a decision is written down: what is published by it is on the topic.
    pub fn written_down(&mut self, source: &Source) {
        for kept in source.table().0.values().filter(|kept| kept.now == Now::Published) {
            let (there, event) = (self.is_on_topic(kept.event), kept.event);
            self.hold(there, || format!("event {event} is written down as published and is in flight"));
        }
    }

    /// The server has heard a position.
    pub fn confirms(&mut self, source: &Source, position: Lsn, record: Option<&StateRecord>) {
        let recorded = record.map_or(Lsn::ZERO, |record| record.position);
        self.hold(position <= recorded, || format!("{position} is confirmed, and {recorded} recorded"));
        while let Some(committed) =
            source.log().get(self.confirmed).filter(|committed| committed.transaction.commit_lsn < position)
        {
            self.confirmed += 1;
            for item in &committed.items {
                self.is_kept(source, *item, position, "confirmed");
            }
        }
    }

    fn is_kept(&mut self, source: &Source, item: Item, position: Lsn, how: &str) {
        let Item::Row(event) = item else { return };
        if !source.events[event].committed {
            return;
        }
        let kept = self.is_on_topic(event) || source.entry(event).is_some();
        self.hold(kept, || {
            format!("{position} is {how}; event {event} is neither on the topic nor in quarantine")
        });
    }

    /// A state record is committed.
    pub fn records(&mut self, source: &Source, record: &StateRecord) {
        let (epoch, position) = self.position;
        let now = (record.epoch, record.position);
        self.hold(now >= (epoch, position) || source.restored, || {
            format!("the record goes back from {position} in epoch {epoch} to {} in {}", now.1, now.0)
        });
        self.position = now;
        self.ceiling = self.ceiling.max(record.ceiling);
        // What was seen of a log that is gone says nothing of the one that is there.
        if record.timeline != source.timeline() || source.restored {
            return;
        }
        while let Some(committed) = source
            .log()
            .get(self.recorded)
            .filter(|committed| committed.transaction.commit_lsn < record.position)
        {
            self.recorded += 1;
            for item in &committed.items {
                match *item {
                    Item::Row(event) => {
                        self.is_kept(source, *item, record.position, "recorded");
                        self.is_listed(source, event, record);
                    }
                    Item::Decision(id) => self.is_carried_out(source, id, record.position),
                }
            }
        }
    }

    fn is_listed(&mut self, source: &Source, event: EventId, record: &StateRecord) {
        if self.is_on_topic(event) {
            return;
        }
        let Some((id, kept)) = source.entry(event) else { return };
        let mut positions = record.quarantined.iter().filter_map(|listed| parse_position(&listed.position));
        let listed = positions.any(|(_, lsn, ordinal)| (lsn, ordinal) == (id.1, id.2));
        self.hold(listed || kept.committed <= record.position, || {
            format!("event {event} is settled at {}, and its entry not listed", record.position)
        });
    }

    /// A decision that is passed is carried out, or comes again further on.
    fn is_carried_out(&mut self, source: &Source, id: EntryId, position: Lsn) {
        let waits = source
            .table()
            .0
            .get(&id)
            .is_some_and(|kept| matches!(kept.now, Now::Releasing | Now::Discarding));
        let again = |item: &Item| matches!(item, Item::Decision(other) if *other == id);
        let comes = source.log().iter().rev();
        let comes = comes.take_while(|committed| committed.transaction.commit_lsn >= position);
        let mut again = comes.filter(|committed| committed.items.iter().any(again));
        let holds = !waits || again.next().is_some();
        self.hold(holds, || format!("{position} is recorded; what was decided of {id:?} is not carried out"));
    }

    /// A session has stopped for good.
    pub fn halted(&mut self, source: &Source, why: &str) {
        // An entry that went with a failover is named, and a person has to publish it; of a disk that was put back
        // nothing is asked but that nothing is lost in silence.
        let excused = source.restored || source.failed_over && (why.contains("gone") || why.contains("lost"));
        self.hold(excused, || format!("a session halts: {why}"));
    }

    /// All has come to rest.
    pub fn rest(&mut self, source: &Source, record: Option<&StateRecord>) {
        let committed = source.events.iter().enumerate().filter(|(_, what)| what.nth.is_some());
        for (event, _) in committed {
            let kept = self.is_on_topic(event) || source.entry(event).is_some();
            self.hold(kept, || format!("at rest event {event} is neither on the topic nor in quarantine"));
        }
        for (id, kept) in &source.table().0 {
            let now = kept.now;
            self.hold(!matches!(now, Now::Releasing | Now::Discarding), || {
                format!("at rest what was decided of {id:?} is not carried out")
            });
            if let (Now::Queued, Some(queue)) = (now, &kept.queue) {
                let headed = source.table().0.values().any(|other| other.heads(queue));
                let event = kept.event;
                self.hold(headed, || format!("at rest event {event} waits behind nothing"));
            }
            if now == Now::Published {
                let (there, event) = (self.is_on_topic(kept.event), kept.event);
                self.hold(there, || format!("at rest event {event} is written down as published and is not"));
            }
        }
        let end = source.log().last().map_or(Lsn::ZERO, |committed| committed.end);
        let recorded = record.map_or(Lsn::ZERO, |record| record.position);
        self.hold(recorded >= end && source.confirmed >= end, || {
            format!("at rest {recorded} is recorded and {} confirmed of {end}", source.confirmed)
        });
    }
}
