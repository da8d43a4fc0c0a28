//! A consumer and the tool for its dead letters on a Kafka that speaks TLS and asks for a login, and what they say of one
//! that cannot be trusted.

use std::process::Command;
use std::time::Duration;

use outbox_tests::cluster;
use outbox_tests::cluster::kafka::{SECRET, USER};
use outbox_tests::orders::{Orders, With};
use outbox_tests::wait::eventually_async;
use serde_json::Value;

use crate::consumer::end;
use crate::consumer_kinds::{Outside, Watched, program, send, settled};
use crate::letters::tool;
use crate::tls::{Secured, secured};

const LIMIT: Duration = Duration::from_secs(90);

/// What says how to connect to the broker that asks for a login.
fn connection(servers: &Secured, authority: &str, password_file: &str) -> Vec<(&'static str, String)> {
    vec![
        ("KAFKA_BROKERS", servers.kafka.login_broker()),
        ("KAFKA_SSL_CA_FILE", servers.file(authority)),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-256".to_owned()),
        ("KAFKA_SASL_USERNAME", USER.to_owned()),
        ("KAFKA_SASL_PASSWORD_FILE", password_file.to_owned()),
    ]
}

/// A first failure is the last, and makes a dead letter.
fn with(outside: &Outside, connection: &[(&'static str, String)]) -> With {
    let mut with = outside.with(&[("KINDS_EXHAUSTED", "skip")]);
    with.rung = Some(0);
    with.environment.extend(connection.iter().cloned());
    with
}

/// The listener takes nothing but TLS with a login, so each client that gets an answer has both: that of the group, the one
/// that makes the dead-letter topic, the one that writes there, and the tool's.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_a_consumer_speaks_tls_and_logs_in() {
    let servers = secured();
    let postgres = &cluster::shared().postgres;
    let orders = Orders::prepare("consumer_tls", postgres, &servers.kafka, program()).await;
    let outside = Outside::prepare();
    let password = outside.file("password");
    std::fs::write(&password, format!("{SECRET}\n")).unwrap();
    let connection = connection(servers, "ca.pem", password.to_str().unwrap());
    let good = send(&orders, "Applied", "a", 1, "");
    let bad = send(&orders, "Applied", "b", 2, "fails");
    orders.upstream().flush();
    let consumer = Watched::start(&orders, 0, with(&outside, &connection));
    settled(&orders, good, "done").await;
    settled(&orders, bad, "dead").await;
    orders.committed_to_the_end("consumer_tls", LIMIT).await;
    let status = consumer.status().unwrap();
    assert_eq!(status["kafka"]["trouble"], Value::Null, "{}", orders.log(0));
    end(&consumer.process);
    let topic = "consumer_tls.consumer_tls.dlq";
    assert!(servers.kafka.topics().iter().any(|name| name == topic), "{topic}\n{}", orders.log(0));

    let dlq = |arguments: &[&str]| {
        let mut command = Command::new(tool());
        command
            .args(arguments)
            .env("DATABASE_URL", postgres.url("consumer_tls"))
            .envs(connection.iter().cloned());
        let output = command.output().expect("the tool runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}\n{err}");
        out
    };
    dlq(&["project", "--group", "consumer_tls"]);
    assert!(dlq(&["list", "--json"]).contains(&bad.to_string()));
    let told = format!("{}{}", orders.log(0), consumer.process.log_tail());
    assert!(!told.contains(SECRET), "{told}");
    println!("proof: a consumer's clients and outbox-dlq over TLS with SCRAM-SHA-256");
}

/// It is waited for, and `/ready`, `/status` and the log say why; nothing is handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_who_it_should_be_is_not_spoken_to() {
    let servers = secured();
    let postgres = &cluster::shared().postgres;
    let orders = Orders::prepare("consumer_wrong", postgres, &servers.kafka, program()).await;
    let outside = Outside::prepare();
    let (right, wrong) = (outside.file("right"), outside.file("wrong"));
    std::fs::write(&right, SECRET).unwrap();
    std::fs::write(&wrong, "not the password").unwrap();
    send(&orders, "Applied", "a", 1, "");
    orders.upstream().flush();
    let cases = [
        (
            connection(servers, "other.pem", right.to_str().unwrap()),
            "certificate is not trusted",
            "KAFKA_SSL_CA_FILE",
        ),
        (
            connection(servers, "ca.pem", wrong.to_str().unwrap()),
            "the broker refused the login",
            "KAFKA_SASL_PASSWORD",
        ),
    ];
    // At once, because each waits for librdkafka to give up.
    let mut consumers = Vec::new();
    for (instance, (connection, words, variable)) in cases.iter().enumerate() {
        consumers.push((words, variable, Watched::start(&orders, instance, with(&outside, connection))));
    }
    for (instance, (words, variable, consumer)) in consumers.into_iter().enumerate() {
        let line = eventually_async(LIMIT, &format!("{words:?} in /ready"), async || {
            consumer.get("/ready").filter(|line| line.contains(words))
        })
        .await;
        assert!(line.starts_with("connecting: ") && line.contains(variable), "{line}");
        let trouble = consumer.status().unwrap()["kafka"]["trouble"].as_str().unwrap_or_default().to_owned();
        assert!(trouble.contains(words), "{trouble}");
        end(&consumer.process);
        let log = std::fs::read_to_string(consumer.process.log_file()).unwrap();
        assert!(log.contains(words) && log.contains(variable), "{log}");
        assert!(!log.contains(SECRET) && !log.contains("not the password"), "{log}");
        assert_eq!(outside.calls(1), [], "of instance {instance}");
        println!("proof: {line}");
    }
    half_of_a_login_is_no_start(&orders, &outside, servers).await;
}

async fn half_of_a_login_is_no_start(orders: &Orders<'_>, outside: &Outside, servers: &Secured) {
    let half = [
        ("KAFKA_BROKERS", servers.kafka.login_broker()),
        ("KAFKA_SASL_USERNAME", USER.to_owned()),
        ("KAFKA_SSL_KEY_FILE", "/nowhere/key.pem".to_owned()),
    ];
    let process = orders.start_with(2, &with(outside, &half));
    assert_eq!(process.wait(LIMIT).code(), Some(1), "{}", process.log_tail());
    let log = std::fs::read_to_string(process.log_file()).unwrap();
    for part in [
        "the consumer cannot run as it is set up:\n  - ",
        "KAFKA_SASL_MECHANISM is not set",
        "neither KAFKA_SASL_PASSWORD nor KAFKA_SASL_PASSWORD_FILE is set",
        "KAFKA_SSL_CERTIFICATE_FILE is not set",
        "/nowhere/key.pem cannot be read",
    ] {
        assert!(log.contains(part), "{part:?} in\n{log}");
    }
}
