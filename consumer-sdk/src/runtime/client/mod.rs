//! The thread that owns the Kafka client: it polls, pauses, assigns and commits, and nobody else touches the client.
//!
//! Rebalance callbacks only signal (C29); what they ask for is done between two polls. Polling never stops for longer
//! than one question to the cluster takes, so that waiting for a handler costs no membership (C14).

//!
//! | module | what it owns |
//! |---|---|
//! | [`context`] | what the callbacks tell |
//! | [`partitions`] | partitions that come and go |
//! | [`logs`] | where a partition begins, and what that says of its log |
//! | [`slow`] | how much of what is repeated by accident is read |
//! | [`standstill`] | which of them the client does not read although it should |
//! | [`commits`] | commits of offsets |

mod commits;
mod context;
mod logs;
mod partitions;
mod slow;
mod standstill;

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::error::KafkaResult;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;

use super::Shared;
use super::engine::{Commit, Room};
use crate::intake::Orders;
use crate::lane::Lane;
use crate::metrics::{Left, ends};
use crate::record::{Memory, Record};
use commits::{LAST_COMMIT, Lists, Pending, committer};
use context::{Context, Signal};
use partitions::{DRAIN, Leaving, YOUNG};
use slow::Slow;
use standstill::{Look, Standstill};

/// Longest wait for a record before the rest of the thread's work is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Most records taken in before that.
const BATCH: usize = 500;
/// Of those, as many are put in their places at once.
const AT_ONCE: usize = 128;
/// How long the client is not polled at all where as much is held as may be, before partitions are paused: the client
/// throws away what it has fetched of a partition that is paused, and fetches it again.
const FULL: Duration = Duration::from_millis(500);
/// How often room is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// How it is known that a position is outside of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The client has said so.
    ByTheClient,
    /// A position stands still beyond where the log ends.
    Seen,
}

/// Partitions that are to be paused, if room does not come before.
struct Full {
    lanes: Vec<Lane>,
    since: Instant,
}

/// The client and its thread's state.
pub(super) struct Client {
    consumer: Arc<BaseConsumer<Context>>,
    committer: mpsc::Sender<Lists>,
    shared: Arc<Shared>,
    topics: HashMap<String, (Arc<str>, u32)>,
    waiting: Vec<TopicPartitionList>,
    /// Taken on a moment ago: not to be paused yet.
    young: Vec<(Lane, Instant)>,
    leaving: Vec<Leaving>,
    standstill: Standstill,
    slow: Slow,
    /// Some partition's position is not in its log: when to look which.
    astray: Option<(Instant, Told)>,
    full: Option<Full>,
    pending: Option<Pending>,
    /// How many were sent.
    commits: u64,
    committed_at: Instant,
    room: Room,
    /// Of records that are settled.
    memory: Memory,
    /// Asks where the logs end, for the lag, until it is dropped.
    _ends: ends::Watch,
}

