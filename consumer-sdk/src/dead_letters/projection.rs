//! Reads dead-letter topics into `inbox.dead_letter`.
//!
//! A copy that is known changes nothing, so reading may begin anew anywhere: offsets are committed (group
//! `<group>.dlq-projection`) after the SQL commit, only to spare work. For the same reason partitions are assigned and
//! not subscribed to: two projections at once do the same twice and nobody waits for a rebalance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::client::{Quiet, Reader};
use super::foreign::Adoption;
use super::projected::{OtherGroup, Projected, evidence_of};
use super::record::Record;
use super::topic::may_be_of;

/// Rows that are written in one transaction.
const BATCH: usize = 500;
/// How long a batch waits for more.
const LINGER: Duration = Duration::from_millis(200);
/// How often new dead-letter topics are looked for while following.
const LOOK: Duration = Duration::from_secs(30);
/// How long Kafka may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a batch is tried again after a deadlock with another projection.
const TRIES: usize = 10;

/// One statement for all rows of a batch, in their order; answers how many were new.
const PROJECT: &str = "
    SELECT count(*) FILTER (WHERE inbox.project_dead_letter(
               r.scope, r.letter, r.copy_topic, r.copy_partition, r.copy_offset, r.copy_time, r.source_topic, r.cause,
               r.error, r.owner, r.deadline, attempts => r.attempts, first_failed_at => r.first_failed_at,
               last_failed_at => r.last_failed_at, id => r.id, created => r.created, event_type => r.event_type,
               handler => r.handler, source_partition => r.source_partition, source_offset => r.source_offset,
               key => decode(r.key, 'hex'), replay => r.replay))
      FROM json_to_recordset($1::text::json) AS r(
               scope text, letter text, copy_topic text, copy_partition integer, copy_offset bigint,
               copy_time timestamptz, source_topic text, cause text, error text, owner text, deadline timestamptz,
               attempts integer, first_failed_at timestamptz, last_failed_at timestamptz, id uuid, created timestamptz,
               event_type text, handler text, source_partition integer, source_offset bigint, key text, replay integer)";

/// Why a projection ended.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Kafka does not answer, or refuses.
    #[error("Kafka did not {what}")]
    Kafka {
        /// What was asked.
        what: &'static str,
        /// What came back.
        #[source]
        source: KafkaError,
    },
    /// PostgreSQL does not answer, or refuses all rows.
    #[error("PostgreSQL did not take up dead letters; what it has stays, and the next run goes on there")]
    Sql(#[from] tokio_postgres::Error),
}

/// What a projection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that were read.
    pub read: u64,
    /// Copies that were not known before.
    pub new: u64,
    /// Records that were not taken up: topic and reason, how many, and where the first of them stands.
    pub refused: BTreeMap<(String, String), (u64, String)>,
}

impl Report {
    fn refuse(&mut self, topic: &str, reason: String, place: String) {
        let entry = self.refused.entry((topic.to_owned(), reason)).or_insert((0, place));
        entry.0 += 1;
    }
}

/// A reader of one group's dead-letter topics.
pub struct Projection {
    consumer: Arc<Reader>,
    group: String,
    adoption: Adoption,
}

impl std::fmt::Debug for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Projection")
            .field("group", &self.group)
            .field("adoption", &self.adoption)
            .finish_non_exhaustive()
    }
}

impl Projection {
    /// A projection of the dead letters of `group`. `adoption` is for letters of other frameworks and damaged ones.
    ///
    /// # Errors
    /// [`ProjectionError::Kafka`] where the settings are none.
    pub fn new(
        config: &ClientConfig,
        group: &str,
        adoption: Adoption,
    ) -> Result<Projection, ProjectionError> {
        let mut config = config.clone();
        config.set("group.id", format!("{group}.dlq-projection"));
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false");
        // A letter is read once and kept as a short row.
        config.set("queued.max.messages.kbytes", "16384");
        let failed = |source| ProjectionError::Kafka { what: "take the client's settings", source };
        let consumer = Arc::new(config.create_with_context(Quiet::default()).map_err(failed)?);
        Ok(Projection { consumer, group: group.to_owned(), adoption })
    }

    /// The topics that by their names may hold dead letters of the group.
    ///
    /// # Errors
    /// [`ProjectionError::Kafka`].
    pub async fn topics(&self) -> Result<BTreeSet<String>, ProjectionError> {
        let shapes = self.shapes().await?;
        Ok(shapes.into_keys().filter(|topic| may_be_of(topic, &self.group)).collect())
    }

