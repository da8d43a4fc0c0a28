//! Partitions that come and go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::{Offset, TopicPartitionList};

use super::logs::{Beginning, Stray};
use super::{Client, Commit, Look, Told};
use crate::lane::Lane;
use crate::metadata;
use crate::metrics::{Jump, Left};
use crate::runtime::reached::TakenOn;

/// How long handlers of a partition that is revoked may go on.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
/// How long a partition that was taken on is not paused. The client begins to read it on a thread of its own, some time
/// after the assignment, and an order that crosses that one may undo it for ever (see [`super::standstill`]).
pub(super) const YOUNG: Duration = Duration::from_millis(500);

/// When partitions that are outside of their logs are looked for again.
const STRAY: Duration = Duration::from_secs(5);

/// A revocation that waits for handlers.
pub(super) struct Leaving {
    partitions: TopicPartitionList,
    lanes: Vec<Lane>,
    until: Instant,
    /// Nobody else wants them: they are taken on again at once.
    again: bool,
    /// Those of them whose log is another than the one that was read.
    replaced: Vec<(String, i32)>,
}

impl Client {
    fn lanes(&self, partitions: &TopicPartitionList) -> Vec<Lane> {
        let engine = self.shared.engine();
        let place = |topic: &str, partition| Some((self.topics.get(topic)?.1, partition));
        let elements = partitions.elements();
        elements.iter().filter_map(|e| engine.lane(place(e.topic(), e.partition())?)).collect()
    }

    /// The group has taken partitions away. What was to be done with them by ourselves is not done any more.
    pub(super) fn revoked(&mut self, partitions: TopicPartitionList, lost: bool) {
        let gone = |list: &TopicPartitionList| without(list, &partitions);
        self.waiting = self.waiting.iter().map(gone).filter(|list| list.count() > 0).collect();
        self.leaving.retain(|leaving| !leaving.again || gone(&leaving.partitions).count() > 0);
        if lost { self.lose(&partitions) } else { self.begin_to_leave(partitions, false, Vec::new()) }
    }

    fn begin_to_leave(&mut self, partitions: TopicPartitionList, again: bool, replaced: Vec<(String, i32)>) {
        let lanes = self.lanes(&partitions);
        let mut engine = self.shared.engine();
        lanes.iter().for_each(|lane| engine.leave(*lane));
        drop(engine);
        self.leaving.push(Leaving { partitions, lanes, until: Instant::now() + DRAIN, again, replaced });
    }

