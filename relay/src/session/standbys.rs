//! The standbys that a failover slot waits for (PostgreSQL 17 and later, `synchronized_standby_slots`).
//!
//! The server sends nothing of a failover slot before every physical slot named there has received it. A name without
//! a slot, as a promoted server may have kept one, holds the stream for ever: the connection lives, keepalives come,
//! and nothing is said but a warning in the server's log. So whoever runs asks for itself when its stream stands
//! before the end of the server's log.

use tokio_postgres::types::PgLsn;

use super::{Sql, SqlError};
use crate::lsn::Lsn;
use crate::observe::Observed;

/// A name in `synchronized_standby_slots` and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) standing: Standing,
}

/// What such a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No slot.
    Missing,
    /// A slot that is no standby's.
    Logical,
    /// A slot that lost its log.
    Lost,
    /// A slot that nobody reads, and how far it was read.
    Unread(Lsn),
    /// A slot that is read, and how far.
    Read(Lsn),
}

// The name is split as a list of identifiers; slots are named in lower case, without quotes or commas.
const SQL: &str = "
    SELECT n.name, p.slot_name IS NOT NULL, coalesce(p.slot_type = 'physical', false),
           coalesce(p.wal_status = 'lost', false), coalesce(p.active, false), p.restart_lsn
      FROM (SELECT trim(both ' \"' FROM part) AS name
              FROM unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) part) n
      LEFT JOIN pg_replication_slots p ON p.slot_name = n.name
     WHERE n.name <> '' AND NOT pg_is_in_recovery()
       AND EXISTS (SELECT FROM pg_replication_slots s
                    WHERE s.slot_name = $1 AND (to_jsonb(s) ->> 'failover')::bool)
     ORDER BY n.name";

/// Whom the slot waits for; nobody where it is no failover slot, or the server too old to have any.
pub(crate) async fn awaited(sql: &Sql, slot: &str) -> Result<Vec<Awaited>, SqlError> {
    let rows = sql.many("asking whom the slot waits for", SQL, &[&slot]).await?;
    let named = |row: &tokio_postgres::Row| {
        let (there, physical, lost, active): (bool, bool, bool, bool) =
            (row.get(1), row.get(2), row.get(3), row.get(4));
        let reached = Lsn(row.get::<_, Option<PgLsn>>(5).map_or(0, u64::from));
        let standing = match (there, physical, lost, active) {
            (false, ..) => Standing::Missing,
            (true, false, ..) => Standing::Logical,
            (true, true, true, _) => Standing::Lost,
            (true, true, false, false) => Standing::Unread(reached),
            (true, true, false, true) => Standing::Read(reached),
        };
        Awaited { name: row.get(0), standing }
    };
    Ok(rows.iter().map(named).collect())
}

impl Awaited {
    /// What is wrong with it; `None` where it is only a question of time.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self.standing {
            Standing::Missing => Some("does not exist"),
            Standing::Logical => Some("is a logical slot and no standby's"),
            Standing::Lost => Some("has lost its log, and no standby can go on with it"),
            Standing::Unread(_) => Some("is read by no standby"),
            Standing::Read(_) => None,
        }
    }

    /// Whether nothing beyond `position` is sent for its sake.
    fn holds_back(&self, position: Lsn) -> bool {
        match self.standing {
            Standing::Missing | Standing::Logical | Standing::Lost => true,
            Standing::Unread(reached) | Standing::Read(reached) => reached <= position,
        }
    }
}

/// The command after which the slot waits only for those that are as they should be.
pub(crate) fn without_the_faulty(awaited: &[Awaited]) -> String {
    let sound = awaited.iter().filter(|awaited| awaited.fault().is_none());
    let names: Vec<&str> = sound.map(|awaited| awaited.name.as_str()).collect();
    format!("ALTER SYSTEM SET synchronized_standby_slots = '{}'; SELECT pg_reload_conf();", names.join(", "))
}

/// What a stream waits for that stands at `position`, in a sentence.
fn sentence(awaited: &[Awaited], position: Lsn) -> Option<String> {
    let holding: Vec<&Awaited> = awaited.iter().filter(|awaited| awaited.holds_back(position)).collect();
    let parts: Vec<String> = holding
        .iter()
        .map(|awaited| format!("`{}` {}", awaited.name, awaited.fault().unwrap_or("is behind")))
        .collect();
    let mend = match holding.iter().any(|awaited| awaited.fault().is_some()) {
        true => format!(
            ". Bring its standby back, or take the name out of the setting: {}",
            without_the_faulty(awaited)
        ),
        false => String::new(),
    };
    (!parts.is_empty()).then(|| {
        format!(
            "the server sends nothing beyond {position} before the standbys of synchronized_standby_slots have it: {}{mend}",
            parts.join(", ")
        )
    })
}

/// Notices a stream that stands still because the server holds it back.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    received: Option<Lsn>,
    said: Option<String>,
}

impl HeldBack {
    /// Whether the stream stood since the last look, before the end of the server's log.
    fn stands(&mut self, received: Lsn, wal_end: Lsn) -> bool {
        self.received.replace(received) == Some(received) && received < wal_end
    }

    /// Looks, at a ping; what is found is shown until the stream moves.
    ///
    /// # Errors
    /// As for every question.
    pub(crate) async fn look(
        &mut self,
        sql: &Sql,
        slot: &str,
        observed: &Observed,
        wal_end: Lsn,
    ) -> Result<(), SqlError> {
        let received = Observed::lsn(&observed.received);
        let now = match self.stands(received, wal_end) {
            true => sentence(&awaited(sql, slot).await?, received),
            false => None,
        };
        if now != self.said {
            match &now {
                Some(sentence) => {
                    tracing::warn!("{sentence}");
                    observed.error(sentence.clone());
                }
                None => tracing::info!("the server goes on sending"),
            }
            observed.waiting_for(now.clone());
            self.said = now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, standing: Standing) -> Awaited {
        Awaited { name: name.to_owned(), standing }
    }

    #[test]
    fn a_stream_stands_that_does_not_move_before_the_end_of_the_log() {
        let mut held = HeldBack::default();
        assert!(!held.stands(Lsn(5), Lsn(9)), "nothing to compare with");
        assert!(held.stands(Lsn(5), Lsn(9)));
        assert!(!held.stands(Lsn(7), Lsn(9)), "it moved");
        assert!(!held.stands(Lsn(7), Lsn(7)), "there is no more");
    }

    #[test]
    fn who_holds_it_back_is_named_with_the_command() {
        let all = [
            named("gone", Standing::Missing),
            named("ahead", Standing::Read(Lsn(9))),
            named("down", Standing::Unread(Lsn(5))),
        ];
        let said = sentence(&all, Lsn(5)).unwrap();
        assert!(said.contains("`gone` does not exist, `down` is read by no standby"), "{said}");
        assert!(said.contains("synchronized_standby_slots = 'ahead'; SELECT pg_reload_conf();"), "{said}");
        assert!(!said.contains("`ahead`"), "{said}");
        let said = sentence(&[named("slow", Standing::Read(Lsn(5)))], Lsn(5)).unwrap();
        assert!(said.contains("`slow` is behind") && !said.contains("ALTER"), "{said}");
        assert_eq!(sentence(&[named("down", Standing::Unread(Lsn(9)))], Lsn(5)), None, "it has it");
        assert_eq!(sentence(&[], Lsn(5)), None);
    }
}
