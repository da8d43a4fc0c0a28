//! Faults of the consumers' instances, of their connections to PostgreSQL, and of their clocks.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use rand::RngExt;

use super::{Ground, SEEN, Struck, mend, until};
use crate::chaos::stage::Member;
use crate::fault::proxy::Flow;

/// What an instance says when it is given a partition.
const ASSIGNED: &str = " assigned ";
/// What it says when its clock has jumped.
const JUMPED: &str = "the clock jumped by";

fn member<'a>(ground: &mut Ground<'a>) -> &'a Member {
    let members = &ground.stage.members;
    &members[ground.random.random_range(0..members.len())]
}

/// Another instance of the same group.
fn fellow<'a>(ground: &Ground<'a>, member: &Member) -> Option<&'a Member> {
    let members = &ground.stage.members;
    members.iter().find(|other| other.scope == member.scope && other.actor.name() != member.actor.name())
}

/// Waits until an instance is given partitions beyond those of before.
fn given(member: &Member, before: usize) -> Option<String> {
    let began = Instant::now();
    let more = until(SEEN, || member.actor.said(ASSIGNED).checked_sub(before).filter(|more| *more > 0))?;
    let name = member.actor.name();
    Some(format!("{name} was given {more} partitions after {:.1} s", began.elapsed().as_secs_f64()))
}

/// SIGKILL, and a new start.
pub fn killed(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let ended = member.actor.kill().filter(|status| status.signal() == Some(9));
    ground.last(0..1_000);
    member.actor.start();
    Struck::at(member.actor.name(), ended.map(|status| format!("ended by {status}")))
}

/// SIGSTOP, until its session is over and its partitions are another's.
pub fn frozen(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let Some(other) = fellow(ground, member) else { return Struck::nobody() };
    let before = other.actor.said(ASSIGNED);
    let seen = if member.actor.pause() { given(other, before) } else { None };
    if seen.is_some() {
        ground.last(0..3_000);
    }
    member.actor.resume();
    Struck::at(member.actor.name(), seen)
}

/// One leaves in order and comes back: the group is rebalanced twice.
pub fn rebalanced(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let Some(other) = fellow(ground, member) else { return Struck::nobody() };
    let (before, own) = (other.actor.said(ASSIGNED), member.actor.said(ASSIGNED));
    let ended = member.actor.end();
    let left = given(other, before);
    member.actor.start();
    ground.over();
    let came = given(member, own);
    let seen = ended.and(left.or(came.clone())).map(|seen| match came {
        Some(came) if came != seen => format!("{seen}; {came}"),
        _ => seen,
    });
    Struck::at(member.actor.name(), seen)
}

/// Every connection is reset.
pub fn cut(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let before = member.link.done();
    member.link.cut();
    ground.over();
    let anew = until(SEEN, || (member.link.done().accepted > before.accepted).then_some(()));
    let reset = member.link.done().reset - before.reset;
    let seen = anew.filter(|()| reset > 0).map(|()| format!("{reset} connections reset, and made anew"));
    Struck::at(member.actor.name(), seen)
}

/// One direction ends, the other goes on.
pub fn half_open(ground: &mut Ground<'_>) -> Struck {
    let (member, direction) = (member(ground), ground.direction());
    let before = member.link.done();
    member.link.set(direction, Flow::HalfClosed);
    ground.last(2_000..6_000);
    mend(&member.link);
    ground.over();
    let anew = until(SEEN, || (member.link.done().accepted > before.accepted).then_some(()));
    let made = member.link.done().accepted - before.accepted;
    Struck::at(
        member.actor.name(),
        anew.map(|()| format!("{direction:?} ended; {made} connections made anew")),
    )
}

/// Everything is eaten, and nobody is told.
pub fn black(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let before = member.link.done();
    member.link.black_hole();
    ground.last(3_000..8_000);
    mend(&member.link);
    ground.over();
    until(SEEN, || (member.link.done().accepted > before.accepted).then_some(()));
    let eaten = member.link.done().eaten - before.eaten;
    Struck::at(member.actor.name(), (eaten > 0).then(|| format!("{eaten} bytes eaten")))
}

/// Every chunk waits.
pub fn delayed(ground: &mut Ground<'_>) -> Struck {
    let (member, by) = (member(ground), ground.draw(10..150));
    let before = member.link.done().delayed;
    member.link.delay(by);
    ground.last(2_000..6_000);
    member.link.resume();
    let delayed = member.link.done().delayed - before;
    let seen = (delayed > 0).then(|| format!("{delayed} chunks delayed by {} ms", by.as_millis()));
    Struck::at(member.actor.name(), seen)
}

/// Its clock goes wrong by hours, and comes back.
pub fn clock(ground: &mut Ground<'_>) -> Struck {
    let member = member(ground);
    let by = [-7_200, -900, 900, 3_600, 86_400][ground.random.random_range(0..5)];
    let before = member.actor.said(JUMPED);
    set(member, by);
    let seen =
        until(SEEN, || (member.actor.said(JUMPED) > before).then(|| member.actor.newest(JUMPED)).flatten());
    if seen.is_some() {
        ground.last(1_000..5_000);
    }
    set(member, 0);
    ground.over();
    let here = member.actor.said(JUMPED);
    until(SEEN / 3, || (member.actor.said(JUMPED) > here).then_some(()));
    Struck::at(member.actor.name(), seen)
}

/// The file is replaced as a whole, so that no half of it is ever read.
fn set(member: &Member, by: i64) {
    let new = member.clock.with_extension("new");
    fs::write(&new, format!("{by:+}\n")).expect("our own directory");
    fs::rename(&new, &member.clock).expect("our own directory");
}
