//! Proof, while transactions are skipped, that the log is the one that was published from.

use super::HaltReason;
use crate::ledger::LastPublished;
use crate::lsn::Lsn;

/// A transaction that was passed over because its commit LSN is below the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// End LSN of its Commit message.
    pub end_lsn: Lsn,
    /// Transaction id.
    pub xid: u32,
    /// Commit time in microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
    /// Rows that would have been published.
    pub rows: u64,
}

/// What the stream has shown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// It has not reached the transaction.
    NotYet,
    /// The transaction was met, or lies below the slot, and the stream has passed the position with no row
    /// that was never published: skipping is believed.
    Met,
    /// It cannot be the log that was published from; nothing may be confirmed.
    OtherHistory {
        /// Where that was seen.
        seen: Lsn,
    },
}

/// Holds the stream against the last published transaction.
///
/// A server whose disk was restored to an earlier state writes another history on the same timeline. Its
/// LSNs come again for other transactions, and skipping by LSN alone would lose them. So the last
/// published transaction has to be met with its end LSN, id and commit time. And since it is the last one
/// that had rows, any skipped rows behind it are rows that were never published. That is known only once
/// the stream has passed the position: feedback that went out before would confirm them, and the next
/// start would not see them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MustMeet {
    expected: Option<LastPublished>,
    position: Lsn,
    found: bool,
    state: Meeting,
}

impl MustMeet {
    /// Expects `expected` from a stream that begins at `slot`, the slot's `confirmed_flush_lsn`, and is
    /// skipped up to `position`. Where the slot is at or above its end the server does not send it again,
    /// and only the rows behind it are looked at; so too where nothing was published yet (`None`).
    pub fn new(expected: Option<LastPublished>, slot: Lsn, position: Lsn) -> MustMeet {
        let found = expected.is_none_or(|expected| slot >= expected.end_lsn);
        MustMeet { expected, position, found, state: Meeting::NotYet }
    }

    /// A transaction was skipped; to be called at its Commit.
    pub fn skipped(&mut self, skipped: &Skipped) -> Meeting {
        let Skipped { end_lsn, xid, commit_time, rows } = *skipped;
        if self.state != Meeting::NotYet {
            return self.state;
        }
        let behind = self.expected.is_none_or(|expected| end_lsn > expected.end_lsn);
        let is_expected = self.expected == Some(LastPublished { end_lsn, xid, commit_time });
        let reaches = self.expected.is_some_and(|expected| end_lsn >= expected.end_lsn);
        if self.found {
            if behind && rows > 0 {
                self.state = Meeting::OtherHistory { seen: end_lsn };
            }
        } else if is_expected {
            self.found = true;
        } else if reaches {
            self.state = Meeting::OtherHistory { seen: end_lsn };
        }
        self.state
    }

    /// The stream has reached `lsn` without a transaction that was to be skipped: the WAL end of a
    /// keepalive, or the commit LSN of the first transaction that is published.
    pub fn passed(&mut self, lsn: Lsn) -> Meeting {
        if self.state == Meeting::NotYet {
            let due = self.expected.is_some_and(|expected| lsn >= expected.end_lsn);
            if !self.found && due {
                self.state = Meeting::OtherHistory { seen: lsn };
            } else if self.found && lsn >= self.position {
                self.state = Meeting::Met;
            }
        }
        self.state
    }

    /// Whether skipping is believed, so that positions may be confirmed.
    pub fn is_met(&self) -> bool {
        self.state == Meeting::Met
    }

    /// The transaction that has to be met.
    pub fn expected(&self) -> Option<LastPublished> {
        self.expected
    }

    /// The reason to halt, once the stream has turned out to be another history.
    pub fn halt_reason(&self) -> Option<HaltReason> {
        match self.state {
            Meeting::NotYet | Meeting::Met => None,
            Meeting::OtherHistory { seen } => {
                Some(HaltReason::OtherHistory { expected: self.expected, seen })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: LastPublished = LastPublished { end_lsn: Lsn(200), xid: 7, commit_time: 70 };
    const POSITION: Lsn = Lsn(300);

    fn skipped(end: u64, xid: u32, commit_time: i64, rows: u64) -> Skipped {
        Skipped { end_lsn: Lsn(end), xid, commit_time, rows }
    }

    fn from(slot: u64) -> MustMeet {
        MustMeet::new(Some(LAST), Lsn(slot), POSITION)
    }

    fn found() -> MustMeet {
        let mut must_meet = from(100);
        assert_eq!(must_meet.skipped(&skipped(200, 7, 70, 3)), Meeting::NotYet);
        must_meet
    }

    #[test]
    fn the_transaction_is_met_by_all_three_marks() {
        let mut must_meet = from(100);
        assert_eq!(must_meet.passed(Lsn(100)), Meeting::NotYet);
        assert_eq!(must_meet.skipped(&skipped(150, 5, 50, 1)), Meeting::NotYet);
        assert_eq!(must_meet.skipped(&skipped(200, 7, 70, 1)), Meeting::NotYet);
        assert_eq!(must_meet.passed(POSITION), Meeting::Met);
        assert!(must_meet.is_met());
        assert_eq!(must_meet.halt_reason(), None);

        for other in [skipped(200, 8, 70, 1), skipped(200, 7, 71, 1), skipped(201, 7, 70, 1)] {
            let mut must_meet = from(100);
            assert_eq!(must_meet.skipped(&other), Meeting::OtherHistory { seen: other.end_lsn });
            assert!(!must_meet.is_met());
        }
    }

    #[test]
    fn nothing_is_believed_before_the_position_is_passed() {
        // Rows between the last published transaction and the position were never published. Feedback up to
        // the position would have confirmed them before they were seen.
        for mut must_meet in [found(), from(200), from(250), MustMeet::new(None, Lsn(100), POSITION)] {
            assert_eq!(must_meet.passed(Lsn(299)), Meeting::NotYet);
            let mut other = must_meet;
            assert_eq!(other.skipped(&skipped(299, 9, 90, 1)), Meeting::OtherHistory { seen: Lsn(299) });
            assert_eq!(other.passed(POSITION), Meeting::OtherHistory { seen: Lsn(299) });
            assert_eq!(must_meet.skipped(&skipped(299, 9, 90, 0)), Meeting::NotYet, "nothing to publish");
            assert_eq!(must_meet.passed(POSITION), Meeting::Met);
        }
    }

    #[test]
    fn reaching_its_end_without_it_is_another_history() {
        for lsn in [200, 201, 300] {
            let mut must_meet = from(199);
            assert_eq!(must_meet.passed(Lsn(199)), Meeting::NotYet);
            assert_eq!(must_meet.passed(Lsn(lsn)), Meeting::OtherHistory { seen: Lsn(lsn) });
        }
    }

    #[test]
    fn another_history_stays_one_and_says_so() {
        let mut must_meet = from(100);
        must_meet.passed(Lsn(0x210));
        assert_eq!(must_meet.skipped(&skipped(200, 7, 70, 1)), Meeting::OtherHistory { seen: Lsn(0x210) });
        let sentence = must_meet.halt_reason().unwrap().to_string();
        assert!(sentence.contains("(7 at 0/C8)") && sentence.contains("0/210"), "{sentence}");
        let mut nothing = MustMeet::new(None, Lsn(100), POSITION);
        nothing.skipped(&skipped(0x111, 7, 70, 1));
        let sentence = nothing.halt_reason().unwrap().to_string();
        assert!(sentence.contains("(none so far)") && sentence.contains("0/111"), "{sentence}");
    }
}
