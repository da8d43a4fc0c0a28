//! What a run of chaos leaves behind. The reports are made of it and of nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bench::machine::Machine;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The command that makes this run again, with its seed.
    pub command: String,
    /// Of the faults, their targets and their times.
    pub seed: u64,
    /// The commit of the product, with `-dirty` where files differ from it.
    pub commit: String,
    /// When it began, RFC 3339 in UTC.
    pub began: String,
    /// Seconds in which faults were made.
    pub duration_s: f64,
    /// Seconds from the last fault's end until everything was settled, or until patience ended.
    pub settled_s: f64,
    /// What it ran on.
    pub machine: Machine,
    /// Names and versions of the parts: PostgreSQL, Kafka, Java, librdkafka, the relay.
    pub versions: BTreeMap<String, String>,
    /// Who took part: `relay-1`, `broker-2`, `consumer-orders-1`, with what each was given, a line each.
    pub cast: Vec<(String, String)>,
    /// The faults in the order in which they began.
    pub faults: Vec<Fault>,
    /// Figures over time, about one a second.
    pub samples: Vec<Sample>,
    /// What was judged, in figures: `committed`, `published`, `effects`, `dead letters` and so on.
    pub figures: BTreeMap<String, u64>,
    /// Every rule that was judged, and what broke it.
    pub rules: Vec<Rule>,
}

/// One fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind, in words: `relay killed`.
    pub kind: String,
    /// At whom: a name of the cast.
    pub target: String,
    /// Seconds from the beginning of the run.
    pub from_s: f64,
    /// When it was taken back, or was over by itself; seconds from the beginning of the run.
    pub until_s: f64,
    /// How its effect was seen. A fault without is not counted.
    pub seen: Option<String>,
}

/// Figures at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the beginning of the run.
    pub at_s: f64,
    /// Events committed by the services so far.
    pub committed: u64,
    /// Records on the topics so far.
    pub published: u64,
    /// Effects committed by all consumers so far.
    pub effects: u64,
    /// Bytes of WAL between the server's end and the slot's confirmed flush position; `None` while nobody could say.
    pub unconfirmed_bytes: Option<u64>,
    /// Keys that are parked, of all scopes; `None` while nobody could say.
    pub parked_keys: Option<u64>,
    /// Records that consumer groups have not committed past; `None` while nobody could say.
    pub lag: Option<u64>,
}

/// A rule that was judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rule {
    /// What holds, in words: `every committed event is published`.
    pub says: String,
    /// How many things were looked at for it. A rule that looked at nothing has shown nothing.
    pub looked_at: u64,
    /// What broke it, a sentence each, with ids and positions.
    pub broken_by: Vec<String>,
}

impl Run {
    /// Whether no rule is broken and each has looked at something.
    pub fn holds(&self) -> bool {
        self.rules.iter().all(|rule| rule.broken_by.is_empty() && rule.looked_at > 0)
    }

    /// Faults whose effect was seen, by kind; a kind that was tried and never seen has 0.
    pub fn seen_by_kind(&self) -> BTreeMap<&str, usize> {
        let mut seen = BTreeMap::new();
        for fault in &self.faults {
            *seen.entry(fault.kind.as_str()).or_insert(0) += usize::from(fault.seen.is_some());
        }
        seen
    }
}
