//! The router's thread: walks frames, turns inserts into records and hands them over, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::command::{Command, Do, Republish};
use super::course::{Astray, Begun, Course};
use super::emitted::{self, Emitted};
use super::outlet::{Outlet, RouteError};
use super::{ColumnInfo, Plan, RelationShape, RowPosition, Scratch, Value, binary};
use crate::config::{Larger, Settings};
use crate::ledger::Transaction;
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::pgoutput::{self, Column, CopyMessage, Message, PgTime};
use crate::publisher::{Gate, Reach};
use crate::quarantine::entry::parse_position;
use crate::reader::{Chunks, Frame, Next};
use crate::session::compare::MustMeet;
use crate::session::{End, Ending};
use crate::state::Recorder;

/// How long the router waits for a chunk or for room before it looks whether the session is over.
const LOOK: Duration = Duration::from_millis(50);

/// How long the end of a Kafka transaction is waited for before it is looked at again.
const CUT: Duration = Duration::from_millis(1);

/// How long a halt waits for what is in flight; a broker that is away must not hide the reason for longer.
const SETTLE: Duration = Duration::from_secs(10);

/// What the router of one session works with.
pub struct RouterParts {
    /// Where rows come from, what records are like, and the relay's name.
    pub settings: Arc<Settings>,
    /// The lane's number, by which messages in the stream call it.
    pub lane: u32,
    /// The table's OID: under whatever name its rows come, they are the outbox's.
    pub outbox_oid: Option<u32>,
    /// Epoch of the stream.
    pub epoch: u64,
    /// Transactions that committed below are published already.
    pub position: Lsn,
    /// What has to be met before skipping is believed.
    pub must_meet: Option<MustMeet>,
    /// No LSN above it may be sent before a higher one is recorded.
    pub ceiling: Lsn,
    /// Where records leave the router.
    pub outlet: Outlet,
    /// Where Kafka transactions are cut, with exactly one delivery.
    pub gate: Option<Arc<Gate>>,
    /// Records ceilings.
    pub recorder: Arc<Recorder>,
    /// What is seen from outside.
    pub observed: Arc<Observed>,
    /// The session's end.
    pub ending: Arc<Ending>,
    /// Set when the router shall finish the transaction it is in, and end.
    pub draining: Arc<AtomicBool>,
}

/// Starts the router's thread. It ends with the session, or after a drain; it ends the session when a
/// frame cannot be routed.
///
/// # Errors
/// The system has no thread to give.
pub fn spawn(parts: RouterParts, chunks: Chunks) -> std::io::Result<JoinHandle<()>> {
    let span = tracing::Span::current();
    thread::Builder::new().name("router".into()).spawn(move || {
        let _whose = span.enter();
        let ending = parts.ending.clone();
        let course = Course::new(parts.epoch, parts.position, parts.must_meet);
        let messages = match plan_of_messages(&parts.settings) {
            Ok(messages) => messages,
            Err(error) => {
                ending.end(error.end());
                return;
            }
        };
        let mut router = Router {
            parts,
            messages,
            misplaced: false,
            relations: HashMap::new(),
            domains: HashMap::new(),
            scratch: Scratch::default(),
            course,
            split: None,
        };
        if let Err(error) = router.run(&chunks) {
            ending.end(router.end_of(&error));
        }
    })
}

enum Relation {
    Outbox(Box<Plan>),
    Foreign,
}

/// How messages become records, where events come as messages.
fn plan_of_messages(settings: &Settings) -> Result<Option<Messages>, RouteError> {
    let Some(prefix) = settings.outbox.message_prefix.clone() else { return Ok(None) };
    let plan = Box::new(Plan::compile(&emitted::shape(), &settings.outbox, &settings.kafka)?);
    Ok(Some(Messages { prefix, plan }))
}

/// Events that come as messages.
struct Messages {
    prefix: String,
    plan: Box<Plan>,
}

struct Router {
    parts: RouterParts,
    /// `None` where events are rows of a table.
    messages: Option<Messages>,
    /// A message that has no place in the order of commits was said in this session.
    misplaced: bool,
    relations: HashMap<u32, Relation>,
    /// Built-in types under the OIDs of the domains that are made from them.
    domains: HashMap<u32, u32>,
    scratch: Scratch,
    course: Course,
    /// The transaction of which it was said that it is published in parts.
    split: Option<Lsn>,
}

