//! Connections to PostgreSQL and Kafka.

use std::convert::Infallible;

use clap::Args;
use outbox_kafka_link::Link;
use outbox_postgres_link::{Link as DatabaseLink, Session};
use rdkafka::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Client;

use super::CommandError;

/// Where the inbox is.
#[derive(Debug, Args)]
pub struct DatabaseArgs {
    /// The database with the inbox, such as postgres://oncall@db.example/inventory; TLS by its sslmode, without one
    /// verify-full unless the server is on this machine. The password also from PGPASSWORD or PGPASSWORD_FILE
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database_url: Option<SecretString>,
}

/// Where the dead-letter topics are.
#[derive(Debug, Args)]
pub struct KafkaArgs {
    /// Brokers, such as k1.example.com:9093; over TLS unless all are on this machine. KAFKA_SECURITY_PROTOCOL says
    /// otherwise; KAFKA_SSL_CA_FILE, KAFKA_SSL_CERTIFICATE_FILE, KAFKA_SSL_KEY_FILE, KAFKA_SASL_MECHANISM,
    /// KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE say the rest, as for a consumer
    #[arg(long, value_name = "HOST:PORT,…", env = "KAFKA_BROKERS")]
    brokers: Option<String>,
    /// A setting of the client (librdkafka's names), such as ssl.ca.location=/etc/ca.pem; repeatable. A password is safer in
    /// its variable: command lines can be seen
    #[arg(long, value_name = "NAME=VALUE", value_parser = option)]
    kafka_option: Vec<KafkaOption>,
}

/// A setting of the client. Its value may be a password and is not printed.
#[derive(Debug, Clone)]
struct KafkaOption {
    name: String,
    value: SecretString,
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

fn option(text: &str) -> Result<KafkaOption, String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok(KafkaOption { name: name.trim().to_owned(), value: SecretString::from(value.trim()) })
}

/// A connection and who is logged in on it.
pub struct Database {
    /// The connection.
    pub client: Client,
    /// The role.
    pub role: String,
}

impl DatabaseArgs {
    /// Connects, and makes sure that there is an inbox.
    pub async fn connect(&self) -> Result<Database, CommandError> {
        open(self.link().map_err(CommandError::Settings)?).await
    }

    /// Settings of Kafka's client, and the connection; before anything is connected all that is wrong with the settings
    /// of both is told.
    pub async fn connect_with(&self, kafka: &KafkaArgs) -> Result<(Database, ClientConfig), CommandError> {
        match (self.link(), kafka.config()) {
            (Ok(link), Ok(config)) => Ok((open(link).await?, config)),
            (link, config) => {
                let wrong = [link.err(), config.err()].into_iter().flatten().flatten();
                Err(CommandError::Settings(wrong.collect()))
            }
        }
    }

    fn link(&self) -> Result<DatabaseLink, Vec<String>> {
        let url = self.database_url.as_ref().ok_or_else(|| {
            vec![
                "no database is named: set DATABASE_URL or give --database-url (the database that the consumer's \
                 handlers write to)"
                    .to_owned(),
            ]
        })?;
        DatabaseLink::parse(url.expose_secret(), |name| std::env::var(name).ok())
            .map_err(|mistakes| mistakes.iter().map(|mistake| format!("DATABASE_URL: {mistake}")).collect())
    }
}

async fn open(link: DatabaseLink) -> Result<Database, CommandError> {
    let (client, driver) = link.connect(&Session::named("outbox-dlq")).await?;
    // It ends with the client; what went wrong is told to whoever asks on it.
    tokio::spawn(driver);
    let who = "SELECT session_user::text, current_database()::text, to_regnamespace('inbox') IS NOT NULL,
               coalesce(has_schema_privilege(to_regnamespace('inbox'), 'USAGE'), false)";
    let row = client.query_one(who, &[]).await;
    let row = row.map_err(|source| CommandError::Ask { what: "say who is logged in", source })?;
    let role: String = row.get(0);
    if !row.get::<_, bool>(2) {
        return Err(CommandError::Absent { database: row.get(1) });
    }
    if !row.get::<_, bool>(3) {
        return Err(CommandError::Forbidden { role });
    }
    Ok(Database { client, role })
}

impl KafkaArgs {
    /// Settings for a client, by the rules of the consumer.
    fn config(&self) -> Result<ClientConfig, Vec<String>> {
        self.config_with(|name| std::env::var(name).ok())
    }

    fn config_with(&self, env: impl Fn(&str) -> Option<String>) -> Result<ClientConfig, Vec<String>> {
        let brokers = self.brokers.as_deref().filter(|brokers| !brokers.trim().is_empty());
        let none = brokers
            .is_none()
            .then(|| "no broker is named: set KAFKA_BROKERS or give --brokers HOST:PORT".to_owned());
        let given: Vec<(String, String)> = self
            .kafka_option
            .iter()
            .map(|option| (option.name.clone(), option.value.expose_secret().to_owned()))
            .collect();
        match (none, Link::parse(brokers.unwrap_or_default(), &given, env)) {
            (None, Ok(link)) => {
                let mut config = link.config();
                if config.get("client.id").is_none() {
                    config.set("client.id", "outbox-dlq");
                }
                Ok(config)
            }
            (none, link) => Err(none.into_iter().chain(link.err().into_iter().flatten()).collect()),
        }
    }
}

/// A reason with the person behind it: several people may share a role in the database.
pub fn signed(reason: &str) -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = named.filter(|user| !user.is_empty()).unwrap_or_else(user_number);
    format!("{reason} (by {user})")
}

#[cfg(target_os = "linux")]
fn user_number() -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or_else(|_| "nobody known".into(), |own| format!("uid {}", own.uid()))
}

#[cfg(not(target_os = "linux"))]
fn user_number() -> String {
    "nobody known".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(
        brokers: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<ClientConfig, Vec<String>> {
        let kafka_option = options.iter().map(|text| option(text).unwrap()).collect();
        let args = KafkaArgs { brokers: Some(brokers.into()), kafka_option };
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        args.config_with(|name| find(name).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn brokers_elsewhere_are_spoken_to_with_tls() {
        let protocol = |brokers: &str, options: &[&str], variables: &[(&str, &str)]| {
            config(brokers, options, variables).unwrap().get("security.protocol").map(str::to_owned)
        };
        assert_eq!(protocol("127.0.0.1:9092,[::1]:9092", &[], &[]).as_deref(), Some("plaintext"));
        assert_eq!(protocol("127.0.0.1:9092,k1:9092", &[], &[]).as_deref(), Some("ssl"));
        assert_eq!(protocol("k1:9092", &["security.protocol=plaintext"], &[]).as_deref(), Some("plaintext"));
        let clear = [("KAFKA_SECURITY_PROTOCOL", "plaintext")];
        assert_eq!(protocol("k1:9092", &[], &clear).as_deref(), Some("plaintext"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let wrong = config("", &["sasl.pasword=hush"], &[("KAFKA_SASL_USERNAME", "oncall")]).unwrap_err();
        for part in ["no broker is named", "sasl.pasword", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_PASSWORD"] {
            assert!(wrong.iter().any(|sentence| sentence.contains(part)), "{part}: {wrong:?}");
        }
        assert!(!wrong.concat().contains("hush"), "{wrong:?}");
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", option("sasl.password=hush").unwrap()).contains("hush"));
    }
}
