//! Rows that every report has.

use std::fmt::{self, Write};

use super::figures::Spread;
use super::machine::Machine;
use super::results::Percentiles;
use super::verdict::Verdict;

/// What it was measured on.
///
/// # Errors
/// Never: a string takes everything.
pub fn machine_row(out: &mut String, machine: &Machine) -> fmt::Result {
    writeln!(
        out,
        "| machine | {}, {} cores, {} MiB, {} |",
        machine.processor, machine.cores, machine.memory_mib, machine.kernel
    )
}

/// Which requirement is met.
///
/// # Errors
/// Never: a string takes everything.
pub fn verdict_table(out: &mut String, verdicts: &[Verdict]) -> fmt::Result {
    writeln!(out, "\n## Verdict\n\n| requirement | found | |\n|---|---|---|")?;
    for Verdict { requirement, found, met } in verdicts {
        writeln!(out, "| {requirement} | {found} | {} |", if *met { "met" } else { "**not met**" })?;
    }
    Ok(())
}

/// Median, quartiles and range of a figure.
///
/// # Errors
/// Never: a string takes everything.
pub fn row(out: &mut String, name: &str, spread: Option<Spread>, digits: usize) -> fmt::Result {
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
/// Never: a string takes everything.
pub fn percentiles(out: &mut String, name: &str, p: Percentiles) -> fmt::Result {
    writeln!(out, "| {name} | {:.2} | {:.2} | {:.2} | {:.1} |", p.p50, p.p90, p.p99, p.max)
}
