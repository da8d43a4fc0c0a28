//! The tables and plots, with the ratios of the two other benchmarks.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::capture::STEADY;
use super::consumers::{self, Work};
use super::plan::Counts;
use super::plots::{self, Compared};
use super::relays;
use super::results::{Latency, Results};
use crate::bench::consumer::ground::SETTINGS;
use crate::bench::consumer::results::{Case, Pair as ConsumerPair, Results as ConsumerResults};
use crate::bench::figures::Spread;
use crate::bench::machine::Machine;
use crate::bench::results::{Pair, Percentiles, Results as RelayResults};
use crate::bench::table::{machine_row, percentiles, row};
use crate::page::Page;

/// Everything that a report says; its JSON is this.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
    /// What was asked for.
    pub plan: Asked,
    /// The machine.
    pub machine: Machine,
    /// What was measured.
    pub peers: Vec<Results>,
    /// What bench-relay wrote as JSON, where it has been run.
    pub relay: Option<Value>,
    /// The same of bench-consumer.
    pub consumer: Option<Value>,
}

/// Of the plan, what a report says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Rounds.
    pub pairs: usize,
    /// Seeds the payloads.
    pub seed: u64,
    /// PostgreSQL's major version.
    pub postgres: u32,
    /// How much of everything.
    pub counts: Counts,
}

impl Report {
    /// The report that has this JSON.
    ///
    /// # Errors
    /// The file cannot be read, or is not of this bench.
    pub fn read(path: &Path) -> anyhow::Result<Report> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report of this bench", path.display()))
    }

    /// The report, for Markdown and HTML.
    ///
    /// # Errors
    /// Never: a page takes everything.
    pub fn page(&self) -> Result<Page, fmt::Error> {
        let mut page = Page::new("Relay and consumer beside their peers");
        self.head(&mut page)?;
        self.ratios(&mut page)?;
        page.write_str(METHOD)?;
        let mut cases: Vec<&str> = Vec::new();
        for results in &self.peers {
            if !cases.contains(&results.case.as_str()) {
                cases.push(&results.case);
            }
        }
        for case in cases {
            let systems: Vec<&Results> = self.peers.iter().filter(|results| results.case == case).collect();
            writeln!(page, "\n## {}{}\n", case[..1].to_uppercase(), &case[1..])?;
            if is_steady(&systems) {
                page.figure(plots::latency(case, &systems));
                latency_tables(&mut page, &systems)?;
            } else {
                page.figure(plots::throughput(case, &systems));
                page.figure(plots::cost(case, &systems));
                case_tables(&mut page, &systems)?;
            }
            writeln!(page, "\n{}", meaning(case))?;
        }
        Ok(page)
    }

    fn head(&self, out: &mut impl Write) -> fmt::Result {
        let Report { command, date, plan, machine, .. } = self;
        writeln!(
            out,
            "Written by `{command}`; every number is of that run. Timings are of this machine alone, and clients, PostgreSQL and \
             Kafka share its processors: compare within the report. The peers' configurations are in `tests/peers`, where what \
             is wrong with them can be put right.\n"
        )?;
        writeln!(out, "| | |\n|---|---|\n| date | {date} |")?;
        machine_row(out, machine)?;
        writeln!(out, "| congestion control of the machine | {} |", machine.congestion_control)?;
        let settings: Vec<String> =
            SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        writeln!(out, "| PostgreSQL | {}; {} |", plan.postgres, settings.join(", "))?;
        writeln!(out, "| Kafka | {}, topics of 12 partitions, `acks=all` |", machine.broker_in_words())?;
        writeln!(out, "| rounds | {} |\n| seed | {} |", plan.pairs, plan.seed)
    }

    fn ratios(&self, page: &mut Page) -> fmt::Result {
        let (mut speeds, mut times) = (Vec::new(), Vec::new());
        for peer in self.peers.iter().filter(|results| !is_ours(results) && !is_baseline(results)) {
            let Some(ours) = ours(&self.peers, peer) else { continue };
            let case = peer.case.as_str();
            if peer.latency.is_empty() {
                speeds.push(Compared { case, peer, ratio: peer.ratio(ours) });
            } else {
                times.push(Compared { case, peer, ratio: latency_ratio(ours, peer) });
            }
        }
        let mut baselines = Vec::new();
        for under in results_of::<Vec<RelayResults>>(self.relay.as_ref()).unwrap_or_default() {
            for drains in &under.drains {
                let (shape, control) = (drains.shape.name(), &under.congestion_control);
                let name = format!("[bench-relay](bench-relay.md), {shape}, {control}: ÷ `pg_recvlogical`");
                baselines.push((name, Spread::of(drains.pairs.iter().map(Pair::ratio))));
            }
        }
        if let Some(consumer) = results_of::<ConsumerResults>(self.consumer.as_ref()) {
            for (what, ours, other) in CONSUMER {
                let ratio =
                    |pair: &ConsumerPair| Some(pair.runs.get(&ours)?.rate() / pair.runs.get(&other)?.rate());
                let name = format!("[bench-consumer](bench-consumer.md), {what}");
                baselines.push((name, Spread::of(consumer.pairs.iter().filter_map(ratio))));
            }
        }
        writeln!(
            page,
            "\n## Ratios\n\nHow many times as fast we are, of two runs of one round each. Above 1 we are faster.\n"
        )?;
        if !speeds.is_empty() {
            page.figure(plots::speeds(&speeds));
        }
        if !times.is_empty() {
            page.figure(plots::times(&times));
        }
        writeln!(page, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        for Compared { case, peer, ratio } in speeds {
            row(page, &format!("{case}: ÷ {}", plots::title(peer)), ratio, 2)?;
        }
        for Compared { case, peer, ratio } in times {
            row(page, &format!("{case}: p99 of {} ÷ ours", plots::title(peer)), ratio, 2)?;
        }
        for (name, ratio) in baselines {
            row(page, &name, ratio, 2)?;
        }
        Ok(())
    }
}

