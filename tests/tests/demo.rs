//! What a newcomer runs first.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use outbox_tests::cluster::{self, usual_version};
use outbox_tests::parts;

fn demo(arguments: &[&str]) -> (Output, Duration) {
    let relay = parts::relay().unwrap_or_else(|error| panic!("{error}"));
    let demo = relay.with_file_name("outbox-demo");
    assert!(demo.is_file(), "no demo at {demo:?}: run `cargo build --release -p outbox-demo`");
    let postgres = parts::postgres(usual_version()).unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    let output = Command::new(demo)
        .args(["--seconds", "8"])
        .args(arguments)
        .env_remove("OUTBOX_RELAY_BIN")
        .env("OUTBOX_PG15_BIN", postgres)
        .output()
        .unwrap();
    (output, begun.elapsed())
}

/// The number behind `name` in the verdict's line.
fn figure(verdict: &str, name: &str) -> u64 {
    let (_, rest) = verdict.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{name} in {verdict}"));
    rest.split(' ').next().and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("{verdict}"))
}

fn passes(arguments: &[&str]) {
    let (output, took) = demo(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(took < Duration::from_secs(120), "{took:?}");
    let verdict = text.lines().last().unwrap_or_default();
    assert!(verdict.starts_with("verdict: PASS committed="), "{text}");
    assert!(verdict.contains(" lost=0 reordered=0 phantoms=0 "), "{text}");
    assert!(verdict.ends_with(" missing=0 doubled=0 effects_reordered=0"), "{text}");
    assert!(figure(verdict, "committed") > 1_000, "{verdict}");
    assert_eq!(figure(verdict, "committed"), figure(verdict, "published"), "{verdict}");
    assert_eq!(figure(verdict, "committed"), figure(verdict, "effects"), "{verdict}");
    assert_eq!(text.matches("relay killed (SIGKILL)").count(), 2, "{text}");
    let consumers_killed = text.matches(" killed (SIGKILL); transactions it had open: ").count();
    assert!(consumers_killed > 0, "{text}");
    assert!(!text.contains("it had open: 0"), "{text}");
    assert!(text.contains("Events rolled back with their changes: "), "{text}");
    println!("proof: demo in {took:.0?}: {verdict}");
}

#[test]
fn the_demo_ends_by_itself_with_a_verdict() {
    passes(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_does_the_same_on_a_real_broker() {
    passes(&["--kafka-brokers", &cluster::shared().kafka.brokers()]);
}
