//! `outbox-relay demo`: the main job, live, with a verdict at its end.

use anyhow::Context;
use clap::Args;

use super::Exit;
use crate::demo::screen::Screen;
use crate::demo::{Options, run as play};

const EXAMPLES: &str = "\
Examples:
  outbox-relay demo
  outbox-relay demo --kafka-brokers 127.0.0.1:9092    # a real broker
  outbox-relay demo --seed 7 --json | jq .            # the same run again, for programs

It starts a private PostgreSQL and deletes it afterwards. The last line is `verdict: PASS …`, or
`verdict: FAIL …` with exit code 1.";

/// What `demo` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
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
    /// Print one JSON object a line, the verdict last
    #[arg(long)]
    json: bool,
}

/// Plays the demo and prints its verdict.
pub fn execute(args: DemoArgs) -> Exit {
    let mut screen = Screen::new(args.json);
    match on_this_thread(args, &mut screen) {
        Ok(exit) => exit,
        Err(error) => {
            screen.leave();
            eprintln!("outbox-relay demo: {error:#}");
            Exit::Failure
        }
    }
}

/// The demo's future runs on the thread that calls: its children are bound to the main thread's life.
fn on_this_thread(args: DemoArgs, screen: &mut Screen) -> anyhow::Result<Exit> {
    let options = Options {
        // A number that is easily typed again.
        seed: args.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        seconds: args.seconds,
        rate: args.rate,
        kafka_brokers: args.kafka_brokers,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let outcome = runtime.block_on(play(&options, screen))?;
    screen.verdict(&outcome);
    Ok(if outcome.passed() { Exit::Success } else { Exit::Failure })
}
