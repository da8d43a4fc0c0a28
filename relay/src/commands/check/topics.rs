//! The state topic and the topics of events: whether they are there, and what they do to records.

use std::collections::HashMap;

use super::cluster::{Presence, Topic};
use super::finding::{Area, Finding};
use crate::commands::words::{bytes, seconds};
use crate::config::{KafkaSettings, Settings};
use crate::state::MAX_RECORD_BYTES;

/// Retention below this loses events to a consumer that is down over a weekend's night.
const SHORT: f64 = 86_400.0;
/// What a batch adds to a state record, generously.
const BATCH: i64 = 4096;

/// The number in a setting; `None` where it is not set or not known.
fn number(entries: &HashMap<String, String>, name: &str) -> Option<i64> {
    entries.get(name)?.parse().ok()
}

fn alter(kafka: &KafkaSettings, topic: &str, set: &str) -> String {
    format!(
        "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {set}",
        kafka.brokers
    )
}

fn create(kafka: &KafkaSettings, topic: &str, partitions: &str, brokers: usize) -> String {
    let (replicas, in_sync) = if brokers >= 3 { (3, 2) } else { (brokers.max(1), 1) };
    format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {topic} --partitions {partitions} \
         --replication-factor {replicas} --config min.insync.replicas={in_sync}",
        kafka.brokers
    )
}

/// The state topic.
pub fn judge_state(topic: &Topic, brokers: usize, settings: &Settings) -> Vec<Finding> {
    let kafka = &settings.kafka;
    let name = &topic.name;
    let mut findings = Vec::new();
    let replicas = match &topic.presence {
        Presence::Missing => {
            let seen =
                "is not there yet; the first start makes it, compacted, for which its user needs the right";
            let partitions = settings.state.partitions.to_string();
            let command =
                format!("{} --config cleanup.policy=compact", create(kafka, name, &partitions, brokers));
            return vec![
                Finding::note(Area::Topics, "state-topic-missing", name, seen)
                    .advised("nothing; or make it yourself", command),
            ];
        }
        Presence::Unknown(why) => return vec![unseen(kafka, name, why)],
        Presence::There { partitions, replicas, leaderless } => {
            findings.extend(leaderless_finding(kafka, name, *leaderless));
            findings.extend(state_partitions(kafka, name, *partitions, settings.state.partitions));
            *replicas
        }
    };
    let entries = match &topic.settings {
        Ok(entries) => entries,
        Err(why) => {
            findings.push(settings_unseen(kafka, name, why));
            return findings;
        }
    };
    let policy = entries.get("cleanup.policy").map_or("", String::as_str);
    if policy == "compact" {
        findings.push(Finding::ok(
            Area::Topics,
            "state-topic",
            name,
            "is there, compacted: the relay's memory stays",
        ));
    } else {
        let seen = format!("has cleanup.policy={policy}: Kafka would delete what the relay remembers");
        findings.push(
            Finding::error(Area::Topics, "state-topic-not-compacted", name, seen)
                .mend("compact it, and nothing else", alter(kafka, name, "cleanup.policy=compact")),
        );
    }
    let largest = number(entries, "max.message.bytes");
    let needed = i64::try_from(MAX_RECORD_BYTES).unwrap_or(i64::MAX) + BATCH;
    if let Some(largest) = largest.filter(|largest| *largest < needed) {
        let seen =
            format!("takes messages up to {}; a state record may grow to {}", bytes(largest), bytes(needed));
        findings.push(
            Finding::warning(Area::Topics, "state-topic-small", name, seen)
                .mend("raise it", alter(kafka, name, "max.message.bytes=1048588")),
        );
    }
    findings.extend(in_sync(kafka, name, replicas, brokers, entries));
    findings
}

/// Whether each lane has its partition.
fn state_partitions(kafka: &KafkaSettings, name: &str, found: u32, needed: u32) -> Option<Finding> {
    (found < needed).then(|| {
        let seen = format!(
            "has {found} partitions, and the lanes need {needed}; the next start adds them, for which its user needs \
             the right to alter it"
        );
        Finding::note(Area::Topics, "state-topic-partitions", name, seen).advised(
            "nothing; or add them yourself: each lane's memory is in the partition of its number, so none moves",
            format!(
                "kafka-topics.sh --bootstrap-server {} --alter --topic {name} --partitions {needed}",
                kafka.brokers
            ),
        )
    })
}

