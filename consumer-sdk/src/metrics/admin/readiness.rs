//! Whether the consumer moves: the answer of `/ready`. Pure: it is fed samples that carry their own time.
//!
//! An instance without partitions is ready as long as Kafka answers: it stands by, and nothing is the matter with it.

use std::time::Duration;

use crate::metrics::status::Status;

/// Kafka has to answer within this.
const SILENCE: Duration = Duration::from_secs(30);
/// A group takes this long at most to give out its partitions, before an instance without one counts as a spare.
const JOINING: Duration = Duration::from_secs(30);

/// What is remembered between samples.
#[derive(Debug)]
pub(super) struct Progress {
    stalled_after: Duration,
    settled: u64,
    /// When something was settled, or nothing was there to be, last.
    moved: Duration,
    /// Partitions were here at some time.
    assigned: bool,
}

impl Progress {
    /// Nothing seen yet. `stalled_after` is how long nothing may be settled while there is something to do.
    pub(super) fn new(stalled_after: Duration) -> Progress {
        Progress { stalled_after, settled: 0, moved: Duration::ZERO, assigned: false }
    }

    /// Takes the next sample. `settled` only grows.
    pub(super) fn observe(&mut self, at: Duration, status: &Status, settled: u64) {
        self.assigned |= !status.partitions.is_empty();
        if settled > self.settled || !has_work(status) {
            (self.settled, self.moved) = (settled, at);
        }
    }

    /// Why it is not ready; `None` where it is.
    pub(super) fn reason(&self, at: Duration, status: &Status) -> Option<String> {
        if let Some(why) = &status.halted {
            return Some(format!("halted: {}", why.replace(['\n', '\r'], " ")));
        }
        if status.phase == "draining" {
            return Some("draining".into());
        }
        match status.kafka.answered_seconds_ago {
            None => return Some(connecting("yet", status)),
            Some(ago) if ago > SILENCE.as_secs_f64() => {
                return Some(connecting(&format!("for {ago:.0} s"), status));
            }
            Some(_) => {}
        }
        if !self.assigned && at < JOINING {
            return Some("starting: no partition is assigned yet".into());
        }
        let still = at.saturating_sub(self.moved);
        if still <= self.stalled_after {
            return None;
        }
        let oldest = status.partitions.iter().filter(|p| p.unsettled > 0);
        let oldest = oldest.max_by(|a, b| a.oldest_unsettled_seconds.total_cmp(&b.oldest_unsettled_seconds));
        let oldest = oldest.map_or("nothing of it is in hand".to_owned(), |p| {
            format!("{}[{}]@{} stands first", p.topic, p.partition, p.frontier)
        });
        let full = status.park.as_ref().is_some_and(|park| park.full);
        let why = if full { ", and the park is full" } else { "" };
        Some(format!(
            "stalled: nothing was settled for {} s although there is something to do{why}; {oldest}",
            still.as_secs()
        ))
    }
}

fn connecting(how_long: &str, status: &Status) -> String {
    let why = status.kafka.trouble.as_ref().map(|why| format!("; {}", why.replace(['\n', '\r'], " ")));
    format!("connecting: Kafka has not answered {how_long}{}", why.unwrap_or_default())
}

/// Whether there is anything that could be settled.
fn has_work(status: &Status) -> bool {
    status.partitions.iter().any(|p| p.unsettled > 0 || p.lag_records.is_some_and(|lag| lag > 0))
}
