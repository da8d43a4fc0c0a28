//! Runs chaos; `make chaos` does.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use outbox_tests::chaos::nemesis::{KINDS, Kind};
use outbox_tests::chaos::record::{Fault, Run, Sample};
use outbox_tests::chaos::{self, Asked};

/// The whole product on this machine, faults of every kind at it, and a judge. Exits with 0 where every rule holds, with 1
/// where one is broken or a kind of fault was never seen, with 2 where it could not be run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults are made, such as 90s or 10m.
    #[arg(long, default_value = "10m", value_parser = duration)]
    duration: Duration,
    /// Of the faults, their targets and times, and of the events; drawn where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these kinds, such as relay-killed,disk-full; all where none is named. `list` lists them.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Events a second, about.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// How long everything may take to be settled behind the last fault.
    #[arg(long, default_value = "5m", value_parser = duration)]
    patience: Duration,
    /// A file for everything that is known of the run.
    #[arg(long)]
    out_json: Option<PathBuf>,
    /// Where logs go; kept where a rule is broken.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Prints everything that is known of the run as JSON in place of the verdict.
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration: 90s, 10m, 1h"))?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(format!("{unit:?} is no unit of time: s, m, h")),
    };
    Ok(Duration::from_secs(number * seconds))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Everything below panics with a sentence where it cannot go on.
    match std::panic::catch_unwind(|| lead(&arguments)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
        Err(_) => ExitCode::from(2),
    }
}

fn lead(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.faults == ["list"] {
        KINDS.iter().for_each(|kind| println!("{}", kind.word()));
        return Ok(ExitCode::SUCCESS);
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let command = command(arguments, seed);
    eprintln!("chaos: seed {seed}; again with: {command}");
    let logs =
        arguments.logs.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("outbox-chaos-{seed}")));
    if logs.exists() {
        fs::remove_dir_all(&logs).with_context(|| logs.display().to_string())?;
    }
    let asked = Asked {
        command,
        seed,
        duration: arguments.duration,
        kinds: kinds(&arguments.faults)?,
        rate: arguments.rate,
        patience: arguments.patience,
        logs,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let told = interrupted.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("\nchaos: no further fault; what was done is judged");
            told.store(true, SeqCst);
        }
    });
    let progress = Progress::begin();
    let run = chaos::run(&asked, runtime.handle(), &|sample, faults| {
        progress.tell(sample, faults);
        interrupted.load(SeqCst)
    });
    progress.end();
    let text = serde_json::to_string_pretty(&run)?;
    if let Some(path) = &arguments.out_json {
        fs::write(path, format!("{text}\n")).with_context(|| path.display().to_string())?;
    }
    if arguments.json {
        println!("{text}")
    } else {
        println!("{}", verdict(&run))
    }
    let unseen = run.seen_by_kind().values().filter(|seen| **seen == 0).count();
    if run.holds() && unseen == 0 {
        fs::remove_dir_all(&asked.logs).with_context(|| asked.logs.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("chaos: logs are in {}", asked.logs.display());
    Ok(ExitCode::FAILURE)
}

/// The command that makes this run again.
fn command(arguments: &Arguments, seed: u64) -> String {
    let mut command = format!("make chaos DURATION={}s SEED={seed}", arguments.duration.as_secs());
    if !arguments.faults.is_empty() {
        command.push_str(&format!(" FAULTS={}", arguments.faults.join(",")));
    }
    if arguments.rate != 60 {
        command.push_str(&format!(" CHAOS_ARGS='--rate {}'", arguments.rate));
    }
    command
}

fn kinds(named: &[String]) -> anyhow::Result<Vec<&'static Kind>> {
    let unknown: Vec<&String> =
        named.iter().filter(|name| KINDS.iter().all(|kind| kind.word() != **name)).collect();
    ensure!(unknown.is_empty(), "nobody knows the faults {unknown:?}; --faults list lists them");
    Ok(KINDS.iter().filter(|kind| named.is_empty() || named.contains(&kind.word())).collect())
}

/// A line that is written over on a terminal, and one every ten seconds elsewhere.
struct Progress {
    terminal: bool,
    told: Mutex<Option<Instant>>,
}

impl Progress {
    fn begin() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), told: Mutex::new(None) }
    }

    fn tell(&self, sample: &Sample, faults: &[Fault]) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.terminal && told.is_some_and(|at| at.elapsed() < Duration::from_secs(10)) {
            return;
        }
        *told = Some(Instant::now());
        let known = |figure: Option<u64>| figure.map_or("?".to_owned(), |figure| figure.to_string());
        let line = format!(
            "chaos: {:>4.0} s  {} faults, {} seen  committed {} published {} effects {} parked {} lag {}  {}",
            sample.at_s,
            faults.len(),
            faults.iter().filter(|fault| fault.seen.is_some()).count(),
            sample.committed,
            sample.published,
            sample.effects,
            known(sample.parked_keys),
            known(sample.lag),
            faults.last().map_or("", |fault| fault.kind.as_str()),
        );
        let (before, behind) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{before}{line}{behind}");
        // Progress that cannot be shown is no reason to stop.
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

fn verdict(run: &Run) -> String {
    let mut lines = Vec::new();
    for (kind, seen) in run.seen_by_kind() {
        lines.push(format!("  {seen:>3} seen  {kind}"));
    }
    for rule in &run.rules {
        let word = if rule.broken_by.is_empty() && rule.looked_at > 0 { "holds " } else { "BROKEN" };
        lines.push(format!("  {word} {:>8}  {}", rule.looked_at, rule.says));
        lines.extend(rule.broken_by.iter().map(|what| format!("                   {what}")));
    }
    for (name, count) in &run.figures {
        lines.push(format!("  {count:>15}  {name}"));
    }
    let broken = run.rules.iter().filter(|rule| !rule.broken_by.is_empty() || rule.looked_at == 0).count();
    let word = if run.holds() { "PASS" } else { "FAIL" };
    let seen = run.faults.iter().filter(|fault| fault.seen.is_some()).count();
    lines.push(format!(
        "chaos: {word} seed {} faults {} seen {seen} rules {} broken {broken} in {:.0} s, settled {:.0} s later",
        run.seed,
        run.faults.len(),
        run.rules.len(),
        run.duration_s,
        run.settled_s
    ));
    lines.join("\n")
}
