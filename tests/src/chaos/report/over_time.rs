//! The timeline of a run, and its table.

use std::fmt::{self, Write};

use super::named;
use super::sections::fault_table;
use crate::chaos::record::{Fault, Run, Sample};
use crate::page::{Page, count, grouped, plain, table};
use crate::plot::Figure;
use crate::plot::scale::time;
use crate::plot::timeline::{Bar, Group, Lane, Panel, Series, Timeline};

/// Rows of the table.
const ROWS: usize = 12;

/// Each run: its timeline, the same in figures, its faults.
pub fn runs(page: &mut Page, runs: &[Run]) -> fmt::Result {
    writeln!(page, "## The runs over time\n")?;
    for (number, run) in runs.iter().enumerate() {
        let seen = run.faults.iter().filter(|fault| fault.seen.is_some()).count();
        writeln!(page, "### Run {}, seed {}\n", number + 1, run.seed)?;
        writeln!(
            page,
            "{}, {seen} with an effect that was seen, in {}; everything {} {} later.\n",
            count(run.faults.len(), "fault"),
            time(run.duration_s),
            if run.holds() { "was settled" } else { "was judged" },
            time(run.settled_s)
        )?;
        if run.samples.is_empty() {
            writeln!(page, "There are no samples of this run.\n")?;
        }
        page.figure(Figure::of(
            format!("Run {}: faults, throughput, lag and confirmed position.", number + 1),
            describes(run),
            &timeline(run),
        ));
        page.folded(&format!("Figures over time of {}", named(number)), &in_figures(run));
        let faults = format!("The {} of {}", count(run.faults.len(), "fault"), named(number));
        page.folded(&faults, &fault_table(&run.faults));
    }
    Ok(())
}

/// What is to be seen in the picture.
fn describes(run: &Run) -> String {
    let lag = run.samples.iter().filter_map(|sample| sample.lag).max();
    let bytes = run.samples.iter().filter_map(|sample| sample.unconfirmed_bytes).max();
    let parked = run.samples.iter().filter_map(|sample| sample.parked_keys).max();
    let known = |figure: Option<u64>| figure.map_or("not known".to_owned(), grouped);
    format!(
        "Each row is a kind of fault, from when it was made until it was over, with how many of those tried were \
         seen. Below, at the same times: events a second, the consumers' lag (at most {} records), log that the relay has not \
         confirmed (at most {} MiB) and parked keys (at most {}).",
        known(lag),
        known(bytes.map(|bytes| bytes.div_ceil(1024 * 1024))),
        known(parked)
    )
}

/// The picture.
pub fn timeline(run: &Run) -> Timeline {
    let last = run.samples.last().map_or(0.0, |sample| sample.at_s);
    let of = |name: &str, figure: fn(&Sample) -> Option<f64>| Series {
        name: name.to_owned(),
        points: run.samples.iter().map(|sample| (sample.at_s, figure(sample))).collect(),
    };
    let panel = |title: &str, whole, series| Panel { title: title.to_owned(), whole, series };
    Timeline {
        until_s: last.max(run.duration_s + run.settled_s),
        faults_until_s: run.duration_s,
        groups: groups(&run.faults),
        panels: vec![
            panel(
                "Events a second",
                false,
                vec![
                    rate("committed by services", &run.samples, |sample| sample.committed),
                    rate("published to Kafka", &run.samples, |sample| sample.published),
                    rate("effects of all consumers", &run.samples, |sample| sample.effects),
                ],
            ),
            panel("Lag of the consumers, records", true, vec![of("lag", |s| s.lag.map(|lag| lag as f64))]),
            panel(
                "Log not confirmed by the relay, MiB",
                false,
                vec![of("not confirmed", |s| s.unconfirmed_bytes.map(|bytes| bytes as f64 / 1_048_576.0))],
            ),
            panel("Parked keys", true, vec![of("parked", |s| s.parked_keys.map(|keys| keys as f64))]),
        ],
    }
}

/// What was added between samples, a second; nothing is known where a count went back.
fn rate(name: &str, samples: &[Sample], of: fn(&Sample) -> u64) -> Series {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    let points = pairs.filter(|(before, now)| now.at_s > before.at_s).map(|(before, now)| {
        let added = of(now).checked_sub(of(before));
        (now.at_s, added.map(|added| added as f64 / (now.at_s - before.at_s)))
    });
    Series { name: name.to_owned(), points: points.collect() }
}

