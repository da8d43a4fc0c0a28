//! Which requirement is met.

use super::figures::Spread;
use super::results::{Drains, GuaranteePair, Latency, Pair, Results};

/// One requirement and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is required.
    pub requirement: String,
    /// What was measured.
    pub found: String,
    /// Whether that meets it.
    pub met: bool,
}

/// Least median and lower quartile of the ratio to `pg_recvlogical`, by rows per transaction.
pub fn required_ratio(per_transaction: u64) -> (f64, f64) {
    if per_transaction == 1 { (1.7, 1.5) } else { (1.4, 1.2) }
}

/// Fewest pairs that count as evidence.
const PAIRS: usize = 7;

/// Limits of the time from commit to consumer in milliseconds: median and 99th percentile.
const LATENCY: (f64, f64) = (1.0, 10.0);

/// Limits of memory in MiB: in steady streaming, and ever.
pub const MEMORY: (f64, f64) = (64.0, 128.0);

/// Every requirement; one that was not measured is not met.
pub fn verdicts(results: &[Results]) -> Vec<Verdict> {
    let throughput = results.iter().flat_map(|under| {
        under.drains.iter().filter_map(|drains| throughput(&under.congestion_control, drains))
    });
    let latency =
        results.iter().filter_map(|under| latency(&under.congestion_control, under.latency.as_ref()?));
    let guarantees = results.iter().flat_map(|under| {
        under.drains.iter().filter_map(|drains| exactly_once(&under.congestion_control, drains))
    });
    throughput.chain(guarantees).chain(latency).chain(memory(results)).chain(missing(results)).collect()
}

/// What is required and was left out.
fn missing(results: &[Results]) -> Vec<Verdict> {
    let mut left_out = Vec::new();
    if !results.iter().any(|under| under.congestion_control == "cubic") {
        left_out.push("everything under cubic".to_owned());
    }
    for under in results {
        let control = &under.congestion_control;
        let drained = |rows| under.drains.iter().any(|drains| drains.shape.per_transaction == rows);
        left_out.extend(
            [1, 100]
                .into_iter()
                .filter(|rows| !drained(*rows))
                .map(|rows| format!("{rows} per transaction, {control}")),
        );
        if under.latency.is_none() {
            left_out.push(format!("latency, {control}"));
        }
    }
    let verdict = |requirement| Verdict { requirement, found: "not measured".to_owned(), met: false };
    left_out.into_iter().map(verdict).collect()
}

fn throughput(control: &str, drains: &Drains) -> Option<Verdict> {
    let (median, lower) = required_ratio(drains.shape.per_transaction);
    let spread = Spread::of(drains.pairs.iter().map(Pair::ratio))?;
    let pairs = drains.pairs.len();
    Some(Verdict {
        requirement: format!(
            "{}, {control}: median of at least {PAIRS} pairs ≥ {median} × `pg_recvlogical`, lower quartile ≥ {lower}",
            drains.shape.name()
        ),
        found: format!("{:.2} and {:.2} of {pairs} pairs", spread.median, spread.lower),
        met: spread.median >= median && spread.lower >= lower && pairs >= PAIRS,
    })
}

/// Least share of the throughput of at-least-once delivery that exactly once keeps, as median of the pairs.
pub const EXACTLY_ONCE: f64 = 0.85;

/// Where it was measured.
fn exactly_once(control: &str, drains: &Drains) -> Option<Verdict> {
    let spread = Spread::of(drains.guarantees.iter().map(GuaranteePair::ratio))?;
    let pairs = drains.guarantees.len();
    Some(Verdict {
        requirement: format!(
            "{}, {control}: exactly once, median of at least {PAIRS} pairs ≥ {EXACTLY_ONCE} × at least once",
            drains.shape.name()
        ),
        found: format!("{:.2} (lower quartile {:.2}) of {pairs} pairs", spread.median, spread.lower),
        met: spread.median >= EXACTLY_ONCE && pairs >= PAIRS,
    })
}

