//! Rows that every report has.

use std::fmt::{self, Write};

use super::figures::Spread;
use super::machine::Machine;
use super::results::Percentiles;
use super::verdict::Verdict;

/// What it was measured on.
///
/// # Errors
/// What it is written to does not take it.
pub fn machine_row(out: &mut impl Write, machine: &Machine) -> fmt::Result {
    writeln!(
        out,
        "| machine | {}, {} cores, {} MiB, {} |",
        machine.processor, machine.cores, machine.memory_mib, machine.kernel
    )
}

/// How many requirements are met and which are not, in one sentence, and whether that is all.
pub fn sentence(verdicts: &[Verdict]) -> (bool, String) {
    let unmet: Vec<&str> =
        verdicts.iter().filter(|verdict| !verdict.met).map(|verdict| shortly(&verdict.requirement)).collect();
    let all = verdicts.len();
    if unmet.is_empty() && all > 0 {
        return (true, format!("**All {all} requirements are met.**"));
    }
    let met = all - unmet.len();
    (false, format!("**{met} of {all} requirements are met.** Not met: {}.", unmet.join("; ")))
}

/// Without how it is counted.
fn shortly(requirement: &str) -> &str {
    requirement.split(" (").next().unwrap_or(requirement)
}

/// Which requirement is met.
///
/// # Errors
/// What it is written to does not take it.
pub fn verdict_table(out: &mut impl Write, verdicts: &[Verdict]) -> fmt::Result {
    writeln!(out, "\n## Requirements\n\n| requirement | found | |\n|---|---|---|")?;
    for Verdict { requirement, found, met } in verdicts {
        writeln!(out, "| {requirement} | {found} | {} |", if *met { "met" } else { "**not met**" })?;
    }
    Ok(())
}

/// Median, quartiles and range of a figure.
///
/// # Errors
/// What it is written to does not take it.
pub fn row(out: &mut impl Write, name: &str, spread: Option<Spread>, digits: usize) -> fmt::Result {
    match spread {
        Some(Spread { min, lower, median, upper, max }) => writeln!(
            out,
            "| {name} | {median:.digits$} | {lower:.digits$} – {upper:.digits$} | {min:.digits$} – {max:.digits$} |"
        ),
        None => writeln!(out, "| {name} | not known | | |"),
    }
}

/// Percentiles of a time.
///
/// # Errors
/// What it is written to does not take it.
pub fn percentiles(out: &mut impl Write, name: &str, p: Percentiles) -> fmt::Result {
    writeln!(out, "| {name} | {:.2} | {:.2} | {:.2} | {:.1} |", p.p50, p.p90, p.p99, p.max)
}
