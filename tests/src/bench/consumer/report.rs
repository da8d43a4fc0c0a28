//! The tables.

use std::fmt::{self, Write};

use super::ground::{PARTITIONS, SETTINGS};
use super::plan::{CONNECTIONS, GROUP, KEYS, Plan, SLEEPERS};
use super::results::{Case, LatencyRun, Results, Run};
use super::verdict::{cost, ratio, spread, verdicts};
use crate::bench::figures::Spread;
use crate::bench::machine::Machine;
use crate::bench::results::Percentiles;
use crate::bench::table::{machine_row, percentiles, row, verdict_table};

/// Everything that a report says.
pub struct Report<'a> {
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
    /// What was asked for.
    pub plan: &'a Plan,
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured.
    pub results: &'a Results,
}

/// Ratios, and what each is of.
const RATIOS: [(&str, Case, Case); 6] = [
    ("no-op by key ÷ bare loop, uniform", Case::NothingUniform, Case::BareUniform),
    ("no-op by key ÷ bare loop, Zipf", Case::NothingZipf, Case::BareZipf),
    ("no-op, Zipf ÷ uniform", Case::NothingZipf, Case::NothingUniform),
    ("one by one ÷ `pgbench`, uniform", Case::OneUniform, Case::Pgbench),
    ("grouped ÷ one by one, uniform", Case::GroupUniform, Case::OneUniform),
    ("grouped ÷ one by one, Zipf", Case::GroupZipf, Case::OneZipf),
];

/// Ratios of processor time.
const COSTS: [(&str, Case, Case); 2] = [
    ("cost of an event, long ÷ short backlog", Case::NothingUniform, Case::Bursts),
    ("cost of an event, many ÷ few keys", Case::ManyKeys, Case::FewKeys),
];

