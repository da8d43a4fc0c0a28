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

    /// Its name on the command line, `like-this`.
    pub fn name(self) -> String {
        let name = self.of_engine().map_or_else(|| format!("{self:?}"), |mutant| format!("{mutant:?}"));
        let mut spelled = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !spelled.is_empty() {
                spelled.push('-');
            }
            spelled.extend(letter.to_lowercase());
        }
        spelled
    }

    /// Reads a name.
    ///
    /// # Errors
    /// There is none of this name; with those that there are.
    pub fn named(name: &str) -> Result<Mutant, String> {
        Mutant::all().find(|mutant| mutant.name() == name).ok_or_else(|| {
            let names: Vec<String> = Mutant::all().map(Mutant::name).collect();
            format!("there are {}", names.join(", "))
        })
    }
}
