//! Topics, judged from facts.

use std::collections::HashMap;

use super::cluster::{Presence, Topic};
use super::fixture::{codes, settings};
use super::topics::{judge_event, judge_state};

const DAY: &str = "86400000";

/// A topic as it should be, with changes.
fn topic(replicas: usize, changes: &[(&str, &str)]) -> Topic {
    let mut entries: HashMap<String, String> = [
        ("cleanup.policy", "delete"),
        ("max.message.bytes", "1048588"),
        ("min.insync.replicas", "2"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "-1"),
        ("message.timestamp.type", "CreateTime"),
        ("message.timestamp.before.max.ms", "9223372036854775807"),
        ("message.timestamp.after.max.ms", "3600000"),
        ("unclean.leader.election.enable", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    entries.extend(changes.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    let presence = Presence::There { partitions: 12, replicas, leaderless: 0 };
    Topic { name: "outbox.event.order".into(), presence, settings: Ok(entries) }
}

fn found(topic: &Topic, pinned: Option<u32>, oldest: Option<f64>) -> Vec<&'static str> {
    codes(&judge_event(topic, pinned, oldest, 3, &settings()))
}

#[test]
fn each_fault_of_a_topic_has_its_finding() {
    assert_eq!(found(&topic(3, &[]), Some(12), None), [""; 0]);
    type Change = (&'static str, &'static str);
    let cases: &[(usize, Change, &str)] = &[
        (3, ("max.message.bytes", "100000"), "topic-record-limit"),
        (1, ("min.insync.replicas", "1"), "topic-unreplicated"),
        (3, ("min.insync.replicas", "1"), "topic-insync-one"),
        (3, ("min.insync.replicas", "3"), "topic-insync-all"),
        (1, ("min.insync.replicas", "2"), "topic-insync-impossible"),
        (3, ("unclean.leader.election.enable", "true"), "topic-unclean-election"),
        (3, ("cleanup.policy", "compact"), "topic-compacted"),
        (3, ("retention.bytes", "1073741824"), "topic-retention-bytes"),
        (3, ("retention.ms", "3600000"), "topic-retention-short"),
        (3, ("message.timestamp.type", "LogAppendTime"), "topic-append-time"),
        (3, ("message.timestamp.after.max.ms", "1000"), "topic-time-after"),
    ];
    for (replicas, change, code) in cases {
        assert_eq!(found(&topic(*replicas, &[*change]), Some(12), None), [*code], "{change:?}");
    }
}

#[test]
fn a_topic_that_is_not_there_is_made_with_the_partitions_it_had() {
    let missing = Topic { presence: Presence::Missing, ..topic(3, &[]) };
    let findings = judge_event(&missing, Some(7), None, 3, &settings());
    assert_eq!(codes(&findings), ["topic-missing"]);
    let command = findings[0].command.as_ref().unwrap();
    assert!(
        command.contains("--partitions 7 --replication-factor 3 --config min.insync.replicas=2"),
        "{command}"
    );
    let denied = Topic { presence: Presence::Unknown("TopicAuthorizationFailed".into()), ..missing };
    assert_eq!(found(&denied, None, None), ["topic-unseen"]);
}

#[test]
fn partitions_are_compared_with_the_pin() {
    assert_eq!(found(&topic(3, &[]), Some(24), None), ["topic-shrunk"]);
    assert_eq!(found(&topic(3, &[]), Some(6), None), ["topic-grown"]);
    let leaderless = Presence::There { partitions: 12, replicas: 3, leaderless: 2 };
    assert_eq!(found(&Topic { presence: leaderless, ..topic(3, &[]) }, None, None), ["topic-leaderless"]);
    let unseen = Topic { settings: Err("denied".into()), ..topic(3, &[]) };
    assert_eq!(found(&unseen, None, None), ["topic-settings-unseen"]);
}

#[test]
fn events_older_than_a_topic_keeps_are_an_error() {
    let kept = topic(3, &[("retention.ms", DAY)]);
    assert_eq!(found(&kept, None, Some(90_000.0)), ["topic-retention-passed"]);
    assert_eq!(found(&kept, None, Some(50_000.0)), ["topic-retention-near"]);
    assert_eq!(found(&kept, None, Some(60.0)), [""; 0]);
    assert_eq!(found(&topic(3, &[("retention.ms", "-1")]), None, Some(1e9)), [""; 0]);
    let refusing = topic(3, &[("message.timestamp.before.max.ms", DAY)]);
    assert_eq!(found(&refusing, None, Some(90_000.0)), ["topic-time-before"]);
}

#[test]
fn the_state_topic_has_to_be_compacted() {
    let state = |topic: &Topic| codes(&judge_state(topic, 3, &settings()));
    assert_eq!(state(&topic(3, &[("cleanup.policy", "compact")])), [""; 0]);
    assert_eq!(state(&topic(3, &[])), ["state-topic-not-compacted"]);
    assert_eq!(state(&topic(3, &[("cleanup.policy", "compact,delete")])), ["state-topic-not-compacted"]);
    let small = topic(3, &[("cleanup.policy", "compact"), ("max.message.bytes", "100000")]);
    assert_eq!(state(&small), ["state-topic-small"]);
    let missing = Topic { presence: Presence::Missing, ..topic(3, &[]) };
    assert_eq!(state(&missing), ["state-topic-missing"]);
}
