//! What is shown: in place on a terminal, as plain lines elsewhere, as JSON lines for programs.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Outcome;

/// Begin of a line that replaces the one before it (ECMA-48: erase in line).
const REPLACE: &str = "\r\x1b[2K";

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One JSON object a line.
    Json,
    /// Lines that stay.
    Plain,
    /// Progress in place, with colours unless `NO_COLOR` is set.
    Terminal { colours: bool },
}

/// What a line tells, and its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What one sees, in words.
    Note,
    /// The relay or a consumer was killed.
    Killed,
    /// The relay or a consumer was started.
    Started,
    /// Something did not go as it should.
    Trouble,
}

impl Kind {
    /// A colour of a terminal (ECMA-48, select graphic rendition).
    fn colour(self) -> Option<&'static str> {
        match self {
            Kind::Note => None,
            Kind::Killed | Kind::Trouble => Some("31"),
            Kind::Started => Some("32"),
        }
    }
}

/// How things stand, once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Events whose transaction was committed.
    pub committed: u64,
    /// Events that were inserted and rolled back.
    pub rolled_back: u64,
    /// Distinct events on the log.
    pub published: u64,
    /// Records beyond the first of their event.
    pub repeated: u64,
    /// Effects of the consumers.
    pub effects: u64,
    /// What the relay does, in a word.
    pub relay: String,
    /// Consumers that run.
    pub consumers: usize,
    /// Kills of the relay so far.
    pub relay_kills: usize,
    /// Kills of consumers so far.
    pub consumer_kills: usize,
}

/// Where everything is written to. A reader that goes away does not end the demo: it has to clean up.
#[derive(Debug)]
pub struct Screen {
    style: Style,
    begun: Instant,
    /// A progress line stands that the next line has to replace.
    in_place: bool,
}

impl Screen {
    /// The standard output.
    pub fn new(json: bool) -> Screen {
        let style = match (json, io::stdout().is_terminal()) {
            (true, _) => Style::Json,
            (false, false) => Style::Plain,
            (false, true) => {
                Style::Terminal { colours: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
            }
        };
        Screen { style, begun: Instant::now(), in_place: false }
    }

    /// Words that stay.
    pub fn say(&mut self, text: &str) {
        self.tell(Kind::Note, text);
    }

    /// Words of a kind that stay.
    pub fn tell(&mut self, kind: Kind, text: &str) {
        match self.style {
            Style::Json => self.json(&Line { at_seconds: self.seconds(), kind, text }),
            Style::Plain => self.write(&format!("{text}\n")),
            Style::Terminal { colours } => {
                let text = match kind.colour().filter(|_| colours) {
                    Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m"),
                    None => text.to_owned(),
                };
                let replace = if self.in_place { REPLACE } else { "" };
                self.write(&format!("{replace}{text}\n"));
                self.in_place = false;
            }
        }
    }

    /// How things stand.
    pub fn progress(&mut self, elapsed: Duration, progress: &Progress) {
        match self.style {
            Style::Json => {
                self.json(&Numbers { at_seconds: self.seconds(), kind: "progress", progress });
            }
            Style::Plain => self.write(&format!("{}\n", line(elapsed, progress))),
            Style::Terminal { .. } => {
                self.write(&format!("{REPLACE}{}", line(elapsed, progress)));
                self.in_place = true;
            }
        }
    }

    /// The verdict: the last line.
    pub fn verdict(&mut self, outcome: &Outcome) {
        match self.style {
            Style::Json => self.json(&Last { kind: "verdict", verdict: word(outcome), outcome }),
            Style::Plain => self.write(&format!("verdict: {} {}\n", word(outcome), outcome.verdict)),
            Style::Terminal { colours } => {
                let colour = if outcome.passed() { "32;1" } else { "31;1" };
                let line = format!("verdict: {} {}", word(outcome), outcome.verdict);
                let line = if colours { format!("\x1b[{colour}m{line}\x1b[0m") } else { line };
                self.write(&format!("{line}\n"));
            }
        }
    }

    /// Leaves a progress line that stands in place as it is, so that others can write below it.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.in_place) {
            self.write("\n");
        }
    }

    fn seconds(&self) -> f64 {
        (self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }

    fn json(&self, line: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(line) {
            self.write(&format!("{line}\n"));
        }
    }

    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[derive(Serialize)]
struct Line<'a> {
    at_seconds: f64,
    kind: Kind,
    text: &'a str,
}

#[derive(Serialize)]
struct Numbers<'a> {
    at_seconds: f64,
    kind: &'static str,
    #[serde(flatten)]
    progress: &'a Progress,
}

#[derive(Serialize)]
struct Last<'a> {
    kind: &'static str,
    verdict: &'static str,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

fn word(outcome: &Outcome) -> &'static str {
    if outcome.passed() { "PASS" } else { "FAIL" }
}

/// One line that fits a terminal of 80 columns: one that wraps could not be replaced in place.
fn line(elapsed: Duration, progress: &Progress) -> String {
    let Progress { committed, published, effects, relay, relay_kills, consumer_kills, .. } = progress;
    format!(
        "{:>3} s  committed {committed:>5}  published {published:>5}  effects {effects:>5}  \
         kills {relay_kills}+{consumer_kills} {relay}",
        elapsed.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_line_fits() {
        let progress = Progress {
            committed: 123_456,
            rolled_back: 12_345,
            published: 123_456,
            repeated: 12_345,
            effects: 123_456,
            relay: "recovering".into(),
            consumers: 2,
            relay_kills: 2,
            consumer_kills: 2,
        };
        let line = line(Duration::from_secs(100), &progress);
        assert_eq!(line, "100 s  committed 123456  published 123456  effects 123456  kills 2+2 recovering");
        assert!(line.len() < 80);
    }
}
