//! Colours, where somebody sees them.

use std::env;
use std::io::{self, IsTerminal};

use super::entry::State;

/// Whether colours are used.
#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

impl Paint {
    /// On a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Paint {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint(wanted && io::stdout().is_terminal())
    }

    /// The text in the colour of a state (ECMA-48, select graphic rendition).
    pub fn state(self, state: State, text: &str) -> String {
        let colour = match state {
            State::Held => "31",
            State::Queued | State::Passed => "33",
            State::Releasing | State::Discarding => "36",
            State::Published => "32",
            State::Discarded => "2",
        };
        if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
