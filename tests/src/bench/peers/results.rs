//! What was measured.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bench::figures::Spread;
use crate::bench::results::Percentiles;

/// One system in one case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// What is done.
    pub case: String,
    /// Who does it.
    pub system: String,
    /// With which settings.
    pub settings: Settings,
}

/// Which settings a system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settings {
    /// What it has when nobody says anything about speed.
    Defaults,
    /// What its documentation advises for this case.
    Tuned,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Settings::Defaults => "defaults",
            Settings::Tuned => "tuned",
        })
    }
}

/// Every run of one system in one case, in the order of the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Who.
    pub system: String,
    /// Its version.
    pub version: String,
    /// With which settings.
    pub settings: Settings,
    /// What was done.
    pub case: String,
    /// Events a second once it is warm; one for each round.
    pub runs: Vec<f64>,
    /// The same from its first event on: the virtual machine is cold. For relays from `START_REPLICATION` on.
    pub whole: Vec<f64>,
    /// Processor time of an event while it is warm, in microseconds, by process; one for each round.
    pub cpu_us_per_event: BTreeMap<String, Vec<f64>>,
    /// The most memory that its process held in any run, in MiB.
    pub peak_rss_mib: f64,
    /// Whether each run that wrote to the database had one effect for each event, and no other.
    pub once: Option<bool>,
    /// Runs of the open loop, where the case is that.
    pub latency: Vec<Latency>,
}

/// One run of an open loop; milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Events.
    pub events: u64,
    /// From the time at which it should have begun to the end: a consumer has the record, or another session sees the effect.
    pub from_intended: Percentiles,
    /// From that time until those who are compared can have it: COMMIT has returned, or the broker has acknowledged.
    pub handed_over: Percentiles,
}

/// One run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Events a second once it is warm.
    pub warm: f64,
    /// The same from the beginning on.
    pub whole: f64,
    /// Processor time of an event while it is warm, in microseconds, by process.
    pub cpu: BTreeMap<String, f64>,
    /// The most memory that it held, in KiB.
    pub peak_rss_kib: u64,
    /// Whether there was one effect for each event, where there are effects.
    pub once: Option<bool>,
}

impl Results {
    /// Nothing yet.
    pub fn new(entry: &Entry, version: &str) -> Results {
        Results {
            system: entry.system.clone(),
            version: version.to_owned(),
            settings: entry.settings,
            case: entry.case.clone(),
            runs: Vec::new(),
            whole: Vec::new(),
            cpu_us_per_event: BTreeMap::new(),
            peak_rss_mib: 0.0,
            once: None,
            latency: Vec::new(),
        }
    }

    /// One run more.
    pub fn add(&mut self, run: Run) {
        self.runs.push(run.warm);
        self.whole.push(run.whole);
        for (process, cpu) in run.cpu {
            self.cpu_us_per_event.entry(process).or_default().push(cpu);
        }
        self.peak_rss_mib = self.peak_rss_mib.max(run.peak_rss_kib as f64 / 1024.0);
        if let Some(once) = run.once {
            self.once = Some(once && self.once.unwrap_or(true));
        }
    }

    /// One run of the open loop more.
    pub fn add_latency(&mut self, run: Latency, peak_rss_kib: u64) {
        self.latency.push(run);
        self.peak_rss_mib = self.peak_rss_mib.max(peak_rss_kib as f64 / 1024.0);
    }

    /// How many times as fast another was, round by round.
    pub fn ratio(&self, other: &Results) -> Option<Spread> {
        Spread::of(other.runs.iter().zip(&self.runs).map(|(other, own)| other / own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_two_runs_of_a_round() {
        let entry = Entry { case: "c".to_owned(), system: "s".to_owned(), settings: Settings::Defaults };
        let (mut ours, mut peer) = (Results::new(&entry, "1"), Results::new(&entry, "1"));
        for (own, other) in [(30.0, 10.0), (20.0, 20.0), (10.0, 5.0)] {
            ours.add(Run { warm: own, ..Run::default() });
            peer.add(Run { warm: other, once: Some(own > 10.0), ..Run::default() });
        }
        let ratio = peer.ratio(&ours).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (1.0, 2.0, 3.0));
        assert_eq!((ours.once, peer.once), (None, Some(false)), "one run that is wrong is enough");
    }
}
