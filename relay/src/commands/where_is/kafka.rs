//! The search on Kafka: records whose header `id` is the event's, from a time on, to the end that there is now.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use outbox_schema::record::header;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use crate::commands::quarantine::entry::Key;
use crate::config::Settings;
use crate::publisher::{Contact, base_config};
use crate::router::partition;

/// Limit of one question to the brokers.
const QUESTION: Duration = Duration::from_secs(10);
/// One wait for records.
const SLICE: Duration = Duration::from_millis(200);
/// How often progress is shown.
const SHOW: Duration = Duration::from_secs(1);
/// How far back where nothing says when the event was made.
const DAY: Duration = Duration::from_secs(86_400);

/// Where to look.
#[derive(Debug)]
pub struct Wanted {
    /// The topic.
    pub topic: String,
    /// The record's key, which chooses the partition.
    pub key: Option<Key>,
    /// Partitions that keys are spread over, where the relay has pinned them.
    pub partitions: Option<u32>,
    /// From when on.
    pub since: Option<Timestamp>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Search {
    /// The topic.
    pub topic: String,
    /// The partition, where one was enough.
    pub partition: Option<i32>,
    /// From when on.
    pub since: Timestamp,
    /// Records that were looked at.
    pub records: u64,
    /// Whether everything up to the end was looked at.
    pub complete: bool,
    /// The event's records.
    pub found: Vec<Found>,
}

/// One record.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The header `position`.
    pub position: Option<String>,
    /// The record's time.
    pub timestamp: Option<Timestamp>,
}

/// Looks. It joins no group and commits nothing.
///
/// # Errors
/// The brokers do not answer, or there is no such topic.
pub fn search(settings: &Settings, id: &str, wanted: Wanted, limit: Duration) -> anyhow::Result<Search> {
    let deadline = Instant::now() + limit;
    let consumer: BaseConsumer<Contact> = base_config(&settings.kafka)
        .set("group.id", "outbox-relay-metadata")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .create_with_context(Contact::default())?;
    let topic = wanted.topic.as_str();
    let since =
        wanted.since.or_else(|| Timestamp::now().checked_sub(DAY).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    let metadata = consumer.fetch_metadata(Some(topic), QUESTION).context("Kafka does not answer")?;
    let there = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    let there = there.with_context(|| format!("there is no topic {topic}, or it may not be seen"))?;
    let all: Vec<i32> = there.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    let count = wanted.partitions.or_else(|| u32::try_from(all.len()).ok()).and_then(NonZeroU32::new);
    let only = match (&wanted.key, count) {
        (Some(key), Some(count)) => Some(partition(&key.0, count)),
        (_, _) => None,
    };
    let looked: Vec<i32> = all.into_iter().filter(|number| only.is_none_or(|only| only == *number)).collect();
    let mut ends = from(&consumer, topic, &looked, since)?;
    let total: u64 = ends.values().map(|(start, end)| u64::try_from(end - start).unwrap_or(0)).sum();
    let mut search = Search {
        topic: topic.to_owned(),
        partition: only,
        since,
        records: 0,
        complete: false,
        found: Vec::new(),
    };
    ends.retain(|_, (start, end)| start < end);
    let mut shown = Instant::now();
    while !ends.is_empty() && Instant::now() < deadline {
        match consumer.poll(SLICE) {
            Some(Ok(message)) => {
                search.records += 1;
                search.look(&message, id);
                let number = message.partition();
                if ends.get(&number).is_some_and(|(_, end)| message.offset() + 1 >= *end) {
                    ends.remove(&number);
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "looking for the event"),
            // What ends with the mark of a transaction, or was compacted away, brings no last record.
            None => pass(&consumer, topic, &mut ends),
        }
        if io::stderr().is_terminal() && shown.elapsed() >= SHOW {
            shown = Instant::now();
            eprint!("\rlooked at {} of about {total} records of {topic}  ", search.records);
        }
    }
    if io::stderr().is_terminal() && total > 0 {
        eprintln!();
    }
    search.complete = ends.is_empty();
    search.found.sort_by_key(|found| (found.partition, found.offset));
    Ok(search)
}

/// Assigns the partitions from the time on; answers where each begins and ends.
fn from(
    consumer: &BaseConsumer<Contact>,
    topic: &str,
    partitions: &[i32],
    since: Timestamp,
) -> anyhow::Result<BTreeMap<i32, (i64, i64)>> {
    let mut times = TopicPartitionList::new();
    for number in partitions {
        times.add_partition_offset(topic, *number, Offset::Offset(since.as_millisecond().max(0)))?;
    }
    let begins =
        consumer.offsets_for_times(times, QUESTION).context("the topic's offsets are not to be had")?;
    let (mut assigned, mut ends) = (TopicPartitionList::new(), BTreeMap::new());
    for number in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, *number, QUESTION)?;
        let begin = begins.find_partition(topic, *number).map(|found| found.offset());
        let start = match begin {
            Some(Offset::Offset(offset)) => offset.max(low),
            // Nothing is as new.
            Some(Offset::End) => high,
            Some(_) | None => low,
        };
        assigned.add_partition_offset(topic, *number, Offset::Offset(start))?;
        ends.insert(*number, (start, high));
    }
    consumer.assign(&assigned)?;
    Ok(ends)
}

