//! The relay on the PostgreSQL versions that the other tests do not use, each with another compression.

use outbox_tests::cluster::{self, POSTGRES_VERSIONS, Postgres, usual_version};
use outbox_tests::relay::Relay;
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn it_fills_streams_and_comes_back_on_every_supported_postgres() {
    let kafka = &cluster::shared().kafka;
    let others = POSTGRES_VERSIONS.into_iter().filter(|version| *version != usual_version());
    for (version, compression) in others.zip(["gzip", "snappy", "zstd"]) {
        let postgres = Postgres::start(version);
        let scene = Scene::bare(&postgres, kafka, &format!("versions_{version}"))
            .await
            .configured(|config| config.text("kafka.compression", compression));
        kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
        scene.init(&["--existing=publish"]);
        scene.insert(100).await;
        let relay = Relay::start(&scene.config.clone().argument("--existing=publish"));
        relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
        scene.insert(100).await;
        scene.verdict().await.assert_pass();
        relay.kill();
        scene.insert(100).await;
        let relay = scene.start();
        let verdict = scene.verdict().await;
        verdict.assert_pass();
        assert_eq!(verdict.committed, 300, "{verdict}");
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
        println!("proof: PostgreSQL {version}, {compression}: {verdict}");
    }
}
