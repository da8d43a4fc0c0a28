//! C49: committed offsets that somebody moved, or that have nothing behind them any more. No effect happens twice, it is
//! said and counted, and what is repeated by accident is read slowly until somebody gives the word.

use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Asked, Effects, Orders, PARTITIONS, With};
use outbox_tests::wait::eventually_async;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use crate::consumer::{GOOD, end, program};
use crate::consumer_kinds::{Watched, rewind};

const LIMIT: Duration = Duration::from_secs(90);

/// For how long nothing more is read, where reading is to stand still.
const STILL: Duration = Duration::from_secs(3);

/// What is said of offsets that were set back, and of those that are gone.
const RESET: &str = "somebody has reset it";
const FORGOTTEN: &str = "Kafka has no committed offset";
const DELETED: &str = "records were deleted before this consumer read them";

fn admin(kafka: &Kafka) -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let client = ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create();
    let options = AdminOptions::new().operation_timeout(Some(LIMIT)).request_timeout(Some(LIMIT));
    (client.expect("a client"), options)
}

/// Deletes every record of a topic, as its retention would.
async fn delete_records(kafka: &Kafka, topic: &str) {
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        list.add_partition_offset(topic, partition, Offset::End).expect("an offset");
    }
    let (client, options) = admin(kafka);
    let deleted = client.delete_records(&list, &options).await.expect("Kafka answers");
    deleted.elements().iter().for_each(|element| element.error().expect("records are deleted"));
}

/// Sends orders over thirty keys, some for each partition.
fn send(orders: &Orders<'_>, count: usize) {
    for number in 0..count {
        orders.upstream().order(&format!("key-{}", number % 30), GOOD);
    }
    orders.upstream().flush();
}

/// Waits until everything that was sent is settled, committed, and written down as reached.
async fn reached(orders: &Orders<'_>, group: &str, end: i64) {
    orders.committed_to_the_end(group, LIMIT).await;
    let reached = format!(
        "SELECT coalesce(sum(record_offset), 0)::bigint FROM inbox.reached WHERE consumer_group = '{group}'"
    );
    eventually_async(LIMIT, "what was reached to be written down", async || {
        (orders.number(&reached).await == end).then_some(())
    })
    .await;
}

/// How often partitions did not begin where they were left, as the metric says.
fn jumps(consumer: &Watched, why: &str) -> Option<String> {
    let metrics = consumer.get("/metrics")?;
    let label = format!("why=\"{why}\"}} ");
    let mut lines = metrics.lines().filter(|line| line.starts_with("outbox_consumer_offset_jumps_total{"));
    Some(lines.find_map(|line| line.split_once(&label))?.1.to_owned())
}

