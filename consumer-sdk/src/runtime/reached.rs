//! How far each partition has come, remembered beside the inbox, so that committed offsets which somebody moved back are
//! noticed (C49).
//!
//! Kafka keeps one committed offset and forgets what it was before: a group that was reset by accident, and one whose
//! offsets have expired, look to it like one that has not come further yet. So this task writes down what Kafka has
//! acknowledged, which is never ahead of the committed offset, and a partition that stands below it was moved. What such
//! a partition reads again is read slowly (see `client::slow`) until it has caught up, or until somebody gives
//! the word: `inbox.accept_reset()`, which forgets what was reached. Any instance sees it, and a restart is none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use super::attempt::sentence;
use super::inbox::{self, InboxError};
use crate::database::Database;
use crate::lane::Lane;
use crate::metrics::Jump;
use crate::metrics::engine::PartitionLook;

/// How often what was reached is written down.
const EVERY: Duration = Duration::from_secs(2);
/// How long the last time may take: nobody stops later because of it.
const LAST: Duration = Duration::from_secs(2);

/// How a partition was taken on.
#[derive(Debug, Clone)]
pub(super) struct TakenOn {
    pub(super) lane: Lane,
    /// What the group had committed.
    pub(super) committed: Option<i64>,
    /// Where its log begins and ends, where that was answered.
    pub(super) log: Option<Range<i64>>,
    /// It begins anew, because its log is another than the one that was read: that is said already.
    pub(super) replaced: bool,
}

/// What the client's thread and this task tell each other.
#[derive(Debug, Default)]
pub(super) struct Reached {
    taken_on: Mutex<Vec<TakenOn>>,
    /// Partitions that read again what was settled before, and up to where.
    behind: Mutex<BTreeMap<Lane, i64>>,
    told: Notify,
}

impl Reached {
    /// A partition was taken on.
    pub(super) fn taken_on(&self, partition: TakenOn) {
        self.taken_on.lock().push(partition);
        self.told.notify_one();
    }

    /// The partitions that read again what was settled before, and up to where; none, nearly always.
    pub(super) fn behind(&self) -> BTreeMap<Lane, i64> {
        self.behind.lock().clone()
    }
}

/// What is known of a partition in one assignment.
#[derive(Debug)]
struct Seen {
    taken_on: TakenOn,
    /// What was last written down; -1 before the first time.
    written: i64,
    /// It reads again what was settled before, up to here.
    behind: Option<i64>,
}

/// What follows for a partition from what stands beside the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// Nothing has changed.
    Nothing,
    /// It stands below what was reached: its offset was moved, or is gone.
    Moved(Jump),
    /// What was reached lies beyond the log's end: it was another log.
    Replaced,
    /// It has come to where it was.
    CaughtUp,
    /// Somebody gave the word.
    Accepted,
}

impl Seen {
    fn new(taken_on: TakenOn) -> Seen {
        Seen { taken_on, written: -1, behind: None }
    }

    /// Whether the database is to be asked: there is something to write, or the word to wait for.
    fn is_due(&self, committed: i64) -> bool {
        committed > self.written || self.behind.is_some()
    }

    /// `committed` is what Kafka has acknowledged, `reached` what stands beside the inbox.
    fn find(&self, committed: i64, reached: i64) -> Finding {
        if reached <= committed {
            return match self.behind {
                None => Finding::Nothing,
                Some(until) if committed >= until => Finding::CaughtUp,
                Some(_) => Finding::Accepted,
            };
        }
        let TakenOn { committed: had, log, replaced, .. } = &self.taken_on;
        if self.behind.is_some() {
            Finding::Nothing
        } else if *replaced || log.as_ref().is_some_and(|log| log.end < reached) {
            Finding::Replaced
        } else {
            Finding::Moved(if had.is_some() { Jump::Back } else { Jump::Forgotten })
        }
    }
}