/// What is taken over from the consumer's own report.
const CONSUMER: [(&str, Case, Case); 2] = [
    ("handler that does nothing: ÷ bare rdkafka loop", Case::NothingUniform, Case::BareUniform),
    ("update in PostgreSQL, a commit per event: ÷ `pgbench`", Case::OneUniform, Case::Pgbench),
];

const METHOD: &str = "
## What is compared

A round runs everybody once, forwards and backwards in turn, each in a process of its own, alone on the machine with one PostgreSQL
and one broker; the open loops run one system after the other. *Warm* counts from two fifths of the events to the last: Java virtual machines have compiled most of what they run
by then, the relay and the consumer have nothing to compile and are counted in the same way. *In all* counts from the beginning,
which is `START_REPLICATION` in the server's log for relays and the first event for consumers; the start of a process never counts.
Processor time is that of whole processes while warm, by event. Memory is the most that the process itself ever held. *Defaults* is what
a system does when nobody says anything about speed, *tuned* what its documentation advises for the case; both are in
`tests/peers` with the source of each setting. Everybody gives the same promise: at least once to the log with `acks=all`, and where
a database is written to, one effect per event, which is counted after each run.
";

/// What the numbers of a case mean and what they do not.
fn meaning(case: &str) -> &'static str {
    let work = [Work::Nothing, Work::Sleep, Work::One, Work::Shared, Work::Insert]
        .into_iter()
        .find(|work| work.case() == case);
    match work {
        None if case == STEADY => LATENCY,
        None => CAPTURE,
        Some(Work::Nothing) => NOTHING,
        Some(Work::Sleep) => SLEEP,
        Some(Work::One) => ONE,
        Some(Work::Shared) => SHARED,
        Some(Work::Insert) => INSERT,
    }
}

const CAPTURE: &str = "*What it means.* How fast a relay works off what has piled up in the outbox while it was away, on a machine that it shares
with both servers. The walsender's time is part of the price: what it does for a row depends on how the reader reads. `pg_recvlogical`
writes to the null device and publishes nothing; it shows what the server gives to a plain reader.

*What it does not.* It is no rate that a service has to expect in operation, where backlogs are rare: there, the next table counts. Payloads of 216
bytes as `json`, one slot, no TLS. Debezium reads snapshots, updates, deletes and other databases, which the relay does not, and
pays for what makes that possible. Its tuned heap of 512 MiB is a choice; by default a virtual machine takes what the
machine has.";

const LATENCY: &str = "*What it means.* How long after it should have been committed a consumer has the record, while a thousand transactions a second of one
row each are committed on a schedule that waits for nobody. A relay that stalls is charged for all that was due meanwhile.

*What it does not.* The time until COMMIT has returned is in it, which is PostgreSQL's (*handed over*). A thousand a second leaves every relay idle most of
the time; near its limit latency is another. Defaults of Debezium look for rows twice a second by choice (`poll.interval.ms`).";

const NOTHING: &str = "*What it means.* What the machinery itself costs: fetch, order by key, hand over, know what is finished, commit offsets. The bare loop is
librdkafka with none of it. Spring Kafka hands over a partition's records one by one on the thread that polled them, so it has
no order by key to keep and nothing to hand to another thread.

