//! Whether the relay moves: the answer of `/ready`.
//!
//! A relay that is connected and does nothing is the failure nobody sees until the slot has filled the
//! disk. So ready means moving, not up: the relay streams, and either everything the server had is
//! recorded or there was a sign of progress within `stalled_after`. Being ready has to be earned in
//! every phase anew: entering `streaming` alone proves nothing, else a relay that reconnects for ever
//! would look ready between two attempts.
//!
//! Pure: it is fed samples that carry their own time.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::observe::Phase;

/// What one look at the relay shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, measured from the start of the process.
    pub at: Duration,
    /// Phase at that moment.
    pub phase: Phase,
    /// Position in the acknowledged state record.
    pub recorded: Lsn,
    /// End of the longest published prefix.
    pub confirmed: Lsn,
    /// The server's flush position at the last look; zero when unknown.
    pub server_wal: Lsn,
    /// Records acknowledged so far.
    pub published_records: u64,
    /// Rows passed over so far because they were published before.
    pub skipped_rows: u64,
}

impl Sample {
    fn caught_up(&self) -> bool {
        !self.server_wal.is_zero() && self.recorded >= self.server_wal
    }

    fn more_rows_than(&self, earlier: &Sample) -> bool {
        self.published_records > earlier.published_records || self.skipped_rows > earlier.skipped_rows
    }

    /// Whether something that counts happened since `earlier`, a sample of the same phase.
    fn progressed(&self, earlier: &Sample) -> bool {
        match self.phase {
            Phase::Filling => self.more_rows_than(earlier),
            Phase::Streaming => {
                // From zero to a position is the record being read, not progress.
                let recorded_moved = !earlier.recorded.is_zero() && self.recorded > earlier.recorded;
                // Inside a huge transaction no position can move, but records do. They do not count while
                // more is confirmed than recorded: then it is the state record that hangs, and the server
                // keeps its log for it however fast records flow.
                recorded_moved || (self.confirmed <= self.recorded && self.more_rows_than(earlier))
            }
            Phase::Connecting | Phase::Standby | Phase::Recovering | Phase::Draining | Phase::Halted => false,
        }
    }
}

/// The answer of `/ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Events move, or everything is recorded.
    Ready,
    /// They do not; one line that says why, beginning with a word such as `stalled:`.
    NotReady(String),
}

/// What is remembered between samples to judge movement.
#[derive(Debug)]
pub struct Progress {
    stalled_after: Duration,
    now: Option<Judged>,
}

#[derive(Debug, Clone, Copy)]
struct Judged {
    sample: Sample,
    /// The newest moment at which the relay was seen to move or had everything recorded; the begin of
    /// the phase until then.
    still_since: Duration,
    /// Whether that happened in this phase at all.
    moved: bool,
}

impl Progress {
    /// Nothing seen yet. `stalled_after` is how long nothing may move while there is something to do.
    pub fn new(stalled_after: Duration) -> Self {
        Progress { stalled_after, now: None }
    }

    /// Takes the next sample; times do not decrease.
    pub fn observe(&mut self, sample: Sample) {
        let same_phase = self.now.filter(|earlier| earlier.sample.phase == sample.phase);
        let progressed = same_phase.is_some_and(|earlier| sample.progressed(&earlier.sample));
        let all_recorded = sample.phase == Phase::Streaming && sample.caught_up();
        self.now = Some(match same_phase {
            Some(earlier) if !progressed && !all_recorded => Judged { sample, ..earlier },
            _ => Judged { sample, still_since: sample.at, moved: progressed || all_recorded },
        });
    }