impl Router {
    fn run(&mut self, chunks: &Chunks) -> Result<(), RouteError> {
        while !self.parts.ending.is_over() {
            let draining = self.parts.draining.load(SeqCst);
            if draining && self.course.is_between() {
                return Ok(());
            }
            match chunks.next(LOOK) {
                Next::Chunk(chunk) => {
                    for frame in chunk.frames() {
                        if self.leaves_off() {
                            return Ok(());
                        }
                        self.frame(&frame)?;
                    }
                }
                Next::Empty => {}
                // The reader hands out no more: what is missing of an open transaction comes again.
                Next::Ended => return Ok(()),
            }
        }
        Ok(())
    }

    /// The end of a session that ran into this. What came before it is published first, and seen: with exactly one
    /// delivery by a next session that ends its Kafka transaction before the one at fault.
    fn end_of(&self, error: &RouteError) -> End {
        let end = error.end();
        match &self.parts.gate {
            Some(gate) if gate.is_inside() => {
                if !(error.stays() && gate.holds_others_back()) {
                    return end;
                }
                let refusals = self.parts.outlet.refusals();
                refusals.cut_before(refusals.handed().commit_lsn);
                End::Again(format!("{}; what came before it is committed first", end.sentence()))
            }
            Some(_) | None => {
                self.settle();
                end
            }
        }
    }

    /// Before a halt: what came before the frame that cannot be routed is published and recorded, so that no
    /// start begins with it again, and a slow broker does not keep it from ever arriving.
    fn settle(&self) {
        let deadline = Instant::now() + SETTLE;
        let RouterParts { outlet, recorder, ending, .. } = &self.parts;
        let target = outlet.ledger.newest_end();
        while !ending.is_over() && Instant::now() < deadline {
            if outlet.window.records() == 0 {
                if recorder.recorded_up_to(target) {
                    return;
                }
                recorder.flush();
            }
            ending.pause(LOOK);
        }
    }

    /// Between two frames: whether to stop here. A drain stops at the end of a transaction.
    fn leaves_off(&self) -> bool {
        self.parts.ending.is_over() || self.course.is_between() && self.parts.draining.load(SeqCst)
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), RouteError> {
        let cut = frame.is_cut();
        match CopyMessage::parse(frame.payload)? {
            CopyMessage::Keepalive { wal_end, .. } => self.keepalive(wal_end),
            CopyMessage::XLogData { body, .. } if cut => self.oversize(frame, body),
            CopyMessage::XLogData { body, send_time, .. } => self.message(Message::parse(body)?, send_time),
        }
    }

    /// Too large a change is somebody's concern only where it would have to be published.
    fn oversize(&mut self, frame: &Frame<'_>, kept: &[u8]) -> Result<(), RouteError> {
        let limit = self.parts.settings.source.max_row_bytes;
        let Router { parts, messages, relations, course, .. } = self;
        if let (Some(messages), Some((prefix, content))) = (messages.as_ref(), pgoutput::cut_message(kept))
            && prefix == messages.prefix
        {
            let Some(at) = place_of_row(parts, course)? else { return Ok(()) };
            let beginning = Emitted::read_beginning(content);
            return parts.outlet.put_cut_aside(
                &messages.plan,
                &beginning.cut_row(),
                &at,
                frame.full_len,
                limit,
            );
        }
        // The kind, the relation's id and the first columns stand in what was kept (R37).
        let cut = pgoutput::cut_insert(kept);
        let relation =
            cut.as_ref().and_then(|(relation_id, columns)| Some((relations.get(relation_id)?, columns)));
        let Some((Relation::Outbox(plan), columns)) = relation else {
            parts.observed.foreign_changes.add(1);
            return Ok(());
        };
        let Some(at) = place_of_row(parts, course)? else { return Ok(()) };
        let row: Vec<Value<'_>> = columns.iter().copied().map(value).collect();
        parts.outlet.put_cut_aside(plan, &row, &at, frame.full_len, limit)
    }

