//! What commands print for people and pipes.

use std::error::Error;
use std::io::{self, Write};

use serde::Serialize;

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

/// One JSON document on a line.
pub fn json(document: &impl Serialize) -> String {
    let text = serde_json::to_string(document).expect("maps of ours have texts for keys");
    text + "\n"
}

/// One JSON document over several lines.
pub fn pretty(document: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(document).expect("maps of ours have texts for keys");
    text + "\n"
}

/// An amount of bytes, in a unit that suits it.
pub fn bytes(amount: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if amount < 1024.0 {
        return format!("{amount:.0} B");
    }
    let mut amount = amount / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    format!("{amount:.1} {unit}")
}

/// Seconds, in the two units that suit them.
pub fn duration(seconds: f64) -> String {
    // Whole seconds of an uptime: far below 2^63, and a cast of a float saturates.
    let whole = seconds as u64;
    match whole {
        0..60 if seconds.fract() > 0.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}
