//! Questions to a database that may be away.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::cluster::Postgres;
use crate::cluster::postgres::{PASSWORD, SUPERUSER};

/// Limit of one question.
const QUESTION: Duration = Duration::from_secs(20);
/// How long the server may be away before a question that has to be answered is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database, asked from threads. The connection is made anew where it is gone.
#[derive(Debug)]
pub struct Database {
    postgres: Arc<Postgres>,
    name: &'static str,
    handle: Handle,
    client: Mutex<Option<Arc<Client>>>,
}

impl Database {
    /// Connects with the first question.
    pub fn new(postgres: Arc<Postgres>, name: &'static str, handle: Handle) -> Database {
        Database { postgres, name, handle, client: Mutex::default() }
    }

    /// The rows of a query; `None` where nobody answers now.
    ///
    /// # Panics
    /// When the server refuses the query.
    pub fn try_ask(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<Vec<Row>> {
        self.handle.block_on(async {
            tokio::time::timeout(QUESTION, self.asked(query, parameters)).await.ok().flatten()
        })
    }

    async fn asked(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<Vec<Row>> {
        let known = self.client.lock().clone().filter(|client| !client.is_closed());
        let client = match known {
            Some(client) => client,
            None => {
                let client = self.postgres.connect_as(SUPERUSER, PASSWORD, self.name).await.ok()?;
                let client = Arc::new(client);
                *self.client.lock() = Some(client.clone());
                client
            }
        };
        match client.query(query, parameters).await {
            Ok(rows) => Some(rows),
            Err(error) => {
                // Class 57 is the server's end, or its beginning.
                let refused = error.as_db_error().filter(|error| !error.code().code().starts_with("57"));
                assert!(refused.is_none(), "{query}: {error:?}");
                None
            }
        }
    }

    /// The rows of a query, as soon as somebody answers.
    ///
    /// # Panics
    /// When nobody does for two minutes.
    pub fn ask(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let asked = crate::wait::watch(PATIENCE, || self.try_ask(query, parameters));
        asked.unwrap_or_else(|| panic!("nobody answers {query}"))
    }

    /// A number; `None` where nobody answers now, or it is NULL.
    pub fn number(&self, query: &str) -> Option<i64> {
        self.try_ask(query, &[])?.first()?.get(0)
    }
}