    /// Judges the newest sample. `waiting_for` and `last_error` lend their words to the reason; line
    /// breaks in them become spaces.
    pub fn readiness(&self, waiting_for: Option<&str>, last_error: Option<&str>) -> Readiness {
        let Some(judged) = self.now else {
            return Readiness::NotReady("connecting: nothing seen yet".to_owned());
        };
        let reason = match judged.sample.phase {
            Phase::Connecting => {
                format!("connecting: {}", waiting_for.or(last_error).unwrap_or("to PostgreSQL"))
            }
            Phase::Standby => {
                format!("standby: {}", waiting_for.unwrap_or("another relay owns the lane or the slot"))
            }
            Phase::Recovering => {
                format!("recovering: {}", waiting_for.unwrap_or("reading what was recorded before"))
            }
            Phase::Filling | Phase::Streaming => match self.standstill(&judged) {
                None => return Readiness::Ready,
                Some(reason) => match waiting_for {
                    None => reason,
                    Some(waiting_for) => format!("{reason}; waiting: {waiting_for}"),
                },
            },
            Phase::Draining => "draining".to_owned(),
            Phase::Halted => format!("halted: {}", last_error.or(waiting_for).unwrap_or("no reason kept")),
        };
        Readiness::NotReady(reason.replace(['\n', '\r'], " "))
    }