/// A topic of events. `pinned` is the partition count that its keys are spread over, `oldest` the age in
/// seconds of the oldest event known to be unpublished.
pub fn judge_event(
    topic: &Topic,
    pinned: Option<u32>,
    oldest: Option<f64>,
    brokers: usize,
    settings: &Settings,
) -> Vec<Finding> {
    let kafka = &settings.kafka;
    let name = &topic.name;
    let (partitions, replicas, leaderless) = match &topic.presence {
        Presence::Missing => return vec![missing(settings, name, pinned, brokers)],
        Presence::Unknown(why) => return vec![unseen(kafka, name, why)],
        Presence::There { partitions, replicas, leaderless } => (*partitions, *replicas, *leaderless),
    };
    let mut findings = Vec::new();
    let seen = match pinned {
        Some(pinned) => {
            format!("{partitions} partitions, keys are spread over {pinned}; {replicas} replicas")
        }
        None => format!("{partitions} partitions, {replicas} replicas"),
    };
    findings.push(Finding::ok(Area::Topics, "topic", name, seen));
    findings.extend(leaderless_finding(kafka, name, leaderless));
    findings.extend(pinned.and_then(|pinned| pin(kafka, name, partitions, pinned)));
    match &topic.settings {
        Ok(entries) => {
            findings.extend(record_size(kafka, name, entries));
            findings.extend(in_sync(kafka, name, replicas, brokers, entries));
            findings.extend(retention(kafka, name, entries, oldest));
            findings.extend(times(kafka, name, entries, oldest));
        }
        Err(why) => findings.push(settings_unseen(kafka, name, why)),
    }
    findings
}

fn missing(settings: &Settings, name: &str, pinned: Option<u32>, brokers: usize) -> Finding {
    if pinned.is_none() && settings.topics.create {
        let partitions = settings.topics.partitions;
        let seen = format!(
            "does not exist: the relay makes it before its first event, with {partitions} partitions"
        );
        return Finding::note(Area::Topics, "topic-missing", name, seen);
    }
    let finding = Finding::error(
        Area::Topics,
        "topic-missing",
        name,
        "does not exist: the relay waits for it, and everything behind the first event for it waits too",
    );
    match pinned {
        Some(pinned) => finding.mend(
            "make it, with the partitions that its keys are spread over",
            create(&settings.kafka, name, &pinned.to_string(), brokers),
        ),
        None => finding.mend(
            "make it as `topics` of the configuration says, or set topics.create",
            format!("outbox-relay topics create {name}"),
        ),
    }
}

fn unseen(kafka: &KafkaSettings, name: &str, why: &str) -> Finding {
    Finding::error(Area::Topics, "topic-unseen", name, format!("cannot be looked at: {why}")).mend(
        "allow the relay's user to describe and write it",
        format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:<user> --producer --topic {name}",
            kafka.brokers
        ),
    )
}

fn settings_unseen(kafka: &KafkaSettings, name: &str, why: &str) -> Finding {
    Finding::note(
        Area::Topics,
        "topic-settings-unseen",
        name,
        format!("its limits and retention could not be read: {why}"),
    )
    .advised(
        "allow the relay's user to read them; publishing does not need it",
        format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:<user> --operation DescribeConfigs --topic {name}",
            kafka.brokers
        ),
    )
}

fn leaderless_finding(kafka: &KafkaSettings, name: &str, leaderless: u32) -> Option<Finding> {
    (leaderless > 0).then(|| {
        Finding::error(
            Area::Topics,
            "topic-leaderless",
            name,
            format!("{leaderless} partitions have no leader: nothing can be written to them"),
        )
        .mend(
            "bring the brokers back that hold their replicas",
            format!(
                "kafka-topics.sh --bootstrap-server {} --describe --topic {name} --unavailable-partitions",
                kafka.brokers
            ),
        )
    })
}

