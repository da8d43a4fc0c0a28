//! Recommendation: remembers who bought what. Its store takes the same purchase twice without harm, so it needs no
//! inbox, and could as well be something else than PostgreSQL.

use std::sync::Arc;

use outbox_consumer::ladder::{Exhausted, hours, in_place};
use outbox_consumer::{Consumer, Event, Handled, RunError, State, done, idempotent};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Error};

use crate::database;
use crate::order::{ORDER_PLACED, Order, TOPIC};

/// One connection, made anew when it is lost.
#[derive(Default)]
struct Store(Mutex<Option<Arc<Client>>>);

impl Store {
    async fn client(&self) -> Result<Arc<Client>, Error> {
        let mut kept = self.0.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = Arc::new(database::connect(&database::url().unwrap_or_default()).await?);
        *kept = Some(client.clone());
        Ok(client)
    }
}

async fn learn(order: Event<Order>, store: State<Store>) -> Handled {
    let learn = "INSERT INTO recommendation.bought (number, customer, sku) VALUES ($1, $2, $3)
                 ON CONFLICT (number) DO NOTHING";
    store.client().await?.execute(learn, &[&order.number, &order.customer, &order.sku]).await?;
    done()
}

/// Runs until SIGTERM.
pub async fn run() -> Result<(), RunError> {
    Consumer::without_database("recommendation")
        .state(Store::default())
        .owner("recommendation-team", hours(72))
        .topic(TOPIC)
        .on(ORDER_PLACED, idempotent(learn))
        .retry(in_place(5).when_exhausted(Exhausted::Skip))
        .run()
        .await
}
