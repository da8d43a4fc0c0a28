//! The slot, what it keeps, who reads it, and what holds it back.

use outbox_schema::sql::quote_literal;
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use crate::commands::words::bytes;
use crate::config::Settings;
use crate::session::standbys::{Awaited, Standing, without_the_faulty};
use crate::session::{Sql, SqlError};

/// A transaction open for longer than this holds back what the server may forget.
const LONG_SECONDS: f64 = 600.0;
/// Log kept for a slot that nobody reads, from which on it is said.
const MUCH: i64 = 1 << 30;

/// What the catalogue shows of the slot beyond what the comparison needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// `wal_status`.
    pub wal_status: Option<String>,
    /// Bytes of log kept for it.
    pub kept: Option<i64>,
    /// Bytes of log that are not confirmed.
    pub behind: Option<i64>,
    /// Bytes that may still be written before it is lost.
    pub safe_wal_size: Option<i64>,
    /// Whether it is synchronised to standbys; `None` before PostgreSQL 17.
    pub failover: Option<bool>,
    /// `synchronized_standby_slots`; `None` before PostgreSQL 17.
    pub synchronized_standby_slots: Option<String>,
    /// Physical slots, as standbys have.
    pub standbys: i64,
    /// Who reads it.
    pub reader: Option<Reader>,
}

/// The backend that streams from the slot.
#[derive(Debug, Clone, Deserialize)]
pub struct Reader {
    /// Its process id.
    pub pid: i32,
    /// Its `application_name`; hidden from other roles.
    pub application: Option<String>,
    /// Where it comes from.
    pub client: Option<String>,
}

/// A transaction that is open or prepared.
#[derive(Debug, Clone, Deserialize)]
pub struct Open {
    /// A backend's process id.
    pub pid: Option<i32>,
    /// A prepared transaction's name.
    pub gid: Option<String>,
    /// How long it is open, where the role may see it.
    pub seconds: Option<f64>,
}

const SQL: &str = "
    SELECT jsonb_build_object(
        'wal_status', s.wal_status,
        'kept', pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint,
        'behind', greatest(pg_wal_lsn_diff(e.lsn, s.confirmed_flush_lsn)::bigint, 0),
        'safe_wal_size', s.safe_wal_size,
        'failover', to_jsonb(s) -> 'failover',
        'standbys', (SELECT count(*) FROM pg_replication_slots p WHERE p.slot_type = 'physical'),
        'synchronized_standby_slots', current_setting('synchronized_standby_slots', true),
        'reader', (SELECT jsonb_build_object('pid', a.pid, 'application', a.application_name,
                'client', host(a.client_addr)) FROM pg_stat_activity a WHERE a.pid = s.active_pid))::text
    FROM pg_replication_slots s,
         (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                      ELSE pg_current_wal_flush_lsn() END AS lsn) e
    WHERE s.slot_name = $1";

// The start of another role's transaction is shown to members of pg_read_all_stats only. What has no user is the
// server's own and ends by itself.
const OPEN: &str = "
    SELECT coalesce(jsonb_agg(t), '[]')::text FROM (
        SELECT a.pid, NULL AS gid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
          FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
        UNION ALL
        SELECT NULL, p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8 FROM pg_prepared_xacts p
        ORDER BY seconds DESC NULLS LAST LIMIT 20) t";

/// Asks the server; `None` where there is no such slot.
pub async fn look(sql: &Sql, settings: &Settings) -> Result<Option<Facts>, SqlError> {
    ask::optional(sql, "looking at what the slot keeps", SQL, &[&settings.slot()]).await
}

/// Transactions that are open or prepared now, the oldest first.
pub async fn open_transactions(sql: &Sql) -> Result<Vec<Open>, SqlError> {
    ask::document(sql, "looking for open transactions", OPEN, &[]).await
}

/// Everything there is to say about it but what the comparison with the state record says.
pub fn judge(facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let name = settings.slot();
    let mut findings = vec![reader(facts, settings)];
    findings.extend(near_its_end(facts, &name));
    findings.extend(failover(facts, &name));
    findings
}