    /// Why a phase that should move does not, if so.
    fn standstill(&self, judged: &Judged) -> Option<String> {
        let Sample { at, phase, recorded, confirmed, server_wal, .. } = judged.sample;
        let still = at.saturating_sub(judged.still_since);
        let stalled = still > self.stalled_after;
        if judged.moved && !stalled {
            return None;
        }
        let word = match (stalled, phase) {
            (true, _) => "stalled",
            (false, Phase::Filling) => "filling",
            (false, _) => "starting",
        };
        let seconds = still.as_secs();
        if phase == Phase::Filling {
            return Some(format!("{word}: no record of the fill has been acknowledged for {seconds} s"));
        }
        let server = match server_wal.is_zero() {
            true => "the server's position is not known".to_owned(),
            false => format!("the server is at {server_wal}"),
        };
        let hanging = match confirmed > recorded {
            true => format!("; published up to {confirmed}, but the state record is not acknowledged"),
            false => String::new(),
        };
        Some(format!(
            "{word}: recorded position {recorded} has not moved for {seconds} s while {server}{hanging}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALLED_AFTER: Duration = Duration::from_secs(30);

    fn streaming(at: u64, recorded: u64, server_wal: u64) -> Sample {
        Sample {
            at: Duration::from_secs(at),
            phase: Phase::Streaming,
            recorded: Lsn(recorded),
            confirmed: Lsn(recorded),
            server_wal: Lsn(server_wal),
            published_records: 0,
            skipped_rows: 0,
        }
    }

    fn after(samples: impl IntoIterator<Item = Sample>) -> Readiness {
        let mut progress = Progress::new(STALLED_AFTER);
        samples.into_iter().for_each(|sample| progress.observe(sample));
        progress.readiness(None, None)
    }

    fn not_ready(reason: &str) -> Readiness {
        Readiness::NotReady(reason.to_owned())
    }

    #[test]
    fn each_phase_says_why() {
        let cases = [
            (Phase::Connecting, None, None, "connecting: to PostgreSQL"),
            (Phase::Connecting, None, Some("refused\nhere"), "connecting: refused here"),
            (Phase::Standby, Some("lane of pid 7"), Some("old"), "standby: lane of pid 7"),
            (Phase::Recovering, None, None, "recovering: reading what was recorded before"),
            (Phase::Draining, None, Some("old"), "draining"),
            (Phase::Halted, None, Some("slot is gone"), "halted: slot is gone"),
        ];
        for (phase, waiting_for, last_error, reason) in cases {
            let mut progress = Progress::new(STALLED_AFTER);
            // Caught up on purpose: no position makes another phase ready.
            progress.observe(Sample { phase, ..streaming(0, 9, 9) });
            assert_eq!(progress.readiness(waiting_for, last_error), not_ready(reason));
        }
        assert_eq!(after([]), not_ready("connecting: nothing seen yet"));
    }

    #[test]
    fn entering_the_stream_is_not_moving() {
        let start = "starting: recorded position 0/5 has not moved for 1 s while the server is at 0/9";
        assert_eq!(after([streaming(0, 5, 9), streaming(1, 5, 9)]), not_ready(start));
        assert_eq!(after([streaming(0, 5, 9), streaming(1, 6, 9)]), Readiness::Ready);
        assert_eq!(after([streaming(0, 9, 9)]), Readiness::Ready);
        // The record being read is not progress, and an unknown server position is not "caught up".
        assert_ne!(after([streaming(0, 0, 9), streaming(1, 5, 9)]), Readiness::Ready);
        assert_ne!(after([streaming(0, 0, 0), streaming(1, 0, 0)]), Readiness::Ready);
    }

    #[test]
    fn readiness_does_not_survive_a_reconnect() {
        let lost = Sample { phase: Phase::Connecting, ..streaming(1, 9, 9) };
        let again = after([streaming(0, 9, 9), lost, streaming(2, 9, 20)]);
        assert_ne!(again, Readiness::Ready);
    }

    #[test]
    fn stalls_after_the_grace_and_recovers_with_the_first_move() {
        let mut progress = Progress::new(STALLED_AFTER);
        // A long idle time does not count against it once the log goes on.
        (0..1000).for_each(|at| progress.observe(streaming(at, 9, 9)));
        (1000..1030).for_each(|at| progress.observe(streaming(at, 9, 0x20)));
        assert_eq!(progress.readiness(None, None), Readiness::Ready);
        progress.observe(streaming(1041, 9, 0x20));
        let reason = "stalled: recorded position 0/9 has not moved for 42 s while the server is at 0/20";
        assert_eq!(progress.readiness(None, None), not_ready(reason));
        let waiting = format!("{reason}; waiting: topic `orders`");
        assert_eq!(progress.readiness(Some("topic `orders`"), None), not_ready(&waiting));
        progress.observe(streaming(1042, 10, 0x20));
        assert_eq!(progress.readiness(None, None), Readiness::Ready);
    }

    #[test]
    fn a_busy_log_that_is_followed_is_ready() {
        // Never caught up, recorded once in five seconds.
        let samples = (0..600).map(|at| streaming(at, 100 + at / 5 * 5, 150 + at));
        assert_eq!(after(samples), Readiness::Ready);
    }

    #[test]
    fn a_huge_transaction_moves_by_its_records() {
        let inside = |at| Sample { published_records: at * 1000, ..streaming(at, 9, 0x99) };
        assert_eq!(after((0..300).map(inside)), Readiness::Ready);
        let skipping = |at| Sample { skipped_rows: at * 1000, ..streaming(at, 9, 0x99) };
        assert_eq!(after((0..300).map(skipping)), Readiness::Ready);
    }

    #[test]
    fn records_that_flow_do_not_hide_a_hanging_state_record() {
        let hanging =
            |at| Sample { published_records: at * 1000, confirmed: Lsn(9 + at), ..streaming(at, 9, 0x99) };
        let reason = "stalled: recorded position 0/9 has not moved for 39 s while the server is at 0/99; \
                      published up to 0/31, but the state record is not acknowledged";
        // Confirmed leads from the second sample on, so the standstill is counted from the first.
        let samples = [streaming(0, 8, 0x99)].into_iter().chain((1..=40).map(hanging));
        assert_eq!(after(samples), not_ready(reason));
    }

    #[test]
    fn a_fill_is_ready_while_records_leave() {
        let filling = |at, records| Sample {
            phase: Phase::Filling,
            published_records: records,
            ..streaming(at, 0, 0x99)
        };
        let none = "filling: no record of the fill has been acknowledged for 2 s";
        assert_eq!(after([filling(0, 7), filling(2, 7)]), not_ready(none));
        assert_eq!(after([filling(0, 7), filling(2, 8)]), Readiness::Ready);
        let stopped = "stalled: no record of the fill has been acknowledged for 31 s";
        assert_eq!(after([filling(0, 7), filling(2, 8), filling(33, 8)]), not_ready(stopped));
    }
}