*What it does not.* No handler does nothing. Where a handler takes longer than a few microseconds, this number says nothing about throughput, only about the processor
time that is left for the handler.";

const SLEEP: &str = "*What it means.* How many handlers that wait (a call to another service) are kept going at once while each key's order is kept. By key that is
as many as are allowed; by partition, as Spring Kafka does it, no more than there are partitions.

*What it does not.* Keys are uniform here. With few keys or one that is frequent nobody can do better than one event of that key after another.";

const ONE: &str = "*What it means.* Effectively once, the usual way: an event's id and its effect in one transaction, committed before the next event of its key. The
server's flush of its log bounds all of them; what differs is the round trips, and how many connections wait for a flush together. The peers
write to a table of ids that is made for it; our inbox also keeps states, retries and parked keys, and looks for them.
Tuned, the peers put both statements into one, which a handler with a statement of its own cannot.

*What it does not.* The disk decides: where a flush takes milliseconds all of these are slower and closer. The peers' handlers do not read the payload, ours decodes it.";

const SHARED: &str = "*What it means.* Many events in one transaction. Ours runs each handler by itself in a savepoint, so that one that fails takes no other with it, and the
handler does not know of the others. The peers hand a list to a handler that was written for lists: one statement for all of them, and one that
fails fails all.

*What it does not.* It is not the same work: a statement for fifty events is cheaper than fifty statements, and not every effect can be written so.";

const INSERT: &str = "*What it means.* How long after it should have been sent an event's effect is committed and seen by another session, while a thousand
events a second are sent on a schedule that waits for nobody. Each effect is in a transaction of its own with the event's id.

*What it does not.* The broker's acknowledgement is in it (*handed over*), and a look a millisecond of the session that watches, both the same for all. One thread and
one connection, Spring Kafka's defaults, may not keep up; then this is the length of a queue.";

/// Whether they were measured by an open loop.
fn is_steady(systems: &[&Results]) -> bool {
    systems.iter().any(|results| !results.latency.is_empty())
}

/// Whether it is one of this repository.
pub(super) fn is_ours(results: &Results) -> bool {
    results.system.starts_with("outbox-")
}

/// Whether it is there to show what the servers give; its ratios are in the two other reports.
fn is_baseline(results: &Results) -> bool {
    [relays::System::Recvlogical.name(), consumers::System::Bare.name()].contains(&results.system.as_str())
}

/// Ours in the same case, with the same settings where there are both.
fn ours<'a>(all: &'a [Results], peer: &Results) -> Option<&'a Results> {
    let mut ours = all.iter().filter(|results| is_ours(results) && results.case == peer.case);
    let first = ours.clone().next();
    ours.find(|results| results.settings == peer.settings).or(first)
}

fn results_of<T: DeserializeOwned>(report: Option<&Value>) -> Option<T> {
    serde_json::from_value(report?.get("results")?.clone()).ok()
}

/// How many times as long the 99th percentile takes, run by run.
fn latency_ratio(ours: &Results, peer: &Results) -> Option<Spread> {
    let p99 = |run: &Latency| run.from_intended.p99;
    Spread::of(peer.latency.iter().zip(&ours.latency).map(|(peer, ours)| p99(peer) / p99(ours)))
}

fn case_tables(out: &mut impl Write, systems: &[&Results]) -> fmt::Result {
    writeln!(out, "| thousand events a second, warm | median | quartiles | min – max |\n|---|---|---|---|")?;
    for results in systems {
        row(out, &name(results), Spread::of(results.runs.iter().map(|rate| rate / 1e3)), 1)?;
    }
    writeln!(
        out,
        "\n| thousand events a second, in all | median | quartiles | min – max |\n|---|---|---|---|"
    )?;
    for results in systems {
        row(out, &name(results), Spread::of(results.whole.iter().map(|rate| rate / 1e3)), 1)?;
    }
    usage_table(out, systems)?;
    if systems.iter().any(|results| results.once.is_some()) {
        let wrong: Vec<String> = systems
            .iter()
            .filter(|results| results.once == Some(false))
            .map(|results| name(results))
            .collect();
        if wrong.is_empty() {
            writeln!(out, "\nIn every run there was one effect for each event, and no other.")?;
        } else {
            writeln!(out, "\n**Not one effect for each event**: {}.", wrong.join("; "))?;
        }
    }
    Ok(())
}