/// Runs until the consumer stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(database) = shared.database.clone() else { return };
    let mut keeper = Keeper { shared, database, seen: BTreeMap::new(), silent: false };
    loop {
        // What was acknowledged until the end is written down, too.
        let last = keeper.shared.is_stopping();
        let looked = inbox::bounded(keeper.look(), if last { LAST } else { inbox::OWN }).await;
        keeper.say(looked);
        if last {
            return;
        }
        let shared = keeper.shared.clone();
        tokio::select! {
            () = shared.pause(EVERY) => {}
            () = shared.reached.told.notified() => {}
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    database: Database,
    seen: BTreeMap<Lane, Seen>,
    /// The database does not answer, and that is said.
    silent: bool,
}

impl Keeper {
    fn say(&mut self, looked: Result<(), InboxError>) {
        match looked {
            Ok(()) => self.silent = false,
            Err(error) if !self.silent => {
                self.silent = true;
                tracing::warn!(
                    error = sentence(&error),
                    "what this group has reached cannot be written down (inbox.reach), so that offsets which are moved back are \
                     not noticed; everything else goes on"
                );
            }
            Err(error) => tracing::debug!(error = sentence(&error), "writing down what was reached"),
        }
    }

    async fn look(&mut self) -> Result<(), InboxError> {
        // In this order: whatever was taken on is in the engine before it is told.
        let taken_on = std::mem::take(&mut *self.shared.reached.taken_on.lock());
        self.seen.extend(taken_on.into_iter().map(|taken_on| (taken_on.lane, Seen::new(taken_on))));
        let looks = self.shared.engine().look().partitions;
        let topics = &self.shared.registered.topics;
        let lane = |look: &PartitionLook| {
            let topic = topics.iter().position(|topic| **topic == *look.topic)?;
            Some(Lane { topic: u32::try_from(topic).ok()?, partition: look.partition, epoch: look.epoch })
        };
        let looks: BTreeMap<Lane, PartitionLook> =
            looks.into_iter().filter_map(|look| Some((lane(&look)?, look))).collect();
        self.seen.retain(|lane, _| looks.contains_key(lane));
        let present: BTreeSet<Lane> = self.seen.keys().copied().collect();
        self.shared.reached.behind.lock().retain(|lane, _| present.contains(lane));
        let due: Vec<(Lane, &PartitionLook)> = looks
            .iter()
            .filter(|(lane, look)| self.seen.get(lane).is_some_and(|seen| seen.is_due(look.committed)))
            .map(|(lane, look)| (*lane, look))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let reached = self.reach(&due).await?;
        for ((lane, look), reached) in due.into_iter().zip(reached) {
            self.act(lane, look, reached).await?;
        }
        Ok(())
    }

    /// Writes down what is committed; answers with what stands.
    async fn reach(&self, due: &[(Lane, &PartitionLook)]) -> Result<Vec<i64>, InboxError> {
        let topics: Vec<&str> = due.iter().map(|(_, look)| &*look.topic).collect();
        let partitions: Vec<i32> = due.iter().map(|(_, look)| look.partition).collect();
        let offsets: Vec<i64> = due.iter().map(|(_, look)| look.committed).collect();
        let lease = self.database.lease().await?;
        let (scope, group) = (&*self.shared.registered.name, &self.shared.registered.group);
        let statement = "SELECT inbox.reach($1, $2, $3, $4, $5)";
        let row = lease.query_one(statement, &[&scope, group, &topics, &partitions, &offsets]).await?;
        let reached: Vec<i64> = row.try_get(0)?;
        lease.give_back();
        Ok(reached)
    }

    async fn act(&mut self, lane: Lane, look: &PartitionLook, reached: i64) -> Result<(), InboxError> {
        let Some(seen) = self.seen.get_mut(&lane) else { return Ok(()) };
        let (topic, partition, committed) = (&*look.topic, look.partition, look.committed);
        seen.written = committed;
        match seen.find(committed, reached) {
            Finding::Nothing => {}
            Finding::Moved(jump) => {
                seen.behind = Some(reached);
                self.shared.reached.behind.lock().insert(lane, reached);
                self.moved(look, reached, jump);
            }
            Finding::Replaced => {
                seen.written = -1;
                if !seen.taken_on.replaced {
                    tracing::error!(
                        topic,
                        partition,
                        reached,
                        "the log ends before what this consumer had reached: the topic was made anew, or its log was cut. It is \
                         read from its beginning; what of the former log was not handled is gone"
                    );
                    self.shared.registered.metrics.jumped(Jump::Replaced);
                }
                self.forget(look).await?;
            }
            Finding::CaughtUp => {
                self.settle(lane);
                tracing::warn!(topic, partition, committed, "is where it was before its offset was moved");
            }
            Finding::Accepted => {
                self.settle(lane);
                // The word forgets all of the group.
                self.seen.values_mut().for_each(|seen| seen.written = -1);
                tracing::warn!(
                    topic,
                    partition,
                    committed,
                    "somebody gave the word: what is repeated is read at full speed"
                );
            }
        }
        Ok(())
    }

    fn moved(&self, look: &PartitionLook, reached: i64, jump: Jump) {
        let (topic, partition, committed) = (&*look.topic, look.partition, look.committed);
        let (scope, group) = (&*self.shared.registered.name, &self.shared.registered.group);
        let what = match jump {
            Jump::Forgotten => {
                "Kafka has no committed offset where this consumer had come further: it has expired, or somebody deleted it, or \
                 the topic was made anew"
            }
            _ => "the committed offset lies behind what this consumer had reached: somebody has reset it",
        };
        tracing::warn!(
            topic,
            partition,
            committed,
            reached,
            "{what}. What is settled does not happen again where the handler has an inbox, and is read slowly up to where it was. \
             If that was meant, give the word: SELECT inbox.accept_reset('{scope}', '{group}', 'why'). If not, stop \
             the group's instances and set the offset to {reached}"
        );
        self.shared.registered.metrics.jumped(jump);
    }

    /// What is repeated is over.
    fn settle(&mut self, lane: Lane) {
        if let Some(seen) = self.seen.get_mut(&lane) {
            seen.behind = None;
        }
        self.shared.reached.behind.lock().remove(&lane);
    }

    /// What was reached was of another log.
    async fn forget(&self, look: &PartitionLook) -> Result<(), InboxError> {
        let lease = self.database.lease().await?;
        let (scope, group) = (&*self.shared.registered.name, &self.shared.registered.group);
        let statement = "SELECT inbox.accept_reset($1, $2, 'the log was replaced', $3, $4)";
        lease.query_one(statement, &[&scope, group, &&*look.topic, &look.partition]).await?;
        lease.give_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { topic: 0, partition: 0, epoch: 1 };

    fn seen(committed: Option<i64>, log: Option<Range<i64>>) -> Seen {
        Seen::new(TakenOn { lane: LANE, committed, log, replaced: false })
    }

    #[test]
    fn whoever_stands_where_it_was_or_beyond_is_not_moved() {
        let seen = seen(Some(100), Some(0..200));
        assert!(seen.is_due(100) && !Seen { written: 100, ..seen }.is_due(100));
        let seen = self::seen(Some(100), Some(0..200));
        assert_eq!(seen.find(100, 100), Finding::Nothing);
        assert_eq!(seen.find(130, 100), Finding::Nothing);
    }

    #[test]
    fn what_stands_below_was_moved_once_and_ends_by_itself_or_by_a_word() {
        let mut back = seen(Some(10), Some(0..200));
        assert_eq!(back.find(10, 100), Finding::Moved(Jump::Back));
        assert_eq!(seen(None, Some(0..200)).find(0, 100), Finding::Moved(Jump::Forgotten));
        assert_eq!(
            seen(Some(10), None).find(10, 100),
            Finding::Moved(Jump::Back),
            "nobody said where it ends"
        );
        (back.behind, back.written) = (Some(100), 10);
        assert!(back.is_due(10), "the word may come");
        assert_eq!(back.find(50, 100), Finding::Nothing, "it is said already");
        assert_eq!(back.find(50, 50), Finding::Accepted);
        assert_eq!(back.find(100, 100), Finding::CaughtUp);
    }

    #[test]
    fn a_log_that_ends_before_is_another() {
        assert_eq!(seen(None, Some(0..5)).find(0, 100), Finding::Replaced);
        assert_eq!(seen(Some(0), Some(0..5)).find(0, 100), Finding::Replaced);
        let mut told = seen(Some(100), Some(0..500));
        told.taken_on.replaced = true;
        assert_eq!(told.find(0, 100), Finding::Replaced);
    }
}
