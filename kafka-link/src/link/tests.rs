use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

fn parse(brokers: &str, options: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Link, Vec<String>> {
    let options: Vec<_> = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    Link::parse(brokers, &options, |name| find(name).map(|(_, text)| (*text).to_owned()))
}

#[track_caller]
fn refused(options: &[(&str, &str)], variables: &[(&str, &str)], parts: &[&str]) {
    let wrong = parse("k1:9092", options, variables).unwrap_err();
    for part in parts {
        assert!(wrong.iter().any(|sentence| sentence.contains(part)), "{part}: {wrong:#?}");
    }
    assert_eq!(wrong.len(), parts.len(), "{wrong:#?}");
    assert!(!wrong.concat().contains("hunter2"), "{wrong:#?}");
}

/// A certificate that signs itself, and its key.
fn files() -> (TempDir, String, String) {
    let directory = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["k1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (write("ca.pem", &certificate.pem()), write("ca.key", &key.serialize_pem()));
    (directory, certificate, key)
}

#[test]
fn only_loopback_goes_in_the_clear_unasked() {
    for (brokers, variables, expected) in [
        ("127.0.0.1:9092,[::1]:9092,localhost:1", &[][..], "plaintext"),
        ("127.0.0.1:9092,k1:9092", &[], "ssl"),
        ("k1:9092", &[("KAFKA_SECURITY_PROTOCOL", "")], "ssl"),
        ("k1:9092", &[("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")], "plaintext"),
    ] {
        let link = parse(brokers, &[], variables).unwrap();
        assert_eq!(link.config().get("security.protocol"), Some(expected), "{brokers}");
        assert_eq!(link.config().get("bootstrap.servers"), Some(brokers));
        // Nobody has turned off what librdkafka verifies by default.
        assert_eq!(link.config().get("enable.ssl.certificate.verification"), None);
        assert_eq!(link.config().get("ssl.endpoint.identification.algorithm"), None);
    }
    let option = parse("k1:9092", &[("security.protocol", "plaintext")], &[]).unwrap();
    assert_eq!(option.describe(), "k1:9092 by plaintext");
}

#[test]
fn variables_are_options_of_the_client() {
    let (directory, certificate, key) = files();
    let password = directory.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let login = [("KAFKA_SASL_MECHANISM", "SCRAM-SHA-256"), ("KAFKA_SASL_USERNAME", "inventory")];
    for secret in
        [("KAFKA_SASL_PASSWORD", "hunter2"), ("KAFKA_SASL_PASSWORD_FILE", password.to_str().unwrap())]
    {
        let files = [
            ("KAFKA_SSL_CA_FILE", certificate.as_str()),
            ("KAFKA_SSL_CERTIFICATE_FILE", certificate.as_str()),
            ("KAFKA_SSL_KEY_FILE", key.as_str()),
        ];
        let variables = [&login[..], &[secret], &files].concat();
        let link = parse("localhost:9092", &[("client.rack", "a")], &variables).unwrap();
        let config = link.config();
        for (option, value) in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanisms", "SCRAM-SHA-256"),
            ("sasl.username", "inventory"),
            ("sasl.password", "hunter2"),
            ("ssl.ca.location", &certificate),
            ("ssl.certificate.location", &certificate),
            ("ssl.key.location", &key),
            ("client.rack", "a"),
        ] {
            assert_eq!(config.get(option), Some(value), "{option}");
        }
        assert_eq!(link.describe(), "localhost:9092 by sasl_ssl as user inventory");
        assert!(!format!("{link:?}").contains("hunter2"), "{link:?}");
    }
    // The last of an option counts, by either of its names.
    let twice = [("sasl.mechanism", "PLAIN"), ("sasl.mechanisms", "OAUTHBEARER")];
    assert_eq!(parse("k1:1", &twice, &[]).unwrap().config().get("sasl.mechanisms"), Some("OAUTHBEARER"));
}

#[test]
fn halves_and_contradictions_are_told_at_once() {
    refused(
        &[],
        &[("KAFKA_SASL_USERNAME", "inventory"), ("KAFKA_SSL_KEY_FILE", "/nowhere/key.pem")],
        &[
            "KAFKA_SASL_MECHANISM is not set: a login needs one of SCRAM-SHA-512",
            "neither KAFKA_SASL_PASSWORD nor KAFKA_SASL_PASSWORD_FILE is set",
            "KAFKA_SSL_CERTIFICATE_FILE is not set",
            "KAFKA_SSL_KEY_FILE /nowhere/key.pem cannot be read",
        ],
    );
    refused(
        &[],
        &[("KAFKA_SASL_MECHANISM", "PLAIN"), ("KAFKA_SASL_PASSWORD", "hunter2")],
        &["KAFKA_SASL_USERNAME is not set"],
    );
    refused(
        &[],
        &[("KAFKA_SECURITY_PROTOCOL", "sasl_ssl")],
        &["KAFKA_SASL_MECHANISM is not set", "KAFKA_SASL_USERNAME is not set", "neither KAFKA_SASL_PASSWORD"],
    );
    let login = [("sasl.mechanism", "PLAIN"), ("sasl.username", "inventory"), ("sasl.password", "hunter2")];
    refused(
        &login,
        &[("KAFKA_SECURITY_PROTOCOL", "ssl")],
        &[
            "security.protocol is without login, so that sasl.mechanisms would be left out silently: write sasl_ssl",
        ],
    );
    let again = [
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
        ("KAFKA_SASL_PASSWORD_FILE", "/nowhere/password"),
    ];
    refused(
        &login,
        &again,
        &[
            "sasl.mechanisms is given more than once: option sasl.mechanism, KAFKA_SASL_MECHANISM; keep one",
            "sasl.password is given more than once: option sasl.password, KAFKA_SASL_PASSWORD; keep one",
            "sasl.password is given more than once: option sasl.password, KAFKA_SASL_PASSWORD_FILE; keep one",
        ],
    );
    refused(
        &[],
        &[again[0], again[2], ("KAFKA_SASL_USERNAME", "inventory")],
        &["KAFKA_SASL_PASSWORD_FILE /nowhere/password cannot be read"],
    );
}

#[test]
fn what_librdkafka_does_not_take_is_told_without_a_secret() {
    refused(
        &[("sasl.pasword", "hunter2"), ("socket.timeout.ms", "soon"), ("bootstrap.servers", "k2:9092")],
        &[("KAFKA_SECURITY_PROTOCOL", "tls")],
        &[
            "option sasl.pasword: librdkafka has no such option",
            "option socket.timeout.ms: librdkafka does not take this value",
            "option bootstrap.servers: the brokers are named in KAFKA_BROKERS",
            "KAFKA_SECURITY_PROTOCOL: expected plaintext, ssl, sasl_plaintext or sasl_ssl",
        ],
    );
    let login = |mechanism| {
        [
            ("KAFKA_SASL_MECHANISM", mechanism),
            ("KAFKA_SASL_USERNAME", "inventory"),
            ("KAFKA_SASL_PASSWORD", "hunter2"),
        ]
    };
    refused(&[], &login("SCRAM-SHA-1024"), &["librdkafka does not take these options"]);
    let (directory, _, _) = files();
    let text = directory.path().join("text.pem");
    std::fs::write(&text, "no certificate").unwrap();
    refused(&[], &[("KAFKA_SSL_CA_FILE", text.to_str().unwrap())], &["ssl.ca.location"]);
}
