//! The PostgreSQL server: its version, its settings, and whether both connections lead to it.

use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use crate::config::Settings;
use crate::session::{Sql, SqlError};

/// First version with column lists and row filters in publications.
const OLDEST: i32 = 150_000;
/// A limit of kept log below this is used up by a short outage.
const SMALL_KEEP_MB: i64 = 1024;
/// Connections that the relay needs, and a little.
const SPARE_CONNECTIONS: i64 = 5;

/// What the server says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// `server_version_num`.
    pub version: i32,
    /// `server_version`.
    pub version_text: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_slots: i64,
    /// Slots there are.
    pub slots: i64,
    /// `max_wal_senders`.
    pub max_senders: i64,
    /// Walsenders that run, the one of this look included.
    pub senders: i64,
    /// `max_slot_wal_keep_size` in megabytes; -1 is without limit.
    pub keep_mb: i64,
    /// `idle_replication_slot_timeout` (PostgreSQL 18) as it is set, unless it is 0.
    pub idle_slot_timeout: Option<String>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Connections that ordinary roles may open.
    pub max_connections: i64,
    /// Connections there are.
    pub connections: i64,
    /// `statement_timeout` of this session, which it was asked to begin with.
    pub statement_timeout: String,
    /// The backend that answered.
    pub pid: i32,
}

