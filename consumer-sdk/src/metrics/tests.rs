use std::collections::{BTreeMap, BTreeSet};

use outbox_admin_port::Exporter;
use outbox_schema::record::header;

use super::engine::PartitionLook;
use super::families::{DISTRIBUTED_BY, HANDLER_SECONDS, Kind, RECORD_TO_COMMIT_SECONDS};
use super::*;
use crate::intake::Held;
use crate::packed::Packed;
use crate::record::{Body, Tries};

const DOCUMENT: &str = include_str!("../../../docs/consumer-metrics.md");

/// An application's own instruments.
struct Application(Exporter);

impl Application {
    fn new() -> Application {
        Application(Exporter::new().unwrap())
    }

    fn text(&self) -> String {
        self.0.text().unwrap()
    }

    /// Series with labels, and their values.
    fn series(&self) -> BTreeMap<String, f64> {
        let text = self.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
        pairs.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }
}

pub(super) fn metrics(consumer: &str) -> Metrics {
    let names = Names { consumer: consumer.to_owned(), group: "group".to_owned() };
    Metrics::new(names, &["orders".to_owned()], &["OrderPlaced".to_owned()])
}

pub(super) fn record(offset: i64, event_type: &str) -> Record {
    let packed = Packed::new(
        Some(b"secret-key"),
        Some(b"secret-value"),
        &[(header::TYPE, Some(event_type.as_bytes()))],
    );
    let (topic, timestamp) = (Arc::from("orders"), today() - 2_000);
    Record::new(
        Body { topic, scope: Arc::from("s"), partition: 0, offset, timestamp, id: None, packed },
        Tries::default(),
    )
}

/// Partition 0 of `orders`.
pub(super) fn partition(committed: i64, committable: i64, unsettled: usize) -> PartitionLook {
    let topic = Arc::from("orders");
    PartitionLook { topic, committed, committable, unsettled, epoch: 1, ..PartitionLook::default() }
}

/// Everything that there is, once.
pub(super) fn everything(metrics: &Metrics) {
    let topic: Arc<str> = Arc::from("orders");
    metrics.assigned(&topic, 0, 10, 2);
    let records: Vec<Record> = (10..14).map(|offset| record(offset, "OrderPlaced")).collect();
    metrics.read(records.iter());
    metrics.log_ends("orders", 0, 20);
    metrics.kafka_answered();
    metrics.committed(true);
    metrics.committed(false);
    metrics.attempted(&records[0], Ended::Done, Duration::from_millis(30));
    metrics.settled(&records[0], Settled::Done);
    metrics.settled(&records[1], Settled::Duplicate);
    let mut failing = record(12, "OrderPlaced");
    metrics.attempted(&failing, Ended::Failed, Duration::from_millis(3));
    metrics.retried(&failing, Retry::InPlace);
    failing.tries.counted = 1;
    metrics.attempted(&failing, Ended::TimedOut, Duration::from_secs(30));
    metrics.retried(&failing, Retry::Rung(1));
    metrics.dead_letter(&record(13, "secret-type"), Cause::Killed);
    metrics.watch_pool(|| PoolLook {
        size: 18,
        in_use: 3,
        idle: 2,
        waiting: 1,
        waits: 7,
        opened: 9,
        discarded: 3,
        broken: 1,
    });
    let waiting = vec![4, 0, 1];
    let oldest = Duration::from_secs(90);
    metrics.saw_parked(ParkedLook { waiting, held: 2, events: 30, bytes: 9_000, oldest });
    metrics.park_may_hold(ParkLimits::default());
    assert!(metrics.park_is_full(Duration::from_secs(60)) && !metrics.park_is_full(Duration::from_secs(60)));
    metrics.watch_engine(|| {
        Some(EngineLook {
            held: Held { count: 2, bytes: 600 },
            ready_keys: 1,
            running: 1,
            full: false,
            isolated: true,
            suspects: 1,
            partitions: vec![PartitionLook { running: 1, paused: true, ..partition(11, 12, 2) }],
        })
    });
}

