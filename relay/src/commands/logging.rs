//! Log output, to the standard error. Payloads and secrets never reach it: nothing that holds one is logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// Sets the process up for logging. Called once, before anything logs; later calls change nothing.
pub fn start(settings: &LogSettings) {
    // The filter was tried when the settings were read, so a part that is ignored here cannot occur.
    let filter = EnvFilter::new(&settings.filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let outcome = match settings.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("logging is set up already");
    }
}
