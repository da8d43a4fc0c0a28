//! How long settlements are kept (C3).

use std::time::Duration;

use outbox_consumer::ladder::hours;
use outbox_consumer::{Consumer, Event, Raw, RunError, Tx, done, transactional};
use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::orders::Orders;
use outbox_tests::wait::eventually_async;

use super::{LIMIT, program};

/// Runs a consumer of settlements that are kept as given until it ends, or until its scope is declared.
async fn declared(
    postgres: &Postgres,
    kafka: &Kafka,
    kept: Option<(Duration, &str)>,
) -> Result<(), RunError> {
    let (url, brokers) = (postgres.url("kept"), kafka.brokers());
    let lookup = |name: &str| match name {
        "DATABASE_URL" => Some(url.clone()),
        "KAFKA_BROKERS" => Some(brokers.clone()),
        _ => None,
    };
    let mut consumer = Consumer::from_lookup("kept", lookup)
        .owner("tests", hours(3))
        .topic("kept")
        .on("Applied", transactional(async |_: Event<Raw>, _: Tx| done()));
    if let Some((kept, signed_by)) = kept {
        consumer = consumer.keep_settlements(kept, signed_by);
    }
    let client = postgres.connect("kept").await;
    let shutdown = async move {
        eventually_async(LIMIT, "the scope to be declared", async || {
            let rows = client.query("SELECT FROM inbox.scope", &[]).await.ok()?;
            (!rows.is_empty()).then_some(())
        })
        .await;
    };
    consumer.run_until(shutdown).await
}

/// C3: settlements that would be kept for less time than a copy can still come are refused at the start, with the
/// arithmetic: what the topic keeps, the ladder, the dead letters' window, the relay's table. Somebody may sign for it.
#[tokio::test(flavor = "multi_thread")]
async fn settlements_kept_for_too_short_are_refused_with_the_arithmetic() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("kept_as_usual", &postgres, &kafka, program()).await;
    drop(orders);
    postgres.create_database("kept").await;
    let client = postgres.connect("kept").await;
    client.batch_execute(&outbox_schema::sql::inbox::up()).await.expect("the inbox");
    let retention = (50 * 3_600_000_u64).to_string();
    kafka.create_topic("kept", 1, &[("retention.ms", &retention)]).await;
    // Three hours for their owner, 71 minutes of the usual ladder, which jitter may lengthen.
    let floor = "SELECT extract(epoch FROM floor)::bigint / 3600 FROM inbox.scope";
    let refused = declared(&postgres, &kafka, Some((hours(24), ""))).await.expect_err("a refusal");
    let mut said = refused.to_string();
    let mut cause = std::error::Error::source(&refused);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    let rows = client.query("SELECT FROM inbox.scope", &[]).await.expect("an answer");
    assert_eq!(rows.len(), 0, "nothing is declared: {said}");
    for part in [
        "24:00:00",
        "50:00:00 that the topic keeps it",
        "on the ladder",
        "3:00:00 among the dead letters",
        "8 days for which",
        "signed_by",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let signed = declared(&postgres, &kafka, Some((hours(24), "the order team"))).await;
    assert!(signed.is_ok(), "{signed:?}");
    let row =
        client.query_one("SELECT kept = '24 hours', signed_by FROM inbox.scope", &[]).await.expect("a row");
    assert_eq!((row.get(0), row.get(1)), (true, "the order team"));
    let audited = "SELECT count(*) FROM inbox.audit WHERE action = 'floor' AND reason LIKE '%signed by the order team%'";
    assert_eq!(client.query_one(audited, &[]).await.expect("a row").get::<_, i64>(0), 1);
    // Without a wish they are kept for the floor: the sum, and nothing of it left out.
    let usual = declared(&postgres, &kafka, None).await;
    assert!(usual.is_ok(), "{usual:?}");
    let hours: i64 = client.query_one(floor, &[]).await.expect("a row").get(0);
    assert!((8 * 24 + 50 + 3 + 1..8 * 24 + 50 + 3 + 3).contains(&hours), "{hours} hours");
}
