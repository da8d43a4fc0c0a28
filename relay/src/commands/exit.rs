//! How the program ends: one number for each end that a supervisor treats differently.

use std::process::ExitCode;

/// The end of the help of every command.
pub const HELP: &str = "\
Exit codes:
   0  done; `run`: drained, everything that was read is published and confirmed
   1  failed; the reason was printed. `check`: there are errors (with --strict: or warnings). `status`: the relay
      is not ready
   2  the command line cannot be understood
   3  halted: what was found does not agree, and going on could lose events; the reason was printed. `plan`: a
      start would halt
   4  not drained before the deadline; what is left comes again at the next start
   5  another relay owns the lane (only with --no-wait, `plan` and `forget`)
   6  `where`: the event was not found
  64  mistakes in the configuration; all of them were printed
Of several lanes `run` and `plan` end with the worst: with 3 if one has halted, else with 4, else with 5.";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `run`: drained.
    Success,
    /// Failed; the reason was printed. A supervisor may start it again.
    Failure,
    /// The command line cannot be understood.
    Usage,
    /// What was found does not agree and going on could lose events. Starting again finds the same.
    Halted,
    /// The drain's deadline passed first. Nothing is lost: what is left comes again.
    NotDrained,
    /// Another relay owns the lane, and `--no-wait` was given.
    LaneOwned,
    /// What was asked for is nowhere.
    NotFound,
    /// Mistakes in the configuration.
    Configuration,
}

impl Exit {
    /// The number the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Halted => 3,
            Exit::NotDrained => 4,
            Exit::LaneOwned => 5,
            Exit::NotFound => 6,
            Exit::Configuration => 64,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        let all = [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Halted,
            Exit::NotDrained,
            Exit::LaneOwned,
            Exit::NotFound,
            Exit::Configuration,
        ];
        for exit in all {
            assert!(HELP.contains(&format!("{:>4}  ", exit.code())), "{exit:?}");
        }
    }
}
