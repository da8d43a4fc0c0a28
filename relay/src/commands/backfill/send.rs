//! Tells the relay, batch by batch at the rate that was asked for, and waits for it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_postgres::error::SqlState;

use super::rows::{Row, Rows};
use super::{BackfillArgs, Report};
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::router::command::{Command, Do, Republish};
use crate::session::{End, Ending, Sql, SqlError, lane_name};

/// Rows of one message at most: each is a transaction, which the relay publishes as a whole.
const BATCH: usize = 10;
/// Bytes of values of one message at most, unless one row has more.
const BATCH_BYTES: usize = 256 << 10;
/// What stands around the content of a message in the stream.
const ENVELOPE: usize = 1 << 10;
/// How often the slot is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A relay that reconnects streams nothing for a moment; one that does not for longer does not run.
const NOT_RUNNING: Duration = Duration::from_secs(10);

/// Tells everything and waits; what came of it stands in the report.
///
/// # Errors
/// Nothing could be told at all.
pub async fn send(
    settings: &Arc<Settings>,
    rows: &Rows,
    args: &BackfillArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let ending = Arc::new(Ending::default());
    let lane = format!("{} backfill", lane_name(settings, settings.lane.number));
    let sql = Sql::connect(&settings.source, &lane, ending.clone()).await?;
    let slot = settings.slot();
    anyhow::ensure!(
        sql.slot(&slot).await?.is_some(),
        "there is no slot {slot}, so that no relay would hear of it; `outbox-relay plan` says what a start would do"
    );
    rows.begin().await?;
    let told = tell_all(settings, &sql, rows, args, report).await;
    if let Err(error) = told {
        if report.told == 0 {
            return Err(error);
        }
        report.stopped = Some(format!("it ended early: {error:#}"));
    }
    if report.lsn.is_some() {
        // Behind the end of the last one's transaction.
        let waited = wait(settings, &sql, args, report).await;
        if let Err(error) = waited {
            report.stopped.get_or_insert(format!("the relay cannot be waited for: {error:#}"));
        }
    }
    ending.end(End::Drained);
    Ok(())
}

async fn tell_all(
    settings: &Settings,
    sql: &Sql,
    rows: &Rows,
    args: &BackfillArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let columns: Vec<(String, u32)> =
        rows.shape().columns.iter().map(|column| (column.name.clone(), column.type_oid)).collect();
    let mut progress = Progress::new(report.events);
    loop {
        let fetched = rows.next().await?;
        if fetched.is_empty() {
            progress.done();
            return Ok(());
        }
        for batch in batches(fetched, args.rate) {
            tokio::select! {
                biased;
                _signal = &mut interrupted => {
                    progress.done();
                    report.stopped = Some("interrupted".into());
                    return Ok(());
                }
                () = tokio::time::sleep(progress.due(report.told, args.rate)) => {}
            }
            let (last, count) = (batch.last().map(|row| row.seq), batch.len() as u64);
            let content = content(settings, &columns, batch)?;
            sql.tell(&content).await.map_err(|error| refused(error, settings))?;
            // Behind the transaction's end, which a position inside it is not.
            report.lsn = Some(sql.wal_end().await?);
            report.told += count;
            report.told_up_to = last;
            progress.show(report.told);
        }
    }
}

/// Few rows each, and few bytes; at a low rate fewer, so that they come evenly.
fn batches(rows: Vec<Row>, rate: u32) -> Vec<Vec<Row>> {
    let most = BATCH.min(usize::try_from(rate / 5).unwrap_or(BATCH)).max(1);
    let mut batches: Vec<Vec<Row>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size: usize = row.values.iter().flatten().map(String::len).sum();
        match batches.last_mut() {
            Some(batch) if batch.len() < most && bytes + size <= BATCH_BYTES => {
                bytes += size;
                batch.push(row);
            }
            Some(_) | None => {
                bytes = size;
                batches.push(vec![row]);
            }
        }
    }
    batches
}

