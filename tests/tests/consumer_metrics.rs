//! What a running consumer says of itself: every metric of the document, with the values that a load makes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Orders, PARTITIONS, With};
use outbox_tests::wait::eventually_async;
use uuid::Uuid;

use crate::consumer::{GOOD, end, failing, good_from, program};
use crate::consumer_kinds::{self, Outside, Watched, send};

const LIMIT: Duration = Duration::from_secs(60);
const DOCUMENT: &str = include_str!("../../docs/consumer-metrics.md");

/// A metric as the document names it.
struct Documented<'d> {
    name: &'d str,
    kind: &'d str,
    labels: BTreeSet<&'d str>,
}

fn documented() -> Vec<Documented<'static>> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `outbox_consumer_"));
    let read = |row: &'static str| {
        let mut columns = row.trim_matches('|').split('|').map(|column| column.trim().trim_matches('`'));
        let (name, kind) = (columns.next().expect("a name"), columns.next().expect("a type"));
        let labels = columns.next().expect("labels").split(", ").map(|label| label.trim_matches('`'));
        Documented {
            name,
            kind,
            labels: labels.filter(|label| !label.is_empty()).chain(["consumer"]).collect(),
        }
    };
    rows.map(read).collect()
}

/// What one scrape has of one series.
struct Series<'s> {
    name: &'s str,
    labels: BTreeMap<&'s str, &'s str>,
    value: f64,
}

/// One scrape.
struct Scrape(String);

impl Scrape {
    fn of(consumer: &Watched) -> Scrape {
        Scrape(consumer.get("/metrics").expect("an admin port"))
    }

    fn series(&self) -> impl Iterator<Item = Series<'_>> {
        self.0.lines().filter(|line| line.starts_with("outbox_consumer_")).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').expect("labels");
            let pairs = labels.trim_end_matches("\"}").split("\",");
            let pairs = pairs.map(|pair| pair.split_once("=\"").expect("a label"));
            Series { name, labels: pairs.collect(), value: value.parse().expect("a number") }
        })
    }

    /// The sum of a metric's series that have these labels; `None` where there is none.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has =
            |series: &Series<'_>| labels.iter().all(|(name, value)| series.labels.get(name) == Some(value));
        let values: Vec<f64> = self
            .series()
            .filter(|series| series.name == format!("outbox_consumer_{name}") && has(series))
            .map(|series| series.value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Every metric of the document is there, with its type and its labels, and no other.
    fn is_as_documented(&self) {
        let documented = documented();
        assert!(documented.len() > 30, "{}", documented.len());
        for Documented { name, kind, labels } in &documented {
            assert!(self.0.contains(&format!("# TYPE {name} {kind}\n")), "{name}, a {kind}\n{}", self.0);
            let count = format!("{name}_count");
            let of_it =
                |series: &Series<'_>| series.name == if *kind == "histogram" { count.as_str() } else { name };
            let mut found = self.series().filter(of_it).peekable();
            assert!(found.peek().is_some(), "{name} has no value\n{}", self.0);
            found.for_each(|series| {
                assert!(series.labels.keys().eq(labels), "{name}: {:?}", series.labels);
                assert_eq!(series.labels["consumer"], "measured", "{name}");
                assert!(series.value.is_finite() && series.value >= 0.0, "{name} {}", series.value);
            });
        }
        let ours = self.0.lines().filter(|line| line.starts_with("# TYPE outbox_consumer_")).count();
        assert_eq!(ours, documented.len());
    }

    #[track_caller]
    fn says(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        assert_eq!(self.sum(name, labels), Some(value), "{name} {labels:?}\n{}", self.0);
    }
}

/// Orders that go well at once.
const GOOD_ONES: usize = 60;

/// One of each: an order that goes well at its second attempt, one that goes well from the park, one that is given up,
/// one that is rejected, one that comes twice, and one that is nobody's concern.
fn load(orders: &Orders<'_>) {
    let upstream = orders.upstream();
    (0..GOOD_ONES).for_each(|number| _ = upstream.order(&format!("key-{}", number % 20), GOOD));
    upstream.order("retried", good_from(2));
    upstream.order("parked", good_from(4));
    upstream.order("dead", failing("permanent"));
    upstream.order("rejected", failing("rejected"));
    upstream.again(0);
    upstream.send("Unknown", Uuid::now_v7(), "key-0", "nothing");
    upstream.flush();
}

