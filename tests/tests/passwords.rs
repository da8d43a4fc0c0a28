//! A password that is changed under a running relay, on the server and in its file.

use std::path::PathBuf;

use outbox_tests::cluster::{self, Postgres, ground, usual_version};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;

/// A scene whose relay reads its password from a file.
async fn with_file<'a>(postgres: &'a Postgres, name: &str) -> (Scene<'a>, PathBuf) {
    let kafka = &cluster::shared().kafka;
    let mut scene = Scene::prepare(postgres, kafka, name).await;
    let file = ground::directory("password").join("password");
    std::fs::write(&file, "secret of the relay\n").unwrap();
    let url = postgres.url_for(&format!("relay_{name}"), name);
    scene.config = RelayConfig::without_password(name, &url, &kafka.brokers())
        .text("source.password_file", file.to_str().unwrap());
    (scene, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_under_a_running_relay_in_either_order() {
    let postgres = Postgres::start(usual_version());
    let (scene, file) = with_file(&postgres, "password_changed").await;
    let relay = scene.start();
    scene.insert(5).await;
    scene.verdict().await.assert_pass();

    // On the server first: the old one is refused until the file says another.
    let change = |to: &str| format!("ALTER ROLE relay_password_changed PASSWORD '{to}'");
    scene.database.batch_execute(&change("the second")).await.unwrap();
    postgres.terminate_backends("usename = 'relay_password_changed'").await;
    scene.insert(5).await;
    eventually(LIMIT, "the old password to be refused", || relay.log().contains("28P01").then_some(()));
    assert_eq!(relay.ended(), None, "it waits for its file\n{}", relay.log());
    std::fs::write(&file, "the second").unwrap();
    scene.verdict().await.assert_pass();

    // And in the file first.
    std::fs::write(&file, "the third\n").unwrap();
    scene.database.batch_execute(&change("the third")).await.unwrap();
    postgres.terminate_backends("usename = 'relay_password_changed'").await;
    scene.insert(5).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    let log = relay.log();
    assert!(!log.contains("the second") && !log.contains("the third"), "{log}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: password changed twice: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_never_right_halts() {
    let postgres = Postgres::start(usual_version());
    let (scene, file) = with_file(&postgres, "password_wrong").await;
    std::fs::write(&file, "not it").unwrap();
    let relay = Relay::start(&scene.config);
    assert_eq!(relay.wait_exit(LIMIT).code(), Some(3), "{}", relay.log());
    assert!(relay.log().contains("28P01") && !relay.log().contains("not it"), "{}", relay.log());
}
