//! The thread with the Kafka client, as `consumer-sdk/src/runtime/client/` has it: one turn of its loop is read, hear,
//! let go, take on, orders, commit, in this order, and here each is a step of its own. The last commit of partitions
//! that leave waits for its answer, and reads meanwhile. What is left out: the pause before partitions are paused.

mod commits;
mod leaving;

use std::collections::{BTreeMap, VecDeque};

use outbox_consumer::lane::Lane;
use outbox_consumer::metadata;
use outbox_consumer::simulation::{Commit, Read};

use super::{Core, Stepped};
use crate::consumer::around::Around;
use crate::consumer::group::Told;
use crate::consumer::log::{End, NAMED, id};

/// `client::COMMIT_EVERY`.
const COMMIT_EVERY: u64 = 500;
/// `client::DRAIN`.
const DRAIN: u64 = 10_000;
/// `client::LAST_COMMIT`.
const LAST_COMMIT: u64 = 5_000;

/// What the callbacks tell.
#[derive(Debug)]
enum Signal {
    Told(Told),
    /// The number of the commit, and of each partition whether the broker has it.
    Committed(u64, Vec<bool>),
}

/// A revocation that waits for handlers.
#[derive(Debug)]
struct Leaving {
    partitions: Vec<i32>,
    lanes: Vec<Lane>,
    until: u64,
}

/// The last commit of partitions that leave.
#[derive(Debug)]
struct Last {
    /// Not sent yet: an answer that is still out is not for this one.
    commits: Option<Vec<Commit>>,
    partitions: Vec<i32>,
    deadline: u64,
}

/// A commit on its way: of each partition tenure, offset and text.
type Sent = Vec<(i32, Option<u64>, i64, String)>;

/// A partition that is read.
#[derive(Debug)]
struct Reading {
    position: i64,
    paused: bool,
    tenure: u64,
}

/// The client.
#[derive(Debug, Default)]
pub struct Client {
    phase: u8,
    small: bool,
    reading: BTreeMap<i32, Reading>,
    signals: Vec<Signal>,
    waiting: Vec<Vec<(i32, u64)>>,
    leaving: Vec<Leaving>,
    last: VecDeque<Last>,
    pending: Option<(u64, Vec<Commit>)>,
    numbers: u64,
    committed_at: u64,
    /// What the committing thread has to send, one after the other.
    sent: VecDeque<(u64, Sent)>,
    /// The answer to the first of them, which has not come.
    answer: Option<Vec<bool>>,
    stops: Option<u64>,
    /// What may be held beyond the bound, since the client did not do as it was told.
    slack: usize,
    /// Lanes that were lost: nothing may be committed of them.
    lost: Vec<Lane>,
}

impl Client {
    /// A client; `small`: the broker allows little text.
    pub fn new(small: bool) -> Client {
        Client { small, ..Client::default() }
    }