/// Everything is settled: what grows says how, and what shows a moment is at rest.
fn at_rest(scrape: &Scrape, orders: &Orders<'_>) {
    let of = |label, value| [("topic", "measured"), ("event_type", "OrderPlaced"), (label, value)];
    let done = (GOOD_ONES + 2) as f64;
    let attempts =
        [("done", done), ("failed", 4.0), ("permanent", 1.0), ("rejected", 1.0), ("panicked", 0.0)];
    attempts
        .iter()
        .for_each(|(outcome, count)| scrape.says("attempts_total", &of("outcome", outcome), *count));
    let settled = [
        ("done", done),
        ("rejected", 1.0),
        ("duplicate", 1.0),
        ("parked", 1.0),
        ("dead", 1.0),
        ("held", 0.0),
    ];
    settled
        .iter()
        .for_each(|(state, count)| scrape.says("settled_records_total", &of("state", state), *count));
    scrape.says("settled_records_total", &[("state", "unregistered")], 1.0);
    scrape.says("retries_total", &of("rung", "in_place"), 3.0);
    scrape.says("retries_total", &of("rung", "0"), 1.0);
    scrape.says("same_record_failures_total", &[("event_type", "OrderPlaced")], 2.0);
    scrape.says("dedup_hits_total", &[("event_type", "OrderPlaced")], 1.0);
    scrape.says("dead_letters_total", &of("cause", "permanent"), 1.0);
    scrape.says("dead_letters_total", &[], 1.0);
    scrape.says("handler_seconds_count", &[], done + 6.0);
    scrape.says("record_to_commit_seconds_count", &[], done);
    let seconds = scrape.sum("record_to_commit_seconds_sum", &[]).expect("a sum");
    assert!(seconds > 0.0 && seconds / done < LIMIT.as_secs_f64(), "{seconds} s in all");
    let read = (orders.upstream().count() + 2) as f64;
    scrape.says("read_records_total", &[], read);
    assert!(scrape.sum("read_bytes_total", &[]).expect("bytes") > read * 100.0);
    let partitions = PARTITIONS as f64;
    scrape.says("assigned_partitions", &[], partitions);
    for (event, count) in [("assigned", partitions), ("revoked", 0.0), ("lost", 0.0)] {
        scrape.says("rebalanced_partitions_total", &[("event", event)], count);
    }
    for (phase, is) in [("running", 1.0), ("draining", 0.0), ("halted", 0.0)] {
        scrape.says("phase", &[("phase", phase)], is);
    }
    for name in [
        "lag_records",
        "lag_seconds",
        "oldest_unsettled_seconds",
        "unsettled_records",
        "uncommitted_offsets",
        "partition_paused",
        "unclean_starts",
        "restarts_total",
        "standstills_total",
        "offset_jumps_total",
        "in_hand_records",
        "in_hand_bytes",
        "ready_keys",
        "running_handlers",
        "intake_full",
        "isolated",
        "suspects",
        "pool_waiting",
        "parked_keys",
        "parked_events",
    ] {
        scrape.says(name, &[], 0.0);
    }
    scrape.says("commits_total", &[("result", "failed")], 0.0);
    assert!(scrape.sum("commits_total", &[("result", "done")]) > Some(0.0));
    let size = scrape.sum("pool_size", &[]).expect("a pool");
    assert!(scrape.sum("pool_in_use", &[]).expect("a pool") <= size && size > 0.0);
    assert!(scrape.sum("pool_opened_total", &[]) > Some(0.0));
    assert!(scrape.sum("uptime_seconds", &[]) > Some(0.0));
}