/// Parts on the way of an event, with the words that tell of each.
const PARTS: [(&str, &[&str]); 5] = [
    ("services", &["service"]),
    ("PostgreSQL", &["postgres"]),
    ("relay", &["relay"]),
    ("Kafka", &["broker", "kafka"]),
    ("consumers", &["consumer", "group"]),
];

/// Lanes by part and by kind, the parts in the order of an event's way.
fn groups(faults: &[Fault]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut sorted: Vec<(usize, &Fault)> = faults.iter().map(|fault| (part(fault), fault)).collect();
    // Stable: those of a kind stay in the order of their times.
    sorted.sort_by_key(|(part, fault)| (*part, fault.kind.as_str()));
    for of_part in sorted.chunk_by(|a, b| a.0 == b.0) {
        let part = of_part.first().map_or(PARTS.len(), |(part, _)| *part);
        let name = PARTS.get(part).map_or("others", |(name, _)| *name).to_owned();
        let lanes = of_part.chunk_by(|a, b| a.1.kind == b.1.kind).map(lane).collect();
        groups.push(Group { name, lanes });
    }
    groups
}

/// The part that a fault is at, as its target says or else the first word of its kind that tells of one.
fn part(fault: &Fault) -> usize {
    let first = |text: &str| {
        let text = text.to_lowercase();
        let places = PARTS.iter().enumerate().filter_map(|(number, (_, words))| {
            Some((words.iter().filter_map(|word| text.find(word)).min()?, number))
        });
        places.min().map(|(_, number)| number)
    };
    first(&fault.target).or_else(|| first(&fault.kind)).unwrap_or(PARTS.len())
}

fn lane(faults: &[(usize, &Fault)]) -> Lane {
    let seen = faults.iter().filter(|(_, fault)| fault.seen.is_some()).count();
    let bar = |(_, fault): &(usize, &Fault)| Bar {
        from_s: fault.from_s,
        until_s: fault.until_s,
        filled: fault.seen.is_some(),
        says: format!(
            "{} at {}, from {} for {:.1} s; {}",
            fault.kind,
            fault.target,
            time(fault.from_s),
            fault.until_s - fault.from_s,
            fault.seen.as_deref().unwrap_or("effect not seen")
        ),
    };
    Lane {
        name: faults.first().map_or(String::new(), |(_, fault)| fault.kind.clone()),
        note: format!("{seen}/{}", faults.len()),
        bars: faults.iter().map(bar).collect(),
    }
}

/// The same in a table of a few rows.
fn in_figures(run: &Run) -> String {
    let until = run.samples.last().map_or(0.0, |sample| sample.at_s);
    let step = until / ROWS as f64;
    let row = |number: usize| {
        let (from, to) = (step * number as f64, step * (number + 1) as f64);
        let within = |at: f64| at >= from && (at < to || number + 1 == ROWS);
        let samples: Vec<&Sample> = run.samples.iter().filter(|sample| within(sample.at_s)).collect();
        let faults = run.faults.iter().filter(|fault| fault.from_s < to && fault.until_s >= from).count();
        let a_second = |of: fn(&Sample) -> u64| match (samples.first(), samples.last()) {
            (Some(first), Some(last)) if last.at_s > first.at_s => of(last)
                .checked_sub(of(first))
                .map_or("–".to_owned(), |added| format!("{:.0}", added as f64 / (last.at_s - first.at_s))),
            _ => "–".to_owned(),
        };
        let most = |of: fn(&Sample) -> Option<u64>| {
            samples.iter().filter_map(|sample| of(sample)).max().map_or("–".to_owned(), grouped)
        };
        vec![
            format!("{} – {}", time(from), time(to)),
            faults.to_string(),
            a_second(|sample| sample.committed),
            a_second(|sample| sample.published),
            a_second(|sample| sample.effects),
            most(|sample| sample.lag),
            most(|sample| sample.unconfirmed_bytes.map(|bytes| bytes / 1024)),
            most(|sample| sample.parked_keys),
        ]
    };
    if step == 0.0 {
        return plain("There are no samples.");
    }
    let headings = [
        "from – to",
        ">faults",
        ">committed/s",
        ">published/s",
        ">effects/s",
        ">lag at most",
        ">KiB not confirmed at most",
        ">parked at most",
    ];
    table(&headings, (0..ROWS).map(row))
}
