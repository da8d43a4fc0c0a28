//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use super::screen::Screen;
use super::{Options, relay, run as play, shipping};

const EXAMPLES: &str = "\
Examples:
  outbox-demo
  outbox-demo --kafka-brokers 127.0.0.1:9092    # a real broker
  outbox-demo --seed 7 --json | jq .            # the same run again, for programs

It starts a private PostgreSQL and deletes it afterwards. The last line is `verdict: PASS …`, or
`verdict: FAIL …` with exit code 1.";

/// Watch the whole path, live, with a verdict: a service's transactions, the relay and a consumer, both killed
/// on the way, on a private PostgreSQL and a broker in memory.
#[derive(Debug, Parser)]
#[command(name = "outbox-demo", version, after_help = EXAMPLES, override_usage = "outbox-demo [OPTIONS]")]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    demo: DemoArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the demo starts this program as.
#[derive(Debug, Subcommand)]
enum Command {
    /// One instance of the shipping service.
    #[command(hide = true)]
    Consume(ConsumeArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Choose the service's transactions and the moments of the kills [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of load
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// Transactions a second
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Publish to a real broker instead of the one in memory; topics of a name of their own are made there
    #[arg(long, value_name = "HOST:PORT[,…]")]
    kafka_brokers: Option<String>,
    /// The relay's program [default: outbox-relay beside this one]
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
    /// Print one JSON object a line, the verdict last
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConsumeArgs {
    #[arg(long)]
    topic: String,
    #[arg(long)]
    session_timeout_ms: u32,
}

/// Runs the program: the command line in, the exit code out.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        None => demo(cli.demo),
        Some(Command::Consume(args)) => consume(&args),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("outbox-demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Plays the demo and prints its verdict. Its future runs on the thread that calls: its children are bound to
/// the main thread's life.
fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let options = Options {
        // A number that is easily typed again.
        seed: args.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        seconds: args.seconds,
        rate: args.rate,
        kafka_brokers: args.kafka_brokers,
        relay: args.relay.map_or_else(relay::beside_this_program, Ok)?,
    };
    let mut screen = Screen::new(args.json);
    let outcome = runtime()?.block_on(play(&options, &mut screen)).inspect_err(|_| screen.leave())?;
    screen.verdict(&outcome);
    Ok(if outcome.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn consume(args: &ConsumeArgs) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let session = Duration::from_millis(args.session_timeout_ms.into());
    runtime()?.block_on(shipping::consumer(&args.topic, session).run())?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("the runtime cannot be started")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_of_the_help_are_accepted() {
        for line in [
            "outbox-demo",
            "outbox-demo --kafka-brokers 127.0.0.1:9092",
            "outbox-demo --seed 7 --json --relay /opt/outbox-relay",
            "outbox-demo consume --topic t --session-timeout-ms 1500",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in ["outbox-demo --seconds 1", "outbox-demo help", "outbox-demo consume"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