fn reader(facts: &Facts, settings: &Settings) -> Finding {
    let name = settings.slot();
    let volume = |amount: Option<i64>| amount.map_or("an unknown amount".to_owned(), bytes);
    let keeps =
        format!("the server keeps {} for it, {} are not confirmed", volume(facts.kept), volume(facts.behind));
    let ours = format!("outbox-relay {}", settings.name);
    match &facts.reader {
        None if facts.kept.is_some_and(|kept| kept > MUCH) => {
            Finding::warning(Area::Slot, "slot-unread", name, format!("nobody reads it, and {keeps}"))
                .mend("start the relay", "outbox-relay run")
        }
        None => Finding::ok(Area::Slot, "slot", name, format!("nobody reads it now; {keeps}")),
        Some(Reader { pid, application, client }) => {
            let from = client.as_deref().unwrap_or("a local socket");
            match application.as_deref().filter(|application| *application != ours) {
                Some(other) => Finding::warning(
                    Area::Slot,
                    "slot-foreign",
                    name,
                    format!("process {pid} from {from} reads it and calls itself `{other}`: what it confirms is lost to the relay"),
                )
                .mend("stop that program; two readers of one slot lose events", format!("SELECT pg_terminate_backend({pid});")),
                None => {
                    Finding::ok(Area::Slot, "slot", name, format!("read by process {pid} from {from}; {keeps}"))
                }
            }
        }
    }
}

fn near_its_end(facts: &Facts, name: &str) -> Option<Finding> {
    // `lost` is the comparison's to say.
    let unreserved = facts.wal_status.as_deref() == Some("unreserved");
    let near = facts.safe_wal_size.zip(facts.kept).is_some_and(|(safe, kept)| safe < kept / 4);
    (unreserved || near).then(|| {
        let left = facts.safe_wal_size.map_or("little".to_owned(), |safe| bytes(safe.max(0)));
        Finding::warning(
            Area::Slot,
            "slot-near-limit",
            name,
            format!("is near max_slot_wal_keep_size: {left} more of log, and the server gives it up"),
        )
        .mend(
            "let the relay catch up, or raise the limit now",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();",
        )
    })
}

fn failover(facts: &Facts, name: &str) -> Option<Finding> {
    match (facts.failover?, facts.synchronized_standby_slots.as_deref().unwrap_or_default()) {
        (false, _) => Some(
            Finding::note(
                Area::Slot,
                "slot-no-failover",
                name,
                "is no failover slot: on a standby that is promoted it is not there, and `recovery.failover` says what follows",
            )
            .advised(
                "where there are standbys: make it one while no relay runs, on a replication connection",
                format!(
                    "psql 'dbname=… replication=database' -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER true)'"
                ),
            ),
        ),
        (true, "") if facts.standbys > 0 => Some(
            Finding::warning(
                Area::Slot,
                "standby-slots",
                "synchronized_standby_slots",
                "is empty although the slot is a failover slot: events can be published that a promoted standby never had",
            )
            .mend(
                "name the physical slots of the standbys, so that logical slots wait for them",
                "ALTER SYSTEM SET synchronized_standby_slots = '<physical slot>'; SELECT pg_reload_conf();",
            ),
        ),
        (true, _) => None,
    }
}

/// Those that a failover slot waits for before anything of it is sent.
pub fn judge_awaited(awaited: &[Awaited]) -> Vec<Finding> {
    let faulty = awaited.iter().filter_map(|awaited| Some((awaited, awaited.fault()?)));
    let mend = without_the_faulty(awaited);
    faulty
        .map(|(awaited, fault)| {
            let subject = "synchronized_standby_slots";
            let seen = |effect: &str| format!("names the slot `{}`, which {fault}: {effect}", awaited.name);
            let trouble = match awaited.standing {
                // A standby that is down comes back.
                Standing::Unread(_) => Finding::warning(
                    Area::Slot,
                    "standby-slot-unread",
                    subject,
                    seen("nothing is sent to the relay before its standby has it"),
                ),
                Standing::Missing | Standing::Logical | Standing::Lost | Standing::Read(_) => Finding::error(
                    Area::Slot,
                    "standby-slot-missing",
                    subject,
                    seen("nothing is sent to the relay, for ever"),
                ),
            };
            let advice = "take the name out, as on a promoted server that kept the setting of the former primary, or \
                          bring the standby back with a slot of that name";
            trouble.mend(advice, mend.clone())
        })
        .collect()
}

