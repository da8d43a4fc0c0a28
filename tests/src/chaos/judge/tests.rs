//! Each mistake is seen, and nothing else.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::bench::machine::Machine;
use crate::history::{Committed, Published};

fn run_of(found: &Found) -> Run {
    let mut run = Run {
        command: String::new(),
        seed: 1,
        commit: String::new(),
        began: String::new(),
        duration_s: 1.0,
        settled_s: 1.0,
        machine: Machine::here(),
        versions: BTreeMap::new(),
        cast: Vec::new(),
        faults: Vec::new(),
        samples: Vec::new(),
        figures: BTreeMap::new(),
        rules: Vec::new(),
    };
    judge(found, &mut run);
    run
}

/// Three events of one key, published and handled as they should be.
fn good() -> Found {
    let ids = ["a", "b", "c"].map(String::from);
    let row = |(id, n): (&String, u64)| Committed {
        id: id.clone(),
        topic: "t".into(),
        key: b"k".to_vec(),
        value: None,
        headers: vec![("id".into(), id.clone().into_bytes())],
        order: Some(n),
    };
    let record = |(id, n): (&String, i64)| Published {
        topic: "t".into(),
        partition: 0,
        offset: n,
        key: Some(b"k".to_vec()),
        value: None,
        headers: vec![
            ("id".into(), id.clone().into_bytes()),
            ("position".into(), format!("1/{n:016X}/0").into_bytes()),
        ],
    };
    let effect = |(id, n): (&String, i64)| Effect { event: id.clone(), key: "k".into(), number: n };
    let done = |id: &String| (id.clone(), ("done".to_owned(), String::new()));
    let scope = Scope {
        name: "stock".into(),
        settlements: ids.iter().map(done).collect(),
        effects: ids.iter().zip(1..).map(effect).collect(),
        ..Scope::default()
    };
    Found {
        committed: ids.iter().zip(1..).map(row).collect(),
        published: ids.iter().zip(1..).map(record).collect(),
        scopes: vec![scope],
        lives: 1,
        told: vec![End { name: "relay-1".into(), how: "exit status: 0".into(), expected: true }],
        ..Found::default()
    }
}

/// The words of the rules that a change breaks.
fn broken(change: impl FnOnce(&mut Found)) -> Vec<String> {
    let mut found = good();
    change(&mut found);
    run_of(&found).rules.into_iter().filter(|rule| !rule.broken_by.is_empty()).map(|rule| rule.says).collect()
}

fn settle(found: &mut Found, id: &str, state: &str, reason: &str) {
    found.scopes[0].settlements.insert(id.to_owned(), (state.to_owned(), reason.to_owned()));
}

#[test]
fn what_is_good_breaks_nothing_and_every_rule_has_looked_at_something() {
    let run = run_of(&good());
    assert!(run.holds(), "{:#?}", run.rules);
}

#[test]
fn a_lost_event_is_seen_unless_it_is_quarantined() {
    let lose = |found: &mut Found| {
        found.published.pop();
        found.scopes[0].settlements.remove("c");
        found.scopes[0].effects.pop();
    };
    assert_eq!(broken(lose), ["every committed event is published, or quarantined with its reason"]);
    let quarantined = |found: &mut Found| {
        lose(found);
        found.quarantined.insert("c".into(), "too large".into());
    };
    assert_eq!(broken(quarantined), Vec::<String>::new());
}

#[test]
fn a_phantom_and_its_effect_are_seen() {
    let found = broken(|found| {
        found.committed.pop();
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_is_unsettled_doubled_or_without_settlement_is_seen() {
    assert_eq!(broken(|found| settle(found, "b", "claimed", "")).len(), 2);
    assert_eq!(
        broken(|found| found.scopes[0].effects.push(Effect {
            event: "c".into(),
            key: "k".into(),
            number: 3
        }))
        .len(),
        1
    );
    assert_eq!(broken(|found| _ = found.scopes[0].effects.pop()).len(), 1);
    assert_eq!(
        broken(|found| found.scopes[0].effects.swap(0, 1)),
        ["stock: effects come in the order of their key"]
    );
}

#[test]
fn what_is_given_up_needs_a_reason_and_a_letter() {
    let dead = |found: &mut Found| {
        settle(found, "c", "dead", "as told");
        found.scopes[0].effects.pop();
    };
    assert_eq!(broken(dead).len(), 1, "no letter");
    let told = |found: &mut Found| {
        dead(found);
        found.letters = HashMap::from([(("stock".into(), "c".into()), "as told".into())]);
    };
    assert_eq!(broken(told), Vec::<String>::new());
    assert_eq!(broken(|found| settle(found, "c", "dead", "")).len(), 3);
}

#[test]
fn what_is_left_and_who_gives_up_is_seen() {
    assert_eq!(broken(|found| found.left.push("3 keys are parked".into())).len(), 1);
    let end = |expected| End { name: "relay-1".into(), how: "exit status: 3".into(), expected };
    assert_eq!(broken(|found| found.ended.push(end(false))).len(), 1);
    assert_eq!(broken(|found| found.ended.push(end(true))), Vec::<String>::new());
    assert_eq!(broken(|found| found.told.push(end(false))).len(), 1);
}
