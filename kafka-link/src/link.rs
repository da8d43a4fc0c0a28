//! One cluster as a consumer's settings name it: what is known before anything is connected.

use std::fmt;
use std::path::Path;

use outbox_postgres_link::password;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::producer::BaseProducer;
use secrecy::ExposeSecret;

use crate::options::{self, Silent};
use crate::protocol::{PROTOCOL, is_login, protocol};

/// The variables that stand for an option of librdkafka, beside `KAFKA_BROKERS`.
const OPTIONS: [(&str, &str); 7] = [
    ("KAFKA_SECURITY_PROTOCOL", PROTOCOL),
    ("KAFKA_SSL_CA_FILE", "ssl.ca.location"),
    ("KAFKA_SSL_CERTIFICATE_FILE", CERTIFICATE),
    ("KAFKA_SSL_KEY_FILE", KEY),
    ("KAFKA_SASL_MECHANISM", MECHANISM),
    ("KAFKA_SASL_USERNAME", USERNAME),
    (PASSWORD_VARIABLE, PASSWORD),
];
const PASSWORD_VARIABLE: &str = "KAFKA_SASL_PASSWORD";
/// The variable that names a file whose only line is the password.
const PASSWORD_FILE: &str = "KAFKA_SASL_PASSWORD_FILE";

const CERTIFICATE: &str = "ssl.certificate.location";
const KEY: &str = "ssl.key.location";
const MECHANISM: &str = "sasl.mechanisms";
const USERNAME: &str = "sasl.username";
const PASSWORD: &str = "sasl.password";

/// Every variable that [`Link::parse`] reads.
pub const VARIABLES: [&str; 8] = [
    OPTIONS[0].0,
    OPTIONS[1].0,
    OPTIONS[2].0,
    OPTIONS[3].0,
    OPTIONS[4].0,
    OPTIONS[5].0,
    OPTIONS[6].0,
    PASSWORD_FILE,
];

/// A cluster, how it is spoken to, and as whom to log in. `Debug` names options and shows no value.
#[derive(Clone)]
pub struct Link {
    brokers: String,
    protocol: String,
    options: Vec<(String, String)>,
}

impl Link {
    /// Puts together brokers, options of librdkafka and what the environment says beside them. A variable that is empty
    /// counts as none. Unless something says otherwise TLS is spoken as soon as a broker is not on loopback, and the
    /// broker has to be who it says it is.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them and with the files that they name, without a secret.
    pub fn parse(
        brokers: &str,
        given: &[(String, String)],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Link, Vec<String>> {
        let mut reader = Reader { options: Vec::new(), places: Vec::new(), wrong: Vec::new() };
        reader.take_given(given);
        reader.take_variables(&env);
        reader.look_for_halves();
        let protocol = reader.protocol(brokers);
        let Reader { options, mut wrong, .. } = reader;
        match protocol {
            Some(protocol) if wrong.is_empty() => {
                wrong.extend(check_together(&protocol, &options).err());
                if wrong.is_empty() {
                    return Ok(Link { brokers: brokers.to_owned(), protocol, options });
                }
                Err(wrong)
            }
            Some(_) | None => Err(wrong),
        }
    }

    /// What every client of this cluster is made with.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.options {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers).set(PROTOCOL, &self.protocol);
        // Why a broker closed a connection stands in the log alone.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// Where and how, for a log: never a secret.
    pub fn describe(&self) -> String {
        let user = find(&self.options, &[USERNAME]).map(|user| format!(" as user {user}"));
        format!("{} by {}{}", self.brokers, self.protocol, user.unwrap_or_default())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.options.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Link")
            .field("brokers", &self.brokers)
            .field("protocol", &self.protocol)
            .field("options", &names)
            .finish()
    }
}

/// What was read so far, and what was wrong with it.
struct Reader {
    options: Vec<(String, String)>,
    /// Where each was given.
    places: Vec<String>,
    wrong: Vec<String>,
}

impl Reader {
    /// Options by librdkafka's names; of one that is given again the last counts.
    fn take_given(&mut self, given: &[(String, String)]) {
        for (at, (name, value)) in given.iter().enumerate() {
            if ["bootstrap.servers", "metadata.broker.list"].contains(&name.as_str()) {
                self.wrong.push(format!("option {name}: the brokers are named in KAFKA_BROKERS"));
                continue;
            }
            if given[at + 1..].iter().all(|(later, _)| one_name(later) != one_name(name)) {
                self.take(one_name(name), value, format!("option {name}"));
            }
        }
    }

