//! Name and settings of a dead-letter topic.
//!
//! It is made on purpose, with the source's partitions and replication: one that a broker makes by itself has one
//! partition, little replication and a short retention (C17). One that is there already is looked at and never changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outbox_kafka_link::Unwaited;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::Quiet;
use super::evidence;

/// How long dead letters stay unless the owner's window says otherwise.
pub const RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// What Kafka allows for the name of a topic.
const LONGEST: usize = 249;
/// How long the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The group cannot stand in the name of a topic.
    #[error(
        "dead letters of group {group:?} would have the topic {name:?}, and a topic's name has only letters, digits, \
         '.', '_' and '-': give the consumer a group of such characters"
    )]
    Illegal {
        /// The group.
        group: String,
        /// The name.
        name: String,
    },
    /// The name is too long.
    #[error(
        "the dead-letter topic {name:?} would have {} characters and Kafka allows 249: give the consumer a shorter group",
        name.len()
    )]
    TooLong {
        /// The name.
        name: String,
    },
}

/// Why the topic cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no source.
    #[error(
        "topic {source_topic} does not exist, so its dead-letter topic cannot be made like it: create it first"
    )]
    NoSource {
        /// The source topic.
        source_topic: String,
    },
    /// Kafka does not answer, or refuses.
    #[error("Kafka did not {what}")]
    Kafka {
        /// What was asked.
        what: &'static str,
        /// What came back.
        #[source]
        source: KafkaError,
    },
}

/// What is wrong with a topic that is there already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Concern {
    /// It has fewer partitions than the source.
    #[error(
        "dead-letter topic {topic} has {has} partitions and its source has {wants}: letters of several source partitions \
         share one; `kafka-topics.sh --alter --partitions {wants}` adds the missing ones"
    )]
    FewerPartitions {
        /// The topic.
        topic: String,
        /// Its partitions.
        has: i32,
        /// The source's.
        wants: i32,
    },
    /// It forgets too early.
    #[error(
        "dead-letter topic {topic} keeps records for {} h and {} h are wanted: letters that nobody decided on are gone \
         after that and cannot be replayed; raise its retention.ms", has.as_secs() / 3600, wants.as_secs() / 3600
    )]
    ShorterRetention {
        /// The topic.
        topic: String,
        /// What it keeps.
        has: Duration,
        /// What is wanted.
        wants: Duration,
    },
    /// It is compacted.
    #[error(
        "dead-letter topic {topic} is compacted, so a letter displaces the former one of its key: set cleanup.policy to \
         delete"
    )]
    Compacted {
        /// The topic.
        topic: String,
    },
    /// It takes smaller records than the source and the evidence together.
    #[error(
        "dead-letter topic {topic} takes records of {has} bytes and {wants} may come: raise its max.message.bytes, or a \
         large record cannot be dead-lettered and its partition stands still"
    )]
    SmallerRecords {
        /// The topic.
        topic: String,
        /// Its limit.
        has: u64,
        /// The source's limit and the evidence.
        wants: u64,
    },
}

/// `<topic>.<group>.dlq`.
///
/// # Errors
/// [`NameError`] where that is no name of a topic.
pub fn name(topic: &str, group: &str) -> Result<String, NameError> {
    let name = format!("{topic}.{group}.dlq");
    if group.is_empty() || !name.chars().all(is_legal_in_a_name) {
        return Err(NameError::Illegal { group: group.to_owned(), name });
    }
    if name.len() > LONGEST { Err(NameError::TooLong { name }) } else { Ok(name) }
}

/// Whether a text can be the name of a topic.
pub fn is_legal(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len()) && name.chars().all(is_legal_in_a_name)
}

fn is_legal_in_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._-".contains(character)
}

/// Whether a topic may hold dead letters of this group, by its name. Dots stand in both parts, so `a.b.c.dlq` may be
/// of group `c` or `b.c`: what decides is the group in the evidence (C13).
pub fn may_be_of(topic: &str, group: &str) -> bool {
    topic
        .strip_suffix(".dlq")
        .and_then(|rest| rest.strip_suffix(group))
        .is_some_and(|rest| rest.strip_suffix('.').is_some_and(|source| !source.is_empty()))
}

