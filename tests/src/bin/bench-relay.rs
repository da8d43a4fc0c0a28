//! Measures the relay against `pg_recvlogical` and writes the report; `make bench-relay` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use outbox_tests::bench::alone::command;
use outbox_tests::bench::machine::{Machine, congestion_control};
use outbox_tests::bench::others::Other;
use outbox_tests::bench::plan::{Plan, Shape};
use outbox_tests::bench::report::{Asked, Report};
use outbox_tests::bench::results::Results;
use outbox_tests::bench::verdict::verdicts;
use outbox_tests::bench::{messages, network, worker};
use outbox_tests::parts;

/// Drains one backlog by `pg_recvlogical` and by the relay, interleaved, and measures the time from commit
/// to consumer. Exits with 0 whatever the numbers are, unless `--check` is given.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pairs of drains per shape.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Backlogs, as rows per transaction and rows in all.
    #[arg(long, value_delimiter = ',', default_values = ["100:1000000", "1:500000"], value_parser = Shape::parse)]
    shapes: Vec<Shape>,
    /// Congestion controls; `machine` is the machine's own. Another one is used in a network namespace of
    /// its own, for which this has to be run as root.
    #[arg(long, value_delimiter = ',', default_values = ["machine", "cubic"])]
    cc: Vec<String>,
    /// Congestion controls under which latency is measured, too.
    #[arg(long, value_delimiter = ',', default_values = ["machine", "cubic"])]
    latency_cc: Vec<String>,
    /// Runs of the open loop under each of them.
    #[arg(long, default_value_t = 5)]
    latency_runs: usize,
    /// Seconds of one such run.
    #[arg(long, default_value_t = 20)]
    latency_seconds: u64,
    /// Transactions a second in it.
    #[arg(long, default_value_t = 1000)]
    latency_rate: u64,
    /// Seeds the payloads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// PostgreSQL's major version.
    #[arg(long, default_value_t = 15)]
    postgres: u32,
    /// A key of the relay's configuration, as `key=value` in TOML; may be given again.
    #[arg(long = "relay-key")]
    relay_keys: Vec<String>,
    /// A file to lock during every measured run, on a machine that others use in between.
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Where the report goes; files of the same name with `.html` and `.json` lie beside it.
    #[arg(long, default_value = "docs/bench-relay.md")]
    out: PathBuf,
    /// Measures nothing, and makes the report anew from the JSON of an earlier one.
    #[arg(long)]
    from_json: Option<PathBuf>,
    /// Other systems that were measured on this machine, as a list in JSON: further rows of the report.
    #[arg(long)]
    others: Option<PathBuf>,
    /// Measures only a backlog of messages (`outbox.emit()`) beside one of rows, and reports it in a file of its own.
    #[arg(long, value_name = "REPORT", num_args = 0..=1, default_missing_value = "docs/bench-messages.md")]
    messages: Option<PathBuf>,
    /// Exit with 1 if a requirement is not met.
    #[arg(long)]
    check: bool,
    /// Measures in this process's namespace, by the plan in the one file, into the other.
    #[arg(long, num_args = 4, value_names = ["PLAN", "RESULTS", "CONTROL", "MACHINE_NAMESPACE"], hide = true)]
    worker: Option<Vec<String>>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.worker.as_deref() {
        Some([plan, results, control, machine]) => {
            work(plan, results, control, machine).map(|()| ExitCode::SUCCESS)
        }
        Some(_) => bail!("--worker takes four values"),
        None => match &arguments.messages {
            Some(out) => compare_messages(&arguments, out),
            None => lead(&arguments),
        },
    }
}

