//! How the program ends; the numbers are those of `outbox-relay`.

use std::process::ExitCode;

/// The end of the long help.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  failed, or something was refused, is not there or was not reached before a cancellation; it was printed
   2  the command line cannot be understood
  64  mistakes in the settings of a connection";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// Failed, in whole or in part; the reason was printed.
    Failure,
    /// Mistakes in the settings of a connection.
    Configuration,
}

impl Exit {
    /// Failure where something was not done.
    pub fn failed_if(failed: bool) -> Exit {
        if failed { Exit::Failure } else { Exit::Success }
    }

    fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
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
        for exit in [Exit::Success, Exit::Failure, Exit::Configuration] {
            assert!(HELP.contains(&format!("{:>4}  ", exit.code())), "{exit:?}");
        }
    }
}
