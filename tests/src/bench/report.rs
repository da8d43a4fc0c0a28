//! The report of `make bench-relay`: its text and tables.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::figures::Spread;
use super::machine::Machine;
use super::others::{Other, of_case};
use super::plots;
use super::results::{Drains, GuaranteePair, Latency, LatencyRun, Pair, Percentiles, RelayDrain, Results};
use super::table::{machine_row, percentiles, row, sentence, verdict_table};
use super::verdict::verdicts;
use crate::page::{Page, code, plain};

/// Everything that a report says; its JSON is this.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
    /// The relay's version.
    pub relay: String,
    /// What was asked for.
    pub plan: Asked,
    /// The machine.
    pub machine: Machine,
    /// What was left out, in sentences.
    pub left_out: Vec<String>,
    /// What was measured.
    pub results: Vec<Results>,
    /// Other systems on the same machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

/// Of the plan, what a report says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Pairs of drains per shape.
    pub pairs: usize,
    /// Seeds the payloads.
    pub seed: u64,
    /// Keys of the relay's configuration beyond its defaults, as `key=value`.
    pub relay_keys: Vec<String>,
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
        let mut page = Page::new("Throughput, latency and memory of the relay");
        let verdicts = verdicts(&self.results);
        let (holds, says) = sentence(&verdicts);
        page.verdict(holds, &says);
        writeln!(
            page,
            "Written by `{}`; every number is of that run. Timings are of this machine alone: compare within the report.",
            self.command
        )?;
        for sentence in &self.left_out {
            writeln!(page, "\n**Left out:** {sentence}")?;
        }
        self.ratios(&mut page)?;
        verdict_table(&mut page, &verdicts)?;
        self.measured_on(&mut page)?;
        page.write_str(METHOD)?;
        page.write_str(MEANING)?;
        for under in &self.results {
            self.under(&mut page, under)?;
        }
        Ok(page)
    }

    fn ratios(&self, page: &mut Page) -> fmt::Result {
        writeln!(page, "\n## Ratios\n")?;
        page.figure(plots::ratios(&self.results, &self.others));
        writeln!(page, "| relay ÷ `pg_recvlogical` | median | quartiles | min – max |\n|---|---|---|---|")?;
        for under in &self.results {
            for drains in &under.drains {
                let name = case(drains, &under.congestion_control);
                row(page, &name, Spread::of(drains.pairs.iter().map(Pair::ratio)), 2)?;
            }
        }
        for under in &self.results {
            for drains in under.drains.iter().filter(|drains| !drains.guarantees.is_empty()) {
                let name =
                    format!("exactly once ÷ at least once, {}", case(drains, &under.congestion_control));
                row(page, &name, Spread::of(drains.guarantees.iter().map(GuaranteePair::ratio)), 2)?;
            }
        }
        Ok(())
    }

    fn measured_on(&self, out: &mut impl Write) -> fmt::Result {
        let Report { date, relay, plan, machine, .. } = self;
        writeln!(out, "\n## What it was measured on\n\n| | |\n|---|---|")?;
        writeln!(out, "| date | {date} |")?;
        machine_row(out, machine)?;
        writeln!(out, "| congestion control of the machine | {} |", machine.congestion_control)?;
        writeln!(out, "| relay | {relay}; beyond its defaults: {} |", listed(&plan.relay_keys))?;
        if let Some(first) = self.results.first() {
            writeln!(out, "| PostgreSQL | {}; {} |", first.postgres, first.postgres_settings.join(", "))?;
            writeln!(
                out,
                "| row | `outbox.events` as `outbox-relay init` makes it, payload `{}` of {:.0} bytes, text format |",
                first.payload_type, first.payload_bytes
            )?;
        }
        writeln!(
            out,
            "| Kafka | {}, a topic of 12 partitions per run, `acks=all`, lz4 |",
            machine.broker_in_words()
        )?;
        for other in &self.others {
            writeln!(
                out,
                "| {} | {}; {} |",
                plain(&other.name),
                plain(&other.version),
                code(&other.settings)
            )?;
        }
        writeln!(out, "| seed | {} |", plan.seed)
    }

    fn under(&self, page: &mut Page, under: &Results) -> fmt::Result {
        let control = &under.congestion_control;
        writeln!(page, "\n## Under {control}\n")?;
        if under.own_namespace {
            writeln!(page, "In a network namespace of its own; the machine's setting was not touched.\n")?;
        }
        if !under.drains.is_empty() {
            page.figure(plots::throughput(under, &self.others));
            page.figure(plots::cost(under));
            page.figure(plots::memory(under));
        }
        for drains in &under.drains {
            drain_tables(page, drains, (control, &self.others))?;
        }
        if let Some(latency) = &under.latency {
            latency_table(page, control, latency)?;
        }
        Ok(())
    }
}