/// The message. One that is larger than what the relay holds would be passed over by it.
fn content(settings: &Settings, columns: &[(String, u32)], batch: Vec<Row>) -> anyhow::Result<String> {
    let first = batch.first().map_or(0, |row| row.seq);
    let rows = batch.into_iter().map(|row| row.values).collect();
    let told = Do::Republish(Republish { columns: columns.to_vec(), rows });
    let content =
        Command { relay: settings.name.clone(), lane: settings.lane.number, r#do: told }.content()?;
    let (size, limit) = (content.len() + ENVELOPE, settings.source.max_row_bytes);
    anyhow::ensure!(
        size <= limit,
        "the row with seq {first} makes a message of {size} bytes, and source.max_row_bytes allows {limit}: raise it for \
         relay and backfill, or pass over the row with --after {first}"
    );
    Ok(content)
}

fn refused(error: SqlError, settings: &Settings) -> anyhow::Error {
    let code = match &error {
        SqlError::Server { source, .. } => source.code().cloned(),
        SqlError::Silent { .. } | SqlError::Answer { .. } => None,
    };
    let error = anyhow::Error::new(error);
    if code == Some(SqlState::INSUFFICIENT_PRIVILEGE) {
        return error.context(format!(
            "role {} may not write messages into the log: GRANT EXECUTE ON FUNCTION \
             pg_logical_emit_message(boolean, text, text) to it",
            settings.source.user
        ));
    }
    error
}

/// Waits until the slot is confirmed up to where the last message had been written.
async fn wait(
    settings: &Settings,
    sql: &Sql,
    args: &BackfillArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let target = report.lsn.unwrap_or(Lsn::ZERO);
    let (began, slot) = (Instant::now(), settings.slot());
    let mut streamed = began;
    loop {
        let found = sql.slot(&slot).await?;
        let (facts, pid) = found.with_context(|| format!("slot {slot} is gone"))?;
        if facts.confirmed_flush >= target {
            report.confirmed = true;
            return Ok(());
        }
        // Whoever interrupted it does not wait.
        if args.no_wait || report.stopped.is_some() {
            return Ok(());
        }
        if pid.is_some() {
            streamed = Instant::now();
        }
        let said = if streamed.elapsed() >= NOT_RUNNING {
            Some(format!(
                "no relay {} is streaming: what was told stands in the log, and the next one that runs publishes it when \
                 it gets there",
                settings.name
            ))
        } else if began.elapsed() >= Duration::from_secs(args.timeout) {
            Some(format!(
                "the relay has not come to {target} within {} s; it is at {}, and goes on (`outbox-relay status`)",
                args.timeout, facts.confirmed_flush
            ))
        } else {
            None
        };
        if let Some(said) = said {
            report.stopped.get_or_insert(said);
            return Ok(());
        }
        tokio::select! {
            biased;
            _signal = tokio::signal::ctrl_c() => {
                report.stopped = Some(format!("interrupted while waiting for {target}; the relay goes on"));
                return Ok(());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// How far it is, on a terminal.
struct Progress {
    began: Instant,
    events: u64,
    shows: bool,
}

impl Progress {
    fn new(events: u64) -> Progress {
        Progress { began: Instant::now(), events, shows: io::stderr().is_terminal() }
    }

    /// How long the next batch has to wait, so that `told` events are no more than the rate.
    fn due(&self, told: u64, rate: u32) -> Duration {
        Duration::from_secs_f64(told as f64 / f64::from(rate)).saturating_sub(self.began.elapsed())
    }

    fn show(&self, told: u64) {
        if self.shows {
            let share = 100.0 * told as f64 / self.events.max(1) as f64;
            let rate = told as f64 / self.began.elapsed().as_secs_f64().max(0.001);
            eprint!("\r{told} of {} events ({share:.0} %), {rate:.0} a second  ", self.events);
        }
    }

    fn done(&mut self) {
        if self.shows {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64, bytes: usize) -> Row {
        Row { seq, values: vec![Some("x".repeat(bytes)), None] }
    }

    fn sizes(rows: Vec<Row>, rate: u32) -> Vec<usize> {
        let batches = batches(rows, rate);
        let all: Vec<i64> = batches.iter().flatten().map(|row| row.seq).collect();
        assert!(all.is_sorted(), "{all:?}");
        batches.iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_are_small_and_in_order() {
        assert_eq!(sizes((0..25).map(|seq| row(seq, 10)).collect(), 500), [10, 10, 5]);
        assert_eq!(sizes((0..4).map(|seq| row(seq, 10)).collect(), 1), [1, 1, 1, 1]);
        assert_eq!(sizes((0..4).map(|seq| row(seq, 10)).collect(), 12), [2, 2]);
        let large =
            vec![row(0, 10), row(1, BATCH_BYTES), row(2, 200 << 10), row(3, 50 << 10), row(4, 50 << 10)];
        assert_eq!(sizes(large, 500), [1, 1, 2, 1]);
        assert_eq!(sizes(Vec::new(), 500), [0; 0]);
    }

    #[test]
    fn the_rate_is_kept() {
        let progress = Progress { began: Instant::now(), events: 10, shows: false };
        assert_eq!(progress.due(0, 500), Duration::ZERO);
        let due = progress.due(1000, 500);
        assert!(due > Duration::from_millis(1900) && due <= Duration::from_secs(2), "{due:?}");
    }
}
