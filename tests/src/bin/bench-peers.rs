//! Measures relay and consumer beside their peers and writes the report; `make bench` runs it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use outbox_tests::bench::alone::command;
use outbox_tests::bench::consumer::job::{self, Job};
use outbox_tests::bench::machine::Machine;
use outbox_tests::bench::peers::plan::{Counts, Part, Plan};
use outbox_tests::bench::peers::report::{Asked, Report};
use outbox_tests::bench::peers::{capture, consume};

/// Drains an outbox by the relay and by Debezium, and a topic by the consumer, by Confluent Parallel Consumer and by
/// Spring Kafka, and writes the report of all benchmarks.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each measures everybody once.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Small counts, to see that it runs.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only systems whose names hold this, such as Debezium, and our own.
    #[arg(long)]
    systems: Option<String>,
    /// Seeds keys and payloads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// PostgreSQL's major version; one with pg_recvlogical.
    #[arg(long, default_value_t = 15)]
    postgres: u32,
    /// A file to lock during every measured run, on a machine that others use in between.
    #[arg(long)]
    lock: Option<PathBuf>,
    /// The report of bench-relay, whose ratios come first here, too.
    #[arg(long, default_value = "docs/bench-relay.json")]
    relay: PathBuf,
    /// The report of bench-consumer.
    #[arg(long, default_value = "docs/bench-consumer.json")]
    consumer: PathBuf,
    /// Measures nothing and makes the report anew from this JSON, with the two other reports as they are now.
    #[arg(long)]
    from_json: Option<PathBuf>,
    /// Where the report goes; files of the same name with `.html` and `.json` lie beside it.
    #[arg(long, default_value = "docs/bench.md")]
    out: PathBuf,
    /// Is the process that is measured.
    #[arg(long, hide = true)]
    job: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.job {
        Some(job) => work(job),
        None => lead(&arguments),
    }
}

fn work(job: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let job: Job = serde_json::from_str(job)?;
    job::run(&job)
}

fn lead(arguments: &Arguments) -> anyhow::Result<()> {
    let mut report = match &arguments.from_json {
        Some(earlier) => Report::read(earlier)?,
        None => measure(arguments)?,
    };
    report.relay = read(&arguments.relay)?;
    report.consumer = read(&arguments.consumer)?;
    write(&arguments.out, &report)?;
    println!("report: {}", arguments.out.display());
    Ok(())
}

fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let plan = Plan {
        only: arguments.only.clone(),
        systems: arguments.systems.clone(),
        pairs: arguments.pairs,
        seed: arguments.seed,
        postgres: arguments.postgres,
        counts: if arguments.quick { Counts::QUICK } else { Counts::FULL },
        lock: arguments.lock.clone(),
    };
    let machine = Machine::here().with_shipped_broker();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut peers = runtime.block_on(capture::measure(&plan));
    peers.extend(runtime.block_on(consume::measure(&plan)));
    let Plan { pairs, seed, postgres, counts, .. } = plan;
    Ok(Report {
        command: command("bench-peers"),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        plan: Asked { pairs, seed, postgres, counts },
        machine,
        peers,
        relay: None,
        consumer: None,
    })
}

/// Another report's numbers, where it has been made.
fn read(path: &Path) -> anyhow::Result<Option<serde_json::Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string()).map(Some)
}

/// The report as Markdown, HTML and JSON.
fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    if let Some(directory) = out.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    report.page()?.write(out)?;
    let beside = out.with_extension("json");
    fs::write(&beside, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| beside.display().to_string())
}
