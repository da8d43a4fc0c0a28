//! Where PostgreSQL's server programs are on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version the relay supports.
const OLDEST: u32 = 15;
/// The versions that have an environment variable of their own.
const NAMED: [u32; 4] = [15, 16, 17, 18];

/// Why there is no server to start.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Nothing was found anywhere.
    #[error(
        "no PostgreSQL server (15 or newer) was found on this machine: run `scripts/parts postgres`, or name \
         the directory of initdb and postgres in OUTBOX_PG15_BIN"
    )]
    Missing,
    /// A variable leads nowhere.
    #[error(
        "{variable} says {path}, where initdb and postgres are not: correct it, or run `scripts/parts postgres`"
    )]
    Gone {
        /// The variable.
        variable: String,
        /// What it says.
        path: PathBuf,
    },
}

/// A directory that holds `initdb` and `postgres`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Looks, in this order, at the variables `OUTBOX_PG15_BIN` to `OUTBOX_PG18_BIN`, at what
    /// `scripts/parts` left in `.parts/env`, at Debian's directories (newest first) and along the PATH.
    ///
    /// # Errors
    /// [`ProgramsError`], which says what to do.
    pub fn find() -> Result<Programs, ProgramsError> {
        for variable in NAMED.map(variable) {
            if let Some(path) = env::var_os(&variable).filter(|path| !path.is_empty()).map(PathBuf::from) {
                return Programs::at(&path).ok_or(ProgramsError::Gone { variable, path });
            }
        }
        kept().or_else(installed).or_else(on_path).ok_or(ProgramsError::Missing)
    }

    /// The path of one of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    fn at(directory: &Path) -> Option<Programs> {
        let complete = ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file());
        complete.then(|| Programs { directory: directory.to_owned() })
    }
}

fn variable(major: u32) -> String {
    format!("OUTBOX_PG{major}_BIN")
}

/// What `scripts/parts` left behind, in the working directory or above it.
fn kept() -> Option<Programs> {
    let named = env::var_os("OUTBOX_PARTS_DIR").map(|parts| PathBuf::from(parts).join("env"));
    let here = env::current_dir().ok()?;
    let above = here.ancestors().map(|directory| directory.join(".parts/env"));
    named.into_iter().chain(above).find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        NAMED.iter().find_map(|major| Programs::at(Path::new(value_of(&text, &variable(*major))?)))
    })
}

/// The value of a line `export KEY='value'` or `KEY=value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .map(|line| line.trim().trim_start_matches("export ").trim_start())
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches(['\'', '"']))
}

/// Debian keeps every version in a directory of its own.
fn installed() -> Option<Programs> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut majors: Vec<u32> = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|major| *major >= OLDEST)
        .collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors
        .iter()
        .find_map(|major| Programs::at(&Path::new("/usr/lib/postgresql").join(format!("{major}/bin"))))
}

/// Beside the `pg_ctl` that the shell would find, if it is new enough.
fn on_path() -> Option<Programs> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join("pg_ctl")).find_map(|pg_ctl| {
        let programs = Programs::at(fs::canonicalize(pg_ctl).ok()?.parent()?)?;
        let answer = Command::new(programs.path("postgres")).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&answer.stdout))?;
        (major >= OLDEST).then_some(programs)
    })
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_with_and_without_export() {
        let text =
            "# parts\nexport OUTBOX_PG15_BIN='/a b/bin'\nOUTBOX_PG16_BIN=\"/c\"\nexport OUTBOX_PG17_BIN=/d\n";
        assert_eq!(value_of(text, "OUTBOX_PG15_BIN"), Some("/a b/bin"));
        assert_eq!(value_of(text, "OUTBOX_PG16_BIN"), Some("/c"));
        assert_eq!(value_of(text, "OUTBOX_PG17_BIN"), Some("/d"));
        assert_eq!(value_of(text, "OUTBOX_PG18_BIN"), None);
    }

    #[test]
    fn majors_are_read() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else 15"), None);
    }

    #[test]
    fn a_directory_has_to_hold_both_programs() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("postgres"), "").unwrap();
        assert_eq!(Programs::at(directory.path()), None);
        fs::write(directory.path().join("initdb"), "").unwrap();
        assert!(Programs::at(directory.path()).is_some());
    }
}