async fn jumped(orders: &Orders<'_>, instance: usize, consumer: &Watched, why: &str, count: usize) {
    let expected = Some(count.to_string());
    let limit = Instant::now() + LIMIT / 3;
    while jumps(consumer, why) != expected {
        assert!(Instant::now() < limit, "{why}: {:?}\n{}", jumps(consumer, why), orders.log(instance));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Records that were read by an instance.
fn read(consumer: &Watched) -> Option<u64> {
    let status = consumer.status()?;
    status["totals"]["read"].as_array()?.iter().map(|read| read["records"].as_u64()).sum()
}

/// Waits until nothing more is read; answers how much was.
async fn stands_still(consumer: &Watched) -> u64 {
    let (mut seen, mut since) = (read(consumer), Instant::now());
    eventually_async(LIMIT, "reading to stand still", async || {
        let now = read(consumer);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        (since.elapsed() >= STILL).then_some(seen).flatten()
    })
    .await
}

/// An operator sets a group back to the beginning by accident. It is said and counted, no effect happens twice, and after
/// some thousand records nothing is read for a while, in another instance, too; until somebody gives the word.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_were_set_back_are_read_slowly_until_somebody_gives_the_word() {
    const BESIDE: usize = 90_000;
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("set_back", &postgres, &kafka, program()).await;
    send(&orders, 300);
    // Their handler has no inbox: each is one more call.
    for number in 0..BESIDE {
        let key = format!("key-{}", number % 300);
        orders.upstream().send("OrderSeen", Uuid::now_v7(), &key, "{\"number\":0}");
        if number % 10_000 == 0 {
            orders.upstream().flush();
        }
    }
    orders.upstream().flush();
    let all = 300 + BESIDE;
    let process = orders.start(0);
    reached(&orders, "set_back", i64::try_from(all).expect("few")).await;
    end(&process);
    assert_eq!(orders.said(0, "inbox.accept_reset"), 0, "{}", orders.log(0));

    rewind(&kafka.brokers(), "set_back", "set_back");
    let consumer = Watched::start(&orders, 1, With::default());
    jumped(&orders, 1, &consumer, "back", PARTITIONS).await;
    assert_eq!(orders.said(1, RESET), PARTITIONS, "{}", orders.log(1));
    let slowly = stands_still(&consumer).await;
    assert!(slowly < all as u64 / 2, "{slowly} of {all} were read\n{}", orders.log(1));
    end(&consumer.process);

    // Another instance is no word.
    let consumer = Watched::start(&orders, 2, With::default());
    jumped(&orders, 2, &consumer, "back", PARTITIONS).await;
    let more = stands_still(&consumer).await;
    assert!(slowly + more < all as u64 * 4 / 5, "{slowly} and {more} of {all} were read\n{}", orders.log(2));
    let (said, word) = (Instant::now(), "SELECT inbox.accept_reset('set_back', 'set_back', 'as told')");
    orders.query(word, &[]).await;
    orders.committed_to_the_end("set_back", LIMIT).await;
    // A slice of ten thousand lasts ten seconds.
    let left = (all as u64 - slowly - more) / 1_000;
    let took = said.elapsed().as_secs();
    println!("proof: {slowly} and {more} of {all} records were read before the word, the rest in {took} s");
    assert!(took < left / 2, "{took} s; slowly it takes {left} s\n{}", orders.log(2));
    assert!(orders.said(2, "somebody gave the word") > 0, "{}", orders.log(2));
    let audited = "SELECT count(*) FROM inbox.audit WHERE action = 'reset' AND reason LIKE 'as told%'";
    assert_eq!(orders.number(audited).await, 1);
    assert_eq!(orders.effects().await, Effects::once(300));
    end(&consumer.process);
}

/// Committed offsets that are gone, as when they have expired: the consumer knows that it had come further. A group that
/// is new is none that forgot.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_gone_are_told_from_a_new_group() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("forgotten", &postgres, &kafka, program()).await;
    send(&orders, 120);
    let process = orders.start(0);
    reached(&orders, "forgotten", 120).await;
    end(&process);
    let (client, options) = admin(&kafka);
    let deleted = client.delete_groups(&["forgotten"], &options).await.expect("Kafka answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");

    let consumer = Watched::start(&orders, 1, With::default());
    jumped(&orders, 1, &consumer, "forgotten", PARTITIONS).await;
    eventually_async(LIMIT, "the partitions to catch up", async || {
        (orders.said(1, "is where it was before its offset was moved") == PARTITIONS).then_some(())
    })
    .await;
    assert_eq!((orders.said(1, FORGOTTEN), orders.said(1, RESET)), (PARTITIONS, 0), "{}", orders.log(1));
    orders.committed_to_the_end("forgotten", LIMIT).await;
    end(&consumer.process);

    let consumer = Watched::start(&orders, 2, With { group: Some("new".into()), ..With::default() });
    reached(&orders, "new", 120).await;
    assert_eq!(orders.said(2, "inbox.accept_reset"), 0, "{}", orders.log(2));
    assert_eq!(orders.effects().await, Effects::once(120));
    end(&consumer.process);
}