    /// One step of its loop.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        if !self.last.is_empty() {
            return self.wait_for_last(core, around).into();
        }
        if core.stopping {
            return self.stop(core, around);
        }
        self.phase = (self.phase + 1) % 6;
        match self.phase {
            0 => self.read(core, around),
            1 => self.hear(core, around),
            2 => self.let_go(core, around),
            3 => self.take_on(core, around),
            4 => self.carry_out_orders(core, around),
            _ => self.commit_when_due(core, around),
        }
        .into()
    }

    fn read(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let group = &mut around.groups[core.group];
        if !core.stopping && !group.knows(core.who) {
            group.join(core.who);
        }
        let mut on = false;
        if !self.is_rebalancing() {
            let told = group.told(core.who);
            on = told.is_some();
            self.signals.extend(told.map(Signal::Told));
        }
        // librdkafka pauses everything until a rebalance is answered. What leaves is read on here nevertheless: whether
        // it is cannot be left to a client, and none of it may count.
        let rebalancing = self.is_rebalancing();
        let leaves: Vec<i32> = self.leaving.iter().flat_map(|leaving| leaving.partitions.clone()).collect();
        let settings = &around.settings;
        let first = around.how.pick(self.reading.len());
        let mut room = settings.batch;
        let order: Vec<i32> =
            self.reading.keys().cycle().skip(first).take(self.reading.len()).copied().collect();
        for partition in order {
            let paused = rebalancing && !leaves.contains(&partition);
            let reading = self.reading.get_mut(&partition);
            let Some(reading) = reading.filter(|reading| !reading.paused && !paused) else { continue };
            let position = reading.position;
            for (offset, event) in around.log.from(partition, position).iter().take(room) {
                let what = &around.log.events[*event];
                let key = (what.key < NAMED).then(|| (what.key as u32).to_le_bytes());
                let company = (settings.company > 1 && what.end != End::Skip).then_some(settings.company);
                let key = key.as_ref().map(<[u8; 4]>::as_slice);
                core.engine.deliver(Read { partition, offset: *offset, id: id(*event), key, company });
                reading.position = offset + 1;
                room -= 1;
                on = true;
            }
            if room > 0 {
                // Markers behind the last record are passed, too.
                reading.position = reading.position.max(around.log.partitions[partition as usize].end);
            }
        }
        let (held, most) = (core.engine.held().count, settings.most + settings.batch);
        if held <= most {
            self.slack = 0;
        }
        let most = most + self.slack;
        around.judge.hold(held <= most, || format!("{held} records are held, more than {most}"));
        on
    }

    /// A rebalance is not answered yet.
    fn is_rebalancing(&self) -> bool {
        let told = self.signals.iter().any(|signal| matches!(signal, Signal::Told(_)));
        told || !self.waiting.is_empty() || !self.leaving.is_empty() || !self.last.is_empty()
    }

    fn hear(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let on = !self.signals.is_empty();
        for signal in std::mem::take(&mut self.signals) {
            match signal {
                Signal::Told(told) => {
                    around.tell(|| format!("{:?} hears {told:?}", core.who));
                    match told {
                        Told::Assign(partitions) => self.waiting.push(partitions),
                        Told::Revoke(partitions) => self.begin_to_leave(core, around.now, partitions),
                        Told::Lost(partitions) => self.lose(core, &partitions),
                    }
                }
                Signal::Committed(number, results) => self.answered(core, around, number, &results),
            }
        }
        on
    }

    fn take_on(&mut self, core: &mut Core, around: &mut Around) -> bool {
        if self.waiting.is_empty() || !self.leaving.is_empty() {
            return false;
        }
        // The question for the committed offsets fails.
        if around.fault(12) {
            return true;
        }
        for (partition, tenure) in self.waiting.remove(0) {
            let (offset, text) = &around.groups[core.group].committed[partition as usize];
            let offset = offset.unwrap_or(0);
            let said = metadata::parse(offset, text.as_bytes()).unwrap_or_default();
            core.engine.assigned(partition, offset, said);
            self.reading.insert(partition, Reading { position: offset, paused: false, tenure });
        }
        true
    }

    fn carry_out_orders(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let orders = core.engine.orders();
        let on = !orders.pause.is_empty() || !orders.resume.is_empty();
        for (lanes, paused) in [(orders.pause, true), (orders.resume, false)] {
            for lane in lanes {
                match self.reading.get_mut(&lane.partition) {
                    Some(_) if around.fault(20) => {
                        core.engine.order_failed(lane);
                        self.slack += around.settings.batch;
                    }
                    Some(reading) => reading.paused = paused,
                    None => {}
                }
            }
        }
        on
    }

    /// Whether everything is read and committed.
    pub fn is_quiet(&self, around: &Around, group: usize) -> bool {
        self.pending.is_none()
            && self.signals.is_empty()
            && self.waiting.is_empty()
            && self.leaving.is_empty()
            && self.last.is_empty()
            && self.reading.iter().all(|(partition, _)| {
                let committed = around.groups[group].committed[*partition as usize].0.unwrap_or(0);
                around.log.from(*partition, committed).is_empty()
            })
    }

    /// Partitions that are read.
    pub fn reads(&self) -> usize {
        self.reading.len()
    }
}