impl Client {
    /// Makes the client and joins the group.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub(super) fn new(config: &ClientConfig, topics: &[String], shared: Arc<Shared>) -> KafkaResult<Client> {
        let context = Context::new(shared.registered.metrics.clone());
        let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
        let consumer = Arc::new(consumer);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names)?;
        let numbered = topics
            .iter()
            .zip(0..)
            .map(|(topic, number)| (topic.clone(), (Arc::from(topic.as_str()), number)));
        let committer = committer(consumer.clone());
        let (watching, metrics) = (Arc::downgrade(&consumer), shared.registered.metrics.clone());
        let ends = ends::watch(Arc::downgrade(&consumer), topics, metrics, move |ends| {
            if let Some(consumer) = watching.upgrade() {
                consumer.context().tell(Signal::Ends(ends));
            }
        });
        Ok(Client {
            committer,
            topics: numbered.collect(),
            consumer,
            shared,
            waiting: Vec::new(),
            young: Vec::new(),
            leaving: Vec::new(),
            standstill: Standstill::default(),
            slow: Slow::default(),
            astray: None,
            full: None,
            pending: None,
            commits: 0,
            committed_at: Instant::now(),
            room: Room::Usual,
            memory: Memory::default(),
            _ends: ends,
        })
    }

    /// Polls until the consumer stops, then leaves the group in order.
    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() {
            match &self.full {
                None if self.may_read() => self.read(),
                _ => std::thread::sleep(LOOK),
            }
            let settled = std::mem::take(&mut *self.shared.settled.lock());
            settled.into_iter().flatten().for_each(|record| self.memory.keep(record));
            self.hear();
            self.let_go(false);
            self.take_on();
            self.look_for_strays();
            self.carry_out_orders();
            self.read_slowly();
            self.commit_when_due();
        }
        self.stop();
    }

    /// What was taken on a moment ago cannot be paused yet: where too much is held, or was repeated, nothing is read
    /// meanwhile.
    fn may_read(&self) -> bool {
        self.young.is_empty() || !(self.slow.is_used_up(Instant::now()) || self.shared.engine().is_full())
    }

    /// Takes in what has come.
    fn read(&mut self) {
        let mut records: Vec<(u32, Record)> = Vec::with_capacity(BATCH);
        // The client hands out what it has fetched of one partition before that of the next.
        let mut last: Option<(Arc<str>, u32)> = None;
        let scope = self.shared.registered.name.clone();
        let mut wait = if self.shared.engine().commit_is_urgent() { POLL / 10 } else { POLL };
        while records.len() < BATCH {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let name = message.topic();
                    if last.as_ref().is_none_or(|(last, _)| &**last != name) {
                        last = self.topics.get(name).cloned();
                    }
                    if let Some((topic, number)) = &last {
                        let mut record = Record::read(&message, topic, &scope, &mut self.memory);
                        self.shared.registered.introduce(&mut record, *number);
                        records.push((*number, record));
                    }
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                        self.astray = Some((Instant::now(), Told::ByTheClient));
                    }
                    tracing::warn!(%error, "reading");
                    break;
                }
                // Also after an event of another kind.
                None => break,
            }
        }
        if records.is_empty() {
            return;
        }
        self.shared.registered.metrics.read(records.iter().map(|(_, record)| record));
        self.count_repeated(&records);
        let ready = {
            let mut records = records.into_iter().peekable();
            let mut ready = 0;
            // Workers have the engine in between.
            while let Some((topic, partition)) =
                records.peek().map(|(topic, record)| (*topic, record.partition))
            {
                let mut engine = self.shared.engine();
                let same = |next: &(u32, Record)| next.0 == topic && next.1.partition == partition;
                let of_it = std::iter::from_fn(|| records.next_if(same)).map(|(_, record)| record);
                engine.deliver((topic, partition), of_it.take(AT_ONCE));
                ready = engine.ready();
            }
            ready
        };
        self.shared.wake(ready);
    }

    /// Does what the callbacks told, in their order.
    fn hear(&mut self) {
        for signal in self.consumer.context().heard() {
            match signal {
                Signal::Assign(partitions) => self.waiting.push(partitions),
                Signal::Revoke { partitions, lost } => self.revoked(partitions, lost),
                Signal::Ends(ends) => self.look_for_standstill(&ends),
                Signal::Committed(number, results) => self.answered(number, results),
            }
        }
    }

    fn carry_out_orders(&mut self) {
        let (Orders { mut pause, mut resume }, assigned) = {
            self.young.retain(|(_, since)| since.elapsed() < YOUNG);
            let mut engine = self.shared.engine();
            let young = |lane| self.young.iter().any(|(young, _)| *young == lane);
            let may = |lane| !young(lane) && !self.slow.is_paused(lane);
            (engine.orders(may), engine.assignment())
        };
        if let Some(full) = self.full.take() {
            let (gone, still): (Vec<Lane>, Vec<Lane>) =
                full.lanes.into_iter().partition(|lane| resume.contains(lane));
            // They were never paused.
            resume.retain(|lane| !gone.contains(lane));
            let still: Vec<Lane> = still.into_iter().filter(|lane| assigned.contains(lane)).collect();
            if full.since.elapsed() < FULL && pause.is_empty() && gone.is_empty() && !still.is_empty() {
                self.full = Some(Full { lanes: still, since: full.since });
            } else {
                pause.extend(still);
            }
        } else if !pause.is_empty() && pause.len() == assigned.len() {
            // All of them: too much is held, and mostly not for long.
            self.full = Some(Full { lanes: std::mem::take(&mut pause), since: Instant::now() });
        }
        if !pause.is_empty() {
            self.tell(&pause, |consumer, list| consumer.pause(list));
        }
        if !resume.is_empty() {
            self.tell(&resume, |consumer, list| consumer.resume(list));
        }
    }

    /// Counts what partitions read again that were moved back.
    fn count_repeated(&mut self, records: &[(u32, Record)]) {
        let behind = self.shared.reached.behind();
        if behind.is_empty() {
            return;
        }
        let lanes: HashMap<(u32, i32), (Lane, i64)> =
            behind.into_iter().map(|(lane, until)| (lane.place(), (lane, until))).collect();
        let mut repeated = 0;
        for (topic, record) in records {
            if let Some((lane, until)) = lanes.get(&(*topic, record.partition)) {
                self.slow.came(*lane);
                repeated += usize::from(record.offset < *until);
            }
        }
        self.slow.repeated(Instant::now(), repeated);
    }

    /// Lets partitions that were moved back wait, or go on.
    fn read_slowly(&mut self) {
        let behind = self.shared.reached.behind();
        if behind.is_empty() && self.slow.is_at_rest() {
            return;
        }
        let engine = self.shared.engine();
        let (present, read) = (engine.assignment(), engine.read());
        drop(engine);
        let young = |lane| self.young.iter().any(|(young, _)| *young == lane);
        let may = |lane| !young(lane) && read.iter().any(|(read, ..)| *read == lane);
        let orders = self.slow.orders(Instant::now(), |lane| behind.contains_key(&lane), &present, may);
        for (lanes, pause) in [(orders.pause, true), (orders.resume, false)] {
            let list = self.list(&lanes);
            let result = match (lanes.is_empty(), pause) {
                (true, _) => continue,
                (_, true) => self.consumer.pause(&list),
                (_, false) => self.consumer.resume(&list),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "pausing or resuming what is repeated");
            }
        }
    }

    /// Pauses at once what was to be paused if room did not come.
    fn pause_what_is_full(&mut self) {
        let Some(Full { lanes, .. }) = self.full.take() else { return };
        let assigned = self.shared.engine().assignment();
        let lanes: Vec<Lane> = lanes.into_iter().filter(|lane| assigned.contains(lane)).collect();
        if !lanes.is_empty() {
            self.tell(&lanes, |consumer, list| consumer.pause(list));
        }
    }

    fn tell(
        &self,
        lanes: &[Lane],
        order: impl Fn(&BaseConsumer<Context>, &TopicPartitionList) -> KafkaResult<()>,
    ) {
        if let Err(error) = order(&self.consumer, &self.list(lanes)) {
            tracing::warn!(%error, "pausing or resuming; trying again");
            let mut engine = self.shared.engine();
            lanes.iter().for_each(|lane| engine.order_failed(*lane));
        }
    }

    /// Lanes as the client knows them.
    fn list(&self, lanes: &[Lane]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for lane in lanes {
            if let Some(topic) = self.named(*lane) {
                list.add_partition(topic, lane.partition);
            }
        }
        list
    }

    /// Lets every partition go in order, and leaves the group.
    fn stop(mut self) {
        let lanes = self.shared.engine().assignment();
        let mut engine = self.shared.engine();
        lanes.iter().for_each(|lane| engine.leave(*lane));
        drop(engine);
        let until = Instant::now() + DRAIN;
        while Instant::now() < until {
            let engine = self.shared.engine();
            if lanes.iter().all(|lane| engine.running(*lane) == 0) {
                break;
            }
            drop(engine);
            self.read();
        }
        let mut engine = self.shared.engine();
        let commits: Vec<Commit> =
            lanes.iter().filter_map(|lane| engine.left(*lane, true, self.room)).collect();
        drop(engine);
        let mut partitions = TopicPartitionList::new();
        for Commit { topic, lane, .. } in &commits {
            partitions.add_partition(topic, lane.partition);
        }
        self.commit_at_last(commits);
        self.unassign(&partitions, Left::Revoked);
        self.leave_the_group();
    }

    /// Whoever drops the client last leaves the group. That has to be this thread, since the process may end right
    /// behind it: a member that goes without a word holds its partitions until its session has run out.
    fn leave_the_group(self) {
        let Client { mut consumer, committer, _ends, .. } = self;
        drop((committer, _ends));
        consumer.context().close();
        let until = Instant::now() + LAST_COMMIT;
        while let Err(shared) = Arc::try_unwrap(consumer) {
            if Instant::now() >= until {
                tracing::warn!("the client is in use still: the group waits for its session to run out");
                return;
            }
            consumer = shared;
            std::thread::sleep(LOOK);
        }
    }
}
