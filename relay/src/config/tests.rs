//! Loading as a whole: what a user writes, and what comes of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;

const THREE_KEYS: &str = "name = \"orders\"\n[source]\nurl = \"postgres://relay@localhost/orders\"\n[kafka]\nbrokers = \"k1:9092\"\n";

struct Trial {
    dir: TempDir,
    file: PathBuf,
    variables: Vec<(String, String)>,
}

impl Trial {
    fn toml(text: &str) -> Trial {
        Trial::file("relay.toml", text)
    }

    fn file(name: &str, text: &str) -> Trial {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        Trial { dir, file, variables: Vec::new() }
    }

    fn with(mut self, name: &str, text: &str) -> Trial {
        self.variables.push((name.into(), text.into()));
        self
    }

    fn load(&self) -> Result<Settings, Mistakes> {
        load(Some(&self.file), &|| self.variables.clone(), Overrides::default())
    }

    /// Loads what has to be refused: the refusal, and the keys it names.
    fn refused(&self) -> (String, Vec<String>) {
        let mistakes = self.load().map(|_| ()).expect_err("has to be refused");
        (mistakes.to_string(), mistakes.iter().map(|mistake| mistake.key.clone()).collect())
    }
}

#[test]
fn exactly_once_is_asked_for_and_its_own_options_are_refused() {
    let delivery = Trial::toml(THREE_KEYS).load().unwrap().delivery;
    assert_eq!((delivery.guarantee, delivery.larger), (Guarantee::AtLeastOnce, Larger::Halt));
    assert_eq!(delivery.commit_interval, Duration::from_millis(100));
    let asked =
        "[delivery]\nguarantee = \"exactly_once\"\nlarger = \"split\"\nmax_transaction_records = 50\n";
    let delivery = Trial::toml(&format!("{THREE_KEYS}{asked}")).load().unwrap().delivery;
    assert_eq!((delivery.guarantee, delivery.larger), (Guarantee::ExactlyOnce, Larger::Split));
    assert_eq!(delivery.max_transaction_records, 50);
    let wrong = "[delivery]\nguarantee = \"exactly\"\ntransaction_timeout = \"10s\"\n\
                 [kafka.options]\n\"transactional.id\" = \"x\"\n";
    let (said, keys) = Trial::toml(&format!("{THREE_KEYS}{wrong}")).refused();
    assert_eq!(keys.len(), 3, "{said}");
    assert!(said.contains("delivery.guarantee") && said.contains("exactly_once"), "{said}");
}

#[test]
fn three_keys_are_enough() {
    let settings = Trial::toml(THREE_KEYS).load().unwrap();
    assert_eq!(settings.slot(), "outbox_orders");
    assert_eq!(settings.source.connect_timeout, Duration::from_secs(10));
    assert_eq!(settings.source.max_row_bytes, 8 << 20);
    assert_eq!(settings.source.application_name, "outbox_orders");
    assert!(settings.source.password.is_none());
    assert_eq!(settings.kafka.compression, "lz4");
    assert_eq!(settings.kafka.protocol, "ssl", "k1 is not on loopback");
    assert_eq!(settings.kafka.max_record_bytes, 1_000_000);
    assert_eq!((settings.outbox.schema.as_str(), settings.outbox.table.as_str()), ("outbox", "events"));
    assert_eq!(settings.outbox.columns.writer.as_deref(), Some("writer"));
    assert_eq!(settings.existing, Existing::Refuse);
    assert_eq!((settings.topics.create, settings.topics.partitions), (false, 12));
    assert_eq!(settings.cleanup.mode, CleanupMode::Buckets);
    assert_eq!(settings.cleanup.keep, Duration::from_secs(86_400));
    assert_eq!((settings.topics.replication, settings.topics.min_insync_replicas), (None, None));
    assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(settings.drain_timeout, Duration::from_secs(25));
    assert_eq!(settings.log.format, LogFormat::Text);
}

