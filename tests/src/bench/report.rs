//! The tables.

use std::fmt::{self, Write};

use super::figures::Spread;
use super::machine::Machine;
use super::plan::Plan;
use super::results::{Drains, Latency, Pair, Percentiles, RelayDrain, Results};
use super::table::{machine_row, percentiles, row, verdict_table};
use super::verdict::verdicts;

/// Everything that a report says.
pub struct Report<'a> {
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
    /// The relay's version.
    pub relay: String,
    /// What was asked for.
    pub plan: &'a Plan,
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured.
    pub results: &'a [Results],
    /// What was left out, in sentences.
    pub left_out: &'a [String],
}

impl Report<'_> {
    /// The report as Markdown.
    ///
    /// # Errors
    /// Never: a string takes everything.
    pub fn markdown(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        self.head(&mut out)?;
        verdict_table(&mut out, &verdicts(self.results))?;
        for sentence in self.left_out {
            writeln!(out, "\n**Left out:** {sentence}")?;
        }
        self.method(&mut out)?;
        for under in self.results {
            writeln!(out, "\n## Under {}\n", under.congestion_control)?;
            if under.own_namespace {
                writeln!(out, "In a network namespace of its own; the machine's setting was not touched.\n")?;
            }
            for drains in &under.drains {
                drain_tables(&mut out, drains)?;
            }
            if let Some(latency) = &under.latency {
                latency_table(&mut out, latency)?;
            }
        }
        Ok(out)
    }

    fn head(&self, out: &mut String) -> fmt::Result {
        let Report { command, date, relay, plan, machine, .. } = self;
        writeln!(out, "# Throughput, latency and memory of the relay\n")?;
        writeln!(
            out,
            "Written by `{command}`; every number is of that run. Timings are of this machine alone: compare within the report.\n"
        )?;
        writeln!(out, "| | |\n|---|---|")?;
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
            "| Kafka | 4.3, one broker on the same machine, a topic of 12 partitions per run, `acks=all`, lz4 |"
        )?;
        writeln!(out, "| seed | {} |", plan.seed)
    }

    fn method(&self, out: &mut String) -> fmt::Result {
        let text = "
## What is compared

Both readers drain the same log from copies of one slot, through the same publication, in the order A B B A …
The time begins with the server's `START_REPLICATION` (its own log says when) and ends with the last row: written to the
null device and the program ended for `pg_recvlogical`, acknowledged by the broker for the relay (its `/status`,
looked at every 5 ms towards the end). The start of neither process counts; fencing, the state record and the first
acknowledgement do count for the relay. *Steady* leaves these out: from the first look that saw a record acknowledged
to the last acknowledgement. After each drain the relay is told to stop and has to end with code 0, with the slot confirmed
behind the backlog. Processor time is that of whole processes, by event. The broker is warm but for the run that
is called cold, the first drain into a broker that has just been started.

Latency is an open loop: transactions of one row at their intended times on four connections, whatever became
of those before. *Commit → received* begins when COMMIT has returned to the producer, *intended → received* when the transaction
should have begun; both end when a consumer has the record. One clock, one process.
";
        out.write_str(text)
    }
}

fn listed(keys: &[String]) -> String {
    if keys.is_empty() { "nothing".into() } else { format!("`{}`", keys.join("`, `")) }
}

fn drain_tables(out: &mut String, drains: &Drains) -> fmt::Result {
    let shape = &drains.shape;
    let rows = shape.rows as f64;
    let per_event = move |cpu: f64| cpu * 1e6 / rows;
    let rate = move |seconds: f64| rows / seconds / 1000.0;
    let pairs = &drains.pairs;
    let baseline = |value: fn(&Pair) -> f64| Spread::of(pairs.iter().map(value));
    writeln!(
        out,
        "### {}\n\n{} rows, {} MiB of log, {} pairs.\n",
        shape.name(),
        shape.rows,
        drains.wal_bytes / (1024 * 1024),
        pairs.len()
    )?;
    writeln!(out, "| | median | quartiles | min – max |\n|---|---|---|---|")?;
    row(out, "**relay ÷ `pg_recvlogical`**", Spread::of(pairs.iter().map(Pair::ratio)), 2)?;
    row(
        out,
        "`pg_recvlogical`, thousand rows/s",
        Spread::of(pairs.iter().map(|p| rate(p.baseline.seconds))),
        0,
    )?;
    row(out, "relay, thousand rows/s", Spread::of(pairs.iter().map(|p| rate(p.relay.seconds))), 0)?;
    row(out, "relay, steady", Spread::of(pairs.iter().map(|p| steady(&p.relay))), 0)?;
    row(
        out,
        "relay, processor µs per event",
        baseline(|p| p.relay.relay_cpu).map(|s| scaled(s, per_event)),
        2,
    )?;
    row(out, "its walsender", baseline(|p| p.relay.walsender_cpu).map(|s| scaled(s, per_event)), 2)?;
    row(out, "its broker", baseline(|p| p.relay.broker_cpu).map(|s| scaled(s, per_event)), 2)?;
    row(
        out,
        "`pg_recvlogical`, processor µs per event",
        baseline(|p| p.baseline.client_cpu).map(|s| scaled(s, per_event)),
        2,
    )?;
    row(out, "its walsender", baseline(|p| p.baseline.walsender_cpu).map(|s| scaled(s, per_event)), 2)?;
    row(out, "relay, most memory, MiB", baseline(|p| p.relay.peak_rss_kib as f64 / 1024.0), 0)?;
    let transactions = shape.transactions() as f64;
    let segments = pairs.iter().filter_map(|p| Some(p.relay.segments? as f64 / transactions));
    row(out, "relay, TCP data segments per transaction", Spread::of(segments), 3)?;
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

fn steady(drain: &RelayDrain) -> f64 {
    drain.steady_records as f64 / drain.steady_seconds / 1000.0
}

fn scaled(spread: Spread, by: impl Fn(f64) -> f64) -> Spread {
    let Spread { min, lower, median, upper, max } = spread;
    Spread { min: by(min), lower: by(lower), median: by(median), upper: by(upper), max: by(max) }
}

fn latency_table(out: &mut String, latency: &Latency) -> fmt::Result {
    writeln!(
        out,
        "### Latency\n\n{} transactions a second of one row, {} s a run. Relay: {:.1} MiB at most, {:.0} % of a core.\n",
        latency.rate,
        latency.seconds,
        latency.rss_kib as f64 / 1024.0,
        latency.relay_load * 100.0
    )?;
    writeln!(out, "| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|")?;
    let of = |value: fn(&super::results::LatencyRun) -> Percentiles| {
        let median = |part: fn(&Percentiles) -> f64| {
            Spread::of(latency.runs.iter().map(|run| part(&value(run))))
                .map_or(f64::NAN, |spread| spread.median)
        };
        Percentiles {
            p50: median(|p| p.p50),
            p90: median(|p| p.p90),
            p99: median(|p| p.p99),
            max: median(|p| p.max),
        }
    };
    percentiles(out, "**commit → received**, median of the runs", of(|run| run.from_commit))?;
    percentiles(out, "intended → received, median of the runs", of(|run| run.from_intended))?;
    percentiles(out, "intended → commit, median of the runs", of(|run| run.commit))?;
    for (number, run) in latency.runs.iter().enumerate() {
        percentiles(out, &format!("run {}, commit → received", number + 1), run.from_commit)?;
    }
    writeln!(out)
}
