//! Reading that stops: partitions that are halted (C23), and more than may be held (C33).

use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::{Orders, PARTITIONS, With};
use outbox_tests::wait::eventually_async;
use serde_json::Value;
use uuid::Uuid;

use super::{LIMIT, Outside, Watched, program, send};
use crate::consumer::end;

/// The pause between attempts of a record that halts its partition.
const HALTED: u64 = 60_000;

/// The partition of each of the keys `key-0` to `key-59`, as their first events show it.
async fn partitions(orders: &Orders<'_>) -> Vec<i32> {
    for key in 0..60 {
        send(orders, "Applied", &format!("key-{key}"), key, "");
    }
    orders.upstream().flush();
    let found =
        "SELECT s.partition FROM effects e JOIN inbox.settlement s ON s.id = e.event ORDER BY e.number";
    eventually_async(LIMIT, "sixty effects", async || {
        let rows = orders.query(found, &[]).await;
        (rows.len() == 60).then(|| rows.iter().map(|row| row.get(0)).collect())
    })
    .await
}

/// C23: events that are exhausted halt their partition. They are tried again each minute, nothing more of the partition
/// is read, the others go on; that is seen from outside, and ends by itself when the last of them goes well.
#[tokio::test(flavor = "multi_thread")]
async fn exhausted_events_halt_their_partition_and_no_other() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("halts", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let with = With { rung: Some(0), ..outside.with(&[("KINDS_EXHAUSTED", "halt")]) };
    let consumer = Watched::start(&orders, 0, with);
    let partitions = partitions(&orders).await;
    let halted = partitions[0];
    let of_it: Vec<usize> = (0..60).filter(|key| partitions[*key] == halted).collect();
    send(&orders, "Applied", &format!("key-{}", of_it[0]), 100, "closed");
    send(&orders, "Applied", &format!("key-{}", of_it[1]), 101, "closed later");
    let expected: Vec<(i64, bool)> = (0..).take(PARTITIONS).map(|p| (p, p == i64::from(halted))).collect();
    eventually_async(LIMIT, "one paused partition", async || {
        let halts = orders.lines(0, "its partition is halted").len();
        (consumer.paused() == expected && halts == 2).then_some(())
    })
    .await;
    for key in 0..60 {
        send(&orders, "Applied", &format!("key-{key}"), 200 + key, "");
    }
    orders.upstream().flush();
    let elsewhere = i64::try_from(60 - of_it.len()).expect("few");
    let behind = "SELECT count(*) FROM effects WHERE number >= 100";
    eventually_async(LIMIT, "the other partitions to go on", async || {
        (orders.number(behind).await == elsewhere).then_some(())
    })
    .await;
    let metrics = consumer.get("/metrics").expect("metrics");
    let paused: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("outbox_consumer_partition_paused{")).collect();
    let label = format!("partition=\"{halted}\"");
    let as_expected = |line: &&str| line.ends_with(if line.contains(&label) { " 1" } else { " 0" });
    assert!(paused.len() == PARTITIONS && paused.iter().all(as_expected), "{paused:#?}");
    // A minute later one of the two goes well, and the other halts on.
    outside.open("gate");
    for number in [100, 101] {
        let calls = outside.called(&orders, number, 2).await;
        let pause = calls[1].at - calls[0].at;
        assert!((HALTED..HALTED + 5_000).contains(&pause), "{pause} ms between the attempts of {number}");
    }
    outside.open("gate.later");
    let gone_on = async {
        while orders.number(behind).await < 62 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone_on = tokio::time::timeout(LIMIT, gone_on).await;
    assert!(gone_on.is_ok(), "paused: {:?}\n{}", consumer.paused(), orders.log(0));
    let keys: Vec<String> = of_it.iter().map(|key| format!("key-{key}")).collect();
    let sooner = "SELECT count(*) FROM effects WHERE number >= 200 AND key = ANY ($1)
                   AND at < (SELECT max(at) FROM effects WHERE number IN (100, 101))";
    assert_eq!(orders.query(sooner, &[&keys]).await[0].get::<_, i64>(0), 0, "{}", orders.log(0));
    eventually_async(LIMIT, "no paused partition", async || {
        consumer.paused().iter().all(|(_, paused)| !paused).then_some(())
    })
    .await;
    assert_eq!(orders.said(0, "what halted its partition is settled"), 1, "{}", orders.log(0));
    end(&consumer.process);
}

