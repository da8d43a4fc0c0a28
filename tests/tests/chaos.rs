//! A minute of chaos: several kinds of fault, each seen, and no rule broken.

use std::process::Command;

use outbox_tests::chaos::record::Run;

/// One or two of every lane, none that takes longer than the minute has.
const FAULTS: &str = "relay-killed,relay-cut-off-from-PostgreSQL,broker-killed,acknowledgements-eaten,\
                      PostgreSQL-crashed,consumers-COMMIT-answers-eaten,disk-full,consumer-killed,\
                      consumers-clock-jumped,poison-for-the-relay,poison-for-the-consumers";

/// The whole product, through faults of every part that meet each other. `make chaos` does the same for longer.
#[test]
fn a_minute_of_every_kind_breaks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run.json");
    let arguments =
        ["--duration", "30s", "--rate", "80", "--patience", "2m", "--faults", FAULTS, "--out-json"];
    let done = Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).arg(&out).output().unwrap();
    let said = [done.stderr, done.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(done.status.success(), "{}", done.status);
    let run: Run = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert!(run.holds());
    let seen = run.seen_by_kind();
    assert_eq!(seen.len(), FAULTS.split(',').count());
    assert!(seen.values().all(|seen| *seen > 0), "{seen:?}");
    let count: usize = seen.values().sum();
    println!(
        "proof: {count} faults of {} kinds in {:.0} s, all rules hold (seed {})",
        seen.len(),
        run.duration_s,
        run.seed
    );
}
