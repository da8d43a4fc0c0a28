//! The report of `make chaos`.
//!
//! | module | what it owns |
//! |---|---|
//! | [`verdict`] | the sentence at its beginning |
//! | [`sections`] | what was run, the rules, the faults, the commands |
//! | [`over_time`] | the timeline of a run, and its table |
//!
//! It is made of the runs' JSON and of nothing else, so that it can be made again.

pub mod over_time;
pub mod sections;
pub mod verdict;

#[cfg(test)]
mod made_up;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::record::Run;
use crate::page::Page;

/// The report as Markdown.
pub fn markdown(runs: &[Run]) -> String {
    page(runs).markdown()
}

/// The report as one HTML file, with plots.
pub fn html(runs: &[Run]) -> String {
    page(runs).html()
}

/// Writes the report of the runs in these files to `out`, and beside it as HTML. Says whether every run holds.
///
/// # Errors
/// No file was given, one cannot be read or is no run, or the report cannot be written.
pub fn write(files: &[PathBuf], out: &Path) -> anyhow::Result<bool> {
    ensure!(!files.is_empty(), "a report of chaos needs the JSON of at least one run");
    let mut runs = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let found: OneOrMany =
            serde_json::from_str(&text).with_context(|| format!("{} is no run of chaos", file.display()))?;
        match found {
            OneOrMany::One(run) => runs.push(*run),
            OneOrMany::Many(many) => runs.extend(many),
        }
    }
    page(&runs).write(out)?;
    Ok(verdict::holds(&runs))
}

/// What a file holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<Run>),
    Many(Vec<Run>),
}

fn page(runs: &[Run]) -> Page {
    let mut page = Page::new("Chaos: faults at the whole product, and what held");
    page.verdict(verdict::holds(runs), &verdict::sentence(runs));
    // A page takes everything that is written into it.
    let _ = sections::introduction(&mut page)
        .and_then(|()| sections::what_was_run(&mut page, runs))
        .and_then(|()| sections::rules(&mut page, runs))
        .and_then(|()| sections::faults_by_kind(&mut page, runs))
        .and_then(|()| over_time::runs(&mut page, runs))
        .and_then(|()| sections::again(&mut page, runs))
        .and_then(|()| sections::meaning(&mut page));
    page
}

/// How a run is called: by its place in the report.
fn named(number: usize) -> String {
    format!("run {}", number + 1)
}
