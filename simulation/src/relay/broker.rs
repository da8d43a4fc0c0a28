//! Kafka: the producers with what they have queued and on its way, the topic, and the place of the state record.

use std::collections::{BTreeMap, VecDeque};

use outbox_relay::quarantine::desk::EntryId;
use outbox_relay::simulation::Word;
use outbox_relay::state::StateRecord;

use super::source::EventId;
use crate::schedule::How;

/// Requests of one partition that are on their way.
const FLYING: usize = 5;

/// A record.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// What it is of.
    pub event: EventId,
    /// Its position.
    pub at: EntryId,
    /// The partition that it goes to.
    pub partition: usize,
    /// What comes back with its report.
    pub word: Word,
}

#[derive(Debug)]
struct Batch {
    records: Vec<Record>,
    appended: bool,
}

/// What a producer reports of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The broker has it.
    Taken,
    /// The broker will not have it.
    Refused,
    /// It was dropped behind that one.
    Echo,
}

/// One producer.
#[derive(Debug)]
pub struct Producer {
    /// The session that it is of.
    pub session: u64,
    /// Its connections to the server: SQL and stream.
    pub of: (u64, u64),
    /// Its session is over.
    pub orphan: bool,
    alone: bool,
    queued: Vec<VecDeque<Record>>,
    flying: Vec<VecDeque<Batch>>,
    dead: bool,
    /// Partitions at which the broker knows it: it has taken something of it there.
    known: [bool; MOST_PARTITIONS],
    reports: VecDeque<(Record, Report)>,
}

impl Producer {
    /// Whether it takes no more.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The next report.
    pub fn report(&mut self) -> Option<(Record, Report)> {
        self.reports.pop_front()
    }

    /// A record is handed over.
    pub fn hand_over(&mut self, record: Record) {
        self.queued[record.partition].push_back(record);
    }
}

/// What the broker does with a request.
#[derive(Debug)]
pub enum Came {
    /// Nothing.
    Nothing,
    /// Something else.
    Else,
    /// It appended these, of this producer; or, where their sender is gone, of this session.
    Appended(Vec<Record>, u64, bool),
}

/// What becomes of a transaction with a state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is committed.
    Committed,
    /// Its producer is dead.
    Dead,
}

/// The state record's place.
#[derive(Debug, Default)]
pub struct State {
    epoch: u64,
    open: VecDeque<(u64, StateRecord)>,
    answers: BTreeMap<u64, Answer>,
    /// The newest record that is committed.
    pub newest: Option<StateRecord>,
    /// Any producer may write.
    pub unfenced: bool,
}

impl State {
    /// A new producer fences the others. What they had open is aborted, unless it was as good as committed.
    pub fn fence(&mut self, how: &mut How) -> (u64, Option<StateRecord>) {
        let prepared = how.once_in(3);
        let open = if self.unfenced { None } else { self.open.pop_front() };
        let committed = open.filter(|_| prepared).and_then(|(epoch, record)| self.commit(epoch, record));
        self.epoch += 1;
        (self.epoch, committed)
    }

    /// A record is written.
    pub fn write(&mut self, epoch: u64, record: StateRecord) {
        if epoch == self.epoch || self.unfenced {
            self.open.push_back((epoch, record));
        } else {
            self.answers.insert(epoch, Answer::Dead);
        }
    }

    /// What became of it.
    pub fn answer(&mut self, epoch: u64) -> Option<Answer> {
        if epoch != self.epoch && !self.unfenced {
            self.answers.remove(&epoch);
            return Some(Answer::Dead);
        }
        self.answers.remove(&epoch)
    }

    /// Whether something is open.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The broker commits what is open, or gives it up for having taken too long.
    pub fn settle(&mut self, aborts: bool) -> Option<StateRecord> {
        let (epoch, record) = self.open.pop_front()?;
        if aborts {
            self.answers.insert(epoch, Answer::Dead);
            return None;
        }
        self.commit(epoch, record)
    }

    fn commit(&mut self, epoch: u64, record: StateRecord) -> Option<StateRecord> {
        // As it is read: from its text.
        let record = record.encode().and_then(|text| StateRecord::decode(&text)).ok()?;
        self.answers.insert(epoch, Answer::Committed);
        self.newest = Some(record.clone());
        Some(record)
    }
}