    /// Reads one topic up to its end.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub async fn catch_up(&self, client: &Client, topic: &str) -> Result<Report, ProjectionError> {
        let mut report = Report::default();
        let topics = BTreeSet::from([topic.to_owned()]);
        self.read(client, &topics, Until::End, &mut report).await?;
        Ok(report)
    }

    /// Reads topics until `stop`, and those of the group that come meanwhile. Each round's report goes to `told`.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub async fn follow(
        &self,
        client: &Client,
        named: &BTreeSet<String>,
        stop: impl Future<Output = ()>,
        mut told: impl FnMut(&Report),
    ) -> Result<(), ProjectionError> {
        let mut stop = pin!(stop);
        loop {
            let mut topics = self.topics().await?;
            topics.extend(named.iter().cloned());
            let mut report = Report::default();
            let round = self.read(client, &topics, Until::Time(Instant::now() + LOOK), &mut report);
            let stopped = tokio::select! {
                biased;
                () = &mut stop => true,
                outcome = round => { outcome?; false }
            };
            told(&report);
            if stopped {
                return Ok(());
            }
        }
    }

    async fn read(
        &self,
        client: &Client,
        topics: &BTreeSet<String>,
        until: Until,
        report: &mut Report,
    ) -> Result<(), ProjectionError> {
        let mut partitions = self.assign(topics).await?;
        let mut at_end = BTreeSet::new();
        let mut batch = Batch::default();
        let mut heard = Instant::now();
        loop {
            let came = tokio::time::timeout(LINGER, self.consumer.recv()).await;
            if let Ok(Ok(_) | Err(KafkaError::PartitionEOF(_))) = &came {
                heard = Instant::now();
            }
            match came {
                Ok(Ok(message)) => {
                    let record = Record::read(&message);
                    at_end.remove(&message.partition());
                    drop(message);
                    self.take(&record, &mut batch, report);
                }
                Ok(Err(KafkaError::PartitionEOF(partition))) => {
                    at_end.insert(partition);
                }
                Ok(Err(error)) if is_final(&error) => {
                    return Err(ProjectionError::Kafka { what: "show its dead letters", source: error });
                }
                Ok(Err(error)) => tracing::warn!(%error, "Kafka does not answer well; waiting for it"),
                Err(_quiet) if until.is_stalled(heard) => {
                    let left = partitions - at_end.len();
                    tracing::warn!(left, "partitions do not come to their end; asking for them anew");
                    // Where the last commit stands: nothing of this batch is lost, and what comes twice is known.
                    partitions = self.assign(topics).await?;
                    at_end.clear();
                    heard = Instant::now();
                }
                Err(_quiet) => {}
            }
            let over = until.is_over(at_end.len(), partitions);
            if over || batch.is_due() {
                self.write(client, std::mem::take(&mut batch), report).await?;
            }
            if over {
                return Ok(());
            }
        }
    }

    /// A record becomes a row, or is refused; its offset is passed either way.
    fn take(&self, record: &Record, batch: &mut Batch, report: &mut Report) {
        report.read += 1;
        batch.began.get_or_insert_with(Instant::now);
        batch.next.insert((record.topic.clone(), record.partition), record.offset + 1);
        match evidence_of(record, &self.group, &self.adoption) {
            Ok(evidence) => batch.rows.push(Projected::new(record, &evidence)),
            Err(OtherGroup(theirs)) => {
                let place = super::evidence::place_name(&record.topic, record.partition, record.offset);
                report.refuse(&record.topic, format!("of group {theirs}, not of {}", self.group), place);
            }
        }
    }

    /// Rows first, then the offsets: a crash in between repeats rows, which changes nothing.
    async fn write(&self, client: &Client, batch: Batch, report: &mut Report) -> Result<(), ProjectionError> {
        report.new += project(client, &batch.rows, report).await?;
        if !batch.next.is_empty() {
            self.commit(batch.next).await;
        }
        Ok(())
    }

    /// A commit that fails costs work only. In a thread of its own: the client waits for it without a limit.
    async fn commit(&self, next: HashMap<(String, i32), i64>) {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in &next {
            if let Err(error) = list.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
                tracing::warn!(%error, "an offset cannot be committed");
            }
        }
        let consumer = Arc::clone(&self.consumer);
        let commit = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync));
        match tokio::time::timeout(PATIENCE, commit).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "offsets of the projection are not committed; some letters are read again");
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("offsets of the projection are not committed in time"),
        }
    }

    /// Assigns all partitions of the topics, each where the last run ended. Answers how many they are.
    async fn assign(&self, topics: &BTreeSet<String>) -> Result<usize, ProjectionError> {
        let failed = |source| ProjectionError::Kafka { what: "give its dead-letter topics", source };
        let shapes = self.shapes().await?;
        let mut list = TopicPartitionList::new();
        for topic in topics {
            let missing = || failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
            let partitions = shapes.get(topic).ok_or_else(missing)?;
            for partition in 0..*partitions {
                list.add_partition(topic, partition);
            }
        }
        let begins = self.begins(list).await.map_err(failed)?;
        self.consumer.assign(&begins).map_err(failed)?;
        Ok(begins.count())
    }

    /// Where each partition is begun: where the last run ended, else at its beginning. Asked for here and not left to
    /// the assignment, which gives a partition up without a word where the group's coordinator is not there yet.
    async fn begins(&self, list: TopicPartitionList) -> Result<TopicPartitionList, KafkaError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (consumer, asked) = (Arc::clone(&self.consumer), list.clone());
            let answer = tokio::task::spawn_blocking(move || consumer.committed_offsets(asked, PATIENCE));
            let answer = answer.await.unwrap_or(Err(KafkaError::Canceled)).and_then(|committed| {
                let mut begins = TopicPartitionList::new();
                for element in committed.elements() {
                    element.error()?;
                    let offset = match element.offset() {
                        Offset::Offset(offset) => Offset::Offset(offset),
                        _ => Offset::Beginning,
                    };
                    begins.add_partition_offset(element.topic(), element.partition(), offset)?;
                }
                Ok(begins)
            });
            match answer {
                Err(error) if Instant::now() < deadline && !is_final(&error) => {
                    tracing::debug!(%error, "committed offsets are asked for again");
                    tokio::time::sleep(LINGER).await;
                }
                answer => return answer,
            }
        }
    }

    /// Partitions of every topic. Of all, since asking for one by name may make it.
    async fn shapes(&self) -> Result<HashMap<String, i32>, ProjectionError> {
        let consumer = Arc::clone(&self.consumer);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = consumer.fetch_metadata(None, PATIENCE)?;
            let shape = |topic: &rdkafka::metadata::MetadataTopic| {
                (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
            };
            Ok(metadata.topics().iter().map(shape).collect())
        });
        let answer = asked.await.unwrap_or(Err(KafkaError::Canceled));
        answer.map_err(|source| ProjectionError::Kafka { what: "name its topics", source })
    }
}