fn pin(kafka: &KafkaSettings, name: &str, partitions: u32, pinned: u32) -> Option<Finding> {
    let alter = format!(
        "kafka-topics.sh --bootstrap-server {} --alter --topic {name} --partitions {pinned}",
        kafka.brokers
    );
    match partitions.cmp(&pinned) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(
            Finding::error(
                Area::Topics,
                "topic-shrunk",
                name,
                format!("has {partitions} partitions, but its keys are spread over {pinned}: it was made anew, and the relay halts"),
            )
            .mend("give it as many as it had", alter),
        ),
        std::cmp::Ordering::Greater => Some(Finding::note(
            Area::Topics,
            "topic-grown",
            name,
            format!("has grown to {partitions} partitions; keys stay on the first {pinned}, so that none overtakes itself"),
        )),
    }
}

fn record_size(kafka: &KafkaSettings, name: &str, entries: &HashMap<String, String>) -> Option<Finding> {
    let ours = i64::try_from(kafka.max_record_bytes).unwrap_or(i64::MAX);
    let limit = number(entries, "max.message.bytes").filter(|limit| *limit < ours)?;
    Some(
        Finding::error(
            Area::Topics,
            "topic-record-limit",
            name,
            format!(
                "takes messages up to {limit} bytes, and kafka.max_record_bytes is {ours}: a record between is refused by \
                 the broker, and the relay stops before it"
            ),
        )
        .mend(
            "raise the topic's limit, or lower kafka.max_record_bytes",
            alter(kafka, name, &format!("max.message.bytes={}", ours.saturating_add(1024))),
        ),
    )
}

fn in_sync(
    kafka: &KafkaSettings,
    name: &str,
    replicas: usize,
    brokers: usize,
    entries: &HashMap<String, String>,
) -> Vec<Finding> {
    let minimum = number(entries, "min.insync.replicas").and_then(|minimum| usize::try_from(minimum).ok());
    let in_sync = |minimum: usize| alter(kafka, name, &format!("min.insync.replicas={minimum}"));
    let warning = |code, seen: String| Finding::warning(Area::Topics, code, name, seen);
    let mut findings = Vec::new();
    match minimum {
        Some(minimum) if minimum > replicas => findings.push(
            Finding::error(
                Area::Topics,
                "topic-insync-impossible",
                name,
                format!("min.insync.replicas is {minimum} and there are {replicas} replicas: nothing can be written"),
            )
            .mend("lower it, or add replicas", in_sync(replicas.saturating_sub(1).max(1))),
        ),
        _ if replicas <= 1 => findings.push(
            warning(
                "topic-unreplicated",
                "has one replica: with its broker's disk the events on it are lost, and when its broker ends within a \
                 commit Kafka 4.3 may leave that undecided (KAFKA-20734)"
                    .into(),
            )
            .mend(
                if brokers >= 3 { "give it three replicas" } else { "add brokers, then give it three replicas" },
                format!(
                    "kafka-reassign-partitions.sh --bootstrap-server {} --reassignment-json-file <three replicas for each \
                     partition of {name}> --execute",
                    kafka.brokers
                ),
            ),
        ),
        Some(minimum) if minimum == replicas => findings.push(
            warning(
                "topic-insync-all",
                format!("min.insync.replicas is {minimum}, as many as there are replicas: publishing stops with any broker"),
            )
            .mend("one less than replicas survives one broker", in_sync(replicas - 1)),
        ),
        Some(..=1) => findings.push(
            warning(
                "topic-insync-one",
                "min.insync.replicas is 1: an event counts as published when a single broker has it".into(),
            )
            .mend("ask for two", in_sync(2)),
        ),
        Some(_) | None => {}
    }
    if entries.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        findings.push(
            warning(
                "topic-unclean-election",
                "unclean.leader.election.enable is true: a broker that lacks published events may become leader, and they are lost"
                    .into(),
            )
            .mend("turn it off", alter(kafka, name, "unclean.leader.election.enable=false")),
        );
    }
    findings
}