/// The cluster.
#[derive(Debug)]
pub struct Broker {
    /// Partitions of the topic.
    pub partitions: u32,
    /// Producers by number.
    pub producers: BTreeMap<u64, Producer>,
    made: u64,
    /// Requests whose senders are gone, of each producer and partition.
    late: Vec<(u64, bool, VecDeque<Batch>)>,
    away: Vec<u64>,
    /// The state record's place.
    pub state: State,
}

/// Partitions that the topic ever has.
pub const MOST_PARTITIONS: usize = 4;

impl Broker {
    /// A cluster with an empty topic.
    pub fn new(partitions: u32, unfenced: bool) -> Broker {
        let state = State { unfenced, ..State::default() };
        let (late, away) = (Vec::new(), vec![0; MOST_PARTITIONS]);
        Broker { partitions, producers: BTreeMap::new(), made: 0, late, away, state }
    }

    /// A producer is made.
    pub fn produce(&mut self, session: u64, of: (u64, u64), alone: bool) -> u64 {
        self.made += 1;
        let producer = Producer {
            session,
            of,
            orphan: false,
            alone,
            queued: (0..MOST_PARTITIONS).map(|_| VecDeque::new()).collect(),
            flying: (0..MOST_PARTITIONS).map(|_| VecDeque::new()).collect(),
            dead: false,
            known: [false; MOST_PARTITIONS],
            reports: VecDeque::new(),
        };
        self.producers.insert(self.made, producer);
        self.made
    }

    /// A producer goes; its requests may still arrive. `outlives`: and what it has queued.
    pub fn retire(&mut self, number: u64, outlives: bool) {
        if outlives {
            if let Some(producer) = self.producers.get_mut(&number) {
                producer.orphan = true;
            }
            return;
        }
        let Some(mut producer) = self.producers.remove(&number) else { return };
        self.requests_stay(&mut producer);
    }

    fn requests_stay(&mut self, producer: &mut Producer) {
        for (at, flying) in producer.flying.iter_mut().enumerate() {
            let sent: VecDeque<Batch> = flying.drain(..).filter(|batch| !batch.appended).collect();
            if !sent.is_empty() {
                self.late.push((producer.session, producer.known[at], sent));
            }
        }
    }

    /// A partition has no leader until then.
    pub fn goes_away(&mut self, partition: usize, until: u64) {
        self.away[partition] = until;
    }

    /// All partitions have leaders.
    pub fn comes_back(&mut self) {
        self.away.fill(0);
    }

    /// Whether nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        let empty = |producer: &Producer| {
            producer.queued.iter().all(VecDeque::is_empty)
                && producer.flying.iter().all(VecDeque::is_empty)
                && producer.reports.is_empty()
        };
        self.late.is_empty() && self.producers.values().all(|producer| producer.orphan || empty(producer))
    }

    /// A request whose sender is gone arrives, or none of them will. Behind one that is refused the broker takes nothing
    /// of the same producer and partition, as where the sender lives (`Producer::refuse`).
    pub fn late(&mut self, how: &mut How, refuses: impl Fn(EventId) -> bool) -> Came {
        let picked = how.pick(self.late.len());
        if self.late.is_empty() {
            return Came::Nothing;
        }
        let (session, known, requests) = &mut self.late[picked];
        let session = *session;
        let lost = how.once_in(3);
        let refused = |batch: &Batch| batch.records.iter().any(|record| refuses(record.event));
        let first = if lost { None } else { requests.pop_front() };
        let passed = first.as_ref().is_some_and(&refused) && !*known;
        let came = first.filter(|batch| !refused(batch));
        *known |= came.is_some();
        let bad = came.is_none() && !passed || requests.is_empty();
        if bad {
            self.late.swap_remove(picked);
        }
        came.map_or(Came::Else, |batch| Came::Appended(batch.records, session, true))
    }

    /// A step of one producer at one of its partitions.
    pub fn step(
        &mut self,
        now: u64,
        how: &mut How,
        refuses: impl Fn(EventId) -> bool,
        overtake: bool,
        gaps: bool,
    ) -> Came {
        let busy: Vec<(u64, usize)> = self
            .producers
            .iter()
            .flat_map(|(number, producer)| {
                let busy = |at: &usize| !producer.queued[*at].is_empty() || !producer.flying[*at].is_empty();
                (0..MOST_PARTITIONS).filter(busy).map(|at| (*number, at))
            })
            .collect();
        let Some((number, at)) = busy.get(how.pick(busy.len())).copied() else { return Came::Nothing };
        let away = self.away[at] > now;
        let Some(producer) = self.producers.get_mut(&number) else { return Came::Nothing };
        match how.pick(3) {
            0 if producer.acknowledge(at) => Came::Else,
            1 if producer.send(at, how) => Came::Else,
            _ if away => Came::Nothing,
            _ => match producer.arrive(at, how, overtake, &refuses) {
                Some(Ok(records)) => Came::Appended(records, number, false),
                Some(Err(())) => {
                    let mut dead = producer.refuse(at, gaps);
                    if let Some(dead) = &mut dead {
                        self.requests_stay(dead);
                    }
                    Came::Else
                }
                None if producer.send(at, how) || producer.acknowledge(at) => Came::Else,
                None => Came::Nothing,
            },
        }
    }
}