    fn message(&mut self, message: Message<'_>, sent: PgTime) -> Result<(), RouteError> {
        match message {
            Message::Insert { relation_id, tuple } => self.insert(relation_id, tuple),
            Message::Begin { final_lsn, commit_time, xid } => {
                // Both times are the server's.
                let lag = u64::try_from(sent.micros_since(commit_time)).unwrap_or(0);
                self.begin(final_lsn, commit_time, xid, Duration::from_micros(lag))
            }
            Message::Commit { end_lsn, commit_time, .. } => self.commit(end_lsn, commit_time),
            Message::Relation(relation) => self.relation(&relation),
            Message::Update { .. } | Message::Delete { .. } | Message::Truncate { .. } => {
                self.parts.observed.foreign_changes.add(1);
                Ok(())
            }
            Message::Logical(message) => match &self.messages {
                Some(messages) if message.prefix == messages.prefix => self.emitted(&message),
                Some(_) | None => self.told(&message),
            },
            Message::Type { id, namespace, name } => {
                // A domain comes with the name of its base type; an empty schema is `pg_catalog`.
                if let Some(base) = binary::built_in(name).filter(|_| namespace.is_empty()) {
                    self.domains.insert(id, base);
                }
                Ok(())
            }
            Message::Origin { .. } => Ok(()),
        }
    }

    /// An event that came as a message. One that is not transactional has no place in the order of commits, and is there
    /// even where its transaction rolled back: it is no event.
    fn emitted(&mut self, message: &pgoutput::LogicalMessage<'_>) -> Result<(), RouteError> {
        let Router { parts, messages, misplaced, scratch, course, split, .. } = self;
        let Some(messages) = messages else { return Ok(()) };
        if !message.transactional {
            parts.observed.refused_messages.add(1);
            if !std::mem::replace(misplaced, true) {
                tracing::warn!(
                    lsn = %message.lsn,
                    "a message with the prefix `{}` is not transactional and is passed over, as all such are: it would be \
                     there also if its transaction rolled back. Services emit events with outbox.emit()",
                    messages.prefix
                );
            }
            return Ok(());
        }
        let Some(at) = place_of_row(parts, course)? else { return Ok(()) };
        keep_small(parts, split)?;
        match Emitted::read(message.content) {
            Ok(event) => parts.outlet.publish(&messages.plan, &event.row(), &at, scratch),
            Err(fault) => parts.outlet.put_message_aside(message.content, &at, fault),
        }
    }

    /// A message in a transaction may be a decision, which takes effect here in the order of events. Below the
    /// position it has taken effect.
    fn told(&mut self, message: &pgoutput::LogicalMessage<'_>) -> Result<(), RouteError> {
        let RouterParts { settings, lane, .. } = &self.parts;
        let told = Command::read(message.prefix, message.content, &settings.name, *lane);
        let told = told.filter(|_| message.transactional);
        let (Some(told), Some((transaction, rows))) = (told, self.course.publishing()) else {
            return Ok(());
        };
        match told {
            Do::Release { position } | Do::Discard { position } => {
                let Some(id) = parse_position(&position) else { return Ok(()) };
                self.parts.outlet.carry_out(id, transaction.xid, &mut self.scratch)?;
                if self.parts.gate.is_some() {
                    self.parts.recorder.carry(self.parts.outlet.carried());
                }
                Ok(())
            }
            Do::Republish(events) => self.republish(&events),
            // What stands before it in its own transaction would come again on other partitions.
            Do::Switch { topic, .. } if rows > 0 => {
                let why = format!(
                    "topic {topic} was to be switched within a transaction that has events before it"
                );
                self.parts.outlet.topics.refuse_switch(&why);
                Ok(())
            }
            Do::Switch { topic, partitions } => {
                // With exactly one delivery nothing of it comes again, and the pin is committed with what relies on it.
                if self.parts.gate.is_none() {
                    self.come_to_rest();
                }
                Ok(self.parts.outlet.topics.switch(&topic, partitions)?)
            }
        }
    }

    /// Publishes rows again that a person asked for, at this place in the stream. What cannot be read of such an order is
    /// said and passed over: its events are published, or will be from the stream.
    fn republish(&mut self, events: &Republish) -> Result<(), RouteError> {
        let Router { parts, messages, scratch, course, .. } = self;
        let RouterParts { settings, outlet, observed, .. } = parts;
        let (outbox, kafka) = (&settings.outbox, &settings.kafka);
        let refuse = |why: &str| {
            tracing::error!(
                rows = events.rows.len(),
                "an order to publish rows again was not followed: {why}"
            );
            observed.error(format!("an order to publish rows again was not followed: {why}"));
        };
        if !outbox.backfill {
            refuse("outbox.backfill is false, and anybody may have written it");
            return Ok(());
        }
        if messages.is_some() {
            refuse("with outbox.from = \"messages\" there is no table");
            return Ok(());
        }
        let plan = match Plan::compile(&events.shape(&outbox.schema, &outbox.table), outbox, kafka) {
            Ok(plan) => plan,
            Err(error) => {
                refuse(&error.to_string());
                return Ok(());
            }
        };
        for row in &events.rows {
            let row: Vec<Value<'_>> = row
                .iter()
                .map(|value| value.as_deref().map_or(Value::Null, |text| Value::Text(text.as_bytes())))
                .collect();
            let Some(at) = course.row()? else { return Ok(()) };
            outlet.publish(&plan, &row, &at, scratch)?;
        }
        Ok(())
    }