/// Retention runs past the committed offset, of a consumer that is away and of one that runs and is frozen meanwhile: the
/// events are gone, which is said for each partition, and what came behind them happens.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_unread_are_said_and_the_rest_happens() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("deleted", &postgres, &kafka, program()).await;
    send(&orders, 120);
    let process = orders.start(0);
    reached(&orders, "deleted", 120).await;
    end(&process);
    send(&orders, 120);
    delete_records(&kafka, "deleted").await;
    send(&orders, 120);

    let consumer = Watched::start(&orders, 1, With::default());
    jumped(&orders, 1, &consumer, "deleted", PARTITIONS).await;
    assert_eq!(orders.said(1, DELETED), PARTITIONS, "{}", orders.log(1));
    let effects = orders.happened(240, LIMIT, &[1]).await;
    assert_eq!(effects, Effects::once(240));
    orders.committed_to_the_end("deleted", LIMIT).await;

    // What was on its way to the frozen process it may have; the rest is gone.
    consumer.process.pause();
    for _ in 0..5 {
        send(&orders, 120);
    }
    delete_records(&kafka, "deleted").await;
    send(&orders, 120);
    consumer.process.resume();
    let last = "SELECT count(DISTINCT number) FROM effects WHERE number >= 960";
    eventually_async(LIMIT, "what came last", async || (orders.number(last).await == 120).then_some(()))
        .await;
    assert!(orders.said(1, DELETED) > PARTITIONS, "{}", orders.log(1));
    orders.committed_to_the_end("deleted", LIMIT).await;
    let effects = orders.effects().await;
    assert_eq!((effects.doubled, effects.reordered, effects.unsent), (0, 0, 0), "{effects:?}");
    end(&consumer.process);
}

/// What was read before its records were deleted is handled before its partition is given back: nobody can read it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_hand_is_handled_although_its_records_are_deleted() {
    const SLOW: usize = 240;
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("in_hand", &postgres, &kafka, program()).await;
    for number in 0..SLOW {
        orders.upstream().order(&format!("key-{}", number % 30), Asked { millis: 1_000, ..GOOD });
    }
    orders.upstream().flush();
    let consumer = Watched::start(&orders, 0, With::default());
    eventually_async(LIMIT, "all to be read", async || (read(&consumer)? == SLOW as u64).then_some(())).await;
    consumer.process.pause();
    for _ in 0..5 {
        send(&orders, 120);
    }
    delete_records(&kafka, "in_hand").await;
    send(&orders, 120);
    let done = orders.effects().await.happened;
    consumer.process.resume();
    assert!(done < SLOW / 2, "{done} of {SLOW} are done: too late to show anything");
    let last = format!("SELECT count(DISTINCT number) FROM effects WHERE number >= {}", SLOW + 600);
    eventually_async(LIMIT, "what came last", async || (orders.number(&last).await == 120).then_some(()))
        .await;
    assert!(orders.said(0, DELETED) > 0, "{}", orders.log(0));
    let slow = format!("SELECT count(DISTINCT number) FROM effects WHERE number < {SLOW}");
    assert_eq!(orders.number(&slow).await, SLOW as i64, "{}", orders.log(0));
    end(&consumer.process);
}

/// A topic is deleted and made anew while its consumer is frozen, which so hears of neither: whatever comes in the new one,
/// at offsets that the consumer has seen, happens; none of it passes for read.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_topic_that_was_made_anew_happen() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("anew", &postgres, &kafka, program()).await;
    send(&orders, 240);
    let consumer = Watched::start(&orders, 0, With::default());
    reached(&orders, "anew", 240).await;
    consumer.process.pause();
    let (client, options) = admin(&kafka);
    let deleted = client.delete_topics(&["anew"], &options).await.expect("Kafka answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    eventually_async(LIMIT, "the topic to be gone", async || {
        (!kafka.topics().iter().any(|topic| topic == "anew")).then_some(())
    })
    .await;
    kafka.create_topic("anew", PARTITIONS, &[]).await;
    send(&orders, 60);
    consumer.process.resume();
    let effects = orders.happened(300, LIMIT, &[0]).await;
    assert_eq!(effects, Effects::once(300));
    let counted = || jumps(&consumer, "replaced")?.parse::<usize>().ok();
    eventually_async(LIMIT, "it to be counted", async || (counted()? > 0).then_some(())).await;
    orders.committed_to_the_end("anew", LIMIT).await;
    end(&consumer.process);
}
