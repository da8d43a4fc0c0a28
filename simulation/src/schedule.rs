//! A schedule: small integers that say all that happens. The world begins as the first ones say, and each step is two
//! numbers: who acts, and how. 0 is the calm choice everywhere, so that lowering a number makes a schedule simpler, and
//! a step can be dropped without giving the others another meaning.

use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Who acts.
    pub who: u16,
    /// How; see [`How`].
    pub how: u16,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How the world begins.
    pub setup: Vec<u16>,
    /// What happens in it. Behind the last step faults end, and everything has to come to rest.
    pub steps: Vec<Step>,
}

/// Numbers of the setup that are drawn.
const SETUP: usize = 12;

impl Schedule {
    /// The schedule of a seed.
    pub fn drawn(seed: u64, steps: usize) -> Schedule {
        let mut rng = StdRng::seed_from_u64(seed);
        let setup = (0..SETUP).map(|_| rng.random_range(0..60)).collect();
        let steps = (0..steps).map(|_| Step { who: rng.random_range(0..1_000), how: rng.random() });
        Schedule { setup, steps: steps.collect() }
    }

    /// A number of the setup, below `most`; 0 where there is none.
    pub fn begins(&self, at: usize, most: usize) -> usize {
        usize::from(self.setup.get(at).copied().unwrap_or(0)) % most
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setup: Vec<String> = self.setup.iter().map(ToString::to_string).collect();
        write!(f, "{}/", setup.join("."))?;
        let steps = self.steps.iter().map(|step| match step.how {
            0 => step.who.to_string(),
            how => format!("{}:{how}", step.who),
        });
        f.write_str(&steps.collect::<Vec<_>>().join("."))
    }
}

/// A text that is no schedule.
#[derive(Debug)]
pub struct NoSchedule(String);

impl fmt::Display for NoSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no schedule: {:?} is neither a number nor two with a colon", self.0)
    }
}

impl std::error::Error for NoSchedule {}

impl FromStr for Schedule {
    type Err = NoSchedule;

    fn from_str(text: &str) -> Result<Schedule, NoSchedule> {
        let number = |part: &str| part.parse::<u16>().map_err(|_| NoSchedule(part.to_owned()));
        let (setup, steps) = text.trim().split_once('/').ok_or_else(|| NoSchedule(text.to_owned()))?;
        let parts = |text: &'_ str| -> Vec<String> {
            text.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let setup = parts(setup).iter().map(|part| number(part)).collect::<Result<_, _>>()?;
        let step = |part: &String| {
            let (who, how) = part.split_once(':').unwrap_or((part, "0"));
            Ok(Step { who: number(who)?, how: number(how)? })
        };
        Ok(Schedule { setup, steps: parts(steps).iter().map(step).collect::<Result<_, _>>()? })
    }
}

/// How a step is taken: a number that its choices are cut from. What is left of it when all is cut off is 0, the calm
/// choice.
#[derive(Debug, Clone, Copy)]
pub struct How(u32);

impl How {
    /// Of a step.
    pub fn new(how: u16) -> How {
        How(how.into())
    }

    /// A number below `most`; 0 where `most` is.
    pub fn pick(&mut self, most: usize) -> usize {
        let Some(most) = u32::try_from(most).ok().filter(|most| *most > 0) else { return 0 };
        let picked = self.0 % most;
        self.0 /= most;
        picked as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, many: usize) -> bool {
        self.pick(many) == many - 1
    }
}
