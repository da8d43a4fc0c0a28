//! The same transaction without a consumer: `pgbench` with the statements that a consumer sends, in the same round
//! trips, on as many connections.

use std::process::Command;

use super::ground::{Ground, NAME};
use super::plan::{CONNECTIONS, KEYS};
use super::results::Run;
use crate::cluster::postgres::{PASSWORD, SUPERUSER};

/// The transaction of so many events, as in `consumer-sdk/src/runtime/inbox.rs`: begin with claim and look for markers in a
/// round trip, the effects, commit. Of several events each has a savepoint and a round trip of its own, as their handlers
/// have. The ids are of version 7 and no other's: the client's number and a count of its own.
pub fn script(events: usize) -> String {
    let all = |one: &str| format!("array_fill({one}, ARRAY[{events}])");
    let (created, keys) = (all("NULL::timestamptz"), all("'key'::bytea"));
    let (topics, partitions) = (all("'uniform'::text"), all("0::int"));
    let mut script = format!(
        r"\set count :count + 1
\startpipeline
BEGIN;
SET LOCAL statement_timeout = 30000;
SELECT verdicts, parked FROM inbox.claim_keys(
    CASE WHEN current_setting('statement_timeout') <> '0' THEN 'pgbench' END,
    ARRAY(SELECT (:prefix || lpad((:client_id * 10000000000 + :count * {events} + event)::text, 12, '0'))::uuid
            FROM generate_series(1, {events}) event),
    {created}, {topics}, {partitions}, ARRAY(SELECT generate_series(1, {events})::bigint), NULL, {topics}, {keys}, 500);
\endpipeline
"
    );
    for event in 0..events {
        let savepoint = match (events, event) {
            (1, _) => "",
            (_, 0) => "SAVEPOINT event;\n",
            _ => "RELEASE SAVEPOINT event;\nSAVEPOINT event;\n",
        };
        let effect = "UPDATE stock SET free = free - 1 WHERE sku = 'sku-' || lpad(:sku::text, 7, '0');";
        // In rising order, as a group's keys are, so that no two wait for each other.
        let keys = KEYS as usize;
        let (from, to) = (event * keys / events, (event + 1) * keys / events - 1);
        script +=
            &format!("\\set sku random({from}, {to})\n\\startpipeline\n{savepoint}{effect}\n\\endpipeline\n");
    }
    script + "\\startpipeline\nSELECT;\nCOMMIT;\n\\endpipeline\n"
}

/// Runs it for so many seconds, with so many events of a transaction.
///
/// # Panics
/// When it fails, or says nothing of a rate.
pub async fn run(ground: &Ground, events: usize, seconds: u64) -> Run {
    let script = ground.directory().join("claim-update-commit.sql");
    std::fs::write(&script, self::script(events)).expect("our own directory");
    // Its first bytes are the time, as in every id of version 7.
    let millis = jiff::Timestamp::now().as_millisecond();
    let prefix = format!("{:08x}-{:04x}-7000-8000-", millis >> 16, millis & 0xFFFF);
    let connections = CONNECTIONS.to_string();
    let mut command = Command::new(ground.postgres.programs().join("pgbench"));
    command
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--host=127.0.0.1"])
        .args(["--client", &connections, "--username", SUPERUSER])
        .arg(format!("--port={}", ground.postgres.port()))
        .arg(format!("--time={seconds}"))
        .args(["--define=count=0", &format!("--define=prefix={prefix}")])
        .arg("--file")
        .arg(&script)
        .arg(NAME)
        .env("PGPASSWORD", PASSWORD);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("pgbench, which comes with Debian's postgresql-15, starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbench: {}\n{said}{errors}", output.status);
    let (transactions, rate) = figures(&said).unwrap_or_else(|| panic!("no rate\n{said}{errors}"));
    let events = transactions * events as u64;
    let effects = ground.number("SELECT -sum(free)::bigint FROM stock").await;
    let settled = "SELECT count(*) FROM inbox.settlement WHERE scope = 'pgbench' AND state = 'done'";
    let once = effects == ground.number(settled).await && u64::try_from(effects) == Ok(events);
    Run {
        events,
        seconds: transactions as f64 / rate,
        cpu_micros: None,
        peak_rss_kib: None,
        quarter_rss_kib: None,
        once: Some(once),
    }
}

/// Transactions, and transactions a second without the time to connect.
fn figures(said: &str) -> Option<(u64, f64)> {
    let behind = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let events = behind("number of transactions actually processed: ")?;
    let rate = behind("tps = ")?.split_whitespace().next()?;
    Some((events.split('/').next()?.trim().parse().ok()?, rate.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_of_a_group_has_its_savepoint() {
        let (one, group) = (script(1), script(50));
        assert!(!one.contains("SAVEPOINT") && one.matches("UPDATE").count() == 1, "{one}");
        assert_eq!(group.matches("\nSAVEPOINT event;").count(), 50);
        assert_eq!(group.matches("RELEASE SAVEPOINT event;").count(), 49);
        assert_eq!(group.matches("COMMIT;").count(), 1);
    }

    #[test]
    fn a_rate_is_read() {
        let said = "number of transactions actually processed: 40351\nnumber of failed transactions: 0 (0.000%)\n\
                    tps = 10082.123456 (without initial connection time)\n";
        assert_eq!(figures(said), Some((40_351, 10_082.123_456)));
        assert_eq!(figures("tps = nothing"), None);
    }
}