fn latency(control: &str, latency: &Latency) -> Option<Verdict> {
    let p50 = Spread::of(latency.runs.iter().map(|run| run.from_commit.p50))?.median;
    let p99 = Spread::of(latency.runs.iter().map(|run| run.from_commit.p99))?.median;
    let runs = latency.runs.len();
    Some(Verdict {
        requirement: format!(
            "commit → received at {} transactions a second, {control}: p50 ≤ {} ms, p99 ≤ {} ms, median of 5 runs",
            latency.rate, LATENCY.0, LATENCY.1
        ),
        found: format!("{p50:.2} and {p99:.2} ms, median of {runs} runs"),
        met: p50 <= LATENCY.0 && p99 <= LATENCY.1 && runs >= 5,
    })
}

fn memory(results: &[Results]) -> Vec<Verdict> {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let steady = results.iter().filter_map(|under| Some(under.latency.as_ref()?.rss_kib)).max();
    let drains = results.iter().flat_map(|under| &under.drains);
    let relays = drains.flat_map(|drains| drains.pairs.iter().map(|pair| &pair.relay).chain(&drains.cold));
    let ever = relays.map(|drain| drain.peak_rss_kib).chain(steady).max();
    let steady = steady.map(|kib| Verdict {
        requirement: format!("memory in steady streaming ≤ {} MB", MEMORY.0),
        found: format!("{:.0} MiB", mib(kib)),
        met: mib(kib) <= MEMORY.0,
    });
    let ever = ever.map(|kib| Verdict {
        requirement: format!("memory ever ≤ {} MB", MEMORY.1),
        found: format!("{:.0} MiB at most, while draining", mib(kib)),
        met: mib(kib) <= MEMORY.1,
    });
    steady.into_iter().chain(ever).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Shape;
    use super::super::results::{BaselineDrain, RelayDrain};
    use super::*;

    fn drains(ratios: &[f64]) -> Drains {
        let relay = RelayDrain {
            seconds: 1.0,
            steady_seconds: 1.0,
            steady_records: 1,
            relay_cpu: 0.0,
            walsender_cpu: 0.0,
            broker_cpu: 0.0,
            peak_rss_kib: 0,
            segments: None,
        };
        let pair = |ratio: &f64| Pair {
            relay_first: false,
            baseline: BaselineDrain { seconds: *ratio, client_cpu: 0.0, walsender_cpu: 0.0 },
            relay: relay.clone(),
        };
        let shape = Shape { per_transaction: 100, rows: 100 };
        let other = |ratio: &f64| GuaranteePair {
            exactly_first: false,
            at_least_once: RelayDrain { seconds: *ratio, ..relay.clone() },
            exactly_once: relay.clone(),
        };
        let guarantees = ratios.iter().map(other).collect();
        Drains { shape, wal_bytes: 0, cold: None, pairs: ratios.iter().map(pair).collect(), guarantees }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let under = Results {
            congestion_control: "bbr".to_owned(),
            own_namespace: false,
            postgres: String::new(),
            postgres_settings: Vec::new(),
            payload_type: String::new(),
            payload_bytes: 1.0,
            drains: vec![drains(&[2.0; 7])],
            latency: None,
        };
        let found = missing(&[under]);
        let left_out: Vec<&str> = found.iter().map(|verdict| verdict.requirement.as_str()).collect();
        assert_eq!(left_out, ["everything under cubic", "1 per transaction, bbr", "latency, bbr"]);
        assert!(found.iter().all(|verdict| !verdict.met));
    }

    #[test]
    fn exactly_once_keeps_most_of_the_throughput() {
        let met = |ratio| exactly_once("bbr", &drains(&[ratio; 7])).unwrap().met;
        assert!(met(0.86) && !met(0.84));
        assert!(exactly_once("bbr", &drains(&[])).is_none(), "not measured");
        assert!(!exactly_once("bbr", &drains(&[1.0; 6])).unwrap().met, "too few");
    }

    #[test]
    fn median_quartile_and_number_all_count() {
        let met = |ratios: &[f64]| throughput("bbr", &drains(ratios)).unwrap().met;
        assert!(met(&[1.1, 1.3, 1.3, 1.5, 1.6, 1.7, 1.8]));
        assert!(!met(&[1.0, 1.0, 1.1, 1.5, 1.6, 1.7, 1.8]), "the lower quartile");
        assert!(!met(&[1.3; 7]), "the median");
        assert!(!met(&[2.0; 6]), "too few");
    }
}
