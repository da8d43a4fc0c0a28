//! The findings as text for people and as one JSON document for machines.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::finding::{Area, Finding, Severity};
use crate::config::Settings;

/// Findings of one code that the text shows; `--json` has all.
const ALIKE: usize = 5;
/// Columns of a line before its text breaks.
const WIDTH: usize = 100;

/// How many findings of each severity there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
    /// Notes.
    pub notes: usize,
    /// Things as they should be.
    pub ok: usize,
}

impl Summary {
    /// Counts.
    pub fn of(findings: &[Finding]) -> Summary {
        let mut summary = Summary::default();
        for finding in findings {
            match finding.severity {
                Severity::Ok => summary.ok += 1,
                Severity::Note => summary.notes += 1,
                Severity::Warning => summary.warnings += 1,
                Severity::Error => summary.errors += 1,
            }
        }
        summary
    }
}

/// One document: the relay, its findings, the summary.
pub fn json(settings: &Settings, findings: &[Finding]) -> String {
    let Summary { errors, warnings, notes, ok } = Summary::of(findings);
    let document = json!({
        "relay": settings.name,
        "findings": findings,
        "summary": {"errors": errors, "warnings": warnings, "notes": notes, "ok": ok},
    });
    format!("{document:#}\n")
}

/// The report for people, grouped, with colours where a terminal shows it.
pub fn text(settings: &Settings, findings: &[Finding], colours: bool) -> String {
    let source = &settings.source;
    let mut page = format!(
        "relay {}: {}:{}/{} as {}, to {}\n",
        settings.name, source.host, source.port, source.database, source.user, settings.kafka.brokers
    );
    for area in Area::ALL {
        let of_area: Vec<&Finding> = findings.iter().filter(|finding| finding.area == area).collect();
        if of_area.is_empty() {
            continue;
        }
        page += &format!("\n{}\n", paint(colours, BOLD, area.heading()));
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &of_area {
            let count = shown.entry(finding.code).or_default();
            *count += 1;
            if *count <= ALIKE {
                lines(&mut page, finding, colours);
            }
        }
        for (code, count) in shown.into_iter().filter(|(_, count)| *count > ALIKE) {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "  …        {} more of {code}; --json lists all", count - ALIKE);
        }
    }
    page += &format!("\n{}\n", closing(findings));
    page
}

fn closing(findings: &[Finding]) -> String {
    let Summary { errors, warnings, notes, ok } = Summary::of(findings);
    let count = |number: usize, one: &str| {
        if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
    };
    let verdict = match (errors, warnings) {
        (0, 0) => "Nothing has to be done",
        (0, _) => "The relay can run; the warnings say what may cost something one day",
        (_, _) => "The errors have to be mended first",
    };
    format!(
        "{verdict}: {}, {}, {}, {ok} as they should be.",
        count(errors, "error"),
        count(warnings, "warning"),
        count(notes, "note")
    )
}

const BOLD: &str = "1";

fn lines(page: &mut String, finding: &Finding, colours: bool) {
    let (name, colour) = match finding.severity {
        Severity::Ok => ("ok", "32"),
        Severity::Note => ("note", "36"),
        Severity::Warning => ("warning", "33"),
        Severity::Error => ("error", "31"),
    };
    const INDENT: &str = "           ";
    let head = paint(colours, colour, &format!("{name:<7}"));
    let lane = finding.lane.as_ref().map_or(String::new(), |lane| format!("lane {lane}: "));
    let body = wrapped(&format!("{lane}{}: {}", finding.subject, finding.seen), INDENT);
    *page += &format!("  {head}  {}\n", body.trim_start());
    if let Some(advice) = &finding.advice {
        *page += &format!("{}\n", wrapped(&format!("→ {advice}"), INDENT));
    }
    // As it is, so that it can be copied: never broken, only indented.
    for line in finding.command.iter().flat_map(|command| command.lines()) {
        *page += &format!("{INDENT}  {}\n", paint(colours, BOLD, line));
    }
    if finding.severity >= Severity::Warning {
        *page += &format!("{INDENT}({})\n", finding.code);
    }
}

fn paint(colours: bool, colour: &str, text: &str) -> String {
    if colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The text broken between words, every line indented.
fn wrapped(text: &str, indent: &str) -> String {
    let mut page = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        if line.len() > indent.len() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                page += &line;
                page.push('\n');
                line = indent.to_owned();
            } else {
                line.push(' ');
            }
        }
        line += word;
    }
    page + &line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::settings;

    fn findings() -> Vec<Finding> {
        let mut findings: Vec<Finding> = (0..7)
            .map(|n| {
                Finding::warning(Area::Topics, "topic-unreplicated", format!("t{n}"), "one replica")
                    .mend("raise it", format!("kafka-topics.sh --topic t{n}"))
            })
            .collect();
        findings.push(Finding::ok(Area::Server, "server", "server", "PostgreSQL 15"));
        findings.push(Finding::error(Area::Server, "wal-level", "wal_level", "is replica ".repeat(30)).mend(
            "set it",
            "ALTER SYSTEM SET wal_level = 'logical';\n-- then restart the server, since a reload is not enough for this setting to be taken over",
        ));
        findings
    }

    #[test]
    fn text_is_grouped_and_commands_are_never_broken() {
        let page = text(&settings(), &findings(), false);
        assert!(page.find("PostgreSQL\n").unwrap() < page.find("Topics\n").unwrap(), "{page}");
        assert!(page.contains("  ok       server: PostgreSQL 15\n"), "{page}");
        assert!(page.contains("\n             -- then restart the server, since a reload is not enough for this setting to be taken over\n"), "{page}");
        assert!(page.lines().all(|line| line.contains("-- then") || line.chars().count() <= WIDTH), "{page}");
        assert!(page.contains("t4: one replica") && !page.contains("t5: one replica"), "{page}");
        assert!(page.contains("2 more of topic-unreplicated"), "{page}");
        assert!(page.ends_with(
            "The errors have to be mended first: 1 error, 7 warnings, 0 notes, 1 as they should be.\n"
        ));
        assert!(!page.contains('\u{1b}'));
        assert!(text(&settings(), &findings(), true).contains("\u{1b}[31merror  \u{1b}[0m"));
    }

    #[test]
    fn json_is_one_document_with_everything() {
        let document: serde_json::Value = serde_json::from_str(&json(&settings(), &findings())).unwrap();
        assert_eq!(document["relay"], "orders");
        assert_eq!(document["summary"], json!({"errors": 1, "warnings": 7, "notes": 0, "ok": 1}));
        assert_eq!(document["findings"].as_array().unwrap().len(), 9);
        let first = &document["findings"][0];
        assert_eq!(
            (&first["code"], &first["severity"], &first["area"]),
            (&json!("topic-unreplicated"), &json!("warning"), &json!("topics"))
        );
        assert_eq!(
            (&first["do"], &first["command"]),
            (&json!("raise it"), &json!("kafka-topics.sh --topic t0"))
        );
        assert_eq!(document["findings"][7]["do"], json!(null));
    }
}
