//! One session over the world: the steps of router, keeper and recorder with the real holds, the real order of a
//! decision and the real ledger between them.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::world::{Event, Item, TOPIC, World, text};
use crate::ledger::{Head, Settler, Transaction, Writer, ledger};
use crate::lsn::Lsn;
use crate::quarantine::carry::{Went, carry_out};
use crate::quarantine::desk::{EntryId, Stuck};
use crate::quarantine::model::{event_id, queue_of};
use crate::quarantine::{Cause, Entry, Holds, Standing, State};
use crate::router::{Place, RowPosition};
use crate::state::ListedEntry;

/// The session has ended; what it was about to do is not done.
#[derive(Debug)]
pub(super) struct Over;

/// A row put aside, as it goes from router to keeper.
struct Aside {
    entry: Entry,
    event: usize,
    opaque: usize,
}

/// How far the keeper is with the entries that it has taken.
enum Keeping {
    Nothing,
    /// They are committed, and the log had come so far then.
    Committed(Vec<Aside>, Lsn),
    /// The next record lists them.
    Listing(Vec<Aside>),
    /// An acknowledged record lists them.
    Listed(Vec<Aside>),
}

pub(super) struct Session {
    holds: Holds,
    writer: Writer,
    settler: Settler,
    head: Head,
    /// The position that the session began with, and where it reads: transaction, item and row in it.
    begun: Lsn,
    at: (usize, usize, u64),
    /// What the producer has, by key in order, and what the ledger counted it as.
    in_flight: BTreeMap<Option<u8>, VecDeque<(usize, usize)>>,
    desk: VecDeque<Aside>,
    keeping: Keeping,
    to_list: Vec<ListedEntry>,
    sent: HashSet<usize>,
    /// How many more steps of decisions the keeper lives, if it shall not outlive the session.
    keeper_lives: Option<u8>,
}

impl Session {
    pub(super) fn new(world: &World, holds: Holds) -> Session {
        let begun = world.record.position;
        let (writer, settler, head) = ledger(1 << 10, begun);
        let from = world.log.partition_point(|committed| committed.commit < begun);
        Session {
            holds,
            writer,
            settler,
            head,
            begun,
            at: (from, 0, 0),
            in_flight: BTreeMap::new(),
            desk: VecDeque::new(),
            keeping: Keeping::Nothing,
            to_list: Vec::new(),
            sent: HashSet::new(),
            keeper_lives: None,
        }
    }

