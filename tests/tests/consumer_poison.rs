//! Records that end the process, and kills that are nobody's fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::process::Process;
use outbox_tests::fault::proxy::Proxy;
use outbox_tests::history::log::Isolation;
use outbox_tests::history::{Log, Published};
use outbox_tests::orders::{Asked, Effects, Orders, With};
use outbox_tests::wait::eventually_async;

use crate::consumer::{GOOD, end, failing, program};
use crate::consumer_kinds::{self, Outside, send, settled};
use crate::letters::{Operator, says};

const LIMIT: Duration = Duration::from_secs(180);

/// A place in the group that is kept over restarts: a new start need not wait until the dead one's session ends.
fn kept_place() -> With {
    With { kafka: "group.instance.id=one".into(), ..With::default() }
}

/// An instance that is started again whenever it ends.
struct Supervised<'s> {
    orders: &'s Orders<'s>,
    with: With,
    process: Process,
    deaths: usize,
}

impl<'s> Supervised<'s> {
    fn start(orders: &'s Orders<'s>, with: With) -> Supervised<'s> {
        let process = orders.start_with(0, &with);
        Supervised { orders, with, process, deaths: 0 }
    }

    /// Starts it again until a query answers a number.
    async fn until(&mut self, what: &str, query: &str, number: i64) {
        let reached = async {
            while self.orders.number(query).await != number {
                if self.process.ended().is_some() {
                    self.deaths += 1;
                    self.process = self.orders.start_with(0, &self.with);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        let held = self.orders.lines(0, " held, with");
        let (deaths, log) = (self.deaths, self.orders.log(0));
        assert!(reached.is_ok(), "{what}: in vain, {deaths} deaths, held {held:?}\n{log}");
    }
}

/// C25: records that abort the process, take all its memory or overflow its stack are found across restarts and held
/// with their evidence; everything else goes on, and nobody else is blamed.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_kill_the_process_are_found_and_no_other_is_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("poison", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    let poison = ["abort", "memory", "stack"];
    for number in 0..90 {
        let key = number % 15;
        let asked = poison.get(key).filter(|_| number / 15 == 2).map_or(GOOD, |how| failing(how));
        upstream.order(&format!("key-{key}"), asked);
    }
    upstream.flush();
    let with = With { memory: Some(600 << 20), ..kept_place() };
    let mut consumer = Supervised::start(&orders, with);
    // Of each poisoned key three come behind the poison, and wait there.
    let held = "SELECT count(*) FROM inbox.parked_key k
                 WHERE held_by = 'hold' AND last_error LIKE '%the process died%' AND waiting = 4
                   AND key IN ('key-0', 'key-1', 'key-2')
                   AND (SELECT convert_from(record_value, 'UTF8') LIKE '%\"fails\"%' FROM inbox.parked_event e
                         WHERE e.key = k.key ORDER BY seq LIMIT 1)";
    consumer.until("three records held with their bytes", held, 3).await;
    consumer.until("every other effect", "SELECT count(*) FROM effects", 90 - 3 * 4).await;
    assert_eq!(orders.effects().await, Effects::once(90 - 3 * 4));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.parked_key").await, 3);
    // Three of each while it was named, and what it took to begin to ask.
    println!("proof: three records that kill the process held after {} deaths", consumer.deaths);
    assert!((9..=15).contains(&consumer.deaths), "{} deaths\n{}", consumer.deaths, orders.log(0));
    assert!(orders.said(0, "memory allocation of") > 2 && orders.said(0, "overflowed its stack") > 2);
    end(&consumer.process);
}

/// What is read of a topic, from its beginning.
fn read(kafka: &Kafka, topic: &str) -> Log {
    let mut log = Log::open(&kafka.brokers(), &[topic], Isolation::ReadUncommitted);
    log.catch_up();
    log
}

/// A letter is what its record was, and says what it did, and where it stood.
fn is_evidence(letter: &Published, record: &Published) {
    assert_eq!((&letter.key, &letter.value), (&record.key, &record.value), "byte for byte");
    let headers = &letter.headers[..record.headers.len()];
    assert_eq!(headers, record.headers, "with the headers it came with");
    for (name, value) in [
        (
            "dlq.error.message",
            "the process died 3 times while this record was the only one it ran".to_owned(),
        ),
        ("dlq.attempts", "3".to_owned()),
        ("dlq.cause", "kills_the_process".to_owned()),
        ("dlq.topic", record.topic.clone()),
        ("dlq.partition", record.partition.to_string()),
        ("dlq.offset", record.offset.to_string()),
        ("dlq.handler", "OrderPlaced".to_owned()),
        ("dlq.owner", "tests".to_owned()),
    ] {
        assert_eq!(letter.header(name), Some(value.as_str()), "{name}");
    }
}

/// C10, C25: six records of one partition end the process, two of them of one key. With `skip` each becomes a dead letter
/// that says so, with its bytes and where it stood; everything else goes on, that of their keys included.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_one_partition_that_kill_the_process_are_dead_letters_with_the_evidence() {
    const NAME: &str = "killers";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    let key = |number: usize| format!("key-{number}");
    (0..60).for_each(|number| _ = upstream.order(&key(number), GOOD));
    upstream.flush();
    // Which keys are together is seen, not computed.
    let mut together: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for record in read(&kafka, NAME).records() {
        let key = String::from_utf8(record.key.clone().unwrap_or_default()).expect("a text");
        together.entry(record.partition).or_default().push(key);
    }
    let (partition, keys) = together.into_iter().max_by_key(|(_, keys)| keys.len()).expect("a partition");
    assert!(keys.len() >= 5, "{keys:?}");
    let killers: Vec<usize> =
        [0, 1, 2, 3, 4, 4].iter().map(|at| upstream.order(&keys[*at], failing("abort"))).collect();
    (0..60).for_each(|number| _ = upstream.order(&key(number), GOOD));
    upstream.flush();
    let skip = vec![("ORDER_EXHAUSTED", "skip".to_owned())];
    let mut consumer = Supervised::start(&orders, With { environment: skip, ..kept_place() });
    let dead = "SELECT count(*) FROM inbox.settlement WHERE state = 'dead'";
    consumer.until("a dead letter each", dead, 6).await;
    consumer.until("every other effect", "SELECT count(*) FROM effects", 120).await;
    assert_eq!(orders.effects().await, Effects::once(120));
    println!(
        "proof: six records of one partition that kill the process dead after {} deaths",
        consumer.deaths
    );
    // Three of each while it was named, and what it took to begin to ask.
    assert!((18..=24).contains(&consumer.deaths), "{} deaths\n{}", consumer.deaths, orders.log(0));

    let (sent, source) = (upstream.sent(), read(&kafka, NAME));
    let letters = read(&kafka, &format!("{NAME}.{NAME}.dlq"));
    let ids: BTreeSet<&str> = letters.records().iter().filter_map(|letter| letter.header("dlq.id")).collect();
    assert_eq!(ids.len(), killers.len(), "nobody else is blamed");
    for number in killers {
        let id = sent[number].id.to_string();
        let named = |log: &Log, header| {
            let found = log.records().iter().find(|one| one.header(header) == Some(id.as_str()));
            found.cloned().unwrap_or_else(|| panic!("{id} is in no {header}"))
        };
        let (record, letter) = (named(&source, "id"), named(&letters, "dlq.id"));
        assert_eq!(record.partition, partition);
        is_evidence(&letter, &record);
    }
    let operator = Operator::beside(NAME, &postgres, &kafka);
    operator.does(&["project", "--group", NAME]);
    says(&operator.does(&["causes"]), &["kills_the_process", "6 dead letters of 1 cause"]);
    orders.committed_to_the_end(NAME, LIMIT).await;
    end(&consumer.process);
}

