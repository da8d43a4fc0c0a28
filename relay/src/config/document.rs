//! What is printed of keys: the reference document, and the settings in force.

use std::fmt::Write;

use outbox_kafka_link::protocol::{PROTOCOL, protocol};

use super::assemble::show_option;
use super::given::AllGiven;
use super::kafka_options::REFUSED;
use super::keys::{
    AnyKey, Fallback, HEADERS, KAFKA_BROKERS, KAFKA_OPTIONS, QUARANTINE_TOPICS, TABLE, TOPIC_OPTIONS,
};
use super::topic_options;

const HEAD: &str = "\
# Configuration

This page is printed by `outbox-relay config reference`; a test keeps it equal to the program.

The relay reads one file, TOML (`.toml`) or YAML (`.yaml`, `.yml`): the one named by `--config`, else by the
environment variable `OUTBOX_RELAY_CONFIG`, else `outbox-relay.toml` in the working directory if it exists. Over
it goes the environment: every key has a variable, and what the variable says counts. An empty variable counts
as not set; those that Kubernetes sets beside a service called `outbox-relay` are passed over. Three keys have to be given:

```toml
name = \"orders\"
[source]
url = \"postgres://relay@localhost/orders\"
[kafka]
brokers = \"localhost:9092\"
```

All mistakes are told in one run, each with its key, its place and what was expected; a key or a variable that
does not exist is refused with the nearest that does. Secrets are never printed. `outbox-relay config check`
looks without starting anything, `outbox-relay config show` prints what is in force and where it comes from.

One more variable belongs to the command line: `OUTBOX_RELAY_ADMIN_URL` stands for `init --admin-url`.

Sizes are plain bytes or have a unit (`kB` `MB` `GB` of 1000, `KiB` `MiB` `GiB` of 1024), durations always have
one (`ms` `s` `m` `h`); both are whole numbers.
";

const TLS: &str = "
## TLS to PostgreSQL

Both of the relay's connections, and the one of `init --admin-url`, are protected by what the URL says, in libpq's
words:

| `sslmode` | what it means |
|---|---|
| none | `verify-full`; on loopback `disable`, unless a parameter below asks for TLS |
| `disable` | in the clear |
| `prefer` | TLS if the server offers it, else in the clear; with whom is not looked at |
| `require` | TLS; with whom is not looked at |
| `verify-ca` | TLS with a server that an authority in `sslrootcert` has signed, whatever its name |
| `verify-full` | TLS with the server of this name |

With `sslrootcert` `prefer` and `require` become `verify-full`. `allow` is refused.

| parameter | what it means |
|---|---|
| `sslrootcert` | PEM file of the authorities that may sign the server's certificate, or `system` (the default): those the system trusts, where `SSL_CERT_FILE` and `SSL_CERT_DIR` name others |
| `sslcert`, `sslkey` | PEM files of the relay's own certificate and its key, without a passphrase, for a server that asks for them |
| `channel_binding` | `prefer` (the default), `require` or `disable`: whether the password's proof is bound to the server's certificate (SCRAM-SHA-256-PLUS), so that nobody between can pass it on |

```toml
[source]
url = \"postgres://relay@db.example.com/orders?sslrootcert=/etc/relay/ca.pem&channel_binding=require\"
```

A path in the URL is percent-encoded where it holds `%`, `&` or `#`. TLS 1.2 and 1.3 are spoken. The name has to be
in the certificate's subjectAltName. Files are looked at when the relay starts and read again for every connection.
A certificate that one side does not accept halts the relay at its start, as a password does that the server refuses. Once
it has logged in and its certificate or `sslrootcert` is a file, it waits for the file to be renewed: whoever renews an
authority cannot do so on both sides at once. A password is never sent in clear text, not even over TLS.
";

const OPTIONS: &str = "
## `kafka.options`

Every other option of librdkafka's producer, under its own name and taken as it is, for TLS and SASL above all:

```toml
[kafka.options]
\"ssl.ca.location\" = \"/etc/relay/kafka-ca.pem\"
\"sasl.mechanisms\" = \"SCRAM-SHA-512\"
\"sasl.username\" = \"relay\"
```

Without `security.protocol` it follows from the rest: `plaintext` where every broker in `kafka.brokers` is on
loopback, else `ssl`; `sasl_plaintext` and `sasl_ssl` where a login is configured (`sasl.mechanisms`, `sasl.username`
and their like); TLS on loopback, too, where an `ssl.` option is given. To speak in the clear over a network you
trust, write `\"security.protocol\" = \"plaintext\"` (or `sasl_plaintext`). Options that the protocol would leave out are
refused. The brokers' certificates are checked against `ssl.ca.location`, or the system's authorities, by name.

Logins: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, and `OAUTHBEARER` with unsecured tokens
(`\"enable.sasl.oauthbearer.unsecure.jwt\" = true`), which are for tests; fetching tokens over HTTP
(`sasl.oauthbearer.method = oidc`) and Kerberos are not built in.

In the environment dots become underscores: `OUTBOX_RELAY_KAFKA_OPTIONS_SASL_PASSWORD`. A name or a value that
librdkafka does not take is a mistake. Refused are the options that would break a promise or have a key of their
own:

| option | why it is refused |
|---|---|
";

const OF_TOPICS: &str = "
## `topics.options`

