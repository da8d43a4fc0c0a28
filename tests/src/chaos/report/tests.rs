//! What a reader finds.

use super::{made_up, verdict};
use crate::chaos::record::Run;

fn broken() -> Run {
    let mut run = made_up::run(2);
    run.rules[4].broken_by =
        (0..30).map(|n| format!("key <b>{n}</b>: event {n} | after {}", n + 1)).collect();
    run
}

#[test]
fn the_first_sentence_says_what_was_found() {
    let runs = [made_up::run(1), made_up::run(3)];
    let seen = runs.iter().flat_map(|run| &run.faults).filter(|fault| fault.seen.is_some()).count();
    assert_eq!(
        verdict::sentence(&runs),
        format!(
            "**Held:** in 2 runs with {seen} faults of 20 kinds whose effect was seen there was no violation of any of 7 rules."
        )
    );
    assert!(verdict::holds(&runs));
    let said = verdict::sentence(&[made_up::run(1), broken()]);
    assert!(said.starts_with("**Broken:** 30 violations of 1 rule, in 1 of 2 runs with "), "{said}");
    assert!(said.ends_with(": the effects of a key are in its order."), "{said}");
}

#[test]
fn what_shows_nothing_does_not_hold() {
    assert!(!verdict::holds(&[]));
    assert_eq!(verdict::sentence(&[]), "**Nothing was shown:** there was no run.");
    let mut idle = made_up::run(1);
    idle.rules[5].looked_at = 0;
    let said = verdict::sentence(std::slice::from_ref(&idle));
    assert!(said.starts_with("**Not shown:**") && said.contains("1 rule had nothing to look at"), "{said}");
    assert!(!verdict::holds(&[idle]));
    let quiet = Run { faults: Vec::new(), ..made_up::run(1) };
    let said = verdict::sentence(std::slice::from_ref(&quiet));
    assert!(said.ends_with("but no fault was seen to take effect."), "{said}");
    assert!(!verdict::holds(&[quiet]));
    let lawless = Run { rules: Vec::new(), ..made_up::run(1) };
    assert!(verdict::sentence(&[lawless]).starts_with("**Nothing was shown:** no rule was judged"));
}

#[test]
fn a_broken_rule_is_shown_first_with_what_broke_it() {
    let text = super::markdown(&[made_up::run(1), broken()]);
    let first = text.lines().skip_while(|line| *line != "## Rules").nth(4).unwrap();
    assert_eq!(first, "| the effects of a key are in its order | 1,649,348 | **broken**: 30 violations |");
    assert!(text.contains("- run 2: key &lt;b>0&lt;/b>: event 0 \\| after 1\n"));
    assert!(text.contains("- and 10 more, in the JSON"));
    let html = super::html(&[broken()]);
    assert!(html.contains("class=\"verdict broken\"") && !html.contains("<b>0"));
    assert!(html.contains("key &lt;b&gt;0&lt;/b&gt;: event 0 | after 1"));
}

#[test]
fn each_run_has_its_lanes_and_its_gaps() {
    let html = super::html(&[made_up::run(1), made_up::run(3)]);
    assert_eq!(html.matches("<figure>").count(), 2);
    assert_eq!(html.matches("role=\"img\"").count(), 4);
    assert!(html.matches("class=\"gap\"").count() > 8, "somebody was silent");
    assert!(
        html.contains("at PostgreSQL")
            && html.contains("at consumers")
            && !html.contains("at others")
            && html.contains("effect not seen: not counted")
    );
    assert!(html.contains("relay-1 said so in its log: &lt;relay killed&gt;"));
    assert!(!html.contains("NaN"));
    let ids: Vec<&str> =
        html.match_indices(" id=\"").map(|(at, _)| html[at + 5..].split('"').next().unwrap()).collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(ids.len(), once.len(), "an id is its own in the page");
}

#[test]
fn a_run_without_faults_or_samples_has_a_report() {
    let empty = Run { faults: Vec::new(), samples: Vec::new(), ..made_up::run(1) };
    let (text, html) = (super::markdown(std::slice::from_ref(&empty)), super::html(&[empty]));
    assert!(text.contains("No fault was tried.") && text.contains("There are no samples"));
    assert!(!html.contains("NaN") && !html.contains("\"inf"));
}

#[test]
fn a_kind_that_was_never_seen_is_named() {
    let mut run = made_up::run(1);
    run.faults.iter_mut().filter(|fault| fault.kind == "broker killed").for_each(|fault| fault.seen = None);
    let text = super::markdown(&[run]);
    assert!(text.contains("| broker killed | **0 of 9** |"));
    assert!(text.contains("**Never seen, so nothing is shown about it:** broker killed."));
}

#[test]
fn both_files_are_made_of_the_runs_json() {
    let mut directory = tempfile::tempdir().unwrap();
    // To be looked at.
    directory.disable_cleanup(std::env::var_os("OUTBOX_TESTS_KEEP").is_some());
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("one.json"), serde_json::to_vec(&made_up::run(1)).unwrap()).unwrap();
    std::fs::write(at("many.json"), serde_json::to_vec(&[made_up::run(3), broken()]).unwrap()).unwrap();
    let files = [at("one.json"), at("many.json")];
    assert!(super::write(&files[..1], &at("held.md")).unwrap());
    assert!(!super::write(&files, &at("chaos.md")).unwrap());
    println!("{}", at("chaos.html").display());
    let html = std::fs::read_to_string(at("chaos.html")).unwrap();
    assert!(html.contains("<h3>Run 3, seed 2</h3>"));
    assert!(std::fs::read_to_string(at("chaos.md")).unwrap().contains("### Run 3, seed 2\n"));
    assert!(super::write(&[], &at("none.md")).is_err());
    std::fs::write(at("wrong.json"), "{}").unwrap();
    assert!(
        format!("{:#}", super::write(&[at("wrong.json")], &at("none.md")).unwrap_err()).contains("no run")
    );
}