/// How a backlog under a congestion control is called: the name of its case.
pub fn case(drains: &Drains, control: &str) -> String {
    format!("{}, {control}", drains.shape.name())
}

/// What is done.
const METHOD: &str = "
## What is compared

Both readers drain the same log from copies of one slot, through the same publication, in the order A B B A …
The time begins with the server's `START_REPLICATION` (its own log says when) and ends with the last row: written to the
null device and the program ended for `pg_recvlogical`, acknowledged by the broker for the relay (its `/status`,
looked at every 5 ms towards the end). The start of neither process counts; fencing, the state record and the first
acknowledgement do count for the relay. *Steady* leaves these out: from the first look that saw a record acknowledged
to the last acknowledgement. After each drain the relay is told to stop and has to end with code 0, with the slot confirmed
behind the backlog. Processor time is that of whole processes, by event. The broker is warm but for the run that
is called cold, the first drain into a broker that has just been started.

Exactly once is compared with at least once in the same way, drain by drain in turns. With it a row counts when its Kafka
transaction is committed, since nobody who reads committed records sees it before.

Latency is an open loop: transactions of one row at their intended times on four connections, whatever became
of those before. *Commit → received* begins when COMMIT has returned to the producer, *intended → received* when the transaction
should have begun; both end when a consumer has the record. One clock, one process.
";

/// What comes of it.
const MEANING: &str = "
## What each number means, and what it does not

**The ratio** is of two drains of the same backlog, one after the other. `pg_recvlogical` is PostgreSQL's own reader and
throws the rows away: at 1 the relay has them acknowledged by Kafka in the time that mere reading takes. It says nothing about a
server far away, rows of other sizes, or PostgreSQL and Kafka on machines of their own; here all share one. A ratio to another
system is of the medians, as the two did not run in pairs.

**Rows a second** say how fast a relay that was away catches up, on this machine. They do not say how many events a service
can commit. PostgreSQL decodes each slot in one process; no reader of one slot is faster than that.

**Processor time of an event** is what the whole process used, by the number of rows: what has to be paid for. It is
not how long an event takes, since the processes work at the same time.

**Memory** is the most that the relay's process has ever held (`VmHWM`). What the server and the broker hold for it is not in it. It
is of these rows: a row of many megabytes has to be held whole.

**TCP data segments of a transaction** tell whether the server sends row by row or in large pieces. The number explains the
ratio, and is no aim of its own.

**Latency** is of a steady load far below what the relay can do, so it holds no queues: it says how long an event takes on its
way while nothing is wrong. The longest is one event of a whole run, and on a machine whose cores are shared it is as
often the machine's as the relay's.
";

fn listed(keys: &[String]) -> String {
    if keys.is_empty() { "nothing".into() } else { format!("`{}`", keys.join("`, `")) }
}

