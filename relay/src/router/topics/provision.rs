//! How a topic is made: what the configuration asks for, where the cluster allows it.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::cluster::{Brokers, Cluster, Made};
use crate::config::TopicSettings;

/// Replicas of a topic unless configured, where there are as many brokers.
const REPLICATION: usize = 3;

/// How one topic is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provision {
    /// Its partitions.
    pub partitions: usize,
    /// Replicas of each.
    pub replication: usize,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// Its configuration by Kafka's names.
    pub options: Vec<(String, String)>,
    /// Why it has fewer replicas than it should.
    pub lowered: Option<String>,
}

/// Why a topic was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// No topic can have this name.
    #[error("Kafka takes no topic of this name, or it differs from an existing one in `.` and `_` only")]
    Illegal,
    /// The cluster cannot or will not, for now; the sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
}

/// What the configuration asks for, as far as these brokers can give it.
///
/// # Errors
/// They cannot give what was asked for explicitly, or some of them are away.
pub fn provision(settings: &TopicSettings, brokers: Brokers) -> Result<Provision, String> {
    let Brokers { live, known } = brokers;
    let replication = settings.replication.unwrap_or(REPLICATION.min(known.max(1)));
    if replication > live {
        return Err(match settings.replication {
            Some(asked) => format!(
                "topics.replication = {asked} needs as many brokers, and {live} of the cluster answer: start \
                 the others, or set a smaller number"
            ),
            // A topic made now would have too few replicas for ever.
            None => format!(
                "{live} of the cluster's {known} brokers answer, and it is to have {replication} replicas: \
                 start the others, or set topics.replication to what the cluster is to give"
            ),
        });
    }
    let usual = if replication >= REPLICATION { 2 } else { 1 };
    let min_insync_replicas = settings.min_insync_replicas.unwrap_or(usual);
    if min_insync_replicas > replication {
        return Err(format!(
            "topics.min_insync_replicas = {min_insync_replicas} is more than the {replication} replicas that \
             it would have on {known} broker(s): set a smaller number, or add brokers"
        ));
    }
    let lowered = (settings.replication.is_none() && replication < REPLICATION).then(|| {
        format!(
            "it has {replication} replica(s), of which {min_insync_replicas} must be in sync, instead of \
             {REPLICATION} and 2: the cluster has {known} broker(s)"
        )
    });
    let mut options = vec![("min.insync.replicas".to_owned(), min_insync_replicas.to_string())];
    options.extend(settings.retention.map(|span| ("retention.ms".to_owned(), span.as_millis().to_string())));
    options.extend(settings.options.iter().cloned());
    Ok(Provision { partitions: settings.partitions, replication, min_insync_replicas, options, lowered })
}

/// Makes a topic as configured; answers how many partitions it then has at least.
///
/// # Errors
/// It was not made; the caller says why and tries again.
pub fn make(cluster: &Cluster, settings: &TopicSettings, topic: &str) -> Result<(Made, u32), NotMade> {
    let silent = |error: KafkaError| NotMade::Refused(format!("topic {topic} is to be made: {error}"));
    let brokers = cluster.brokers().map_err(silent)?;
    let provision = provision(settings, brokers)
        .map_err(|why| NotMade::Refused(format!("topic {topic} cannot be made: {why}")))?;
    match cluster.create(topic, &provision) {
        Ok(Made::Before) => Ok((Made::Before, 1)),
        Ok(Made::Now) => {
            let Provision { partitions, replication, min_insync_replicas, .. } = provision;
            tracing::info!(topic, partitions, replication, min_insync_replicas, "made a topic");
            if let Some(why) = provision.lowered {
                tracing::warn!("topic {topic} was made, but {why}");
            }
            Ok((Made::Now, u32::try_from(partitions).unwrap_or(u32::MAX)))
        }
        Err(KafkaError::AdminOp(code)) => Err(refused(topic, code)),
        Err(error) => Err(silent(error)),
    }
}

