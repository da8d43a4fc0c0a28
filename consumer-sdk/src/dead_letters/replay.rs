//! Replays a dead letter in the order of its key: its record is fetched from the dead-letter topic and written, with
//! the marker of its key, into the park of the failing scope. Live events of the key queue behind it from that commit
//! on, and nothing is published, so no other group meets the event again (C36).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_postgres::{Client, IsolationLevel};

use super::client::{Quiet, Reader};
use super::evidence::{Evidence, Reading, replayable};
use super::projected::letter_of;
use super::record::{Record, for_park};

/// How long Kafka may take to give a record.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a copy of a letter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The dead-letter topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The copy's offset.
    pub offset: i64,
}

/// Why a letter's record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// All copies are gone, or are records of something else.
    #[error(
        "no copy of dead letter {letter} is left on Kafka (looked at {looked}): its topic's retention has passed, so it \
         cannot be replayed; discard it with a reason"
    )]
    Gone {
        /// The letter.
        letter: String,
        /// The places.
        looked: String,
    },
    /// Kafka does not answer, or refuses.
    #[error("Kafka did not give the record of a dead letter")]
    Kafka(#[from] KafkaError),
    /// Kafka does not answer.
    #[error("Kafka did not give the record at {place} within 30 s")]
    Late {
        /// Where it stands.
        place: String,
    },
}

/// Fetches single records.
pub struct Fetcher {
    consumer: Arc<Reader>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher on the cluster of these client settings. It is in no group and commits nothing.
    ///
    /// # Errors
    /// What the client says of its settings.
    pub fn new(config: &ClientConfig) -> Result<Fetcher, KafkaError> {
        let mut config = config.clone();
        // A group has to be named to be assigned a partition by hand; it is never joined.
        config.set("group.id", "outbox-dlq").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false").set("fetch.wait.max.ms", "20");
        config.set("queued.max.messages.kbytes", "1024");
        Ok(Fetcher { consumer: Arc::new(config.create_with_context(Quiet::default())?) })
    }

    /// The record of a letter: of its copies the first that is still there. A copy counts only if it is of this
    /// letter, for a topic may have been deleted and made again.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, letter: &str, copies: &[Copy]) -> Result<Record, FetchError> {
        for copy in copies {
            let found = self.at(copy).await?;
            if let Some(record) = found.filter(|record| letter_of(record).as_deref() == Some(letter)) {
                return Ok(record);
            }
        }
        let looked: Vec<String> = copies
            .iter()
            .map(|copy| super::evidence::place_name(&copy.topic, copy.partition, copy.offset))
            .collect();
        Err(FetchError::Gone { letter: letter.to_owned(), looked: looked.join(", ") })
    }

    /// The record at a place; `None` where there is none any more.
    async fn at(&self, copy: &Copy) -> Result<Option<Record>, FetchError> {
        if !self.is_kept(copy).await? {
            return Ok(None);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&copy.topic, copy.partition, Offset::Offset(copy.offset))?;
        self.consumer.assign(&list)?;
        let record = tokio::time::timeout(PATIENCE, self.next()).await;
        self.consumer.unassign()?;
        let place = || super::evidence::place_name(&copy.topic, copy.partition, copy.offset);
        let record = record.map_err(|_| FetchError::Late { place: place() })??;
        Ok(record.filter(|record| record.offset == copy.offset && record.topic == copy.topic))
    }

    async fn next(&self) -> Result<Option<Record>, FetchError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => return Ok(Some(Record::read(&message))),
                Err(KafkaError::PartitionEOF(_)) => return Ok(None),
                // Retention may have passed between two questions.
                Err(error)
                    if error.rdkafka_error_code()
                        == Some(rdkafka::error::RDKafkaErrorCode::AutoOffsetReset) =>
                {
                    return Ok(None);
                }
                Err(error) => tracing::warn!(%error, "Kafka does not answer well; waiting for it"),
            }
        }
    }

    async fn is_kept(&self, copy: &Copy) -> Result<bool, FetchError> {
        let (consumer, copy) = (Arc::clone(&self.consumer), copy.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let (low, high) = consumer.fetch_watermarks(&copy.topic, copy.partition, PATIENCE)?;
            Ok(low <= copy.offset && copy.offset < high)
        });
        match asked.await.unwrap_or(Err(KafkaError::Canceled)) {
            Err(error) if is_no_topic(&error) => Ok(false),
            answer => Ok(answer?),
        }
    }
}

