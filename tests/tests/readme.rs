//! The README's first example, run as it is written.

use outbox_tests::cluster::{self, Kafka};
use outbox_tests::relay::RelayConfig;
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;

const README: &str = include_str!("../../README.md");

/// The first fenced block of a language.
fn block(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let from =
        README.find(&fence).unwrap_or_else(|| panic!("a {language} block in the README")) + fence.len();
    README[from..].split_once("```").map_or("", |(block, _)| block)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_example_publishes_what_the_readme_says() {
    let toml = block("toml");
    let keys: Vec<&str> =
        toml.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
    assert_eq!(keys, ["name", "url", "brokers"], "three keys: {toml}");
    assert!(toml.contains("name = \"orders\""), "{toml}");

    // Of its own: the topic has the README's name, which others may use.
    let kafka = Kafka::start();
    let postgres = &cluster::shared().postgres;
    let scene = Scene::bare(postgres, &kafka, "readme").await;
    let url = postgres.url_for("readme_relay", "readme");
    let config = RelayConfig::new("orders", &url, "secret", &kafka.brokers());
    let scene = scene.configured(|_| config);
    kafka.create_topic("outbox.event.order", 3, &[]).await;
    scene.init(&[]);
    let relay = scene.start();
    let sql = block("sql").replace("GRANT outbox_producer TO my_service;", "");
    scene.database.batch_execute(&sql).await.unwrap();
    let mut log = outbox_tests::history::Log::open(
        &kafka.brokers(),
        &["outbox.event.order"],
        outbox_tests::history::log::Isolation::ReadUncommitted,
    );
    let record = eventually(LIMIT, "the README's record", || {
        log.catch_up();
        log.records().iter().find(|record| record.key.as_deref() == Some(b"o-17")).cloned()
    });
    assert_eq!(record.value.as_deref(), Some(&b"{\"sku\": \"a\", \"quantity\": 2}"[..]));
    assert_eq!(record.header("type"), Some("OrderPlaced"));
    assert!(record.id().is_some() && record.header("position").is_some());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
