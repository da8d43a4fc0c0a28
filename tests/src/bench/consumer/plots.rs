//! The plots of the consumer's report.

use super::report::{COSTS, RATES, Ratio};
use super::results::{Case, LatencyRun, Results, Run};
use super::verdict::spread;
use crate::bench::figures::Spread;
use crate::bench::others::{Other, of_case};
use crate::bench::plots::marks;
use crate::bench::results::Percentiles;
use crate::plot::Figure;
use crate::plot::bars::{Bars, Row};
use crate::plot::percentiles;

/// Cases whose figures are of one size.
pub struct Group {
    title: &'static str,
    /// Behind the point, of thousand events a second.
    digits: usize,
    cases: &'static [Case],
}

/// All of them.
pub const GROUPS: [Group; 3] = [
    Group {
        title: "Handlers that do nothing",
        digits: 0,
        cases: &[
            Case::BareUniform,
            Case::NothingUniform,
            Case::BareZipf,
            Case::NothingZipf,
            Case::Bursts,
            Case::FewKeys,
            Case::ManyKeys,
        ],
    },
    Group { title: "Handlers that sleep for 1 ms", digits: 1, cases: &[Case::SleepUniform, Case::SleepZipf] },
    Group {
        title: "Handlers that write to PostgreSQL",
        digits: 1,
        cases: &[
            Case::Pgbench,
            Case::OneUniform,
            Case::OneZipf,
            Case::PgbenchGroups,
            Case::GroupUniform,
            Case::PipelinedUniform,
            Case::GroupZipf,
        ],
    },
];

/// Every ratio.
pub fn ratios(results: &Results, others: &[Other]) -> Figure {
    let bar = |ratio: Ratio| Row::Bar {
        name: unmarked(ratio.name),
        class: "c0",
        spread: ratio.spread(results),
        limit: ratio.limit,
    };
    let mut rows = vec![Row::Heading("Speed: more is better".to_owned())];
    rows.extend(RATES.map(bar));
    for case in Case::ALL {
        let ours = of(results, case, |run| Some(run.rate()));
        for (other, theirs) in of_case(others, case.name()) {
            // Of the medians alone: they were not measured in pairs.
            let ratio = ours.and_then(|ours| Spread::of([ours.median / theirs.median]));
            rows.push(Row::bar(format!("{} ÷ {}", unmarked(case.name()), other.title()), "c1", ratio));
        }
    }
    rows.push(Row::Heading("Cost and memory: less is better".to_owned()));
    rows.extend(COSTS.map(bar));
    let reference = Some((1.0, "as much as what it is compared with".to_owned()));
    let bars = Bars { unit: "times as much".to_owned(), digits: 2, rows, reference };
    Figure::of(
        "How does it compare?",
        "A bare loop reads records and drops them; pgbench runs the same statements without a consumer. Both do less than a \
         consumer has to, so 1 cannot be reached where they are compared with.",
        &bars,
    )
}

/// Events a second of a group.
pub fn rates(group: &Group, results: &Results, others: &[Other]) -> Figure {
    let mut rows = Vec::new();
    for case in group.cases {
        let rate = of(results, *case, |run| Some(run.rate() / 1_000.0));
        rows.push(Row::bar(unmarked(case.name()), class(*case), rate));
        for (other, theirs) in of_case(others, case.name()) {
            rows.push(Row::bar(
                format!("{}, {}", other.title(), case.name()),
                "c1",
                Some(theirs.scaled(0.001)),
            ));
        }
    }
    let bars =
        Bars { unit: "thousand events a second".to_owned(), digits: group.digits, rows, reference: None };
    let describes = "Events a second; more is better. Grey is what it is compared with.";
    Figure::of(format!("{}: throughput.", group.title), describes, &bars)
}

/// Processor time of an event, of a group.
pub fn costs(group: &Group, results: &Results) -> Figure {
    let cases = group.cases.iter().filter(|case| !case.is_pgbench());
    let rows = cases.map(|case| {
        let cost = of(results, *case, |run| run.cpu_micros);
        Row::bar(unmarked(case.name()), class(*case), cost)
    });
    let bars = Bars {
        unit: "µs of processor time per event".to_owned(),
        digits: 2,
        rows: rows.collect(),
        reference: None,
    };
    let describes = "What the whole process of the consumer used, by the number of events; less is better.";
    Figure::of(format!("{}: cost.", group.title), describes, &bars)
}

/// The most memory that each case has held.
pub fn memory(results: &Results) -> Figure {
    let mut rows = Vec::new();
    for group in GROUPS {
        rows.push(Row::Heading(group.title.to_owned()));
        for case in group.cases.iter().filter(|case| !case.is_pgbench()) {
            let peak = of(results, *case, |run| Some(run.peak_rss_kib? as f64 / 1024.0));
            rows.push(Row::bar(unmarked(case.name()), class(*case), peak));
        }
    }
    let bars = Bars { unit: "MiB".to_owned(), rows, ..Bars::default() };
    let describes = "The most that the consumer's process has ever held (VmHWM); less is better.";
    Figure::of("Most memory.", describes, &bars)
}

/// Times of the open loop.
pub fn latency(runs: &[LatencyRun]) -> Figure {
    let row = |name: &str, of: fn(&LatencyRun) -> Percentiles| percentiles::Row {
        name: name.to_owned(),
        percentiles: Percentiles::median_of(runs.iter().map(of)),
        strong: true,
    };
    let mut rows = vec![
        row("seen by another session", |run| run.seen),
        row("committed, server's clock", |run| run.committed),
        row("acknowledged by the broker", |run| run.acknowledged),
    ];
    rows.extend(runs.iter().enumerate().map(|(number, run)| percentiles::Row {
        name: format!("run {}, seen", number + 1),
        percentiles: run.seen,
        strong: false,
    }));
    marks(
        "From the time an event was due to its effect.".to_owned(),
        "Medians of the runs, then each run. Less is better; each step to the right is more than it looks, since the axis \
         is logarithmic. The four figures are p50 / p90 / p99 / the longest.",
        rows,
    )
}

fn of(results: &Results, case: Case, figure: fn(&Run) -> Option<f64>) -> Option<Spread> {
    spread(results, |pair| pair.runs.get(&case).and_then(figure))
}

/// What it is compared with is grey.
fn class(case: Case) -> &'static str {
    let compared = matches!(case, Case::BareUniform | Case::BareZipf) || case.is_pgbench();
    if compared { "c5" } else { "c0" }
}

/// Without Markdown's marks.
fn unmarked(name: &str) -> String {
    name.replace('`', "")
}
