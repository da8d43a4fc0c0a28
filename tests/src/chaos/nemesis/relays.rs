//! Faults of the relays and of their connections to PostgreSQL. All of them strike the one that reads the slot.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use super::{Ground, READY, SEEN, Struck, mend, until};
use crate::chaos::stage::Relay;
use crate::fault::proxy::Flow;
use crate::wait::watch;

/// The one that reads, and the other.
fn both<'a>(ground: &Ground<'a>) -> Option<(&'a Relay, &'a Relay)> {
    let relays = &ground.stage.relays;
    until(READY, || {
        let owner = relays.iter().position(Relay::streams)?;
        Some((&relays[owner], &relays[1 - owner]))
    })
}

/// Waits until the other one reads.
fn taken_over(other: &Relay) -> Option<String> {
    let began = Instant::now();
    until(SEEN, || other.streams().then_some(()))?;
    Some(format!("{} reads after {:.1} s", other.actor.name(), began.elapsed().as_secs_f64()))
}

/// SIGKILL, and a new start once the other has taken over.
pub fn killed(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let ended = owner.actor.kill().filter(|status| status.signal() == Some(9));
    let taken = taken_over(other);
    owner.actor.start();
    ground.over();
    let seen = ended.map(|status| {
        [Some(format!("ended by {status}")), taken].into_iter().flatten().collect::<Vec<_>>().join("; ")
    });
    Struck::at(owner.actor.name(), seen)
}

/// SIGTERM: it drains, and the other takes over.
pub fn told_to_end(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let ended = owner.actor.end();
    let taken = taken_over(other);
    owner.actor.start();
    ground.over();
    let seen = ended.zip(taken).map(|(status, taken)| format!("ended with {status}; {taken}"));
    Struck::at(owner.actor.name(), seen)
}

/// SIGSTOP, for less than the ten seconds after which another takes over.
pub fn frozen(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, _)) = both(ground) else { return Struck::nobody() };
    let still = ground.stage.standstill.lock();
    let began = Instant::now();
    let frozen = owner.actor.pause();
    let silent = frozen && owner.status().is_none();
    owner.actor.resume();
    drop(still);
    ground.over();
    let seen =
        silent.then(|| format!("its admin port was silent for {:.1} s", began.elapsed().as_secs_f64()));
    Struck::at(owner.actor.name(), seen)
}

/// SIGSTOP, until the other has taken over and published what was in flight: it cannot be fenced before (a known limit).
pub fn frozen_for_long(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let still = ground.stage.standstill.lock();
    let taken = if owner.actor.pause() { taken_over(other) } else { None };
    if taken.is_some() {
        caught_up(ground);
    }
    owner.actor.resume();
    drop(still);
    ground.over();
    Struck::at(owner.actor.name(), taken)
}

/// Waits until the slot has passed what the log ends with now.
fn caught_up(ground: &Ground<'_>) {
    let outbox = &ground.stage.outbox;
    let end: String = outbox.ask("SELECT pg_current_wal_lsn()::text", &[])[0].get(0);
    let passed = "SELECT 1 FROM pg_replication_slots WHERE slot_name LIKE 'outbox_%' AND confirmed_flush_lsn >= $1::text::pg_lsn";
    until(READY, || outbox.try_ask(passed, &[&end]).filter(|rows| !rows.is_empty()));
}

/// Waits until a relay has connected anew, or the other reads in its place.
fn noticed(owner: &Relay, other: &Relay, before: Option<u64>) -> Option<String> {
    let began = Instant::now();
    let what = until(SEEN, || {
        let anew = owner.reconnects().zip(before).is_some_and(|(now, before)| now > before);
        anew.then(|| "it connected anew".to_owned())
            .or_else(|| other.streams().then(|| format!("{} reads", other.actor.name())))
    })?;
    Some(format!("{what} after {:.1} s", began.elapsed().as_secs_f64()))
}

/// Every connection to PostgreSQL is reset.
pub fn cut(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let (before, count) = (owner.link.done().reset, owner.reconnects());
    owner.link.cut();
    let noticed = noticed(owner, other, count);
    let reset = owner.link.done().reset - before;
    let seen = noticed.filter(|_| reset > 0).map(|noticed| format!("{reset} connections reset; {noticed}"));
    Struck::at(owner.actor.name(), seen)
}

/// One direction ends, the other goes on.
pub fn half_open(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let direction = ground.direction();
    let count = owner.reconnects();
    owner.link.set(direction, Flow::HalfClosed);
    let noticed = noticed(owner, other, count);
    mend(&owner.link);
    ground.over();
    Struck::at(owner.actor.name(), noticed.map(|noticed| format!("{direction:?} ended; {noticed}")))
}

/// Everything is eaten, and nobody is told.
pub fn black(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let still = ground.stage.standstill.lock();
    let (before, count) = (owner.link.done().eaten, owner.reconnects());
    owner.link.black_hole();
    let noticed = noticed(owner, other, count);
    mend(&owner.link);
    drop(still);
    ground.over();
    let eaten = owner.link.done().eaten - before;
    let seen = noticed.filter(|_| eaten > 0).map(|noticed| format!("{eaten} bytes eaten; {noticed}"));
    Struck::at(owner.actor.name(), seen)
}

/// Every chunk waits.
pub fn delayed(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, _)) = both(ground) else { return Struck::nobody() };
    let by = ground.draw(20..200);
    let before = owner.link.done().delayed;
    owner.link.delay(by);
    ground.last(2_000..5_000);
    owner.link.resume();
    let delayed = owner.link.done().delayed - before;
    let seen = (delayed > 0).then(|| format!("{delayed} chunks delayed by {} ms", by.as_millis()));
    Struck::at(owner.actor.name(), seen)
}

/// The server ends the backend that the slot is read through.
pub fn walsender(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, other)) = both(ground) else { return Struck::nobody() };
    let count = owner.reconnects();
    let end =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL";
    let ended = ground.stage.outbox.try_ask(end, &[]).is_some_and(|rows| rows.iter().any(|row| row.get(0)));
    let noticed = if ended { noticed(owner, other, count) } else { None };
    Struck::at(owner.actor.name(), noticed.map(|noticed| format!("pg_terminate_backend; {noticed}")))
}

/// Somebody drops the slot: what it has not brought has to come from the table.
pub fn slot_dropped(ground: &mut Ground<'_>) -> Struck {
    let Some((owner, _)) = both(ground) else { return Struck::nobody() };
    let outbox = &ground.stage.outbox;
    let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                 WHERE slot_name LIKE 'outbox_%' AND active_pid IS NOT NULL";
    let drop = "SELECT slot_name::text, pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots
                 WHERE slot_name LIKE 'outbox_%' AND NOT active";
    let began = Instant::now();
    // Its reader comes back quickly; one of the two is faster.
    let dropped = watch(SEEN, || {
        outbox.try_ask(free, &[])?;
        outbox.try_ask(drop, &[]).filter(|rows| !rows.is_empty())
    });
    let read = "SELECT 1 FROM pg_replication_slots WHERE slot_name LIKE 'outbox_%' AND active";
    let seen = dropped.and_then(|_| {
        until(SEEN, || outbox.try_ask(read, &[]).filter(|rows| !rows.is_empty()))?;
        Some(format!("a new slot is read after {:.1} s", began.elapsed().as_secs_f64()))
    });
    Struck::at(owner.actor.name(), seen)
}
