//! Settings: one table of keys from which defaults, validation and the reference document come.
//!
//! | module | what it owns |
//! |---|---|
//! | [`keys`] | the table: every key with its kind, default, description and example |
//! | [`kinds`] | how a text of each kind is read and shown |
//! | `given`, `known` | what file and environment give; names that do not exist |
//! | `delivery` | how often an event comes, and the bounds of Kafka transactions |
//! | `assemble` | from there to [`Settings`], and what has to fit together |
//! | [`lanes`] | what is said of each lane, over what is said of the relay |
//! | `messages` | what does not go together with events that are messages |
//! | [`mistakes`] | everything that is wrong, told in one run |
//! | [`kafka_options`], [`topic_options`] | librdkafka's own options, and Kafka's for topics |
//! | [`recovery`] | what follows where slot, server and state record do not agree |
//! | [`rules`] | templates of topics, keys and headers |
//! | [`document`] | the reference document and the settings in force |

mod assemble;
mod delivery;
pub mod document;
mod given;
pub mod kafka_options;
pub mod keys;
pub mod kinds;
mod known;
pub mod lanes;
mod messages;
pub mod mistakes;
pub mod recovery;
pub mod rules;
mod settings;
pub mod topic_options;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use delivery::{DeliverySettings, Guarantee, Larger};
pub use lanes::{LaneId, Lanes};
pub use mistakes::Mistakes;
pub use recovery::{Answer, Loss, RecoverySettings};
pub use rules::{RuleColumns, Rules};
pub use settings::*;

/// The environment variable that names the file.
pub const CONFIG_VARIABLE: &str = "OUTBOX_RELAY_CONFIG";
/// The environment variable that stands for `init --admin-url`, so that a password in it shows in no list of
/// processes.
pub const ADMIN_URL_VARIABLE: &str = "OUTBOX_RELAY_ADMIN_URL";
/// The file that is read when none is named.
pub const USUAL_FILE: &str = "outbox-relay.toml";

/// What the command line says in place of the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// `--existing`.
    pub existing: Option<Existing>,
}

/// Loads and validates the settings, of each lane.
///
/// `path` names the file (`--config`); without it see [`CONFIG_VARIABLE`] and [`USUAL_FILE`]. `env` gives the
/// environment, which goes over the file.
///
/// # Errors
///
/// Every mistake of file and environment in one list, without the value of any secret.
pub fn load(
    path: Option<&Path>,
    env: &dyn Fn() -> Vec<(String, String)>,
    overrides: Overrides,
) -> Result<Lanes, Mistakes> {
    let (given, mut mistakes) = gather(path, env);
    match lanes::settings(&given, overrides.existing, &mut mistakes) {
        Some(lanes) if mistakes.is_empty() => Ok(lanes),
        _ => Err(mistakes),
    }
}

/// The values in force with their places, secrets masked, for `config show`.
///
/// # Errors
///
/// As [`load`].
pub fn show(path: Option<&Path>, env: &dyn Fn() -> Vec<(String, String)>) -> Result<String, Mistakes> {
    load(path, env, Overrides::default())?;
    Ok(document::in_force(&gather(path, env).0))
}

/// The environment of this process. A variable that is not UTF-8 can be none of the relay's.
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect()
}

fn gather(path: Option<&Path>, env: &dyn Fn() -> Vec<(String, String)>) -> (given::Gathered, Mistakes) {
    let variables = env();
    let mut mistakes = Mistakes::default();
    let file = given::locate(path, &variables);
    mistakes.looked_at(match &file {
        Some(file) => format!("file {} and the environment", file.display()),
        None => format!("no file was read: neither --config nor {CONFIG_VARIABLE} names one, and there is no {USUAL_FILE} here"),
    });
    let given = given::read(file.as_deref(), &variables, &mut mistakes);
    (given, mistakes)
}