/// A halted partition that goes to another instance and comes back is not forgotten: its event is read again, and when
/// it goes well, so does the partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_halted_partition_that_went_and_came_back_goes_on() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("halts_twice", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    let with = With { rung: Some(0), ..outside.with(&[("KINDS_EXHAUSTED", "halt")]) };
    let consumer = Watched::start(&orders, 0, with.clone());
    let partitions = partitions(&orders).await;
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        let key = partitions.iter().position(|found| *found == partition).expect("a key of each partition");
        send(&orders, "Applied", &format!("key-{key}"), 100 + i64::from(partition), "closed");
    }
    orders.upstream().flush();
    eventually_async(LIMIT, "all to be paused", async || {
        let paused = consumer.paused();
        (paused.len() == PARTITIONS && paused.iter().all(|(_, paused)| *paused)).then_some(())
    })
    .await;
    let other = orders.start_with(1, &with);
    eventually_async(LIMIT, "the other instance to halt its share", async || {
        (orders.lines(1, "its partition is halted").len() == PARTITIONS / 2).then_some(())
    })
    .await;
    end(&other);
    eventually_async(LIMIT, "the partitions to come back", async || {
        (consumer.paused().len() == PARTITIONS).then_some(())
    })
    .await;
    outside.open("gate");
    let limit = Instant::now() + LIMIT;
    let effects = "SELECT count(*) FROM effects WHERE number >= 100";
    while orders.number(effects).await < 6 {
        assert!(Instant::now() < limit, "paused {:?}\n{}", consumer.paused(), orders.log(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    orders.committed_to_the_end("halts_twice", LIMIT).await;
    end(&consumer.process);
}

/// C33: handlers stand still for several times as long as the client may go without a poll, and far more is waiting
/// than may be held. Reading stops, memory stays where it is, nobody leaves the group; then all of it happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_holds_as_much_as_it_may_stops_reading_and_stays_in_its_group() {
    const RECORDS: usize = 4_000;
    const POLL: Duration = Duration::from_secs(6);
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("pressure", &postgres, &kafka, program()).await;
    let outside = Outside::prepare();
    // 64 MiB may be held, and four times as much is sent.
    let pad = "x".repeat(64 << 10);
    for number in 0..RECORDS {
        let payload = format!("{{\"number\":{number},\"does\":\"wait\",\"pad\":\"{pad}\"}}");
        orders.upstream().send("Applied", Uuid::now_v7(), &format!("key-{number}"), &payload);
        if number % 100 == 99 {
            orders.upstream().flush();
        }
    }
    orders.upstream().flush();
    let options = format!("max.poll.interval.ms={}", POLL.as_millis());
    let with = With { kafka: options, ..outside.with(&[]) };
    let consumer = Watched::start(&orders, 0, with);
    eventually_async(LIMIT, "everything to be paused", async || {
        let status = consumer.status()?;
        let paused = consumer.paused();
        let all = paused.len() == PARTITIONS && paused.iter().all(|(_, paused)| *paused);
        (all && status["in_hand"]["full"] == true).then_some(())
    })
    .await;
    let full = Instant::now();
    let held = |status: &Value| status["in_hand"]["bytes"].as_u64().unwrap_or(u64::MAX);
    let read = consumer.status().map(|status| held(&status)).expect("a status");
    assert!(read >= 64 << 20, "{read} bytes are in hand");
    while full.elapsed() < POLL * 3 {
        assert!(consumer.process.ended().is_none(), "{}", orders.log(0));
        assert_eq!(consumer.status().map(|status| held(&status)), Some(read), "nothing more is taken in");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let peak = consumer.process.memory_kib("VmHWM").expect("a figure") >> 10;
    println!(
        "proof: {} MiB in hand of {} MiB, {peak} MiB resident at most",
        read >> 20,
        (RECORDS * pad.len()) >> 20
    );
    assert!(peak < 160, "{peak} MiB");
    outside.open("gate");
    let effects = "SELECT count(*) FROM effects";
    eventually_async(LIMIT, "every effect", async || {
        (usize::try_from(orders.number(effects).await).ok()? >= RECORDS).then_some(())
    })
    .await;
    orders.committed_to_the_end("pressure", LIMIT).await;
    let distinct = orders.number("SELECT count(DISTINCT event) FROM effects").await;
    assert_eq!((distinct, orders.number(effects).await), (RECORDS as i64, RECORDS as i64));
    assert_eq!(orders.said(0, " assigned "), PARTITIONS, "{}", orders.log(0));
    let status = consumer.status().expect("a status");
    let totals = &status["totals"];
    let moved =
        ["partitions_assigned", "partitions_revoked", "partitions_lost"].map(|name| totals[name].as_u64());
    assert_eq!(moved, [Some(PARTITIONS as u64), Some(0), Some(0)]);
    end(&consumer.process);
}
