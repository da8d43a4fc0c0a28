//! A service's side: events written in its own transaction, by either driver, and told exactly by the test
//! helper; what is published is what was written.

use outbox_schema::OutboxEvent;
use outbox_schema::testing::{self, assert_emitted};
use outbox_tests::cluster::{self, usual_version};
use outbox_tests::history::Published;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;
use sqlx::Connection;

/// Two events whose payload shows whether bytes were touched.
fn events(kind: &str) -> Vec<OutboxEvent> {
    let odd = OutboxEvent::new(kind, "o-1", "Placed").raw_json("{\"b\" :1.50,  \"a\":[ ]}".to_owned());
    let full = OutboxEvent::new(kind, "o-1", "Paid")
        .raw_json("{\"ü\": 123456789012345678901234567890}".to_owned())
        .version(2)
        .schema_version(3)
        .partition_key("customer-7")
        .header("tenant", "t-1")
        .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    vec![odd, full]
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_either_driver_are_committed_with_the_transaction_and_published_untouched() {
    let servers = cluster::shared();
    let mut scene = Scene::prepare(&servers.postgres, &servers.kafka, "enqueue_both").await;
    let events = events("enqueue_both");

    let rolled_back = scene.database.transaction().await.unwrap();
    outbox_schema::tokio_postgres::enqueue(&rolled_back, &events[0]).await.unwrap();
    rolled_back.rollback().await.unwrap();
    let tx = scene.database.transaction().await.unwrap();
    let mut ids = Vec::new();
    for event in &events {
        ids.push(outbox_schema::tokio_postgres::enqueue(&tx, event).await.unwrap());
    }
    assert_emitted(&testing::tokio_postgres::emitted(&tx).await.unwrap(), &events);
    tx.commit().await.unwrap();

    let url = servers.postgres.url(&scene.name);
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut rolled_back = connection.begin().await.unwrap();
    outbox_schema::sqlx::enqueue(&mut rolled_back, &events[0]).await.unwrap();
    rolled_back.rollback().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    for event in &events {
        ids.push(outbox_schema::sqlx::enqueue(&mut tx, event).await.unwrap());
    }
    assert_emitted(&testing::sqlx::emitted(&mut *tx).await.unwrap(), &events);
    tx.commit().await.unwrap();

    let relay = scene.start();
    let mut log = scene.log();
    let records: Vec<Published> = eventually(LIMIT, "four records", || {
        log.catch_up();
        (log.records().len() >= 4).then(|| log.records().to_vec())
    });
    assert_eq!(records.len(), 4, "nothing of what was rolled back");
    for (id, event) in ids.iter().zip(events.iter().chain(&events)) {
        let record = records.iter().find(|record| record.id() == Some(&id.to_string())).unwrap();
        let paid = event == &events[1];
        let (key, value) = if paid {
            ("customer-7", "{\"ü\": 123456789012345678901234567890}")
        } else {
            ("o-1", "{\"b\" :1.50,  \"a\":[ ]}")
        };
        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
        assert_eq!(record.header("type"), Some(if paid { "Paid" } else { "Placed" }));
        assert_eq!(record.header("tenant"), paid.then_some("t-1"));
        assert_eq!(record.header("schema_version"), paid.then_some("3"));
    }
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "Refunded")]
async fn the_test_helper_fails_a_service_that_emitted_something_else() {
    let servers = cluster::shared();
    let mut scene =
        Scene::bare(&servers.postgres, &servers.kafka, &format!("enqueue_else_{}", usual_version())).await;
    for migration in outbox_schema::sql::MIGRATIONS {
        scene.database.batch_execute(migration.up).await.unwrap();
    }
    let tx = scene.database.transaction().await.unwrap();
    let event = OutboxEvent::new("order", "o-1", "Placed").tombstone();
    outbox_schema::tokio_postgres::enqueue(&tx, &event).await.unwrap();
    let expected = OutboxEvent::new("order", "o-1", "Refunded").tombstone();
    assert_emitted(&testing::tokio_postgres::emitted(&tx).await.unwrap(), &[expected]);
}
