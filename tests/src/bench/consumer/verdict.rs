//! Which requirement is met.

use super::results::{Case, Pair, Results, Run};
use crate::bench::figures::Spread;
use crate::bench::verdict::Verdict;

/// Fewest pairs that count as evidence.
const PAIRS: usize = 7;

/// Least share of the bare loop's rate.
pub const OF_BARE: f64 = 0.45;
/// Least share of the rate with uniform keys that is left by Zipf.
pub const OF_UNIFORM: f64 = 0.85;
/// Least share of `pgbench`.
pub const OF_PGBENCH: f64 = 0.8;
/// How many times as fast shared commits have to be.
pub const OF_ONE: f64 = 3.0;
/// Their least rate.
const GROUPED: f64 = 25_000.0;
/// Most that an event may cost with a long backlog or many keys, of what it costs without.
pub const COST: f64 = 1.15;
/// Most memory with a long backlog or many keys, of what it takes without.
pub const MEMORY: f64 = 1.15;

/// Every requirement; one that was not measured is not met.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let ratio = |case, to| spread(results, move |pair| ratio(pair, case, to));
    let cost = |case, to| spread(results, move |pair| cost(pair, case, to));
    let memory = |case, to| spread(results, move |pair| memory(pair, case, to));
    let least = |requirement: &str, least: f64, found: Option<Spread>| {
        verdict(results, &format!("{requirement} ≥ {least}"), found, 2, |spread| spread.median >= least)
    };
    let most = |requirement: &str, most: f64, found: Option<Spread>| {
        verdict(results, &format!("{requirement} ≤ {most}"), found, 2, |spread| spread.median <= most)
    };
    let grouped = spread(results, |pair| Some(pair.runs.get(&Case::PipelinedUniform)?.rate()));
    vec![
        least("no-op by key ÷ bare loop, uniform", OF_BARE, ratio(Case::NothingUniform, Case::BareUniform)),
        least("no-op, Zipf ÷ uniform", OF_UNIFORM, ratio(Case::NothingZipf, Case::NothingUniform)),
        least("one by one ÷ `pgbench`, uniform", OF_PGBENCH, ratio(Case::OneUniform, Case::Pgbench)),
        least("grouped ÷ one by one, uniform", OF_ONE, ratio(Case::GroupUniform, Case::OneUniform)),
        verdict(
            results,
            &format!("grouped and pipelined, events a second ≥ {GROUPED}"),
            grouped,
            0,
            |spread| spread.median >= GROUPED,
        ),
        most("cost of an event, long ÷ short backlog", COST, cost(Case::NothingUniform, Case::Bursts)),
        most("cost of an event, many ÷ few keys", COST, cost(Case::ManyKeys, Case::FewKeys)),
        most("most memory, a long backlog ÷ its first quarter", MEMORY, spread(results, grown)),
        most("most memory, many ÷ few keys", MEMORY, memory(Case::ManyKeys, Case::FewKeys)),
        once(results),
        latency(results),
    ]
}

/// How many times as fast one case was.
pub fn ratio(pair: &Pair, case: Case, to: Case) -> Option<f64> {
    Some(pair.runs.get(&case)?.rate() / pair.runs.get(&to)?.rate())
}

/// How many times as much processor time an event took.
pub fn cost(pair: &Pair, case: Case, to: Case) -> Option<f64> {
    Some(pair.runs.get(&case)?.cpu_micros? / pair.runs.get(&to)?.cpu_micros?)
}

/// How many times as much memory it took at most.
pub fn memory(pair: &Pair, case: Case, to: Case) -> Option<f64> {
    Some(pair.runs.get(&case)?.peak_rss_kib? as f64 / pair.runs.get(&to)?.peak_rss_kib? as f64)
}

/// How many times as much memory a long backlog took as its first quarter.
pub fn grown(pair: &Pair) -> Option<f64> {
    let run = pair.runs.get(&Case::NothingUniform)?;
    Some(run.peak_rss_kib? as f64 / run.quarter_rss_kib? as f64)
}