/// C25: a record that only failed before ends the process when it runs from the park.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_record_that_kills_the_process_is_found_and_no_other_is_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("parked_poison", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    upstream.order("poisoned", failing("abort parked"));
    for number in 0..400 {
        upstream.order(&format!("key-{}", number % 20), Asked { millis: 100, ..GOOD });
    }
    upstream.flush();
    let mut consumer = Supervised::start(&orders, kept_place());
    consumer.until("every other effect", "SELECT count(*) FROM effects", 400).await;
    let held = "SELECT count(*) FROM inbox.parked_key WHERE held_by = 'hold' AND key = 'poisoned'";
    consumer.until("the record to be held", held, 1).await;
    assert_eq!(orders.number("SELECT count(*) FROM inbox.parked_key").await, 1);
    assert_eq!(orders.effects().await, Effects::once(400));
    end(&consumer.process);
}

/// C25: what follows a parked event in company ends the process, which names nobody: the next ones run one by one, and the
/// one that it was is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_process_in_company_is_found_and_no_other_is_blamed() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("company_poison", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    for key in ["poisoned", "neighbour"] {
        for number in 0..60 {
            let asked = match number {
                0 => failing("closed"),
                20 if key == "poisoned" => failing("abort"),
                _ => Asked { millis: 5, ..GOOD },
            };
            upstream.order(key, asked);
        }
    }
    upstream.flush();
    let mut consumer = Supervised::start(&orders, kept_place());
    consumer.until("all to be parked", "SELECT count(*) FROM inbox.parked_event", 120).await;
    orders.warehouse(true).await;
    let held = "SELECT count(*) FROM inbox.parked_key
                 WHERE held_by = 'hold' AND key = 'poisoned' AND waiting = 40 AND last_error LIKE '%the process died%'";
    consumer.until("the record to be held", held, 1).await;
    consumer.until("every other effect", "SELECT count(*) FROM effects", 80).await;
    assert_eq!(orders.effects().await, Effects::once(80));
    // Three of its own, and the first, which named nobody.
    println!("proof: a record that kills the process in company held after {} deaths", consumer.deaths);
    assert_eq!(consumer.deaths, 4, "{}", orders.log(0));
    eventually_async(LIMIT, "the neighbour's marker to go", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_key").await == 1).then_some(())
    })
    .await;
    end(&consumer.process);
}

