//! What commands print for people and pipes.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::exit::Exit;

/// Prints to the standard output. A reader that went away (`| head`) has what it wanted.
pub fn print(text: &str) -> Exit {
    print_bytes(text.as_bytes())
}

/// The same of any bytes.
pub fn print_bytes(bytes: &[u8]) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => {
            complain(&format!("the standard output cannot be written: {error}"));
            Exit::Failure
        }
    }
}

/// A sentence about what went wrong.
pub fn complain(sentence: &str) {
    eprintln!("outbox-dlq: {sentence}");
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

/// A text from elsewhere, on one line and without what a terminal would obey.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most that many characters, with a sign where it is cut.
pub fn short(text: &str, most: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Seconds, in the two units that suit them.
pub fn duration(seconds: f64) -> String {
    // A cast of a float saturates, and a clock that is ahead of the server's counts as none.
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// One of them, or that many.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// On a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint(wanted && io::stdout().is_terminal())
    }

    /// The text in a colour (ECMA-48, select graphic rendition).
    pub fn colour(self, code: &str, text: &str) -> String {
        if self.0 && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line that is written over itself on a terminal, and nowhere else.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// On the standard error, where that is a terminal.
    pub fn new() -> Progress {
        Progress { shown: io::stderr().is_terminal() }
    }

    /// Says how far it is.
    pub fn say(&self, line: &str) {
        if self.shown {
            let mut out = io::stderr().lock();
            let _ = write!(out, "\r{line}\x1b[K");
            let _ = out.flush();
        }
    }

    /// Clears the line, so that something else can be said.
    pub fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_command_a_terminal() {
        assert_eq!(clean("a\x1b[31m\nb"), "a [31m b");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("☃☃☃☃", 4), "☃☃☃☃");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([duration(5.9), duration(61.0), duration(7260.0)], ["5 s", "1 min 1 s", "2 h 1 min"]);
        assert_eq!([duration(90_000.0), duration(-3.0)], ["1 d 1 h", "0 s"]);
    }
}
