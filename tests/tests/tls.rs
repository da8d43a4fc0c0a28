//! TLS and logins: what is encrypted is seen on the servers, and each refusal says what was seen.

use std::path::Path;
use std::sync::OnceLock;

use outbox_tests::authority::{Authority, Issued, write};
use outbox_tests::cluster::kafka::{SECRET, USER};
use outbox_tests::cluster::{self, Kafka, POSTGRES_VERSIONS, Postgres, usual_version};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, Scene};
use tempfile::TempDir;

/// Servers that speak TLS under the name `localhost` and no other, for all tests of this file and of `consumer_tls`.
pub(crate) struct Secured {
    authority: Authority,
    other: Authority,
    directory: TempDir,
    postgres: Postgres,
    pub(crate) kafka: Kafka,
}

pub(crate) fn secured() -> &'static Secured {
    static SECURED: OnceLock<Secured> = OnceLock::new();
    SECURED.get_or_init(|| {
        let (authority, other) = (Authority::new("the authority"), Authority::new("another authority"));
        let directory = TempDir::new().unwrap();
        write(directory.path(), "ca.pem", authority.certificate());
        write(directory.path(), "other.pem", other.certificate());
        let server = authority.server(&["localhost"]);
        let postgres = Postgres::builder(usual_version()).tls(&server, &authority).start();
        let kafka = Kafka::builder().tls(&server).start();
        Secured { authority, other, directory, postgres, kafka }
    })
}

impl Secured {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file of the directory, as it stands in a configuration.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Files of a certificate.
    fn keep(&self, name: &str, issued: &Issued) -> (String, String) {
        let certificate = write(self.path(), &format!("{name}.pem"), &issued.certificate);
        let key = write(self.path(), &format!("{name}.key"), &issued.key);
        (certificate, key)
    }

    async fn scene(&self, name: &str) -> Scene<'_> {
        Scene::prepare(&self.postgres, &self.kafka, name).await
    }
}

