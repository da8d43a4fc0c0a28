//! PostgreSQL: transactions that interleave and commit or not, the slot, the streams that read it, the lane's lock, and the
//! quarantine's table. What is on its disk can be copied and put back.

use std::collections::{BTreeMap, VecDeque};

use outbox_relay::ledger::Transaction;
use outbox_relay::lsn::Lsn;
use outbox_relay::quarantine::desk::EntryId;
use outbox_relay::quarantine::model::{Kept, Now, Table};
use outbox_relay::session::compare::{PLUGIN, ServerFacts, SlotFacts};

use crate::schedule::How;

/// Number of an event.
pub type EventId = usize;

/// How long a connection may be silent.
pub const SILENT: u64 = 10_000;

/// Messages between a walsender and its reader.
const WIRE: usize = 24;

/// Events that a run has at most.
const MOST: usize = 160;

/// Where the log begins.
const BEGIN: u64 = 1_000;

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Nothing.
    No,
    /// It makes no record.
    Row,
    /// The broker refuses it.
    Refused,
}

/// A row of the outbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// What order is kept by.
    pub key: Option<u8>,
    /// What is wrong with it.
    pub bad: Bad,
    /// Its place among the events of its key, once it is committed and as long as the server knows it.
    pub nth: Option<usize>,
    /// Whether it was ever committed.
    pub committed: bool,
}

/// A part of a transaction.
#[derive(Debug, Clone, Copy)]
pub enum Item {
    /// A row of the outbox.
    Row(EventId),
    /// What a person decided of an entry.
    Decision(EntryId),
}

/// A transaction in the log.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What its Begin says.
    pub transaction: Transaction,
    /// Its end.
    pub end: Lsn,
    /// What is in it.
    pub items: Vec<Item>,
}

/// What a stream brings.
#[derive(Debug, Clone, Copy)]
pub enum Message {
    /// Begin.
    Begin(Transaction),
    /// A part of it.
    Item(Item),
    /// Commit.
    Commit(Lsn, i64),
    /// Keepalive.
    Keepalive(Lsn),
}

/// What a reader gets.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// Nothing yet.
    Nothing,
    /// The stream has ended.
    Ended,
}

/// What is on the disk.
#[derive(Debug, Clone, Default)]
struct Disk {
    wal: u64,
    log: Vec<Committed>,
    table: Table,
    confirmed: Lsn,
    timeline: u32,
    branches: Vec<(u32, Lsn)>,
}

/// A walsender.
#[derive(Debug)]
struct Stream {
    at: usize,
    /// The next item of the transaction it is in.
    within: Option<usize>,
    wire: VecDeque<Message>,
    feedback: VecDeque<Lsn>,
    open: bool,
}

/// The server.
#[derive(Debug)]
pub struct Source {
    disk: Disk,
    copy: Option<Disk>,
    /// By number.
    pub events: Vec<Event>,
    /// Of each key, its events in the order of commits.
    pub keys: Vec<Vec<EventId>>,
    open: Vec<Vec<Item>>,
    /// The slot.
    pub confirmed: Lsn,
    active: Option<u64>,
    streams: BTreeMap<u64, Stream>,
    sessions: Vec<u64>,
    lane: Option<u64>,
    connections: u64,
    /// Connections whose other end is silent: SQL or not, which, since when.
    silent: Vec<(bool, u64, u64)>,
    /// Its disk was put back, on the same timeline.
    pub restored: bool,
    /// It went over to another timeline.
    pub failed_over: bool,
    xid: u32,
    streams_open: bool,
}

impl Source {
    /// A server with a slot. `streams_open`: rows are streamed before their transaction has ended.
    pub fn new(keys: usize, streams_open: bool) -> Source {
        let disk = Disk { wal: BEGIN, confirmed: Lsn(BEGIN), timeline: 1, ..Disk::default() };
        Source {
            disk,
            copy: None,
            events: Vec::new(),
            keys: vec![Vec::new(); keys],
            open: Vec::new(),
            confirmed: Lsn(BEGIN),
            active: None,
            streams: BTreeMap::new(),
            sessions: Vec::new(),
            lane: None,
            connections: 0,
            silent: Vec::new(),
            restored: false,
            failed_over: false,
            xid: 700,
            streams_open,
        }
    }

