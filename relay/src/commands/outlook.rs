//! What a start would find and decide now, for `check` and `plan`. Nothing is owned, fenced, made or written:
//! a relay may run meanwhile, so the order of the looks matters. A running relay moves the record before the
//! slot, and the server's log before both; so the slot is looked at first, the record next, the log last.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::lsn::Lsn;
use crate::session::compare::{Decision, SlotFacts};
use crate::session::own::{identify, target};
use crate::session::{End, Ending, Facts, Sql, SqlError, chain, server_facts, weigh};
use crate::state::{RecordedPhase, StateRecord, glance};
use crate::wire::{Connection, SystemIdentity, WireError};

/// How long the state record may take.
const RECORD: Duration = Duration::from_secs(15);

/// Which server answers on a replication connection, and by which switches it came to its timeline.
#[derive(Debug, Clone)]
pub struct Replication {
    /// The server.
    pub system: SystemIdentity,
    /// Each ancestor of its timeline and where it was left.
    pub history: Vec<(u32, Lsn)>,
}

/// Why there is no replication connection.
#[derive(Debug)]
pub enum NoReplication {
    /// It could not be made.
    Refused(WireError),
    /// It was made and then failed.
    Failed(String),
}

impl NoReplication {
    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            NoReplication::Refused(error) => chain(error),
            NoReplication::Failed(sentence) => sentence.clone(),
        }
    }
}

/// Connects for replication, asks who is there, and leaves.
pub async fn replication(settings: &Settings) -> Result<Replication, NoReplication> {
    let mut target = target(settings);
    target.application_name = format!("outbox-relay {} check", settings.name);
    let work = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::connect(&target).map_err(NoReplication::Refused)?;
        let (system, history) =
            identify(&mut connection).map_err(|end| NoReplication::Failed(end.sentence()))?;
        Ok(Replication { system, history })
    });
    work.await.unwrap_or_else(|error| Err(NoReplication::Failed(error.to_string())))
}

/// The settings for the server that is the primary, of several; for the first where none is.
pub async fn at_primary(settings: &Settings) -> Settings {
    let places = settings.places();
    if places.len() > 1 {
        for place in &places {
            let connected =
                Sql::connect(&place.source, &format!("{} look", place.name), Arc::new(Ending::default()))
                    .await;
            if let Ok(sql) = connected
                && sql.server().await.is_ok_and(|look| !look.in_recovery)
            {
                return place.clone();
            }
        }
    }
    settings.clone()
}

/// A connection for questions only: it owns nothing, so it may idle while Kafka is asked.
///
/// # Errors
/// The server cannot be reached or refuses.
pub async fn connect(settings: &Settings, name: &str) -> Result<Sql, SqlError> {
    let sql = Sql::connect(&settings.source, name, Arc::new(Ending::default())).await?;
    let question = "preparing the session";
    let set = sql
        .client()
        .batch_execute("SET idle_session_timeout = 0; SET default_transaction_read_only = on")
        .await;
    set.map_err(|source| SqlError::Server { question: question.into(), source })?;
    Ok(sql)
}

/// The lane's newest state record, read without fencing its owner. The state topic has to exist.
///
/// # Errors
/// A sentence: it cannot be read, or Kafka does not answer in time.
pub async fn record(settings: &Arc<Settings>) -> Result<Option<StateRecord>, String> {
    let ending = Arc::new(Ending::default());
    let work = {
        let (settings, ending) = (settings.clone(), ending.clone());
        tokio::task::spawn_blocking(move || glance(&settings, settings.lane.number, &ending))
    };
    let found = tokio::time::timeout(RECORD, work).await;
    // Whatever still waits for Kafka ends with it.
    ending.end(End::Drained);
    match found {
        Ok(Ok(answer)) => answer.map_err(|error| chain(&error)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the state record did not come within {} s", RECORD.as_secs())),
    }
}

/// What a start goes by.
#[derive(Debug)]
pub struct Outlook {
    /// What it would decide.
    pub decision: Decision,
    /// End of the server's log.
    pub wal_end: Lsn,
}

/// Compares slot, record and server as a start does.
///
/// # Errors
/// The server does not answer, or does not let the table be read.
pub async fn decide(
    sql: &Sql,
    settings: &Settings,
    replication: &Replication,
    slot: Option<&SlotFacts>,
    record: Option<&StateRecord>,
) -> Result<Outlook, SqlError> {
    let look = sql.server().await?;
    let record = record.filter(|record| record.phase != RecordedPhase::Forgotten);
    let has_rows = match (record, slot) {
        (None, None) => sql.table_has_rows(&settings.outbox).await?,
        _ => false,
    };
    let wal_end = sql.wal_end().await?;
    let Replication { system, history } = replication;
    let server = server_facts(&look, system.timeline, history.clone(), wal_end, &settings.source.database);
    let facts = Facts { record, slot, server: &server, has_rows, found: None };
    Ok(Outlook { decision: weigh(sql, settings, settings.lane.number, facts).await?, wal_end })
}
