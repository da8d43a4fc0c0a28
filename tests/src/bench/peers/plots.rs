//! The plots of the report beside the peers.

use super::report::{is_ours, middle};
use super::results::Results;
use crate::bench::figures::Spread;
use crate::bench::plots::marks;
use crate::plot::bars::{Bars, Row};
use crate::plot::stack::{self, Stack};
use crate::plot::{Figure, percentiles};

/// Of one case and one peer: how many times as fast we are, or how many times as long the peer takes.
pub struct Compared<'r> {
    /// What was done.
    pub case: &'r str,
    /// Beside whom.
    pub peer: &'r Results,
    /// The ratios.
    pub ratio: Option<Spread>,
}

/// How many times as fast we are.
pub fn speeds(compared: &[Compared<'_>]) -> Figure {
    Figure::of(
        "How many times as fast are relay and consumer?",
        "Each bar is our speed by that of the other, of two runs of one round; right of the line we are faster.",
        &ratios(compared, "times as fast", "as fast"),
    )
}

/// How many times as long the peers take.
pub fn times(compared: &[Compared<'_>]) -> Figure {
    Figure::of(
        "How many times as long do the others take?",
        "Each bar is the other's 99th percentile by ours, run by run; right of the line ours is shorter.",
        &ratios(compared, "times as long", "as long"),
    )
}

fn ratios(compared: &[Compared<'_>], unit: &str, even: &str) -> Bars {
    let mut rows = Vec::new();
    let mut before = "";
    for Compared { case, peer, ratio } in compared {
        if *case != before {
            rows.push(Row::Heading((*case).to_owned()));
            before = case;
        }
        rows.push(Row::bar(title(peer), "c0", *ratio));
    }
    let reference = Some((1.0, even.to_owned()));
    Bars { unit: unit.to_owned(), digits: 2, rows, reference }
}

/// Events a second of everybody in one case, once warm.
pub fn throughput(case: &str, systems: &[&Results]) -> Figure {
    let rows = systems
        .iter()
        .map(|results| {
            Row::bar(title(results), class(results), Spread::of(results.runs.iter().map(|r| r / 1e3)))
        })
        .collect();
    let bars = Bars { unit: "thousand events a second, warm".to_owned(), digits: 1, rows, ..Bars::default() };
    Figure::of(
        format!("Events a second: {case}."),
        "Medians of the rounds, with their spread; more is better. Ours are in a colour of their own.",
        &bars,
    )
}

/// What an event costs everybody, by process.
pub fn cost(case: &str, systems: &[&Results]) -> Figure {
    let parts: Vec<&str> = ["itself", "walsender", "broker", "PostgreSQL"]
        .into_iter()
        .filter(|part| systems.iter().any(|results| results.cpu_us_per_event.contains_key(*part)))
        .collect();
    let median = |results: &Results, part: &str| {
        let runs = results.cpu_us_per_event.get(part);
        runs.and_then(|runs| Spread::of(runs.iter().copied())).map_or(0.0, |spread| spread.median)
    };
    let rows = systems
        .iter()
        .filter(|results| !results.cpu_us_per_event.is_empty())
        .map(|results| stack::Row {
            name: title(results),
            figures: parts.iter().map(|part| median(results, part)).collect(),
        })
        .collect();
    let parts = parts.into_iter().map(str::to_owned).collect();
    let stack = Stack { unit: "µs of processor time per event".to_owned(), digits: 2, parts, rows };
    Figure::of(
        format!("Processor time of an event: {case}."),
        "Medians while warm, by process; less is better.",
        &stack,
    )
}

/// Times of an open loop.
pub fn latency(case: &str, systems: &[&Results]) -> Figure {
    let rows = systems
        .iter()
        .map(|results| percentiles::Row {
            name: title(results),
            percentiles: middle(results.latency.iter().map(|run| run.from_intended)),
            strong: is_ours(results),
        })
        .collect();
    marks(
        format!("From the intended time to the end: {case}."),
        "Medians of the runs. Less is better; each step to the right is more than it looks, since the axis is \
         logarithmic. The four figures are p50 / p90 / p99 / the longest.",
        rows,
    )
}

/// Who, with which settings.
pub fn title(results: &Results) -> String {
    format!("{}, {}", results.system, results.settings)
}

fn class(results: &Results) -> &'static str {
    if is_ours(results) { "c0" } else { "c1" }
}
