//! The judgement: every rule, how many things were looked at for it, and what broke it. What is judged is read once
//! everything is settled, or patience has ended; the rules themselves know no server.

mod found;
mod handled;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::record::{Rule, Run};
use crate::history::{Verdict, judge as judge_history};

pub use found::{Effect, End, Found, Scope};

/// How many sentences are kept of what breaks a rule.
const KEPT: usize = 20;

/// A rule while things are looked at.
struct Look {
    rule: Rule,
    broken: u64,
}

impl Look {
    fn at(says: impl Into<String>) -> Look {
        Look { rule: Rule { says: says.into(), looked_at: 0, broken_by: Vec::new() }, broken: 0 }
    }

    /// One more thing was looked at.
    fn thing(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        self.rule.looked_at += 1;
        if !holds {
            self.broken(sentence);
        }
    }

    fn broken(&mut self, sentence: impl FnOnce() -> String) {
        self.broken += 1;
        if self.rule.broken_by.len() < KEPT {
            self.rule.broken_by.push(sentence());
        }
    }

    fn done(mut self) -> Rule {
        let more = self.broken.saturating_sub(self.rule.broken_by.len() as u64);
        if more > 0 {
            self.rule.broken_by.push(format!("and {more} more"));
        }
        self.rule
    }
}

/// Judges what was found; rules and figures go into the run.
pub fn judge(found: &Found, run: &mut Run) {
    let unquarantined: Vec<_> =
        found.committed.iter().filter(|row| !found.quarantined.contains_key(&row.id)).cloned().collect();
    // What is quarantined may have been published before, or be released: it is no phantom.
    let known: HashSet<&str> = found.published.iter().filter_map(|record| record.id()).collect();
    let mut judged = unquarantined.clone();
    judged.extend(
        found
            .committed
            .iter()
            .filter(|row| found.quarantined.contains_key(&row.id) && known.contains(row.id.as_str()))
            .cloned(),
    );
    let verdict = judge_history(&judged, &found.published);
    run.rules.extend(published(found, &verdict));
    for scope in &found.scopes {
        run.rules.extend(handled::judge(scope, found));
    }
    run.rules.extend(handled::letters(found));
    run.rules.push(settled(found));
    run.rules.push(lives(found));
    run.rules.push(ends(found));
    figures(found, &verdict, run);
}

/// What the relays did.
fn published(found: &Found, verdict: &Verdict) -> Vec<Rule> {
    let rule = |says: &str, looked_at: u64, kind: &str, count: u64| {
        let prefix = format!("{kind}: ");
        let mut broken_by: Vec<String> = verdict
            .examples
            .iter()
            .filter_map(|example| example.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        let more = count.saturating_sub(broken_by.len() as u64);
        if more > 0 {
            broken_by.push(format!("and {more} more"));
        }
        Rule { says: says.to_owned(), looked_at, broken_by }
    };
    let (committed, published) = (found.committed.len() as u64, verdict.published);
    let mut rules = vec![
        rule(
            "every committed event is published, or quarantined with its reason",
            committed,
            "Lost",
            verdict.lost,
        ),
        rule("nothing is published that was not committed", published, "Phantom", verdict.phantoms),
        rule("every record is its row, byte for byte", published, "Altered", verdict.altered),
        rule(
            "first occurrences of a key's events stand on the log in the order of commits",
            published,
            "Reordered",
            verdict.reordered,
        ),
        rule(
            "positions order a key's events, each names one event, and a key stays in its partition",
            published,
            "Misplaced",
            verdict.misplaced,
        ),
    ];
    if !found.quarantined.is_empty() {
        let mut look = Look::at("every quarantined event was committed, and says why it was not published");
        let committed: HashSet<&str> = found.committed.iter().map(|row| row.id.as_str()).collect();
        for (id, reason) in &found.quarantined {
            look.thing(committed.contains(id.as_str()) && !reason.is_empty(), || format!("{id}: {reason:?}"));
        }
        rules.push(look.done());
    }
    rules
}

/// Liveness: nothing waits for ever.
fn settled(found: &Found) -> Rule {
    let mut look = Look::at("once the faults are over, everything comes to its end by itself");
    look.rule.looked_at = found.committed.len() as u64;
    for left in &found.left {
        look.broken(|| left.clone());
    }
    look.done()
}

/// Nobody gives up: a process that ends by itself was ended by an event that is made for that.
fn lives(found: &Found) -> Rule {
    let mut look = Look::at("no process ends by itself, but of an event that ends processes");
    look.rule.looked_at = found.lives;
    for End { name, how, expected } in &found.ended {
        if !expected {
            look.broken(|| format!("{name} ended by itself: {how}"));
        }
    }
    look.done()
}

/// At the end everybody is told to go.
fn ends(found: &Found) -> Rule {
    let mut look = Look::at("told to end, every process ends in order");
    for End { name, how, expected } in &found.told {
        look.thing(*expected, || format!("{name}: {how}"));
    }
    look.done()
}

fn figures(found: &Found, verdict: &Verdict, run: &mut Run) {
    let mut figure = |name: String, count: u64| _ = run.figures.insert(name, count);
    figure("committed".into(), found.committed.len() as u64);
    figure("rolled back".into(), found.rolled_back);
    figure("published".into(), verdict.published);
    figure("published again".into(), verdict.repeated);
    figure("quarantined".into(), found.quarantined.len() as u64);
    figure("lives of processes".into(), found.lives);
    for scope in &found.scopes {
        let state =
            |wanted: &str| scope.settlements.values().filter(|(state, _)| state == wanted).count() as u64;
        figure(format!("{}: effects", scope.name), scope.effects.len() as u64);
        figure(format!("{}: dead letters", scope.name), state("dead"));
        figure(format!("{}: parked at the end", scope.name), scope.parked.len() as u64);
        figure(format!("{}: handled behind a failed attempt", scope.name), scope.late);
    }
}
