//! The router, in the order of `router/thread.rs`, `outlet.rs`, `aside.rs` and `release.rs`. Where the router's thread waits,
//! this one does nothing until what it waits for is there.

use outbox_relay::ledger::Transaction;
use outbox_relay::quarantine::carry::{Carry, Step};
use outbox_relay::quarantine::desk::{Answer, Decided, EntryId, Outcome, Question, Stuck};
use outbox_relay::quarantine::model::event_id;
use outbox_relay::quarantine::{Cause, Entry, NotTaken, Standing, State};
use outbox_relay::router::course::Begun;
use outbox_relay::router::{Place, RowPosition};
use outbox_relay::session::End;
use outbox_relay::simulation::{Counted, Halt};

use super::keeper::Aside;
use super::running::Running;
use super::{BYTES, TOPIC};
use crate::relay::Mutant;
use crate::relay::around::Around;
use crate::relay::broker::Record;
use crate::relay::source::{Bad, EventId, Item, Message};

/// Entries that are open at most.
const MOST: u64 = 100_000;

/// A row on its way.
#[derive(Debug, Clone, Copy)]
struct Row {
    event: EventId,
    at: RowPosition,
    counted: Option<Counted>,
    /// Nothing that it has to wait for is on its way to its partition.
    may_go: bool,
    /// It comes from the quarantine.
    released: bool,
}

/// What the router waits for.
#[derive(Debug, Default)]
enum Doing {
    #[default]
    Next,
    Ceiling(Transaction),
    Open(Transaction),
    Send(Row),
    /// The answer to a record that was sent alone.
    Alone(Row),
    Aside(Row, Cause),
    /// An answer of the keeper.
    Asked,
    Carry,
    WriteDown(Outcome),
}

/// The router.
#[derive(Debug, Default)]
pub(super) struct Router {
    doing: Doing,
    carry: Option<Carry>,
    written: Option<Outcome>,
}

fn halts(halt: Halt) -> End {
    End::Halt(halt.0)
}

fn id_of(at: &RowPosition) -> EntryId {
    (at.epoch, at.commit_lsn, at.ordinal)
}