#[test]
fn yaml_says_the_same() {
    let trial = Trial::file(
        "relay.yaml",
        "name: orders\nsource:\n  url: postgres://relay@localhost/orders\nkafka:\n  brokers: [k1:9092, k2:9092]\n  max_in_flight_records: 7\n  options:\n    socket.keepalive.enable: true\nadmin:\n  listen: 0.0.0.0:1\n  allow_remote: true\n",
    );
    let settings = trial.load().unwrap();
    assert_eq!(settings.kafka.brokers, "k1:9092,k2:9092");
    assert_eq!(settings.kafka.max_in_flight_records, 7);
    assert_eq!(settings.kafka.options, [("socket.keepalive.enable".to_string(), "true".to_string())]);
    assert!(!settings.admin.listen.ip().is_loopback());
}

#[test]
fn the_environment_goes_over_the_file() {
    let settings = Trial::toml(THREE_KEYS)
        .with("OUTBOX_RELAY_NAME", "billing")
        .with("OUTBOX_RELAY_KAFKA_LINGER", "5ms")
        .with("OUTBOX_RELAY_KAFKA_OPTIONS_CLIENT_ID", "x")
        .with("OUTBOX_RELAY_STATE_TOPIC", "")
        .with("OUTBOX_RELAY_PORT_9464_TCP", "tcp://10.0.0.1:9464")
        .with("HOME", "/root")
        .load()
        .unwrap();
    assert_eq!(settings.name, "billing");
    assert_eq!(settings.kafka.linger, Duration::from_millis(5));
    assert_eq!(settings.kafka.options, [("client.id".to_string(), "x".to_string())]);
    assert_eq!(settings.state.topic, "outbox.relay.state");
}

#[test]
fn the_command_line_goes_over_both() {
    let trial = Trial::toml(THREE_KEYS).with("OUTBOX_RELAY_START_EXISTING", "skip");
    assert_eq!(trial.load().unwrap().existing, Existing::Skip);
    let overrides = Overrides { existing: Some(Existing::Publish) };
    let settings = load(Some(&trial.file), &|| trial.variables.clone(), overrides).unwrap();
    assert_eq!(settings.existing, Existing::Publish);
}

#[test]
fn another_table_has_debeziums_five_columns() {
    let text = format!(
        "{THREE_KEYS}[outbox]\ntable = '\"Sales\".outbox'\ncolumns.payload = \"Body\"\ncolumns.seq = \"n\"\n"
    );
    let outbox = Trial::toml(&text).load().unwrap().outbox;
    assert_eq!((outbox.schema.as_str(), outbox.table.as_str()), ("Sales", "outbox"));
    assert_eq!((outbox.columns.id.as_str(), outbox.columns.payload.as_str()), ("id", "Body"));
    assert_eq!((outbox.columns.seq.as_deref(), outbox.columns.writer), (Some("n"), None));
}

#[test]
fn all_mistakes_are_told_in_one_run() {
    let text = "name = \"Orders\"\nkafak = 1\n[source]\nurl = \"postgres://relay@db/orders?sslmode=allow\"\nwal_sender_timeout = 10\n\
                [kafka]\nbrokers = \"k1\"\nlinger = \"5 parsecs\"\nmax_record_bytes = \"64MiB\"\n\
                [kafka.options]\nacks = 1\n[admin]\nlisten = \"0.0.0.0:9464\"\n";
    let (told, keys) =
        Trial::toml(text).with("OUTBOX_RELAY_DRAIN_TIMEOUT", "0s").with("OUTBOX_RELAY_NAMES", "x").refused();
    for key in [
        "name",
        "kafak",
        "source.url",
        "source.wal_sender_timeout",
        "kafka.brokers",
        "kafka.linger",
        "kafka.max_record_bytes",
        "kafka.options.acks",
        "admin.listen",
        "drain_timeout",
        "OUTBOX_RELAY_NAMES",
    ] {
        assert_eq!(keys.iter().filter(|told| *told == key).count(), 1, "{key}: {told}");
    }
    assert_eq!(keys.len(), 11, "{told}");
    assert!(told.starts_with("11 mistakes in the configuration (file "), "{told}");
    assert!(told.contains("kafka.linger = \"5 parsecs\" (file "), "{told}");
    assert!(
        told.contains(
            "drain_timeout = \"0s\" (environment variable OUTBOX_RELAY_DRAIN_TIMEOUT): expected a duration"
        ),
        "{told}"
    );
}