fn is_no_topic(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    let none = [Code::UnknownTopicOrPartition, Code::UnknownTopic, Code::UnknownPartition];
    error.rdkafka_error_code().is_some_and(|code| none.contains(&code))
}

/// A letter that is to be replayed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its scope.
    pub scope: &'a str,
    /// Its name.
    pub letter: &'a str,
    /// Partition and offset of the source record, where they are known.
    pub source: Option<(i32, i64)>,
    /// Why.
    pub reason: &'a str,
    /// The highest number that a replay of it may have.
    pub most: i32,
}

/// Why a letter is not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The database refuses this letter; the sentence is its own.
    #[error("{0}")]
    Refused(String),
    /// It was replayed too often.
    #[error(
        "dead letter {letter} was replayed {times} times and is dead again: find out why, or raise --max-replays for one \
         more"
    )]
    Loop {
        /// The letter.
        letter: String,
        /// How often.
        times: i32,
    },
    /// PostgreSQL is away, or refuses everything.
    #[error(
        "PostgreSQL did not take the replay; what was replayed before stands, and another run goes on there"
    )]
    Sql(#[from] tokio_postgres::Error),
}

/// Writes the replay: settlement, marker, parked event and audit in one transaction. Answers its number.
///
/// # Errors
/// [`ReplayError`]; nothing is changed then, except perhaps by a COMMIT whose answer was lost. Another run then finds
/// the letter replaying and leaves it.
pub async fn park(client: &mut Client, wanted: Wanted<'_>, record: &Record) -> Result<i32, ReplayError> {
    let begun = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    let (partition, offset) = wanted.source.unwrap_or((record.partition, record.offset));
    let time = source_time(record).and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let headers = for_park(&replayable(&record.headers));
    // An event without a key waits for no other: it is parked by its id, as the consumer parks it.
    let call = "SELECT inbox.replay_parked($1, $2, $3, $4, $5, $6, $7, $8, $9::text::json, \
                (SELECT uuid_send(l.id) FROM inbox.dead_letter AS l \
                 WHERE l.scope = $1 AND l.letter = $2 AND $7::bytea IS NULL))";
    let (scope, letter) = (wanted.scope, wanted.letter);
    begun
        .query_one(
            call,
            &[
                &scope,
                &letter,
                &wanted.reason,
                &partition,
                &offset,
                &time,
                &record.key,
                &record.value,
                &headers,
            ],
        )
        .await
        .map_err(refused)?;
    let number = "SELECT replay FROM inbox.dead_letter WHERE scope = $1 AND letter = $2";
    let number: i32 = begun.query_one(number, &[&scope, &letter]).await?.get(0);
    if number > wanted.most {
        begun.rollback().await?;
        return Err(ReplayError::Loop { letter: letter.to_owned(), times: number - 1 });
    }
    begun.commit().await?;
    Ok(number)
}

/// When the source record was written; the copy's own time is when it failed.
fn source_time(record: &Record) -> Option<i64> {
    match Evidence::read(&record.headers) {
        Reading::Own(evidence) => evidence.timestamp,
        Reading::Foreign(foreign) => foreign.timestamp,
        Reading::Damaged(_) | Reading::None => None,
    }
}

/// What concerns this letter alone keeps no other back: a wrong argument, no such letter, its state, a full park.
fn refused(error: tokio_postgres::Error) -> ReplayError {
    const OF_A_LETTER: [&str; 4] = ["22023", "IB002", "IB003", "54000"];
    match error.as_db_error() {
        Some(said) if OF_A_LETTER.contains(&said.code().code()) => {
            ReplayError::Refused(sentence(said.message()))
        }
        Some(_) | None => ReplayError::Sql(error),
    }
}

/// The server's sentence without the name of the schema before it.
pub fn sentence(message: &str) -> String {
    message.strip_prefix("inbox: ").unwrap_or(message).to_owned()
}