#[test]
fn what_happens_is_seen_in_the_applications_meter() {
    let (application, metrics) = (Application::new(), metrics("inventory"));
    metrics.publish(&application.0.meter(SCOPE));
    everything(&metrics);
    let series = application.series();
    let event = "consumer=\"inventory\",event_type=\"OrderPlaced\"";
    let place = "consumer=\"inventory\",partition=\"0\",topic=\"orders\"";
    for (name, expected) in [
        (format!("outbox_consumer_read_records_total{{{place}}}"), 4.0),
        (format!("outbox_consumer_attempts_total{{{event},outcome=\"done\",topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_attempts_total{{{event},outcome=\"failed\",topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_attempts_total{{{event},outcome=\"timed_out\",topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_attempts_total{{{event},outcome=\"panicked\",topic=\"orders\"}}"), 0.0),
        (format!("outbox_consumer_same_record_failures_total{{{event},topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_settled_records_total{{{event},state=\"done\",topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_dedup_hits_total{{{event},topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_retries_total{{{event},rung=\"in_place\",topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_retries_total{{{event},rung=\"1\",topic=\"orders\"}}"), 1.0),
        (
            "outbox_consumer_dead_letters_total{cause=\"killed\",consumer=\"inventory\",event_type=\"other\",topic=\"orders\"}"
                .to_owned(),
            1.0,
        ),
        (format!("outbox_consumer_lag_records{{{place}}}"), 8.0),
        (format!("outbox_consumer_unsettled_records{{{place}}}"), 2.0),
        (format!("outbox_consumer_uncommitted_offsets{{{place}}}"), 1.0),
        (format!("outbox_consumer_partition_paused{{{place}}}"), 1.0),
        (format!("outbox_consumer_unclean_starts{{{place}}}"), 2.0),
        (format!("outbox_consumer_restarts_total{{{place}}}"), 1.0),
        ("outbox_consumer_commits_total{consumer=\"inventory\",result=\"failed\"}".to_owned(), 1.0),
        ("outbox_consumer_isolated{consumer=\"inventory\"}".to_owned(), 1.0),
        ("outbox_consumer_pool_waiting{consumer=\"inventory\"}".to_owned(), 1.0),
        ("outbox_consumer_pool_lost_total{consumer=\"inventory\"}".to_owned(), 4.0),
        ("outbox_consumer_parked_keys{consumer=\"inventory\",rung=\"0\",state=\"waiting\"}".to_owned(), 4.0),
        ("outbox_consumer_parked_keys{consumer=\"inventory\",rung=\"\",state=\"held\"}".to_owned(), 2.0),
        ("outbox_consumer_park_full{consumer=\"inventory\"}".to_owned(), 1.0),
        ("outbox_consumer_park_most_events{consumer=\"inventory\"}".to_owned(), 100_000.0),
        ("outbox_consumer_parked_bytes{consumer=\"inventory\"}".to_owned(), 9_000.0),
        ("outbox_consumer_phase{consumer=\"inventory\",phase=\"running\"}".to_owned(), 1.0),
        (format!("outbox_consumer_handler_seconds_count{{{event},topic=\"orders\"}}"), 3.0),
        (format!("outbox_consumer_handler_seconds_bucket{{{event},topic=\"orders\",le=\"0.05\"}}"), 2.0),
        (format!("outbox_consumer_record_to_commit_seconds_count{{{event},topic=\"orders\"}}"), 1.0),
        (format!("outbox_consumer_record_to_commit_seconds_bucket{{{event},topic=\"orders\",le=\"1\"}}"), 0.0),
        (format!("outbox_consumer_record_to_commit_seconds_bucket{{{event},topic=\"orders\",le=\"60\"}}"), 1.0),
    ] {
        assert_eq!(series.get(&name), Some(&expected), "{name} in\n{}", application.text());
    }
    let age = series[&format!("outbox_consumer_lag_seconds{{{place}}}")];
    assert!((2.0..60.0).contains(&age), "{age}");
    assert!(!application.text().contains("secret"), "{}", application.text());
}

