//! What was run, the rules, the faults, the commands, and what it all means.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::named;
use crate::bench::machine::Machine;
use crate::chaos::record::{Fault, Rule, Run};
use crate::page::{Page, code, count, grouped, plain, table};
use crate::plot::scale::time;

/// Violations of one rule that are written out; the rest are in the JSON.
const SHOWN: usize = 20;

/// For who has never seen the project.
pub fn introduction(page: &mut Page) -> fmt::Result {
    page.write_str(
        "A service writes each event into an outbox table of PostgreSQL, in the transaction that it tells of. A relay reads
the committed events from the server's log and publishes them to Kafka. Consumers handle each event and write its effect
into a database of theirs. In a run all of these work under load while their parts are killed, frozen, cut off and starved.
Then the faults stop, everything has time to settle, and a judge compares what was committed with what was published
and with what came of it, event by event.

This file is written as Markdown, as HTML with the timelines drawn, and holds nothing that is not in the runs' JSON.

",
    )
}

/// Every rule, those that are broken first.
pub fn rules(page: &mut Page, runs: &[Run]) -> fmt::Result {
    let rules = judged(runs);
    writeln!(page, "## Rules\n")?;
    let rows = rules.iter().map(|rule| {
        let result = match (rule.broken_by.len(), rule.idle) {
            (0, 0) => "held".to_owned(),
            (0, idle) => format!("**nothing to look at** in {}", count(idle, "run")),
            (broken, _) => format!("**broken**: {}", count(broken, "violation")),
        };
        vec![plain(rule.says), grouped(rule.looked_at), result]
    });
    page.write_str(&table(&["rule", ">looked at", "found"], rows))?;
    for rule in rules.iter().filter(|rule| !rule.broken_by.is_empty()) {
        writeln!(page, "**What broke “{}”:**\n", plain(rule.says))?;
        for (run, violation) in rule.broken_by.iter().take(SHOWN) {
            writeln!(page, "- {}: {}", named(*run), plain(violation))?;
        }
        match rule.broken_by.len().saturating_sub(SHOWN) {
            0 => writeln!(page)?,
            more => writeln!(page, "- and {more} more, in the JSON\n")?,
        }
    }
    Ok(())
}

/// A rule over all runs.
struct Judged<'a> {
    says: &'a str,
    looked_at: u64,
    /// Runs in which it looked at nothing.
    idle: usize,
    /// With the numbers of the runs.
    broken_by: Vec<(usize, &'a str)>,
}

fn judged(runs: &[Run]) -> Vec<Judged<'_>> {
    let mut found: Vec<Judged<'_>> = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        for Rule { says, looked_at, broken_by } in &run.rules {
            let place = found.iter().position(|rule| rule.says == says).unwrap_or_else(|| {
                found.push(Judged { says, looked_at: 0, idle: 0, broken_by: Vec::new() });
                found.len() - 1
            });
            let rule = &mut found[place];
            rule.looked_at += looked_at;
            rule.idle += usize::from(*looked_at == 0);
            rule.broken_by.extend(broken_by.iter().map(|violation| (number, violation.as_str())));
        }
    }
    // Stable: those of a sort stay in the order in which they are judged.
    found.sort_by_key(|rule| match (rule.broken_by.is_empty(), rule.idle) {
        (false, _) => 0,
        (true, 1..) => 1,
        (true, 0) => 2,
    });
    found
}

/// The runs, and what they ran on.
pub fn what_was_run(page: &mut Page, runs: &[Run]) -> fmt::Result {
    writeln!(page, "## What was run\n")?;
    let rows = runs.iter().enumerate().map(|(number, run)| {
        let seen = run.faults.iter().filter(|fault| fault.seen.is_some()).count();
        let violations: usize = run.rules.iter().map(|rule| rule.broken_by.len()).sum();
        vec![
            named(number),
            run.seed.to_string(),
            // To the second.
            plain(&run.began.get(..19).unwrap_or(&run.began).replace('T', " ")),
            time(run.duration_s),
            time(run.settled_s),
            format!("{seen} of {}", run.faults.len()),
            violations.to_string(),
            code(&run.commit),
        ]
    });
    let headings =
        ["", ">seed", "began, UTC", ">faults for", ">settled in", ">seen of tried", ">violations", "commit"];
    page.write_str(&table(&headings, rows))?;
    writeln!(
        page,
        "Times are minutes and seconds. The seed chooses the faults, their targets and their times.\n"
    )?;
    figures(page, runs)?;
    for (runs, machine) in alike(runs, |run| machine_in_words(&run.machine)) {
        writeln!(page, "**On what**{runs}: {}\n", plain(&machine))?;
    }
    for (runs, versions) in alike(runs, |run| run.versions.clone()) {
        let rows = versions.iter().map(|(name, version)| vec![plain(name), plain(version)]);
        writeln!(page, "**Versions**{runs}:\n")?;
        page.write_str(&table(&["part", "version"], rows))?;
    }
    for (runs, cast) in alike(runs, |run| run.cast.clone()) {
        let rows = cast.iter().map(|(name, given)| vec![plain(name), plain(given)]);
        page.folded(&format!("Who took part{runs}, and with what settings"), &table(&["who", "with"], rows));
    }
    Ok(())
}