/// Transactions that hold a slot back, or up while it is made.
pub fn judge_open(open: &[Open], slot_is_there: bool) -> Vec<Finding> {
    let waits =
        open.iter().filter(|open| !slot_is_there || open.seconds.is_some_and(|age| age > LONG_SECONDS));
    let effect = if slot_is_there {
        "what the server keeps for the slot cannot shrink meanwhile"
    } else {
        "making the slot waits for it"
    };
    waits
        .filter_map(|open| {
            let since = open.seconds.map_or("for an unknown time".into(), |age| format!("for {age:.0} s"));
            match (&open.gid, open.pid) {
                (Some(gid), _) => Some(
                    Finding::warning(
                        Area::Slot,
                        "prepared-transaction",
                        gid,
                        format!("is prepared {since} and neither committed nor rolled back: {effect}"),
                    )
                    .mend(
                        "ask its transaction manager how it ended, then end it so, in its own database",
                        format!("ROLLBACK PREPARED {0};   -- or COMMIT PREPARED {0}", quote_literal(gid)),
                    ),
                ),
                (None, Some(pid)) => Some(
                    Finding::warning(
                        Area::Slot,
                        "open-transaction",
                        format!("process {pid}"),
                        format!("is in a transaction that has written, {since}: {effect}"),
                    )
                    .mend("let it end, or end it", format!("SELECT pg_terminate_backend({pid});")),
                ),
                (None, None) => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};

    fn sound() -> Facts {
        Facts {
            wal_status: Some("reserved".into()),
            kept: Some(4096),
            behind: Some(0),
            safe_wal_size: Some(1 << 30),
            failover: None,
            standbys: 1,
            synchronized_standby_slots: None,
            reader: None,
        }
    }

    fn read_by(application: Option<&str>) -> Option<Reader> {
        Some(Reader { pid: 7, application: application.map(str::to_owned), client: None })
    }

    #[test]
    fn readers_and_kept_log_are_told() {
        let found = |facts: Facts| codes(&judge(&facts, &settings()));
        assert_eq!(found(sound()), [""; 0]);
        assert_eq!(found(Facts { reader: read_by(Some("outbox-relay orders")), ..sound() }), [""; 0]);
        assert_eq!(found(Facts { reader: read_by(None), ..sound() }), [""; 0]);
        assert_eq!(found(Facts { reader: read_by(Some("debezium")), ..sound() }), ["slot-foreign"]);
        assert_eq!(found(Facts { kept: Some(2 << 30), safe_wal_size: None, ..sound() }), ["slot-unread"]);
        assert_eq!(
            found(Facts { kept: Some(900), safe_wal_size: Some(100), ..sound() }),
            ["slot-near-limit"]
        );
        let unreserved = Facts { wal_status: Some("unreserved".into()), ..sound() };
        assert_eq!(found(unreserved), ["slot-near-limit"]);
    }

    #[test]
    fn failover_slots_need_the_setting_beside_them() {
        let found = |failover, setting: &str| {
            let setting = Some(setting.to_owned());
            codes(&judge(&Facts { failover, synchronized_standby_slots: setting, ..sound() }, &settings()))
        };
        assert_eq!(found(Some(false), ""), ["slot-no-failover"]);
        assert_eq!(found(Some(true), ""), ["standby-slots"]);
        let alone = Facts { failover: Some(true), standbys: 0, ..sound() };
        assert!(codes(&judge(&alone, &settings())).is_empty(), "nobody to wait for");
        assert_eq!(found(Some(true), "standby_a"), [""; 0]);
    }

    #[test]
    fn a_slot_that_nobody_can_wait_for_is_an_error() {
        use crate::lsn::Lsn;
        let named = |name: &str, standing| Awaited { name: name.to_owned(), standing };
        let all = [
            named("a", Standing::Read(Lsn(9))),
            named("b", Standing::Missing),
            named("c", Standing::Unread(Lsn(1))),
        ];
        let found = judge_awaited(&all);
        assert_eq!(codes(&found), ["standby-slot-missing", "standby-slot-unread"]);
        assert!(found[0].seen.contains("`b`, which does not exist"), "{found:?}");
        let command = found[0].command.as_deref().unwrap();
        assert!(command.starts_with("ALTER SYSTEM SET synchronized_standby_slots = 'a';"), "{command}");
        assert!(judge_awaited(&all[..1]).is_empty());
    }

    #[test]
    fn open_transactions_matter_to_a_slot_that_is_to_be_made_and_old_ones_always() {
        let young = Open { pid: Some(7), gid: None, seconds: Some(3.0) };
        let hidden = Open { pid: Some(8), gid: None, seconds: None };
        let old = Open { pid: None, gid: Some("o'gid".into()), seconds: Some(7200.0) };
        let all = [young, hidden, old];
        assert_eq!(codes(&judge_open(&all, true)), ["prepared-transaction"]);
        let found = judge_open(&all, false);
        assert_eq!(codes(&found), ["open-transaction", "open-transaction", "prepared-transaction"]);
        assert!(found[2].command.as_ref().unwrap().starts_with("ROLLBACK PREPARED 'o''gid';"));
    }
}
