//! The cores of one session as the crate `simulation/` drives them: the same code behind a public face, and mistakes
//! that it can be told to make. Only there where the feature `simulation` is switched on; no release has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::types::RDKafkaErrorCode;
use uuid::Uuid;

use crate::config::{Existing, RecoverySettings, StateSettings};
use crate::ledger::{self, Confirmed, Head, Settler, Transaction, Writer};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::pgoutput::PgTime;
use crate::publisher::delivery::Delivery;
use crate::publisher::{Charge, Firsts, Flow, Reach, Refusal, Refusals, Window};
use crate::quarantine::Holds;
use crate::quarantine::model::Table;
use crate::quarantine::recall::{self, must_be_there};
use crate::quarantine::table::Recalled;
use crate::reader::Positions;
use crate::reader::feedback::FeedbackClock;
use crate::router::RowPosition;
use crate::router::course::{Astray, Begun, Course};
use crate::session::compare::{Decision, MustMeet, ServerFacts, SlotFacts, Wishes, compare};
use crate::session::{End, claimed};
use crate::state::draft::{Draft, Next};
use crate::state::{ListedEntry, StateRecord};

/// Makes an enum and the list of its members, so that none is missing there.
macro_rules! listed {
    ($(#[$about:meta])* $name:ident { $($(#[$says:meta])* $member:ident,)* }) => {
        $(#[$about])*
        pub enum $name {
            $($(#[$says])* $member,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$member,)*];
        }
    };
}

listed! {
    /// A mistake that a session makes on purpose, so that the simulation can show that it would be seen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Mutant {
        /// What is handed over is confirmed, whether it is acknowledged or not (R1).
        ConfirmBeforeAck,
        /// The highest settled transaction is confirmed, not the end of the contiguous ones (R2).
        HighestConfirmed,
        /// A transaction that begins at the position counts as published (R4).
        SkippedAtPosition,
        /// The WAL end of a keepalive is confirmed past what is in flight (R5).
        KeepalivePastInFlight,
        /// The WAL end of a keepalive within a transaction is confirmed (R5).
        KeepaliveInTransaction,
        /// Feedback carries what the ledger has confirmed, not what is recorded (R33).
        FeedbackBeyondRecord,
        /// What is skipped is believed unseen (R42).
        SkippedUnseen,
        /// After a failover the record is carried on as it was (R43).
        TimelineIgnored,
        /// Nobody waits for the ceiling that was asked for (R43).
        CeilingNotAwaited,
        /// Nobody waits for the pin of a topic (R40).
        PinNotAwaited,
        /// More goes to a partition before the producer's first record there is acknowledged (R17).
        FirstNotAwaited,
        /// What is in flight has no bound.
        WindowIgnored,
        /// An event passes although an earlier one of its key is held (R20).
        FollowerPasses,
        /// All holds begin with the session, not where their rows are met.
        HeldFromStart,
    }
}

/// What a session was stopped by, for good; in words.
#[derive(Debug)]
pub struct Halt(pub String);

impl From<Astray> for Halt {
    fn from(astray: Astray) -> Halt {
        Halt(match astray {
            Astray::OutOfPlace(what) => format!("{what} came where the protocol does not allow it"),
            Astray::OtherHistory(reason) => reason.to_string(),
        })
    }
}

/// What a stream begins with.
#[derive(Debug)]
pub struct Start {
    /// The record that is written first.
    pub record: StateRecord,
    must_meet: Option<MustMeet>,
}

/// Compares what is remembered with slot and server, as `session/own.rs` does.
///
/// # Errors
/// They do not agree.
pub fn start(
    record: Option<StateRecord>,
    slot: &SlotFacts,
    server: &ServerFacts,
    writer: Uuid,
    mutant: Option<Mutant>,
) -> Result<Start, Halt> {
    let fresh = |position| StateRecord::first("r", 0, &server.system_id, server.timeline, position);
    let record = match (mutant, record) {
        (Some(Mutant::TimelineIgnored), Some(record)) => {
            Some(StateRecord { timeline: server.timeline, ..record })
        }
        (_, record) => record,
    };
    let recovery = RecoverySettings::halting();
    let wishes = Wishes {
        existing: Existing::Refuse,
        table_has_rows: false,
        recovery: &recovery,
        now: Timestamp::UNIX_EPOCH,
        found: None,
    };
    let start = match compare(record.as_ref(), Some(slot), server, &wishes) {
        Decision::Begin { position } => Start { record: fresh(position), must_meet: None },
        Decision::Continue { position, must_meet } => {
            Start { record: record.unwrap_or_else(|| fresh(position)), must_meet }
        }
        Decision::NewTimeline { record, must_meet, .. } => Start { record: *record, must_meet },
        Decision::Halt(reason) => return Err(Halt(reason.to_string())),
        Decision::MakeSlot | Decision::Fill { .. } => return Err(Halt("there is no slot".to_owned())),
    };
    let must_meet = start.must_meet.filter(|_| mutant != Some(Mutant::SkippedUnseen));
    Ok(Start { record: claimed(start.record, writer), must_meet })
}

/// Brings the record's list in line with the table, as `quarantine/recall.rs` does; answers the holds that stand.
///
/// # Errors
/// An entry is gone that the record lists.
pub fn recalled(
    start: &mut Start,
    table: &Table,
    found: &[Recalled],
    log_end: Lsn,
    mutant: Option<Mutant>,
) -> Result<Holds, Halt> {
    let record = &mut start.record;
    if let Some((id, _)) = must_be_there(record).iter().find(|(id, _)| !table.0.contains_key(id)) {
        return Err(Halt(format!("the entry {id:?} is gone")));
    }
    if let Some(sentence) = recall::uncertain(record, log_end) {
        return Err(Halt(sentence));
    }
    recall::list(record, found, log_end);
    let mut holds = recall::holds(record, found);
    if mutant == Some(Mutant::HeldFromStart) {
        for (held_by, key) in
            found.iter().filter(|entry| !entry.behind).filter_map(|entry| entry.queue.as_ref())
        {
            holds.hold(held_by, key);
        }
    }
    Ok(holds)
}

/// Whether the record that was found shows that another relay has written since. `seen`: writer and sequence of the newest
/// that this one has read or written.
pub fn is_anothers(found: &StateRecord, ours: &StateRecord, seen: Option<(Uuid, u64)>) -> bool {
    crate::state::is_anothers(found, ours, seen)
}

/// Bounds and intervals of a session.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Records in flight.
    pub records: usize,
    /// Transactions in the ledger.
    pub transactions: usize,
    /// The recorder's intervals.
    pub state: StateSettings,
    /// Time between two pieces of feedback.
    pub feedback_every: Duration,
}

/// Where a row goes that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(usize);

/// What the ledger counted a row as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted(usize);

/// A state record that is to be written.
#[derive(Debug)]
pub struct Writing(Next);

impl Writing {
    /// The record.
    pub fn record(&self) -> &StateRecord {
        &self.0.record
    }
}

/// For mutants: a transaction in the ledger.
#[derive(Debug, Default)]
struct Outstanding {
    rows: u64,
    settled: u64,
    end: Option<Lsn>,
}

/// The cores of one session.
pub struct Session {
    mutant: Option<Mutant>,
    position: Lsn,
    course: Course,
    writer: Writer,
    settler: Settler,
    head: Head,
    confirmed: Confirmed,
    window: Arc<Window>,
    refusals: Arc<Refusals>,
    flow: Flow,
    observed: Arc<Observed>,
    delivery: Delivery,
    firsts: Firsts,
    /// Held keys and settled rows.
    pub holds: Holds,
    draft: Draft,
    ceiling: Lsn,
    state: StateSettings,
    wrote: Option<u64>,
    positions: Positions,
    clock: FeedbackClock,
    zero: Instant,
    /// The partitions that were found of the topic.
    found: Option<u32>,
    /// For mutants: a transaction that is taken for published, and those that are out, by opaque.
    skips: bool,
    beyond: Lsn,
    outstanding: BTreeMap<usize, Outstanding>,
}

impl Session {
    /// A session that begins to stream.
    pub fn new(
        start: Start,
        holds: Holds,
        refusals: Arc<Refusals>,
        bounds: &Bounds,
        mutant: Option<Mutant>,
    ) -> Session {
        let Start { mut record, must_meet } = start;
        let position = record.position;
        let (writer, settler, head) = ledger::ledger(bounds.transactions, position);
        let records = if mutant == Some(Mutant::WindowIgnored) { 1 << 20 } else { bounds.records };
        let window = Arc::new(Window::new(records, 1 << 30));
        let flow = refusals.flow(&mut record);
        let observed = Arc::new(Observed::new());
        let delivery = Delivery::new(settler.clone(), window.clone(), observed.clone(), flow);
        let believed = must_meet.is_none_or(|must_meet| must_meet.is_met());
        Session {
            mutant,
            position,
            course: Course::new(record.epoch, position, must_meet),
            writer,
            settler,
            head,
            confirmed: Confirmed { end_lsn: position, last_published: None, transactions: 0, outstanding: 0 },
            window,
            refusals,
            flow,
            observed,
            delivery,
            firsts: Firsts::default(),
            holds,
            draft: Draft::new(record, believed),
            ceiling: Lsn::ZERO,
            state: bounds.state.clone(),
            wrote: None,
            positions: Positions::default(),
            clock: FeedbackClock::new(bounds.feedback_every),
            zero: Instant::now(),
            found: None,
            skips: false,
            beyond: Lsn::ZERO,
            outstanding: BTreeMap::new(),
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether the first record is acknowledged, before which nothing is read.
    pub fn has_begun(&self) -> bool {
        self.draft.acknowledged().is_some()
    }

    /// The router reads a Begin.
    ///
    /// # Errors
    /// The stream is not the one that was published from.
    pub fn begin(&mut self, transaction: Transaction) -> Result<Begun, Halt> {
        if self.is(Mutant::SkippedAtPosition) && transaction.commit_lsn == self.position {
            self.skips = true;
            return Ok(Begun::Skipped);
        }
        let begun = self.course.begin(transaction, self.writer.newest_end())?;
        self.heed_belief();
        Ok(begun)
    }

    fn heed_belief(&mut self) {
        if self.course.takes_belief() {
            self.draft.believe();
        }
    }

    /// Whether a transaction that commits here is below a recorded ceiling; if not, one is asked for.
    pub fn is_below_ceiling(&mut self, lsn: Lsn) -> bool {
        if lsn <= self.ceiling {
            return true;
        }
        let recorded = self.draft.acknowledged().map_or(Lsn::ZERO, |record| record.ceiling);
        self.ceiling = recorded;
        if lsn > recorded {
            self.draft.raise_ceiling(lsn);
        }
        lsn <= recorded || self.is(Mutant::CeilingNotAwaited)
    }

    /// Records up to here are handed over from now on. Whether a producer in full flow takes over.
    pub fn reach(&mut self, commit_lsn: Lsn) -> bool {
        let reach = Reach::whole(commit_lsn);
        if self.all_taken() == Some(true) {
            self.firsts.all_taken();
        }
        self.refusals.hand(reach);
        let switches = self.flow == Flow::OneAtATime && self.refusals.has_passed(reach);
        if switches {
            self.refusals.passed();
            self.flow = Flow::Full;
            self.firsts.forget();
            let (settler, window) = (self.settler.clone(), self.window.clone());
            self.delivery = Delivery::new(settler, window, self.observed.clone(), self.flow);
        }
        switches
    }

    /// Whether records are sent one at a time.
    pub fn sends_alone(&self) -> bool {
        self.flow == Flow::OneAtATime
    }

    /// Opens the transaction in the ledger, if it has room.
    pub fn open(&mut self, transaction: Transaction) -> bool {
        self.writer.open(transaction).is_ok()
    }

    /// Where the next row stands; `None` where it is published.
    ///
    /// # Errors
    /// It stands nowhere.
    pub fn row(&mut self) -> Result<Option<RowPosition>, Halt> {
        if self.skips {
            return Ok(None);
        }
        Ok(self.course.row()?)
    }

    /// The transaction that is being published.
    pub fn publishing(&self) -> Option<Transaction> {
        self.course.publishing().map(|(transaction, _)| transaction)
    }

    /// Whether the row is settled by an entry.
    pub fn meets(&mut self, at: &RowPosition, event_id: &str) -> bool {
        let met = self.holds.meet(at, || Some(event_id.to_owned()));
        if met {
            let counted = self.count();
            self.settle(counted);
        }
        met
    }

    /// Whether an earlier event of the key is held.
    pub fn is_behind(&self, topic: &str, key: &[u8]) -> bool {
        self.holds.holds(topic, key) && !self.is(Mutant::FollowerPasses)
    }

    /// The partitions that a topic is pinned to, of which so many were found; `None` while that is not recorded.
    pub fn pinned(&mut self, topic: &str, found: u32) -> Option<u32> {
        let pinned = self.draft.acknowledged().and_then(|record| record.partitions.get(topic).copied());
        // What was found is asked for once.
        let found = *self.found.get_or_insert(found);
        if pinned.is_none() {
            self.draft.pin(topic, found);
        }
        pinned.or(self.is(Mutant::PinNotAwaited).then_some(found))
    }

    /// Whether a record may go to its partition; asked until it may, and then it goes.
    pub fn may_go(&mut self, topic: &str, partition: i32) -> bool {
        if self.sends_alone() || self.is(Mutant::FirstNotAwaited) {
            return true;
        }
        if self.firsts.may_go(topic, partition, self.zero) {
            return true;
        }
        if self.all_taken() != Some(true) {
            return false;
        }
        self.firsts.all_taken();
        self.firsts.may_go(topic, partition, self.zero)
    }

    /// Takes room for a record, if there is any.
    pub fn takes_room(&self, bytes: usize) -> bool {
        self.window.take(Charge::of(bytes))
    }

    /// Counts a row of the open transaction.
    pub fn count(&mut self) -> Counted {
        let opaque = self.writer.row();
        self.outstanding.entry(opaque).or_default().rows += 1;
        Counted(opaque)
    }

    /// What a counted record carries to the producer.
    pub fn word(&self, counted: Counted, bytes: usize) -> Word {
        Word(Charge::of(bytes).beside(counted.0))
    }

    /// A counted row is durable elsewhere.
    pub fn settle(&mut self, counted: Counted) {
        self.settler.settle(counted.0);
        self.outstanding.entry(counted.0).or_default().settled += 1;
    }

    /// The router reads a Commit.
    ///
    /// # Errors
    /// The stream is not the one that was published from.
    pub fn commit(&mut self, end_lsn: Lsn, commit_time: i64) -> Result<(), Halt> {
        if std::mem::take(&mut self.skips) {
            return Ok(());
        }
        let published = self.course.publishing().is_some();
        self.course.commit(end_lsn, PgTime(commit_time))?;
        self.heed_belief();
        if published && self.writer.is_open() {
            let opaque = self.writer.row();
            self.writer.unsent(opaque);
            self.outstanding.entry(opaque).or_default().end = Some(end_lsn);
            self.writer.commit(end_lsn);
        }
        Ok(())
    }

    /// The router reads a keepalive.
    ///
    /// # Errors
    /// The stream is not the one that was published from.
    pub fn keepalive(&mut self, wal_end: Lsn) -> Result<(), Halt> {
        let within = !self.course.is_between();
        if self.is(Mutant::KeepaliveInTransaction) && within
            || self.is(Mutant::KeepalivePastInFlight) && !within
        {
            self.beyond = self.beyond.max(wal_end);
        }
        let enters = self.course.keepalive(wal_end)?;
        self.heed_belief();
        if enters {
            let _full = self.writer.keepalive(wal_end);
        }
        Ok(())
    }

    /// Whether what was handed over is all reported; `None` where some of it will never be.
    pub fn all_taken(&self) -> Option<bool> {
        let taken = self.window.records() == 0;
        (!taken || !self.delivery.has_failed()).then_some(taken)
    }

    /// Records in flight.
    pub fn in_flight(&self) -> u64 {
        self.window.records()
    }

    /// Transactions that wait in the ledger.
    pub fn outstanding(&self) -> u64 {
        self.confirmed.outstanding
    }

    /// The broker has a record.
    pub fn taken(&mut self, word: Word, bytes: usize) {
        self.delivery.taken(word.0, bytes);
        let (opaque, _) = Charge::apart(word.0);
        self.outstanding.entry(opaque).or_default().settled += 1;
    }

    /// The broker, or the dead producer (`echo`), has it not.
    pub fn not_taken(&mut self, word: Word, echo: bool) {
        let refusal = || Refusal {
            topic: "t".to_owned(),
            partition: 0,
            code: RDKafkaErrorCode::InvalidRecord,
            message: "refused".to_owned(),
            bytes: 0,
        };
        self.delivery.not_taken(word.0, (!echo).then(refusal));
    }

    /// The poller's round: the ledger's head moves; answers the end of the session, where it ends by what was reported.
    pub fn polled(&mut self) -> Option<End> {
        self.delivery.settle_up();
        self.confirmed = self.head.advance();
        self.confirmed.end_lsn = self.confirmed.end_lsn.max(self.beyond);
        if self.is(Mutant::ConfirmBeforeAck) {
            self.confirmed.end_lsn = self.writer.newest_end();
        }
        if self.is(Mutant::HighestConfirmed) {
            let settled = self.outstanding.values().filter(|out| out.rows == out.settled);
            let highest = settled.filter_map(|out| out.end).max();
            self.confirmed.end_lsn = self.confirmed.end_lsn.max(highest.unwrap_or_default());
        }
        let refused = self.delivery.refused(self.flow, &self.refusals, 1 << 20);
        refused.or_else(|| self.delivery.dropped(self.flow))
    }

    /// Whether the record that was sent alone was refused; asked once it is reported.
    pub fn was_refused(&self) -> bool {
        self.delivery.take_refusal().is_some()
    }

    /// The record that has to be written now, if any.
    pub fn due(&mut self, now: u64) -> Option<Writing> {
        let waited = Duration::from_millis(self.wrote.map_or(0, |wrote| now - wrote));
        let next = self.draft.due(&self.confirmed, waited, &self.state, Timestamp::UNIX_EPOCH);
        if next.is_none() {
            self.let_feedback_follow();
        }
        next.map(Writing)
    }

    /// Kafka has it.
    pub fn acknowledged(&mut self, writing: Writing, now: u64) {
        self.wrote = Some(now);
        self.draft.acknowledge(writing.0);
        self.let_feedback_follow();
    }

    fn let_feedback_follow(&self) {
        if let Some(position) = self.draft.feedback() {
            self.positions.record(position);
        }
    }

    /// Asks that what is confirmed be recorded now.
    pub fn flush(&mut self) {
        self.draft.flush();
    }

    /// Asks that entries be listed; answers a ticket.
    pub fn list(&mut self, entries: Vec<ListedEntry>) -> u64 {
        self.draft.list(entries)
    }

    /// Entries that are listed.
    pub fn listed(&self) -> u64 {
        self.draft.listed()
    }

    /// What the reader sends now as flushed, if anything.
    pub fn feedback(&mut self, now: u64, asked: bool) -> Option<Lsn> {
        if asked {
            self.clock.server_asks();
        }
        let recorded = match self.mutant {
            Some(Mutant::FeedbackBeyondRecord) => self.confirmed.end_lsn,
            _ => self.positions.recorded(),
        };
        self.clock.due(self.zero + Duration::from_millis(now), recorded).map(|_| recorded)
    }

    /// What is recorded and believed, and so may be confirmed.
    pub fn recorded(&self) -> Lsn {
        self.positions.recorded()
    }
}