    /// Gives back and takes on again what the client does not read although it is to.
    pub(super) fn look_for_standstill(&mut self, ends: &HashMap<(String, i32), i64>) {
        let read = self.shared.engine().read();
        let looks: Vec<Look> = read
            .into_iter()
            .filter(|(lane, ..)| !self.slow.is_paused(*lane))
            .filter_map(|(lane, topic, position)| {
                let end = *ends.get(&(topic.to_string(), lane.partition))?;
                Some(Look { lane, position, end })
            })
            .collect();
        // The client has told that it is outside of the log, or has forgotten to.
        if self.standstill.is_beyond(&looks) && self.astray.is_none() {
            self.astray = Some((Instant::now(), Told::Seen));
        }
        // An assignment that is under way may be all that is needed.
        let busy = !self.waiting.is_empty() || !self.leaving.is_empty() || self.full.is_some();
        if busy || !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            return;
        }
        for lane in self.standstill.look(Instant::now(), &looks) {
            let Some(topic) = self.named(lane).map(str::to_owned) else { continue };
            tracing::warn!(
                topic,
                partition = lane.partition,
                "the log goes on and the client does not read it: giving the partition back and taking it on again"
            );
            self.shared.registered.metrics.stood_still();
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(&topic, lane.partition);
            // Of its own, so that a rebalance of one leaves the others alone.
            self.begin_to_leave(partitions, true, Vec::new());
        }
    }

    /// Gives back and takes on again what the client does not read because its position is not in its log: records were
    /// deleted before they were read, or the log is another. Where it begins then is looked at as with any other. What
    /// was read of records that are deleted by now is handled first, for nobody can read it again.
    pub(super) fn look_for_strays(&mut self) {
        let Some((due, told)) = self.astray else { return };
        if Instant::now() < due || !self.waiting.is_empty() || !self.leaving.is_empty() {
            return;
        }
        let strays = match self.strays() {
            Ok(strays) => strays,
            Err(error) => {
                tracing::warn!(%error, "asking where the logs begin and end");
                self.astray = Some((Instant::now() + STRAY, told));
                return;
            }
        };
        let eager = !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let (wait, ready): (Vec<Stray>, Vec<Stray>) =
            strays.into_iter().partition(|stray| stray.jump == Jump::Deleted && stray.unsettled > 0);
        self.astray = (!wait.is_empty()).then(|| (Instant::now() + STRAY, told));
        if wait.is_empty() && ready.is_empty() && told == Told::ByTheClient {
            tracing::error!(
                "a position was outside of its log and is not any more: where a topic was made anew meanwhile, what was \
                 written to it before it had grown to that position is not read"
            );
        }
        let replaced = |strays: &[Stray]| -> Vec<(String, i32)> {
            let others = strays.iter().filter(|stray| stray.jump == Jump::Replaced);
            others.map(|stray| (stray.topic.clone(), stray.partition)).collect()
        };
        if eager {
            // There they are given back and taken on all at once.
            let none = wait.is_empty() && ready.is_empty() && told == Told::ByTheClient;
            if let Ok(assigned) = self.consumer.assignment()
                && wait.is_empty()
                && (none || !ready.is_empty())
            {
                self.begin_to_leave(assigned, true, replaced(&ready));
            }
            return;
        }
        for stray in ready {
            let Stray { topic, partition, .. } = &stray;
            tracing::warn!(topic, partition, "taking a partition on again that is outside of its log");
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(topic, *partition);
            // Of its own, as above.
            let replaced = replaced(std::slice::from_ref(&stray));
            self.begin_to_leave(partitions, true, replaced);
        }
    }

    /// Lost is not revoked: another may own them already, so nothing is committed (C30).
    fn lose(&mut self, partitions: &TopicPartitionList) {
        tracing::warn!(
            partitions = partitions.count(),
            "partitions were lost: what runs for them decides nothing"
        );
        let lanes = self.lanes(partitions);
        let mut engine = self.shared.engine();
        lanes.iter().for_each(|lane| engine.lost(*lane));
        drop(engine);
        self.unassign(partitions, Left::Lost);
    }

    /// Lets partitions go whose handlers have ended, or have had their time.
    pub(super) fn let_go(&mut self, stopping: bool) {
        let now = Instant::now();
        let (ready, leaving) =
            std::mem::take(&mut self.leaving).into_iter().partition::<Vec<_>, _>(|leaving| {
                let engine = self.shared.engine();
                now >= leaving.until || leaving.lanes.iter().all(|lane| engine.running(*lane) == 0)
            });
        self.leaving = leaving;
        for Leaving { partitions, lanes, again, replaced, .. } in ready {
            let of_another = |lane: &Lane| {
                let at = |(topic, partition): &(String, i32)| {
                    *partition == lane.partition && self.named(*lane) == Some(topic)
                };
                replaced.iter().any(at)
            };
            let mut engine = self.shared.engine();
            let mut commits: Vec<Commit> = Vec::new();
            for lane in &lanes {
                if of_another(lane) {
                    // Nothing that was reached in the former log says anything of this one.
                    engine.lost(*lane);
                } else {
                    commits.extend(engine.left(*lane, stopping, self.room));
                }
            }
            drop(engine);
            self.commit_at_last(commits);
            if again {
                self.take_on_again(partitions, replaced);
            } else {
                self.unassign(&partitions, Left::Revoked);
            }
        }
    }

    /// Nothing is heard between giving back and taking on, so that the group's own orders find what they expect.
    fn take_on_again(&mut self, partitions: TopicPartitionList, replaced: Vec<(String, i32)>) {
        match self.beginnings(&partitions, &replaced) {
            Ok(beginnings) => {
                self.unassign(&partitions, Left::Revoked);
                self.assign(&beginnings);
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for the committed offsets");
                let (lanes, until) = (Vec::new(), Instant::now());
                self.leaving.push(Leaving { partitions, lanes, until, again: true, replaced });
            }
        }
    }

    pub(super) fn unassign(&self, partitions: &TopicPartitionList, how: Left) {
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
    pub(super) fn take_on(&mut self) {
        // What leaves first frees the keys that what comes may need, and the client wants them in this order. While a
        // commit is under way the client would begin to read at some time after its answer; an order that crosses
        // that one could undo it.
        if self.waiting.is_empty() || !self.leaving.is_empty() || self.pending.is_some() {
            return;
        }
        let partitions = self.waiting.remove(0);
        match self.beginnings(&partitions, &[]) {
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

    fn assign(&mut self, beginnings: &[Beginning]) {
        let (mut list, mut lanes) = (TopicPartitionList::new(), Vec::new());
        let mut engine = self.shared.engine();
        for beginning in beginnings {
            let Beginning { topic, partition, offset, text, .. } = beginning;
            let Some((name, number)) = self.topics.get(topic) else { continue };
            self.say_what_is_gone(beginning);
            let said = metadata::parse(*offset, text).unwrap_or_else(|foreign| {
                tracing::warn!(topic, partition, "{foreign}: going on without it");
                metadata::Metadata::default()
            });
            self.shared.registered.metrics.assigned(name, *partition, *offset, said.journal.starts);
            let lane = engine.assigned(name.clone(), *number, *partition, *offset, said);
            lanes.push(lane);
            if self.shared.database.is_some() {
                let (committed, log, replaced) =
                    (beginning.committed, beginning.log.clone(), beginning.is_of_another_log());
                self.shared.reached.taken_on(TakenOn { lane, committed, log, replaced });
            }
            // Read no further back than what is settled already.
            if let Err(error) = list.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
                tracing::error!(%error, topic, partition, "an assignment");
            }
            tracing::info!(topic, partition, offset, epoch = lane.epoch, "assigned");
        }
        drop(engine);
        // The client keeps a pause for the next assignment. What is wanted of this one is said when it is not young any
        // more (C32).
        if let Err(error) = self.consumer.resume(&list) {
            tracing::warn!(%error, "reading partitions that are taken on");
        }
        let result = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.consumer.assign(&list),
        };
        if let Err(error) = result {
            tracing::error!(%error, "taking partitions on");
        }
        self.young.extend(lanes.into_iter().map(|lane| (lane, Instant::now())));
    }

    /// The topic of a lane, by its name.
    pub(super) fn named(&self, lane: Lane) -> Option<&str> {
        self.topics.iter().find(|(_, (_, number))| *number == lane.topic).map(|(name, _)| name.as_str())
    }
}

/// The partitions of `list` that are not among `gone`.
fn without(list: &TopicPartitionList, gone: &TopicPartitionList) -> TopicPartitionList {
    let mut left = TopicPartitionList::new();
    for element in list.elements() {
        if gone.find_partition(element.topic(), element.partition()).is_none() {
            left.add_partition(element.topic(), element.partition());
        }
    }
    left
}
