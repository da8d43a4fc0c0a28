//! The thread that owns the Kafka client: it polls, pauses, assigns and commits, and nobody else touches the client.
//!
//! Rebalance callbacks only signal (C29); what they ask for is done between two polls. Polling never stops for longer
//! than one question to the cluster takes, so that waiting for a handler costs no membership (C14).

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::Shared;
use super::engine::{Commit, Room};
use crate::intake::Orders;
use crate::lane::Lane;
use crate::metadata;
use crate::metrics::{Left, ends};
use crate::record::Record;

/// Longest wait for a record before the rest of the thread's work is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Most records taken in before that.
const BATCH: usize = 500;
/// Limit of one question to the cluster.
const ASK: Duration = Duration::from_secs(5);
/// How long the client is not polled at all where as much is held as may be, before partitions are paused: the client
/// throws away what it has fetched of a partition that is paused, and fetches it again.
const FULL: Duration = Duration::from_millis(500);
/// How often room is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(1);
/// How often offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// Commits that are under way at the same time.
const AT_ONCE: usize = 16;
/// How long a commit's answer is waited for before the client's silence counts as a refusal.
const COMMIT_ANSWER: Duration = Duration::from_secs(30);
/// How long handlers of a partition that is revoked may go on.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the last commit is waited for.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// What the callbacks tell.
#[derive(Debug)]
enum Signal {
    Assign(TopicPartitionList),
    Revoke {
        partitions: TopicPartitionList,
        lost: bool,
    },
    /// For each partition of the commit that was sent last.
    Committed(Vec<KafkaResult<()>>),
}

/// Collects signals.
#[derive(Debug, Default)]
pub(super) struct Context {
    signals: Mutex<Vec<Signal>>,
    /// The client is being dropped.
    closing: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", facility, "{message}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, "Kafka: {reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(SeqCst) {
            // Nobody hears signals any more, and the client leaves the group only when this is answered.
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "leaving the group");
            }
            return;
        }
        let signal = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Signal::Assign(list.clone()),
            // Whatever else it is called, the assignment is over.
            _ => Signal::Revoke { partitions: list.clone(), lost: consumer.assignment_lost() },
        };
        self.signals.lock().push(signal);
    }
}

/// Topic, partition, offset, and the text beside the committed offset.
type Beginning = (String, i32, i64, Vec<u8>);

/// A revocation that waits for handlers.
struct Leaving {
    partitions: TopicPartitionList,
    lanes: Vec<Lane>,
    until: Instant,
}

/// Partitions that are to be paused, if room does not come before.
struct Full {
    lanes: Vec<Lane>,
    since: Instant,
}

/// A commit whose answer has not come.
struct Pending {
    commits: Vec<Commit>,
    since: Instant,
}

/// The client and its thread's state.
pub(super) struct Client {
    consumer: Arc<BaseConsumer<Context>>,
    committer: mpsc::Sender<Vec<TopicPartitionList>>,
    shared: Arc<Shared>,
    topics: HashMap<String, (Arc<str>, u32)>,
    waiting: Vec<TopicPartitionList>,
    leaving: Vec<Leaving>,
    full: Option<Full>,
    pending: Option<Pending>,
    committed_at: Instant,
    room: Room,
    /// Asks where the logs end, for the lag, until it is dropped.
    _ends: ends::Watch,
}

