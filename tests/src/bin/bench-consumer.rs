//! Measures the consumer and writes the report; `make bench-consumer` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use outbox_tests::bench::alone::command;
use outbox_tests::bench::consumer::job::{self, Job};
use outbox_tests::bench::consumer::measure::measure;
use outbox_tests::bench::consumer::plan::{Counts, Part, Plan};
use outbox_tests::bench::consumer::report::{Asked, Report, Versions};
use outbox_tests::bench::consumer::verdict::verdicts;
use outbox_tests::bench::machine::Machine;
use outbox_tests::bench::others::Other;
use outbox_tests::parts;

/// Lets consumers drain topics that are full, beside a bare poll loop and beside pgbench, and measures the time from
/// record to commit. Exits with 0 whatever the numbers are, unless `--check` is given.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs of each case.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Small counts and one pair, to see that it runs.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Seeds keys and payloads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// PostgreSQL's major version; one with pgbench.
    #[arg(long, default_value_t = 15)]
    postgres: u32,
    /// A file to lock during every measured run, on a machine that others use in between.
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Where the report goes; a file of the same name with `.html` lies beside it.
    #[arg(long, default_value = "docs/bench-consumer.md")]
    out: PathBuf,
    /// Where every number goes; beside the report unless told otherwise.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measures nothing, and makes the report anew from the JSON of an earlier one.
    #[arg(long)]
    from_json: Option<PathBuf>,
    /// Other systems that were measured on this machine, as a list in JSON: further rows of the report.
    #[arg(long)]
    others: Option<PathBuf>,
    /// Exit with 1 if a requirement is not met.
    #[arg(long)]
    check: bool,
    /// Is the process that is measured.
    #[arg(long, hide = true)]
    job: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.job {
        Some(job) => work(job).map(|()| ExitCode::SUCCESS),
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

/// Makes the report, and says what it found.
fn lead(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut report = match &arguments.from_json {
        Some(earlier) => Report::read(earlier)?,
        None => measured(arguments)?,
    };
    if let Some(others) = &arguments.others {
        report.others = Other::read(others)?;
    }
    let beside = arguments.json.clone().unwrap_or_else(|| arguments.out.with_extension("json"));
    write(&arguments.out, &beside, &report)?;
    let verdicts = verdicts(&report.results);
    for verdict in &verdicts {
        let met = if verdict.met { "met    " } else { "NOT MET" };
        println!("{met}  {}: {}", verdict.requirement, verdict.found);
    }
    println!("report: {}", arguments.out.display());
    let failed = verdicts.iter().any(|verdict| !verdict.met);
    Ok(if arguments.check && failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measured(arguments: &Arguments) -> anyhow::Result<Report> {
    let plan = Plan {
        only: arguments.only.clone(),
        pairs: if arguments.quick { 1 } else { arguments.pairs },
        seed: arguments.seed,
        postgres: arguments.postgres,
        counts: if arguments.quick { Counts::QUICK } else { Counts::FULL },
        lock: arguments.lock.clone(),
    };
    let programs = parts::postgres(plan.postgres)?;
    ensure!(
        programs.join("pgbench").is_file(),
        "there is no pgbench in {}: it comes with Debian's postgresql-15 (as root: apt-get install postgresql-15), \
         not with the server-only packages",
        programs.display()
    );
    let machine = Machine::here().with_shipped_broker();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let results = runtime.block_on(measure(&plan));
    Ok(Report {
        command: command("bench-consumer"),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        plan: Asked { pairs: plan.pairs, seed: plan.seed, counts: plan.counts },
        machine,
        versions: Versions::here(),
        results,
        others: Vec::new(),
    })
}

/// The report, beside it the same as HTML with plots, and as JSON.
fn write(out: &Path, beside: &Path, report: &Report) -> anyhow::Result<()> {
    report.page()?.write(out)?;
    let json = serde_json::to_string_pretty(&serde_json::to_value(report)?)? + "\n";
    fs::write(beside, json).with_context(|| beside.display().to_string())
}