fn drain_tables(out: &mut impl Write, drains: &Drains, (control, others): (&str, &[Other])) -> fmt::Result {
    let shape = &drains.shape;
    let rows = shape.rows as f64;
    let rate = move |seconds: f64| rows / seconds / 1000.0;
    let pairs = &drains.pairs;
    let of = |value: fn(&Pair) -> f64| Spread::of(pairs.iter().map(value));
    let per_event = |cpu: fn(&Pair) -> f64| of(cpu).map(|spread| spread.scaled(1e6 / rows));
    writeln!(
        out,
        "### {}\n\n{} rows, {} MiB of log, {} pairs.\n",
        shape.name(),
        shape.rows,
        drains.wal_bytes / (1024 * 1024),
        pairs.len()
    )?;
    writeln!(out, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
    row(out, "**relay ÷ `pg_recvlogical`**", of(Pair::ratio), 2)?;
    let baseline = Spread::of(pairs.iter().map(|p| rate(p.baseline.seconds)));
    row(out, "`pg_recvlogical`, thousand rows/s", baseline, 0)?;
    row(out, "relay, thousand rows/s", Spread::of(pairs.iter().map(|p| rate(p.relay.seconds))), 0)?;
    row(out, "relay, steady", Spread::of(pairs.iter().map(|p| steady(&p.relay))), 0)?;
    for (other, theirs) in of_case(others, &case(drains, control)) {
        row(out, &format!("{}, thousand rows/s", plain(&other.title())), Some(theirs.scaled(0.001)), 0)?;
    }
    row(out, "relay, processor µs per event", per_event(|p| p.relay.relay_cpu), 2)?;
    row(out, "its walsender", per_event(|p| p.relay.walsender_cpu), 2)?;
    row(out, "its broker", per_event(|p| p.relay.broker_cpu), 2)?;
    row(out, "`pg_recvlogical`, processor µs per event", per_event(|p| p.baseline.client_cpu), 2)?;
    row(out, "its walsender", per_event(|p| p.baseline.walsender_cpu), 2)?;
    row(out, "relay, most memory, MiB", of(|p| p.relay.peak_rss_kib as f64 / 1024.0), 0)?;
    let transactions = shape.transactions() as f64;
    let segments = pairs.iter().filter_map(|p| Some(p.relay.segments? as f64 / transactions));
    row(out, "relay, TCP data segments per transaction", Spread::of(segments), 3)?;
    if !drains.guarantees.is_empty() {
        let both = &drains.guarantees;
        let of = |value: fn(&GuaranteePair) -> f64| Spread::of(both.iter().map(value));
        row(out, "**relay, exactly once ÷ at least once**", of(GuaranteePair::ratio), 2)?;
        let rates = |of: fn(&GuaranteePair) -> &RelayDrain| {
            Spread::of(both.iter().map(|pair| rate(of(pair).seconds)))
        };
        row(out, "relay, exactly once, thousand rows/s", rates(|pair| &pair.exactly_once), 0)?;
        row(out, "relay, at least once in turn with it", rates(|pair| &pair.at_least_once), 0)?;
    }
    if let Some(cold) = &drains.cold {
        writeln!(
            out,
            "\nCold broker (first drain of 500,000 rows, 100 per transaction): {:.0} thousand rows/s, steady {:.0}.",
            500.0 / cold.seconds,
            steady(cold)
        )?;
    }
    writeln!(out, "\n| pair | first | `pg_recvlogical`, s | relay, s | ratio |\n|---|---|---|---|---|")?;
    for (number, pair) in pairs.iter().enumerate() {
        writeln!(
            out,
            "| {} | {} | {:.2} | {:.2} | {:.2} |",
            number + 1,
            if pair.relay_first { "relay" } else { "`pg_recvlogical`" },
            pair.baseline.seconds,
            pair.relay.seconds,
            pair.ratio()
        )?;
    }
    writeln!(out)
}

/// Thousand rows a second without the beginning.
pub fn steady(drain: &RelayDrain) -> f64 {
    drain.steady_records as f64 / drain.steady_seconds / 1000.0
}

fn latency_table(page: &mut Page, control: &str, latency: &Latency) -> fmt::Result {
    writeln!(
        page,
        "### Latency\n\n{} transactions a second of one row, {} s a run. Relay: {:.1} MiB at most, {:.0} % of a core.\n",
        latency.rate,
        latency.seconds,
        latency.rss_kib as f64 / 1024.0,
        latency.relay_load * 100.0
    )?;
    page.figure(plots::latency(control, latency));
    writeln!(page, "| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
    let of = |value: fn(&LatencyRun) -> Percentiles| Percentiles::median_of(latency.runs.iter().map(value));
    percentiles(page, "**commit → received**, median of the runs", of(|run| run.from_commit))?;
    percentiles(page, "intended → received, median of the runs", of(|run| run.from_intended))?;
    percentiles(page, "intended → commit, median of the runs", of(|run| run.commit))?;
    for (number, run) in latency.runs.iter().enumerate() {
        percentiles(page, &format!("run {}, commit → received", number + 1), run.from_commit)?;
    }
    writeln!(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the last real run.
    fn report() -> Report {
        serde_json::from_str(include_str!("../../../docs/bench-relay.json")).unwrap()
    }

    #[test]
    fn the_report_can_be_made_again_from_its_json() {
        let report = report();
        let page = report.page().unwrap();
        let mut directory = tempfile::tempdir().unwrap();
        // To be looked at.
        directory.disable_cleanup(std::env::var_os("OUTBOX_TESTS_KEEP").is_some());
        page.write(&directory.path().join("bench.md")).unwrap();
        println!("{}", directory.path().display());
        let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        let (text, html) = (read("bench.md"), read("bench.html"));
        assert!(text.contains("requirements are met"));
        let first = html.find("<h2>").unwrap();
        assert!(html[first..].starts_with("<h2>Ratios</h2>"), "ratios come first");
        assert!(!html.contains("NaN"));
        for under in &report.results {
            let control = &under.congestion_control;
            assert!(text.contains(&format!("## Under {control}\n")));
            assert!(html.contains(&format!("Processor time of an event, {control}.")));
        }
    }

    #[test]
    fn other_systems_are_further_rows() {
        let mut report = report();
        let case = case(&report.results[0].drains[0], &report.results[0].congestion_control);
        report.others = vec![Other {
            name: "Other <System>".to_owned(),
            version: "1.2".to_owned(),
            settings: "tests/peers/other.properties".to_owned(),
            cases: [(case, Spread::of([30e3, 40e3, 50e3]).unwrap())].into(),
        }];
        let page = report.page().unwrap();
        let text = page.markdown();
        assert!(text.contains("| Other &lt;System> 1.2, thousand rows/s | 40 | 35 – 45 | 30 – 50 |"));
        assert!(text.contains("| Other &lt;System> | 1.2; `tests/peers/other.properties` |"));
        assert!(page.html().contains("relay ÷ Other &lt;System&gt; 1.2"));
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again.others, report.others);
    }
}
