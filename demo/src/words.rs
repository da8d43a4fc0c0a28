//! What the demo says at its beginning and end.

use super::Outcome;
use super::broker::Broker;

/// What will be seen.
pub const INTRODUCTION: &str = "\
An orders service, a relay and a shipping service, live, for about half a minute.

The orders service changes orders in PostgreSQL. Each transaction also inserts an event into the table
outbox.events: change and event become true together, or neither does (one transaction in ten is
rolled back, others only a savepoint of theirs). The relay follows PostgreSQL's log and publishes
what was committed to Kafka, keyed by order. The shipping service, two instances of it, reads that and
writes one effect for each event in a database of its own. On the way the relay is killed twice and each
of the instances once, without warning and with work in hand, while orders go on.

In the end every event in the table is compared with every record on the log and with every effect:
nothing may be lost, nothing invented, each order's events have to come in the order of their commits,
and each has to have its effect once, in that order.
";

/// Where the records go.
pub fn describe(broker: &Broker) -> String {
    if broker.is_in_memory() {
        return "Kafka       in memory, inside this process: it shows what relay and consumer do and nothing about\n            \
                durability, since it keeps nothing. --kafka-brokers HOST:PORT takes a real one."
            .into();
    }
    format!(
        "Kafka       {}, topics {} and {}, group {}",
        broker.servers,
        broker.topic(),
        broker.state_topic,
        broker.group
    )
}

/// What the numbers mean.
pub fn conclusion(outcome: &Outcome, broker: &Broker) -> String {
    let (relay, consumers) =
        (of_relay(&outcome.repeated_per_kill), of_consumers(&outcome.open_per_consumer_kill));
    let kept = match broker.is_in_memory() {
        true => String::new(),
        false => {
            format!("\nThe topics {} and {} are left for you to look at.", broker.topic(), broker.state_topic)
        }
    };
    format!(
        "\n{relay}\n\n{consumers}\n\nEvents rolled back with their changes: {}; each of them on the log would be a \
         phantom.{kept}\n",
        outcome.rolled_back
    )
}

fn of_relay(repeated: &[u64]) -> String {
    if repeated.is_empty() {
        return "The relay was never killed.".into();
    }
    format!(
        "Kills of the relay: {}; records that came again after them: {}. It goes on from its last recorded\n\
         position, so a stretch repeats: in order, and under the same ids, by which consumers know that\n\
         they have had them.",
        repeated.len(),
        list(repeated)
    )
}

fn of_consumers(open: &[u64]) -> String {
    if open.is_empty() {
        return "No consumer was ever killed.".into();
    }
    format!(
        "Kills of consumers: {}; transactions they had open: {}. What was not committed is done again by whoever\n\
         gets the record next; what was committed is not, since its claim was committed with it.",
        open.len(),
        list(open)
    )
}

fn list(counts: &[u64]) -> String {
    counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" and ")
}
