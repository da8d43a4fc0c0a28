//! Where a partition begins: at its committed offset, if the log has it.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::Client;
use crate::metrics::Jump;

/// Limit of one question to the cluster.
const ASK: Duration = Duration::from_secs(5);
/// Limit of a question that can do without an answer.
const ASK_BESIDE: Duration = Duration::from_secs(2);

/// Where a partition begins, and why there.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The text beside the committed offset, where that is where it begins.
    pub(super) text: Vec<u8>,
    /// What the group has committed.
    pub(super) committed: Option<i64>,
    /// Where its log begins and ends, where that was answered.
    pub(super) log: Option<Range<i64>>,
    /// The log was seen to be another than the one that was committed in.
    another: bool,
}

/// A partition whose position is not in its log.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) jump: Jump,
    /// Records in hand that are not settled.
    pub(super) unsettled: usize,
}

impl Beginning {
    /// Why it does not begin where it was left, where that is so.
    fn jump(&self) -> Option<Jump> {
        if self.another { Some(Jump::Replaced) } else { jump(self.committed, self.log.as_ref()) }
    }

    /// Whether it begins anew, because its log ends before what was committed.
    pub(super) fn is_of_another_log(&self) -> bool {
        self.jump() == Some(Jump::Replaced)
    }
}

/// What a committed offset that is not in the log says of it.
fn jump(committed: Option<i64>, log: Option<&Range<i64>>) -> Option<Jump> {
    let (committed, log) = committed.zip(log)?;
    if committed < log.start {
        Some(Jump::Deleted)
    } else if committed > log.end {
        Some(Jump::Replaced)
    } else {
        None
    }
}

impl Client {
    /// Where each partition begins; those whose log is known to be another begin with what there is of it.
    pub(super) fn beginnings(
        &self,
        partitions: &TopicPartitionList,
        replaced: &[(String, i32)],
    ) -> KafkaResult<Vec<Beginning>> {
        let committed = self.consumer.committed_offsets(partitions.clone(), ASK)?;
        // Whoever does not answer has no part in where to begin, as long as something is committed.
        let logs = self.logs(partitions, ASK_BESIDE).unwrap_or_else(|error| {
            tracing::debug!(%error, "asking where the logs begin and end");
            HashMap::new()
        });
        let mut beginnings = Vec::new();
        for element in committed.elements() {
            element.error()?;
            let (topic, partition) = (element.topic().to_owned(), element.partition());
            let (committed, mut text) = match element.offset() {
                // The client panics on text that is no UTF-8, which another may have written.
                Offset::Offset(offset) => {
                    let text =
                        panic::catch_unwind(AssertUnwindSafe(|| element.metadata().as_bytes().to_vec()));
                    (Some(offset), text.unwrap_or_default())
                }
                _ => (None, Vec::new()),
            };
            let mut log = logs.get(&(topic.clone(), partition)).cloned();
            let another = replaced.iter().any(|(name, number)| *name == topic && *number == partition);
            let jumped = another || jump(committed, log.as_ref()).is_some();
            // What would undo the committed offset is asked once more.
            if jumped || committed.is_none() && log.is_none() {
                let (start, end) = self.consumer.fetch_watermarks(&topic, partition, ASK)?;
                log = Some(start..end);
            }
            let offset = match (committed, &log) {
                (Some(committed), log) if !another && jump(Some(committed), log.as_ref()).is_none() => {
                    committed
                }
                // With what there is: where nothing was ever committed (C35), and where that is not in the log.
                (committed, log) => {
                    text.clear();
                    log.as_ref().map_or(committed.unwrap_or_default(), |log| log.start)
                }
            };
            beginnings.push(Beginning { topic, partition, offset, text, committed, log, another });
        }
        Ok(beginnings)
    }

    /// Tells that a partition does not begin where it was left because its log has not got that any more.
    pub(super) fn say_what_is_gone(&self, beginning: &Beginning) {
        let Beginning { topic, partition, offset, committed, log, .. } = beginning;
        let Some(jump) = beginning.jump() else { return };
        let committed = committed.unwrap_or_default();
        self.shared.registered.metrics.jumped(jump);
        if jump == Jump::Deleted {
            tracing::error!(
                topic,
                partition,
                committed,
                begins = offset,
                "records were deleted before this consumer read them: their events have no effect here. The topic keeps its \
                 records for less time than this group was behind or away: keep them longer, and publish the events between the two \
                 offsets again from their table"
            );
        } else {
            tracing::error!(
                topic,
                partition,
                committed,
                ends = log.as_ref().map(|log| log.end),
                "the log ends before what this group had committed: the topic was made anew, or its log was cut. It is read \
                 from its beginning; what of the former log was not handled is gone"
            );
        }
    }

    /// The partitions whose position is not in their log.
    pub(super) fn strays(&self) -> KafkaResult<Vec<Stray>> {
        let assigned = self.consumer.assignment()?;
        if assigned.count() == 0 {
            return Ok(Vec::new());
        }
        let logs = self.logs(&assigned, ASK_BESIDE)?;
        let positions = self.consumer.position()?;
        let looks = self.shared.engine().look().partitions;
        let mut strays = Vec::new();
        for element in positions.elements() {
            let (topic, partition) = (element.topic().to_owned(), element.partition());
            let look = looks.iter().find(|look| *look.topic == *topic && look.partition == partition);
            let position = match element.offset() {
                Offset::Offset(position) => Some(position),
                // Nothing was read yet of one without a position.
                _ => look.map(|look| look.committed),
            };
            let unsettled = look.map_or(0, |look| look.unsettled);
            if let Some(jump) = jump(position, logs.get(&(topic.clone(), partition))) {
                strays.push(Stray { topic, partition, jump, unsettled });
            }
        }
        Ok(strays)
    }

    /// Where the logs of partitions begin and end, for whoever reads committed records; one question to each broker for
    /// each of the two. A partition that does not answer is left out.
    fn logs(
        &self,
        partitions: &TopicPartitionList,
        limit: Duration,
    ) -> KafkaResult<HashMap<(String, i32), Range<i64>>> {
        // Asked for the times -2 and -1 a broker answers with beginning and end.
        let mut ends = self.bounds(partitions, Offset::End, limit)?;
        let begins = self.bounds(partitions, Offset::Beginning, limit)?;
        let both = begins.into_iter().filter_map(|(place, begin)| {
            let end = ends.remove(&place)?;
            Some((place, begin..end))
        });
        Ok(both.collect())
    }

    fn bounds(
        &self,
        partitions: &TopicPartitionList,
        which: Offset,
        limit: Duration,
    ) -> KafkaResult<HashMap<(String, i32), i64>> {
        let mut question = TopicPartitionList::with_capacity(partitions.count());
        for element in partitions.elements() {
            question.add_partition_offset(element.topic(), element.partition(), which)?;
        }
        let answer = self.consumer.offsets_for_times(question, limit)?;
        let known = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (
            element.error(),
            element.offset(),
        ) {
            (Ok(()), Offset::Offset(offset)) => {
                Some(((element.topic().to_owned(), element.partition()), offset))
            }
            _ => None,
        };
        Ok(answer.elements().iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_in_the_log_from_its_beginning_to_one_past_its_last_record() {
        for (committed, expected) in [
            (Some(9), Some(Jump::Deleted)),
            (Some(10), None),
            (Some(20), None),
            (Some(21), Some(Jump::Replaced)),
            (None, None),
        ] {
            assert_eq!(jump(committed, Some(&(10..20))), expected, "{committed:?}");
        }
        assert_eq!(jump(Some(5), None), None, "what is not known says nothing");
    }
}
