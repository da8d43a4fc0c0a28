//! Other systems that were measured beside ours, as further rows of a report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::figures::Spread;

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file with its settings, from the repository's root.
    pub settings: String,
    /// Events a second, by the name of the case in the report: `1 row per transaction, bbr`, `no-op, uniform`.
    pub cases: BTreeMap<String, Spread>,
}

impl Other {
    /// A list of them, from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is no such list.
    pub fn read(path: &Path) -> anyhow::Result<Vec<Other>> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is no list of other systems", path.display()))
    }

    /// How it is called in tables.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Each of them that has figures of this case.
pub fn of_case<'a>(others: &'a [Other], case: &'a str) -> impl Iterator<Item = (&'a Other, Spread)> {
    others.iter().filter_map(move |other| Some((other, *other.cases.get(case)?)))
}
