//! The plots of the relay's report.

use super::figures::Spread;
use super::others::{Other, of_case};
use super::report::{case, steady};
use super::results::{Drains, GuaranteePair, Latency, LatencyRun, Pair, Percentiles, Results};
use super::verdict::{EXACTLY_ONCE, required_ratio};
use crate::plot::Figure;
use crate::plot::bars::{Bars, Limit, Row};
use crate::plot::percentiles::{self, Marks};
use crate::plot::stack::{self, Stack};

/// How many times as fast the relay is, of every backlog.
pub fn ratios(results: &[Results], others: &[Other]) -> Figure {
    let mut rows = Vec::new();
    for under in results {
        for drains in &under.drains {
            let name = case(drains, &under.congestion_control);
            rows.push(Row::Heading(name.clone()));
            let (median, _) = required_ratio(drains.shape.per_transaction);
            rows.push(Row::Bar {
                name: "relay ÷ pg_recvlogical".to_owned(),
                class: "c0",
                spread: Spread::of(drains.pairs.iter().map(Pair::ratio)),
                limit: Some(Limit::Least(median)),
            });
            if !drains.guarantees.is_empty() {
                rows.push(Row::Bar {
                    name: "exactly once ÷ at least once".to_owned(),
                    class: "c2",
                    spread: Spread::of(drains.guarantees.iter().map(GuaranteePair::ratio)),
                    limit: Some(Limit::Least(EXACTLY_ONCE)),
                });
            }
            let ours = rate(drains, |pair| pair.relay.seconds);
            for (other, theirs) in of_case(others, &name) {
                // Of the medians alone: they were not measured in pairs.
                let ratio = ours.map(|ours| ours.median * 1_000.0 / theirs.median);
                rows.push(Row::bar(
                    format!("relay ÷ {}", other.title()),
                    "c1",
                    ratio.and_then(|ratio| Spread::of([ratio])),
                ));
            }
        }
    }
    let reference = Some((1.0, "as fast as what it is compared with".to_owned()));
    let bars = Bars { unit: "times as fast".to_owned(), digits: 2, rows, reference };
    Figure::of(
        "How many times as fast is the relay?",
        "Each bar is the relay's speed by that of pg_recvlogical, PostgreSQL's own reader, which writes to nowhere; more is \
         better. Headings name the backlog and the congestion control of TCP.",
        &bars,
    )
}

/// Rows a second of each reader.
pub fn throughput(under: &Results, others: &[Other]) -> Figure {
    let mut rows = Vec::new();
    for drains in &under.drains {
        let name = case(drains, &under.congestion_control);
        rows.push(Row::Heading(drains.shape.name()));
        rows.push(Row::bar("relay", "c0", rate(drains, |pair| pair.relay.seconds)));
        let steady = Spread::of(drains.pairs.iter().map(|pair| steady(&pair.relay)));
        rows.push(Row::bar("relay, without its start", "c0", steady));
        rows.push(Row::bar("pg_recvlogical", "c5", rate(drains, |pair| pair.baseline.seconds)));
        for (other, theirs) in of_case(others, &name) {
            rows.push(Row::bar(other.title(), "c1", Some(theirs.scaled(0.001))));
        }
    }
    let bars = Bars { unit: "thousand rows a second".to_owned(), rows, ..Bars::default() };
    Figure::of(
        format!("Rows a second, {}.", under.congestion_control),
        "How fast a backlog is drained; more is better. The relay's rows are acknowledged by Kafka, those of \
         pg_recvlogical are thrown away.",
        &bars,
    )
}

/// Processor time of an event, by process.
pub fn cost(under: &Results) -> Figure {
    let mut rows = Vec::new();
    for drains in &under.drains {
        let per_event = |of: fn(&Pair) -> f64| {
            let spread = Spread::of(drains.pairs.iter().map(of));
            spread.map_or(0.0, |spread| spread.median * 1e6 / drains.shape.rows as f64)
        };
        let shape = match drains.shape.per_transaction {
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows"),
        };
        rows.push(stack::Row {
            name: format!("relay, {shape}"),
            figures: vec![
                per_event(|pair| pair.relay.relay_cpu),
                per_event(|pair| pair.relay.walsender_cpu),
                per_event(|pair| pair.relay.broker_cpu),
            ],
        });
        rows.push(stack::Row {
            name: format!("pg_recvlogical, {shape}"),
            figures: vec![
                per_event(|pair| pair.baseline.client_cpu),
                per_event(|pair| pair.baseline.walsender_cpu),
                0.0,
            ],
        });
    }
    let parts = ["the reader itself", "PostgreSQL's walsender", "Kafka's broker"].map(str::to_owned).to_vec();
    let stack = Stack { unit: "µs of processor time per event".to_owned(), digits: 2, parts, rows };
    Figure::of(
        format!("Processor time of an event, {}.", under.congestion_control),
        "Medians, by process; less is better. Beside each name are the rows of a transaction. Only the relay has a broker \
         to feed.",
        &stack,
    )
}

/// The most memory that the relay has held.
pub fn memory(under: &Results) -> Figure {
    let drained = under.drains.iter().map(|drains| {
        let peaks = drains.pairs.iter().map(|pair| pair.relay.peak_rss_kib as f64 / 1024.0);
        Row::Bar {
            name: format!("draining, {}", drains.shape.name()),
            class: "c0",
            spread: Spread::of(peaks),
            limit: Some(Limit::Most(super::verdict::MEMORY.1)),
        }
    });
    let streaming = under.latency.as_ref().map(|latency| Row::Bar {
        name: "steady streaming".to_owned(),
        class: "c0",
        spread: Spread::of([latency.rss_kib as f64 / 1024.0]),
        limit: Some(Limit::Most(super::verdict::MEMORY.0)),
    });
    let rows = drained.chain(streaming).collect();
    let bars = Bars { unit: "MiB".to_owned(), rows, ..Bars::default() };
    Figure::of(
        format!("Most memory of the relay, {}.", under.congestion_control),
        "The most that the process has ever held (VmHWM); less is better.",
        &bars,
    )
}

/// Times of the open loop.
pub fn latency(control: &str, latency: &Latency) -> Figure {
    let row = |name: &str, of: fn(&LatencyRun) -> Percentiles, strong| percentiles::Row {
        name: name.to_owned(),
        percentiles: Percentiles::median_of(latency.runs.iter().map(of)),
        strong,
    };
    let mut rows = vec![
        row("commit → received", |run| run.from_commit, true),
        row("intended → received", |run| run.from_intended, true),
        row("intended → commit", |run| run.commit, true),
    ];
    rows.extend(latency.runs.iter().enumerate().map(|(number, run)| percentiles::Row {
        name: format!("run {}, commit → received", number + 1),
        percentiles: run.from_commit,
        strong: false,
    }));
    marks(
        format!("From commit to consumer, {control}."),
        "Medians of the runs, then each run. Less is better; each step to the right is more than it looks, since the axis \
         is logarithmic. The four figures are p50 / p90 / p99 / the longest.",
        rows,
    )
}

/// Percentiles in milliseconds.
pub fn marks(title: String, describes: &str, rows: Vec<percentiles::Row>) -> Figure {
    let marks = Marks { unit: "milliseconds, on a logarithmic axis".to_owned(), rows };
    Figure::of(title, describes, &marks)
}

/// Thousand rows a second.
fn rate(drains: &Drains, seconds: fn(&Pair) -> f64) -> Option<Spread> {
    Spread::of(drains.pairs.iter().map(|pair| drains.shape.rows as f64 / seconds(pair) / 1_000.0))
}
