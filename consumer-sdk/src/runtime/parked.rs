//! The task that runs parked keys when they are due. Any number of instances do this beside each other, and each of
//! them with several keys at a time: a key is locked for the transaction that runs it.

mod company;
mod key;
mod turn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Shared;
use super::attempt::sentence;
use super::inbox::{self, InboxError};
use super::permit::Parked;
use crate::database::Database;
use crate::metrics;
use company::Spoilt;
use key::Taken;
use turn::Turn;

/// How often keys that are due are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How often the inbox is kept up.
const UPKEEP: Duration = Duration::from_secs(300);
/// What one turn may take beside its handler: a dead letter that waits for Kafka, and a database that answers late.
const TURN: Duration = Duration::from_secs(120);
/// The pause while the database is away.
const TROUBLE: Duration = Duration::from_secs(2);

/// Parked keys that run at the same time beside so many workers: a slow one holds up no other that is due, and they
/// leave the connections to those whose events have not failed.
fn side_by_side(workers: usize) -> usize {
    (workers / 4).max(1)
}

/// Runs until the consumer stops, and then until what runs has ended.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(database) = shared.database.clone() else { return };
    let mut keeper = Keeper::new(shared, database);
    let mut kept_up = None::<Instant>;
    while !keeper.shared.is_stopping() {
        if kept_up.is_none_or(|at| at.elapsed() > UPKEEP) {
            kept_up = Some(Instant::now());
            if let Err(error) = inbox::bounded(upkeep(&keeper.database), UPKEEP).await {
                tracing::warn!(error = sentence(&error), "upkeep of the inbox; trying again in some minutes");
            }
        }
        if keeper.shared.registered.metrics.parked_is_due()
            && let Err(error) = inbox::bounded(look(&keeper.shared, &keeper.database), inbox::OWN).await
        {
            tracing::debug!(error = sentence(&error), "looking at the parked keys");
        }
        keeper.step().await;
    }
    keeper.all_ended().await;
}

/// Parked keys that run, and when others are looked for.
struct Keeper {
    shared: Arc<Shared>,
    database: Database,
    /// What one turn may take in all.
    longest: Duration,
    most: usize,
    spoilt: Arc<Spoilt>,
    /// Each answers whether there may be more of its key.
    turns: JoinSet<bool>,
    /// When nothing was due; `None` where there may be more.
    dry: Option<Instant>,
}

impl Keeper {
    fn new(shared: Arc<Shared>, database: Database) -> Keeper {
        let handlers = shared.registered.handlers.values().map(|handler| handler.timeout);
        let longest = handlers.max().unwrap_or_default() + TURN;
        let most = side_by_side(shared.registered.concurrency);
        Keeper { shared, database, longest, most, spoilt: Arc::default(), turns: JoinSet::new(), dry: None }
    }

    /// Begins a turn of the next key that is due, or waits a while for one.
    async fn step(&mut self) {
        if self.turns.len() < self.most && self.dry.is_none_or(|at| at.elapsed() >= LOOK) {
            self.begin_next().await;
        } else if self.turns.is_empty() {
            self.shared.pause(LOOK).await;
        } else if let Ok(Some(ended)) = tokio::time::timeout(LOOK, self.turns.join_next()).await {
            match ended {
                // The next event of its key, most likely.
                Ok(true) => self.begin_next().await,
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the turn of a parked key; it comes again"),
            }
        }
    }

    async fn begin_next(&mut self) {
        let Some(running) = Parked::begin(&self.shared) else {
            self.dry = Some(Instant::now());
            return;
        };
        match self.take().await {
            Ok(None) => self.dry = Some(Instant::now()),
            Ok(Some(taken)) if taken.is_suspect() => self.run_alone(taken, running).await,
            Ok(Some(taken)) => self.begin(taken, running),
            Err(error) => {
                drop(running);
                tracing::warn!(error = sentence(&error), "parked keys: waiting for the database");
                self.shared.pause(TROUBLE).await;
            }
        }
    }

    async fn take(&self) -> Result<Option<Taken>, InboxError> {
        inbox::bounded(key::take(&self.database, &self.shared.registered.name), inbox::OWN).await
    }

    fn begin(&mut self, taken: Taken, running: Parked) {
        let (shared, database, longest) = (self.shared.clone(), self.database.clone(), self.longest);
        let spoilt = self.spoilt.clone();
        self.turns.spawn(async move {
            let turn = Turn::new(&shared, &database, &spoilt, taken.key);
            match inbox::bounded(turn.run(taken.lease, &taken.last_error, running), longest).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(error = sentence(&error), "parked keys: waiting for the database");
                    shared.pause(TROUBLE).await;
                    false
                }
            }
        });
    }

    /// An attempt of this key ended with its process, as did whatever ran beside it: so that no neighbour is blamed for
    /// the next death (C25), it runs when the others have ended, and they wait for it.
    async fn run_alone(&mut self, taken: Taken, running: Parked) {
        if self.turns.is_empty() {
            self.begin(taken, running);
        } else {
            drop(running);
            // It is found again, since it is due the longest of those that nobody runs.
            inbox::roll_back(taken.lease).await;
        }
        self.all_ended().await;
        self.dry = None;
    }

    async fn all_ended(&mut self) {
        while self.turns.join_next().await.is_some() {}
    }
}

/// What stands in the park, for the metrics.
async fn look(shared: &Shared, database: &Database) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let look = metrics::parked::look(&lease, &shared.registered.name).await?;
    lease.give_back();
    shared.registered.metrics.saw_parked(look);
    Ok(())
}

/// Makes partitions of the inbox in advance and drops what is older than the floor; one instance at a time does.
async fn upkeep(database: &Database) -> Result<(), InboxError> {
    let lease = database.lease().await?;
    let said: String = lease.query_one("SELECT said FROM inbox.upkeep()", &[]).await?.try_get(0)?;
    lease.give_back();
    tracing::debug!("upkeep of the inbox: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_workers_and_one_at_least() {
        assert_eq!([1, 3, 4, 16, 50].map(side_by_side), [1, 1, 1, 4, 12]);
    }
}
