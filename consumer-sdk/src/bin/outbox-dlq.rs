//! The `outbox-dlq` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    outbox_consumer::dead_letters::commands::main()
}