/// Medians of processor time by process, and memory.
fn usage_table(out: &mut impl Write, systems: &[&Results]) -> fmt::Result {
    let processes: Vec<&str> = ["itself", "walsender", "broker", "PostgreSQL"]
        .into_iter()
        .filter(|process| systems.iter().any(|results| results.cpu_us_per_event.contains_key(*process)))
        .collect();
    writeln!(out, "\n| median µs of processor by event | {} | most memory, MiB |", processes.join(" | "))?;
    writeln!(out, "|---|{}---|", "---|".repeat(processes.len()))?;
    for results in systems {
        let median = |process: &&str| median(&results.cpu_us_per_event, process);
        let cells: Vec<String> = processes.iter().map(median).collect();
        // Nothing is known of what is over before it is asked.
        let memory =
            if results.peak_rss_mib > 0.0 { format!("{:.0}", results.peak_rss_mib) } else { "–".into() };
        writeln!(out, "| {} | {} | {memory} |", name(results), cells.join(" | "))?;
    }
    Ok(())
}

fn median(cpu: &BTreeMap<String, Vec<f64>>, process: &str) -> String {
    let spread = cpu.get(process).and_then(|runs| Spread::of(runs.iter().copied()));
    spread.map_or_else(|| "–".to_owned(), |spread| format!("{:.2}", spread.median))
}

fn latency_tables(out: &mut impl Write, systems: &[&Results]) -> fmt::Result {
    writeln!(out, "| ms, median of the runs | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
    for results in systems {
        let runs = results.latency.iter().map(|run| run.from_intended);
        percentiles(out, &name(results), middle(runs))?;
    }
    writeln!(out, "\n| of that until it was handed over | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
    for results in systems {
        let runs = results.latency.iter().map(|run| run.handed_over);
        percentiles(out, &name(results), middle(runs))?;
    }
    usage_table(out, systems)
}

/// Of each percentile the median of the runs.
pub(super) fn middle(runs: impl IntoIterator<Item = Percentiles>) -> Percentiles {
    let runs: Vec<Percentiles> = runs.into_iter().collect();
    let median = |part: fn(&Percentiles) -> f64| {
        Spread::of(runs.iter().map(part)).map_or(f64::NAN, |spread| spread.median)
    };
    Percentiles {
        p50: median(|p| p.p50),
        p90: median(|p| p.p90),
        p99: median(|p| p.p99),
        max: median(|p| p.max),
    }
}

fn name(results: &Results) -> String {
    let Results { system, version, settings, .. } = results;
    if is_ours(results) {
        format!("**{system}** {version}, {settings}")
    } else {
        format!("{system} {version}, {settings}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{Entry, Run, Settings};
    use super::*;

    fn results(system: &str, settings: Settings) -> Results {
        let entry = Entry { case: "backlog".to_owned(), system: system.to_owned(), settings };
        let mut results = Results::new(&entry, "1");
        results.add(Run { warm: 10.0, whole: 5.0, ..Run::default() });
        results
    }

    #[test]
    fn alike_is_compared_with_alike_where_there_is() {
        let all = [
            results("outbox-consumer", Settings::Tuned),
            results("outbox-consumer", Settings::Defaults),
            results("Spring Kafka", Settings::Defaults),
        ];
        assert_eq!(ours(&all, &all[2]).unwrap().settings, Settings::Defaults);
        assert_eq!(ours(&all[..1], &all[2]).unwrap().settings, Settings::Tuned);
        assert!(ours(&all[2..], &all[2]).is_none());
    }

    #[test]
    fn the_ratios_of_the_other_reports_are_taken_over() {
        let plan = Asked { pairs: 1, seed: 1, postgres: 15, counts: Counts::QUICK };
        let read = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let peers =
            vec![results("outbox-relay", Settings::Defaults), results("Debezium Server", Settings::Tuned)];
        let report = Report {
            command: "bench-peers".to_owned(),
            date: String::new(),
            plan,
            machine: Machine::here(),
            peers,
            relay: Some(read("bench-relay.json")),
            consumer: Some(read("bench-consumer.json")),
        };
        let page = report.page().unwrap();
        let text = page.markdown();
        for line in ["backlog: ÷ Debezium Server, tuned | 1.00", "bbr: ÷ `pg_recvlogical` |", "÷ `pgbench` |"]
        {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let html = page.html();
        assert_eq!(html.matches("<figure").count(), 3, "ratios, and two of the case");
        assert!(html.contains("Debezium Server, tuned") && !html.contains("NaN"), "{html}");
        // What is written can be read and makes the same page.
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again.page().unwrap().html(), html);
    }
}
