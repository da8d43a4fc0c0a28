//! One topic drained, and bursts that meet a consumer at rest.

use std::time::{Duration, Instant};

use super::ground::Ground;
use super::job::Work;
use super::preload::{Spread, Writer};
use super::results::Run;

/// A process says how it is after each of so many parts of its backlog. The memory after the first is what it takes to
/// read at all: librdkafka's queues are full by then, which after the first few events they are not.
const PARTS: u64 = 4;

/// Lets a process read a topic until it has handled so many events. What counts begins behind the warm-up, when the
/// connections are made.
pub async fn drain(ground: &mut Ground, topic: &str, work: Work, events: u64, warm_up: u64) -> Run {
    let (name, instance) = ground.start(topic, work, (warm_up, (events - warm_up) / PARTS));
    let warm = instance.hear();
    let quarter = instance.hear();
    let last = (1..PARTS).fold(quarter, |_, _| instance.hear());
    let run = Run {
        events: last.handled - warm.handled,
        seconds: last.seconds - warm.seconds,
        cpu_micros: Some(
            (last.cpu_nanos - warm.cpu_nanos) as f64 / 1e3 / (last.handled - warm.handled) as f64,
        ),
        peak_rss_kib: Some(last.peak_rss_kib),
        quarter_rss_kib: Some(quarter.peak_rss_kib),
        once: None,
    };
    instance.end();
    let once = if matches!(work, Work::Update { .. }) { Some(is_once(ground, &name).await) } else { None };
    Run { once, ..run }
}

/// Whether there is an effect for each settlement, and no other.
async fn is_once(ground: &Ground, scope: &str) -> bool {
    let effects = ground.number("SELECT -sum(free)::bigint FROM stock").await;
    let settled = format!("SELECT count(*) FROM inbox.settlement WHERE scope = '{scope}' AND state = 'done'");
    effects == ground.number(&settled).await && effects > 0
}

/// Bursts that are not counted: allocator and caches find their size.
const UNCOUNTED: u64 = 3;

/// What a consumer does behind its last handler, before it stands still again.
const AFTERWARDS: Duration = Duration::from_millis(10);

/// Stops a consumer that has nothing to do, writes a burst, and lets it go on, as often as said. What counts is its
/// processor time from one stop to the next.
///
/// # Panics
/// When the consumer does not handle them.
pub async fn bursts(
    ground: &mut Ground,
    writer: &mut Writer,
    keys: &Spread,
    (burst, bursts): (u64, u64),
) -> Run {
    let topic = ground.new_topic("bursts").await;
    writer.fill(&topic, keys, burst);
    let (_, instance) = ground.start(&topic, Work::Nothing, (burst, burst));
    let mut peak = instance.hear().peak_rss_kib;
    let (mut cpu, mut seconds) = (0, 0.0);
    instance.pause();
    for number in 1..UNCOUNTED + bursts {
        writer.fill(&topic, keys, burst);
        let (before, begun) = (instance.cpu_nanos(), Instant::now());
        instance.go_on();
        peak = instance.hear().peak_rss_kib;
        let took = begun.elapsed();
        tokio::time::sleep(AFTERWARDS).await;
        instance.pause();
        if number >= UNCOUNTED {
            cpu += instance.cpu_nanos() - before;
            seconds += took.as_secs_f64();
        }
    }
    instance.go_on();
    instance.end();
    let events = burst * bursts;
    let cpu_micros = Some(cpu as f64 / 1e3 / events as f64);
    Run { events, seconds, cpu_micros, peak_rss_kib: Some(peak), quarter_rss_kib: None, once: None }
}
