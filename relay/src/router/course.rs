//! Where the stream stands: which transactions are published, which are passed over because they were, and whether that
//! is believed. Pure: the router's thread tells what comes, and does what follows.

use std::mem;

use super::RowPosition;
use crate::ledger::Transaction;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::session::compare::{HaltReason, Meeting, MustMeet, Skipped};

/// What came cannot be what was published from, or is no stream at all.
#[derive(Debug, PartialEq, Eq)]
pub enum Astray {
    /// The messages came in an order that the protocol forbids.
    OutOfPlace(&'static str),
    /// What was skipped as published is not what was published.
    OtherHistory(Box<HaltReason>),
}

/// What a Begin begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// A transaction that is published already.
    Skipped,
    /// One whose rows are to be published.
    New,
}

/// The transaction that the stream is in.
#[derive(Debug)]
enum Stage {
    Between,
    Skipping { xid: u32, rows: u64 },
    Publishing { transaction: Transaction, ordinal: u64 },
}

/// The course of one session's stream.
#[derive(Debug)]
pub struct Course {
    epoch: u64,
    /// Transactions that committed below are published already.
    position: Lsn,
    must_meet: Option<MustMeet>,
    stage: Stage,
    /// Whether what is skipped is known to be what was published.
    believed: bool,
    /// Nobody was told of it yet.
    news: bool,
}

impl Course {
    /// A stream whose transactions below `position` are published.
    pub fn new(epoch: u64, position: Lsn, must_meet: Option<MustMeet>) -> Course {
        let believed = must_meet.is_none_or(|must_meet| must_meet.is_met());
        Course { epoch, position, must_meet, stage: Stage::Between, believed, news: false }
    }

    /// Whether no transaction is open.
    pub fn is_between(&self) -> bool {
        matches!(self.stage, Stage::Between)
    }

    /// Whether skipping has come to be believed since this was asked last: positions may be confirmed then.
    pub fn takes_belief(&mut self) -> bool {
        mem::take(&mut self.news)
    }

    /// A Begin. `newest_end` is the end of the newest transaction that was read.
    ///
    /// # Errors
    /// It cannot come here.
    pub fn begin(&mut self, transaction: Transaction, newest_end: Lsn) -> Result<Begun, Astray> {
        let Transaction { commit_lsn, xid, .. } = transaction;
        if !self.is_between() {
            return Err(Astray::OutOfPlace("Begin"));
        }
        // PostgreSQL's own rule: a transaction is behind a position when its commit record begins before it.
        if commit_lsn < newest_end && commit_lsn >= self.position {
            return Err(Astray::OutOfPlace("a transaction behind one that was read before it"));
        }
        if commit_lsn < self.position {
            self.stage = Stage::Skipping { xid, rows: 0 };
            return Ok(Begun::Skipped);
        }
        self.meet(|must_meet| must_meet.passed(commit_lsn))?;
        self.must_meet = None;
        self.stage = Stage::Publishing { transaction, ordinal: 0 };
        Ok(Begun::New)
    }

    /// A Commit.
    ///
    /// # Errors
    /// It cannot come here.
    pub fn commit(&mut self, end_lsn: Lsn, commit_time: PgTime) -> Result<(), Astray> {
        match mem::replace(&mut self.stage, Stage::Between) {
            Stage::Between => Err(Astray::OutOfPlace("Commit")),
            Stage::Skipping { xid, rows } => {
                let skipped = Skipped { end_lsn, xid, commit_time: commit_time.0, rows };
                self.meet(|must_meet| must_meet.skipped(&skipped))
            }
            Stage::Publishing { .. } => Ok(()),
        }
    }

    /// A keepalive: whether its WAL end may enter the ledger, behind all that is outstanding (R5, R7).
    ///
    /// # Errors
    /// The log is not the one that was published from.
    pub fn keepalive(&mut self, wal_end: Lsn) -> Result<bool, Astray> {
        if !self.is_between() {
            return Ok(false);
        }
        self.meet(|must_meet| must_meet.passed(wal_end))?;
        Ok(self.believed)
    }