    fn take_variables(&mut self, env: &impl Fn(&str) -> Option<String>) {
        let set = |name: &str| env(name).filter(|text| !text.trim().is_empty());
        for (variable, option) in OPTIONS {
            let Some(value) = set(variable) else { continue };
            let value = if option == PASSWORD { value.as_str() } else { value.trim() };
            if self.is_new(option, variable) {
                self.take(option, value, variable.to_owned());
            }
            if variable.ends_with("_FILE")
                && let Err(error) = std::fs::File::open(value)
            {
                self.wrong.push(format!("{variable} {value} cannot be read: {error}"));
            }
        }
        let Some(path) = set(PASSWORD_FILE) else { return };
        if !self.is_new(PASSWORD, PASSWORD_FILE) {
            return;
        }
        match password::from_file(Path::new(path.trim())) {
            Ok(secret) => self.take(PASSWORD, secret.expose_secret(), PASSWORD_FILE.to_owned()),
            Err(problem) => {
                self.wrong.push(format!("{PASSWORD_FILE} {path} {problem}"));
                // It was given, and what is wrong with it is told.
                self.options.push((PASSWORD.to_owned(), String::new()));
                self.places.push(PASSWORD_FILE.to_owned());
            }
        }
    }

    /// One place only: with two, whoever changes one of them would change nothing.
    fn is_new(&mut self, option: &str, place: &str) -> bool {
        let before = self.options.iter().position(|(name, _)| name == option);
        if let Some(before) = before.and_then(|at| self.places.get(at)) {
            self.wrong.push(format!("{option} is given more than once: {before}, {place}; keep one"));
        }
        before.is_none()
    }

    fn take(&mut self, option: &str, value: &str, place: String) {
        let known = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
        let checked = match option {
            PROTOCOL if !known.contains(&value.to_ascii_lowercase().as_str()) => {
                Err("expected plaintext, ssl, sasl_plaintext or sasl_ssl".to_owned())
            }
            _ => options::check(option, value),
        };
        self.wrong.extend(checked.err().map(|problem| format!("{place}: {problem}")));
        self.options.push((option.to_owned(), value.to_owned()));
        self.places.push(place);
    }

    /// Whatever is half of something.
    fn look_for_halves(&mut self) {
        let has = |names: &[&str]| find(&self.options, names).is_some();
        let mut wrong = Vec::new();
        match (has(&[CERTIFICATE, "ssl.certificate.pem"]), has(&[KEY, "ssl.key.pem"])) {
            (true, false) => wrong.push(
                "KAFKA_SSL_KEY_FILE is not set: a certificate to log in with needs the file of its private key".to_owned(),
            ),
            (false, true) => wrong.push(
                "KAFKA_SSL_CERTIFICATE_FILE is not set: a private key to log in with needs the file of its certificate"
                    .to_owned(),
            ),
            (true, true) | (false, false) => {}
        }
        let asked = find(&self.options, &[PROTOCOL]).is_some_and(|protocol| is_with_login(&protocol));
        if asked || self.options.iter().any(|(name, _)| is_login(name)) {
            let mechanism = find(&self.options, &[MECHANISM]);
            if mechanism.is_none() {
                let which = "SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER";
                wrong.push(format!("KAFKA_SASL_MECHANISM is not set: a login needs one of {which}"));
            }
            if mechanism.is_none_or(|name| name == "PLAIN" || name.starts_with("SCRAM-")) {
                if !has(&[USERNAME]) {
                    wrong.push("KAFKA_SASL_USERNAME is not set: a login needs the user's name".to_owned());
                }
                if !has(&[PASSWORD]) {
                    wrong.push(format!(
                        "neither {PASSWORD_VARIABLE} nor {PASSWORD_FILE} is set: a login needs the user's password"
                    ));
                }
            }
        }
        self.wrong.extend(wrong);
    }

    fn protocol(&mut self, brokers: &str) -> Option<String> {
        let decided = protocol(brokers, &self.options);
        decided.map_err(|problem| self.wrong.push(format!("security.protocol {problem}"))).ok()
    }
}

fn is_with_login(protocol: &str) -> bool {
    protocol.to_ascii_lowercase().starts_with("sasl")
}

/// librdkafka has two names for this one.
fn one_name(name: &str) -> &str {
    if name == "sasl.mechanism" { MECHANISM } else { name }
}

fn find(options: &[(String, String)], names: &[&str]) -> Option<String> {
    options.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.clone())
}

/// What librdkafka makes of the files and of the login, before a broker is asked.
fn check_together(protocol: &str, given: &[(String, String)]) -> Result<(), String> {
    let of_link =
        |name: &str| ["ssl.", "sasl.", "enable.ssl.", "enable.sasl."].iter().any(|of| name.starts_with(of));
    let of_link: Vec<_> = given.iter().filter(|(name, _)| of_link(name)).collect();
    // A client that gets its tokens by itself asks for one at once; nothing is to be started here.
    if of_link.is_empty() || of_link.iter().any(|(name, _)| name == "sasl.oauthbearer.method") {
        return Ok(());
    }
    let mut config = ClientConfig::new();
    config.set(PROTOCOL, protocol);
    for (name, value) in of_link {
        config.set(name, value);
    }
    options::check_together::<BaseProducer<Silent>>(&config)
}

#[cfg(test)]
mod tests;
