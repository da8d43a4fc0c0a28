//! The side of PostgreSQL: both connections, then question by question. One that is refused is a finding, and the
//! next is asked; a connection that is lost ends it.

use outbox_postgres_link::transport::is_loopback;

use super::finding::{Area, Finding};
use super::{ask, clock, keys, messages, publication, quarantine, rights, server, slot, start, table};
use crate::commands::init::InitError;
use crate::commands::init::survey::{self, is_contract};
use crate::commands::outlook::{self, NoReplication, Replication};
use crate::config::Settings;
use crate::session::compare::SlotFacts;
use crate::session::{Sql, SqlError, chain, standbys};
use crate::state::StateRecord;

pub use crate::commands::outlook::record;

/// PostgreSQL has answered; what is asked again once the state record is known.
pub struct Source {
    sql: Sql,
    replication: Option<Replication>,
    /// What the server said where it refused the right to replicate.
    refused: Option<String>,
    /// The slot; the outer `None` where it could not be looked at.
    slot: Option<Option<SlotFacts>>,
    table: Option<table::Facts>,
    /// Whether the newest rows can be looked at.
    sampled: bool,
}

/// Looks at everything that needs no state record. `None` where nothing more can be asked.
pub async fn look(settings: &Settings, findings: &mut Vec<Finding>) -> Option<Source> {
    let replication = outlook::replication(settings).await;
    let sql = match connect(settings, &replication).await {
        Ok(sql) => sql,
        Err(why) => {
            findings.push(unreachable(settings, &why));
            return None;
        }
    };
    if let Err(refusal) = &replication {
        findings.extend(no_replication(settings, refusal));
    }
    let refused = match &replication {
        Err(NoReplication::Refused(error)) if error.sqlstate() == Some("42501") => Some(chain(error)),
        Ok(_) | Err(NoReplication::Refused(_) | NoReplication::Failed(_)) => None,
    };
    let replication = replication.ok();
    let mut source = Source { sql, replication, refused, slot: None, table: None, sampled: false };
    match questions(settings, &mut source, findings).await {
        Ok(()) => Some(source),
        Err(error) => {
            findings.push(ask::unseen(Area::Server, "PostgreSQL", &error));
            None
        }
    }
}

/// The SQL driver answers a server that asks for the password in clear text, our own connection refuses to: over a
/// network it goes only where that one has logged in (or was logged in and then lacked the right to replicate).
async fn connect(
    settings: &Settings,
    replication: &Result<Replication, NoReplication>,
) -> Result<Sql, String> {
    let trusted = settings.source.password.is_none() || is_loopback(&settings.source.host);
    let logged_in = match replication {
        Ok(_) | Err(NoReplication::Failed(_)) => true,
        Err(NoReplication::Refused(error)) => error.sqlstate() == Some("42501"),
    };
    if let (false, Err(refusal)) = (trusted || logged_in, replication) {
        return Err(refusal.sentence());
    }
    let name = format!("{} check", settings.name);
    outlook::connect(settings, &name).await.map_err(|error| chain(&error))
}

fn unreachable(settings: &Settings, why: &str) -> Finding {
    let source = &settings.source;
    if why.contains("startup parameter") {
        return server::pooler(settings, why);
    }
    let place = format!("{}:{}/{}", source.host, source.port, source.database);
    let advice = match ["28P01", "28000", "password", "pg_hba"].iter().any(|part| why.contains(part)) {
        true => "check role and password of source.url, and pg_hba.conf",
        false => "check host, port and database of source.url, that the server runs, and the network",
    };
    Finding::error(Area::Server, "postgres-unreachable", place, why).mend(
        advice,
        format!("psql -h {} -p {} -U {} -d {}", source.host, source.port, source.user, source.database),
    )
}