/// A figure of each pair.
pub fn spread(results: &Results, of: impl Fn(&Pair) -> Option<f64>) -> Option<Spread> {
    Spread::of(results.pairs.iter().filter_map(of))
}

fn verdict(
    results: &Results,
    requirement: &str,
    found: Option<Spread>,
    digits: usize,
    holds: impl Fn(&Spread) -> bool,
) -> Verdict {
    let pairs = results.pairs.len();
    let requirement = format!("{requirement} (median of at least {PAIRS} pairs)");
    match found {
        None => not_measured(requirement),
        Some(spread) => Verdict {
            requirement,
            found: format!(
                "{:.digits$} (quartiles {:.digits$} – {:.digits$}) of {pairs}",
                spread.median, spread.lower, spread.upper
            ),
            met: holds(&spread) && pairs >= PAIRS,
        },
    }
}

fn not_measured(requirement: String) -> Verdict {
    Verdict { requirement, found: "not measured".to_owned(), met: false }
}

/// Every run that wrote to the database has an effect per settlement.
fn once(results: &Results) -> Verdict {
    let requirement = "an effect for each settlement, and no other".to_owned();
    let runs: Vec<&Run> = results.pairs.iter().flat_map(|pair| pair.runs.values()).collect();
    let judged: Vec<bool> = runs.iter().filter_map(|run| run.once).collect();
    if judged.is_empty() {
        return not_measured(requirement);
    }
    let held = judged.iter().filter(|once| **once).count();
    Verdict { requirement, found: format!("in {held} of {} runs", judged.len()), met: held == judged.len() }
}

fn latency(results: &Results) -> Verdict {
    let requirement = "record → committed at a steady rate: p50 and p99 are measured".to_owned();
    let p50 = Spread::of(results.latency.iter().map(|run| run.seen.p50));
    let p99 = Spread::of(results.latency.iter().map(|run| run.seen.p99));
    match (p50, p99) {
        (Some(p50), Some(p99)) => Verdict {
            requirement,
            found: format!(
                "{:.2} and {:.2} ms, median of {} runs",
                p50.median,
                p99.median,
                results.latency.len()
            ),
            met: true,
        },
        _ => not_measured(requirement),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rates: &[(Case, f64)], pairs: usize) -> Results {
        let run = |rate: f64| Run {
            events: 1_000,
            seconds: 1_000.0 / rate,
            cpu_micros: Some(rate),
            peak_rss_kib: Some(rate as u64),
            quarter_rss_kib: Some(100),
            once: None,
        };
        let pair = Pair { runs: rates.iter().map(|(case, rate)| (*case, run(*rate))).collect() };
        Results { pairs: vec![pair; pairs], ..Results::default() }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(verdicts(&Results::default()).iter().all(|verdict| !verdict.met));
    }

    #[test]
    fn ratios_and_the_number_of_pairs_count() {
        let met = |nothing, pairs| {
            let rates = [(Case::BareUniform, 1_000.0), (Case::NothingUniform, nothing)];
            verdicts(&results(&rates, pairs))[0].met
        };
        assert!(met(460.0, 7));
        assert!(!met(440.0, 7), "too slow");
        assert!(!met(460.0, 6), "too few pairs");
    }

    #[test]
    fn an_event_may_cost_a_little_more_with_many_keys() {
        let met = |many| verdicts(&results(&[(Case::FewKeys, 2.0), (Case::ManyKeys, many)], 7))[6].met;
        assert!(met(2.2) && !met(2.4));
    }

    #[test]
    fn memory_is_to_be_flat() {
        let met = |end| verdicts(&results(&[(Case::NothingUniform, end)], 7))[7].met;
        assert!(met(110.0) && !met(120.0));
        let met = |many| verdicts(&results(&[(Case::FewKeys, 100.0), (Case::ManyKeys, many)], 7))[8].met;
        assert!(met(110.0) && !met(120.0));
    }
}