#[test]
fn without_a_file_the_missing_keys_are_named() {
    let mistakes = load(
        None,
        &|| vec![("OUTBOX_RELAY_CONFIG".into(), "/nowhere/relay.toml".into())],
        Overrides::default(),
    );
    let told = mistakes.map(|_| ()).unwrap_err().to_string();
    for part in [
        "cannot be read",
        "name (not set): has to be given",
        "source.url (not set)",
        "kafka.brokers (not set)",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_has_to_fit_together_is_checked() {
    for (section, key) in [
        ("[source]\nread_ahead_bytes = \"1MiB\"", "source.max_row_bytes"),
        ("[kafka]\nmax_in_flight_bytes = \"1MiB\"\nmax_record_bytes = \"2MiB\"", "kafka.max_record_bytes"),
        ("[state]\ninterval = \"10s\"", "state.idle_interval"),
        ("[topics]\nreplication = 2\nmin_insync_replicas = 3", "topics.min_insync_replicas"),
        ("[topics]\nretention = \"1h\"\noptions.\"retention.ms\" = -1", "topics.retention"),
        ("[topics.options]\n\"min.insync.replicas\" = 1", "topics.options.min.insync.replicas"),
    ] {
        let trial = Trial::toml(&format!("name = \"orders\"\n{section}\n"))
            .with("OUTBOX_RELAY_SOURCE_URL", "postgres://relay@localhost")
            .with("OUTBOX_RELAY_KAFKA_BROKERS", "k1:9092");
        assert_eq!(trial.refused().1, [key]);
    }
}

#[test]
fn what_may_be_removed_follows_from_the_table() {
    let other = "[outbox]\ntable = \"public.outbox\"\n";
    let mapped = "columns.writer = \"w\"\ncolumns.created_at = \"at\"\n";
    let mode = |text: &str| Trial::toml(&format!("{THREE_KEYS}{text}")).load().unwrap().cleanup.mode;
    assert_eq!(mode(other), CleanupMode::Off);
    assert_eq!(mode("[cleanup]\nmode = \"off\"\nkeep = \"2000h\""), CleanupMode::Off);
    assert_eq!(mode("[cleanup]\nkeep = \"144h\""), CleanupMode::Buckets);
    let long = "[cleanup]\nmode = \"delete\"\nkeep = \"2000h\"";
    assert_eq!(mode(&format!("{other}{mapped}{long}")), CleanupMode::Delete);
    for (text, key, word) in [
        ("[cleanup]\nkeep = \"145h\"".to_owned(), "cleanup.keep", "144h"),
        ("[cleanup]\nmode = \"delete\"".to_owned(), "cleanup.mode", "another shape"),
        (format!("{other}[cleanup]\nmode = \"buckets\""), "cleanup.mode", "delete"),
        (format!("{other}[cleanup]\nmode = \"delete\""), "cleanup.mode", "columns.writer"),
        (
            format!("{other}columns.writer = \"w\"\n[cleanup]\nmode = \"delete\""),
            "cleanup.mode",
            "columns.created_at",
        ),
    ] {
        let (told, keys) = Trial::toml(&format!("{THREE_KEYS}{text}")).refused();
        assert_eq!(keys, [key], "{told}");
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn a_password_comes_from_any_one_place() {
    let from_env = Trial::toml(THREE_KEYS).with("OUTBOX_RELAY_SOURCE_PASSWORD", "hunter2");
    let from_url =
        Trial::toml(THREE_KEYS).with("OUTBOX_RELAY_SOURCE_URL", "postgres://relay:hunter2@localhost");
    let from_file = Trial::toml(THREE_KEYS);
    let secret = from_file.dir.path().join("secret");
    fs::write(&secret, "hunter2\n").unwrap();
    let from_file = from_file.with("OUTBOX_RELAY_SOURCE_PASSWORD_FILE", secret.to_str().unwrap());
    for trial in [from_env, from_url, from_file] {
        let settings = trial.load().unwrap();
        assert_eq!(settings.source.password.as_ref().map(|p| p.expose_secret()), Some("hunter2"));
        assert!(!format!("{settings:?}").contains("hunter2"));
        let shown = show(Some(&trial.file), &|| trial.variables.clone()).unwrap();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn two_places_for_the_password_are_a_mistake() {
    let in_file = THREE_KEYS.replace("[source]", "[source]\npassword = \"hunter2\"");
    let (told, keys) = Trial::toml(&in_file).with("OUTBOX_RELAY_SOURCE_PASSWORD", "hunter2").refused();
    assert_eq!(keys, ["source.password"]);
    assert!(told.contains("more than once") && !told.contains("hunter2"), "{told}");
    let (told, _) =
        Trial::toml(&in_file).with("OUTBOX_RELAY_SOURCE_URL", "postgres://relay:hunter2@localhost").refused();
    assert!(told.contains("source.url") && !told.contains("hunter2"), "{told}");
    let (_, keys) = Trial::toml(&in_file).with("OUTBOX_RELAY_SOURCE_PASSWORD_FILE", "/nowhere").refused();
    assert_eq!(keys, ["source.password", "source.password_file"]);
}

#[test]
fn no_refusal_shows_a_secret() {
    let secrets = [
        "name = \"x\"\n[source]\npassword = 2468135\n",
        "name = \"x\"\n[source]\npassword = [\"2468135\"]\n",
        "name = \"x\"\n[source]\npasswrod = \"2468135\"\n",
        "name = \"x\"\n[source]\npassword = \"2468135\n",
        "name = \"x\"\n[source]\nurl = \"postgres://relay:2468135@db/orders\"\n",
        "name = \"x\"\n[source]\nurl = \"postgres://relay:24@2468135@db/orders\"\n",
        "[kafka.options]\n\"sasl.passwrod\" = \"2468135\"\n",
        "[kafka.options]\n\"sasl.password\" = [\"2468135\"]\n",
        "[kafka.options]\n\"ssl.key.pem\" = \"2468135\"\n\"ssl.key.password\" = \"2468135\"\n",
    ];
    for text in secrets {
        let (told, _) = Trial::toml(text).refused();
        assert!(!told.contains("2468135"), "{told}");
    }
    let (told, _) = Trial::toml("").with("OUTBOX_RELAY_SOURCE_PASWORD", "2468135").refused();
    assert!(!told.contains("2468135"), "{told}");
}

#[test]
fn options_with_secrets_are_not_printed() {
    let trial = Trial::toml(THREE_KEYS).with("OUTBOX_RELAY_KAFKA_OPTIONS_SASL_PASSWORD", "hunter2");
    let settings = trial.load().unwrap();
    assert_eq!(settings.kafka.options, [("sasl.password".to_string(), "hunter2".to_string())]);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let shown = show(Some(&trial.file), &|| trial.variables.clone()).unwrap();
    assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("\"security.protocol\" is not set: sasl_ssl follows"), "{shown}");
}

#[test]
fn a_topics_options_are_taken_by_their_names() {
    let text = format!(
        "{THREE_KEYS}[topics]\ncreate = true\nretention = \"168h\"\n[topics.options]\n\"max.message.bytes\" = 2000\n"
    );
    let trial = Trial::toml(&text).with("OUTBOX_RELAY_TOPICS_OPTIONS_CLEANUP_POLICY", "compact");
    let topics = trial.load().unwrap().topics;
    assert!(topics.create);
    assert_eq!(topics.retention, Some(Duration::from_secs(168 * 3600)));
    let options = [("cleanup.policy", "compact"), ("max.message.bytes", "2000")];
    assert_eq!(topics.options, options.map(|(name, value)| (name.to_string(), value.to_string())));
    let shown = show(Some(&trial.file), &|| trial.variables.clone()).unwrap();
    assert!(shown.contains("topics.options.\"max.message.bytes\" = \"2000\""), "{shown}");
    let (told, _) = Trial::toml(&format!("{THREE_KEYS}[topics]\noptions = 1\n")).refused();
    assert!(told.contains("topics.options.cleanup.policy"), "{told}");
}

#[test]
fn a_key_given_twice_is_a_mistake() {
    let (told, keys) = Trial::toml(&format!("\"kafka.brokers\" = \"k2:1\"\n{THREE_KEYS}")).refused();
    assert_eq!(keys, ["kafka.brokers"], "{told}");
}

#[test]
fn text_has_to_be_text() {
    let (told, keys) = Trial::file("relay.yml", "name: 123\nsource: 7\nkafka:\n").refused();
    assert!(told.contains("text, in quotes"), "{told}");
    assert!(told.contains("is a section"), "{told}");
    assert_eq!(keys, ["source", "name", "source.url", "kafka.brokers"], "{told}");
}

#[test]
fn rules_name_columns_by_part_or_by_name() {
    let text = format!(
        "{THREE_KEYS}[outbox]\ntable = \"public.outbox\"\ncolumns.aggregatetype = \"Entity\"\n\
         [route]\ntopic = \"shop.{{aggregatetype}}.{{region}}\"\nregex = '(.*)\\.eu'\nreplacement = \"$1\"\nkey = \"{{tenant}}\"\n\
         [headers]\n\"X-Type\" = \"{{type}}\"\nnested.name = \"{{{{\"\n"
    );
    let outbox = Trial::toml(&text).with("OUTBOX_RELAY_HEADERS_TENANT_ID", "{tenant}").load().unwrap().outbox;
    let published: Vec<&str> = outbox.columns.published().collect();
    assert_eq!(published, ["id", "type", "payload", "Entity", "region", "tenant", "type", "tenant"]);
    assert!(outbox.columns.publishes("region") && !outbox.columns.publishes("aggregateid"));
    let names: Vec<&str> = outbox.rules.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["X-Type", "nested.name", "tenant_id"]);
    assert!(outbox.rules.topic.unwrap().rewrite.is_some());
}

#[test]
fn a_rewrite_alone_sees_prefix_and_aggregate_type() {
    let text = format!("{THREE_KEYS}[route]\nregex = \"(.*)\"\nreplacement = \"$1\"\n");
    let rule = Trial::toml(&text).load().unwrap().outbox.rules.topic.unwrap();
    assert_eq!(rule.template, rules::Template::prefixed("outbox.event."));
    assert!(Trial::toml(THREE_KEYS).load().unwrap().outbox.rules == Rules::default());
}

#[test]
fn all_mistakes_in_rules_are_told_in_one_run() {
    let text = format!(
        "{THREE_KEYS}topic_prefix = \"a.\"\n[route]\ntopic = \"a/{{b}}\"\nregex = \"(\"\nkey = \"{{\"\n\
         [headers]\nposition = \"x\"\nn = 5\nopen = \"{{x\"\n"
    );
    let (told, keys) = Trial::toml(&text).refused();
    let expected = [
        "route.topic",
        "route.regex",
        "route.regex",
        "route.key",
        "headers.n",
        "headers.open",
        "headers.position",
        "route.topic",
    ];
    assert_eq!(keys, expected, "{told}");
    assert!(told.contains("reserved") && told.contains("given without route.replacement"), "{told}");
    let text = format!("{THREE_KEYS}[route]\nregex = \"(.*)\"\nreplacement = \"a$2\"\n");
    let (told, keys) = Trial::toml(&text).refused();
    assert_eq!(keys, ["route.replacement"]);
    assert!(told.contains("group 2"), "{told}");
}

#[test]
fn options_that_do_not_fit_together_are_a_mistake() {
    let text = format!("{THREE_KEYS}[kafka.options]\n\"socket.timeout.ms\" = 120000\n");
    let (told, keys) = Trial::toml(&text).refused();
    assert_eq!(keys, ["kafka.options"]);
    assert!(told.contains("socket.timeout.ms"), "{told}");
}
