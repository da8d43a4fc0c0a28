//! A shipping service, such as anybody might write with the consumer SDK: for each event of an order one effect,
//! in a database of its own. Nothing but the consumer keeps an effect from being missing, doubled or out of order.

use std::time::Duration;

use outbox_consumer::ladder::{hours, in_place, seconds};
use outbox_consumer::{Consumer, Event, Handled, Tx, Unregistered, WithDatabase, done, transactional};
use outbox_schema::sql::inbox;
use serde::Deserialize;
use tokio_postgres::{Client, Row};

use super::postgres::{Postgres, PostgresError, SUPERUSER};
use super::service;
use super::verdict::Effect;

/// The service's name: its scope in the inbox.
const NAME: &str = "shipping";
/// The service's database.
pub const DATABASE: &str = "shipping";
/// The role it logs in as.
pub const ROLE: &str = "shipping";
/// Handlers that run at the same time, in each instance; each takes a connection.
const CONCURRENCY: usize = 8;
/// What instances call themselves at the database, before their number.
const INSTANCE: &str = "shipping-";

/// What an event of an order says.
#[derive(Debug, Deserialize)]
struct Change {
    version: i64,
}

/// The effect is a row with the number of the order's newest effect that its transaction saw: had the one before
/// not been committed, it would show.
async fn ship(change: Event<Change>, tx: Tx) -> Handled {
    let (event, order) = (change.facts().id(), change.facts().key().unwrap_or_default());
    let insert = "INSERT INTO effects (event, key, number, seen)
                  SELECT $1, $2, $3, coalesce(max(number), 0) FROM effects WHERE key = $2";
    tx.execute(insert, &[&event, &order, &change.version]).await?;
    done()
}

/// The consumer; brokers, group and database come from the environment.
pub fn consumer(topic: &str, session: Duration) -> Consumer<WithDatabase> {
    let heartbeat = session / 6;
    let consumer = Consumer::from_env(NAME)
        .owner("the one who watches", hours(1))
        .topic(topic)
        .concurrency(CONCURRENCY)
        // The broker in memory does not say how long it keeps records.
        .source_retention(hours(7 * 24))
        // An event that nobody handles would be a missing effect.
        .unregistered(Unregistered::Fail)
        .retry(in_place(3).then([seconds(1); 10]))
        .kafka_option("session.timeout.ms", &session.as_millis().to_string())
        .kafka_option("heartbeat.interval.ms", &heartbeat.as_millis().to_string());
    service::event_types().into_iter().fold(consumer, |consumer, kind| consumer.on(kind, transactional(ship)))
}

/// Makes the service's role and database, with the inbox and the table of effects.
///
/// # Errors
/// [`PostgresError`].
pub async fn make_database(postgres: &Postgres) -> Result<(), PostgresError> {
    let client = postgres.connect(SUPERUSER, SUPERUSER).await?;
    let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{}'", postgres.password());
    for statement in [format!("CREATE DATABASE {DATABASE}"), role] {
        client.batch_execute(&statement).await.map_err(refused("make the consumer's database"))?;
    }
    let client = postgres.connect(SUPERUSER, DATABASE).await?;
    client.batch_execute(&inbox::up()).await.map_err(refused("install the inbox"))?;
    let statements = format!(
        "CREATE TABLE effects (
             at bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             event uuid NOT NULL, key text NOT NULL, number bigint NOT NULL, seen bigint NOT NULL);
         CREATE INDEX ON effects (key, number);
         GRANT SELECT, INSERT ON effects TO {ROLE};
         GRANT {} TO {ROLE};",
        inbox::CONSUMER_ROLE
    );
    client.batch_execute(&statements).await.map_err(refused("make the table of effects"))
}

/// The database's URL for an instance.
pub fn url(postgres: &Postgres, instance: usize) -> String {
    format!("{}?application_name={INSTANCE}{instance}", postgres.url(ROLE, DATABASE))
}

fn refused(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    move |source| PostgresError::Sql { what, source }
}

/// Looks into the service's database, as its superuser.
pub struct Books {
    client: Client,
}

impl Books {
    /// Connects.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn open(postgres: &Postgres) -> Result<Books, PostgresError> {
        Ok(Books { client: postgres.connect(SUPERUSER, DATABASE).await? })
    }

    /// Effects so far.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn count(&self) -> Result<u64, PostgresError> {
        self.number("SELECT count(*) FROM effects", "count the effects").await
    }

    /// Keys that wait for another attempt.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn waiting(&self) -> Result<u64, PostgresError> {
        self.number("SELECT count(*) FROM inbox.parked_key", "count what is parked").await
    }

    /// Transactions that an instance has open at this moment.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn open_transactions(&self, instance: usize) -> Result<u64, PostgresError> {
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE application_name = '{INSTANCE}{instance}' AND xact_start IS NOT NULL"
        );
        self.number(&open, "show its sessions").await
    }

    /// Every effect, in the order in which they were written.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn effects(&self) -> Result<Vec<Effect>, PostgresError> {
        let query = "SELECT event, key, number, seen FROM effects ORDER BY at";
        let rows = self.client.query(query, &[]).await.map_err(refused("show the effects"))?;
        let effect = |row: &Row| {
            let (event, order) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Effect { event, order, number: row.try_get(2)?, seen: row.try_get(3)? })
        };
        rows.iter().map(effect).collect::<Result<_, _>>().map_err(refused("show the effects"))
    }

    async fn number(&self, query: &str, what: &'static str) -> Result<u64, PostgresError> {
        let row = self.client.query_one(query, &[]).await.map_err(refused(what))?;
        let number: i64 = row.try_get(0).map_err(refused(what))?;
        Ok(number.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wrong_with_the_consumer_but_what_its_environment_gives() {
        let mistakes = consumer("outbox.event.order", Duration::from_secs(6)).mistakes();
        let given = |mistake: &&String| mistake.contains("KAFKA_BROKERS") || mistake.contains("DATABASE_URL");
        assert_eq!(mistakes.iter().filter(|mistake| !given(mistake)).count(), 0, "{mistakes:?}");
    }
}