impl Client {
    /// Makes the client and joins the group.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub(super) fn new(config: &ClientConfig, topics: &[String], shared: Arc<Shared>) -> KafkaResult<Client> {
        let consumer: BaseConsumer<Context> = config.create_with_context(Context::default())?;
        let consumer = Arc::new(consumer);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names)?;
        let numbered = topics
            .iter()
            .zip(0..)
            .map(|(topic, number)| (topic.clone(), (Arc::from(topic.as_str()), number)));
        let committer = committer(consumer.clone());
        let metrics = shared.registered.metrics.clone();
        let ends = ends::watch(Arc::downgrade(&consumer), topics, metrics);
        Ok(Client {
            committer,
            topics: numbered.collect(),
            consumer,
            shared,
            waiting: Vec::new(),
            leaving: Vec::new(),
            full: None,
            pending: None,
            committed_at: Instant::now(),
            room: Room::Usual,
            _ends: ends,
        })
    }

    /// Polls until the consumer stops, then leaves the group in order.
    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() {
            match &self.full {
                Some(_) => std::thread::sleep(LOOK),
                None => self.read(),
            }
            self.hear();
            self.let_go(false);
            self.take_on();
            self.carry_out_orders();
            self.commit_when_due();
        }
        self.stop();
    }

    /// Takes in what has come.
    fn read(&mut self) {
        let mut records = Vec::new();
        let mut wait = if self.shared.engine.lock().commit_is_urgent() { POLL / 10 } else { POLL };
        while records.len() < BATCH {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    if let Some((topic, number)) = self.topics.get(message.topic()) {
                        let place = (*number, message.partition());
                        let mut record = Record::read(&message, topic.clone());
                        record.company = self.shared.registered.company(&record);
                        records.push((place, record));
                    }
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
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
        let ready = {
            let mut engine = self.shared.engine.lock();
            for (place, record) in records {
                engine.deliver(place, record);
            }
            engine.ready()
        };
        self.shared.wake(ready);
    }

    /// Does what the callbacks told, in their order.
    fn hear(&mut self) {
        let signals = std::mem::take(&mut *self.consumer.context().signals.lock());
        for signal in signals {
            match signal {
                Signal::Assign(partitions) => self.waiting.push(partitions),
                Signal::Revoke { partitions, lost: false } => self.begin_to_leave(partitions),
                Signal::Revoke { partitions, lost: true } => self.lose(&partitions),
                Signal::Committed(results) => self.answered(results),
            }
        }
    }

    fn lanes(&self, partitions: &TopicPartitionList) -> Vec<Lane> {
        let engine = self.shared.engine.lock();
        let place = |topic: &str, partition| Some((self.topics.get(topic)?.1, partition));
        let elements = partitions.elements();
        elements.iter().filter_map(|e| engine.lane(place(e.topic(), e.partition())?)).collect()
    }

    fn begin_to_leave(&mut self, partitions: TopicPartitionList) {
        let lanes = self.lanes(&partitions);
        let mut engine = self.shared.engine.lock();
        lanes.iter().for_each(|lane| engine.leave(*lane));
        drop(engine);
        self.leaving.push(Leaving { partitions, lanes, until: Instant::now() + DRAIN });
    }

    /// Lost is not revoked: another may own them already, so nothing is committed (C30).
    fn lose(&mut self, partitions: &TopicPartitionList) {
        tracing::warn!(
            partitions = partitions.count(),
            "partitions were lost: what runs for them decides nothing"
        );
        let lanes = self.lanes(partitions);
        let mut engine = self.shared.engine.lock();
        lanes.iter().for_each(|lane| engine.lost(*lane));
        drop(engine);
        self.unassign(partitions, Left::Lost);
    }

    /// Lets partitions go whose handlers have ended, or have had their time.
    fn let_go(&mut self, stopping: bool) {
        let now = Instant::now();
        let (ready, leaving) =
            std::mem::take(&mut self.leaving).into_iter().partition::<Vec<_>, _>(|leaving| {
                let engine = self.shared.engine.lock();
                now >= leaving.until || leaving.lanes.iter().all(|lane| engine.running(*lane) == 0)
            });
        self.leaving = leaving;
        for Leaving { partitions, lanes, .. } in ready {
            let mut engine = self.shared.engine.lock();
            let commits: Vec<Commit> =
                lanes.iter().filter_map(|lane| engine.left(*lane, stopping, self.room)).collect();
            drop(engine);
            self.commit_at_last(commits);
            self.unassign(&partitions, Left::Revoked);
        }
    }

    fn unassign(&self, partitions: &TopicPartitionList, how: Left) {
        for element in partitions.elements() {
            self.shared.registered.metrics.unassigned(element.topic(), element.partition(), how);
        }
        let result = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.consumer.unassign(),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "giving partitions back");
        }
    }

    /// Takes partitions on: where to begin is asked for first, so that every record belongs to an assignment.
    fn take_on(&mut self) {
        // What leaves first frees the keys that what comes may need, and the client wants them in this order.
        if self.waiting.is_empty() || !self.leaving.is_empty() {
            return;
        }
        let partitions = self.waiting.remove(0);
        match self.beginnings(&partitions) {
            Ok(beginnings) => {
                self.shared.registered.metrics.kafka_answered();
                self.assign(&beginnings);
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for the committed offsets");
                self.waiting.insert(0, partitions);
            }
        }
    }

    /// Where each partition begins, and the text beside its committed offset.
    fn beginnings(&self, partitions: &TopicPartitionList) -> KafkaResult<Vec<Beginning>> {
        let committed = self.consumer.committed_offsets(partitions.clone(), ASK)?;
        let mut beginnings = Vec::new();
        for element in committed.elements() {
            element.error()?;
            let (topic, partition) = (element.topic().to_owned(), element.partition());
            let (offset, text) = match element.offset() {
                // The client panics on text that is no UTF-8, which another may have written.
                Offset::Offset(offset) => {
                    let text =
                        panic::catch_unwind(AssertUnwindSafe(|| element.metadata().as_bytes().to_vec()));
                    (offset, text.unwrap_or_default())
                }
                // Nothing was ever committed: a new consumer begins with what the topic still has (C35).
                _ => (self.consumer.fetch_watermarks(&topic, partition, ASK)?.0, Vec::new()),
            };
            beginnings.push((topic, partition, offset, text));
        }
        Ok(beginnings)
    }

    fn assign(&mut self, beginnings: &[Beginning]) {
        let mut list = TopicPartitionList::new();
        let mut engine = self.shared.engine.lock();
        for (topic, partition, offset, text) in beginnings {
            let Some((name, number)) = self.topics.get(topic) else { continue };
            let said = metadata::parse(*offset, text).unwrap_or_else(|foreign| {
                tracing::warn!(topic, partition, "{foreign}: going on without it");
                metadata::Metadata::default()
            });
            self.shared.registered.metrics.assigned(name, *partition, *offset, said.journal.starts);
            let lane = engine.assigned(name.clone(), *number, *partition, *offset, said);
            // Read no further back than what is settled already.
            if let Err(error) = list.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
                tracing::error!(%error, topic, partition, "an assignment");
            }
            tracing::info!(topic, partition, offset, epoch = lane.epoch, "assigned");
        }
        drop(engine);
        let result = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.consumer.assign(&list),
        };
        if let Err(error) = result {
            tracing::error!(%error, "taking partitions on");
        }
        // A pause of a former assignment is not to outlive it: what is wanted now is said next (C32).
        if let Err(error) = self.consumer.resume(&list) {
            tracing::warn!(%error, "reading partitions that were taken on");
        }
    }

    fn carry_out_orders(&mut self) {
        let (Orders { mut pause, mut resume }, assigned) = {
            let mut engine = self.shared.engine.lock();
            (engine.orders(), engine.assignment())
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

    /// Pauses at once what was to be paused if room did not come.
    fn pause_what_is_full(&mut self) {
        let Some(Full { lanes, .. }) = self.full.take() else { return };
        let assigned = self.shared.engine.lock().assignment();
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
        let mut list = TopicPartitionList::new();
        for lane in lanes {
            if let Some(topic) = self.topics.iter().find(|(_, (_, number))| *number == lane.topic) {
                list.add_partition(topic.0, lane.partition);
            }
        }
        if let Err(error) = order(&self.consumer, &list) {
            tracing::warn!(%error, "pausing or resuming; trying again");
            let mut engine = self.shared.engine.lock();
            lanes.iter().for_each(|lane| engine.order_failed(*lane));
        }
    }

    /// One commit is under way at a time, so that each answer is known to be its own.
    fn commit_when_due(&mut self) {
        if let Some(pending) = &self.pending {
            if pending.since.elapsed() > COMMIT_ANSWER {
                tracing::warn!(
                    commits = pending.commits.len(),
                    "no answer to a commit of offsets for a long time"
                );
            }
            return;
        }
        let mut engine = self.shared.engine.lock();
        if !engine.commit_is_urgent() && self.committed_at.elapsed() < COMMIT_EVERY {
            return;
        }
        self.committed_at = Instant::now();
        if let Ok(position) = self.consumer.position() {
            for element in position.elements() {
                let place =
                    self.topics.get(element.topic()).map(|(_, number)| (*number, element.partition()));
                if let (Some(place), Offset::Offset(position)) = (place, element.offset()) {
                    engine.read_up_to(place, position);
                }
            }
        }
        let commits = engine.commits(self.room);
        drop(engine);
        if commits.is_empty() {
            return;
        }
        self.send(commits);
    }

    fn send(&mut self, commits: Vec<Commit>) {
        let lists = commits.iter().map(|Commit { lane, topic, offset, metadata, .. }| {
            let mut list = TopicPartitionList::new();
            let mut element = list.add_partition(topic, lane.partition);
            // A number that the client can only refuse where it is no offset.
            let _set = element.set_offset(Offset::Offset(*offset));
            element.set_metadata(metadata.as_str());
            list
        });
        // The thread ends after this one.
        let _sent = self.committer.send(lists.collect());
        self.pending = Some(Pending { commits, since: Instant::now() });
    }

    fn answered(&mut self, results: Vec<KafkaResult<()>>) {
        let Some(Pending { commits, .. }) = self.pending.take() else { return };
        let mut engine = self.shared.engine.lock();
        self.shared.registered.metrics.kafka_answered();
        for (commit, result) in commits.iter().zip(results) {
            self.shared.registered.metrics.committed(result.is_ok());
            match result {
                Ok(()) => engine.committed(commit),
                Err(error) => {
                    engine.not_committed(commit);
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetMetadataTooLarge) {
                        self.room = Room::Journal;
                    }
                    let (topic, partition) = (&commit.topic, commit.lane.partition);
                    tracing::warn!(%error, %topic, partition, "a commit failed; it is made again while the partition is here");
                }
            }
        }
        drop(engine);
        // Whoever waited for the journal may ask again.
        self.shared.permits_changed();
    }

    /// The last commit of partitions that leave; a failure repeats work for the next owner, and loses nothing.
    fn commit_at_last(&mut self, commits: Vec<Commit>) {
        if commits.is_empty() {
            return;
        }
        // While the answer is waited for, the client is polled.
        self.pause_what_is_full();
        // An answer that is still out is not for this one.
        self.wait_for_answer();
        self.send(commits);
        self.wait_for_answer();
        if self.pending.take().is_some() {
            tracing::warn!(
                "no answer to the last commit of partitions that leave: their next owner repeats a little"
            );
        }
    }

    fn wait_for_answer(&mut self) {
        let deadline = Instant::now() + LAST_COMMIT;
        while self.pending.is_some() && Instant::now() < deadline {
            self.read();
            let mut signals = self.consumer.context().signals.lock();
            let answer = signals.iter().position(|signal| matches!(signal, Signal::Committed(_)));
            let answer = answer.map(|at| signals.remove(at));
            drop(signals);
            if let Some(Signal::Committed(results)) = answer {
                self.answered(results);
            }
        }
    }

    /// Lets every partition go in order, and leaves the group.
    fn stop(mut self) {
        let lanes = self.shared.engine.lock().assignment();
        let mut engine = self.shared.engine.lock();
        lanes.iter().for_each(|lane| engine.leave(*lane));
        drop(engine);
        let until = Instant::now() + DRAIN;
        while Instant::now() < until {
            let engine = self.shared.engine.lock();
            if lanes.iter().all(|lane| engine.running(*lane) == 0) {
                break;
            }
            drop(engine);
            self.read();
        }
        let mut engine = self.shared.engine.lock();
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
        consumer.context().closing.store(true, SeqCst);
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

/// Starts the thread that commits. The client's own callback for commits is never called for those that an
/// application makes (rdkafka 0.39), and a call that waits for its answer has no limit: it may not hold up the polls.
/// A commit for each partition, because an answer for several hides which of them failed; at the same time, because the
/// broker takes its time for each, and handlers may be waiting. Ends with the client.
fn committer(consumer: Arc<BaseConsumer<Context>>) -> mpsc::Sender<Vec<TopicPartitionList>> {
    let (sender, receiver) = mpsc::channel::<Vec<TopicPartitionList>>();
    let commit = move || {
        for lists in receiver {
            let results = lists.chunks(AT_ONCE).flat_map(|lists| commit_at_once(&consumer, lists)).collect();
            consumer.context().signals.lock().push(Signal::Committed(results));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("commit".into()).spawn(commit) {
        tracing::error!(%error, "no thread to commit on: nothing will be committed");
    }
    sender
}

fn commit_at_once(consumer: &BaseConsumer<Context>, lists: &[TopicPartitionList]) -> Vec<KafkaResult<()>> {
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            lists.iter().map(|list| scope.spawn(|| consumer.commit(list, CommitMode::Sync))).collect();
        let died = || Err(KafkaError::Canceled);
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_| died())).collect()
    })
}