/// A dead-letter topic that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// What is wrong with it; said at the start, and no reason not to begin.
    pub concerns: Vec<Concern>,
}

/// Makes the dead-letter topic of a source where it is missing, and looks at one that is there.
///
/// # Errors
/// [`TopicError`]; broker trouble is one to try again after.
pub async fn prepare(
    config: &ClientConfig,
    source: &str,
    group: &str,
    retention: Duration,
) -> Result<Prepared, TopicError> {
    let name = name(source, group)?;
    let kafka = |what| move |source| TopicError::Kafka { what, source };
    let admin: AdminClient<Quiet> =
        config.create_with_context(Quiet::default()).map_err(kafka("take the client's settings"))?;
    let admin = Arc::new(Unwaited::new(admin));
    let topics = shapes(&admin).await?;
    let no_source = || TopicError::NoSource { source_topic: source.to_owned() };
    let &(partitions, replication) = topics.get(source).ok_or_else(no_source)?;
    let settings = settings(&admin, source).await?;
    let limit =
        settings.get("max.message.bytes").and_then(|text| text.parse::<u64>().ok()).unwrap_or(1_048_588);
    let wanted = Wanted { partitions, retention, bytes: limit + evidence::MOST as u64 };
    let has = match topics.get(&name) {
        Some(&(has, _)) => has,
        None => {
            let in_sync = settings.get("min.insync.replicas").map_or("1", String::as_str);
            create(&admin, &name, replication, &wanted, in_sync).await?;
            partitions
        }
    };
    let concerns = wanted.compare(&name, has, &self::settings(&admin, &name).await?);
    Ok(Prepared { name, partitions: has, concerns })
}

#[derive(Debug)]
struct Wanted {
    partitions: i32,
    retention: Duration,
    bytes: u64,
}

impl Wanted {
    fn compare(&self, topic: &str, partitions: i32, settings: &HashMap<String, String>) -> Vec<Concern> {
        let topic = || topic.to_owned();
        let mut concerns = Vec::new();
        if partitions < self.partitions {
            concerns.push(Concern::FewerPartitions {
                topic: topic(),
                has: partitions,
                wants: self.partitions,
            });
        }
        // -1 is for ever; what is no number is not shown to us.
        let kept =
            settings.get("retention.ms").and_then(|text| text.parse::<u64>().ok()).map(Duration::from_millis);
        if let Some(has) = kept.filter(|kept| *kept < self.retention) {
            concerns.push(Concern::ShorterRetention { topic: topic(), has, wants: self.retention });
        }
        if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            concerns.push(Concern::Compacted { topic: topic() });
        }
        let bytes = settings.get("max.message.bytes").and_then(|text| text.parse::<u64>().ok());
        if let Some(has) = bytes.filter(|bytes| *bytes < self.bytes) {
            concerns.push(Concern::SmallerRecords { topic: topic(), has, wants: self.bytes });
        }
        concerns
    }
}

/// How long a question is waited for that has an answer of its own where none comes.
const SHORT: Duration = Duration::from_secs(3);

/// How long a topic keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// For so long.
    For(Duration),
    /// For ever, or the newest of each key for ever.
    ForEver,
    /// We may not see it.
    NotShown,
}

/// Asks how long a topic keeps its records.
///
/// # Errors
/// [`TopicError::Kafka`].
pub async fn kept(config: &ClientConfig, topic: &str) -> Result<Kept, TopicError> {
    let failed = |source| TopicError::Kafka { what: "take the client's settings", source };
    let admin: AdminClient<Quiet> = config.create_with_context(Quiet::default()).map_err(failed)?;
    let admin = Unwaited::new(admin);
    let settings = tokio::time::timeout(SHORT, settings(&admin, topic)).await;
    let settings =
        settings.unwrap_or(Err(failed(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))))?;
    let compacted = settings.get("cleanup.policy").is_some_and(|policy| policy == "compact");
    Ok(match settings.get("retention.ms").map(String::as_str) {
        _ if compacted => Kept::ForEver,
        Some("-1") => Kept::ForEver,
        Some(text) => text.parse().map_or(Kept::NotShown, |millis| Kept::For(Duration::from_millis(millis))),
        None => Kept::NotShown,
    })
}