/// A scene whose PostgreSQL goes in the clear on loopback: only Kafka is looked at.
async fn kafka_scene(servers: &'static Secured, name: &str) -> Scene<'static> {
    Scene::prepare(&cluster::shared().postgres, &servers.kafka, name).await
}

/// URL of a database by a host name, with parameters.
fn url(role: &str, host: &str, postgres: &Postgres, database: &str, parameters: &str) -> String {
    format!("postgres://{role}@{host}:{}/{database}?{parameters}", postgres.port())
}

/// Every connection of the relay to its database: what kind it is, and whether it is encrypted.
async fn connections(scene: &Scene<'_>) -> Vec<(String, bool)> {
    let sql = "SELECT a.backend_type, s.ssl FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
                WHERE a.datname = $1 AND a.application_name LIKE 'outbox-relay %' ORDER BY 1";
    let rows = scene.database.query(sql, &[&scene.name]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn publishes_over_tls(postgres: &Postgres, kafka: &Kafka, ca: &str, name: &str) {
    let scene = Scene::bare(postgres, kafka, name).await;
    kafka.create_topic(&scene.topic(), 3, &[]).await;
    // Bound logins only: neither connection would be made without SCRAM-SHA-256-PLUS.
    let parameters = format!("sslrootcert={ca}&channel_binding=require");
    let source = url(&format!("relay_{name}"), "localhost", postgres, name, &parameters);
    let scene = scene.configured(|config| config.text("source.url", &source));
    let admin = format!("postgres:{}", cluster::postgres::PASSWORD.replace(' ', "%20"));
    let (status, said) = scene.config.init(&url(&admin, "localhost", postgres, name, &parameters), &[]);
    assert!(status.success(), "{said}");
    let relay = scene.start();
    scene.insert(200).await;
    scene.verdict().await.assert_pass();
    let seen = connections(&scene).await;
    let expected = [("client backend".to_owned(), true), ("walsender".to_owned(), true)];
    assert_eq!(seen, expected, "{}", relay.log());
    // An operator's commands are the relay's: this server lets nobody in without TLS.
    let (status, said) = scene.config.command(&["quarantine", "list"]);
    assert!(status.success(), "{said}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_connections_are_encrypted_and_bound_to_the_servers_certificate() {
    let servers = secured();
    let ca = servers.file("ca.pem");
    publishes_over_tls(&servers.postgres, &servers.kafka, &ca, "tls_bound").await;
    let certificate = servers.authority.server(&["localhost"]);
    for version in POSTGRES_VERSIONS.into_iter().filter(|version| *version != usual_version()) {
        let postgres = Postgres::builder(version).tls(&certificate, &servers.authority).start();
        publishes_over_tls(&postgres, &servers.kafka, &ca, &format!("tls_bound_{version}")).await;
        println!("proof: PostgreSQL {version}: both connections over TLS, SCRAM-SHA-256-PLUS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_fill_come_over_tls() {
    let servers = secured();
    let scene = Scene::bare(&servers.postgres, &servers.kafka, "tls_fill").await;
    servers.kafka.create_topic(&scene.topic(), 3, &[]).await;
    let parameters = format!("sslrootcert={}", servers.file("ca.pem"));
    let source = url("relay_tls_fill", "localhost", &servers.postgres, "tls_fill", &parameters);
    let scene = scene.configured(|config| config.text("source.url", &source));
    scene.init(&["--existing=publish"]);
    scene.insert(50).await;
    let relay = Relay::start(&scene.config.clone().argument("--existing=publish"));
    relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
    scene.insert(50).await;
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, 100, "{verdict}");
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

/// Starts a relay that has to halt with each of these words.
#[track_caller]
fn halts_with(scene: &Scene<'_>, source: &str, words: &[&str]) {
    let relay = Relay::start(&scene.config.clone().text("source.url", source));
    let status = relay.wait_exit(LIMIT);
    let log = relay.log();
    assert_eq!(status.code(), Some(3), "a halt was expected\n{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_logs_in() {
    let servers = secured();
    let scene = servers.scene("tls_client").await;
    scene
        .database
        .batch_execute("CREATE ROLE cert_relay LOGIN REPLICATION; GRANT relay_tls_client TO cert_relay")
        .await
        .unwrap();
    let (certificate, key) = servers.keep("client", &servers.authority.client("cert_relay"));
    let ca = servers.file("ca.pem");
    let of = |parameters: &str| {
        let parameters = format!("sslrootcert={ca}{parameters}");
        url("cert_relay", "localhost", &servers.postgres, "tls_client", &parameters)
    };
    let source = of(&format!("&sslcert={certificate}&sslkey={key}"));
    let scene = scene.configured(|config| config.text("source.url", &source));
    let relay = scene.start();
    scene.insert(50).await;
    scene.verdict().await.assert_pass();
    assert_eq!(connections(&scene).await.len(), 2);
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());

    halts_with(&scene, &of(""), &["certificate", "sslcert and sslkey"]);
    let (certificate, key) = servers.keep("stranger", &servers.other.client("cert_relay"));
    let source = of(&format!("&sslcert={certificate}&sslkey={key}"));
    halts_with(&scene, &source, &["the server refused the relay's own certificate", "ssl_ca_file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_who_it_should_be_halts_the_relay() {
    // Of its own: its certificate is changed.
    let servers = secured();
    let good = servers.authority.server(&["localhost"]);
    let postgres = Postgres::builder(usual_version()).tls(&good, &servers.authority).start();
    let scene = Scene::prepare(&postgres, &servers.kafka, "tls_wrong").await;
    let of = |host: &str, parameters: &str| url("relay_tls_wrong", host, &postgres, "tls_wrong", parameters);
    let (ca, other) = (servers.file("ca.pem"), servers.file("other.pem"));
    halts_with(
        &scene,
        &of("localhost", &format!("sslrootcert={other}")),
        &["is signed by nobody the relay trusts", &other, "sslrootcert"],
    );
    halts_with(
        &scene,
        // Whom the system trusts has not signed it either.
        &of("localhost", "sslmode=verify-full"),
        &["is signed by nobody the relay trusts (the authorities this system trusts)"],
    );
    let by_address = of("127.0.0.1", &format!("sslrootcert={ca}"));
    halts_with(&scene, &by_address, &["is not for 127.0.0.1 but for localhost"]);
    // The same server will do where its name is not looked at, or nothing is.
    for parameters in [format!("sslmode=verify-ca&sslrootcert={ca}"), "sslmode=require".into()] {
        let source = of("127.0.0.1", &parameters);
        let relay = Relay::start(&scene.config.clone().text("source.url", &source));
        relay.wait_status(LIMIT, "the stream", |status| (status["phase"] == "streaming").then_some(()));
        assert!(connections(&scene).await.iter().all(|(_, encrypted)| *encrypted));
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
    // The role may not come in the clear.
    halts_with(&scene, &of("localhost", "sslmode=disable"), &["no encryption", "sslmode"]);
    postgres.change_certificate(&servers.authority.expired_server(&["localhost"])).await;
    let source = of("localhost", &format!("sslrootcert={ca}"));
    halts_with(&scene, &source, &["expired at 2021-01-01T00:00:00Z", "renew it on the server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_unless_it_may_be_without() {
    let shared = cluster::shared();
    let scene = Scene::prepare(&shared.postgres, &shared.kafka, "tls_none").await;
    let of = |mode: &str| {
        url("relay_tls_none", "localhost", &shared.postgres, "tls_none", &format!("sslmode={mode}"))
    };
    halts_with(&scene, &of("require"), &["the server offers no TLS", "sslmode=disable"]);
    let source = of("prefer");
    let scene = scene.configured(|config| config.text("source.url", &source));
    let relay = scene.start();
    scene.insert(20).await;
    scene.verdict().await.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[test]
fn wrong_files_are_told_before_anything_is_started() {
    let servers = secured();
    let text = write(servers.path(), "text.pem", "no certificate");
    let source =
        format!("postgres://relay@localhost/x?sslrootcert=/nowhere/ca.pem&sslcert={text}&sslkey={text}");
    let config = RelayConfig::new("tls_files", &source, "x", "k1:9092")
        .text("kafka.options.\"security.protocol\"", "plaintext")
        .text("kafka.options.\"sasl.username\"", "relay");
    let (status, said) = config.command(&["config", "check"]);
    assert!(!status.success(), "{said}");
    for part in [
        "sslrootcert /nowhere/ca.pem cannot be read",
        "text.pem holds no certificate",
        "text.pem holds no private key",
        "sasl.username would be left out silently: write sasl_plaintext",
    ] {
        assert!(said.contains(part), "{part:?} in\n{said}");
    }
}

fn option(config: RelayConfig, name: &str, value: &str) -> RelayConfig {
    config.text(&format!("kafka.options.\"{name}\""), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_spoken_to_over_tls_with_every_login() {
    let servers = secured();
    let scene = kafka_scene(servers, "tls_kafka").await;
    let base = option(scene.config.clone(), "ssl.ca.location", &servers.file("ca.pem"));
    let login = |mechanism: &str, secret: bool| {
        let config = base.clone().text("kafka.brokers", &servers.kafka.login_broker());
        let config = option(config, "sasl.mechanisms", mechanism);
        match secret {
            true => option(option(config, "sasl.username", USER), "sasl.password", SECRET),
            false => option(
                option(config, "enable.sasl.oauthbearer.unsecure.jwt", "true"),
                "sasl.oauthbearer.config",
                "principal=relay",
            ),
        }
    };
    let mut inserted = 0;
    for (name, config) in [
        ("TLS alone", base.clone().text("kafka.brokers", &servers.kafka.tls_broker())),
        ("PLAIN", login("PLAIN", true)),
        ("SCRAM-SHA-256", login("SCRAM-SHA-256", true)),
        ("OAUTHBEARER", login("OAUTHBEARER", false)),
    ] {
        let relay = Relay::start(&config);
        scene.insert(20).await;
        inserted += 20;
        let verdict = scene.verdict().await;
        verdict.assert_pass();
        assert_eq!(verdict.committed, inserted, "{name}: {verdict}");
        assert_eq!(relay.terminate().code(), Some(0), "{name}\n{}", relay.log());
        println!("proof: Kafka, {name}: {verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_be_spoken_to_is_waited_for_with_the_reason() {
    let servers = secured();
    let kafka = &servers.kafka;
    let tls = kafka.tls_broker();
    let by_address = tls.replace("localhost", "127.0.0.1");
    let (ca, other) = (servers.file("ca.pem"), servers.file("other.pem"));
    let login = |config, secret| {
        let config = option(config, "sasl.mechanisms", "SCRAM-SHA-256");
        option(option(config, "sasl.username", USER), "sasl.password", secret)
    };
    type Change<'a> = Box<dyn Fn(RelayConfig) -> RelayConfig + 'a>;
    let cases: [(&str, &str, Change<'_>, &str); 5] = [
        ("root", &tls, Box::new(|config| option(config, "ssl.ca.location", &other)), "is not trusted"),
        ("name", &by_address, Box::new(|config| option(config, "ssl.ca.location", &ca)), "for another name"),
        (
            "password",
            &kafka.login_broker(),
            Box::new(|config| login(option(config, "ssl.ca.location", &ca), "wrong")),
            "the broker refused the login",
        ),
        (
            "no_tls",
            &kafka.brokers(),
            Box::new(|config| option(config, "ssl.ca.location", &ca)),
            "the broker seems to speak no TLS there",
        ),
        ("clear", &tls, Box::new(|config| config), "the broker may expect TLS there"),
    ];
    // All at once, because each waits for librdkafka to give up.
    let mut relays = Vec::new();
    for (name, brokers, change, words) in &cases {
        let scene = kafka_scene(servers, &format!("tls_wrong_{name}")).await;
        let config = change(scene.config.clone()).text("kafka.brokers", brokers);
        relays.push((name, words, Relay::start(&config)));
    }
    for (name, words, relay) in relays {
        let seen = relay.wait_status(LIMIT, "the reason in /status", |status| {
            let error = status["last_error"]["message"].as_str()?;
            error.contains(*words).then(|| error.to_owned())
        });
        assert!(relay.log().contains(*words), "{name}: {seen}\n{}", relay.log());
        assert!(!relay.is_ready(), "{name}");
        assert_eq!(relay.terminate().code(), Some(0), "{name}: nothing was in flight\n{}", relay.log());
        println!("proof: {name}: {seen}");
    }
}
