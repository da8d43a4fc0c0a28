//! The order event bus: one service writes orders, five others consume them, each at its own pace and with its own
//! policy for what fails. A file for each service; the README beside them says how to run it.
//!
//! | file | what it does | its handler | what follows a failure |
//! |---|---|---|---|
//! | `orders` | writes orders, and their events in the same transaction | | |
//! | `inventory` | reserves stock, 2 ms an order | transactional | a short ladder, then a dead letter |
//! | `loyalty` | adds points | transactional | a patient ladder, and a pause when everything fails |
//! | `recommendation` | remembers who bought what | idempotent | a few attempts, then a dead letter |
//! | `warehouse` | packs up to 500 orders at a time, 200 ms a batch | batch | a few attempts, then a dead letter |
//! | `fraud` | audits, and publishes what it flags | transactional | a few attempts, then the customer is held |

mod check;
mod database;
mod fraud;
mod inventory;
mod loyalty;
mod order;
mod orders;
mod recommendation;
mod warehouse;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// An order service and five consumers of its events. KAFKA_BROKERS and DATABASE_URL say where everything is.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the inbox and the tables of all services
    Prepare,
    /// Places orders
    Orders {
        /// How many
        #[arg(long, default_value_t = 100)]
        count: u32,
        /// Adds an order that cannot be reserved, and an event that is no order
        #[arg(long)]
        poison: bool,
    },
    /// Reserves stock
    Inventory,
    /// Adds points
    Loyalty,
    /// Remembers who bought what
    Recommendation,
    /// Packs
    Warehouse,
    /// Audits
    Fraud,
    /// All five consumers in one process
    All,
    /// Compares what each consumer did with the orders; exit code 1 where something is missing, twice or out of order
    Check,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match Arguments::parse().command {
        Command::Prepare => database::prepare().await?,
        Command::Orders { count, poison } => orders::place(count, poison).await?,
        Command::Inventory => inventory::run().await?,
        Command::Loyalty => loyalty::run().await?,
        Command::Recommendation => recommendation::run().await?,
        Command::Warehouse => warehouse::run().await?,
        Command::Fraud => fraud::run().await?,
        Command::All => {
            // SIGTERM reaches each of them.
            tokio::try_join!(
                inventory::run(),
                loyalty::run(),
                recommendation::run(),
                warehouse::run(),
                fraud::run()
            )?;
        }
        Command::Check => return check::check().await,
    }
    Ok(ExitCode::SUCCESS)
}