/// Lets go of partitions whose reading position has come to the end.
fn pass(consumer: &BaseConsumer<Contact>, topic: &str, ends: &mut BTreeMap<i32, (i64, i64)>) {
    let Ok(positions) = consumer.position() else { return };
    ends.retain(|number, (_, end)| {
        let position = positions.find_partition(topic, *number).map(|found| found.offset());
        !matches!(position, Some(Offset::Offset(offset)) if offset >= *end)
    });
}

impl Search {
    fn look(&mut self, message: &BorrowedMessage<'_>, id: &str) {
        let text = |name: &str| {
            let headers = message.headers()?;
            let found = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(found.value?).ok().map(str::to_owned)
        };
        if text(header::ID).as_deref() == Some(id) {
            let millis = message.timestamp().to_millis();
            self.found.push(Found {
                partition: message.partition(),
                offset: message.offset(),
                position: text(header::POSITION),
                timestamp: millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()),
            });
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let place = match self.partition {
            Some(number) => format!("topic {} partition {number}", self.topic),
            None => format!("topic {}", self.topic),
        };
        let looked = format!("{} records of {place} since {:.0}", self.records, self.since);
        let unfinished =
            if self.complete { "" } else { "; the search ran out of time (--timeout), so there may be more" };
        if self.found.is_empty() {
            return format!("on Kafka it is not among {looked}{unfinished}\n");
        }
        let mut page = format!("on Kafka it is {} times among {looked}{unfinished}\n", self.found.len());
        for found in &self.found {
            let position = found.position.as_deref().unwrap_or("none");
            let at = found.timestamp.map_or(String::new(), |at| format!(", committed {at}"));
            page += &format!(
                "  partition {} offset {}, position {position}{at}\n",
                found.partition, found.offset
            );
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_search_says_so() {
        let mut search = Search {
            topic: "t".into(),
            partition: Some(3),
            since: Timestamp::UNIX_EPOCH,
            records: 9,
            complete: false,
            found: Vec::new(),
        };
        assert!(search.text().contains("not among 9 records of topic t partition 3"), "{}", search.text());
        assert!(search.text().contains("ran out of time"));
        search.complete = true;
        let position = Some("1/0000000000000010/0".to_owned());
        search.found.push(Found { partition: 3, offset: 7, position, timestamp: None });
        let text = search.text();
        assert!(text.contains("partition 3 offset 7, position 1/0000000000000010/0\n"), "{text}");
        assert!(!text.contains("ran out"), "{text}");
    }
}