    /// The log's end.
    pub fn wal(&self) -> Lsn {
        Lsn(self.disk.wal)
    }

    /// Its timeline.
    pub fn timeline(&self) -> u32 {
        self.disk.timeline
    }

    /// Its transactions.
    pub fn log(&self) -> &[Committed] {
        &self.disk.log
    }

    /// The quarantine.
    pub fn table(&self) -> &Table {
        &self.disk.table
    }

    /// The quarantine, for a statement; something is written to the log.
    pub fn write_table(&mut self) -> &mut Table {
        self.disk.wal += 8;
        &mut self.disk.table
    }

    /// The entry of an event.
    pub fn entry(&self, event: EventId) -> Option<(&EntryId, &Kept)> {
        self.disk.table.0.iter().find(|(_, kept)| kept.event == event)
    }

    /// A producer writes: a row in a transaction that is open or begins.
    pub fn insert(&mut self, how: &mut How) -> Option<String> {
        if self.events.len() >= MOST {
            return None;
        }
        let key = how.pick(self.keys.len() + 1);
        let key = (key < self.keys.len()).then_some(key as u8);
        let bad = match how.pick(16) {
            14 => Bad::Row,
            15 => Bad::Refused,
            _ => Bad::No,
        };
        let event = self.events.len();
        self.events.push(Event { key, bad, nth: None, committed: false });
        let at = how.pick(self.open.len() + 1);
        if at == self.open.len() {
            self.open.push(Vec::new());
        }
        self.open[at].push(Item::Row(event));
        self.disk.wal += 8;
        Some(format!("event {event} of key {key:?} is inserted, {bad:?}"))
    }

    /// One of the open transactions ends.
    pub fn end(&mut self, how: &mut How, now: u64) -> Option<String> {
        if self.open.is_empty() {
            return None;
        }
        let rolls_back = how.once_in(8);
        let items = self.open.remove(how.pick(self.open.len()));
        if rolls_back {
            self.disk.wal += 4;
            if self.streams_open {
                self.append(items.clone(), now, false);
            }
            return Some(format!("{items:?} are rolled back"));
        }
        // Much else is written now and then.
        if how.once_in(40) {
            self.disk.wal += 1 << 30;
        }
        Some(self.append(items, now, true))
    }

    /// Every open transaction commits.
    pub fn end_all(&mut self, now: u64) {
        for items in std::mem::take(&mut self.open) {
            self.append(items, now, true);
        }
    }

    /// A transaction that decides about an entry, or reminds of that.
    pub fn decide(&mut self, id: EntryId, now: u64) -> String {
        self.append(vec![Item::Decision(id)], now, true)
    }

    fn append(&mut self, items: Vec<Item>, now: u64, commits: bool) -> String {
        let commit_lsn = Lsn(self.disk.wal);
        self.disk.wal += 4;
        let end = Lsn(self.disk.wal);
        self.xid += 1;
        let transaction = Transaction { commit_lsn, xid: self.xid, commit_time: now as i64 };
        if commits {
            self.count(&items);
        }
        let said =
            format!("{} at {commit_lsn} to {end}: {items:?}", if commits { "commit" } else { "abort" });
        self.disk.log.push(Committed { transaction, end, items });
        said
    }

    fn count(&mut self, items: &[Item]) {
        for item in items {
            let Item::Row(event) = *item else { continue };
            let what = &mut self.events[event];
            what.committed = true;
            what.nth = Some(0);
            if let Some(key) = what.key {
                let events = &mut self.keys[usize::from(key)];
                what.nth = Some(events.len());
                events.push(event);
            }
        }
    }

