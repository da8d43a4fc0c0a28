//! Commits of offsets: what is due, what is under way, what was answered.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::context::{Context, Signal};
use super::{Client, Commit, Room};

/// How often offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// Commits that are under way at the same time.
const AT_ONCE: usize = 16;
/// How long a commit's answer is waited for: the client's silence counts as a refusal then.
const COMMIT_ANSWER: Duration = Duration::from_secs(30);
/// How long the last commit is waited for.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(5);

/// A commit for each partition, and the number of them all.
pub(super) type Lists = (u64, Vec<TopicPartitionList>);

/// A commit whose answer has not come.
pub(super) struct Pending {
    /// An answer that comes too late has another.
    number: u64,
    commits: Vec<Commit>,
    since: Instant,
}

impl Client {
    /// One commit is under way at a time, so that each answer is known to be its own.
    pub(super) fn commit_when_due(&mut self) {
        if let Some(pending) = &self.pending {
            if pending.since.elapsed() <= COMMIT_ANSWER {
                return;
            }
            tracing::warn!(
                commits = pending.commits.len(),
                "no answer to a commit of offsets: it is made again"
            );
            self.give_up();
        }
        let mut engine = self.shared.engine();
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
        self.commits += 1;
        let number = self.commits;
        // The thread ends after this one.
        let _sent = self.committer.send((number, lists.collect()));
        self.pending = Some(Pending { number, commits, since: Instant::now() });
    }

    pub(super) fn answered(&mut self, number: u64, results: Vec<KafkaResult<()>>) {
        // Nobody waits for one that was given up: it says nothing of those behind it.
        let Some(Pending { commits, .. }) = self.pending.take_if(|pending| pending.number == number) else {
            return;
        };
        let mut engine = self.shared.engine();
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
    pub(super) fn commit_at_last(&mut self, commits: Vec<Commit>) {
        if commits.is_empty() {
            return;
        }
        // While the answer is waited for, the client is polled.
        self.pause_what_is_full();
        // An answer that is still out is not for this one.
        self.wait_for_answer();
        self.give_up();
        self.send(commits);
        self.wait_for_answer();
        if self.give_up() {
            tracing::warn!(
                "no answer to the last commit of partitions that leave: their next owner repeats a little"
            );
        }
    }

    /// What it carried of partitions that stay is to be committed again.
    fn give_up(&mut self) -> bool {
        let Some(Pending { commits, .. }) = self.pending.take() else { return false };
        let mut engine = self.shared.engine();
        commits.iter().for_each(|commit| engine.not_committed(commit));
        true
    }

    fn wait_for_answer(&mut self) {
        let deadline = Instant::now() + LAST_COMMIT;
        while self.pending.is_some() && Instant::now() < deadline {
            self.read();
            if let Some((number, results)) = self.consumer.context().answer() {
                self.answered(number, results);
            }
        }
    }
}

/// Starts the thread that commits. The client's own callback for commits is never called for those that an
/// application makes (rdkafka 0.39), and a call that waits for its answer has no limit: it may not hold up the polls.
/// A commit for each partition, because an answer for several hides which of them failed; at the same time, because the
/// broker takes its time for each, and handlers may be waiting. Ends with the client.
pub(super) fn committer(consumer: Arc<BaseConsumer<Context>>) -> mpsc::Sender<Lists> {
    let (sender, receiver) = mpsc::channel::<Lists>();
    let commit = move || {
        for (number, lists) in receiver {
            let results = lists.chunks(AT_ONCE).flat_map(|lists| commit_at_once(&consumer, lists)).collect();
            consumer.context().tell(Signal::Committed(number, results));
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