    /// Waits until everything before this transaction is published and recorded: what comes again after a
    /// crash must not come on other partitions (R19).
    fn come_to_rest(&self) {
        let RouterParts { outlet, recorder, ending, .. } = &self.parts;
        let target = outlet.ledger.newest_end();
        while !(ending.is_over() || outlet.window.records() == 0 && recorder.recorded_up_to(target)) {
            recorder.flush();
            ending.pause(LOOK);
        }
    }

    /// In band: what is outstanding stays before it (R5, R7).
    fn keepalive(&mut self, wal_end: Lsn) -> Result<(), RouteError> {
        let enters = self.course.keepalive(wal_end)?;
        self.heed_belief();
        if enters {
            // A full ledger will confirm what comes before; the next keepalive is not far.
            let _full = self.parts.outlet.ledger.keepalive(wal_end);
        }
        Ok(())
    }

    fn begin(
        &mut self,
        commit_lsn: Lsn,
        commit_time: PgTime,
        xid: u32,
        lag: Duration,
    ) -> Result<(), RouteError> {
        let transaction = Transaction { commit_lsn, xid, commit_time: commit_time.0 };
        let begun = self.course.begin(transaction, self.parts.outlet.ledger.newest_end())?;
        self.heed_belief();
        if begun == Begun::Skipped {
            return Ok(());
        }
        self.go_in(commit_lsn)?;
        if commit_lsn > self.parts.ceiling {
            self.parts.ceiling = self.parts.recorder.raise_ceiling(commit_lsn, &self.parts.ending);
        }
        self.parts.outlet.reach(Reach::whole(commit_lsn))?;
        self.parts.outlet.keep_pace(lag)?;
        while !self.parts.ending.is_over() {
            if self.parts.outlet.ledger.open(transaction).is_ok() {
                break;
            }
            self.parts.ending.pause(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Goes into the gate for the transaction that commits here. Where what it holds has to be seen first, or is behind
    /// all that was refused, the Kafka transaction is cut before it.
    fn go_in(&self, commit_lsn: Lsn) -> Result<(), RouteError> {
        let RouterParts { gate, outlet, ending, .. } = &self.parts;
        let Some(gate) = gate else { return Ok(()) };
        let refusals = outlet.refusals();
        if refusals.takes_cut(commit_lsn) {
            self.cut(gate);
        }
        if outlet.is_past_refusals(commit_lsn) {
            self.cut(gate);
            refusals.passed();
            return Err(RouteError::Anew("past the refused records: sending in full flow again".into()));
        }
        // A Kafka transaction that may be on its way to its commit takes nothing any more.
        if gate.enter(ending) { Ok(()) } else { Err(over()) }
    }

    /// Waits until all that was sent is committed, outside of a transaction.
    fn cut(&self, gate: &Gate) {
        let RouterParts { recorder, ending, .. } = &self.parts;
        let ticket = gate.want();
        recorder.wake();
        while !gate.has_cut(ticket) && !ending.is_over() {
            ending.pause(CUT);
        }
    }

    /// Behind a transaction that is published: the gate is left, and what was decided in it is written down once it is
    /// committed.
    fn go_out(&mut self, end_lsn: Lsn) {
        let Some(gate) = self.parts.gate.clone() else { return };
        gate.leave(end_lsn);
        if !self.parts.outlet.has_carried() {
            return;
        }
        self.cut(&gate);
        if !self.parts.ending.is_over() && self.parts.outlet.write_down_carried() {
            self.parts.recorder.carry(Vec::new());
        }
    }

    fn commit(&mut self, end_lsn: Lsn, commit_time: PgTime) -> Result<(), RouteError> {
        let published = self.course.publishing().is_some();
        self.course.commit(end_lsn, commit_time)?;
        self.heed_belief();
        if published && self.parts.outlet.ledger.is_open() {
            self.parts.outlet.ledger.commit(end_lsn);
        }
        if published {
            self.go_out(end_lsn);
        }
        Ok(())
    }

    /// What is skipped is known to be what was published: its position may be confirmed.
    fn heed_belief(&mut self) {
        if self.course.takes_belief() {
            self.parts.recorder.believe();
        }
    }

    fn relation(&mut self, relation: &pgoutput::Relation<'_>) -> Result<(), RouteError> {
        let shape = RelationShape {
            schema: relation.namespace.to_owned(),
            table: relation.name.to_owned(),
            columns: relation
                .columns()
                .map(|column| ColumnInfo {
                    name: column.name.to_owned(),
                    type_oid: self.domains.get(&column.type_oid).copied().unwrap_or(column.type_oid),
                })
                .collect(),
        };
        let outbox = &self.parts.settings.outbox;
        let ours = shape.schema == outbox.schema && shape.table == outbox.table;
        // Where events are messages no table is the outbox.
        let known = if self.messages.is_none() && (ours || Some(relation.id) == self.parts.outbox_oid) {
            // A change of the table comes with a new Relation message: the plan is made anew (R16).
            Relation::Outbox(Box::new(Plan::compile(&shape, outbox, &self.parts.settings.kafka)?))
        } else {
            Relation::Foreign
        };
        self.relations.insert(relation.id, known);
        Ok(())
    }

    fn insert(&mut self, relation_id: u32, tuple: pgoutput::Tuple<'_>) -> Result<(), RouteError> {
        let Router { parts, relations, scratch, course, split, .. } = self;
        let plan = match relations.get(&relation_id) {
            None => return Err(RouteError::OutOfPlace("Insert before its Relation")),
            Some(Relation::Foreign) => {
                parts.observed.foreign_changes.add(1);
                return Ok(());
            }
            Some(Relation::Outbox(plan)) => plan,
        };
        let Some(at) = place_of_row(parts, course)? else { return Ok(()) };
        keep_small(parts, split)?;
        let row: smallvec::SmallVec<[Value<'_>; 16]> = tuple.iter().map(value).collect();
        parts.outlet.publish(plan, &row, &at, scratch)
    }
}

/// Before a row: whether its transaction is larger than one Kafka transaction shall be.
fn keep_small(parts: &RouterParts, split: &mut Option<Lsn>) -> Result<(), RouteError> {
    let RouterParts { gate, settings, recorder, observed, ending, outlet, .. } = parts;
    let Some(gate) = gate else { return Ok(()) };
    let max = settings.delivery.max_transaction_records;
    if gate.records_inside() < max {
        return Ok(());
    }
    let commit_lsn = outlet.refusals().handed().commit_lsn;
    match settings.delivery.larger {
        Larger::Halt => Err(RouteError::TooMany { commit_lsn, max }),
        Larger::Split => {
            if *split != Some(commit_lsn) {
                *split = Some(commit_lsn);
                observed.split_transactions.add(1);
                tracing::warn!(
                    %commit_lsn, max,
                    "a transaction has more records than delivery.max_transaction_records: it is published in several \
                     Kafka transactions, at least once, and may be seen in parts"
                );
            }
            recorder.wake();
            if gate.cut_within(ending) { Ok(()) } else { Err(over()) }
        }
    }
}

/// Nobody hears it: the session has ended before.
fn over() -> RouteError {
    RouteError::Producer("the session is over".into())
}

/// Where the next row of the outbox stands; `None` where it is published already.
fn place_of_row(parts: &RouterParts, course: &mut Course) -> Result<Option<RowPosition>, RouteError> {
    let at = course.row()?;
    if at.is_none() {
        parts.observed.skipped_rows.add(1);
    }
    Ok(at)
}

impl From<Astray> for RouteError {
    fn from(astray: Astray) -> RouteError {
        match astray {
            Astray::OutOfPlace(what) => RouteError::OutOfPlace(what),
            Astray::OtherHistory(reason) => RouteError::OtherHistory(reason),
        }
    }
}

fn value<'a>(column: Column<'a>) -> Value<'a> {
    match column {
        Column::Null => Value::Null,
        Column::Unchanged => Value::Unchanged,
        Column::Text(text) => Value::Text(text),
        Column::Binary(value) => Value::Binary(value),
    }
}
