//! What the consumers of a scope did.

use std::collections::{HashMap, HashSet};

use super::{Found, Look, Scope};
use crate::chaos::record::Rule;

/// Every rule of one scope.
pub fn judge(scope: &Scope, found: &Found) -> Vec<Rule> {
    let published: HashSet<&str> = found.published.iter().filter_map(|record| record.id()).collect();
    let committed: HashSet<&str> = found.committed.iter().map(|row| row.id.as_str()).collect();
    vec![settled(scope, &published), once(scope), in_order(scope), of_the_committed(scope, &committed)]
}

/// Done, or given up or parked with a reason; nothing in between.
fn settled(scope: &Scope, published: &HashSet<&str>) -> Rule {
    let name = &scope.name;
    let mut look =
        Look::at(format!("{name}: every published event is settled once, or parked or dead with its reason"));
    for id in published {
        let (state, reason) =
            scope.settlements.get(*id).map_or(("unsettled", ""), |(state, reason)| (state, reason));
        let holds = match state {
            "done" | "replayed" => true,
            "dead" | "rejected" | "dropped" => !reason.is_empty(),
            "parked" => scope.parked.get(*id).is_some_and(|why| !why.is_empty()),
            _ => false,
        };
        look.thing(holds, || format!("{id} is {state}: {reason:?}"));
    }
    look.done()
}

/// One effect of each event that is done, and none of any other.
fn once(scope: &Scope) -> Rule {
    let name = &scope.name;
    let what = if scope.outside { "one call under one key" } else { "one effect" };
    let mut look = Look::at(format!("{name}: an event that is done has {what}, and no other has any"));
    let mut times: HashMap<&str, u64> = HashMap::new();
    for effect in &scope.effects {
        *times.entry(effect.event.as_str()).or_default() += 1;
    }
    for (id, (state, _)) in &scope.settlements {
        let done = matches!(state.as_str(), "done" | "replayed");
        let effects = times.remove(id.as_str()).unwrap_or(0);
        // A call may have been made before whoever made it died; that it was made is no settlement.
        let holds = effects == u64::from(done) || (scope.outside && !done && effects == 1);
        look.thing(holds, || format!("{id} is {state} and has {effects} effects"));
    }
    for (id, effects) in times {
        look.broken(|| format!("{id} is not settled and has {effects} effects"));
    }
    look.done()
}

/// First effects of a key's events come in the order of their commits.
fn in_order(scope: &Scope) -> Rule {
    let mut look = Look::at(format!("{}: effects come in the order of their key", scope.name));
    let mut highest: HashMap<&str, i64> = HashMap::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for effect in scope.effects.iter().filter(|effect| seen.insert(effect.event.as_str())) {
        let before = highest.entry(effect.key.as_str()).or_insert(effect.number);
        look.thing(effect.number >= *before, || {
            format!("{} of {} came after {before} ({})", effect.number, effect.key, effect.event)
        });
        *before = (*before).max(effect.number);
    }
    look.done()
}

/// What was rolled back is seen by nobody.
fn of_the_committed(scope: &Scope, committed: &HashSet<&str>) -> Rule {
    let mut look = Look::at(format!("{}: no effect is one of what was not committed", scope.name));
    for effect in &scope.effects {
        look.thing(committed.contains(effect.event.as_str()), || {
            format!("{} of {} ({})", effect.number, effect.key, effect.event)
        });
    }
    look.done()
}

/// What is dead lies on a dead-letter topic. Nothing to say where nothing is dead.
pub fn letters(found: &Found) -> Option<Rule> {
    let mut look =
        Look::at("every event that is dead is a letter on its dead-letter topic, which says what was wrong");
    for scope in &found.scopes {
        for (id, (state, reason)) in &scope.settlements {
            if state == "dead" {
                let letter = found.letters.get(&(scope.name.clone(), id.clone()));
                look.thing(letter.is_some_and(|said| !said.is_empty()), || {
                    format!("{}: {id} ({reason}): letter {letter:?}", scope.name)
                });
            }
        }
    }
    let rule = look.done();
    (rule.looked_at > 0).then_some(rule)
}