/// What was counted in each run.
fn figures(page: &mut Page, runs: &[Run]) -> fmt::Result {
    let mut names: Vec<&str> = runs.iter().flat_map(|run| run.figures.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let headings: Vec<String> = (0..runs.len()).map(|number| format!(">{}", named(number))).collect();
    let headings: Vec<&str> =
        ["what was counted"].into_iter().chain(headings.iter().map(String::as_str)).collect();
    let rows = names.into_iter().map(|name| {
        let cells = runs.iter().map(|run| run.figures.get(name).map_or("–".to_owned(), |n| grouped(*n)));
        [plain(name)].into_iter().chain(cells).collect()
    });
    page.write_str(&table(&headings, rows))
}

fn machine_in_words(machine: &Machine) -> String {
    format!(
        "{}, {} cores, {} MiB of memory, {}, congestion control {}",
        machine.processor, machine.cores, machine.memory_mib, machine.kernel, machine.congestion_control
    )
}

/// What is the same in several runs, once, with ` (run 1, run 3)` where there are others.
fn alike<T: PartialEq>(runs: &[Run], of: impl Fn(&Run) -> T) -> Vec<(String, T)> {
    let mut found: Vec<(Vec<String>, T)> = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let value = of(run);
        match found.iter_mut().find(|(_, other)| *other == value) {
            Some((names, _)) => names.push(named(number)),
            None => found.push((vec![named(number)], value)),
        }
    }
    let several = found.len() > 1;
    let names = |names: Vec<String>| if several { format!(" ({})", names.join(", ")) } else { String::new() };
    found.into_iter().map(|(runs, value)| (names(runs), value)).collect()
}

/// Seen and tried of each kind, in each run.
pub fn faults_by_kind(page: &mut Page, runs: &[Run]) -> fmt::Result {
    writeln!(page, "## Faults by kind\n")?;
    let mut kinds: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        let tried = |kind: &str| run.faults.iter().filter(|fault| fault.kind == kind).count();
        for (kind, seen) in run.seen_by_kind() {
            kinds.entry(kind).or_insert_with(|| vec![(0, 0); runs.len()])[number] = (seen, tried(kind));
        }
    }
    if kinds.is_empty() {
        return writeln!(page, "No fault was tried.\n");
    }
    writeln!(
        page,
        "Effects seen, of faults tried. A fault counts only if something showed its effect: a process that ended, a \
         connection that broke, a log line, a gap in the answers.\n"
    )?;
    let several = runs.len() > 1;
    let mut headings = vec!["kind".to_owned(), ">all".to_owned()];
    headings.extend((0..runs.len()).filter(|_| several).map(|number| format!(">{}", named(number))));
    let cell = |(seen, tried): (usize, usize)| match (seen, tried) {
        (_, 0) => "–".to_owned(),
        (0, tried) => format!("**0 of {tried}**"),
        (seen, tried) => format!("{seen} of {tried}"),
    };
    let sum = |cells: &[(usize, usize)]| cells.iter().fold((0, 0), |sum, (s, t)| (sum.0 + s, sum.1 + t));
    let rows = kinds.iter().map(|(kind, cells)| {
        let each = cells.iter().filter(|_| several).map(|pair| cell(*pair));
        [plain(kind), cell(sum(cells))].into_iter().chain(each).collect()
    });
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    page.write_str(&table(&headings, rows))?;
    let unseen: Vec<String> =
        kinds.iter().filter(|(_, cells)| sum(cells).0 == 0).map(|(kind, _)| plain(kind)).collect();
    if unseen.is_empty() {
        return Ok(());
    }
    writeln!(page, "**Never seen, so nothing is shown about it:** {}.\n", unseen.join("; "))
}

/// The faults of a run, each with what showed it.
pub fn fault_table(faults: &[Fault]) -> String {
    let rows = faults.iter().map(|fault| {
        vec![
            time(fault.from_s),
            format!("{:.1}", fault.until_s - fault.from_s),
            plain(&fault.kind),
            plain(&fault.target),
            fault.seen.as_deref().map_or("**not seen**".to_owned(), plain),
        ]
    });
    table(&[">at", ">for, s", "kind", "whom", "how its effect was seen"], rows)
}

/// The commands.
pub fn again(page: &mut Page, runs: &[Run]) -> fmt::Result {
    writeln!(page, "## To run it again\n\n```sh")?;
    for run in runs {
        // A line each, whatever is in it: nothing ends the block but what stands below.
        writeln!(page, "{}", run.command.replace(['\n', '\r'], " ").replace("```", "'''"))?;
    }
    writeln!(page, "```\n")?;
    writeln!(
        page,
        "With the same seed the same faults are made at the same times, at the commit named above. What they hit differs \
         from run to run, since threads, disks and networks take their own time: a violation may need several tries to be \
         seen again.\n"
    )
}

/// What the result means, and what it does not.
pub fn meaning(page: &mut Page) -> fmt::Result {
    page.write_str(
        "## What this means, and what it does not

**What it means.** The rules are judged by what the parts left behind — the rows that PostgreSQL committed, the records
that Kafka holds, the effects in the consumers' databases — and not by what a part says of itself. A run holds if no rule is broken and
each had something to look at. A fault is counted only where its effect was seen, so that the number of faults is the
number of times that something was really hit. Everything had to settle by itself: nobody helped, and nothing was
repaired between the last fault and the judgement.

**What it does not mean.** It is no proof: other faults, other moments and other combinations were not tried, and what is
not written as a rule was not judged. Everything ran on one machine that did not itself fail, and every connection went over
its loopback. The events were made up for the run.

**The timelines.** *Events a second* are differences of what had been counted at two samples, about a second apart: a wave after
a fault is what had waited for its end. They are of a machine on which everything runs at once while it is broken on purpose,
and say nothing of the speed of the product; `make bench` does. *Lag* are records that the consumers' groups have not
committed past, handled or not. *Not confirmed* is the log that PostgreSQL has to keep for the relay, from its end back to the
position that the relay has confirmed: it grows while the relay is away or Kafka refuses, and has to come down
afterwards. *Parked keys* are those whose events wait because an earlier one failed and is tried again later. Where a
figure could not be asked for, there is a gap: most faults make somebody silent.
",
    )
}
