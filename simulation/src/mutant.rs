//! Mistakes that are made on purpose: each has to be seen, or the simulation shows nothing.

use outbox_consumer::simulation;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// The highest settled offset is committed, not the lowest unsettled one (C27).
    HighestCommitted,
    /// What was read is committed, whether it is settled or not (C27).
    CommitPastInFlight,
    /// A handler starts before its start is committed (C25).
    StartNotCounted,
    /// In isolation records run beside each other (C25).
    IsolationIgnored,
    /// A lost partition is let go as if it had been revoked (C30).
    LostIsRevoked,
    /// Records of a new assignment are taken for the first one's (C28).
    OldEpoch,
    /// What was read of a partition that is about to leave, and not taken in, counts as a gap (C27).
    PassesUnread,
    /// The settlement is written behind the transaction with the effect (C1).
    DedupOutside,
    /// A dead or rejected event is settled without its row (C10).
    SettledWithoutRow,
    /// An event runs although its key is parked (C22).
    FollowerRuns,
    /// The last event of a parked key runs first (C22).
    UnparkWrongOrder,
    /// A marker is removed without its lock (C22).
    MarkerUnlocked,
    /// Markers are looked for before the claim (C52).
    LookBeforeClaim,
    /// What failed in a group keeps its claim (C9).
    ClaimStays,
    /// Later events of a key run although an earlier one of the group failed (C53).
    LaterRuns,
    /// A COMMIT without answer counts as done (C43).
    UnansweredIsDone,
    /// The journal is asked although the database is away (C25).
    AskBeforeClaim,
    /// An attempt of a parked event is counted, and that of another is made which is first by then (C18).
    AnotherFirst,
    /// An answer to a commit of offsets is taken for that of a later one.
    AnswerOfAnother,
}

impl Mutant {
    /// The engine's part of it.
    pub fn of_engine(self) -> Option<simulation::Mutant> {
        match self {
            Mutant::HighestCommitted => Some(simulation::Mutant::HighestCommitted),
            Mutant::CommitPastInFlight => Some(simulation::Mutant::CommitPastInFlight),
            Mutant::StartNotCounted => Some(simulation::Mutant::StartNotCounted),
            Mutant::IsolationIgnored => Some(simulation::Mutant::IsolationIgnored),
            Mutant::LostIsRevoked => Some(simulation::Mutant::LostIsRevoked),
            Mutant::OldEpoch => Some(simulation::Mutant::OldEpoch),
            Mutant::PassesUnread => Some(simulation::Mutant::PassesUnread),
            Mutant::DedupOutside
            | Mutant::SettledWithoutRow
            | Mutant::FollowerRuns
            | Mutant::UnparkWrongOrder
            | Mutant::MarkerUnlocked
            | Mutant::LookBeforeClaim
            | Mutant::ClaimStays
            | Mutant::LaterRuns
            | Mutant::UnansweredIsDone
            | Mutant::AskBeforeClaim
            | Mutant::AnotherFirst
            | Mutant::AnswerOfAnother => None,
        }
    }
}
