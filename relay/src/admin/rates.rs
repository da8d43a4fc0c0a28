//! How fast records leave, over the last ten seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// What the rates are averaged over. Long enough to smooth batches, short enough to show a stop.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples nearer than this to the one before are left out, so that many scrapes cannot fill memory.
const SPACING: Duration = Duration::from_millis(500);

/// Counters at a few moments of the last ten seconds.
#[derive(Debug, Default)]
pub struct Rates {
    samples: VecDeque<Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Duration,
    records: u64,
    bytes: u64,
}

/// Averages over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerSecond {
    /// Records acknowledged per second.
    pub records: f64,
    /// Value and key bytes acknowledged per second.
    pub bytes: f64,
}

impl Rates {
    /// Takes what the counters say at `at`, measured from the start of the process.
    pub fn observe(&mut self, at: Duration, records: u64, bytes: u64) {
        if self.samples.back().is_some_and(|last| at.saturating_sub(last.at) < SPACING) {
            return;
        }
        self.samples.push_back(Counted { at, records, bytes });
        // One sample at or beyond the edge stays, so that the window is full from edge to edge.
        while self.samples.get(1).is_some_and(|second| at.saturating_sub(second.at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// The averages; zero until there are two samples.
    pub fn per_second(&self) -> PerSecond {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return PerSecond::default();
        };
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        if seconds == 0.0 {
            return PerSecond::default();
        }
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        PerSecond { records: rate(first.records, last.records), bytes: rate(first.bytes, last.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn averages_the_window_and_forgets_what_is_older() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(), PerSecond::default());
        for second in 0..=20 {
            rates.observe(at(second), second * 100, second * 1000);
        }
        assert_eq!(rates.per_second(), PerSecond { records: 100.0, bytes: 1000.0 });
        for second in 21..=25 {
            rates.observe(at(second), 2000, 20_000);
        }
        assert_eq!(rates.per_second(), PerSecond { records: 50.0, bytes: 500.0 });
        for second in 26..=30 {
            rates.observe(at(second), 2000, 20_000);
        }
        assert_eq!(rates.per_second(), PerSecond::default());
    }

    #[test]
    fn many_looks_do_not_grow_it() {
        let mut rates = Rates::default();
        for millis in 0..60_000 {
            rates.observe(Duration::from_millis(millis), millis, 0);
        }
        assert!(rates.samples.len() <= 22, "{}", rates.samples.len());
        let records = rates.per_second().records;
        assert!((999.0..=1001.0).contains(&records), "{records}");
    }
}