impl Router {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Next)
    }

    pub(super) fn step(&mut self, running: &mut Running, around: &mut Around) -> Result<bool, End> {
        match std::mem::take(&mut self.doing) {
            Doing::Next => match running.next() {
                None => Ok(false),
                Some(message) => self.message(running, around, message).map(|()| true),
            },
            Doing::Ceiling(transaction) => Ok(self.ceiling(running, around, transaction)),
            Doing::Open(transaction) => {
                let opened = running.session.open(transaction);
                if !opened {
                    self.doing = Doing::Open(transaction);
                }
                Ok(opened)
            }
            Doing::Send(row) => Ok(self.send(running, around, row)),
            Doing::Alone(row) => Ok(self.alone(running, row)),
            Doing::Aside(row, cause) => self.aside(running, around, row, cause),
            Doing::Asked => Ok(self.answered(running, around)),
            Doing::Carry => Ok(self.carry(running, around)),
            Doing::WriteDown(outcome) => Ok(self.write_down(running, around, outcome)),
        }
    }

    fn message(&mut self, running: &mut Running, around: &Around, message: Message) -> Result<(), End> {
        let session = &mut running.session;
        match message {
            Message::Begin(transaction) => {
                if session.begin(transaction).map_err(halts)? == Begun::New {
                    self.doing = Doing::Ceiling(transaction);
                }
            }
            Message::Commit(end, time) => session.commit(end, time).map_err(halts)?,
            Message::Keepalive(wal_end) => session.keepalive(wal_end).map_err(halts)?,
            Message::Item(Item::Row(event)) => {
                let Some(at) = session.row().map_err(halts)? else { return Ok(()) };
                self.row(running, around, event, at);
            }
            Message::Item(Item::Decision(id)) => {
                if let Some(Transaction { xid, .. }) = session.publishing() {
                    running.keeper().ask(Question::Decision { id, xid });
                    self.doing = Doing::Asked;
                }
            }
        }
        Ok(())
    }

    fn ceiling(&mut self, running: &mut Running, around: &mut Around, transaction: Transaction) -> bool {
        if !running.session.is_below_ceiling(transaction.commit_lsn) {
            self.doing = Doing::Ceiling(transaction);
            return false;
        }
        if running.session.reach(transaction.commit_lsn) {
            around.broker.retire(running.producer, false);
            running.producer = around.broker.produce(running.number, running.links, false);
        }
        self.doing = Doing::Open(transaction);
        true
    }

    /// As `Outlet::publish`.
    fn row(&mut self, running: &mut Running, around: &Around, event: EventId, at: RowPosition) {
        let session = &mut running.session;
        if session.meets(&at, &event_id(event)) {
            return;
        }
        let what = &around.source.events[event];
        let row = Row { event, at, counted: None, may_go: false, released: false };
        let behind = what.key.is_some_and(|key| session.is_behind(TOPIC, &[key]));
        self.doing = match what.bad {
            Bad::Row => Doing::Aside(row, Cause::Header),
            Bad::No | Bad::Refused if behind => Doing::Aside(row, Cause::Behind),
            Bad::No | Bad::Refused => Doing::Send(row),
        };
    }

    /// As `Outlet::send`.
    fn send(&mut self, running: &mut Running, around: &mut Around, mut row: Row) -> bool {
        let session = &mut running.session;
        let room = session.pinned(TOPIC, around.broker.partitions);
        let Some(partitions) = room else {
            self.doing = Doing::Send(row);
            return false;
        };
        let number = around.source.events[row.event].key.map_or(row.event, usize::from);
        let partition = number % partitions as usize;
        row.may_go = row.may_go || session.may_go(TOPIC, partition as i32);
        if !row.may_go || !session.takes_room(BYTES) {
            self.doing = Doing::Send(row);
            return false;
        }
        let counted = *row.counted.get_or_insert_with(|| session.count());
        let record =
            Record { event: row.event, at: id_of(&row.at), partition, word: session.word(counted, BYTES) };
        // A dead producer takes nothing, and the poller ends the session.
        if let Some(producer) = around.broker.producers.get_mut(&running.producer)
            && !producer.is_dead()
        {
            producer.hand_over(record);
        }
        if session.sends_alone() {
            self.doing = Doing::Alone(row);
        } else {
            self.is_out(row);
        }
        true
    }

    fn is_out(&mut self, row: Row) {
        if row.released {
            self.carry.iter_mut().for_each(Carry::out);
            self.doing = Doing::Carry;
        }
    }

    fn alone(&mut self, running: &mut Running, row: Row) -> bool {
        if running.session.in_flight() > 0 {
            self.doing = Doing::Alone(row);
            return false;
        }
        match (running.session.was_refused(), row.counted) {
            (false, _) => self.is_out(row),
            // Its row in the ledger is settled: the entry stands in the table.
            (true, Some(counted)) if row.released => {
                running.session.settle(counted);
                self.is_stuck(id_of(&row.at), Cause::Refused);
            }
            (true, _) => self.doing = Doing::Aside(row, Cause::Refused),
        }
        true
    }

    fn is_stuck(&mut self, id: EntryId, cause: Cause) {
        let stuck = Stuck { id, cause, reason: "still".to_owned() };
        self.carry.iter_mut().for_each(|carry| carry.stuck(stuck.clone()));
        self.doing = Doing::Carry;
    }

    /// As `Outlet::keep`.
    fn aside(
        &mut self,
        running: &mut Running,
        around: &mut Around,
        row: Row,
        cause: Cause,
    ) -> Result<bool, End> {
        let key = around.source.events[row.event].key.map(|key| vec![key]);
        let place = Place {
            event_id: Some(event_id(row.event)),
            topic: Some(TOPIC.to_owned()),
            key: key.clone(),
            whole: true,
            ..Place::default()
        };
        let (queue, key) = (place.queue(), key.unwrap_or_default());
        let (policy, session) = (around.settings.policy, &mut running.session);
        let begins = session.holds.begins(queue.as_deref(), &key, policy);
        if begins && session.all_taken() != Some(true) && !around.is(Mutant::HeldBeforeTaken) {
            self.doing = Doing::Aside(row, cause);
            return Ok(false);
        }
        let standing = session.holds.take_in(queue, &key, cause, policy, MOST);
        let Standing { state, cause, held_by } = match standing {
            Ok(standing) => standing,
            Err(NotTaken::Policy | NotTaken::Full) => {
                return Err(End::Halt("no more is put aside".to_owned()));
            }
        };
        if state == State::Passed {
            around.judge.passes(row.event);
        }
        let counted = row.counted.unwrap_or_else(|| session.count());
        let reason = "bad".to_owned();
        let entry = Entry { at: row.at, place, held_by, state, cause, reason, row: None, bytes: 0 };
        around.tell(|| format!("event {} is put aside: {state:?}, {cause:?}", row.event));
        if around.is(Mutant::SettledUncommitted) {
            session.settle(counted);
        }
        running.keeper().enter(Aside { entry, event: row.event, counted });
        Ok(true)
    }

    fn answered(&mut self, running: &mut Running, around: &mut Around) -> bool {
        let Some(answer) = running.keeper().answer() else {
            self.doing = Doing::Asked;
            return false;
        };
        match answer {
            Answer::Decision(None) => {}
            Answer::Decision(Some(decided)) => self.begin_to_carry(running, around, &decided),
            Answer::Behind(page) => {
                self.carry.iter_mut().for_each(|carry| carry.page(page.clone()));
                self.doing = Doing::Carry;
            }
            Answer::Settled(settled) => {
                if let Some(outcome) = self.written.take() {
                    running.session.holds.written_down(&outcome, settled);
                }
                self.carry = None;
            }
        }
        true
    }

    fn begin_to_carry(&mut self, running: &mut Running, around: &Around, decided: &Decided) {
        let mut decided = decided.clone();
        if around.is(Mutant::FollowersLeft)
            && let Some((held_by, key)) = decided.queue.take()
        {
            running.session.holds.lift(&held_by, &key);
        }
        self.carry = Some(Carry::new(&decided));
        self.doing = Doing::Carry;
    }

    /// As `Outlet::carry_out`.
    fn carry(&mut self, running: &mut Running, around: &mut Around) -> bool {
        let Some(carry) = &self.carry else { return true };
        match carry.step() {
            Step::Publish(entry) => {
                let (id, commit_unix_millis) = (entry.id, entry.commit_unix_millis);
                let (epoch, commit_lsn, ordinal) = id;
                let at = RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis };
                let event = around.source.table().0.get(&id).map(|kept| kept.event);
                let Some(event) = event else { return false };
                if around.source.events[event].bad == Bad::Row {
                    self.is_stuck(id, Cause::Header);
                } else {
                    self.doing = Doing::Send(Row { event, at, counted: None, may_go: false, released: true });
                }
            }
            Step::Behind(queue, after) => {
                running.keeper().ask(Question::Behind { queue: queue.clone(), after });
                self.doing = Doing::Asked;
            }
            Step::Done(outcome) => self.doing = Doing::WriteDown(outcome.clone()),
        }
        true
    }

    fn write_down(&mut self, running: &mut Running, around: &mut Around, outcome: Outcome) -> bool {
        if running.session.all_taken() != Some(true) && !around.is(Mutant::WrittenBeforeTaken) {
            self.doing = Doing::WriteDown(outcome);
            return false;
        }
        around.tell(|| format!("carried out: {outcome:?}"));
        self.written = Some(outcome.clone());
        running.keeper().ask(Question::Outcome(outcome));
        self.doing = Doing::Asked;
        true
    }
}