Kafka's own configuration of a topic that the relay makes, under its own name. A topic that exists is never
changed. In the environment dots become underscores: `OUTBOX_RELAY_TOPICS_OPTIONS_CLEANUP_POLICY`.

```toml
[topics.options]
\"cleanup.policy\" = \"compact,delete\"
\"max.message.bytes\" = 2000000
```

The brokers judge names and values: what they refuse is said while the relay waits. Refused at once:

| option | why it is refused |
|---|---|
";

const HEADER_RULES: &str = "
## `headers`

Further headers of every record, a template each; placeholders are those of `route.topic`, a brace of the text
itself is doubled, a bytea counts as its bytes:

```toml
[headers]
tenant = \"{tenant}\"
\"x-source\" = \"shop/{region}\"
```

They come in the order of their names, after the relay's own headers and before those in the row's `headers`
column. Where a column is NULL the header is left out. A name of the relay's own headers is refused. In the environment the name is in lower case: `OUTBOX_RELAY_HEADERS_TENANT` is `tenant`.
";

/// The reference document, Markdown.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    let mut section = None;
    for key in TABLE {
        let own = section_of(key.path());
        if section != Some(own) {
            section = Some(own);
            let title = if own.is_empty() { "The relay itself".into() } else { format!("`{own}`") };
            let _ = write!(page, "\n## {title}\n");
        }
        entry(&mut page, *key);
    }
    page.push_str(HEADER_RULES);
    page.push_str(TLS);
    page.push_str(OPTIONS);
    for (name, reason) in REFUSED {
        let _ = writeln!(page, "| `{name}` | {reason} |");
    }
    page.push_str(OF_TOPICS);
    for (name, reason) in topic_options::REFUSED {
        let _ = writeln!(page, "| `{name}` | {reason} |");
    }
    page
}

fn entry(page: &mut String, key: &dyn AnyKey) {
    let default = match key.fallback() {
        Fallback::Required => "none; it has to be given".to_string(),
        Fallback::Text(text) => format!("`{text}`"),
        Fallback::Unset(meaning) => meaning.to_string(),
    };
    let secret = if key.is_secret() { "\n- Secret: never printed" } else { "" };
    let _ = write!(
        page,
        "\n### `{}`\n\n{}\n\n- Value: {}\n- Default: {default}\n- Example: `{}`\n- Environment: `{}`{secret}\n",
        key.path(),
        key.about(),
        key.expectation(),
        key.example(),
        key.variable(),
    );
}

/// Everything before the last dot; nothing for a key of the relay itself.
fn section_of(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(section, _)| section)
}

/// The values in force, one key a line, each with its place; secrets are masked.
pub fn in_force(given: &AllGiven) -> String {
    let mut page = String::new();
    for key in TABLE {
        let _ = match (given.get(key.path()), key.fallback()) {
            (Some(value), _) => {
                writeln!(page, "{} = {}  # {}", key.path(), key.show(&value.text), value.origin)
            }
            (None, Fallback::Text(text)) => writeln!(page, "{} = {}  # default", key.path(), key.show(text)),
            (None, Fallback::Unset(meaning)) => writeln!(page, "# {} is not set: {meaning}", key.path()),
            (None, Fallback::Required) => writeln!(page, "# {} is missing", key.path()),
        };
    }
    for (path, value) in given.iter().filter(|(path, _)| path.starts_with(HEADERS)) {
        let name = path.strip_prefix(HEADERS).unwrap_or(path);
        let _ = writeln!(page, "headers.{name:?} = {:?}  # {}", value.text, value.origin);
    }
    for (path, value) in given.iter().filter(|(path, _)| path.starts_with(KAFKA_OPTIONS)) {
        let name = path.strip_prefix(KAFKA_OPTIONS).unwrap_or(path);
        let _ =
            writeln!(page, "kafka.options.{name:?} = {}  # {}", show_option(name, &value.text), value.origin);
    }
    for (path, value) in given.iter().filter(|(path, _)| path.starts_with(TOPIC_OPTIONS)) {
        let name = path.strip_prefix(TOPIC_OPTIONS).unwrap_or(path);
        let _ = writeln!(page, "topics.options.{name:?} = {:?}  # {}", value.text, value.origin);
    }
    for (path, value) in given.iter().filter(|(path, _)| path.starts_with(QUARANTINE_TOPICS)) {
        let topic = path.strip_prefix(QUARANTINE_TOPICS).unwrap_or(path);
        let _ = writeln!(page, "quarantine.topics.{topic:?} = {:?}  # {}", value.text, value.origin);
    }
    let option = format!("{KAFKA_OPTIONS}{PROTOCOL}");
    if let Some(protocol) = implied_protocol(given).filter(|_| !given.contains_key(&option)) {
        let _ = writeln!(page, "# kafka.options.{PROTOCOL:?} is not set: {protocol} follows from the rest");
    }
    page
}

/// `security.protocol` where no option says it.
fn implied_protocol(given: &AllGiven) -> Option<String> {
    let brokers = given.get(KAFKA_BROKERS.path)?;
    let options = given
        .iter()
        .filter_map(|(path, value)| Some((path.strip_prefix(KAFKA_OPTIONS)?.to_owned(), value.text.clone())));
    protocol(&brokers.text, &options.collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_printed_one() {
        let committed = include_str!("../../../docs/configuration.md");
        assert!(committed == reference(), "renew it: outbox-relay config reference > docs/configuration.md");
    }
}
