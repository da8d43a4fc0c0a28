//! Mistakes that are made on purpose: each has to be seen, or the simulation shows nothing.

use clap::ValueEnum;
use outbox_consumer::simulation;

/// A mistake: one of the engine, which has the list of its own, or of what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutant {
    /// The engine's.
    #[value(skip)]
    Engine(simulation::Mutant),
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
    /// What a company of parked events has claimed and not run stays claimed (C9).
    CompanyKeeps,
    /// A company of parked events goes on behind one that failed (C53).
    CompanyPasses,
    /// A convicted parked event, whose dead letter could not be written, runs again (C25).
    LetterlessRuns,
    /// An answer to a commit of offsets is taken for that of a later one.
    AnswerOfAnother,
}

impl Mutant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Mutant> {
        let engine = simulation::Mutant::ALL.iter().copied().map(Mutant::Engine);
        engine.chain(Mutant::value_variants().iter().copied())
    }

    /// The engine's part of it.
    pub fn of_engine(self) -> Option<simulation::Mutant> {
        match self {
            Mutant::Engine(mutant) => Some(mutant),
            _ => None,
        }
    }

    /// Its name in the code, and the guard that it removes.
    pub fn says(self) -> (String, &'static str) {
        let guard = match self {
            Mutant::Engine(mutant) => return (format!("{mutant:?}"), engines(mutant)),
            Mutant::DedupOutside => "the settlement stands in the transaction of the effect (C1)",
            Mutant::SettledWithoutRow => "a dead or rejected event is settled with its row only (C10)",
            Mutant::FollowerRuns => "an event whose key is parked waits behind it (C22)",
            Mutant::UnparkWrongOrder => "the first event of a parked key runs first (C22)",
            Mutant::MarkerUnlocked => "a marker is removed under its lock (C22)",
            Mutant::LookBeforeClaim => "the look for a marker follows the claim (C52)",
            Mutant::ClaimStays => "what fails in a group gives its claim back (C9)",
            Mutant::LaterRuns => "a failed event's key runs no further in its group (C53)",
            Mutant::UnansweredIsDone => "a COMMIT without answer is asked for again (C43)",
            Mutant::AskBeforeClaim => "the journal is asked with the transaction open only (C25)",
            Mutant::AnotherFirst => "a parked attempt runs the event that it was counted for (C18)",
            Mutant::CompanyKeeps => "what a company of the park has not run gives its claim back (C9)",
            Mutant::CompanyPasses => "a company of the park ends with the event that fails (C53)",
            Mutant::LetterlessRuns => {
                "a convicted parked event whose dead letter is not written does not run again (C25)"
            }
            Mutant::AnswerOfAnother => "the answer to a commit that was given up is nobody's",
        };
        (format!("{self:?}"), guard)
    }
}

/// The guards that the engine's mutants remove.
fn engines(mutant: simulation::Mutant) -> &'static str {
    match mutant {
        simulation::Mutant::HighestCommitted => "the lowest unsettled offset is committed (C27)",
        simulation::Mutant::CommitPastInFlight => "what was read is not yet settled (C27)",
        simulation::Mutant::StartNotCounted => "a handler starts when its start is committed (C25)",
        simulation::Mutant::IsolationIgnored => "in isolation one record runs at a time (C25)",
        simulation::Mutant::LostIsRevoked => "of a lost partition nothing is committed (C30)",
        simulation::Mutant::OldEpoch => "every record belongs to its assignment (C28)",
        simulation::Mutant::PassesUnread => "what was read and not taken in is no gap (C27)",
    }
}
