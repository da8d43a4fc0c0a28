//! What commands print for people and pipes.

use std::error::Error;
use std::io::{self, Write};

use super::Exit;

/// Prints to the standard output. A reader that went away (`| head`) has what it wanted.
pub fn print(text: &str) -> Exit {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => {
            eprintln!("outbox-relay: the standard output cannot be written: {error}");
            Exit::Failure
        }
    }
}

/// An error and all that caused it, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