    /// Where the next row of the outbox stands; `None` where it is published already.
    ///
    /// # Errors
    /// No transaction is open.
    pub fn row(&mut self) -> Result<Option<RowPosition>, Astray> {
        match &mut self.stage {
            Stage::Between => Err(Astray::OutOfPlace("Insert")),
            Stage::Skipping { rows, .. } => {
                *rows += 1;
                Ok(None)
            }
            Stage::Publishing { transaction, ordinal } => {
                let at = RowPosition {
                    epoch: self.epoch,
                    commit_lsn: transaction.commit_lsn,
                    ordinal: *ordinal,
                    commit_unix_millis: PgTime(transaction.commit_time).to_unix_millis(),
                };
                *ordinal += 1;
                Ok(Some(at))
            }
        }
    }

    /// The transaction that is being published, if there is one, and how many of its rows have come.
    pub fn publishing(&self) -> Option<(Transaction, u64)> {
        match self.stage {
            Stage::Between | Stage::Skipping { .. } => None,
            Stage::Publishing { transaction, ordinal } => Some((transaction, ordinal)),
        }
    }

    /// Feeds what was passed over to the state machine that decides whether skipping is believed (R42).
    fn meet(&mut self, feed: impl FnOnce(&mut MustMeet) -> Meeting) -> Result<(), Astray> {
        let Some(must_meet) = &mut self.must_meet else { return Ok(()) };
        match feed(must_meet) {
            Meeting::NotYet => Ok(()),
            Meeting::Met => {
                self.news |= !mem::replace(&mut self.believed, true);
                Ok(())
            }
            Meeting::OtherHistory { .. } => match must_meet.halt_reason() {
                None => Ok(()),
                Some(reason) => Err(Astray::OtherHistory(Box::new(reason))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LastPublished;

    fn transaction(commit_lsn: u64) -> Transaction {
        Transaction { commit_lsn: Lsn(commit_lsn), xid: 7, commit_time: 70 }
    }

    #[test]
    fn below_the_position_is_skipped_and_at_it_is_not() {
        let mut course = Course::new(3, Lsn(100), None);
        assert_eq!(course.begin(transaction(99), Lsn(100)), Ok(Begun::Skipped));
        assert_eq!(course.row(), Ok(None));
        assert_eq!(course.commit(Lsn(100), PgTime(70)), Ok(()));
        assert_eq!(course.begin(transaction(100), Lsn(100)), Ok(Begun::New));
        assert_eq!(course.keepalive(Lsn(500)), Ok(false), "a position is never inside a transaction");
        let rows = [course.row(), course.row()].map(|row| row.unwrap().unwrap());
        assert_eq!(
            rows.map(|row| (row.epoch, row.commit_lsn, row.ordinal)),
            [0, 1].map(|nth| (3, Lsn(100), nth))
        );
        assert_eq!(course.publishing(), Some((transaction(100), 2)));
        assert_eq!(course.commit(Lsn(110), PgTime(70)), Ok(()));
        assert_eq!(course.keepalive(Lsn(500)), Ok(true));
    }

    #[test]
    fn what_the_protocol_has_not_is_refused() {
        let mut course = Course::new(1, Lsn(100), None);
        assert_eq!(course.row(), Err(Astray::OutOfPlace("Insert")));
        assert_eq!(course.commit(Lsn(110), PgTime(70)), Err(Astray::OutOfPlace("Commit")));
        assert!(course.begin(transaction(120), Lsn(130)).is_err(), "behind what was read");
        course.begin(transaction(130), Lsn(130)).unwrap();
        assert_eq!(course.begin(transaction(140), Lsn(130)), Err(Astray::OutOfPlace("Begin")));
    }

    #[test]
    fn belief_is_told_once_and_nothing_enters_before_it() {
        let last = LastPublished { end_lsn: Lsn(90), xid: 7, commit_time: 70 };
        let mut course = Course::new(1, Lsn(100), Some(MustMeet::new(Some(last), Lsn(50), Lsn(100))));
        course.begin(transaction(80), Lsn(100)).unwrap();
        course.row().unwrap();
        course.commit(Lsn(90), PgTime(70)).unwrap();
        assert_eq!((course.keepalive(Lsn(95)), course.takes_belief()), (Ok(false), false));
        assert_eq!(course.keepalive(Lsn(100)), Ok(true));
        assert_eq!((course.takes_belief(), course.takes_belief()), (true, false));
        let mut other = Course::new(1, Lsn(100), Some(MustMeet::new(Some(last), Lsn(50), Lsn(100))));
        assert!(matches!(other.begin(transaction(100), Lsn(100)), Err(Astray::OtherHistory(_))));
    }
}