fn no_replication(settings: &Settings, refusal: &NoReplication) -> Option<Finding> {
    let why = refusal.sentence();
    let code = match refusal {
        NoReplication::Refused(error) => error.sqlstate(),
        NoReplication::Failed(_) => None,
    };
    let source = &settings.source;
    Some(match code {
        // Said with the rights.
        Some("42501") => return None,
        Some("53300") => Finding::error(Area::Server, "wal-senders", "max_wal_senders", why).mend(
            "raise it and restart the server, or end what uses them (SELECT * FROM pg_stat_replication)",
            "ALTER SYSTEM SET max_wal_senders = 20;",
        ),
        Some("28000") => Finding::error(Area::Server, "replication-refused", &source.user, why).mend(
            "let the role replicate in pg_hba.conf, then reload; logical replication is matched by the database's name",
            format!("host {} {} <relay's address>/32 scram-sha-256", source.database, source.user),
        ),
        _ => Finding::error(Area::Server, "replication-refused", &source.user, why).mend(
            "point source.url at the server itself, not at a pooler, and see that it runs",
            format!("psql 'host={} port={} user={} dbname={} replication=database' -c IDENTIFY_SYSTEM", source.host, source.port, source.user, source.database),
        ),
    })
}

/// Keeps what could not be asked as a finding; only a lost connection goes on as an error.
fn answered<T>(
    answer: Result<T, SqlError>,
    area: Area,
    subject: &str,
    findings: &mut Vec<Finding>,
) -> Result<Option<T>, SqlError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if ask::is_lost(&error) => Err(error),
        Err(error) => {
            findings.push(ask::unseen(area, subject, &error));
            Ok(None)
        }
    }
}

async fn questions(
    settings: &Settings,
    source: &mut Source,
    findings: &mut Vec<Finding>,
) -> Result<(), SqlError> {
    let sql = &source.sql;
    let first = answered(server::look(sql).await, Area::Server, "settings", findings)?;
    if let Some(found) = answered(clock::look(sql).await, Area::Clock, "clock", findings)? {
        findings.push(clock::judge(found));
    }
    let rights = answered(rights::look(sql, settings).await, Area::Rights, "rights", findings)?;
    if let Some(found) = &rights {
        findings.extend(rights::judge(found, settings, source.refused.as_deref()));
    }
    if rights.as_ref().is_some_and(rights::Facts::reads_quarantine) {
        let found = answered(quarantine::look(sql, settings).await, Area::Table, "quarantine", findings)?;
        findings.extend(found.and_then(|found| quarantine::judge(&found, settings)));
    }
    // Messages stand in no table.
    if settings.outbox.message_prefix.is_none() {
        let found = answered(table::look(sql, &settings.outbox).await, Area::Table, "table", findings)?;
        if let Some(found) = &found {
            findings.extend(table::judge(found.as_ref(), settings));
        }
        source.table = found.flatten();
    }
    // What is missing was said; a statement that fails for it would only say it again.
    let readable =
        rights.is_some_and(|rights| rights.reads_table == Some(true) && rights.uses_schema == Some(true));
    source.sampled =
        readable && source.table.as_ref().is_some_and(|table| table::is_complete(table, settings));
    // Before the state record is read: see `outlook`.
    let found = answered(sql.slot(&settings.slot()).await, Area::Slot, "slot", findings)?;
    source.slot = found.map(|found| found.map(|(facts, _)| facts));
    let slot_is_there = source.slot.as_ref().is_some_and(Option::is_some);
    if let Some(facts) = &first {
        findings.extend(server::judge(facts, settings));
        findings.push(server::slots(facts, slot_is_there));
    }
    if settings.outbox.message_prefix.is_some() || settings.outbox.backfill {
        let found = answered(messages::look(sql).await, Area::Publication, "message prefix", findings)?;
        findings.extend(found.iter().flat_map(|found| messages::judge(found, settings)));
    }
    let found = answered(publication::look(sql, settings).await, Area::Publication, "publication", findings)?;
    if let Some(found) = found {
        findings.extend(publication::judge(found.as_ref(), source.table.as_ref(), settings));
    }
    let found = answered(slot::look(sql, settings).await, Area::Slot, "log kept", findings)?;
    if let Some(found) = found.flatten() {
        findings.extend(slot::judge(&found, settings));
    }
    let awaited = standbys::awaited(sql, &settings.slot()).await;
    if let Some(awaited) = answered(awaited, Area::Slot, "standbys", findings)? {
        findings.extend(slot::judge_awaited(&awaited));
    }
    if let Some(open) =
        answered(slot::open_transactions(sql).await, Area::Slot, "open transactions", findings)?
    {
        findings.extend(slot::judge_open(&open, slot_is_there));
    }
    if is_contract(settings) {
        let found = contract(sql, settings, slot_is_there).await;
        let found = answered(found, Area::Table, "contract", findings)?;
        findings.extend(found.unwrap_or_default());
    }
    one_server(settings, source, first.as_ref(), findings).await
}

