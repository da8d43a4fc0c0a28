//! What is simulated: one of the halves, perhaps with a mistake that is made on purpose: each has to be seen, or the
//! simulation shows nothing.

use clap::ValueEnum;

use crate::schedule::Schedule;
use crate::verdict::Outcome;
use crate::{consumer, relay};

/// A half of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Half {
    /// From Kafka to the handlers' effects.
    Consumer,
    /// From PostgreSQL to Kafka.
    Relay,
}

impl Half {
    /// Both.
    pub const ALL: [Half; 2] = [Half::Consumer, Half::Relay];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Half::Consumer => "consumer",
            Half::Relay => "relay",
        }
    }
}

/// A mistake that is made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The consumer's.
    Consumer(consumer::Mutant),
    /// The relay's.
    Relay(relay::Mutant),
}

impl Mutant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Mutant> {
        consumer::Mutant::all().map(Mutant::Consumer).chain(relay::Mutant::all().map(Mutant::Relay))
    }

    /// All of one half.
    pub fn of(half: Half) -> impl Iterator<Item = Mutant> {
        Mutant::all().filter(move |mutant| mutant.half() == half)
    }

    /// Whose it is.
    pub fn half(self) -> Half {
        match self {
            Mutant::Consumer(_) => Half::Consumer,
            Mutant::Relay(_) => Half::Relay,
        }
    }

    fn says(self) -> (String, &'static str) {
        match self {
            Mutant::Consumer(mutant) => mutant.says(),
            Mutant::Relay(mutant) => mutant.says(),
        }
    }

    /// The guard that it removes.
    pub fn guard(self) -> &'static str {
        self.says().1
    }

    /// Its name on the command line, `like-this`.
    pub fn name(self) -> String {
        let mut spelled = String::new();
        for letter in self.says().0.chars() {
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

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A half as it is.
    Sound(Half),
    /// A half with a mistake.
    Mutated(Mutant),
}

impl Subject {
    /// The half.
    pub fn half(self) -> Half {
        match self {
            Subject::Sound(half) => half,
            Subject::Mutated(mutant) => mutant.half(),
        }
    }

    /// Runs a schedule, and then lets everything come to rest.
    pub fn run(self, schedule: &Schedule, story: bool) -> Outcome {
        match self {
            Subject::Sound(Half::Consumer) => consumer::world::run(schedule, None, story),
            Subject::Sound(Half::Relay) => relay::world::run(schedule, None, story),
            Subject::Mutated(Mutant::Consumer(mutant)) => consumer::world::run(schedule, Some(mutant), story),
            Subject::Mutated(Mutant::Relay(mutant)) => relay::world::run(schedule, Some(mutant), story),
        }
    }
}