/// Every metric of `docs/consumer-metrics.md` comes out of a consumer that runs, and says what has happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_shows_every_metric_with_what_has_happened() {
    const NAME: &str = "measured";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    load(&orders);
    let environment = vec![("ORDER_EXHAUSTED", "skip".to_owned())];
    let consumer = Watched::start(&orders, 0, With { rung: Some(1), environment, ..With::default() });
    orders.happened(GOOD_ONES + 2, LIMIT, &[0]).await;
    orders.committed_to_the_end(NAME, LIMIT).await;
    // The ends of the logs are asked for every five seconds, and the connections are given back a moment later.
    eventually_async(LIMIT, "a consumer at rest", async || {
        let scrape = Scrape::of(&consumer);
        let known = scrape.sum("lag_records", &[]) == Some(0.0) && scrape.sum("parked_events", &[]).is_some();
        (known && scrape.sum("uncommitted_offsets", &[]) == Some(0.0)).then_some(())
    })
    .await;
    let scrape = Scrape::of(&consumer);
    scrape.is_as_documented();
    at_rest(&scrape, &orders);

    // A key that is parked, with one event behind the one that fails.
    orders.upstream().order("closed", failing("closed"));
    orders.upstream().order("closed", GOOD);
    orders.upstream().flush();
    let scrape = eventually_async(LIMIT, "a parked key with two events", async || {
        let scrape = Scrape::of(&consumer);
        (scrape.sum("parked_events", &[]) == Some(2.0)).then_some(scrape)
    })
    .await;
    scrape.says("parked_keys", &[("state", "waiting")], 1.0);
    scrape.says("parked_keys", &[("state", "held")], 0.0);
    assert!(scrape.sum("parked_oldest_seconds", &[]) > Some(0.0));
    end(&consumer.process);
}

/// C42: one event keeps its partition's frontier where it is while others of the partition are handled and whatever was
/// committed stands still. That shows in the age of what is in hand, and in no other partition's.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_holds_up_the_frontier_shows_by_its_age() {
    const NAME: &str = "stuck";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, consumer_kinds::program()).await;
    let outside = Outside::prepare();
    let consumer = Watched::start(&orders, 0, outside.with(&[]));
    send(&orders, "Applied", "stuck", 0, "wait");
    orders.upstream().flush();
    eventually_async(LIMIT, "the handler to wait", async || (!outside.calls(0).is_empty()).then_some(()))
        .await;
    let mut sent = 0;
    let ages = |scrape: &Scrape| -> Vec<f64> {
        let oldest = "outbox_consumer_oldest_unsettled_seconds";
        scrape.series().filter(|series| series.name == oldest).map(|series| series.value).collect()
    };
    let scrape = eventually_async(LIMIT, "its age to be seen", async || {
        // Others go on, in its partition, too.
        sent += 1;
        send(&orders, "Applied", &format!("key-{sent}"), sent, "");
        let scrape = Scrape::of(&consumer);
        ages(&scrape).iter().any(|age| *age > 5.0).then_some(scrape)
    })
    .await;
    let old = ages(&scrape).iter().filter(|age| **age > 2.0).count();
    assert_eq!((old, ages(&scrape).len()), (1, PARTITIONS), "{:?}", ages(&scrape));
    let done = "SELECT count(*) FROM effects WHERE number > 0";
    eventually_async(LIMIT, "all others", async || (orders.number(done).await == sent).then_some(())).await;
    eventually_async(LIMIT, "one that is not settled", async || {
        let scrape = Scrape::of(&consumer);
        let settled = scrape.sum("settled_records_total", &[("state", "done")]) == Some(sent as f64);
        (settled && scrape.sum("unsettled_records", &[]) == Some(1.0)).then_some(())
    })
    .await;
    let status = consumer.status().expect("a status");
    let oldest = |one: &serde_json::Value| one["oldest_unsettled_seconds"].as_f64() > Some(5.0);
    assert_eq!(
        status["partitions"].as_array().map(|all| all.iter().filter(|one| oldest(one)).count()),
        Some(1)
    );
    outside.open("gate");
    eventually_async(LIMIT, "nothing to be old", async || {
        ages(&Scrape::of(&consumer)).iter().all(|age| *age == 0.0).then_some(())
    })
    .await;
    orders.committed_to_the_end(NAME, LIMIT).await;
    end(&consumer.process);
}