/// The cluster's refusal in words.
fn refused(topic: &str, code: RDKafkaErrorCode) -> NotMade {
    let advice = match code {
        RDKafkaErrorCode::InvalidTopic => return NotMade::Illegal,
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "grant the relay's principal the right Create on it (or on the cluster), or make it yourself"
        }
        RDKafkaErrorCode::PolicyViolation => {
            "the cluster's policy for new topics does not allow what `topics` in the configuration asks for"
        }
        RDKafkaErrorCode::InvalidConfig => "topics.options holds what the brokers do not take",
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "there are fewer brokers than topics.replication asks for"
        }
        RDKafkaErrorCode::InvalidPartitions => "the brokers do not take topics.partitions",
        _ => "trying again",
    };
    NotMade::Refused(format!("topic {topic} was not made: {code}; {advice}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::router::fixture;

    fn asked(change: impl FnOnce(&mut TopicSettings)) -> TopicSettings {
        let mut settings = fixture::topics();
        change(&mut settings);
        settings
    }

    fn brokers(live: usize, known: usize) -> Brokers {
        Brokers { live, known }
    }

    #[test]
    fn three_replicas_where_the_cluster_allows() {
        let usual = asked(|_| ());
        for (live, replication, in_sync, lowered) in
            [(1, 1, 1, true), (2, 2, 1, true), (3, 3, 2, false), (9, 3, 2, false)]
        {
            let made = provision(&usual, brokers(live, live)).unwrap();
            let found = (made.replication, made.min_insync_replicas, made.lowered.is_some());
            assert_eq!(found, (replication, in_sync, lowered), "{live} brokers");
            assert_eq!(made.partitions, 12);
            assert_eq!(made.options[0], ("min.insync.replicas".to_owned(), in_sync.to_string()));
        }
    }

    #[test]
    fn a_broker_that_is_away_is_waited_for() {
        let why = provision(&asked(|_| ()), brokers(2, 3)).unwrap_err();
        assert!(why.contains("2 of the cluster's 3 brokers"), "{why}");
        // Beyond three it does not matter.
        assert_eq!(provision(&asked(|_| ()), brokers(3, 5)).unwrap().replication, 3);
    }

    #[test]
    fn what_was_asked_for_is_given_or_waited_for() {
        let three = asked(|settings| settings.replication = Some(3));
        assert!(provision(&three, brokers(1, 1)).unwrap_err().contains("topics.replication = 3"));
        let one = asked(|settings| settings.replication = Some(1));
        let made = provision(&one, brokers(3, 3)).unwrap();
        assert_eq!((made.replication, made.min_insync_replicas, made.lowered), (1, 1, None));
        let two_in_sync = asked(|settings| settings.min_insync_replicas = Some(2));
        let why = provision(&two_in_sync, brokers(1, 1)).unwrap_err();
        assert!(why.contains("topics.min_insync_replicas = 2"), "{why}");
        assert_eq!(provision(&two_in_sync, brokers(2, 2)).unwrap().min_insync_replicas, 2);
    }

    #[test]
    fn retention_and_options_are_the_topics() {
        let settings = asked(|settings| {
            settings.retention = Some(Duration::from_secs(60));
            settings.options = vec![("cleanup.policy".into(), "compact".into())];
        });
        let options = provision(&settings, brokers(3, 3)).unwrap().options;
        let names: Vec<_> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["min.insync.replicas=2", "retention.ms=60000", "cleanup.policy=compact"]);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let why = refused("t", RDKafkaErrorCode::ClusterAuthorizationFailed).to_string();
        assert!(why.contains("right Create") && why.contains("topic t"), "{why}");
        assert!(refused("t", RDKafkaErrorCode::PolicyViolation).to_string().contains("policy"));
        assert_eq!(refused("t", RDKafkaErrorCode::InvalidTopic), NotMade::Illegal);
    }
}