fn retention(
    kafka: &KafkaSettings,
    name: &str,
    entries: &HashMap<String, String>,
    oldest: Option<f64>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let policy = entries.get("cleanup.policy").map_or("delete", String::as_str);
    if policy.contains("compact") {
        let seen = format!(
            "has cleanup.policy={policy}: of each key only the newest event is kept for ever; a consumer that is late misses \
             those between"
        );
        findings.push(Finding::note(Area::Topics, "topic-compacted", name, seen).advised(
            "fine where an event is the whole state of its key; else",
            alter(kafka, name, "cleanup.policy=delete"),
        ));
    }
    if !policy.contains("delete") {
        return findings;
    }
    if number(entries, "retention.bytes").is_some_and(|limit| limit >= 0) {
        let seen = "retention.bytes is set: under load events go earlier than retention.ms says";
        findings.push(
            Finding::note(Area::Topics, "topic-retention-bytes", name, seen)
                .advised("keep events by time alone", alter(kafka, name, "retention.bytes=-1")),
        );
    }
    let Some(kept) = number(entries, "retention.ms").filter(|kept| *kept >= 0) else { return findings };
    // Far below 2^53 for any time that is waited for.
    let kept = kept as f64 / 1000.0;
    let longer = alter(kafka, name, "retention.ms=604800000");
    match oldest {
        Some(oldest) if oldest >= kept => findings.push(
            Finding::error(
                Area::Topics,
                "topic-retention-passed",
                name,
                format!(
                    "keeps records for {}, and unpublished events are {} old: a record has the time of its commit, so that \
                     Kafka would delete them at once",
                    seconds(kept),
                    seconds(oldest)
                ),
            )
            .mend("raise it before the relay starts", longer),
        ),
        Some(oldest) if oldest * 2.0 >= kept => findings.push(
            Finding::warning(
                Area::Topics,
                "topic-retention-near",
                name,
                format!("keeps records for {}, and unpublished events are {} old", seconds(kept), seconds(oldest)),
            )
            .mend("raise it before the oldest are deleted as soon as they are published", longer),
        ),
        _ if kept < SHORT => findings.push(
            Finding::warning(
                Area::Topics,
                "topic-retention-short",
                name,
                format!("keeps records for {}: a consumer that is down for longer loses events", seconds(kept)),
            )
            .mend("keep them for longer than any outage", longer),
        ),
        Some(_) | None => {}
    }
    findings
}

/// Limits on how far a record's time may be from the broker's.
fn times(
    kafka: &KafkaSettings,
    name: &str,
    entries: &HashMap<String, String>,
    oldest: Option<f64>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if entries.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
        let seen = "message.timestamp.type is LogAppendTime: records carry the broker's time, not that of the commit";
        findings.push(
            Finding::note(Area::Topics, "topic-append-time", name, seen)
                .advised("to see commit times", alter(kafka, name, "message.timestamp.type=CreateTime")),
        );
        return findings;
    }
    // Brokers before 3.6 have one limit for both directions.
    let before = ["message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"];
    if let Some((setting, limit)) = before.iter().find_map(|name| Some((*name, number(entries, name)?)))
        && let Some(oldest) = oldest
        && oldest >= limit as f64 / 1000.0
    {
        let seen = format!(
            "refuses records older than {} ({setting}), and unpublished events are {} old: the relay would halt",
            seconds(limit as f64 / 1000.0),
            seconds(oldest)
        );
        findings.push(
            Finding::error(Area::Topics, "topic-time-before", name, seen)
                .mend("lift the limit", alter(kafka, name, &format!("{setting}=9223372036854775807"))),
        );
    }
    if let Some(limit) = number(entries, "message.timestamp.after.max.ms").filter(|limit| *limit < 60_000) {
        let seen = format!(
            "refuses records that are {limit} ms ahead of the broker's clock: a small skew halts the relay"
        );
        findings.push(Finding::warning(Area::Topics, "topic-time-after", name, seen).mend(
            "allow an hour, as brokers do",
            alter(kafka, name, "message.timestamp.after.max.ms=3600000"),
        ));
    }
    findings
}