/// Partitions and replicas of every topic. Of all, since asking for one by name makes it where brokers may.
async fn shapes(
    admin: &Arc<Unwaited<AdminClient<Quiet>>>,
) -> Result<HashMap<String, (i32, i32)>, TopicError> {
    let asked = Arc::clone(admin);
    let answer = tokio::task::spawn_blocking(move || {
        let metadata = asked.inner().fetch_metadata(None, PATIENCE)?;
        let count = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        let shape = |topic: &rdkafka::metadata::MetadataTopic| {
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).max();
            (topic.name().to_owned(), (count(topic.partitions().len()), count(replicas.unwrap_or(1))))
        };
        Ok(metadata.topics().iter().filter(|topic| !topic.partitions().is_empty()).map(shape).collect())
    });
    let answer = answer.await.unwrap_or(Err(KafkaError::Canceled));
    answer.map_err(|source| TopicError::Kafka { what: "name its topics", source })
}

async fn settings(admin: &AdminClient<Quiet>, topic: &str) -> Result<HashMap<String, String>, TopicError> {
    let failed = |source| TopicError::Kafka { what: "show the settings of a topic", source };
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let answers =
        admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.map_err(failed)?;
    let mut found = HashMap::new();
    for answer in answers {
        // Whoever may not see the settings may still write: what is not known is no concern. A topic that was just
        // made may not be known to every broker yet.
        let Ok(resource) = answer else { continue };
        found.extend(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(found)
}

async fn create(
    admin: &AdminClient<Quiet>,
    name: &str,
    replication: i32,
    wanted: &Wanted,
    in_sync: &str,
) -> Result<(), TopicError> {
    let failed = |source| TopicError::Kafka { what: "create the dead-letter topic", source };
    let (retention, bytes) = (wanted.retention.as_millis().to_string(), wanted.bytes.to_string());
    let topic = NewTopic::new(name, wanted.partitions, TopicReplication::Fixed(replication))
        .set("cleanup.policy", "delete")
        .set("retention.ms", &retention)
        .set("max.message.bytes", &bytes)
        .set("min.insync.replicas", in_sync);
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    for answer in admin.create_topics([&topic], &options).await.map_err(failed)? {
        match answer {
            // Another instance was first.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_or_refused_with_a_sentence() {
        assert_eq!(name("outbox.event.order", "inventory").unwrap(), "outbox.event.order.inventory.dlq");
        let error = name("orders", "my group").unwrap_err().to_string();
        assert!(error.contains("\"my group\"") && error.contains("give the consumer a group"), "{error}");
        assert!(name("orders", "").is_err());
        let (fits, too_long) = ("g".repeat(249 - 11), "g".repeat(250 - 11));
        assert_eq!(name("orders", &fits).unwrap().len(), 249);
        let error = name("orders", &too_long).unwrap_err().to_string();
        assert!(error.contains("250 characters") && error.contains("shorter group"), "{error}");
    }

    #[test]
    fn a_topic_may_be_of_more_than_one_group() {
        assert!(may_be_of("a.b.c.dlq", "c") && may_be_of("a.b.c.dlq", "b.c"));
        assert!(!may_be_of("a.b.c.dlq", "a.b.c") && !may_be_of("abc.dlq", "c") && !may_be_of("a.c", "c"));
    }

    #[test]
    fn what_is_wrong_with_an_existing_topic_is_said() {
        let wanted = Wanted { partitions: 6, retention: RETENTION, bytes: 2_000_000 };
        let settings = |list: [(&str, &str); 3]| {
            list.into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect::<HashMap<_, _>>()
        };
        let good = [("retention.ms", "-1"), ("cleanup.policy", "delete"), ("max.message.bytes", "2000000")];
        assert_eq!(wanted.compare("t", 6, &settings(good)), []);
        assert_eq!(wanted.compare("t", 6, &HashMap::new()), []);
        let bad = [
            ("retention.ms", "3600000"),
            ("cleanup.policy", "compact,delete"),
            ("max.message.bytes", "1000"),
        ];
        let said: Vec<String> =
            wanted.compare("t", 1, &settings(bad)).iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4);
        assert!(said[0].contains("has 1 partitions and its source has 6"), "{said:?}");
        assert!(said[1].contains("for 1 h and 336 h are wanted"), "{said:?}");
    }
}
