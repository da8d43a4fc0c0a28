//! The report of `make bench-consumer`: its text and tables.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::ground::{PARTITIONS, SETTINGS};
use super::plan::{CONNECTIONS, Counts, GROUP, KEYS, SLEEPERS, SLOW_WARM_UP};
use super::plots;
use super::results::{Case, Pair, Results, Run};
use super::verdict::{
    COST, MEMORY, OF_BARE, OF_ONE, OF_PGBENCH, OF_UNIFORM, cost, grown, memory, ratio, spread, verdicts,
};
use crate::bench::figures::Spread;
use crate::bench::machine::Machine;
use crate::bench::others::{Other, of_case};
use crate::bench::results::Percentiles;
use crate::bench::table::{machine_row, percentiles, row, sentence, verdict_table};
use crate::page::{Page, code, plain};
use crate::plot::bars::Limit;

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
    /// Of the consumer and its client.
    #[serde(default = "Versions::unknown")]
    pub versions: Versions,
    /// What was measured.
    pub results: Results,
    /// Other systems on the same machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

/// Of what was compiled into the process that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Versions {
    /// The SDK's.
    pub consumer: String,
    /// The client's.
    pub librdkafka: String,
}

impl Versions {
    /// Of this program, which is the one that is measured.
    pub fn here() -> Versions {
        Versions {
            consumer: env!("CARGO_PKG_VERSION").to_owned(),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
        }
    }

    /// Of an earlier program, which did not write them down.
    fn unknown() -> Versions {
        Versions { consumer: "not known".to_owned(), librdkafka: "not known".to_owned() }
    }
}

/// Of the plan, what a report says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Runs of each case.
    pub pairs: usize,
    /// Seeds keys and payloads.
    pub seed: u64,
    /// Counts.
    pub counts: Counts,
}

/// Something of one pair by something else of it.
#[derive(Clone, Copy)]
pub struct Ratio {
    /// How it is called.
    pub name: &'static str,
    /// What is required of its median.
    pub limit: Option<Limit>,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    Rate(Case, Case),
    Cost(Case, Case),
    Memory(Case, Case),
    Growth,
}

impl Ratio {
    const fn new(name: &'static str, of: Of, limit: Option<Limit>) -> Ratio {
        Ratio { name, limit, of }
    }

    /// Over all pairs.
    pub fn spread(self, results: &Results) -> Option<Spread> {
        spread(results, |pair: &Pair| match self.of {
            Of::Rate(case, to) => ratio(pair, case, to),
            Of::Cost(case, to) => cost(pair, case, to),
            Of::Memory(case, to) => memory(pair, case, to),
            Of::Growth => grown(pair),
        })
    }
}

/// Of rates: more is better.
pub const RATES: [Ratio; 8] = [
    Ratio::new(
        "no-op by key ÷ bare loop, uniform",
        Of::Rate(Case::NothingUniform, Case::BareUniform),
        Some(Limit::Least(OF_BARE)),
    ),
    Ratio::new("no-op by key ÷ bare loop, Zipf", Of::Rate(Case::NothingZipf, Case::BareZipf), None),
    Ratio::new(
        "no-op, Zipf ÷ uniform",
        Of::Rate(Case::NothingZipf, Case::NothingUniform),
        Some(Limit::Least(OF_UNIFORM)),
    ),
    Ratio::new(
        "one by one ÷ `pgbench`, uniform",
        Of::Rate(Case::OneUniform, Case::Pgbench),
        Some(Limit::Least(OF_PGBENCH)),
    ),
    Ratio::new(
        "grouped ÷ one by one, uniform",
        Of::Rate(Case::GroupUniform, Case::OneUniform),
        Some(Limit::Least(OF_ONE)),
    ),
    Ratio::new(
        "grouped and pipelined ÷ one by one, uniform",
        Of::Rate(Case::PipelinedUniform, Case::OneUniform),
        None,
    ),
    Ratio::new("grouped ÷ one by one, Zipf", Of::Rate(Case::GroupZipf, Case::OneZipf), None),
    Ratio::new("grouped ÷ `pgbench`, groups", Of::Rate(Case::GroupUniform, Case::PgbenchGroups), None),
];