const SQL: &str = "
    SELECT jsonb_build_object(
        'version', current_setting('server_version_num')::int,
        'version_text', current_setting('server_version'),
        'in_recovery', pg_is_in_recovery(),
        'wal_level', current_setting('wal_level'),
        'max_slots', current_setting('max_replication_slots')::int,
        'slots', (SELECT count(*) FROM pg_replication_slots),
        'max_senders', current_setting('max_wal_senders')::int,
        'senders', (SELECT count(*) FROM pg_stat_replication),
        'keep_mb', (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
        'idle_slot_timeout', nullif(current_setting('idle_replication_slot_timeout', true), '0'),
        'synchronous_standby_names', current_setting('synchronous_standby_names'),
        'max_connections', current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        'connections', (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database),
        'statement_timeout', current_setting('statement_timeout'),
        'pid', pg_backend_pid())::text";

/// Asks it.
pub async fn look(sql: &Sql) -> Result<Facts, SqlError> {
    ask::document(sql, "asking the server for its settings", SQL, &[]).await
}

/// Everything there is to say about it.
pub fn judge(facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![version(facts)];
    findings.extend(role_of_server(facts));
    findings.push(wal_level(facts));
    findings.push(senders(facts));
    findings.push(kept_log(facts));
    findings.extend(idle_slots(facts));
    findings.extend(synchronous(facts, settings));
    findings.extend(connections(facts));
    findings.extend(settings_arrived(facts, settings));
    findings
}

fn version(facts: &Facts) -> Finding {
    if facts.version < OLDEST {
        return Finding::error(
            Area::Server,
            "server-too-old",
            "version",
            format!("PostgreSQL {}; publications with column lists came with version 15", facts.version_text),
        )
        .mend("upgrade the server to version 15 or later", "pg_upgrade --help");
    }
    let what = if facts.in_recovery { "a standby" } else { "a primary" };
    Finding::ok(Area::Server, "server", "version", format!("PostgreSQL {}, {what}", facts.version_text))
}

fn role_of_server(facts: &Facts) -> Option<Finding> {
    facts.in_recovery.then(|| {
        Finding::error(
            Area::Server,
            "server-standby",
            "primary",
            "this server is a standby (in recovery); a relay streams from the primary",
        )
        .mend("point source.url at the primary", "source.url = \"postgres://…@<the primary>/…\"")
    })
}

fn wal_level(facts: &Facts) -> Finding {
    if facts.wal_level == "logical" {
        return Finding::ok(Area::Server, "wal-level", "wal_level", "is logical");
    }
    Finding::error(
        Area::Server,
        "wal-level",
        "wal_level",
        format!("is {}, so that the log holds too little to decode rows from", facts.wal_level),
    )
    .mend("set it and restart the server; a reload is not enough", "ALTER SYSTEM SET wal_level = 'logical';")
}

fn senders(facts: &Facts) -> Finding {
    // One of them is this look's own and ends with it.
    let free = facts.max_senders - facts.senders.saturating_sub(1);
    let seen = format!("{} of {} in use", facts.senders.saturating_sub(1), facts.max_senders);
    if free > 0 {
        return Finding::ok(Area::Server, "wal-senders", "max_wal_senders", seen);
    }
    Finding::error(Area::Server, "wal-senders", "max_wal_senders", seen).mend(
        "raise it and restart the server",
        format!("ALTER SYSTEM SET max_wal_senders = {};", facts.max_senders + 5),
    )
}

/// Whether a slot that is still to be made would find a place.
pub fn slots(facts: &Facts, slot_is_there: bool) -> Finding {
    let seen = format!("{} of {} in use", facts.slots, facts.max_slots);
    if slot_is_there || facts.slots < facts.max_slots {
        return Finding::ok(Area::Server, "replication-slots", "max_replication_slots", seen);
    }
    Finding::error(
        Area::Server,
        "replication-slots",
        "max_replication_slots",
        format!("{seen}, and this relay's slot is still to be made"),
    )
    .mend(
        "drop slots that nobody reads (SELECT slot_name, active FROM pg_replication_slots), or raise it and restart",
        format!("ALTER SYSTEM SET max_replication_slots = {};", facts.max_slots + 5),
    )
}

fn kept_log(facts: &Facts) -> Finding {
    const NAME: &str = "max_slot_wal_keep_size";
    const SET: &str = "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();";
    match facts.keep_mb {
        ..0 => Finding::warning(
            Area::Server,
            "wal-keep-unlimited",
            NAME,
            "is without limit: while the relay is down its slot keeps log until the disk is full and the database stops",
        )
        .mend(
            "set it to what the disk can spare; a slot that needs more is given up, and what it did not bring is \
             filled from the table",
            SET,
        ),
        megabytes if megabytes < SMALL_KEEP_MB => Finding::warning(
            Area::Server,
            "wal-keep-small",
            NAME,
            format!("is {megabytes} MB: a short outage of relay or Kafka costs the slot"),
        )
        .mend("raise it to the log of the longest outage that is to be lived through", SET),
        megabytes => Finding::ok(Area::Server, "wal-keep", NAME, format!("is {megabytes} MB")),
    }
}

fn idle_slots(facts: &Facts) -> Option<Finding> {
    facts.idle_slot_timeout.as_ref().map(|timeout| {
        Finding::warning(
            Area::Server,
            "idle-slot-timeout",
            "idle_replication_slot_timeout",
            format!("is {timeout}: a relay that is down for longer loses its slot"),
        )
        .mend(
            "turn it off, and let max_slot_wal_keep_size bound the disk",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )
    })
}

fn synchronous(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let ours = format!("outbox-relay {}", settings.name);
    let names = names(&facts.synchronous_standby_names);
    names.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(&ours)).then(|| {
        Finding::error(
            Area::Server,
            "synchronous-standby",
            "synchronous_standby_names",
            format!(
                "is `{}`, which takes this relay ({ours}) for a synchronous standby: every commit would wait for Kafka",
                facts.synchronous_standby_names
            ),
        )
        .mend(
            "name the standbys one by one, without *",
            "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (standby_a, standby_b)'; SELECT pg_reload_conf();",
        )
    })
}

