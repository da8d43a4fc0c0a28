//! What is read from the environment.

use std::collections::HashMap;

use outbox_kafka_link::link::VARIABLES as OF_KAFKA;
use outbox_postgres_link::link::{PASSWORD, PASSWORD_FILE};
use outbox_postgres_link::{Link, Mistakes};

use super::park;

/// Everything that is read, beside what says how to connect to Kafka.
const VARIABLES: [&str; 10] = [
    "KAFKA_BROKERS",
    "KAFKA_GROUP",
    "DATABASE_URL",
    PASSWORD,
    PASSWORD_FILE,
    "OUTBOX_ADMIN",
    "OUTBOX_ADMIN_ALLOW_REMOTE",
    park::OF_KEY,
    park::EVENTS,
    park::BYTES,
];

/// What was found; a variable that is set to nothing counts as not set. It may hold a password and cannot be shown.
pub(super) struct Settings(HashMap<&'static str, String>);

impl Settings {
    /// Reads every variable once.
    pub(super) fn read(lookup: impl Fn(&str) -> Option<String>) -> Settings {
        let variables = VARIABLES.into_iter().chain(OF_KAFKA);
        let found = variables.filter_map(|variable| Some((variable, lookup(variable)?)));
        Settings(found.filter(|(_, value)| !value.trim().is_empty()).collect())
    }

    /// Kafka's bootstrap servers.
    pub(super) fn brokers(&self) -> Option<&str> {
        self.get("KAFKA_BROKERS")
    }

    /// How Kafka's brokers are spoken to, with options from elsewhere.
    ///
    /// # Errors
    /// Everything that is wrong with it; that no broker is named is not.
    pub(super) fn kafka(&self, options: &[(String, String)]) -> Result<outbox_kafka_link::Link, Vec<String>> {
        let brokers = self.brokers().unwrap_or_default();
        outbox_kafka_link::Link::parse(brokers, options, |variable| self.get(variable).map(str::to_owned))
    }

    /// The group, where it is not to be called as the consumer.
    pub(super) fn group(&self) -> Option<&str> {
        self.get("KAFKA_GROUP")
    }

    /// The URL of the database, with or without a password.
    pub(super) fn database(&self) -> Option<&str> {
        self.get("DATABASE_URL")
    }

    /// Where the database is; `None` where none is named.
    pub(super) fn link(&self) -> Option<Result<Link, Mistakes>> {
        Some(Link::parse(self.database()?, |variable| self.get(variable).map(str::to_owned)))
    }

    /// Where the admin port is to listen.
    pub(super) fn admin(&self) -> Option<&str> {
        self.get("OUTBOX_ADMIN")
    }

    /// Whether the admin port may be on an address that is not loopback.
    pub(super) fn admin_allow_remote(&self) -> bool {
        self.get("OUTBOX_ADMIN_ALLOW_REMOTE").is_some_and(|text| text.trim() == "true")
    }

    /// The text of a variable, if it is set.
    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        let settings = Settings::read(|_| Some(" ".to_owned()));
        assert_eq!((settings.brokers(), settings.group(), settings.admin()), (None, None, None));
        assert!(settings.database().is_none() && settings.link().is_none());
    }

    #[test]
    fn a_remote_admin_port_takes_the_word_true() {
        for (text, allowed) in [("true ", true), ("yes", false), ("1", false)] {
            assert_eq!(Settings::read(|_| Some(text.to_owned())).admin_allow_remote(), allowed, "{text}");
        }
    }
}