/// Of processor time and memory: less is better.
pub const COSTS: [Ratio; 4] = [
    Ratio::new(
        "cost of an event, long ÷ short backlog",
        Of::Cost(Case::NothingUniform, Case::Bursts),
        Some(Limit::Most(COST)),
    ),
    Ratio::new(
        "cost of an event, many ÷ few keys",
        Of::Cost(Case::ManyKeys, Case::FewKeys),
        Some(Limit::Most(COST)),
    ),
    Ratio::new("most memory, a long backlog ÷ its first quarter", Of::Growth, Some(Limit::Most(MEMORY))),
    Ratio::new(
        "most memory, many ÷ few keys",
        Of::Memory(Case::ManyKeys, Case::FewKeys),
        Some(Limit::Most(MEMORY)),
    ),
];

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
        let mut page = Page::new("Throughput, cost and latency of the consumer");
        let verdicts = verdicts(&self.results);
        let (holds, says) = sentence(&verdicts);
        page.verdict(holds, &says);
        writeln!(
            page,
            "Written by `{}`; every number is of that run. Timings are of this machine alone: compare within the report.",
            self.command
        )?;
        self.ratios(&mut page)?;
        verdict_table(&mut page, &verdicts)?;
        self.measured_on(&mut page)?;
        self.cases(&mut page)?;
        self.meaning(&mut page)?;
        if let [first, ..] = self.results.latency.as_slice() {
            self.latency(&mut page, first.events)?;
        }
        self.runs(&mut page)?;
        Ok(page)
    }

    fn measured_on(&self, out: &mut impl Write) -> fmt::Result {
        let Report { date, plan, machine, versions, results, .. } = self;
        writeln!(out, "\n## What it was measured on\n\n| | |\n|---|---|")?;
        writeln!(out, "| date | {date} |")?;
        machine_row(out, machine)?;
        writeln!(out, "| congestion control of the machine | {} |", machine.congestion_control)?;
        writeln!(out, "| consumer | outbox-consumer {} |", versions.consumer)?;
        let settings: Vec<String> =
            SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        writeln!(out, "| PostgreSQL | {}; {} |", results.postgres, settings.join(", "))?;
        writeln!(
            out,
            "| Kafka | {}, topics of {PARTITIONS} partitions, lz4; client: {} |",
            machine.broker_in_words(),
            versions.librdkafka
        )?;
        writeln!(
            out,
            "| events | headers `id` and `type`, 200 bytes of JSON; {KEYS} keys, uniform or by Zipf's law with exponent 1 |"
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
        writeln!(out, "| pairs | {} |\n| seed | {} |", plan.pairs, plan.seed)
    }

    fn ratios(&self, page: &mut Page) -> fmt::Result {
        writeln!(page, "\n## Ratios\n")?;
        page.figure(plots::ratios(&self.results, &self.others));
        writeln!(page, "Of the runs of one pair each.\n")?;
        writeln!(page, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        for ratio in RATES.into_iter().chain(COSTS) {
            row(page, ratio.name, ratio.spread(&self.results), 2)?;
        }
        Ok(())
    }

    fn cases(&self, page: &mut Page) -> fmt::Result {
        let of = |case: Case, figure: fn(&Run) -> Option<f64>| {
            spread(&self.results, |pair| pair.runs.get(&case).and_then(figure))
        };
        writeln!(page, "\n## Events a second\n")?;
        for group in plots::GROUPS {
            page.figure(plots::rates(&group, &self.results, &self.others));
        }
        writeln!(
            page,
            "| | what stands behind it | median | quartiles | min – max |\n|---|---|---|---|---|"
        )?;
        for case in Case::ALL {
            let name = format!("{} | {}", case.name(), self.stands_behind(case));
            row(page, &name, of(case, |run| Some(run.rate())), 0)?;
            for (other, theirs) in of_case(&self.others, case.name()) {
                let name = format!("{}, {} | {}", plain(&other.title()), case.name(), code(&other.settings));
                row(page, &name, Some(theirs), 0)?;
            }
        }
        writeln!(page, "\n## Processor time of an event, µs\n")?;
        for group in plots::GROUPS {
            page.figure(plots::costs(&group, &self.results));
        }
        writeln!(page, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        let costs = Case::ALL.into_iter().filter(|case| !case.is_pgbench());
        for case in costs.clone() {
            row(page, case.name(), of(case, |run| run.cpu_micros), 2)?;
        }
        writeln!(page, "\n## Most memory, MiB\n")?;
        page.figure(plots::memory(&self.results));
        writeln!(page, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        for case in costs {
            row(page, case.name(), of(case, |run| Some(run.peak_rss_kib? as f64 / 1024.0)), 0)?;
        }
        Ok(())
    }

    /// What has to be known beside a number.
    fn stands_behind(&self, case: Case) -> String {
        let counts = &self.plan.counts;
        let database = format!("{CONNECTIONS} connections, fsync on, 3 round trips");
        match case {
            Case::BareUniform | Case::BareZipf => {
                format!("{} events, one thread that polls", counts.backlog)
            }
            Case::NothingUniform | Case::NothingZipf => format!("{} events, 16 at once", counts.backlog),
            Case::Bursts => format!("{} times {} events", counts.bursts, counts.burst),
            Case::FewKeys => format!("{} events, {} keys", counts.keyed, counts.few_keys),
            Case::ManyKeys => format!("{} events, {} keys", counts.keyed, counts.many_keys),
            Case::SleepUniform => {
                format!("{} events, {SLEEPERS} at once; ideal {}", counts.sleep, SLEEPERS * 1_000)
            }
            Case::SleepZipf => format!(
                "{} events, {SLEEPERS} at once; its first key alone takes {:.0} at most",
                counts.sleep_zipf,
                zipf_limit()
            ),
            Case::Pgbench => format!("{} s; {database}, a commit per event", counts.pgbench_seconds),
            Case::PgbenchGroups => format!(
                "{} s; {CONNECTIONS} connections, fsync on, {GROUP} events of a commit, each in its savepoint and in a round trip",
                counts.pgbench_seconds
            ),
            Case::OneUniform | Case::OneZipf => {
                format!("{} events; {database}, a commit per event", counts.one_by_one)
            }
            Case::GroupUniform | Case::GroupZipf => format!(
                "{} events; {CONNECTIONS} connections, fsync on, at most {GROUP} events of a commit, each in its savepoint and in a round trip",
                counts.grouped
            ),
            Case::PipelinedUniform => format!(
                "{} events; {CONNECTIONS} connections, fsync on, at most {GROUP} events of a commit, each in its savepoint, 3 round trips for all",
                counts.grouped
            ),
        }
    }

    fn meaning(&self, out: &mut impl Write) -> fmt::Result {
        let counts = &self.plan.counts;
        write!(
            out,
            "
## What each number means, and what it does not

Each run is a process of its own, which begins with a group of its own at the beginning of a topic that is full. Its time
and its processor time, which is that of the whole process, librdkafka's threads included, begin behind the first
{warm_up} events, or the first {slow} where a database or a clock sets the pace, and end with the last: start, joining the
group, making the connections and the end do not count. Of `pgbench` its connecting does not, but its first transactions do,
in which statements are prepared. The pairs run
forwards and backwards in turn. Topics are in the page cache, and the broker takes part of the same {cores} cores.

**No-op.** The bare loop is librdkafka's consumer with the settings that the SDK gives it, polled by one thread that counts
and drops what it gets. The SDK's handler counts and answers done; in between are the records' copies, the keys' queues,
16 workers, the frontier and commits of offsets; the log is at the level warn, so that nobody writes a span for each event. It
says what the SDK costs where a handler costs nothing, and nothing about handlers that do something. Zipf against uniform
says that a key with a tenth of all events does not hold up the others.

**1 ms handler.** {SLEEPERS} handlers sleep for 1 ms by tokio's clock, which counts in milliseconds and wakes late rather than
early; with no other loss they would take up to twice that. By Zipf the most frequent key, whose events run one after
the other, sets the pace.

**PostgreSQL.** One `UPDATE` per event of the row of its key. `pgbench` runs the same statements on as many connections
in the same three round trips: `BEGIN`, the claim and the look for park markers in one; the `UPDATE`; the last look at
the transaction and `COMMIT` in one (`consumer-sdk/src/runtime/inbox.rs`). It draws keys at random and lets two
connections wait for one row, which the SDK never does; it has no records to read and no offsets to commit. The topics
hold as many events as a run handles, so that it reads no more than that. After every run the effects are counted against
the settlements. Tables are emptied and a checkpoint is made before each run. Of a group each event's `UPDATE` is sent behind its savepoint in a round trip of its own, as `pgbench` does it for groups;
*pipelined* its handler does not wait for the answer (`Tx::execute_pipelined`), and all answers are looked at together
before the COMMIT: the rate that is asked of shared commits is asked of these. The disk here flushes in a fraction of a millisecond; where it takes longer, shared commits gain more.

**Cost.** The long backlog is the topic of {backlog} events; the short one is {burst} events, written while the consumer is
stopped (SIGSTOP) and handled when it goes on, {bursts} times by one process, the first few not counted. Both count only
processor time. The keys are drawn from {few} and from {many}.

**Memory** is the most that the process has ever held (`VmHWM`): what librdkafka has fetched, what the SDK holds, code.
Flat means that it does not grow with what is read: of the long backlog, up to its end and up to its first quarter.
",
            cores = self.machine.cores,
            warm_up = counts.warm_up,
            slow = SLOW_WARM_UP,
            backlog = counts.backlog,
            burst = counts.burst,
            bursts = counts.bursts,
            few = counts.few_keys,
            many = counts.many_keys,
        )
    }

    fn latency(&self, page: &mut Page, events: u64) -> fmt::Result {
        let runs = &self.results.latency;
        writeln!(
            page,
            "
## Record to commit

{rate} events a second at their intended times, {events} a run, uniform keys, 16 handlers at once, groups as they come, fsync on;
each inserts a row. *Seen* is when another session has the row in its hands, looking about once a millisecond: the commit
is flushed and visible by then, so it is never too short. *Committed* is the server's own time of the commit, which it
takes just before it flushes. Both begin when the event should have been sent, and so hold the producer's way to the
broker, too, which *acknowledged* shows. The looks load the server a little. Consumer: {memory} MiB at most, {load:.0} % of a core.
",
            rate = self.plan.counts.rate,
            memory = runs.iter().map(|run| run.peak_rss_kib).max().unwrap_or(0) / 1024,
            load = Spread::of(runs.iter().map(|run| run.load * 100.0)).map_or(f64::NAN, |load| load.median),
        )?;
        page.figure(plots::latency(runs));
        writeln!(page, "| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
        percentiles(
            page,
            "**seen**, median of the runs",
            Percentiles::median_of(runs.iter().map(|run| run.seen)),
        )?;
        percentiles(
            page,
            "committed, median of the runs",
            Percentiles::median_of(runs.iter().map(|run| run.committed)),
        )?;
        percentiles(
            page,
            "acknowledged, median of the runs",
            Percentiles::median_of(runs.iter().map(|run| run.acknowledged)),
        )?;
        for (number, run) in runs.iter().enumerate() {
            percentiles(page, &format!("run {}, seen", number + 1), run.seen)?;
        }
        Ok(())
    }

    fn runs(&self, out: &mut impl Write) -> fmt::Result {
        writeln!(
            out,
            "\n## Every run\n\nThousand events a second; µs of processor time of an event; MiB.\n"
        )?;
        let pairs = &self.results.pairs;
        let numbers: Vec<String> = (1..=pairs.len()).map(|number| format!("pair {number}")).collect();
        writeln!(out, "| | {} |\n|---|{}", numbers.join(" | "), "---|".repeat(pairs.len()))?;
        for case in Case::ALL {
            let cells: Vec<String> = pairs.iter().map(|pair| cell(pair.runs.get(&case))).collect();
            writeln!(out, "| {} | {} |", case.name(), cells.join(" | "))?;
        }
        Ok(())
    }
}

fn cell(run: Option<&Run>) -> String {
    let Some(run) = run else { return "not run".to_owned() };
    let cpu = run.cpu_micros.map_or_else(String::new, |cpu| format!("; {cpu:.2}"));
    let memory = run.peak_rss_kib.map_or_else(String::new, |kib| format!("; {}", kib / 1024));
    format!("{:.1}{cpu}{memory}", run.rate() / 1000.0)
}

/// What one key with the share of the first of them can do at 1 ms an event, seen over all keys.
fn zipf_limit() -> f64 {
    let sum: f64 = (1..=KEYS).map(|k| 1.0 / f64::from(k)).sum();
    1_000.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the last real run.
    fn report() -> Report {
        serde_json::from_str(include_str!("../../../../docs/bench-consumer.json")).unwrap()
    }

    #[test]
    fn the_report_can_be_made_again_from_its_json() {
        let page = report().page().unwrap();
        let mut directory = tempfile::tempdir().unwrap();
        // To be looked at.
        directory.disable_cleanup(std::env::var_os("OUTBOX_TESTS_KEEP").is_some());
        page.write(&directory.path().join("bench.md")).unwrap();
        println!("{}", directory.path().display());
        let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        let (text, html) = (read("bench.md"), read("bench.html"));
        assert!(text.contains("requirements are met") && text.contains("## Every run"));
        let first = html.find("<h2>").unwrap();
        assert!(html[first..].starts_with("<h2>Ratios</h2>"), "ratios come first");
        assert!(html.contains("one by one ÷ pgbench, uniform") && !html.contains("NaN"));
    }

    #[test]
    fn other_systems_are_further_rows() {
        let mut report = report();
        report.others = vec![Other {
            name: "Other".to_owned(),
            version: "4.1".to_owned(),
            settings: "tests/peers/other.yml".to_owned(),
            cases: [("no-op, uniform".to_owned(), Spread::of([490e3]).unwrap())].into(),
        }];
        let page = report.page().unwrap();
        let text = page.markdown();
        assert!(text.contains("| Other 4.1, no-op, uniform | `tests/peers/other.yml` | 490000 |"));
        assert!(page.html().contains("no-op, uniform ÷ Other 4.1"));
    }
}
