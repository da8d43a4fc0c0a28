//! The database. In operation each service has one of its own, with its own inbox; here they share one, a schema for
//! each, so that one command can compare them.

use anyhow::Context;
use outbox_schema::sql::inbox;
use tokio_postgres::{Client, Error, NoTls};

const TABLES: &str = include_str!("tables.sql");

/// `DATABASE_URL`.
pub fn url() -> anyhow::Result<String> {
    std::env::var("DATABASE_URL").context("DATABASE_URL is not set: postgres://user@host/database")
}

/// A connection without TLS: for a database on this machine.
pub async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client, and whoever uses the client hears of its errors.
    tokio::spawn(connection);
    Ok(client)
}

/// Makes what is not there yet.
pub async fn prepare() -> anyhow::Result<()> {
    let mut client = connect(&url()?).await?;
    let tx = client.transaction().await?;
    for (schema, sql) in [("inbox", inbox::up()), ("orders", TABLES.to_owned())] {
        let there = "SELECT to_regnamespace($1) IS NOT NULL";
        if !tx.query_one(there, &[&schema]).await?.get::<_, bool>(0) {
            tx.batch_execute(&sql).await?;
        }
    }
    tx.commit().await?;
    println!("prepared");
    Ok(())
}
