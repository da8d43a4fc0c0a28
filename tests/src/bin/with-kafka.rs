//! Runs a command beside a private, real Kafka: `with-kafka COMMAND [ARGUMENT]…` adds
//! `--kafka-brokers HOST:PORT` to it and exits as it does. `make demo KAFKA=real` uses it.

use std::process::{Command, ExitCode};

use outbox_tests::cluster::Kafka;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-kafka COMMAND [ARGUMENT]…");
        return ExitCode::from(2);
    };
    eprintln!("starting a private Kafka …");
    let kafka = Kafka::start();
    let status = Command::new(&program).args(arguments).args(["--kafka-brokers", &kafka.brokers()]).status();
    match status {
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("{}: {error}", program.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}