impl Producer {
    fn send(&mut self, at: usize, how: &mut How) -> bool {
        if self.dead || self.queued[at].is_empty() || self.flying[at].len() >= FLYING {
            return false;
        }
        let many = if self.alone { 1 } else { 1 + how.pick(4) };
        let many = many.min(self.queued[at].len());
        let records = self.queued[at].drain(..many).collect();
        self.flying[at].push_back(Batch { records, appended: false });
        true
    }

    fn acknowledge(&mut self, at: usize) -> bool {
        let done = self.flying[at].pop_front_if(|batch| batch.appended);
        let Some(batch) = done else { return false };
        self.reports.extend(batch.records.into_iter().map(|record| (record, Report::Taken)));
        true
    }

    /// The next request arrives: what it brings, or that it is refused.
    fn arrive(
        &mut self,
        at: usize,
        how: &mut How,
        overtake: bool,
        refuses: impl Fn(EventId) -> bool,
    ) -> Option<Result<Vec<Record>, ()>> {
        let mut waiting = self.flying[at].iter_mut().filter(|batch| !batch.appended);
        let skip = if overtake { how.pick(3) } else { 0 };
        let batch = waiting.nth(skip)?;
        if batch.records.iter().any(|record| refuses(record.event)) {
            return Some(Err(()));
        }
        batch.appended = true;
        self.known[at] = true;
        Some(Ok(batch.records.clone()))
    }

    /// The first request is refused. Gapless: nothing behind it goes out any more; what is on its way to other partitions
    /// may arrive. With `gaps` only that request is dropped.
    fn refuse(&mut self, at: usize, gaps: bool) -> Option<Producer> {
        let first = self.flying[at].iter().position(|batch| !batch.appended)?;
        let refused = self.flying[at].remove(first)?;
        self.reports.extend(refused.records.into_iter().map(|record| (record, Report::Refused)));
        if gaps || self.alone {
            return None;
        }
        self.dead = true;
        // Behind it in its own partition the broker takes nothing: a sequence is missing. Of a producer that it does not
        // know there it takes any first sequence (`ProducerAppendInfo.checkSequence`).
        let here = &mut self.flying[at];
        let from = if self.known[at] { first.min(here.len()) } else { here.len() };
        let behind = here.split_off(from);
        let mut dropped: Vec<Record> = behind.into_iter().flat_map(|batch| batch.records).collect();
        let mut stays = Producer {
            session: self.session,
            of: self.of,
            orphan: true,
            alone: false,
            queued: Vec::new(),
            flying: Vec::new(),
            dead: true,
            known: self.known,
            reports: VecDeque::new(),
        };
        for flying in &mut self.flying {
            let first = flying.iter().position(|batch| !batch.appended).unwrap_or(flying.len());
            let sent = flying.split_off(first);
            dropped.extend(sent.iter().flat_map(|batch| batch.records.iter().copied()));
            stays.flying.push(sent);
        }
        dropped.extend(self.queued.iter_mut().flat_map(|queued| queued.drain(..)));
        self.reports.extend(dropped.into_iter().map(|record| (record, Report::Echo)));
        Some(stays)
    }
}
