//! Makes the report of runs of chaos from their JSON, without running anything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use outbox_tests::chaos::report;

/// Writes one report of these runs, as Markdown and as HTML with their timelines.
#[derive(Debug, Parser)]
struct Arguments {
    /// The JSON of runs; a file may hold one or a list of them.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Where the report goes; a file of the same name with `.html` lies beside it.
    #[arg(long, default_value = "docs/chaos.md")]
    out: PathBuf,
    /// Exit with 1 unless every run holds.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let holds = report::write(&arguments.runs, &arguments.out)?;
    println!("report: {}", arguments.out.display());
    Ok(if arguments.check && !holds { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