fn compare_messages(arguments: &Arguments, out: &Path) -> anyhow::Result<ExitCode> {
    let machine = Machine::here().with_shipped_broker();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let compared = runtime.block_on(messages::compare(&plan(arguments)));
    let page = messages::page(&command("bench-relay"), &today(), &machine, &compared)?;
    fs::write(out, page).with_context(|| out.display().to_string())?;
    println!("report: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Makes the report, and says what it found.
fn lead(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut report = match &arguments.from_json {
        Some(earlier) => Report::read(earlier)?,
        None => measure(arguments)?,
    };
    if let Some(others) = &arguments.others {
        report.others = Other::read(others)?;
    }
    write(&arguments.out, &report)?;
    let verdicts = verdicts(&report.results);
    for verdict in &verdicts {
        let met = if verdict.met { "met    " } else { "NOT MET" };
        println!("{met}  {}: {}", verdict.requirement, verdict.found);
    }
    println!("report: {}", arguments.out.display());
    let failed = verdicts.iter().any(|verdict| !verdict.met) || !report.left_out.is_empty();
    Ok(if arguments.check && failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(arguments: &Arguments) -> Plan {
    Plan {
        pairs: arguments.pairs,
        shapes: arguments.shapes.clone(),
        latency_runs: arguments.latency_runs,
        latency_seconds: arguments.latency_seconds,
        latency_rate: arguments.latency_rate,
        seed: arguments.seed,
        postgres: arguments.postgres,
        relay_keys: arguments.relay_keys.clone(),
        lock: arguments.lock.clone(),
    }
}

/// Lets a worker measure under each congestion control.
fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let plan = plan(arguments);
    let programs = parts::postgres(plan.postgres)?;
    ensure!(
        programs.join("pg_recvlogical").is_file(),
        "there is no pg_recvlogical in {}: it comes with Debian's postgresql-15 (as root: apt-get install postgresql-15), \
         not with the server-only packages",
        programs.display()
    );
    let relay = Command::new(parts::relay()?).arg("--version").output().context("outbox-relay --version")?;
    let machine = Machine::here().with_shipped_broker();
    let mut left_out = Vec::new();
    let mut results = Vec::new();
    for control in &arguments.cc {
        let own = control == "machine" || *control == congestion_control();
        let latency_runs = if arguments.latency_cc.contains(control) { plan.latency_runs } else { 0 };
        match delegate(&Plan { latency_runs, ..plan.clone() }, control, own) {
            Ok(measured) => results.push(measured),
            Err(error) if !own => {
                let sentence = format!("congestion control {control}: {error:#}");
                eprintln!("bench: LEFT OUT: {sentence}");
                left_out.push(sentence);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Report {
        command: command("bench-relay"),
        date: today(),
        relay: String::from_utf8_lossy(&relay.stdout).trim().to_owned(),
        plan: Asked { pairs: plan.pairs, seed: plan.seed, relay_keys: plan.relay_keys },
        machine,
        left_out,
        results,
        others: Vec::new(),
    })
}

/// A worker of its own for each congestion control: the setting is that of a namespace, and a namespace that
/// of a process.
fn delegate(plan: &Plan, control: &str, own: bool) -> anyhow::Result<Results> {
    let program = std::env::current_exe().context("this program")?;
    let mut command =
        if own { Command::new(program) } else { network::isolated(&program).map_err(anyhow::Error::msg)? };
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let (asked, answered) = (directory.path().join("plan.json"), directory.path().join("results.json"));
    fs::write(&asked, serde_json::to_vec(plan)?)?;
    let machine = network::namespace().map_err(anyhow::Error::msg)?;
    command
        .arg("--worker")
        .arg(&asked)
        .arg(&answered)
        .args([if own { "machine" } else { control }, &machine]);
    let status = command.status().context("the worker")?;
    ensure!(status.success(), "the worker ended with {status}");
    Ok(serde_json::from_slice(&fs::read(&answered)?)?)
}

fn work(plan: &str, results: &str, control: &str, machine: &str) -> anyhow::Result<()> {
    let plan: Plan = serde_json::from_slice(&fs::read(plan)?)?;
    let own = control == "machine";
    if !own {
        network::set_control(control, machine).map_err(anyhow::Error::msg)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(worker::measure(&plan, !own));
    fs::write(results, serde_json::to_vec(&measured)?)?;
    Ok(())
}

/// The report, beside it the same as HTML with plots, and as JSON.
fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    report.page()?.write(out)?;
    let beside = out.with_extension("json");
    let json = serde_json::to_string_pretty(&serde_json::to_value(report)?)? + "\n";
    fs::write(&beside, json).with_context(|| beside.display().to_string())
}