async fn contract(sql: &Sql, settings: &Settings, slot_is_there: bool) -> Result<Vec<Finding>, SqlError> {
    let (client, question) = (sql.client(), "looking at the contract");
    let failed = |error| match error {
        InitError::Look { source, .. } => SqlError::Server { question: question.into(), source },
        other => SqlError::Answer { question, answer: other.to_string() },
    };
    let quarantine = survey::quarantine(client).await.map_err(failed)?.is_some();
    let contract = survey::contract(client, quarantine).await.map_err(failed)?;
    let let_in = survey::producers_let_in(client).await.map_err(failed)?;
    Ok(table::judge_contract(contract, let_in, slot_is_there, settings))
}

/// Both connections lead to one server, and each question of one to the same backend.
async fn one_server(
    settings: &Settings,
    source: &Source,
    first: Option<&server::Facts>,
    findings: &mut Vec<Finding>,
) -> Result<(), SqlError> {
    let sql = &source.sql;
    let pid: i32 = sql.one("asking who answers", "SELECT pg_backend_pid()", &[]).await?.get(0);
    if first.is_some_and(|first| first.pid != pid) {
        findings.push(server::pooler(settings, "two questions of one session were answered by two backends"));
    }
    if let (Some(look), Some(replication)) =
        (answered(sql.server().await, Area::Server, "identity", findings)?, &source.replication)
    {
        let (ours, theirs) = (&look.system_id, &replication.system.system_id);
        findings.push(if ours == theirs {
            let timeline = replication.system.timeline;
            Finding::ok(
                Area::Server,
                "identity",
                "system",
                format!("{ours}, timeline {timeline}, on both connections"),
            )
        } else {
            let reason =
                format!("the SQL connection is on system {ours}, the replication connection on {theirs}");
            server::pooler(settings, &reason)
        });
    }
    Ok(())
}

/// Asks what needs the state record: what a start would decide, and the newest rows, some of which are published.
/// `record` is `None` where Kafka could not be read.
pub async fn compare(
    settings: &Settings,
    source: &Source,
    record: Option<&Option<StateRecord>>,
    findings: &mut Vec<Finding>,
) -> Option<keys::Sample> {
    let sql = &source.sql;
    if let Some(slot) = &source.slot {
        let slot_is_there = slot.is_some();
        match (&source.replication, record) {
            (Some(replication), Some(record)) => {
                let outlook =
                    outlook::decide(sql, settings, replication, slot.as_ref(), record.as_ref()).await;
                findings.push(match outlook {
                    Ok(outlook) => start::judge(&outlook, settings, slot_is_there),
                    Err(error) => ask::unseen(Area::Slot, "a start", &error),
                });
            }
            (_, _) => findings.extend(start::judge_without_record(settings, slot_is_there)),
        }
    }
    let table = source.table.as_ref().filter(|_| source.sampled)?;
    let published = record.and_then(Option::as_ref).and_then(|record| record.ring.newest());
    let published = published.map(|published| published.snapshot.as_str());
    match keys::look(sql, settings, table, published).await {
        Ok(sample) => {
            findings.extend(keys::judge(&sample, settings));
            Some(sample)
        }
        Err(error) => {
            findings.push(ask::unseen(Area::Keys, "newest rows", &error));
            None
        }
    }
}
