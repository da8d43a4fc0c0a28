//! Where the servers' programs and the built relay are.
//!
//! Everything is found by the environment variables that `scripts/parts` prints, else in the file that
//! it leaves behind, `.parts/env` in the repository (or under `OUTBOX_PARTS_DIR`).

use std::env;
use std::path::{Path, PathBuf};

/// The variable that names the built relay.
pub const RELAY_VARIABLE: &str = "OUTBOX_RELAY_BIN";

/// Something that tests run against is not there.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// A server's programs were neither named nor found.
    #[error("{key} is not known: run `scripts/parts all` (for the benchmark's peers, `scripts/parts peers`)")]
    Unknown {
        /// The variable that would name it.
        key: String,
    },
    /// What was named is not there (any more).
    #[error("{key} says {path:?}, where nothing is: run `scripts/parts all`")]
    Gone {
        /// The variable that names it.
        key: String,
        /// What it says.
        path: PathBuf,
    },
    /// The relay has not been built.
    #[error("no relay at {path:?}: run `cargo build --release -p outbox-relay`, or set OUTBOX_RELAY_BIN")]
    RelayNotBuilt {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Directory of `initdb` and `postgres` of a major version, 15 to 18.
///
/// # Errors
/// [`PartsError`] where that version is not there.
pub fn postgres(major: u32) -> Result<PathBuf, PartsError> {
    find(&format!("OUTBOX_PG{major}_BIN"))
}

/// Directory of Kafka's jars.
///
/// # Errors
/// [`PartsError`] where they are not there.
pub fn kafka_libs() -> Result<PathBuf, PartsError> {
    find("OUTBOX_KAFKA_LIBS")
}

/// The Java that runs Kafka.
///
/// # Errors
/// [`PartsError`] where there is none.
pub fn java() -> Result<PathBuf, PartsError> {
    find("OUTBOX_JAVA")
}

/// Directory of what `make bench` compares with, one directory for each.
///
/// # Errors
/// [`PartsError`] where it is not there.
pub fn peers() -> Result<PathBuf, PartsError> {
    find("OUTBOX_PEERS")
}

/// The Java that runs them.
///
/// # Errors
/// [`PartsError`] where there is none.
pub fn peers_java() -> Result<PathBuf, PartsError> {
    find("OUTBOX_PEERS_JAVA")
}

/// The library that gives a process another clock (libfaketime).
///
/// # Errors
/// [`PartsError`] where it is not there.
pub fn faketime() -> Result<PathBuf, PartsError> {
    find("OUTBOX_FAKETIME")
}

/// The built relay: `OUTBOX_RELAY_BIN`, else `outbox-relay` in the directory that cargo built the running
/// test into.
///
/// # Errors
/// [`PartsError::RelayNotBuilt`] where it is not there.
pub fn relay() -> Result<PathBuf, PartsError> {
    let path = match env::var_os(RELAY_VARIABLE) {
        Some(named) => PathBuf::from(named),
        None => built_beside(&env::current_exe().unwrap_or_default()).join("outbox-relay"),
    };
    if path.is_file() { Ok(path) } else { Err(PartsError::RelayNotBuilt { path }) }
}

/// A program of this crate, in the directory that cargo built the running test or program into.
pub fn beside(name: &str) -> PathBuf {
    built_beside(&env::current_exe().unwrap_or_default()).join(name)
}

/// Cargo puts tests into `<target>/<profile>/deps/` and binaries into `<target>/<profile>/`.
fn built_beside(test: &Path) -> PathBuf {
    let directory = test.parent().unwrap_or(test);
    let profile = if directory.ends_with("deps") { directory.parent() } else { None };
    profile.unwrap_or(directory).to_owned()
}

fn find(key: &str) -> Result<PathBuf, PartsError> {
    let path = match env::var_os(key) {
        Some(named) => PathBuf::from(named),
        None => {
            let kept = std::fs::read_to_string(directory().join("env")).unwrap_or_default();
            let value = value_of(&kept, key).ok_or_else(|| PartsError::Unknown { key: key.to_owned() })?;
            PathBuf::from(value)
        }
    };
    if path.exists() { Ok(path) } else { Err(PartsError::Gone { key: key.to_owned(), path }) }
}

fn directory() -> PathBuf {
    let repository = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.parts");
    env::var_os("OUTBOX_PARTS_DIR").map_or_else(repository, PathBuf::from)
}

/// The value of one `export KEY='value'` line.
fn value_of<'a>(kept: &'a str, key: &str) -> Option<&'a str> {
    kept.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_their_whole_key() {
        let kept = "export OUTBOX_PG_BIN='/a b/bin'\nexport OUTBOX_PG15_BIN='/c'\n";
        assert_eq!(value_of(kept, "OUTBOX_PG_BIN"), Some("/a b/bin"));
        assert_eq!(value_of(kept, "OUTBOX_PG15_BIN"), Some("/c"));
        assert_eq!(value_of(kept, "OUTBOX_PG1"), None);
    }

    #[test]
    fn what_is_missing_names_the_script() {
        let error = find("OUTBOX_NO_SUCH_PART").unwrap_err();
        assert!(error.to_string().contains("run `scripts/parts all`"), "{error}");
    }

    #[test]
    fn binaries_are_looked_for_beside_the_test() {
        assert_eq!(built_beside(Path::new("/t/release/deps/kill-1f")), Path::new("/t/release"));
        assert_eq!(built_beside(Path::new("/t/release/demo")), Path::new("/t/release"));
    }
}