/// The names in `synchronous_standby_names`: `a, b`, `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 2 (a, "b c")`.
fn names(setting: &str) -> Vec<String> {
    let list = match (setting.find('('), setting.rfind(')')) {
        (Some(open), Some(close)) if open < close => &setting[open + 1..close],
        _ => setting,
    };
    let names = list.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn connections(facts: &Facts) -> Option<Finding> {
    let left = facts.max_connections - facts.connections;
    (left < SPARE_CONNECTIONS).then(|| {
        Finding::warning(
            Area::Server,
            "connections-few",
            "max_connections",
            format!("{left} of {} are left; the relay opens up to three", facts.max_connections),
        )
        .mend(
            "raise it and restart, or let services use a connection pooler",
            format!("ALTER SYSTEM SET max_connections = {};", facts.max_connections + 50),
        )
    })
}

/// What the session was asked to begin with has to be in force; a pooler may leave it out.
fn settings_arrived(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let reason = "the settings that the session began with did not reach the server";
    (facts.statement_timeout != "5s").then(|| pooler(settings, reason))
}

/// A connection pooler or load balancer stands between.
pub fn pooler(settings: &Settings, reason: &str) -> Finding {
    let source = &settings.source;
    Finding::error(
        Area::Server,
        "pooler",
        format!("{}:{}", source.host, source.port),
        format!("{reason}: a connection pooler or load balancer stands between, which can neither keep a lane nor replicate"),
    )
    .mend(
        "point source.url at the server itself",
        format!("source.url = \"postgres://{}@<the server>:5432/{}\"", source.user, source.database),
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    /// A server that is as it should be.
    pub fn sound() -> Facts {
        Facts {
            version: 170_002,
            version_text: "17.2".into(),
            in_recovery: false,
            wal_level: "logical".into(),
            max_slots: 10,
            slots: 2,
            max_senders: 10,
            senders: 2,
            keep_mb: 51_200,
            idle_slot_timeout: None,
            synchronous_standby_names: String::new(),
            max_connections: 97,
            connections: 10,
            statement_timeout: "5s".into(),
            pid: 7,
        }
    }

    #[test]
    fn a_sound_server_has_nothing_to_mend() {
        assert_eq!(codes(&judge(&sound(), &settings())), [""; 0]);
        assert_eq!(codes(&[slots(&sound(), false)]), [""; 0]);
    }

    #[test]
    fn each_fault_has_its_finding_and_its_command() {
        type Change = fn(&mut Facts);
        let cases: &[(Change, &str, &str)] = &[
            (|f| f.version = 140_009, "server-too-old", "pg_upgrade"),
            (|f| f.in_recovery = true, "server-standby", "source.url"),
            (|f| f.wal_level = "replica".into(), "wal-level", "wal_level = 'logical'"),
            (|f| f.senders = 11, "wal-senders", "max_wal_senders = 15"),
            (|f| f.keep_mb = -1, "wal-keep-unlimited", "max_slot_wal_keep_size"),
            (|f| f.keep_mb = 64, "wal-keep-small", "max_slot_wal_keep_size"),
            (|f| f.idle_slot_timeout = Some("1h".into()), "idle-slot-timeout", "= 0"),
            (|f| f.synchronous_standby_names = "ANY 1 (*)".into(), "synchronous-standby", "FIRST 1"),
            (
                |f| f.synchronous_standby_names = "a, \"Outbox-Relay orders\"".into(),
                "synchronous-standby",
                "FIRST",
            ),
            (|f| f.connections = 95, "connections-few", "max_connections"),
            (|f| f.statement_timeout = "0".into(), "pooler", "source.url"),
        ];
        for (change, code, command) in cases {
            let mut facts = sound();
            change(&mut facts);
            let findings = judge(&facts, &settings());
            assert_eq!(codes(&findings), [*code]);
            let finding = findings.iter().find(|finding| finding.code == *code && finding.command.is_some());
            assert!(finding.unwrap().command.as_ref().unwrap().contains(command), "{code}");
        }
    }

    #[test]
    fn names_of_other_standbys_are_no_fault() {
        for setting in ["", "standby_a", "FIRST 1 (outbox, \"relay orders\")", "2 (a, b)"] {
            let facts = Facts { synchronous_standby_names: setting.into(), ..sound() };
            assert_eq!(codes(&judge(&facts, &settings())), [""; 0], "{setting}");
        }
    }

    #[test]
    fn full_slots_matter_only_to_a_slot_that_is_to_be_made() {
        let full = Facts { slots: 10, ..sound() };
        assert_eq!(codes(&[slots(&full, false)]), ["replication-slots"]);
        assert_eq!(codes(&[slots(&full, true)]), [""; 0]);
    }
}