impl Report<'_> {
    /// The report as Markdown.
    ///
    /// # Errors
    /// Never: a string takes everything.
    pub fn markdown(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        self.head(&mut out)?;
        verdict_table(&mut out, &verdicts(self.results))?;
        self.ratios(&mut out)?;
        self.cases(&mut out)?;
        self.meaning(&mut out)?;
        if let [first, ..] = self.results.latency.as_slice() {
            self.latency(&mut out, first.events)?;
        }
        self.runs(&mut out)?;
        Ok(out)
    }

    fn head(&self, out: &mut String) -> fmt::Result {
        let Report { command, date, plan, machine, results } = self;
        writeln!(out, "# Throughput, cost and latency of the consumer\n")?;
        writeln!(
            out,
            "Written by `{command}`; every number is of that run. Timings are of this machine alone: compare within the report.\n"
        )?;
        writeln!(out, "| | |\n|---|---|")?;
        writeln!(out, "| date | {date} |")?;
        machine_row(out, machine)?;
        writeln!(out, "| congestion control of the machine | {} |", machine.congestion_control)?;
        writeln!(out, "| consumer | outbox-consumer {} |", env!("CARGO_PKG_VERSION"))?;
        let settings: Vec<String> =
            SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        writeln!(out, "| PostgreSQL | {}; {} |", results.postgres, settings.join(", "))?;
        writeln!(
            out,
            "| Kafka | 4.3, one broker on the same machine, topics of {PARTITIONS} partitions, lz4; client: {} |",
            rdkafka::util::get_rdkafka_version().1
        )?;
        writeln!(
            out,
            "| events | headers `id` and `type`, 200 bytes of JSON; {KEYS} keys, uniform or by Zipf's law with exponent 1 |"
        )?;
        writeln!(out, "| pairs | {} |\n| seed | {} |", plan.pairs, plan.seed)
    }

    fn ratios(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\n## Ratios\n\nOf the runs of one pair each.\n")?;
        writeln!(out, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
        for (name, case, to) in RATIOS {
            row(out, name, spread(self.results, |pair| ratio(pair, case, to)), 2)?;
        }
        for (name, case, to) in COSTS {
            row(out, name, spread(self.results, |pair| cost(pair, case, to)), 2)?;
        }
        Ok(())
    }

    fn cases(&self, out: &mut String) -> fmt::Result {
        let of = |case: Case, figure: fn(&Run) -> Option<f64>| {
            spread(self.results, |pair| pair.runs.get(&case).and_then(figure))
        };
        writeln!(
            out,
            "\n## Events a second\n\n| | what stands behind it | median | quartiles | min – max |\n|---|---|---|---|---|"
        )?;
        for case in Case::ALL {
            let name = format!("{} | {}", case.name(), self.stands_behind(case));
            row(out, &name, of(case, |run| Some(run.rate())), 0)?;
        }
        writeln!(
            out,
            "\n## Processor time of an event, µs\n\n| | median | quartiles | min – max |\n|---|---|---|---|"
        )?;
        let costs = Case::ALL.into_iter().filter(|case| *case != Case::Pgbench);
        for case in costs.clone() {
            row(out, case.name(), of(case, |run| run.cpu_micros), 2)?;
        }
        writeln!(out, "\n## Most memory, MiB\n\n| | median | quartiles | min – max |\n|---|---|---|---|")?;
        for case in costs {
            row(out, case.name(), of(case, |run| Some(run.peak_rss_kib? as f64 / 1024.0)), 0)?;
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
            Case::OneUniform | Case::OneZipf => {
                format!("{} events; {database}, a commit per event", counts.one_by_one)
            }
            Case::GroupUniform | Case::GroupZipf => format!(
                "{} events; {CONNECTIONS} connections, fsync on, at most {GROUP} events of a commit, each in its savepoint",
                counts.grouped
            ),
        }
    }

    fn meaning(&self, out: &mut String) -> fmt::Result {
        let counts = &self.plan.counts;
        write!(
            out,
            "
## What each number means, and what it does not

Each run is a process of its own, which begins with a group of its own at the beginning of a topic that is full. Its time
runs from the first event that it handles to the last; start, joining the group and the end do not count. The pairs run
forwards and backwards in turn. Topics are in the page cache, and the broker takes part of the same {cores} cores.

**No-op.** The bare loop is librdkafka's consumer with the settings that the SDK gives it, polled by one thread that counts
and drops what it gets. The SDK's handler counts and answers done; in between are the records' copies, the keys' queues,
16 workers, the frontier and commits of offsets; the log is at the level warn, so that nobody writes a span for each event. It
says what the SDK costs where a handler costs nothing, and nothing about handlers that do something. Zipf against uniform says that a key with a tenth of all events does not hold up the
others. Processor time is that of the whole process, librdkafka's threads included, behind the first {warm_up} events.

**1 ms handler.** {SLEEPERS} handlers sleep for 1 ms by tokio's clock, which counts in milliseconds and wakes late rather than
early; with no other loss they would take up to twice that. By Zipf the most frequent key, whose events run one after
the other, sets the pace.

**PostgreSQL.** One `UPDATE` per event of the row of its key. `pgbench` runs the same statements on as many connections
in the same three round trips: `BEGIN`, the claim and the look for park markers in one; the `UPDATE`; the last look at
the transaction and `COMMIT` in one (`consumer-sdk/src/runtime/inbox.rs`). It draws keys at random and lets two
connections wait for one row, which the SDK never does; it has no records to read and no offsets to commit. After every
run the effects are counted against the settlements. Tables are emptied and a checkpoint is made before each run. The
disk here flushes in a fraction of a millisecond; where it takes longer, shared commits gain more.

**Cost.** The long backlog is the topic of {backlog} events; the short one is {burst} events, written while the consumer is
stopped (SIGSTOP) and handled when it goes on, {bursts} times by one process, the first few not counted. Both count only
processor time. The keys are drawn from {few} and from {many}.

**Memory** is the most that the process has ever held (`VmHWM`): what librdkafka has fetched, what the SDK holds, code.
Flat means that it does not grow with what is read: of the long backlog, up to its end and up to its first {warm_up}
events.
",
            cores = self.machine.cores,
            warm_up = counts.warm_up,
            backlog = counts.backlog,
            burst = counts.burst,
            bursts = counts.bursts,
            few = counts.few_keys,
            many = counts.many_keys,
        )
    }

    fn latency(&self, out: &mut String, events: u64) -> fmt::Result {
        let runs = &self.results.latency;
        writeln!(
            out,
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
        writeln!(out, "| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
        percentiles(out, "**seen**, median of the runs", median(runs, |run| run.seen))?;
        percentiles(out, "committed, median of the runs", median(runs, |run| run.committed))?;
        percentiles(out, "acknowledged, median of the runs", median(runs, |run| run.acknowledged))?;
        for (number, run) in runs.iter().enumerate() {
            percentiles(out, &format!("run {}, seen", number + 1), run.seen)?;
        }
        Ok(())
    }

    fn runs(&self, out: &mut String) -> fmt::Result {
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

fn median(runs: &[LatencyRun], of: fn(&LatencyRun) -> Percentiles) -> Percentiles {
    let median = |part: fn(&Percentiles) -> f64| {
        Spread::of(runs.iter().map(|run| part(&of(run)))).map_or(f64::NAN, |spread| spread.median)
    };
    Percentiles {
        p50: median(|p| p.p50),
        p90: median(|p| p.p90),
        p99: median(|p| p.p99),
        max: median(|p| p.max),
    }
}
