//! The sentence at the beginning.

use std::collections::BTreeSet;

use crate::chaos::record::{Fault, Rule, Run};
use crate::page::{count, plain};

/// Whether there are runs, with faults that were seen, and all of them hold.
pub fn holds(runs: &[Run]) -> bool {
    !runs.is_empty()
        && runs.iter().all(|run| run.holds() && !run.rules.is_empty())
        && seen(runs).next().is_some()
}

/// The verdict in one sentence, in Markdown.
pub fn sentence(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "**Nothing was shown:** there was no run.".to_owned();
    }
    let kinds: BTreeSet<&str> = seen(runs).map(|fault| fault.kind.as_str()).collect();
    let faults = seen(runs).count();
    let runs_with = format!(
        "{} with {} of {} whose effect was seen",
        count(runs.len(), "run"),
        count(faults, "fault"),
        count(kinds.len(), "kind")
    );
    let judged = names(runs, |_| true);
    let broken = names(runs, |rule| !rule.broken_by.is_empty());
    let idle = names(runs, |rule| rule.looked_at == 0);
    if !broken.is_empty() {
        let violations = rules(runs).map(|rule| rule.broken_by.len()).sum();
        let hit = runs.iter().filter(|run| run.rules.iter().any(|rule| !rule.broken_by.is_empty())).count();
        let (violations, rules) = (count(violations, "violation"), count(broken.len(), "rule"));
        return format!(
            "**Broken:** {violations} of {rules}, in {hit} of {runs_with}: {}.",
            broken.join("; ")
        );
    }
    if judged.is_empty() {
        return format!("**Nothing was shown:** no rule was judged in {runs_with}.");
    }
    if !idle.is_empty() {
        let rules = count(idle.len(), "rule");
        return format!(
            "**Not shown:** in {runs_with} there was no violation, but {rules} had nothing to look at: {}.",
            idle.join("; ")
        );
    }
    let rules = count(judged.len(), "rule");
    if faults == 0 {
        let runs = count(runs.len(), "run");
        return format!(
            "**Not shown:** in {runs} there was no violation of {rules}, but no fault was seen to take effect."
        );
    }
    format!("**Held:** in {runs_with} there was no violation of any of {rules}.")
}

fn seen(runs: &[Run]) -> impl Iterator<Item = &Fault> {
    runs.iter().flat_map(|run| &run.faults).filter(|fault| fault.seen.is_some())
}

fn rules(runs: &[Run]) -> impl Iterator<Item = &Rule> {
    runs.iter().flat_map(|run| &run.rules)
}

/// Rules of this sort by name, each once, in the order in which they are judged.
fn names(runs: &[Run], sort: impl Fn(&Rule) -> bool) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for rule in rules(runs).filter(|rule| sort(rule)) {
        let name = plain(&rule.says);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