    /// The router takes the next thing from the stream.
    pub(super) fn read(&mut self, world: &mut World) -> Result<(), Over> {
        let (transaction, item, ordinal) = self.at;
        let Some(committed) = world.log.get(transaction) else {
            let _ = self.writer.keepalive(Lsn(world.wal));
            return Ok(());
        };
        if !self.writer.is_open() {
            let Ok(xid) = u32::try_from(transaction) else { return Err(Over) };
            let opened = Transaction { commit_lsn: committed.commit, xid, commit_time: 0 };
            return self.writer.open(opened).map_err(|_full| Over);
        }
        match committed.items.get(item).copied() {
            None => {
                self.writer.commit(committed.end);
                self.at = (transaction + 1, 0, 0);
            }
            Some(Item::Row(event)) => {
                let (epoch, commit_lsn) = (world.record.epoch, committed.commit);
                let at = RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: 0 };
                self.row(world, event, at)?;
                self.at = (transaction, item + 1, ordinal + 1);
            }
            Some(Item::Decision(id)) => {
                self.decision(world, id)?;
                self.at = (transaction, item + 1, ordinal);
            }
        }
        Ok(())
    }

    /// As `Outlet::publish`.
    fn row(&mut self, world: &mut World, event: usize, at: RowPosition) -> Result<(), Over> {
        if self.holds.meet(&at, || Some(event_id(event))) {
            let opaque = self.writer.row();
            self.settler.settle(opaque);
            return Ok(());
        }
        let Event { key, bad, refused } = world.events[event].clone();
        let (opaque, cause) = if key.is_some_and(|key| self.holds.holds(TOPIC, &[key])) && (!bad || refused) {
            (None, Cause::Behind)
        } else if bad && (!refused || event < world.alone) {
            (refused.then(|| self.writer.row()), if refused { Cause::Refused } else { Cause::Header })
        } else {
            self.send(world, event);
            return Ok(());
        };
        let place = Place {
            event_id: Some(event_id(event)),
            topic: Some(TOPIC.to_owned()),
            key: key.map(|key| vec![key]),
            whole: true,
            ..Place::default()
        };
        let key = place.key.clone().unwrap_or_default();
        if self.holds.begins(place.queue().as_deref(), &key, world.policy) {
            self.all_taken(world)?;
        }
        let standing = self.holds.take_in(place.queue(), &key, cause, world.policy, world.max);
        let Standing { state, cause, held_by } = standing.map_err(|_halt| Over)?;
        match state {
            State::Passed => world.passed.insert(event),
            State::Held | State::Queued => world.passed.remove(&event),
        };
        let opaque = opaque.unwrap_or_else(|| self.writer.row());
        let reason = "bad".to_owned();
        let entry = Entry { at, place, held_by, state, cause, reason, row: None, bytes: 0 };
        self.desk.push_back(Aside { entry, event, opaque });
        Ok(())
    }

    fn send(&mut self, world: &World, event: usize) {
        assert!(self.sent.insert(event), "{event} is sent twice in one session");
        let opaque = self.writer.row();
        self.in_flight.entry(world.events[event].key).or_default().push_back((event, opaque));
    }

    /// As `Outlet::carry_out`. The keeper may be gone at any question, which the router does not notice.
    fn decision(&mut self, world: &mut World, id: EntryId) -> Result<(), Over> {
        if !self.keeper_lives() {
            return Ok(());
        }
        self.keep_all(world);
        let Some(decided) = world.table.decision(id) else { return Ok(()) };
        let mut order = Vec::new();
        // Publishing and asking share the session; in the relay they share it by its parts.
        let session = std::cell::RefCell::new(&mut *self);
        let outcome = carry_out(
            &decided,
            |stored| {
                let event = world.table.event(stored.id);
                if !session.borrow_mut().keeper_lives() {
                    return Ok(Went::Over);
                }
                if world.events[event].bad {
                    let (cause, reason) = (Cause::Header, "still bad".to_owned());
                    return Ok(Went::Stuck(Stuck { id: stored.id, cause, reason }));
                }
                session.borrow_mut().send(world, event);
                order.push(stored.id);
                Ok::<_, Over>(Went::Out)
            },
            |queue, after| session.borrow_mut().keeper_lives().then(|| world.table.behind(queue, after)),
        )?;
        assert!(order.is_sorted_by(|a, b| a < b), "released out of order: {order:?}");
        assert!(order.iter().all(|sent| *sent >= id && (*sent != id || !decided.discard)));
        let Some(outcome) = outcome.filter(|_| self.keeper_lives()) else { return Ok(()) };
        self.all_taken(world)?;
        let settled = world.table.settle(&outcome);
        assert_eq!(settled, order.len() as u64 + u64::from(decided.discard));
        self.holds.written_down(&outcome, settled);
        Ok(())
    }

    /// The keeper goes after so many steps of decisions, as the session's loop does before the router hears of the
    /// end. None comes in its place.
    pub(super) fn lose_keeper(&mut self, after: u8) {
        self.keeper_lives = Some(self.keeper_lives.map_or(after, |steps| steps.min(after)));
    }

    fn keeper_lives(&mut self) -> bool {
        match &mut self.keeper_lives {
            None => true,
            Some(0) => false,
            Some(steps) => {
                *steps -= 1;
                *steps > 0
            }
        }
    }

    fn all_taken(&mut self, world: &mut World) -> Result<(), Over> {
        let keys: Vec<Option<u8>> = self.in_flight.keys().copied().collect();
        for key in keys {
            while self.in_flight.get(&key).is_some_and(|records| !records.is_empty()) {
                self.acknowledged(world, key)?;
            }
        }
        Ok(())
    }

    /// The broker acknowledges the oldest record of a key, or refuses it: then everything is sent again, alone as
    /// far as this session has come.
    pub(super) fn acknowledged(&mut self, world: &mut World, key: Option<u8>) -> Result<(), Over> {
        if let Some((event, opaque)) = self.in_flight.get_mut(&key).and_then(VecDeque::pop_front) {
            if world.events[event].bad {
                world.alone = self.sent.iter().max().map_or(0, |newest| newest + 1);
                self.in_flight.remove(&key);
                return Err(Over);
            }
            world.deliver(event);
            self.settler.settle(opaque);
        }
        Ok(())
    }

    /// One step of the keeper: committed, listed, settled, each of them possibly the last. Whether there was one.
    pub(super) fn keep(&mut self, world: &mut World, most: usize) -> bool {
        if self.keeper_lives == Some(0) {
            return false;
        }
        self.keeping = match std::mem::replace(&mut self.keeping, Keeping::Nothing) {
            Keeping::Nothing if self.desk.is_empty() => return false,
            Keeping::Nothing => {
                let taken: Vec<Aside> = self.desk.drain(..most.clamp(1, self.desk.len())).collect();
                let committed = Lsn(world.wal);
                for aside in &taken {
                    world.table.insert(&aside.entry, aside.event, committed);
                }
                Keeping::Committed(taken, world.write_elsewhere())
            }
            Keeping::Committed(taken, entry_lsn) => {
                let listed = |aside: &Aside| {
                    let Entry { at, place, .. } = &aside.entry;
                    let position = text((at.epoch, at.commit_lsn, at.ordinal));
                    ListedEntry::new(place.event_id.as_deref(), position, entry_lsn)
                };
                self.to_list.extend(taken.iter().map(listed));
                Keeping::Listing(taken)
            }
            // It waits for the recorder.
            Keeping::Listing(taken) => {
                self.keeping = Keeping::Listing(taken);
                return false;
            }
            Keeping::Listed(taken) => {
                for aside in taken {
                    self.settler.settle(aside.opaque);
                }
                Keeping::Nothing
            }
        };
        true
    }

    /// The recorder writes a record, which is acknowledged.
    pub(super) fn write_record(&mut self, world: &mut World) {
        let mut record = world.record.clone();
        record.position = record.position.max(self.head.advance().end_lsn);
        record.quarantined.retain(|listed| listed.entry_lsn > record.position);
        record.quarantined.append(&mut self.to_list);
        world.acknowledge(record);
        self.keeping = match std::mem::replace(&mut self.keeping, Keeping::Nothing) {
            Keeping::Listing(taken) => Keeping::Listed(taken),
            other => other,
        };
    }

    /// Everything that is on its way into the table is there, listed and settled.
    pub(super) fn keep_all(&mut self, world: &mut World) {
        loop {
            while self.keep(world, usize::MAX) {}
            match self.keeping {
                Keeping::Listing(_) => self.write_record(world),
                _ => return,
            }
        }
    }

    /// The session ends. Of what is in flight the broker has taken the first few of each key.
    pub(super) fn end(&mut self, world: &mut World, mut taken: u64) {
        for (_, mut records) in std::mem::take(&mut self.in_flight) {
            let count = (taken % 4) as usize;
            taken /= 4;
            for (event, _) in records.drain(..count.min(records.len())) {
                if world.events[event].bad {
                    break;
                }
                world.deliver(event);
            }
        }
    }

    /// Until nothing is left to do: all read, kept, acknowledged and recorded.
    pub(super) fn come_to_rest(&mut self, world: &mut World) -> Result<(), Over> {
        while self.at.0 < world.log.len() {
            self.read(world)?;
            self.check(world);
        }
        self.keep_all(world);
        self.all_taken(world)?;
        self.write_record(world);
        let end = world.log.last().map_or(self.begun, |committed| committed.end);
        assert!(world.record.position >= end, "the position stays at {}", world.record.position);
        Ok(())
    }

    pub(super) fn held_keys(&self) -> u64 {
        self.holds.held_keys()
    }

    /// What the router knows is what table and desk say of the part of the stream that it has read.
    pub(super) fn check(&self, world: &World) {
        let (transaction, _, ordinal) = self.at;
        let reached = world.log.get(transaction).map_or(Lsn(u64::MAX), |committed| committed.commit);
        let has_read = |lsn: Lsn, row: u64| lsn < self.begun || (lsn, row) < (reached, ordinal);
        for queue in world.queues() {
            let mut heads = world.table.0.iter().filter(|(_, kept)| kept.heads(&queue)).peekable();
            let waits = self.desk.iter().any(|aside| {
                aside.entry.state == State::Held && queue_of(&aside.entry).as_ref() == Some(&queue)
            });
            let holds = self.holds.holds(&queue.0, &queue.1);
            // A decision that comes again can find a later one, and meet one that is stuck before the stream does.
            assert!(!holds || waits || heads.peek().is_some(), "{queue:?} is held by nothing at {reached}");
            let must = waits || heads.any(|(id, _)| has_read(id.1, id.2));
            assert!(holds || !must, "{queue:?} is not held at {reached}, row {ordinal}");
        }
        assert_eq!(self.holds.open(), world.table.open() + self.desk.len() as u64, "entries that are open");
    }
}
