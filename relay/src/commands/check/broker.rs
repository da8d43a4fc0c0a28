//! What the brokers' settings and the transaction log mean for a relay.

use std::collections::BTreeSet;

use super::cluster::{Entries, Presence};
use super::finding::{Area, Finding};
use crate::config::{Guarantee, Settings};

/// The topic that transactions are kept in; the state record is written in one.
pub const TRANSACTIONS: &str = "__transaction_state";

/// Says that nobody answers.
pub fn unreachable(settings: &Settings, why: &str) -> Finding {
    Finding::error(
        Area::Kafka,
        "kafka-unreachable",
        &settings.kafka.brokers,
        format!("no broker answers: {why}"),
    )
    .mend(
        "check kafka.brokers, the network, and security.protocol and sasl.* under kafka.options",
        format!("kafka-broker-api-versions.sh --bootstrap-server {}", settings.kafka.brokers),
    )
}

/// What the brokers say of themselves.
pub fn judge(
    settings: &Settings,
    brokers: &[i32],
    entries: &[(i32, Entries)],
    transactions: &Presence,
) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        Area::Kafka,
        "kafka",
        &settings.kafka.brokers,
        format!("{} brokers", brokers.len()),
    )];
    let bootstrap = &settings.kafka.brokers;
    let unseen: BTreeSet<&str> =
        entries.iter().filter_map(|(_, entries)| entries.as_ref().err().map(String::as_str)).collect();
    if !unseen.is_empty() {
        let why = unseen.into_iter().collect::<Vec<_>>().join("; ");
        findings.push(
            Finding::note(Area::Kafka, "broker-settings-unseen", "brokers", format!("their settings could not be read: {why}"))
                .advised(
                    "allow the relay's user to read them, or ask who runs the cluster",
                    format!("kafka-acls.sh --bootstrap-server {bootstrap} --add --allow-principal User:<user> --operation DescribeConfigs --cluster"),
                ),
        );
    }
    let with = |name: &str, wrong: &dyn Fn(&str) -> bool| -> Vec<String> {
        let found = entries.iter().filter(|(_, entries)| {
            entries.as_ref().ok().and_then(|entries| entries.get(name)).is_some_and(|value| wrong(value))
        });
        found.map(|(id, _)| id.to_string()).collect()
    };
    let creating = with("auto.create.topics.enable", &|value| value == "true");
    if !creating.is_empty() {
        findings.push(
            Finding::warning(
                Area::Kafka,
                "auto-create-topics",
                "auto.create.topics.enable",
                format!(
                    "is true on broker {}: a consumer or another producer that misspells a topic makes it, with the \
                     default partitions. The relay never does",
                    creating.join(", ")
                ),
            )
            .mend("set it in the brokers' server.properties and restart them", "auto.create.topics.enable=false"),
        );
    }
    findings.extend(transaction_log(brokers.len(), entries, transactions));
    if settings.delivery.guarantee == Guarantee::ExactlyOnce {
        findings.extend(exactly_once(settings, entries));
    }
    findings
}

/// What exactly one delivery asks of the brokers and of who reads. The rights are those that the state record needs in any
/// case: to describe and write the transactional id, and to write the topics.
fn exactly_once(settings: &Settings, entries: &[(i32, Entries)]) -> Vec<Finding> {
    let ours = settings.delivery.transaction_timeout.as_millis();
    let longest = entries.iter().filter_map(|(_, entries)| {
        entries.as_ref().ok()?.get("transaction.max.timeout.ms")?.parse::<u128>().ok()
    });
    let readers = Finding::note(
        Area::Kafka,
        "read-committed",
        "delivery.guarantee",
        "is exactly_once: an event is seen once by consumers that read with isolation.level=read_committed, and no others",
    )
    .advised(
        "set it in every consumer of these topics; librdkafka and this project's SDK have it by default, Java's consumers do not",
        "isolation.level=read_committed",
    );
    let too_short = longest.min().filter(|longest| *longest < ours).map(|longest| {
        Finding::error(
            Area::Kafka,
            "transaction-timeout",
            "transaction.max.timeout.ms",
            format!(
                "is {longest} on a broker, and delivery.transaction_timeout asks for {ours}: the relay's transactions would be \
                 refused, and it would publish nothing"
            ),
        )
        .mend(
            "lower delivery.transaction_timeout (at least 60s), or raise it on the brokers",
            format!("transaction.max.timeout.ms={ours}"),
        )
    });
    std::iter::once(readers).chain(too_short).collect()
}

/// The transaction log is made at the first transaction, with the replicas that are set, or not at all.
fn transaction_log(brokers: usize, entries: &[(i32, Entries)], transactions: &Presence) -> Option<Finding> {
    let set = entries.iter().find_map(|(_, entries)| {
        entries.as_ref().ok()?.get("transaction.state.log.replication.factor")?.parse::<usize>().ok()
    });
    let wanted = set.filter(|wanted| *wanted > brokers && *transactions == Presence::Missing)?;
    Some(
        Finding::error(
            Area::Kafka,
            "transaction-log",
            "transaction.state.log.replication.factor",
            format!(
                "is {wanted}, there are {brokers} brokers, and {TRANSACTIONS} is not there yet: no transaction can begin, \
                 so that the state record cannot be written and the relay waits for ever"
            ),
        )
        .mend(
            "set it, and transaction.state.log.min.isr, to what the cluster has, and restart the brokers",
            format!("transaction.state.log.replication.factor={brokers}\ntransaction.state.log.min.isr=1"),
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn set(pairs: &[(&str, &str)]) -> Entries {
        Ok(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<HashMap<_, _>>())
    }

    fn found(entries: &[(i32, Entries)], transactions: &Presence) -> Vec<&'static str> {
        codes(&judge(&settings(), &[1], entries, transactions))
    }

    #[test]
    fn settings_that_endanger_topics_are_told() {
        let there = Presence::There { partitions: 4, replicas: 1, leaderless: 0 };
        assert_eq!(found(&[(1, set(&[("auto.create.topics.enable", "false")]))], &there), [""; 0]);
        assert_eq!(
            found(&[(1, set(&[("auto.create.topics.enable", "true")]))], &there),
            ["auto-create-topics"]
        );
        assert_eq!(found(&[(1, Err("denied".into()))], &there), ["broker-settings-unseen"]);
    }

    #[test]
    fn exactly_one_delivery_asks_for_careful_readers_and_for_time() {
        let mut settings = settings();
        settings.delivery.guarantee = Guarantee::ExactlyOnce;
        let there = Presence::There { partitions: 4, replicas: 1, leaderless: 0 };
        let found = |longest: &str| {
            let entries = [(1, set(&[("transaction.max.timeout.ms", longest)]))];
            codes(&judge(&settings, &[1], &entries, &there))
        };
        assert_eq!(found("900000"), ["read-committed"]);
        assert_eq!(found("30000"), ["read-committed", "transaction-timeout"]);
    }

    #[test]
    fn a_transaction_log_that_cannot_be_made_is_an_error() {
        let entries = [(1, set(&[("transaction.state.log.replication.factor", "3")]))];
        assert_eq!(found(&entries, &Presence::Missing), ["transaction-log"]);
        let there = Presence::There { partitions: 4, replicas: 1, leaderless: 0 };
        assert_eq!(found(&entries, &there), [""; 0]);
    }
}
