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

/// What the counters say at `at`, measured from the start of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Time since the process began.
    pub at: Duration,
    /// Records acknowledged.
    pub records: u64,
    /// Value and key bytes of those.
    pub bytes: u64,
    /// Transactions whose every record was acknowledged.
    pub transactions: u64,
    /// TCP segments with data received on the replication connection.
    pub segments: u64,
}

/// Averages over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerSecond {
    /// Records acknowledged per second.
    pub records: f64,
    /// Value and key bytes acknowledged per second.
    pub bytes: f64,
    /// Segments of the replication connection per published transaction; `None` while nothing is published,
    /// or where the kernel counts none.
    pub segments_per_transaction: Option<f64>,
}

impl Rates {
    /// Takes what the counters say.
    pub fn observe(&mut self, counted: Counted) {
        let at = counted.at;
        if self.samples.back().is_some_and(|last| at.saturating_sub(last.at) < SPACING) {
            return;
        }
        self.samples.push_back(counted);
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
        let transactions = last.transactions.saturating_sub(first.transactions);
        let segments = last.segments.saturating_sub(first.segments);
        PerSecond {
            records: rate(first.records, last.records),
            bytes: rate(first.bytes, last.bytes),
            segments_per_transaction: (transactions > 0 && segments > 0)
                .then(|| segments as f64 / transactions as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counted(second: u64, records: u64) -> Counted {
        Counted {
            at: at(second),
            records,
            bytes: records * 10,
            transactions: records / 10,
            segments: records / 100,
        }
    }

    fn rate(records: f64) -> PerSecond {
        let segments_per_transaction = (records > 0.0).then_some(0.1);
        PerSecond { records, bytes: records * 10.0, segments_per_transaction }
    }

    #[test]
    fn averages_the_window_and_forgets_what_is_older() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(), PerSecond::default());
        for second in 0..=20 {
            rates.observe(counted(second, second * 100));
        }
        assert_eq!(rates.per_second(), rate(100.0));
        for second in 21..=25 {
            rates.observe(counted(second, 2000));
        }
        assert_eq!(rates.per_second(), rate(50.0));
        for second in 26..=30 {
            rates.observe(counted(second, 2000));
        }
        assert_eq!(rates.per_second(), PerSecond::default());
    }

    #[test]
    fn many_looks_do_not_grow_it() {
        let mut rates = Rates::default();
        for millis in 0..60_000 {
            rates.observe(Counted {
                at: Duration::from_millis(millis),
                records: millis,
                ..Counted::default()
            });
        }
        assert!(rates.samples.len() <= 22, "{}", rates.samples.len());
        let records = rates.per_second().records;
        assert!((999.0..=1001.0).contains(&records), "{records}");
    }
}