    /// Something that is no event is written.
    pub fn write_elsewhere(&mut self, how: &mut How) {
        self.disk.wal += if how.once_in(30) { 1 << 30 } else { 16 };
    }

    /// What is confirmed is written to disk.
    pub fn checkpoint(&mut self) {
        self.disk.confirmed = self.confirmed;
    }

    /// A standby, or whoever copies disks, has come as far.
    pub fn copy(&mut self) {
        self.checkpoint();
        self.copy = Some(self.disk.clone());
    }

    /// The server starts again. `crash`: what the slot says goes back to what is on disk.
    pub fn restart(&mut self, crash: bool) {
        if crash {
            self.confirmed = self.disk.confirmed;
        } else {
            self.checkpoint();
        }
        self.open.clear();
        self.streams.values_mut().for_each(|stream| stream.open = false);
        self.active = None;
        self.sessions.clear();
        self.lane = None;
        self.silent.clear();
    }

    /// The copy takes the server's place: as a new timeline, or as if time had gone back.
    pub fn go_back(&mut self, new_timeline: bool) -> bool {
        let Some(copy) = self.copy.take() else { return false };
        let before = self.disk.timeline;
        self.disk = copy;
        if new_timeline {
            self.failed_over = true;
            self.disk.branches.push((before, Lsn(self.disk.wal)));
            self.disk.timeline = before + 1;
        } else {
            self.restored = true;
        }
        self.restart(true);
        self.events.iter_mut().for_each(|event| event.nth = None);
        self.keys.iter_mut().for_each(Vec::clear);
        for committed in self.disk.log.clone() {
            self.count(&committed.items);
        }
        true
    }

    /// What a session sees of the server.
    pub fn facts(&self) -> (SlotFacts, ServerFacts) {
        let slot = SlotFacts {
            confirmed_flush: self.confirmed,
            restart_lsn: Some(self.confirmed),
            wal_status: Some("reserved".to_owned()),
            invalidation_reason: None,
            plugin: PLUGIN.to_owned(),
            database: "d".to_owned(),
            temporary: false,
        };
        let server = ServerFacts {
            system_id: "7".to_owned(),
            timeline: self.disk.timeline,
            history: self.disk.branches.clone(),
            wal_end: self.wal(),
            database: "d".to_owned(),
        };
        (slot, server)
    }

    /// A connection for statements.
    pub fn connect(&mut self) -> u64 {
        self.connections += 1;
        self.sessions.push(self.connections);
        self.connections
    }

    /// Whether it stands.
    pub fn is_connected(&self, sql: u64) -> bool {
        self.sessions.contains(&sql)
    }

    /// Whether the lane is this connection's now.
    pub fn try_own(&mut self, sql: u64) -> bool {
        let free = self.lane.is_none_or(|owner| owner == sql);
        if free {
            self.lane = Some(sql);
        }
        free
    }

    /// Whether the lane is this connection's.
    pub fn owns(&self, sql: u64) -> bool {
        self.lane == Some(sql)
    }

    /// Begins to stream, unless another does.
    pub fn stream(&mut self) -> Option<u64> {
        if self.active.is_some() {
            return None;
        }
        self.connections += 1;
        let at = self.disk.log.partition_point(|committed| committed.transaction.commit_lsn < self.confirmed);
        let (wire, feedback) = (VecDeque::new(), VecDeque::new());
        self.streams.insert(self.connections, Stream { at, within: None, wire, feedback, open: true });
        self.active = Some(self.connections);
        self.active
    }

    /// Whether the slot is streamed by this connection.
    pub fn is_streamed_by(&self, stream: u64) -> bool {
        self.active == Some(stream)
    }