/// C25: two parked records end the process, five times in all, each time while another event is about to run: it waits
/// until nothing of the park runs, so it is never named when its process dies, and they are held in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_record_that_kills_the_process_is_not_laid_to_whoever_is_named() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("laid", &postgres, &kafka, consumer_kinds::program()).await;
    let outside = Outside::prepare();
    let with = consumer_kinds::kept_place(outside.with(&[]));
    let (killers, innocent) = ([1, 2], 0);
    let id = send(&orders, "Applied", "innocent", innocent, "wait");
    killers
        .iter()
        .for_each(|number| _ = send(&orders, "Applied", &format!("killer-{number}"), *number, "aborts"));
    orders.upstream().flush();
    let called = |number: i64, process: &Process| {
        outside.calls(number).iter().filter(|call| call.process == process.pid()).count()
    };
    let die = |process: &Process| {
        outside.open("gate.abort");
        process.wait(LIMIT);
        std::fs::remove_file(outside.file("gate.abort")).expect("the gate");
    };
    let mut process = orders.start_with(0, &with);
    eventually_async(LIMIT, "all three to run", async || {
        let parked = killers.iter().all(|number| called(*number, &process) == 2);
        (parked && called(innocent, &process) == 1).then_some(())
    })
    .await;
    die(&process);
    let (mut deaths, mut beside) = (1, 0);
    let client = postgres.connect("laid").await;
    let claim = format!("BEGIN; SELECT inbox.claim_group('laid', ARRAY['{id}']::uuid[])");
    let held = "SELECT count(*) FROM inbox.parked_key WHERE held_by = 'hold' AND last_error LIKE '%the process died%'";
    loop {
        // What is claimed by another session asks nobody for a permit.
        client.batch_execute(&claim).await.expect("a claim");
        process = orders.start_with(deaths, &with);
        let begun = eventually_async(LIMIT, "one of the park to run, or both to be held", async || {
            let runs = killers.iter().any(|number| called(*number, &process) > 0);
            if runs { Some(true) } else { (orders.number(held).await == 2).then_some(false) }
        })
        .await;
        client.batch_execute("ROLLBACK").await.expect("no transaction");
        if !begun {
            break;
        }
        let convicted = "SELECT count(*) FROM inbox.parked_key WHERE key = 'innocent'";
        eventually_async(LIMIT, "the other to be about to run", async || {
            let open = orders.open_transactions(deaths).await;
            (open >= 2 || orders.number(convicted).await > 0).then_some(())
        })
        .await;
        // It has all the time it would need.
        let runs = async {
            while called(innocent, &process) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        beside += usize::from(tokio::time::timeout(Duration::from_secs(2), runs).await.is_ok());
        die(&process);
        deaths += 1;
        assert!(deaths < 10, "{}", orders.log(deaths - 1));
    }
    outside.open("gate");
    let log = orders.log(deaths);
    let blamed = orders.lines(deaths, "while this record was the only one it ran");
    assert_eq!(blamed, [""; 0], "after {deaths} deaths, {beside} of them beside it\n{log}");
    settled(&orders, id, "done").await;
    assert_eq!((deaths, beside), (5, 0), "deaths, and how often it ran beside one of the park\n{log}");
    assert!((1..deaths).all(|instance| orders.said(instance, "isolated: ") == 1), "{log}");
    assert_eq!(orders.number(held).await, 2);
    end(&process);
}