#[derive(Debug, Clone, Copy)]
enum Until {
    End,
    Time(Instant),
}

impl Until {
    fn is_over(self, at_end: usize, partitions: usize) -> bool {
        match self {
            Until::End => at_end >= partitions,
            Until::Time(at) => Instant::now() >= at,
        }
    }

    /// Whether an end that has to come has not come for too long: the client gives a partition up after some errors.
    /// Who follows asks anew anyway.
    fn is_stalled(self, heard: Instant) -> bool {
        match self {
            Until::End => heard.elapsed() > PATIENCE,
            Until::Time(_) => false,
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    rows: Vec<Projected>,
    /// The offset to go on at, of each partition.
    next: HashMap<(String, i32), i64>,
    began: Option<Instant>,
}

impl Batch {
    fn is_due(&self) -> bool {
        self.rows.len() >= BATCH || self.began.is_some_and(|began| began.elapsed() >= LINGER)
    }
}

/// Whether waiting does not help.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Fatal
        )
    )
}

/// Writes rows in one transaction; where the database refuses one of them, one by one, so that it keeps no other back.
///
/// # Errors
/// The database is away, or refuses for another reason than a row's content.
pub async fn project(
    client: &Client,
    rows: &[Projected],
    report: &mut Report,
) -> Result<u64, tokio_postgres::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let error = match write_all(client, rows).await {
        Ok(new) => return Ok(new),
        Err(error) => error,
    };
    if !is_of_a_row(&error) {
        return Err(error);
    }
    let mut new = 0;
    for row in rows {
        match write_all(client, std::slice::from_ref(row)).await {
            Ok(count) => new += count,
            Err(error) if is_of_a_row(&error) => {
                let said =
                    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned());
                report.refuse(&row.copy_topic, format!("refused by PostgreSQL: {said}"), row.place());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(new)
}

/// Two projections that meet in other orders can deadlock; what was rolled back is written again.
async fn write_all(client: &Client, rows: &[Projected]) -> Result<u64, tokio_postgres::Error> {
    let document = serde_json::to_string(rows).expect("texts and numbers become JSON");
    let mut tries = 0;
    loop {
        match client.query_one(PROJECT, &[&document]).await {
            Ok(row) => return Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)),
            Err(error) => {
                let again = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
                tries += 1;
                if tries == TRIES || !error.code().is_some_and(|code| again.contains(code)) {
                    return Err(error);
                }
            }
        }
    }
}

/// Classes 22 (data exception), 23 (constraint) and 54 (too large for an index): what a row holds.
fn is_of_a_row(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
}