#[test]
fn a_stuck_frontier_shows_while_everything_else_moves() {
    let (application, metrics) = (Application::new(), metrics("inventory"));
    metrics.publish(&application.0.meter(SCOPE));
    metrics.assigned(&Arc::from("orders"), 0, 10, 0);
    let frontier = Arc::new(AtomicU64::new(10));
    let seen = frontier.clone();
    metrics.watch_engine(move || {
        let committable = seen.load(Relaxed) as i64;
        Some(EngineLook { partitions: vec![partition(10, committable, 1)], ..EngineLook::default() })
    });
    let oldest =
        "outbox_consumer_oldest_unsettled_seconds{consumer=\"inventory\",partition=\"0\",topic=\"orders\"}";
    let mut before = -1.0;
    for offset in 10..15 {
        // Others are read and settled; the first is not.
        let read = record(offset, "OrderPlaced");
        metrics.read(std::iter::once(&read));
        metrics.settled(&read, Settled::Done);
        let read_since = Instant::now();
        while read_since.elapsed() < Duration::from_millis(5) {
            std::thread::yield_now();
        }
        metrics.forget();
        let age = application.series()[oldest];
        assert!(age > before, "{age} after {before}");
        before = age;
    }
    frontier.store(15, Relaxed);
    metrics.read(std::iter::once(&record(15, "OrderPlaced")));
    metrics.forget();
    // Marks are a tenth of a second apart: what was read just now may count with what was read before.
    assert!(application.series()[oldest] < before + 1.0);
}

#[test]
fn consumers_share_a_meter_and_one_that_has_gone_shows_nothing() {
    let (application, one, two) = (Application::new(), metrics("one"), metrics("two"));
    for metrics in [&one, &two] {
        metrics.publish(&application.0.meter(SCOPE));
        everything(metrics);
    }
    let of = |name: &str| format!("outbox_consumer_in_hand_records{{consumer=\"{name}\"}}");
    assert_eq!((application.series()[&of("one")], application.series()[&of("two")]), (2.0, 2.0));
    drop(one);
    let series = application.series();
    assert_eq!((series.get(&of("one")), series.get(&of("two"))), (None, Some(&2.0)));
}

#[test]
fn nothing_is_shown_of_what_is_not_known() {
    let (application, metrics) = (Application::new(), metrics("inventory"));
    metrics.publish(&application.0.meter(SCOPE));
    let text = application.text();
    for unknown in ["lag_", "pool_", "parked_", "park_", "oldest_", "attempts", "handler_seconds"] {
        assert!(!text.contains(&format!("\noutbox_consumer_{unknown}")), "{unknown} in\n{text}");
    }
    assert!(metrics.parked_is_due() && !metrics.parked_is_due(), "asked once in a while");
}

/// The document's table, as the code describes the metrics.
fn table() -> String {
    let mut rows = vec!["| metric | type | labels | meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    let mut row = |name: &str, kind: &str, labels: &[&str], help: &str| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        rows.push(format!("| `{name}` | {kind} | {} | {help} |", labels.join(", ")));
    };
    for distribution in [HANDLER_SECONDS, RECORD_TO_COMMIT_SECONDS] {
        row(distribution.name, "histogram", &DISTRIBUTED_BY, distribution.help);
    }
    for family in families::all() {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        row(family.name, kind, family.labels, family.help);
    }
    rows.join("\n") + "\n"
}

#[test]
fn the_document_is_what_the_code_describes() {
    let table = table();
    assert!(DOCUMENT.contains(&table), "docs/consumer-metrics.md is to hold this table:\n{table}");
    let rest = DOCUMENT.replace(&table, "");
    for word in rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        if word.starts_with("outbox_consumer_") && !word.ends_with("_bucket") {
            assert!(
                table.contains(&format!("`{word}`")),
                "docs/consumer-metrics.md names {word}, which is none"
            );
        }
    }
}

#[test]
fn every_family_is_exported_with_the_labels_it_names() {
    let (application, metrics) = (Application::new(), metrics("inventory"));
    metrics.publish(&application.0.meter(SCOPE));
    everything(&metrics);
    let text = application.text();
    for family in families::all() {
        let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{}", family.name);
        assert!(text.contains(&format!("# TYPE {} {kind}\n", family.name)), "{}", family.name);
        let begins = format!("{}{{", family.name);
        let line = text.lines().find(|line| line.starts_with(&begins)).expect(family.name);
        let labels = line[begins.len()..].split_once('}').unwrap().0;
        let labels: BTreeSet<&str> = labels.split(',').map(|pair| pair.split('=').next().unwrap()).collect();
        let named: BTreeSet<&str> = family.labels.iter().copied().chain(["consumer"]).collect();
        assert_eq!(labels, named, "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
    }
    assert_eq!(text.matches("# TYPE ").count(), families::all().count() + 2);
}