/// C25: kills from outside while the database is away, with work in hand each time, are nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn kills_from_outside_during_a_database_outage_convict_nobody() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("outage", &postgres, &kafka, program()).await;
    let proxy = Proxy::start(postgres.port());
    for number in 0..80 {
        orders.upstream().order(&format!("key-{}", number % 20), Asked { millis: 500, ..GOOD });
    }
    orders.upstream().flush();
    let with = With { database_port: Some(proxy.port()), ..kept_place() };
    for round in 0..6 {
        // A start needs the database; it goes away when handlers run.
        let process = orders.start_with(round, &with);
        eventually_async(LIMIT, "work in hand", async || {
            assert!(process.ended().is_none(), "{}", process.log_tail());
            (orders.open_transactions(round).await > 0).then_some(())
        })
        .await;
        proxy.refuse();
        eventually_async(LIMIT, "the outage to be noticed", async || {
            (orders.said(round, "waiting for the database") > 0).then_some(())
        })
        .await;
        process.kill();
        proxy.resume();
    }
    // And the whole of it again with the server itself, which nobody can reach while it is away.
    let process = orders.start_with(6, &with);
    eventually_async(LIMIT, "work in hand", async || (orders.open_transactions(6).await > 0).then_some(()))
        .await;
    postgres.stop_immediate();
    eventually_async(LIMIT, "the outage to be noticed", async || {
        (orders.said(6, "waiting for the database") > 0).then_some(())
    })
    .await;
    process.kill();
    postgres.start_again();
    let process = orders.start_with(7, &with);
    let effects = orders.happened(80, LIMIT, &[6, 7]).await;
    assert_eq!(effects, Effects::once(80));
    let other = "SELECT (SELECT count(*) FROM inbox.parked_key)
                      + (SELECT count(*) FROM inbox.settlement WHERE state <> 'done')";
    assert_eq!(orders.number(other).await, 0, "nobody is parked, held or dead");
    let said = |what: &str| (0..8).flat_map(|instance| orders.lines(instance, what)).collect::<Vec<_>>();
    assert_eq!((said(" parked: "), said(" held, with")), Default::default(), "nor was anybody in between");
    end(&process);
}

/// C44: a handler that loses its database again and again has not failed.
#[tokio::test(flavor = "multi_thread")]
async fn losing_the_database_in_a_handler_counts_no_attempt() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("flapping", &postgres, &kafka, program()).await;
    orders.upstream().order("key", Asked { millis: 1_500, ..GOOD });
    orders.upstream().flush();
    let process = orders.start(0);
    for _ in 0..5 {
        eventually_async(LIMIT, "the handler to run", async || {
            (orders.open_transactions(0).await > 0).then_some(())
        })
        .await;
        postgres.terminate_backends("application_name = 'consumer-0'").await;
    }
    assert_eq!(orders.happened(1, LIMIT, &[0]).await, Effects::once(1));
    assert_eq!(orders.lines(0, " parked: "), [""; 0]);
    assert_eq!(orders.number("SELECT attempt::bigint FROM effects").await, 1, "{}", orders.log(0));
    end(&process);
}
