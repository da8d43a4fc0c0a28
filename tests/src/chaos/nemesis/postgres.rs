//! Faults of the server: its end, its backends, its disk, and the answers to COMMIT.

use std::fs;
use std::time::Duration;

use rand::RngExt;

use super::{Ground, READY, SEEN, Struck, until};
use crate::cluster::Postgres;
use crate::fault::commits::CommitCutter;

const NAME: &str = "postgres";

/// How often a disk was full, in the server's words.
const FULL: &str = "No space left on device";

fn started(ground: &Ground<'_>) -> Option<String> {
    let rows = ground.stage.outbox.try_ask("SELECT pg_postmaster_start_time()::text", &[])?;
    rows.first()?.get(0)
}

fn restart(ground: &mut Ground<'_>, stop: fn(&Postgres) -> Duration) -> Struck {
    let before = until(SEEN, || started(ground));
    let still = ground.stage.standstill.lock();
    let took = stop(&ground.stage.postgres);
    ground.last(0..1_500);
    ground.stage.postgres.start_again();
    drop(still);
    ground.over();
    let after = until(SEEN, || started(ground));
    let seen = after.filter(|after| before.as_ref() != Some(after));
    Struck::at(NAME, seen.map(|at| format!("down in {:.1} s; its start time is {at}", took.as_secs_f64())))
}

/// A fast shutdown.
pub fn restarted(ground: &mut Ground<'_>) -> Struck {
    restart(ground, Postgres::stop_fast)
}

/// An immediate shutdown: it recovers from its log.
pub fn crashed(ground: &mut Ground<'_>) -> Struck {
    restart(ground, Postgres::stop_immediate)
}

fn timeline(ground: &Ground<'_>) -> Option<i64> {
    ground.stage.outbox.number("SELECT timeline_id::int8 FROM pg_control_checkpoint()")
}

fn epoch(ground: &Ground<'_>) -> Option<u64> {
    ground.stage.owner()?.status()?["epoch"].as_u64()
}

/// The server goes, by order or in a crash, and a standby that had everything is promoted at its address: nothing that was
/// committed is missing, the timeline is another, and the slot is there or not. Relays have to begin a new epoch; without
/// the slot they fill from the table.
pub fn replaced(ground: &mut Ground<'_>) -> Struck {
    let (by_order, slots) = (ground.random.random_bool(0.5), ground.random.random_bool(0.5));
    let Some(before) = until(READY, || timeline(ground).zip(epoch(ground))) else { return Struck::nobody() };
    let postgres = &ground.stage.postgres;
    let still = ground.stage.standstill.lock();
    let took = if by_order { postgres.stop_fast() } else { postgres.stop_immediate() };
    postgres.start_in_the_place_of_a_primary(slots);
    drop(still);
    ground.over();
    let seen = until(SEEN, || {
        timeline(ground).zip(epoch(ground)).filter(|now| now.0 > before.0 && now.1 > before.1)
    });
    let how = if by_order { "stopped" } else { "crashed" };
    let slot = if slots { "with its slots" } else { "without slots" };
    let took = took.as_secs_f64();
    let said = |(timeline, epoch)| {
        format!(
            "{how} in {took:.1} s; promoted {slot} on timeline {timeline}, a relay streams in epoch {epoch}"
        )
    };
    Struck::at(NAME, seen.map(said))
}

/// `pg_terminate_backend` for everybody but those who watch.
pub fn terminated(ground: &mut Ground<'_>) -> Struck {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND application_name <> 'outbox-tests'";
    let ended = ground.stage.outbox.try_ask(end, &[]).map_or(0, |rows| rows.len());
    Struck::at(NAME, (ended > 0).then(|| format!("{ended} backends were there to be ended")))
}

fn lost(cutter: &CommitCutter) -> usize {
    let (answered, under_way) = cutter.lost();
    answered + under_way
}

fn lose(cutter: &CommitCutter, target: &str) -> Struck {
    let before = lost(cutter);
    cutter.lose(4);
    let seen = until(SEEN, || (lost(cutter) >= before + 4).then_some(()));
    let lost = lost(cutter) - before;
    Struck::at(target, seen.map(|()| format!("{lost} answers lost, each with its connection")))
}

/// Consumers do not learn whether they have committed.
pub fn consumers_commits(ground: &mut Ground<'_>) -> Struck {
    lose(&ground.stage.consumers_commits, "consumers")
}

/// Services do not learn whether they have committed.
pub fn services_commits(ground: &mut Ground<'_>) -> Struck {
    lose(&ground.stage.services_commits, "services")
}

/// The table of effects cannot grow.
pub fn disk_full(ground: &mut Ground<'_>) -> Struck {
    let log = ground.stage.postgres.log_file();
    let said = || fs::read_to_string(&log).unwrap_or_default().matches(FULL).count();
    let before = said();
    let filled = ground.stage.disk.fill();
    let seen = match &filled {
        Ok(_) => until(SEEN, || (said() > before).then_some(())),
        Err(why) => {
            eprintln!("chaos: disk full: {why}");
            None
        }
    };
    if seen.is_some() {
        ground.last(1_000..4_000);
    }
    let times = said() - before;
    ground.stage.disk.empty();
    let bytes = filled.unwrap_or(0);
    Struck::at(NAME, seen.map(|()| format!("{bytes} bytes taken; \"{FULL}\" {times} times in its log")))
}
