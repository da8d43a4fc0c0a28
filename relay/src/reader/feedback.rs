//! When feedback is due.

use std::time::{Duration, Instant};

use crate::lsn::Lsn;

/// Least time between two pieces of feedback. A server whose position stands still asks for an answer with
/// every keepalive; answering each would keep both sides busy with nothing.
const AT_LEAST: Duration = Duration::from_millis(100);

/// Decides when feedback is sent: at its own pace whatever the sink does, and earlier when the recorded
/// position has moved or the server asks.
#[derive(Debug)]
pub(crate) struct FeedbackClock {
    every: Duration,
    sent: Option<Instant>,
    asked_server: Option<Instant>,
    carried: Lsn,
    server_asks: bool,
}

/// Feedback is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The server is asked for a sign of life.
    pub(crate) ask: bool,
}

impl FeedbackClock {
    pub(crate) fn new(every: Duration) -> Self {
        FeedbackClock { every, sent: None, asked_server: None, carried: Lsn::ZERO, server_asks: false }
    }

    /// The server wants an answer.
    pub(crate) fn server_asks(&mut self) {
        self.server_asks = true;
    }

    /// Whether feedback that carries `recorded` is due at `now`; if so, it counts as sent.
    pub(crate) fn due(&mut self, now: Instant, recorded: Lsn) -> Option<Due> {
        let passed =
            |since: Option<Instant>, time| since.is_none_or(|since| now.duration_since(since) >= time);
        let ask = passed(self.asked_server, self.every);
        let early = (recorded > self.carried || self.server_asks) && passed(self.sent, AT_LEAST);
        if !ask && !early {
            return None;
        }
        if ask {
            self.asked_server = Some(now);
        }
        self.sent = Some(now);
        self.carried = recorded;
        self.server_asks = false;
        Some(Due { ask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A clock that has just sent its first feedback, at the returned time.
    fn started() -> (FeedbackClock, Instant) {
        let mut clock = FeedbackClock::new(1000 * MS);
        let now = Instant::now();
        assert_eq!(clock.due(now, Lsn::ZERO), Some(Due { ask: true }), "the first goes out at once");
        (clock, now)
    }

    #[test]
    fn goes_out_at_its_own_pace_and_asks() {
        let (mut clock, start) = started();
        assert_eq!(clock.due(start + 999 * MS, Lsn::ZERO), None);
        assert_eq!(clock.due(start + 1000 * MS, Lsn::ZERO), Some(Due { ask: true }));
        assert_eq!(clock.due(start + 1001 * MS, Lsn::ZERO), None);
    }

    #[test]
    fn goes_out_when_the_position_moved_but_not_too_often() {
        let (mut clock, start) = started();
        assert_eq!(clock.due(start + 99 * MS, Lsn(1)), None);
        assert_eq!(clock.due(start + 100 * MS, Lsn(1)), Some(Due { ask: false }));
        assert_eq!(clock.due(start + 199 * MS, Lsn(2)), None);
        assert_eq!(clock.due(start + 300 * MS, Lsn(2)), Some(Due { ask: false }));
        assert_eq!(clock.due(start + 900 * MS, Lsn(2)), None);
    }

    #[test]
    fn moving_positions_do_not_put_off_the_question() {
        let (mut clock, start) = started();
        let asked = (1..=20).filter(|step: &u32| {
            clock.due(start + *step * 100 * MS, Lsn(u64::from(*step))) == Some(Due { ask: true })
        });
        assert_eq!(asked.collect::<Vec<_>>(), [10, 20]);
    }

    #[test]
    fn a_server_that_asks_without_end_is_answered_at_a_bounded_rate() {
        let (mut clock, start) = started();
        let mut answers = 0;
        for step in 1..=950 {
            clock.server_asks();
            answers += u32::from(clock.due(start + step * MS, Lsn::ZERO).is_some());
        }
        assert_eq!(answers, 9);
    }
}