    /// The walsender's next message.
    pub fn send(&mut self, how: &mut How) -> bool {
        let Some(stream) = self.active.and_then(|active| self.streams.get_mut(&active)) else { return false };
        if stream.wire.len() >= WIRE {
            return false;
        }
        let Some(committed) = self.disk.log.get(stream.at) else {
            let wal = Lsn(self.disk.wal);
            let said = stream.wire.iter().any(|sent| matches!(sent, Message::Keepalive(_)));
            if said {
                return false;
            }
            stream.wire.push_back(Message::Keepalive(wal));
            return true;
        };
        let message = match stream.within {
            None => {
                stream.within = Some(0);
                Message::Begin(committed.transaction)
            }
            Some(_) if how.once_in(12) => Message::Keepalive(committed.end),
            Some(item) => match committed.items.get(item) {
                Some(part) => {
                    stream.within = Some(item + 1);
                    Message::Item(*part)
                }
                None => {
                    stream.within = None;
                    stream.at += 1;
                    Message::Commit(committed.end, committed.transaction.commit_time)
                }
            },
        };
        stream.wire.push_back(message);
        true
    }

    /// Whether the stream that is read has brought every transaction.
    pub fn is_all_sent(&self) -> bool {
        let stream = self.active.and_then(|active| self.streams.get(&active));
        stream.is_some_and(|stream| stream.at >= self.disk.log.len())
    }

    /// What comes next from a stream.
    pub fn receive(&mut self, stream: u64) -> Received {
        let Some(stream) = self.streams.get_mut(&stream) else { return Received::Ended };
        match stream.wire.pop_front() {
            Some(message) => Received::Message(message),
            None if stream.open => Received::Nothing,
            None => Received::Ended,
        }
    }

    /// Feedback leaves the relay.
    pub fn feed_back(&mut self, stream: u64, flushed: Lsn) {
        if let Some(stream) = self.streams.get_mut(&stream).filter(|stream| stream.open) {
            stream.feedback.push_back(flushed);
        }
    }

    /// Feedback arrives; answers what is confirmed by it.
    pub fn hear(&mut self) -> Option<Lsn> {
        let stream = self.streams.get_mut(&self.active?)?;
        let flushed = stream.feedback.pop_front()?;
        self.confirmed = self.confirmed.max(flushed);
        Some(flushed)
    }

    /// A connection ends.
    pub fn close(&mut self, sql: Option<u64>, stream: Option<u64>) {
        if let Some(sql) = sql {
            self.sessions.retain(|open| *open != sql);
            self.lane = self.lane.filter(|owner| *owner != sql);
        }
        if let Some(stream) = stream {
            self.active = self.active.filter(|active| *active != stream);
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.open = false;
            }
        }
    }

    /// The relay's end of a stream is gone.
    pub fn forget(&mut self, stream: u64) {
        self.streams.retain(|number, open| *number != stream || open.open);
    }

    /// Whoever was at the other end says nothing any more, or speaks again.
    pub fn silent(&mut self, sql: Option<u64>, stream: Option<u64>, since: Option<u64>) {
        self.silent.retain(|(is_sql, number, _)| Some(*number) != if *is_sql { sql } else { stream });
        if let Some(since) = since {
            self.silent.extend(sql.map(|sql| (true, sql, since)));
            self.silent.extend(stream.map(|stream| (false, stream, since)));
        }
    }

    /// Gives a connection up that was silent for too long.
    pub fn expire(&mut self, now: u64, how: &mut How) -> bool {
        let due: Vec<usize> =
            (0..self.silent.len()).filter(|at| self.silent[*at].2 + SILENT <= now).collect();
        let Some(at) = due.get(how.pick(due.len())).copied() else { return false };
        let (is_sql, number, _) = self.silent.remove(at);
        if is_sql {
            self.close(Some(number), None)
        } else {
            self.close(None, Some(number))
        }
        true
    }

    /// Entries that a person may decide about.
    pub fn undecided(&self) -> Vec<EntryId> {
        let may = |kept: &Kept| matches!(kept.now, Now::Held | Now::Passed);
        self.disk.table.0.iter().filter(|(_, kept)| may(kept)).map(|(id, _)| *id).collect()
    }
}
