//! Faults of the brokers and of everybody's connections to them. Each begins when all replicas are in sync again, so that
//! never more than one broker is missing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Instant;

use rand::RngExt;

use super::{Ground, READY, SEEN, Struck, mend, until};
use crate::chaos::cluster::Leaders;
use crate::cluster::kafka::Node;
use crate::fault::proxy::{Direction, Flow};

/// A broker, and how it is called.
struct Target<'a> {
    node: &'a Node,
    name: String,
    /// Kafka's number of it.
    id: i32,
    leaders: Leaders,
}

/// A broker that leads something, once the cluster is whole.
fn target<'a>(ground: &mut Ground<'a>) -> Option<Target<'a>> {
    let leaders = until(READY, || if ground.cluster.is_whole() { ground.cluster.leaders() } else { None })?;
    let leading: std::collections::BTreeSet<i32> =
        leaders.values().copied().filter(|leader| *leader > 0).collect();
    let id = *leading.iter().nth(ground.random.random_range(0..leading.len().max(1)))?;
    let index = usize::try_from(id - 1).ok()?;
    Some(Target { node: ground.stage.kafka.node(index), name: format!("broker-{id}"), id, leaders })
}

/// Waits until others lead what it led.
fn led_by_others(ground: &Ground<'_>, target: &Target<'_>) -> Option<String> {
    let began = Instant::now();
    let led = target.leaders.values().filter(|leader| **leader == target.id).count();
    until(SEEN, || {
        let now = ground.cluster.leaders()?;
        now.values().all(|leader| *leader > 0 && *leader != target.id).then_some(())
    })?;
    Some(format!("its {led} partitions have other leaders after {:.1} s", began.elapsed().as_secs_f64()))
}

/// SIGKILL, and a new start on its data.
pub fn killed(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    target.node.kill();
    let seen = led_by_others(ground, &target);
    ground.stage.kafka.start_again();
    Struck::at(&target.name, seen.map(|seen| format!("ended by SIGKILL; {seen}")))
}

/// A controlled shutdown, and a new start.
pub fn restarted(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    target.node.stop();
    let seen = led_by_others(ground, &target);
    ground.stage.kafka.start_again();
    Struck::at(&target.name, seen.map(|seen| format!("ended in order; {seen}")))
}

/// SIGSTOP, until its session is over and others lead.
pub fn frozen(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    target.node.pause();
    let seen = led_by_others(ground, &target);
    if seen.is_some() {
        ground.last(500..2_000);
    }
    target.node.resume();
    Struck::at(&target.name, seen)
}

/// Every client's connections are reset.
pub fn cut(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let proxy = target.node.proxy();
    let before = proxy.done();
    proxy.cut();
    ground.over();
    let anew = until(SEEN, || (proxy.done().accepted > before.accepted).then_some(()));
    let done = proxy.done();
    let reset = done.reset - before.reset;
    let seen = anew.filter(|()| reset > 0);
    let made = done.accepted - before.accepted;
    Struck::at(&target.name, seen.map(|()| format!("{reset} connections reset, {made} made anew")))
}

/// One direction ends, the other goes on.
pub fn half_open(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let (proxy, direction) = (target.node.proxy(), ground.direction());
    let before = proxy.done();
    proxy.set(direction, Flow::HalfClosed);
    ground.last(1_500..4_000);
    mend(proxy);
    ground.over();
    let anew = until(SEEN, || (proxy.done().accepted > before.accepted).then_some(()));
    let done = proxy.done();
    let (eaten, made) = (done.eaten - before.eaten, done.accepted - before.accepted);
    let seen =
        anew.map(|()| format!("{direction:?} ended, {eaten} bytes eaten, {made} connections made anew"));
    Struck::at(&target.name, seen)
}

/// Connections are reset, and new ones refused.
pub fn refused(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let proxy = target.node.proxy();
    let before = proxy.done();
    proxy.refuse();
    ground.last(2_000..5_000);
    proxy.resume();
    ground.over();
    let refused = proxy.done().accepted - before.accepted;
    Struck::at(&target.name, (refused > 0).then(|| format!("{refused} connections refused")))
}

/// What it says comes late.
pub fn delayed(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let (proxy, by) = (target.node.proxy(), ground.draw(50..400));
    let before = proxy.done().delayed;
    proxy.set(Direction::ToClient, Flow::Delay(by));
    ground.last(3_000..6_000);
    proxy.resume();
    let delayed = proxy.done().delayed - before;
    let seen = (delayed > 0).then(|| format!("{delayed} chunks delayed by {} ms", by.as_millis()));
    Struck::at(&target.name, seen)
}

/// It takes what it is sent, and its answers are lost.
pub fn eaten(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let proxy = target.node.proxy();
    let (before, sent) = (proxy.done().eaten, proxy.bytes(Direction::ToServer));
    proxy.set(Direction::ToClient, Flow::Eat);
    ground.last(1_500..4_000);
    let sent = proxy.bytes(Direction::ToServer) - sent;
    mend(proxy);
    ground.over();
    let eaten = proxy.done().eaten - before;
    let seen = (eaten > 0).then(|| format!("{sent} bytes taken and {eaten} bytes of answers eaten"));
    Struck::at(&target.name, seen)
}

/// Other replicas are preferred, and elected.
pub fn leaders_moved(ground: &mut Ground<'_>) -> Struck {
    let Some(target) = target(ground) else { return Struck::nobody() };
    let Some(replicas) = ground.cluster.replicas() else { return Struck::nobody() };
    let file = ground.stage.logs.join("reassignment.json");
    fs::write(&file, rotated(&replicas)).expect("our own directory");
    let file = file.display().to_string();
    let kafka = &ground.stage.kafka;
    let (assigned, _) =
        kafka.tool("reassign.ReassignPartitionsCommand", &["--reassignment-json-file", &file, "--execute"]);
    let elect = ["--election-type", "preferred", "--all-topic-partitions"];
    let (elected, _) = kafka.tool("LeaderElectionCommand", &elect);
    ground.over();
    let moved = || {
        let now = ground.cluster.leaders()?;
        let moved =
            target.leaders.iter().filter(|(partition, leader)| now.get(*partition) != Some(leader)).count();
        (moved > 0).then_some(moved)
    };
    let moved = if assigned.success() && elected.success() { until(SEEN, moved) } else { None };
    let count = target.leaders.len();
    Struck::at("all brokers", moved.map(|moved| format!("{moved} of {count} partitions have another leader")))
}

/// A reassignment in which every partition prefers its next replica.
fn rotated(replicas: &BTreeMap<(String, i32), Vec<i32>>) -> String {
    let mut text = String::from("{\"version\":1,\"partitions\":[");
    for (place, ((topic, partition), replicas)) in replicas.iter().enumerate() {
        let mut next = replicas.clone();
        next.rotate_left(1);
        let comma = if place == 0 { "" } else { "," };
        write!(text, "{comma}{{\"topic\":\"{topic}\",\"partition\":{partition},\"replicas\":{next:?}}}")
            .expect("a string takes everything");
    }
    text + "]}"
}
